"""Faults and statistics of a dataset.

For instance:

    python inspect_data.py --dataset voc07 --path_images Dataset/VOCdevkit --labels candidate --partial_rate 0.1
    python inspect_data.py --dataset coco --path_images Dataset/COCO2014 --no-check_images

Exit code 0: usable; 1: images are missing or broken, or splits share images; 2: the annotations cannot be read.
"""

from collections.abc import Sequence

from engine.core.cli import run
from engine.core.usage import check_usage


def main(argv: Sequence[str] | None = None) -> int:
    """Read, check, report; returns the exit code."""
    check_usage("inspect_data.py", argv)
    from engine.inspection.command import inspect_command  # takes seconds to import, torch with it

    return inspect_command(argv)


if __name__ == "__main__":
    run(main)
