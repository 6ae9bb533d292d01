"""Observed labels of a dataset as a file.

For instance:

    python generate_labels.py --dataset voc07 --path_images Dataset/VOCdevkit --partial_rate 0.1 --seed 0
    python generate_labels.py --dataset coco --path_images Dataset/COCO2014 --labels single --out single.npy
    python generate_labels.py --dataset voc07 --path_images Dataset/VOCdevkit --partial_rate 0.1 --published

Without `--out` the file goes where the training scripts look for it.
"""

from collections.abc import Sequence

from engine.core.cli import run
from engine.core.usage import check_usage


def main(argv: Sequence[str] | None = None) -> int:
    """Draw, write, report; returns the exit code."""
    check_usage("generate_labels.py", argv)
    from engine.generate_labels import generate_command  # takes seconds to import, torch with it

    return generate_command(argv)


if __name__ == "__main__":
    run(main)
