"""The baselines: `--loss` names one, plain BCE where it is not given; `--labels` says on which labels.

For instance:

    python main_BCE.py --dataset digits --partial_rate 0.4 --seed 0
    python main_BCE.py --dataset voc07 --num_cls 20 --img_size 448 --partial_rate 0.1 --path_images Dataset/VOCdevkit
    python main_BCE.py --loss role --dataset pascal --path_images Dataset/pascal
"""

from collections.abc import Sequence

from engine.core.cli import run
from engine.training.run import train_command
from losses import BASELINES

DEFAULTS = {"dataset": "voc07", "labels": "candidate"}


def main(argv: Sequence[str] | None = None) -> int:
    """Train, evaluate, write the run folder; returns the exit code."""
    return train_command(BASELINES, DEFAULTS, argv, program="main_BCE.py")


if __name__ == "__main__":
    run(main)
