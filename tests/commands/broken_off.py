"""Run a script of ours that breaks off once: torchrun tests/commands/broken_off.py SIGNAL SAVES MARK main_BCE FLAG...

The main process sends itself a signal after so many saves, unless the file MARK is there, which it then makes.
"""

import importlib
import os
import signal
import sys
from pathlib import Path

from engine.core.cli import exit_code
from engine.training.loop import Loop


def break_off(number: int, saves: int, mark: Path) -> None:
    """Have the loop break off once."""
    save, done = Loop.save, []

    def saving(loop: Loop) -> None:
        save(loop)
        done.append(loop.state.step)
        if len(done) == saves and loop.runtime.is_main and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), number)

    Loop.save = saving


if __name__ == "__main__":
    kind, count, name, script, *words = sys.argv[1:]
    break_off(signal.Signals[kind], int(count), Path(name))
    sys.exit(exit_code(importlib.import_module(script).main, words))
