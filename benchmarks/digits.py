"""CoNeS against BCE on the embedded dataset: the plain commands over seeds and rates, paired by seed.

    python -m benchmarks.digits --seeds 0 1 2 3 4 --rates 0.4 0.2 --output benchmarks/results/digits.md

Runs are kept under runs/digits and not repeated.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

METHODS = {"BCE": "main_BCE.py", "CoNeS": "main_CoNeS.py"}
FIGURES = ("mAP", "CF1", "OF1")


def run(method: str, rate: float, seed: int) -> dict[str, float]:
    """The test figures (%) of one run of the plain command, trained now unless it is there."""
    output = Path("runs") / "digits" / f"{method}-{rate}-s{seed}"
    regime = ["--dataset", "digits", "--partial_rate", str(rate), "--seed", str(seed)]
    command = [sys.executable, METHODS[method], *regime, "--output", str(output), "--resume"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    test = json.loads((output / "result.json").read_text())["test"]
    return {name: 100 * test[name] for name in FIGURES}


def table(rate: float, seeds: list[int]) -> list[str]:
    """Markdown rows: a method and figure a row, a seed a column, then the mean; last the paired differences of mAP."""
    results = {method: [run(method, rate, seed) for seed in seeds] for method in METHODS}
    lines = [f"| rate {rate} | figure | " + " | ".join(f"seed {seed}" for seed in seeds) + " | mean |"]
    lines.append("| --- " * (len(seeds) + 3) + "|")
    for name in FIGURES:
        for method in METHODS:
            lines.append(row(method, name, [result[name] for result in results[method]]))
    gains = [ours["mAP"] - base["mAP"] for ours, base in zip(results["CoNeS"], results["BCE"], strict=True)]
    return [*lines, row("CoNeS - BCE", "mAP", gains, sign="+")]


def row(title: str, name: str, values: list[float], sign: str = "") -> str:
    """One line of the table."""
    cells = " | ".join(f"{value:{sign}.2f}" for value in values)
    return f"| {title} | {name} | {cells} | {statistics.fmean(values):{sign}.2f} |"


def main() -> None:
    """Run what is missing, print the tables, write them if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--rates", type=float, nargs="+", default=[0.4, 0.2])
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    text = "\n\n".join("\n".join(table(rate, given.seeds)) for rate in given.rates) + "\n"
    print(text)
    if given.output:
        given.output.write_text(text)


if __name__ == "__main__":
    main()
