"""How a script ends: its exit code, and the one line on the error stream."""

import errno
import os
import signal
import sys

import pytest
import torch

from engine import INTERRUPTED
from engine.core.cli import exit_code, run
from utils.checks import Interrupted, RunError, UserError
from utils.console import say, warn

WORKER = "Caught RunError in DataLoader worker process 0.\nTraceback ...\nutils.checks.RunError: image x.jpg is gone"
ENDS = [
    (UserError("--lr -1: must be above 0"), 2, "error: --lr -1: must be above 0\n"),
    (UserError("a" * 900), 2, f"error: {'a' * 900}\n"),
    (UserError(f"t.csv:\n  {'a' * 600}{'b' * 301}"), 2, f"error: t.csv:\n  {'a' * 498} ... {'b' * 300}\n"),
    (UserError("no:\n  a/\nor so:\n(x)"), 2, "error: no:\n  a/\nor so:\n(x)\n"),
    (UserError("class 'a\nb' is there twice"), 2, "error: class 'a\\nb' is there twice\n"),
    (RunError("the disk is full"), 1, "error: the disk is full\n"),
    (RunError(WORKER), 1, "error: image x.jpg is gone\n"),
    (
        Interrupted(signal.SIGTERM),
        128 + 15,
        "stopped by SIGTERM after saving; go on with --resume and the same --output\n",
    ),
    (
        KeyboardInterrupt(),
        128 + 2,
        "interrupted; a run goes on from its last save with --resume and the same --output\n",
    ),
    (OSError(errno.ENOSPC, "No space left", "a.pth"), 1, "error: a.pth: No space left\n"),
    (OSError(errno.EIO, "broken"), 1, "error: input/output: broken\n"),
]


def ending(error):
    def main(argv):
        raise error

    return main


@pytest.mark.parametrize(("error", "code", "line"), ENDS)
def test_each_end_has_its_code_and_its_line(error, code, line, capsys):
    assert exit_code(ending(error), []) == code
    assert capsys.readouterr() == ("", line)


@pytest.mark.parametrize("code", [0, 1, 7])
def test_a_command_that_comes_to_its_end_gives_its_own_code_and_gets_its_words(code):
    assert exit_code(lambda argv: code + len(argv), ["one", "two"]) == code + 2
    assert exit_code(lambda argv: code if argv is None else -1) == code


def wrapped(error, cause):
    error.__cause__ = cause
    return error


LIMITS = [
    (
        wrapped(
            RuntimeError("unexpected pos 64 vs 0"), RuntimeError("DataLoader worker (pid 41) is killed by signal: 9")
        ),
        "a loader process (41) is killed by signal: 9, often for want of memory; go on from the last save with "
        "--resume, and fewer --num_workers",
    ),
    (MemoryError(), "no memory left; give a smaller --batch_size or --img_size, or fewer --num_workers"),
    (
        MemoryError("Caught MemoryError in DataLoader worker process 0.\nTraceback ..."),
        "no memory left; give a smaller --batch_size or --img_size, or fewer --num_workers",
    ),
    (
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        "the GPU has no memory left; give a smaller --batch_size or --img_size, or --precision bf16",
    ),
    (
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        "the GPU has no memory left; give a smaller --batch_size or --img_size, or --precision bf16",
    ),
    (
        RuntimeError("DataLoader worker (pid 41) is killed by signal: Killed. "),
        "a loader process (41) is killed by signal: Killed, often for want of memory; go on from the last save with "
        "--resume, and fewer --num_workers",
    ),
    (
        RuntimeError("DataLoader worker (pid(s) 4, 5) exited unexpectedly"),
        "a loader process (4, 5) exited unexpectedly, often for want of memory; go on from the last save with "
        "--resume, and fewer --num_workers",
    ),
    (
        RuntimeError("[/a/gloo/transport/tcp/pair.cc:525] Read error [127.0.0.1]:1: Connection reset by peer"),
        "another process of this run has ended, for the reason that it gives, if any; go on with --resume",
    ),
    (
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has 8 GiB.\nMore."),
        "the GPU has no memory left; give a smaller --batch_size or --img_size, or --precision bf16",
    ),
    (
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes."),
        "no memory left; give a smaller --batch_size or --img_size, or fewer --num_workers",
    ),
    (
        RuntimeError(
            "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers "
            "are out of shared memory.\nPlease try to raise your shared memory limit."
        ),
        "loader processes filled /dev/shm; give fewer --num_workers",
    ),
    (
        RuntimeError(
            "cumsum_cuda_kernel does not have a deterministic implementation, but you set "
            "'torch.use_deterministic_algorithms(True)'."
        ),
        "--deterministic: cumsum_cuda_kernel has no kernel that gives the same bits again; leave the flag out",
    ),
]


@pytest.mark.parametrize(("error", "line"), LIMITS)
def test_limits_of_the_machine_are_told_in_one_line_with_what_to_do(error, line, capsys):
    assert exit_code(ending(error), []) == 1
    assert capsys.readouterr() == ("", f"error: {line}\n")


def test_other_errors_of_pytorch_stay_what_they_are():
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        exit_code(ending(RuntimeError("shapes do not fit")), [])


@pytest.mark.parametrize("error", [ValueError("a mistake of ours"), OSError("without a number")])
def test_what_nobody_expects_is_raised_on(error):
    with pytest.raises(type(error), match=str(error)):
        exit_code(ending(error), [])


def test_a_reader_that_has_gone_is_no_fault(monkeypatch):
    moved = []
    monkeypatch.setattr(os, "dup2", lambda one, other: moved.append(other))
    monkeypatch.setattr(sys, "stdout", sys.__stdout__)
    assert exit_code(ending(BrokenPipeError()), []) == 0
    assert moved == [sys.__stdout__.fileno()]


@pytest.mark.parametrize(
    "error",
    [
        wrapped(ImportError("Error importing numpy"), KeyboardInterrupt()),
        wrapped(
            SystemError("initialization of x raised unreported exception"), wrapped(ImportError(), KeyboardInterrupt())
        ),
    ],
)
def test_an_interrupt_that_a_package_wraps_is_one(error, capsys):
    assert exit_code(ending(error), []) == 130
    assert capsys.readouterr() == ("", f"{INTERRUPTED}\n")


def test_an_interrupt_before_any_command_is_one_line(capsys):
    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert capsys.readouterr().err == f"{INTERRUPTED}\n"
    sys.excepthook(ValueError, ValueError("a mistake of ours"), None)
    assert "ValueError: a mistake of ours" in capsys.readouterr().err


@pytest.fixture
def signals():
    """Ctrl-C is handled after the test as it was before."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Ended(BaseException):
    """In place of the end of the program."""


def end(code):
    raise Ended(code)


IN_PLAIN_CODE = compile("act()", "script.py", "exec")
IN_AN_IMPORT = compile("act()", "<frozen importlib._bootstrap>", "exec")


@pytest.mark.usefixtures("signals")
@pytest.mark.parametrize(
    "code, forked, ends",
    [(IN_PLAIN_CODE, 0, KeyboardInterrupt), (IN_AN_IMPORT, 0, Ended), (IN_AN_IMPORT, 1, KeyboardInterrupt)],
)
def test_an_interrupt_amid_an_import_ends_the_program_at_once(monkeypatch, capfd, code, forked, ends):
    def main(argv):
        own = os.getpid()
        monkeypatch.setattr(os, "getpid", lambda: own + forked)
        exec(code, {"act": lambda: signal.raise_signal(signal.SIGINT)})

    monkeypatch.setattr(os, "_exit", end)
    monkeypatch.setattr("engine.core.cli.exit_code", lambda main: main(None))
    with pytest.raises(ends) as ended:
        run(main)
    assert capfd.readouterr().err == (f"{INTERRUPTED}\n" if ends is Ended else "")
    assert ended.value.args == ((130,) if ends is Ended else ())


@pytest.mark.usefixtures("signals")
def test_an_interrupt_that_is_ignored_stays_so():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with pytest.raises(SystemExit):
        run(lambda argv: 0)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


@pytest.mark.usefixtures("signals")
@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_streams_that_are_closed_are_written_to_nowhere(monkeypatch, name):
    monkeypatch.setattr(sys, name, None)
    with pytest.raises(SystemExit) as ended:
        run(lambda argv: say("x") or warn("y") or 7)
    assert ended.value.code == 7
