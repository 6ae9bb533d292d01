"""The baselines: `--loss` names one (default: plain BCE).

For instance:

    python main_BCE.py --dataset digits --partial_rate 0.4 --seed 0
    python main_BCE.py --dataset voc07 --num_cls 20 --img_size 448 --partial_rate 0.1 --path_images Dataset/VOCdevkit
    python main_BCE.py --loss role --dataset pascal --path_images Dataset/pascal
"""

from collections.abc import Sequence

from engine.core.cli import run
from engine.core.usage import check_usage

DEFAULTS = {"dataset": "voc07", "labels": "candidate"}


def main(argv: Sequence[str] | None = None) -> int:
    """Train, evaluate, write the run folder; returns the exit code."""
    check_usage("main_BCE.py", argv)
    from engine.training.run import train_command  # takes seconds to import, torch with it

    return train_command("main_BCE.py", DEFAULTS, argv)


if __name__ == "__main__":
    run(main)
