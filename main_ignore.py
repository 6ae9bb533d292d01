"""IGNORE: single positives; labels are rejected by the information in the rest of the image.

For instance:

    python main_ignore.py --dataset digits --seed 0
    python main_ignore.py --dataset pascal --mode train_q2l --gpu_num 0 --bsize 16 --num_epochs 25 --backbone resnet50 \
        --spbc_weight 0.5 --ignore_weight 1 --reg_weight 0.5 --gap_lambda 0.999 --avg_lambda 0.999
    python main_ignore.py --dataset coco --mode train_resnet --spbc_weight 0.1
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
    "second_view": "randaugment",
    "batch_size": 16,
    "model": "resnet50",
    "epochs": 25,
    "optimizer": "adam",
    "lr": 1e-5,
    "head_lr_mult": 10.0,
    "w_d": 0.0,
    "scheduler": "constant",
    "warmup_epoch": 0.0,
}
"""The published recipe of --mode train_resnet (gyeong-ryeol-song/SPML-IGNORE); for train_q2l see configs/ignore/."""


def main(argv: Sequence[str] | None = None) -> int:
    """Train, evaluate, write the run folder; returns the exit code."""
    check_usage("main_ignore.py", argv)
    from engine.training.run import train_command  # takes seconds to import, torch with it

    return train_command("main_ignore.py", DEFAULTS, argv)


if __name__ == "__main__":
    run(main)
