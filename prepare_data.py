"""Download a dataset, or print its steps.

For instance:

    python prepare_data.py voc07
    python prepare_data.py coco --path_images /data/COCO2014 --archives /data/archives
    python prepare_data.py coco17 --print

Exit code 0: the dataset is there; 1: a download stopped, and the same command goes on; 2: nothing was downloaded.
"""

from collections.abc import Sequence

from engine.core.cli import run
from engine.core.usage import check_usage


def main(argv: Sequence[str] | None = None) -> int:
    """Download, or print; returns the exit code."""
    check_usage("prepare_data.py", argv)
    from engine.preparation.command import prepare_command  # takes seconds to import, torch with it

    return prepare_command(argv)


if __name__ == "__main__":
    run(main)
