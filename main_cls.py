"""CLS (co-label selection) and co-training baselines, two networks: missing labels.

For instance:

    python main_cls.py --dataset digits --labels_left 25 --seed 0
    python main_cls.py --dataset coco --labels_left single --method cls --path_images Dataset/coco
    python main_cls.py --dataset voc07 --labels_left 50 --method co-teaching+ --path_images Dataset/VOCdevkit
"""

from collections.abc import Sequence

from engine.core.cli import run
from engine.core.usage import check_usage

DEFAULTS = {
    "dataset": "coco",
    "labels": "dropped",
    "drop_rate": 0.75,
    "img_size": 224,
    "normalize": "imagenet",
    "augment": "resize-crop",
    "batch_size": 120,
    "model": "resnet50",
    "epochs": 100,
    "optimizer": "adam",
    "lr": 4e-5,
    "head_lr_mult": 1.0,
    "w_d": 1e-4,
    "scheduler": "cosine",
    "warmup_epoch": 0.0,
}
"""The protocol of CLS (AAAI 2025), the same for every method; what the paper leaves open: docs/methods/cls.md."""


def main(argv: Sequence[str] | None = None) -> int:
    """Train, evaluate, write the run folder; returns the exit code."""
    check_usage("main_cls.py", argv)
    from engine.training.run import train_command  # takes seconds to import, torch with it

    return train_command("main_cls.py", DEFAULTS, argv)


if __name__ == "__main__":
    run(main)
