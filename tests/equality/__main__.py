"""Table of the largest differences: `python -m tests.equality [RUN ...] [--processes 2,3]`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch

from tests.equality.comparison import differences
from tests.equality.training import EVERY, InTurn, Left, train
from tests.equality.turns import Turns
from utils.console import say


def main(argv: Sequence[str] | None = None) -> None:
    """Train on one process and on several, which take turns, and print how far they are apart."""
    parser = argparse.ArgumentParser(prog="python -m tests.equality", description="Compare numbers of processes.")
    parser.add_argument("names", nargs="*", metavar="RUN", help=f"default: all of {', '.join(EVERY)}")
    parser.add_argument("--processes", default="2,3", help="numbers of processes, such as 2,3")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    runtime = InTurn("cpu", "fp64")
    say(f"| run | processes | {' | '.join(Left._fields)} |")
    say("|---" * (2 + len(Left._fields)) + "|")
    for name in arguments.names or EVERY:
        alone = train(EVERY[name], runtime)
        for size in map(int, arguments.processes.split(",")):
            ranks = Turns(size).run(lambda rank, case=EVERY[name]: train(case, runtime))
            apart = [differences(EVERY[name].method, found, alone) for found in ranks]
            worst = [max(each[part] for each in apart) for part in Left._fields]
            say(f"| {name} | {size} | {' | '.join(f'{value:.2g}' for value in worst)} |")


if __name__ == "__main__":
    main()
