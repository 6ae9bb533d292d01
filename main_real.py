"""CoNeS on labels as they are: the given ones are the candidates, no noise is added.

For instance:

    python main_real.py --dataset nuswide --num_cls 81 --img_size 224 --batch_size 16 \
        --path_images Dataset/nuswide --r_ws 3
    python main_real.py --dataset voc07 --path_images Dataset/VOCdevkit
"""

from collections.abc import Sequence

from engine.core.cli import run
from engine.training.run import train_command

DEFAULTS = {"dataset": "nuswide", "labels": "given", "img_size": 224}


def main(argv: Sequence[str] | None = None) -> int:
    """Train, evaluate, write the run folder; returns the exit code."""
    return train_command("cones", DEFAULTS, argv, program="main_real.py")


if __name__ == "__main__":
    run(main)
