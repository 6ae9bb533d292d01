"""What is in a dataset, and what is wrong with it: labels, noise of a label regime, pictures, duplicates, splits.

For instance:

    python inspect_data.py --dataset voc07 --path_images Dataset/VOCdevkit --labels candidate --partial_rate 0.1
    python inspect_data.py --dataset coco --path_images Dataset/COCO2014 --no-check_images

Exit code 0: usable; 1: pictures are missing or broken, or splits share pictures; 2: the annotations cannot be read.
"""

from collections.abc import Sequence

from engine.core.cli import run
from engine.inspection.command import inspect_command


def main(argv: Sequence[str] | None = None) -> int:
    """Read, check, report; returns the exit code."""
    return inspect_command(argv, program="inspect_data.py")


if __name__ == "__main__":
    run(main)
