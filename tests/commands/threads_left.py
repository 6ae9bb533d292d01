"""Run a script of ours as a process of several would, then say which threads of the process group are left.

torchrun --nproc_per_node 2 tests/commands/threads_left.py main_BCE FLAG...
"""

import importlib
import sys
from pathlib import Path

from utils.console import show

if __name__ == "__main__":
    code = importlib.import_module(sys.argv[1]).main(sys.argv[2:])
    names = [(task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
    show("threads left: " + (" ".join(name for name in names if "gloo" in name) or "none"))
    sys.exit(code)
