"""The folder of a run: its files, and the checks before a run uses a folder that exists."""

from __future__ import annotations

import csv
import io
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch

from data.datasets.table.config import FOUND, FOUND_IN_TABLE
from engine.core.checkpoint import plain_values, read_state, save_state
from engine.core.launcher import KEY, launcher
from engine.core.run_lock import NAME as LOCK
from engine.core.run_lock import RunLock
from engine.core.run_results import BESIDE, beside, few, read_result, require_parts
from engine.core.settings import Settings
from engine.core.settings_files import read_run_settings
from engine.core.tracking import TrackerName, Tracking
from utils.checks import UserError, require
from utils.console import say
from utils.options import as_words
from utils.safe_files import append_line, drop_half_line, write_text
from utils.types import StateDict

FREE_ON_RESUME = frozenset(
    {
        "output",
        "resume",
        "device",
        "gpus",
        "threads",
        "eval_batch_size",
        "label_memory",
        "num_workers",
        "save_minutes",
        "save_epochs",
        "figures",
        "print_freq",
        "track",
        "cache_dir",
        "check_images",
        "cache",
    }
    # Files that were moved: hashes of labels, features and scores are compared.
    | {"path_images", "path_lists", "label_file", "hierarchy", "features", "prior_scores"}
)
"""Settings that may differ between a run and its continuation: they do not change its result beyond rounding."""


_WRITTEN = (
    *("settings.yaml", "metrics.csv", "best.pth", "state.pth", "previous.pth", "result.json", "labels.npz"),
    *("class_priors.csv", "noise_rates.csv", "curves.png", "tail.png", "examples.png", "cooccurrence.png"),
    *("report.html", "lock", "lock-stale"),
)
_TEMPORARY = re.compile(rf"\.({'|'.join(map(re.escape, _WRITTEN))})\.\d+\.tmp")
"""Names that files have until they are written whole; a kill leaves them."""


class Saved(NamedTuple):
    """A state that a run goes on from."""

    path: Path
    state: StateDict
    note: str = ""
    """Words on why it is not the last one."""


class RunFolder:
    """Paths and writers of one run. Every file is written whole and renamed, `result.json` last of all.

    Args:
        path: the folder.
        epochs: number of epochs that the run shall have; a result of fewer is not its end. None: as many as it has.
        track: the tracker that is told what is written.
    """

    def __init__(self, path: Path, epochs: int | None = None, track: TrackerName = "none") -> None:
        self.path, self.epochs = path, epochs
        self.best = path / "best.pth"
        self.state = path / "last" / "state.pth"
        self.previous = path / "last" / "previous.pth"
        """The state that was saved before `state`, taken where that is damaged."""
        self.log = path / "log.jsonl"
        self.tracking = Tracking(track, path)
        self.lock = RunLock(path)
        self._made = False
        self._keeps_previous = True

    @cached_property
    def result(self) -> dict[str, Any] | None:
        """The result of a finished run."""
        return read_result(self.path) if self._is_finished() else None

    def open(self, resume: bool, settings: Settings, known: frozenset[str]) -> None:
        """Take the folder for a run, unless the run in it is finished, and remove what a kill has left in it.

        Args:
            resume: True if a run in the folder may be continued.
            settings: settings of this run.
            known: names of all settings that a run may have, with any method and head.

        Raises:
            UserError: the folder is in use, cannot be written, or contains something that this run may not touch.
        """
        require(not self.path.exists() or self.path.is_dir(), f"--output {self.path}: is a file")
        if not self._is_finished():
            self._make()
            try:
                self.lock.take(wait=resume)
            except UserError:
                self.close()
                raise
        if self._is_finished():  # be it while this run has waited
            self.lock.release()
            self.lock.drop_if_gone()  # of a run that was killed right behind its end
        try:
            self._check(resume, settings, known)
        except UserError:
            self.close()
            raise

    def close(self) -> None:
        """Give the folder back; one that was made for this run and is empty is removed."""
        self.tracking.close()
        self.lock.release()
        if self._made:
            with suppress(OSError):  # not empty: the run has begun
                self.path.rmdir()

    def _make(self) -> None:
        self._made = not self.path.exists()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--output {self.path}: cannot be written ({error.strerror})") from None

    def _is_finished(self) -> bool:
        return (self.path / "result.json").exists() and not self._is_longer()

    def _is_longer(self) -> bool:
        """True if the run shall have more epochs than its result is of."""
        done = None
        with suppress(UserError):  # said where it is read for what it says
            done = read_result(self.path).get("epochs")
        return self.epochs is not None and isinstance(done, int) and done < self.epochs

    def _check(self, resume: bool, settings: Settings, known: frozenset[str]) -> None:
        """Raise UserError when the folder contains something that this run may not touch."""
        used = any(path.name != LOCK and not _TEMPORARY.fullmatch(path.name) for path in self.path.iterdir())
        require(
            not used or resume, f"--output {self.path}: not empty; add --resume to go on with that run, or name another"
        )
        if used:
            self._check_settings(settings, known)
        if self._is_finished():
            return
        for path in (self.log, self.state.parent):
            require(not path.is_symlink(), f"{path}: is a link, through which no run writes; put what it names there")
        self._clean()
        if resume and not self._has_state():
            gone = f"--resume: {self.path} has a result, but no state to go on from (last/); name another folder"
            require(not (self.path / "result.json").exists(), gone)
            say(f"--resume: nothing saved in {self.path} yet, starting")

    def _has_state(self) -> bool:
        return self.state.exists() or self.previous.exists()

    def _clean(self) -> None:
        """Remove what a kill has left: files not yet whole, and half a line of the log."""
        for path in (*self.path.glob(".*.tmp"), *self.state.parent.glob(".*.tmp")):
            if _TEMPORARY.fullmatch(path.name):
                path.unlink(missing_ok=True)
        drop_half_line(self.log)

    def save(self, state: StateDict) -> None:
        """Save the state of the run; the one saved before is kept beside it.

        Raises: RunError when the folder is not this run's any more or the disk refuses; what was saved stays intact.
        """
        self.lock.require_held()
        with suppress(FileExistsError):
            self.state.parent.mkdir()
        save_state(self.state, state, self.previous if self._keeps_previous else None)
        self._keeps_previous = True

    def saved(self) -> Saved | None:
        """The state to go on from: the last, or the one before where the last is damaged; None where there is none.

        Raises: UserError when no state that was saved can be read.
        """
        if not self._has_state():
            return None
        try:
            return Saved(self.state, read_state(self.state))
        except UserError as error:
            if not self.previous.exists():
                raise
            self._keeps_previous = False  # until there is an intact one after it
            state = read_state(self.previous)
            return Saved(self.previous, state, f"note: {error}; going on from the save before it, {self.previous}")

    def start(self, settings: Settings, info: dict[str, Any]) -> None:
        """Write the settings, and print a summary of the run.

        Args:
            settings: settings of the run.
            info: method, data, labels, device and progress of the run, for the log.
        """
        title = f"{info['method']} on {info['dataset']}"
        write_text(self.path / "settings.yaml", settings.as_yaml(f"{title}; --config reads this"))
        began = launcher()
        self._append({"event": "start", **info, **({} if began is None else {KEY: began})})
        self.tracking.start(settings.values)
        images = info["images"]
        file = info["label_file"] and f" {info['label_file']} ({'made now' if info['label_file_made_now'] else 'read'})"
        say(f"{title}: " + ", ".join(f"{n} {part}" for part, n in images.items() if n))
        say(f"labels: {info['labels']},{file or ' no file'}, seed {info['label_seed']}, hash {info['label_hash'][:12]}")
        say(f"network: {info['network']}")
        if info["sampler"] != "shuffled":
            say(f"sampler: {info['sampler']}")
        say(f"device: {info['device']} x {info['processes']}, {info['precision']}; writing to {self.path}")
        if info["epoch"] > 1 or info["step"] > 0:
            say(f"resuming at epoch {info['epoch']}, after step {info['step']}")

    def log_epoch(self, history: Sequence[Mapping[str, float]], epochs: int) -> None:
        """Write `metrics.csv` (one row per epoch), append to `log.jsonl`, print a line."""
        self.lock.require_held()
        columns = list(dict.fromkeys(name for row in history for name in row))
        table = io.StringIO()
        writer = csv.DictWriter(table, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)
        write_text(self.path / "metrics.csv", table.getvalue())
        row = history[-1]
        self._append({"event": "epoch", **row})
        self.tracking.epoch(history)
        shown = [f"loss {row['loss']:.4f}"]
        shown += [
            f"{part} mAP {100 * row[f'{part}_mAP']:.2f}" for part in ("validation", "test") if f"{part}_mAP" in row
        ]
        say(f"epoch {int(row['epoch'])}/{epochs}  {'  '.join(shown)}  {row['images_per_second']:.0f} images/s")

    def finish(self, result: dict[str, Any]) -> None:
        """Write `result.json`: with it a run counts as finished."""
        self.lock.require_held()
        self._append({"event": "end", "test": result["test"]})
        self.previous.unlink(missing_ok=True)
        write_text(self.path / "result.json", json.dumps(result, indent=2) + "\n")
        self.tracking.end(result)
        self.__dict__["result"] = result

    def summary(self) -> str:
        """Return the result as a few lines of text. Raises: UserError when its file is damaged."""
        assert self.result is not None
        require_parts(self.result, self.path, "selected_epoch", "selection", "epochs", "extra")
        with damage_told(self.path / "result.json"):
            return "\n".join([*_summary_lines(self.result), f"written: {self.path}"])

    def _check_settings(self, settings: Settings, known: frozenset[str]) -> None:
        """Raise UserError if a setting that changes the result differs from the run in the folder."""
        file = self.path / "settings.yaml"
        require(
            file.exists(), f"--resume: {self.path} contains files but no run (no settings.yaml); name another folder"
        )
        before = read_run_settings(file, settings.table, known - settings.table.keys())
        for name, value in settings.with_found(self.found(settings, known), "").values.items():
            if name == "exif":  # of an earlier version, which turned no image
                before, value = {**before, name: before[name] or "ignore"}, value or "ignore"
            longer = name == "epochs" and value > before[name]  # what else must fit is looked at before training
            if name not in FREE_ON_RESUME and before[name] != value and not longer:
                raise UserError(
                    f"--resume: {self.path} was started with --{name} {as_words(before[name])}, now it is "
                    f"{as_words(value)}; give the same settings or another --output"
                )

    def fewer_epochs(self, settings: Settings, known: frozenset[str]) -> int | None:
        """The number of epochs that the run in the folder has begun with; None unless it shall have more.

        Args:
            settings: settings of this run.
            known: names of all settings that a run may have, with any method and head.
        """
        file = self.path / "settings.yaml"
        if self.epochs is None or not file.exists() or not self._has_state():
            return None
        before: int = read_run_settings(file, settings.table, known - settings.table.keys())["epochs"]
        return before if before < self.epochs else None

    @property
    def is_begun(self) -> bool:
        """True if there is a run in the folder, perhaps of an earlier version."""
        return (self.path / "settings.yaml").exists()

    def found(self, settings: Settings, known: frozenset[str]) -> dict[str, Any]:
        """What the run in the folder found in its table, and how it reads images; nothing for a new run.

        Args:
            settings: settings of this run.
            known: names of all settings that a run may have, with any method and head.
        """
        file = self.path / "settings.yaml"
        if not file.exists():
            return {}
        before = read_run_settings(file, settings.table, known - settings.table.keys())
        same = all(before.get(name) == settings.values.get(name) for name in ("table", "test_table"))
        names = FOUND if same else FOUND_IN_TABLE  # what was found of other tables says nothing of these
        return {name: before[name] for name in (*names, "exif") if before.get(name) is not None}

    def _append(self, event: dict[str, Any]) -> None:
        line = json.dumps({"time": time.strftime("%Y-%m-%dT%H:%M:%S"), **plain_values(event)})
        append_line(self.log, line)


@contextmanager
def damage_told(path: Path) -> Iterator[None]:
    """Raise UserError where what a file holds, plain data of any form, does not fit what it is taken for."""
    try:
        yield
    except torch.cuda.OutOfMemoryError:  # a RuntimeError that says nothing of the file
        raise
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        said = (str(error).splitlines() or [""])[0][:160]
        raise UserError(f"{path}: damaged, or of another run ({type(error).__name__}: {said})") from error


def _summary_lines(result: Mapping[str, Any]) -> list[str]:
    """The figures and what is to be known beside them."""
    second = beside(result)
    chosen = f"test, epoch {result['selected_epoch']} ({result['selection']})"
    lines = [f"{chosen}{', network f' if second else ''}: {percentages(result['test'])}"]
    lines += [f"  {BESIDE[name]}: {percentages(metrics)}" for name, metrics in second.items()]
    lines += _other_figures(result)
    for group, metrics in result["extra"].get("groups", {}).items():
        known = {name: value for name, value in metrics.items() if value is not None}
        lines.append(f"  {group}: {percentages(known)}")
    empty = result["extra"].get("classes_without_positives")
    if result.get("epochs_trained", result["epochs"]) < result["epochs"]:
        lines.append(f"stopped early, after {result['epochs_trained']} of {result['epochs']} epochs")
    if empty:
        lines.append(
            f"classes without positives in the test set: {few(empty)} (left out of mAP; 0 in "
            "mAP_all, the mAP of the single-positive papers)"
        )
    if untold := result["extra"].get("classes_without_negatives"):
        lines.append(f"classes that no test image is known to be without: {few(untold)} (left out of mAP)")
    return lines


def _other_figures(result: Mapping[str, Any]) -> list[str]:
    """Lines about figures that are chosen or computed otherwise: on the test set, by the published evaluators."""
    best, lines = result.get("best_on_test"), []
    if best and best["epoch"] != result["selected_epoch"]:
        figures = {name: best[name] for name in result["test"]}
        lines.append(f"chosen on the test set itself, epoch {best['epoch']}: {percentages(figures)}")
    if (published := result.get("published_metrics")) and published["test"]:
        lines.append(f"test by the published evaluators (CSRA, CoNeS): {percentages(published['test'])}")
    if (full := result.get("full_rows")) and full["test"]:
        lines.append(f"test on images without an unknown label: {percentages(full['test'])}")
    return lines


def percentages(metrics: Mapping[str, float]) -> str:
    """All metrics but those of the top k scores of each image, on one line."""
    return "  ".join(f"{name} {100 * value:.2f}" for name, value in metrics.items() if "@" not in name)
