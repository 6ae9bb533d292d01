"""LL-R, LL-Ct, LL-Cp (large loss): missing labels, most often single positives.

For instance:

    python main_llm.py --dataset digits --labels single --mod_scheme LL-R --seed 0
    python main_llm.py --dataset pascal --path_images Dataset/pascal --mod_scheme LL-Ct
    python main_llm.py --dataset coco --mod_scheme LL-R --delta_rel 0.5 --bsize 16 --num_epochs 10 --lr 1e-5 \
        --lr_mult 10
"""

from collections.abc import Sequence

from engine.core.cli import run
from engine.core.usage import check_usage

DEFAULTS = {
    "dataset": "pascal",
    "labels": "single",
    "img_size": 448,
    "normalize": "imagenet",
    "augment": "flip",
    "batch_size": 16,
    "model": "resnet50",
    "epochs": 10,
    "optimizer": "adam",
    "lr": 1e-5,
    "head_lr_mult": 10.0,
    "w_d": 0.0,
    "scheduler": "constant",
    "warmup_epoch": 0.0,
}
"""The published recipe, which is one for all datasets (snucml/LargeLossMatters, `config.py`, `train.py`)."""


def main(argv: Sequence[str] | None = None) -> int:
    """Train, evaluate, write the run folder; returns the exit code."""
    check_usage("main_llm.py", argv)
    from engine.training.run import train_command  # takes seconds to import, torch with it

    return train_command("main_llm.py", DEFAULTS, argv)


if __name__ == "__main__":
    run(main)
