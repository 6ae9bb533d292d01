"""Finished runs side by side: table, curves, test images with labels and activation maps.

For instance:

    python compare.py runs/demo/bce runs/demo/cones --output runs/demo
"""

from collections.abc import Sequence

from engine.core.cli import run
from engine.core.usage import check_usage


def main(argv: Sequence[str] | None = None) -> int:
    """Read the runs, print the table, draw the figures; returns the exit code."""
    check_usage("compare.py", argv)
    from engine.analysis.compare import compare_command  # takes seconds to import, torch with it

    return compare_command(argv)


if __name__ == "__main__":
    run(main)
