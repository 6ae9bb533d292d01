"""Exit codes of the scripts, and one line instead of a traceback for every error that is not a bug."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import FrameType

from engine import INTERRUPTED
from engine.core.gpu_memory import NO_GPU_MEMORY
from utils.checks import Interrupted, RunError, UserError
from utils.console import print_nowhere, warn

_NO_MEMORY = "no memory left; give a smaller --batch_size or --img_size, or fewer --num_workers"
_LIMITS = {
    NO_GPU_MEMORY: (  # elsewhere than in training and scoring, which say it themselves
        "the GPU has no memory left; give a smaller --batch_size or --img_size, or --precision bf16"
    ),
    r"DefaultCPUAllocator|Cannot allocate memory|bad_alloc": _NO_MEMORY,
    r"(?s)DataLoader worker.*shared memory": "loader processes filled /dev/shm; give fewer --num_workers",
    r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (is killed by signal: \w+|exited unexpectedly)": (
        r"a loader process (\1) \2, often for want of memory; go on from the last save with --resume, and fewer "
        "--num_workers"
    ),
    (
        r"Connection (closed|reset) by peer|gloo/transport|recvValue failed|sendBytes failed|ncclRemoteError|"
        r"NCCL communicator was aborted"
    ): "another process of this run has ended, for the reason that it gives, if any; go on with --resume",
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
        _say_error(str(error).splitlines()[-1].removeprefix(f"{RunError.__module__}.RunError: "))
        return 1
    except Interrupted as stop:
        warn(f"stopped by {stop} after saving; go on with --resume and the same --output")
        return 128 + stop.number
    except KeyboardInterrupt:
        warn(INTERRUPTED)
        return 128 + signal.SIGINT
    except BrokenPipeError:  # of a command that only prints: the reader of its output (head, less) has gone
        print_nowhere()
        return 0
    except Exception as error:
        chain = list(_with_causes(error))
        if any(isinstance(each, KeyboardInterrupt) for each in chain):  # C code wraps it, while it is imported say
            warn(INTERRUPTED)
            return 128 + signal.SIGINT
        line = next(filter(None, map(_words_on, chain)), "")  # torch wraps what comes while it saves
        if not line:
            raise
        _say_error(line)
        return 1


def _words_on(error: BaseException) -> str:
    """The line for an error that has a cause outside the code; empty for any other."""
    if isinstance(error, MemoryError):
        return _NO_MEMORY
    if isinstance(error, OSError) and (error.filename is not None or error.strerror is not None):
        return f"{error.filename or 'input/output'}: {error.strerror}"
    return _limit_reached(str(error)) if isinstance(error, RuntimeError) else ""


def _with_causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and those that it came from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


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
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by who started the script (`>&-`)
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115 - until the end
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where a shell has it ignored
        signal.signal(signal.SIGINT, partial(_interrupt, os.getpid()))
    sys.exit(exit_code(main))


def _interrupt(process: int, number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt; amid an import, which writes nothing, end the program instead.

    An import may run C++ that such an exception aborts, and callbacks that lose it.

    Args:
        process: the program's own number; processes that it forks leave the words to it.
        number: the signal.
        frame: what is interrupted.
    """
    while frame is not None and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    if frame is None or os.getpid() != process:
        raise KeyboardInterrupt
    os.write(2, f"{INTERRUPTED}\n".encode())
    os._exit(128 + number)
