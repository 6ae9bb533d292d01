"""The command of the installed package: `partial-truth predict.py ...` is `python predict.py ...` in the checkout.

In the wheel this file is `partial_truth/__main__.py`, beside the scripts.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from engine.core.cli import run


def main() -> None:
    """Run the script that the first word names, with or without `.py`, and exit with its code."""
    scripts = [path.stem for path in sorted(Path(__file__).parent.glob("[!_]*.py"))]
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    usage = f"usage: partial-truth COMMAND [--flag VALUE ...]; COMMAND is one of {', '.join(scripts)}\n"
    if word in ("-h", "--help"):
        sys.stdout.write(f"{usage}partial-truth COMMAND --help lists the flags.\n")
        raise SystemExit(0)
    if word.removesuffix(".py") not in scripts:
        sys.stderr.write(f"error: {word or 'no command'}: not a command of partial-truth\n{usage}")
        raise SystemExit(2)
    del sys.argv[1]
    run(importlib.import_module(f"{__package__}.{word.removesuffix('.py')}").main)


if __name__ == "__main__":
    main()
