"""CoNeS: candidate labels, some of them wrong.

For instance:

    python main_CoNeS.py --dataset digits --partial_rate 0.4 --seed 0
    python main_CoNeS.py --dataset voc07 --num_cls 20 --img_size 448 --batch_size 16 --partial_rate 0.1 \
        --path_images Dataset/VOCdevkit --r_ws 3
"""

from collections.abc import Sequence

from engine.core.cli import run
from engine.training.run import train_command

DEFAULTS = {"dataset": "voc07", "labels": "candidate"}


def main(argv: Sequence[str] | None = None) -> int:
    """Train, evaluate, write the run folder; returns the exit code."""
    return train_command("cones", DEFAULTS, argv, program="main_CoNeS.py")


if __name__ == "__main__":
    run(main)
