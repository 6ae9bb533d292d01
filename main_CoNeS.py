"""CoNeS: candidate labels, some of them wrong.

For instance:

    python main_CoNeS.py --dataset digits --partial_rate 0.4 --seed 0
    python main_CoNeS.py --dataset voc07 --num_cls 20 --img_size 448 --batch_size 16 --partial_rate 0.1 \
        --path_images Dataset/VOCdevkit --r_ws 3
"""

from collections.abc import Sequence

from engine.core.cli import run
from engine.core.usage import check_usage

DEFAULTS = {"dataset": "voc07", "labels": "candidate"}


def main(argv: Sequence[str] | None = None) -> int:
    """Train, evaluate, write the run folder; returns the exit code."""
    check_usage("main_CoNeS.py", argv)
    from engine.training.run import train_command  # takes seconds to import, torch with it

    return train_command("main_CoNeS.py", DEFAULTS, argv)


if __name__ == "__main__":
    run(main)
