"""One trial: a file of a valid folder is changed, a command reads the folder, and how the command ends is noted."""

import contextlib
import io
import os
import random
import shutil
import signal
import traceback
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from engine.core.settings import parse_settings
from tests.commands.scene import run
from tests.faults.formats import MARKER, changes_of

SECONDS = 60
"""A command that takes longer hangs, in time of the CPU; by the clock it may take `PATIENCE` times as long."""

PATIENCE = 10


class Kind(NamedTuple):
    """A kind of file, and what reads it."""

    name: str
    build: Callable[[Path], None]
    """Writes a valid folder."""
    files: tuple[str, ...]
    """Patterns of the files in it that are changed."""
    commands: tuple[tuple[str, ...], ...]
    """Script and arguments; each trial runs one of them."""
    of: str = ""
    """Kinds that differ in their form alone stand in one row of the page, of this name."""

    @property
    def row(self) -> str:
        """Its row in the page."""
        return self.of or self.name


class Outcome(NamedTuple):
    """How a trial ended."""

    kind: str
    number: int
    end: str
    """`read`, `refused`, or a fault: `traceback`, `hangs`, `unclear`, `ran code`, `dies`."""
    named: bool
    """Whether the refusal names the file that was changed."""
    words: str
    """The refusal, or what went wrong."""

    @property
    def is_fault(self) -> bool:
        """True unless the command read the file or refused it in one clear line."""
        return self.end not in ("read", "refused")


class Bench:
    """A valid folder of one kind, in which trial after trial is made."""

    def __init__(self, kind: Kind, folder: Path) -> None:
        self.kind, self.folder = kind, folder
        folder.mkdir(parents=True)
        kind.build(folder)
        self._there = {path.relative_to(folder) for path in folder.rglob("*")}
        self._held = {path: (_stamp(path), path.read_bytes()) for path in folder.rglob("*") if path.is_file()}
        self._targets = sorted(path for one in kind.files for path in folder.glob(one) if path.is_file())
        assert self._targets, f"{kind.name}: no file to change"

    def is_read(self) -> list[str]:
        """What the commands say to the unchanged folder; empty where all end well, as they must."""
        said = []
        for words in self.kind.commands:
            done = run(self.folder, *words)
            self._clear()
            if done.returncode not in (0, 1) or done.stderr.startswith("error: "):
                said.append(f"{' '.join(words)}: {done.stderr}")
        return said

    def attempt(self, number: int, seed: int = 0) -> Outcome:
        """Make the trial of this seed and number."""
        rng = random.Random(zlib.crc32(f"{self.kind.name} {seed} {number}".encode()))
        target = rng.choice(self._targets)
        content = target.read_bytes()
        words = rng.choice(self.kind.commands)
        try:
            _change(target, content, rng)
            end, said = self._ending(words)
            return Outcome(self.kind.name, number, end, target.name in said, said)
        finally:
            _put_back(target, content, self._held[target][0])
            self._clear()

    def _ending(self, words: tuple[str, ...]) -> tuple[str, str]:
        try:
            with _alarm(SECONDS), _without_figures(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                done = run(self.folder, *words)
        except TimeoutError:
            return "hangs", " ".join(words)
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            return "traceback", f"{type(error).__name__}: {str(error)[:200]!r} at {frame.filename}:{frame.lineno}"
        if (self.folder / MARKER).exists():
            return "ran code", " ".join(words)
        at = done.stderr.find("error: ")
        if at < 0 and done.returncode in (0, 1):
            return "read", ""  # 1: an inspection that found faults
        said = done.stderr[at:]
        return ("refused" if _is_clear(said) and done.returncode in (1, 2) else "unclear"), said

    def _clear(self) -> None:
        """Take away what a command left, and give back what it changed or removed."""
        for path in sorted(self.folder.rglob("*"), reverse=True):
            if path.relative_to(self.folder) not in self._there:
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
        for path, (stamp, content) in self._held.items():
            if _stamp(path) != stamp:
                _put_back(path, content, stamp)


def _stamp(path: Path) -> tuple[int, int]:
    """Size and times of a file; nothing where there is none."""
    if path.is_symlink() or not path.is_file():
        return 0, 0
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _put_back(path: Path, content: bytes, stamp: tuple[int, int]) -> None:
    """Make a file what it was."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, ns=(stamp[1], stamp[1]))


def _is_clear(said: str) -> bool:
    """True for one line of a readable length, below which at most the expected folder is drawn."""
    first, *below = said.split("\n")
    drawn = [line for line in below if line and not line.startswith(("  ", "(", "or "))]
    return first.startswith("error: ") and len(first) < 1000 and not drawn and len(below) < 12


def _change(target: Path, content: bytes, rng: random.Random) -> None:
    """Change a file; now and then it is gone, a folder, or may not be read."""
    match rng.randrange(60):
        case 0:
            target.unlink()
        case 1:
            target.unlink()
            target.mkdir()
        case 2:
            target.unlink()
            target.symlink_to(target.name)
        case _:
            changed = content
            for _ in range(rng.choice((1, 1, 1, 2))):
                if MARKER.encode() in changed:
                    break  # the next change would load it
                with contextlib.suppress(Exception):  # what one change broke, another cannot parse
                    changed = rng.choice(changes_of(target))(changed, rng)
            target.write_bytes(changed)


def _draw_nothing(*_: object, **__: object) -> None:
    """Stand in for what draws figures, nine tenths of an inspection, and for what checks flags."""


_SETTINGS: dict[tuple[str, ...], Any] = {}


def _settings_once(command: Any, argv: Sequence[str], **more: Any) -> Any:
    """The settings of an inspection: no trial changes them, and reading them takes longer than a small folder."""
    words = tuple(argv)
    if words not in _SETTINGS:
        _SETTINGS[words] = parse_settings(command, argv, **more)
    return _SETTINGS[words]


@contextlib.contextmanager
def _without_figures() -> Iterator[None]:
    with (
        mock.patch("engine.inspection.command.draw", _draw_nothing),
        mock.patch("engine.inspection.command.parse_settings", _settings_once),
        mock.patch("inspect_data.check_usage", _draw_nothing),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        yield


@contextlib.contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    def ring(*_: object) -> None:
        raise TimeoutError

    timers = {signal.SIGPROF: (signal.ITIMER_PROF, seconds), signal.SIGALRM: (signal.ITIMER_REAL, PATIENCE * seconds)}
    before = {number: signal.signal(number, ring) for number in timers}
    for timer, limit in timers.values():
        signal.setitimer(timer, limit)
    try:
        yield
    finally:
        for number, (timer, _) in timers.items():
            signal.setitimer(timer, 0)
            signal.signal(number, before[number])
