"""Effects of training with missing labels: memorisation, modified labels, activation maps, sweeps.

For instance:

    python analyse.py memorisation runs/an
    python analyse.py modification runs/ll-r runs/ll-cp --output runs/figures
    python analyse.py pointing runs/an runs/ll-r --tolerance 15
    python analyse.py found runs/ll-r runs/cls
    python analyse.py modified runs/ll-r --images 12
    python analyse.py sweep --setting delta_rel --values 0,0.1,0.2 -- main_llm.py --dataset digits --seed 0
"""

import importlib
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from engine.core.cli import run
from engine.core.usage import check_subcommand


def training_script(name: str) -> Any:
    """A training script as a module, of the package where this is one (`tools/installable.py`)."""
    return importlib.import_module(f"{__package__}.{name}" if __package__ else name)


SCRIPTS = {path.name: partial(training_script, path.stem) for path in sorted(Path(__file__).parent.glob("main_*.py"))}


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the first word says, write a figure and a table; returns the exit code."""
    words = sys.argv[1:] if argv is None else argv
    check_subcommand("analyse.py", words)
    from engine.analysis.command import analyse_command  # takes seconds to import, torch with it

    return analyse_command(words, scripts=SCRIPTS)


if __name__ == "__main__":
    run(main)
