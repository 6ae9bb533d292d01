"""All questions of speed, one after the other: `python -m benchmarks.run [--output FILE]` (some minutes)."""

from __future__ import annotations

import sys

from benchmarks import activation_maps, candidates, correlation, evaluation, prototypes, refresh
from benchmarks.measure import HEADINGS, finish, machine, markdown_table, options, show

QUESTIONS = (correlation, refresh, prototypes, activation_maps, candidates, evaluation)


def main() -> int:
    """Measure, print, write; 1 when a result disagrees with the published way's. A missed goal is no error."""
    output = options("run", __doc__).parse_args().output
    results = [result for module in QUESTIONS for result in show(module.results())]
    rows = markdown_table(HEADINGS, (result.cells() for result in results))
    finish("run", "Speed", f"How to read it: ../README.md.\n\n{machine()}.\n\n{rows}", output)
    return int(not all(result.agrees for result in results))


if __name__ == "__main__":
    sys.exit(main())
