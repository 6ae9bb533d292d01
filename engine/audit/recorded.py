"""The dataset of a training run, and the probabilities that it recorded of its labels (`--record scores`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.build import Data, DatasetConfig
from data.images.reading import READING
from data.labels.regime import Regime
from data.subsets.splits import TrainingSplitConfig
from engine.audit.config import AuditConfig
from engine.core.run_results import read_result
from engine.core.settings import Settings
from engine.training.config import recorded_settings
from engine.training.recorder import LABELS_FILE
from losses import CRITERIA
from utils.checks import UserError, require

_ADVICE = "train it with --record scores"


def with_run(settings: Settings) -> Settings:
    """The settings of an audit with the dataset of the run that it names, if it names one.

    Raises: UserError when the run is not finished or cannot be read, or another dataset is asked for beside it.
    """
    run = settings.of(AuditConfig).run
    if run is None:
        return settings
    names = [field.name for config in (DatasetConfig, Regime) for field in fields(config)]
    typed = [f"--{name}" for name in names if settings.is_typed(name) and name not in _MAY_DIFFER]
    require(not typed, f"{', '.join(typed)}: --run {run} says what its dataset is; leave the flag out")
    audited = settings.of(AuditConfig).audited
    require(audited != "all", f"--audited all: --run {run} recorded its training set alone; leave the flag out")
    values = _settings_of(run)
    kept = {name: values[name] for name in names if not settings.is_typed(name)}
    return settings.with_values(kept, f"--run {run}")


_MAY_DIFFER = frozenset({"path_images", "cache_dir", *READING})
"""Settings of a dataset that may be others than in training: folders that were moved, and how images are shown."""


class TrainingRows(NamedTuple):
    """The rows that a run has learned from, as `build_data` is told of them."""

    split: TrainingSplitConfig
    seed: int


def rows_of_run(run: Path) -> TrainingRows:
    """The rows of a run. Raises: UserError as `with_run` does."""
    values = _settings_of(run)
    split = TrainingSplitConfig(**{field.name: values[field.name] for field in fields(TrainingSplitConfig)})
    return TrainingRows(split, values["seed"])


def recorded_scores(run: Path, data: Data) -> NDArray[np.float32]:
    """(N, C) mean probability of each label in training.

    Raises: UserError when nothing was recorded, the file is damaged, or the labels are not those of the run.
    """
    require(
        read_result(run).get("label_hash") == data.labels.label_hash,
        f"{run}: was trained on other labels than its settings now give; put back the dataset and the label file",
    )
    file, shape = run / LABELS_FILE, (len(data.train), len(data.train.classes))
    try:
        with np.load(file, allow_pickle=False) as archive:
            found: NDArray[np.float32] | None = archive["mean_score"] if "mean_score" in archive.files else None
    except FileNotFoundError:
        raise UserError(f"{run}: nothing was recorded of its labels (no {file.name}); {_ADVICE}") from None
    except Exception as error:  # zipfile and numpy raise nearly any on a damaged archive
        raise UserError(f"{file}: not readable; {_ADVICE} again") from error
    if found is None:
        raise UserError(f"{file}: has no mean_score; {_ADVICE}")
    sound = found.dtype == np.float32 and found.shape == shape and bool(((found >= 0) & (found <= 1)).all())
    require(
        sound, f"{file}: mean_score is not {shape[0]} x {shape[1]} probabilities of all its images; {_ADVICE} again"
    )
    return found


def _settings_of(run: Path) -> Mapping[str, Any]:
    """All settings of a finished run. Raises: UserError."""
    method = read_result(run).get("method")
    if not isinstance(method, str) or method not in CRITERIA:
        raise UserError(f"{run / 'result.json'}: is of no method known here; name the folder of a training run")
    return recorded_settings(run, method)[1]
