"""What training with missing labels did: memorisation, modified labels, activation maps, and sweeps over a setting.

For instance:

    python analyse.py memorisation runs/an
    python analyse.py modification runs/ll-r runs/ll-cp --output runs/figures
    python analyse.py pointing runs/an runs/ll-r --tolerance 15
    python analyse.py found runs/ll-r runs/cls
    python analyse.py modified runs/ll-r --pictures 12
    python analyse.py sweep --setting delta_rel --values 0,0.1,0.2 -- main_llm.py --dataset digits --seed 0
"""

import importlib
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from engine.analysis.command import analyse_command
from engine.analysis.sweep import Main
from engine.core.cli import run


def training_main(name: str) -> Main:
    """The main function of a training script."""
    main: Main = importlib.import_module(name).main
    return main


SCRIPTS = {path.name: partial(training_main, path.stem) for path in sorted(Path(__file__).parent.glob("main_*.py"))}


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the first word says, write a figure and a table; returns the exit code."""
    return analyse_command(sys.argv[1:] if argv is None else argv, program="analyse.py", scripts=SCRIPTS)


if __name__ == "__main__":
    run(main)
