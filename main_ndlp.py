"""NDLP: candidate labels of long-tailed classes.

For instance:

    python main_ndlp.py --dataset digits-lt --seed 0
    python main_ndlp.py configs/voc/LT_resnet50_pfc_DB.yaml --dataset voc-lt --seed 0 --batch_size 32 --epochs 10 \
        --gamma 3 --partial_rate 0.3 --eta 0.9 --alpha_range 0.4,0.8
"""

from collections.abc import Sequence

from engine.core.cli import run
from engine.core.usage import check_usage

DEFAULTS = {
    "dataset": "voc-lt",
    "labels": "candidate",
    "img_size": 224,
    "normalize": "imagenet",
    "augment": "photometric",
    "resize": "cv2-like",
    "batch_size": 32,
    "sampler": "class-aware",
    "sampler_labels": "clean",
    "model": "resnet50",
    "head": "pfc",
    "frozen_stages": 1,
    "norm_eval": True,
    "epochs": 10,
    "lr": 0.02,
    "scheduler": "constant",
    "warmup_epoch": 0.0,
}
"""The published recipe (zhongjingyu1/NDLP, `configs/`, as far as its training script uses it)."""


def main(argv: Sequence[str] | None = None) -> int:
    """Train, evaluate, write the run folder; returns the exit code."""
    check_usage("main_ndlp.py", argv)
    from engine.training.run import train_command  # takes seconds to import, torch with it

    return train_command("main_ndlp.py", DEFAULTS, argv)


if __name__ == "__main__":
    run(main)
