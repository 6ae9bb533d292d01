"""All questions of speed, one after the other: `python -m benchmarks.run [--output FILE]` (some minutes)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import activation_maps, candidates, correlation, evaluation, prototypes, refresh
from benchmarks.measure import HEADINGS, Result, machine, tell

QUESTIONS = (correlation, refresh, prototypes, activation_maps, candidates, evaluation)


def table(results: Sequence[Result]) -> str:
    """The results as a Markdown table, with what they were measured on."""
    rows = [HEADINGS, ("---",) * len(HEADINGS), *(result.cells() for result in results)]
    return "\n".join([f"{machine()}.", "", *(f"| {' | '.join(row)} |" for row in rows), ""])


def main() -> int:
    """Measure, print, write; 1 when a result disagrees with the published way's. A missed goal is no error."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__, allow_abbrev=False)
    parser.add_argument("--output", type=Path, help="also write the table to this Markdown file")
    output: Path | None = parser.parse_args().output
    results = [result for module in QUESTIONS for result in tell(module.results())]
    print(table(results))
    if output is not None:
        output.write_text(
            f"# Speed\n\nWritten by `python -m benchmarks.run`; how to read it: ../README.md.\n\n{table(results)}"
        )
    return int(not all(result.agrees for result in results))


if __name__ == "__main__":
    sys.exit(main())
