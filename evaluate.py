"""Score a checkpoint on a test set.

For instance:

    python evaluate.py --load_from runs/cones-digits/best.pth
    python evaluate.py --load_from best.pth --dataset voc07 --path_images Dataset/VOCdevkit
    python evaluate.py --load_from epoch_30.pth --dataset voc07 --paper cones-voc07-0.1
    python evaluate.py --load_from runs/cones-digits/best.pth --save_as cones.safetensors

Dataset, image size and normalisation are those of the training run unless the command line says otherwise. Checkpoints
that papers released are read as well (docs/checkpoints.md).
"""

from collections.abc import Sequence

from engine.core.cli import run
from engine.core.usage import check_usage


def main(argv: Sequence[str] | None = None) -> int:
    """Load, score, print the table; returns the exit code."""
    check_usage("evaluate.py", argv)
    from engine.evaluation.command import evaluate_command  # takes seconds to import, torch with it

    return evaluate_command(argv)


if __name__ == "__main__":
    run(main)
