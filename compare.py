"""Finished runs side by side: a table, their curves, and a grid of test pictures with labels, scores and CAMs.

For instance:

    python compare.py runs/demo/bce runs/demo/cones --output runs/demo
"""

from collections.abc import Sequence

from engine.analysis.compare import compare_command
from engine.core.cli import run


def main(argv: Sequence[str] | None = None) -> int:
    """Read the runs, print the table, write the pictures; returns the exit code."""
    return compare_command(argv, program="compare.py")


if __name__ == "__main__":
    run(main)
