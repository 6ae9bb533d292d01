"""Exit codes of the scripts, and one line instead of a traceback for every error that is not a bug."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable, Sequence

from utils.checks import Interrupted, RunError, UserError
from utils.console import warn

_LIMITS = {
    r"CUDA out of memory": "the GPU has no memory left; give a smaller --batch_size or --img_size, or --precision bf16",
    r"DefaultCPUAllocator": "no memory left; give a smaller --batch_size or --img_size",
    r"(?s)DataLoader worker.*shared memory": "loader processes filled /dev/shm; give fewer --num_workers",
    r"(\S+) does not have a deterministic implementation": (
        r"--deterministic: \1 has no kernel that gives the same bits again; leave the flag out"
    ),
}
"""What PyTorch says when the machine cannot do what a run asks of it, and the line for it."""


_DRAWN = ("  ", "(", "or ")
"""How lines begin that draw the folder that is expected, below the line of the error."""
_LONGEST = 900
"""Characters of a line of an error that are shown."""


def exit_code(main: Callable[[Sequence[str] | None], int], argv: Sequence[str] | None = None) -> int:
    """Run `main` and turn its possible ends into exit codes.

    0 done; 2 a request that cannot be met; 1 a run that had started failed; 128 + signal when stopped by one.
    """
    try:
        return main(argv)
    except UserError as error:
        _say_error(str(error))
        return 2
    except RunError as error:
        # From a loader process it arrives as "Caught RunError in ...", a traceback, and the line itself at the end.
        _say_error(str(error).splitlines()[-1].removeprefix("utils.checks.RunError: "))
        return 1
    except Interrupted as stop:
        warn(f"stopped by {stop} after saving; go on with --resume and the same --output")
        return 128 + stop.number
    except KeyboardInterrupt:
        warn("interrupted; a run goes on from its last save with --resume and the same --output")
        return 128 + signal.SIGINT
    except RuntimeError as error:
        line = _limit_reached(str(error))
        if not line:
            raise
        _say_error(line)
        return 1
    except BrokenPipeError:  # the reader of our output (head, less) has exited
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.filename is None and error.strerror is None:
            raise
        _say_error(f"{error.filename or 'input/output'}: {error.strerror}")
        return 1


def _say_error(text: str) -> None:
    r"""Print an error: one line, and below it a folder that is drawn.

    A line break in what an error quotes is shown as `\n`; of a line that quotes something endless both ends are shown:
    where it went wrong, and what to do.
    """
    lines: list[str] = []
    for line in text.split("\n"):
        if lines and not line.startswith(_DRAWN):
            lines[-1] += f"\\n{line}"
        else:
            lines.append(line)
    warn("error: " + "\n".join(line if len(line) <= _LONGEST else f"{line[:500]} ... {line[-300:]}" for line in lines))


def _limit_reached(text: str) -> str:
    """The line for an error of PyTorch that has a known cause outside the code; empty for any other."""
    found = ((re.search(pattern, text), line) for pattern, line in _LIMITS.items())
    return next((match.expand(line) for match, line in found if match), "")


def run(main: Callable[[Sequence[str] | None], int]) -> None:
    """Run `main` and exit; the last line of every script."""
    sys.exit(exit_code(main))
