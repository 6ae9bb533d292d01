"""What trackers are told of a run, by way of Accelerate: settings, figures of each epoch, pictures.

Nothing of a tracker is imported unless one is asked for, and none can stop a run: the first failure is told, and the
run goes on without it.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from utils.checks import UserError
from utils.console import warn
from utils.options import option

TrackerName = Literal["none", "tensorboard", "wandb", "mlflow"]

PROJECT = "partial-truth"
"""Project of wandb, and experiment of MLflow unless MLFLOW_EXPERIMENT_NAME says another, in which the runs are."""


_WITHOUT_SIGNS = re.compile(r"[^\w./ -]")


@dataclass(frozen=True, kw_only=True)
class TrackConfig:
    """Where the figures of a run are sent besides its folder."""

    track: TrackerName = option(
        "none", "also send settings, the figures of each epoch and the pictures to this tracker, which pip installs"
    )


def require_tracker(name: TrackerName) -> TrackerName:
    """Import the package of a tracker, and return its name.

    Raises: UserError with the command that installs it where that fails.
    """
    if name == "none":
        return name
    try:
        importlib.import_module(name)
    except Exception as error:  # whatever its import does
        missing = isinstance(error, ModuleNotFoundError) and error.name == name
        why = "is not installed" if missing else f"cannot be imported ({_first_line(error)})"
        raise UserError(f"--track {name}: {name} {why}; pip install {name}, or leave --track out") from error
    return name


class Tracking:
    """The tracker of one run; with the name `none`, or after a failure, every call does nothing.

    Args:
        name: of the tracker.
        folder: the folder of the run, whose name the run has there.
    """

    def __init__(self, name: TrackerName, folder: Path) -> None:
        self.name, self.folder = name, folder
        self._tracker: Any = None
        self._sent = 0  # epochs

    def start(self, settings: Mapping[str, Any]) -> None:
        """Begin, with the settings of the run."""
        if self.name != "none":
            self._try(lambda: self._start(settings))

    def epoch(self, history: Sequence[Mapping[str, float]]) -> None:
        """Send the rows of the log that were not sent: of a run that has been resumed all, so that curves are whole."""
        if self._tracker is not None:
            self._try(lambda: self._send(history))

    def end(self, result: Mapping[str, Any]) -> None:
        """Send the figures of the selected epoch on the test set, and the pictures in the folder."""
        if self._tracker is not None:
            self._try(lambda: self._send_end(result))

    def close(self) -> None:
        """End the run there, be it finished here or not."""
        tracker, self._tracker = self._tracker, None
        if tracker is not None:
            self._try(tracker.finish)

    def _try(self, action: Callable[[], Any]) -> None:
        try:
            action()
        except Exception as error:  # no network, no login, a full disk: whatever a tracker meets
            self._tracker, self.name = None, self._given_up(error)

    def _given_up(self, error: Exception) -> TrackerName:
        warn(f"--track {self.name}: {_first_line(error)}; the run goes on without it")
        return "none"

    def _start(self, settings: Mapping[str, Any]) -> None:
        tracker = _new_tracker(self.name, self.folder)
        getattr(tracker, "start", lambda: None)()  # earlier versions of Accelerate start by themselves
        self._tracker = tracker
        tracker.store_init_configuration({name: _plain(value) for name, value in settings.items()})

    def _send(self, history: Sequence[Mapping[str, float]]) -> None:
        for row in history[self._sent :]:
            self._log({name: value for name, value in row.items() if name != "epoch"}, int(row["epoch"]))
        self._sent = len(history)

    def _log(self, figures: Mapping[str, float], step: int) -> None:
        """Send figures by their names; MLflow refuses names with most signs, such as CP@3."""
        named = {_WITHOUT_SIGNS.sub("_", name.replace("@", "_at_")): value for name, value in figures.items()}
        self._tracker.log(named if self.name == "mlflow" else dict(figures), step=step)

    def _send_end(self, result: Mapping[str, Any]) -> None:
        figures = {f"selected_test_{name}": value for name, value in result["test"].items()}
        self._log({**figures, "selected_epoch": result["selected_epoch"]}, self._sent)
        for path in sorted(self.folder.glob("*.png")):
            _send_picture(self._tracker, self.name, path, self._sent)


def _new_tracker(name: TrackerName, folder: Path) -> Any:
    """A tracker of Accelerate that has not begun, or, of an earlier version, has."""
    from accelerate import tracking  # it looks for all trackers that are installed

    if name == "tensorboard":
        return tracking.TensorBoardTracker("", logging_dir=str(folder / "tensorboard"))
    if name == "wandb":
        return tracking.WandBTracker(PROJECT, name=folder.name, dir=str(folder))
    return tracking.MLflowTracker(experiment_name=PROJECT, run_name=folder.name)


def _send_picture(tracker: Any, name: TrackerName, path: Path, step: int) -> None:
    """Send one picture of the folder, under its name without suffix."""
    if name == "mlflow":
        importlib.import_module("mlflow").log_artifact(str(path))
        return
    with Image.open(path) as file:
        image = file.convert("RGB")
    if name == "wandb":
        tracker.log_images({path.stem: [image]}, step=step)
    else:
        tracker.log_images({path.stem: np.asarray(image)[None]}, step=step, dataformats="NHWC")


def _plain(value: Any) -> bool | int | float | str:
    """A setting as trackers take it."""
    return value if isinstance(value, bool | int | float | str) else "" if value is None else str(value)


def _first_line(error: Exception) -> str:
    """The kind of an error and the first line of what it says."""
    said = (str(error).strip().splitlines() or [""])[0][:160]
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
