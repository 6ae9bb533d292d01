"""Finished runs, each kept as one line of JSON in the file `runs.jsonl` beside the tables of a plan.

A line holds the settings that differ from the code's defaults of its time; those stand once in a line of their own,
named by a hash. So a line says all settings of its run, in a version whose defaults are others too. A run that has its
line is not made again.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from engine.core.identity import Identity, same_run
from utils.checks import RunError, UserError, is_number
from utils.console import warn
from utils.safe_files import append_line

FILE = "runs.jsonl"


class FinishedLine(NamedTuple):
    """What is kept of a finished run."""

    method: str
    seed: int
    settings: Mapping[str, str]
    """All that decide its result, as `engine.core.identity` writes them."""
    figures: Mapping[str, float]
    """Fractions by name, as `engine.reproduction.figures` names them."""
    epochs: Mapping[str, list[float | None]]
    """Figures epoch by epoch."""
    label_hash: str
    data: Mapping[str, str]
    """Hashes of the splits."""
    seconds: float | None
    about: Mapping[str, Any]
    """For readers: row and regime, versions, device, date."""


class LineFile:
    """The finished lines of a plan, read again whenever somebody else may have added to them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._size: int | None = None
        self._by_seed: dict[tuple[str, int], list[FinishedLine]] = {}
        self._defaults: dict[str, dict[str, str]] = {}
        self.refresh()

    def refresh(self) -> None:
        """Read the file again if it has changed. Raises: UserError when it cannot be read."""
        try:
            size = self.path.stat().st_size if self.path.exists() else 0
            if size == self._size:
                return
            text = self.path.read_text(encoding="utf-8", errors="replace") if size else ""
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({error.strerror})") from None
        self._size, self._by_seed, self._defaults = size, {}, {}
        records = list(_records(text, self.path))
        for _, record in records:
            if isinstance(values := record.get("values"), dict):
                self._defaults[str(record.get("defaults"))] = {str(key): str(value) for key, value in values.items()}
        for number, record in records:
            if "values" not in record:
                self._keep(record, number)

    def find(self, method: str, identity: Identity, defaults: Identity) -> FinishedLine | None:
        """The line of a run; None where there is none.

        Args:
            method: the method of the run.
            identity: its settings.
            defaults: those of the code as it is now, for settings that an old line lacks.
        """
        known = self._by_seed.get((method, int(identity["seed"])), [])
        return next((line for line in known if same_run(identity, line.settings, defaults)), None)

    def add(self, line: FinishedLine, defaults: Identity) -> None:
        """Keep one more; the defaults that it refers to are written before it where they are new.

        Raises: RunError when the file cannot be written.
        """
        name = _hash(defaults)
        if name not in self._defaults:
            self._append({"defaults": name, "values": dict(defaults)})
        changed = {key: text for key, text in line.settings.items() if defaults.get(key) != text}
        self._append({**line._asdict(), "settings": changed, "defaults": name})
        self.refresh()

    def __iter__(self) -> Iterator[FinishedLine]:
        return (line for lines in self._by_seed.values() for line in lines)

    def _append(self, record: Mapping[str, Any]) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{self.path.parent}: cannot be made ({error.strerror})") from None
        text = json.dumps(record, ensure_ascii=False, separators=(",", ":"))
        append_line(self.path, text if _ends_whole(self.path) else f"\n{text}")  # a kill may have left half a line

    def _keep(self, record: Mapping[str, Any], number: int) -> None:
        """Take a line over, or say why not."""
        defaults = self._defaults.get(str(record.get("defaults")))
        line = None if defaults is None else _line(record, defaults)
        if line is None:
            why = "its defaults are not in the file" if defaults is None else "no line of a finished run"
            warn(f"note: {self.path}, line {number}: {why}; passed over")
            return
        self._by_seed.setdefault((line.method, line.seed), []).append(line)


def _records(text: str, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The lines as mappings, with their numbers; damaged ones are said."""
    for number, line in enumerate(text.splitlines(), 1):
        try:
            record = json.loads(line) if line.strip() else None
        except (ValueError, RecursionError):
            record = ()
        if isinstance(record, dict):
            yield number, record
        elif record is not None:
            warn(f"note: {path}, line {number}: damaged; passed over")


def _line(record: Mapping[str, Any], defaults: Identity) -> FinishedLine | None:
    """A record as a line; None where it is none."""
    parts: dict[str, Any] = {name: record.get(name) for name in FinishedLine._fields}
    maps = [parts[name] for name in ("settings", "figures", "epochs", "data", "about")]
    fits = (
        isinstance(parts["method"], str)
        and type(parts["seed"]) is int
        and all(isinstance(each, dict) for each in maps)
        and all(is_number(value) and math.isfinite(value) for value in record["figures"].values())
        and all(isinstance(value, list) for value in record["epochs"].values())
        and (parts["seconds"] is None or is_number(parts["seconds"]))
    )
    if not fits:
        return None
    changed = {str(key): str(value) for key, value in record["settings"].items()}
    return FinishedLine(**{**parts, "settings": {**defaults, **changed}, "label_hash": str(parts["label_hash"])})


def _hash(defaults: Identity) -> str:
    """A short name for some defaults."""
    return hashlib.sha256(json.dumps(dict(defaults), sort_keys=True).encode()).hexdigest()[:12]


def _ends_whole(path: Path) -> bool:
    """True unless the last line of a file lacks its end."""
    try:
        with path.open("rb") as file:
            if not file.seek(0, os.SEEK_END):
                return True
            file.seek(-1, os.SEEK_END)
            return file.read() == b"\n"
    except FileNotFoundError:
        return True
