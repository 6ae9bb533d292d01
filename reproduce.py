"""Run what is missing of a plan, and write its tables.

For instance:

    python reproduce.py configs/plans/digits.yaml --dry_run
    python reproduce.py configs/plans/digits.yaml --jobs 2
    python reproduce.py configs/plans/voc07-candidates.yaml --data voc07=Dataset/VOCdevkit --shard 1/4
"""

import importlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from engine.core.cli import run
from engine.core.usage import check_usage


def training_script(name: str) -> Any:
    """A training script as a module, of the package where this is one (`tools/installable.py`)."""
    return importlib.import_module(f"{__package__}.{name}" if __package__ else name)


SCRIPTS = {path.name: partial(training_script, path.stem) for path in sorted(Path(__file__).parent.glob("main_*.py"))}


def main(argv: Sequence[str] | None = None) -> int:
    """Run, collect, write the tables; returns the exit code."""
    check_usage("reproduce.py", argv)
    from engine.reproduction.command import reproduce_command  # takes seconds to import, torch with it

    return reproduce_command(argv, scripts=SCRIPTS)


if __name__ == "__main__":
    run(main)
