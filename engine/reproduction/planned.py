"""Runs of a plan with all their settings, resolved before anything is trained."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from engine.core.identity import default_identity, identity_of
from engine.core.setting_table import CommandTable
from engine.core.settings import Command, Request, Settings, parse_settings
from engine.reproduction.plan import Cell, RunOf
from engine.reproduction.scripts import Scripts
from engine.training.config import training_command
from utils.checks import UserError, require

RESERVED = ("seed", "output", "resume", "no-resume", "print_config", "help", "h")
"""Flags that a plan sets itself."""
FILES = ("label_file", "features", "prior_scores")
"""Settings that name a file which a run cannot do without."""


class Planned(NamedTuple):
    """A run and what it comes down to."""

    run: RunOf
    words: tuple[str, ...]
    """Its command line, without the script and where files are written."""
    method: str
    identity: dict[str, str]
    defaults: dict[str, str]
    dataset: str
    folder_of_data: Path | None
    files: tuple[Path, ...]
    """Files that it reads besides its dataset's."""
    validates: bool
    """True if a validation split is cut out, so that settings may be chosen by it."""
    tests_each_epoch: bool

    @property
    def key(self) -> str:
        """A hash of its method and settings."""
        told = json.dumps([self.method, self.identity], sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()[:8]

    @property
    def slug(self) -> str:
        """Name of its folder: of what it is, and the hash; of the one regime without a name that of its row."""
        if not self.run.cell.regime.name:
            return self.run.cell.row.name
        words = f"{self.run.cell.row.name} {self.run.cell.regime.name} s{self.run.seed}"
        plain = re.sub(r"[^a-z0-9.+]+", "-", words.lower()).strip("-.")[:80]
        return f"{plain}-{self.key}"

    @property
    def lacks_data(self) -> str:
        """Words on the data that is not there; empty where nothing is missing."""
        folder = self.folder_of_data
        if folder is not None and not folder.is_dir():
            return f"needs {self.run.cell.needs or self.dataset} (--data {self.dataset}=FOLDER)"
        missing = [str(file) for file in self.files if not file.is_file()]
        return f"needs {' and '.join(missing)}" if missing else ""


class Given(NamedTuple):
    """What the command line adds to every run."""

    folders: Mapping[str, Path]
    """Folders of datasets by name."""
    flags: tuple[str, ...] = ()


class Resolver:
    """Resolves runs; settings that differ in the seed alone are read once.

    Args:
        scripts: the training scripts.
        given: what is added to every run.
    """

    def __init__(self, scripts: Scripts, given: Given) -> None:
        self.scripts, self.given = scripts, given
        self._commands: dict[str, tuple[Command, CommandTable]] = {}
        self._known: dict[tuple[str, tuple[str, ...]], tuple[Settings, dict[str, str], dict[str, str]]] = {}

    def plan(self, run: RunOf) -> Planned:
        """A run with its settings. Raises: UserError naming the file and row where a flag is wrong."""
        cell = run.cell
        flags = (*run.flags[:-1], *self.given.flags)  # all but the seed
        settings, identity, defaults = self._resolved(cell, flags)
        dataset = str(settings.values["dataset"])
        words = (*flags, f"--seed={run.seed}")
        folder = settings.values["path_images"]
        if dataset in self.given.folders:
            folder = self.given.folders[dataset]
            words = (*words, f"--path_images={folder}")
        return Planned(
            run=run,
            words=words,
            method=settings.method,
            identity={**identity, "seed": str(run.seed)},
            defaults=defaults,
            dataset=dataset,
            folder_of_data=folder,
            files=tuple(file for name in FILES if (file := settings.values[name]) is not None),
            validates=bool(settings.values["val_frac"]) or settings.values["selection"] == "validation",
            tests_each_epoch=settings.values["test_every"] == 1,
        )

    def _resolved(self, cell: Cell, flags: tuple[str, ...]) -> tuple[Settings, dict[str, str], dict[str, str]]:
        """Settings by flags, with what of them decides the result, and the defaults of that."""
        key = (cell.row.script, flags)
        if key not in self._known:
            _check_flags(flags, cell)
            settings = self._parsed(cell, flags)
            choice = self._command(cell.row.script)[0].choice  # the method, which is compared by itself
            parts = identity_of(settings.values), default_identity(settings.table)
            identity, defaults = ({name: text for name, text in part.items() if name != choice} for part in parts)
            self._known[key] = (settings, identity, defaults)
        return self._known[key]

    def _parsed(self, cell: Cell, flags: tuple[str, ...]) -> Settings:
        """Settings by flags. Raises: UserError with the row."""
        command, table = self._command(cell.row.script)
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # notes; the log of the run has them
                return parse_settings(command, flags, request=Request(table, flags))
        except UserError as error:
            raise UserError(f"{cell.where}: {error}") from None

    def _command(self, script: str) -> tuple[Command, CommandTable]:
        """The settings of a script."""
        if script not in self._commands:
            module = self.scripts[script]()
            command = training_command(script, module.DEFAULTS, method=getattr(module, "METHOD", ""))
            self._commands[script] = (command, command.table())
        return self._commands[script]


def check_tuning(planned: Planned) -> None:
    """Raise UserError where a run of a tuned cell does not leave what a setting is chosen by."""
    cell, tuning = planned.run.cell, planned.run.cell.plan.tuning
    if not cell.is_tuned or tuning is None:
        return
    require(planned.validates, f"{cell.where}: settings are chosen on a validation split; give --val_frac")
    require(
        tuning.epoch == "own" or planned.tests_each_epoch,
        f"{cell.where}: the epoch of the tuning seed is reported, so the test set is scored after each; give "
        "--test_every 1, or `epoch: own` under `tuning:`",
    )


def _check_flags(flags: Sequence[str], cell: Cell) -> None:
    """Raise UserError for a flag that the plan sets itself."""
    for word in flags:
        name = word.split("=")[0].lstrip("-")
        taken = word.startswith("-") and name in RESERVED
        require(not taken, f"{cell.where}: --{name} is set by the plan; leave it out")
