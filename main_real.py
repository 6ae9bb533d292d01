"""CoNeS on the labels that a dataset gives, without added noise.

For instance:

    python main_real.py --dataset nuswide --num_cls 81 --img_size 224 --batch_size 16 \
        --path_images Dataset/nuswide --r_ws 3
    python main_real.py --dataset voc07 --path_images Dataset/VOCdevkit
"""

from collections.abc import Sequence

from engine.core.cli import run
from engine.core.usage import check_usage

DEFAULTS = {"dataset": "nuswide", "labels": "given", "img_size": 224}
METHOD = "cones"


def main(argv: Sequence[str] | None = None) -> int:
    """Train, evaluate, write the run folder; returns the exit code."""
    check_usage("main_real.py", argv)
    from engine.training.run import train_command  # takes seconds to import, torch with it

    return train_command("main_real.py", DEFAULTS, argv, method=METHOD)


if __name__ == "__main__":
    run(main)
