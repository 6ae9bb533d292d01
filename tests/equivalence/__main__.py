"""Table of the comparisons: `python -m tests.equivalence [NAME ...] [--seeds 0,1] [--steps 16]`."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from tests.equivalence.cases import CASES
from tests.equivalence.comparison import Differences, compared
from utils.console import say


def main(argv: Sequence[str] | None = None) -> None:
    """Run the comparisons and print their greatest differences as they come."""
    parser = argparse.ArgumentParser(prog="python -m tests.equivalence", description="Compare whole training runs.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: all of {', '.join(CASES)}")
    parser.add_argument("--seeds", default="0", help="seeds of data, weights, order and chance, such as 0,1,2")
    parser.add_argument("--steps", type=int, default=16, help="steps of each run, about")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    say(f"| run | seed | {' | '.join(Differences._fields)} |")
    say("|---" * (2 + len(Differences._fields)) + "|")
    for name in arguments.names or CASES:
        for seed in map(int, arguments.seeds.split(",")):
            with tempfile.TemporaryDirectory() as folder:
                found = compared(name, Path(folder), seed=seed, steps=arguments.steps)
            say(f"| {name} | {seed} | {' | '.join(f'{value:.2g}' for value in found)} |")


if __name__ == "__main__":
    main()
