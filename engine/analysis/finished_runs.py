"""Finished runs, read back for an analysis, and the files that an analysis writes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from engine.core.checkpoint import SEES_NO_IMAGE, SavedModel, read_model
from engine.core.run_results import read_history, read_result
from engine.training.config import recorded_settings
from engine.training.recorder import LABELS_FILE
from losses import CRITERIA
from models.backbones.given import given_shape
from models.peers import Network
from utils.checks import UserError, require
from utils.csv_cells import csv_text
from utils.options import option
from utils.safe_files import make_folder, write_text
from utils.types import Annotations

Config = TypeVar("Config")


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """The folder where an analysis writes its files."""

    output: Path | None = option(None, "folder of the figure and the table (default: that of the first run)")


class ReportFiles(NamedTuple):
    """Paths of the figure and the table that an analysis writes."""

    figure: Path
    table: Path


@dataclass(frozen=True)
class FinishedRun:
    """A finished run, read from its folder."""

    path: Path
    method: str
    result: dict[str, Any]
    history: list[dict[str, float]]  # one row per epoch, without empty cells
    settings: Mapping[str, Any]  # typed; `config` selects those of a config class

    @property
    def label(self) -> str:
        """Name in a figure: the method, or its scheme if the method has several."""
        return str(getattr(self.method_config, "mod_scheme", self.method))

    @property
    def method_config(self) -> Any:
        """Settings of the method."""
        return self.config(CRITERIA[self.method].config)

    def config(self, kind: type[Config], **changes: Any) -> Config:
        """Return the settings of a config class, with `changes`; those that are None change nothing."""
        names = kind.__dataclass_fields__  # type: ignore[attr-defined]
        given = {name: value for name, value in changes.items() if value is not None}
        return kind(**{name: self.settings[name] for name in names} | given)

    @property
    def sees_images(self) -> bool:
        """False if the run was trained on features from a file, without a backbone."""
        return given_shape(str(self.settings["model"])) is None

    def require_images(self) -> None:
        """Raise UserError if the run has no backbone and so sees no image."""
        require(self.sees_images, f"{self.path}: {SEES_NO_IMAGE}")

    def saved(self) -> SavedModel:
        """Read the checkpoint of the selected epoch. Raises: UserError when it is missing or damaged."""
        return read_model(self.path / "best.pth")

    def model(self, annotations: Annotations) -> Network:
        """Build the network of the selected epoch. Raises: UserError when it is missing or has other classes."""
        return built_for(self.saved(), annotations)

    def column(self, name: str) -> list[tuple[float, float]]:
        """Pairs (epoch, value) of a column of the log, without the epochs that have no value."""
        return [(row["epoch"], row[name]) for row in self.history if name in row]

    def recorded(self, name: str, record: str) -> NDArray[Any]:
        """Read an array (N, C) that the run recorded of its labels, rows in training order.

        Args:
            name: the array.
            record: the value of `--record` under which it is written.

        Raises:
            UserError: the array was not recorded, or the file is damaged.
        """
        file = self.path / LABELS_FILE
        advice = f"train it with --record {record} (or all)"
        try:
            with np.load(file, allow_pickle=False) as archive:
                array: NDArray[Any] | bytes | None = archive[name] if name in archive.files else None
        except FileNotFoundError:
            raise UserError(f"{self.path}: nothing was recorded of its labels (no {file.name}); {advice}") from None
        except Exception as error:  # zipfile and numpy raise nearly any on a damaged archive
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"{file}: not readable ({reason}); {advice}") from None
        require(array is not None, f"{file}: has no {name}; {advice}")
        if not isinstance(array, np.ndarray):
            raise UserError(f"{file}: damaged: {name} is no array; {advice}")
        return array


def read_run(path: Path) -> FinishedRun:
    """Read the folder of a run. Raises: UserError when the run is not finished, or a file is damaged."""
    result = read_result(path)
    method = result.get("method")
    if not isinstance(method, str) or method not in CRITERIA:
        raise UserError(f"{path / 'result.json'}: is of no method known here; name the folder of a training run")
    return FinishedRun(path, method, result, _history(path), recorded_settings(path, method)[1])


def _history(path: Path) -> list[dict[str, float]]:
    """Read the log of a run, one row per epoch. Raises: UserError."""
    history = read_history(path)
    sound = bool(history) and all(math.isfinite(row.get("epoch", math.nan)) for row in history)
    require(sound, f"{path / 'metrics.csv'}: not readable (no rows, or one without its epoch)")
    return history


def built_for(saved: SavedModel, annotations: Annotations) -> Network:
    """Build the network of a checkpoint. Raises: UserError when its classes are not those of `annotations`."""
    require(
        saved.classes == annotations.classes,
        f"{saved.path}: trained on {len(saved.classes)} classes, but its dataset now has "
        f"{len(annotations.classes)} or others; give the dataset it was trained on",
    )
    return saved.build()


def run_paths(words: Sequence[str]) -> list[Path]:
    """Folders that a command line names, each once."""
    return list(dict.fromkeys(Path(word).expanduser() for word in words))


def run_labels(runs: Sequence[FinishedRun]) -> list[str]:
    """Name of each run in one figure: its label, with its folder if two runs share a label."""
    labels = [run.label for run in runs]
    folders = [run.path.name for run in runs]
    names = folders if len(set(folders)) == len(runs) else [str(run.path) for run in runs]
    return [
        label if labels.count(label) == 1 else f"{label} ({folder})"
        for label, folder in zip(labels, names, strict=True)
    ]


def make_report(folder: Path, name: str) -> ReportFiles:
    """Make the folder of an analysis; return the paths of its files. Raises: UserError when it cannot be made."""
    make_folder(folder, "--output")
    return ReportFiles(folder / f"{name}.png", folder / f"{name}.csv")


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as CSV, atomically, with the columns of the first; NaN and None become empty cells."""
    columns = list(rows[0])
    text = csv_text([columns, *([row.get(name) for name in columns] for row in rows)])
    write_text(path, text, errors="surrogateescape")
