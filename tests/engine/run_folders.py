"""Run folders as training leaves them, without training."""

import csv
import json
from typing import NamedTuple

import numpy as np
import pytest
import torch

from data.build import DatasetConfig, build_data
from data.labels.regime import Regime
from data.loading.transforms import eval_transform, normalizer
from data.subsets.splits import TrainingSplitConfig
from engine.analysis.command import analyse_command
from engine.core.checkpoint import save_model
from engine.core.settings import parse_settings
from engine.core.usage import check_subcommand
from engine.training.config import RunConfig, run_command
from engine.training.recorder import LABELS_FILE
from models.build import architecture_from, build_model
from utils.checks import UserError
from utils.types import UNKNOWN

SMALL = ("--model", "scenenet", "--weights", "none", "--img_size", "32", "--batch_size", "5")


class Folder(NamedTuple):
    """A run folder, the data of the run, and its network."""

    path: object
    data: object
    network: object


def settings_of(method, words):
    """The settings of a run of a method."""
    return parse_settings(run_command(method), [str(word) for word in words])


def log_folder(path, method, history, words=(), arrays=None, **result):
    """A run that is known by its log and by the arrays it recorded."""
    settings = settings_of(method, words)
    path.mkdir(parents=True)
    (path / "settings.yaml").write_text(settings.as_yaml("of a test"))
    (path / "result.json").write_text(json.dumps({"method": method, "test": {}, **result}))
    columns = list(dict.fromkeys(name for row in history for name in row))
    with (path / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(history)
    if arrays is not None:
        np.savez_compressed(path / LABELS_FILE, **arrays)
    return path


def model_folder(path, method, words, arrays=None, seed=0):
    """A run with a network of random weights as its best, on the data that its settings give."""
    settings = settings_of(method, words)
    configs = (settings.of(config) for config in (DatasetConfig, Regime, TrainingSplitConfig))
    data = build_data(*configs, settings.of(RunConfig).seed)
    network = build_model(architecture_from(settings.values), len(data.train.classes), seed)
    made = arrays(data) if arrays is not None else None
    log_folder(path, method, [{"epoch": 1, "loss": 1.0}], words, made, label_hash=data.labels.label_hash)
    save_model(path / "best.pth", network, data.train.classes, dict(settings.values), 1)
    return Folder(path, data, network.eval())


def modified_arrays(data):
    """Epochs of first modification as a method could have left them."""
    rng = np.random.default_rng(1)
    shape = (len(data.train), len(data.train.classes))
    unknown = data.observed.dense() == UNKNOWN
    return {"first_modified": (unknown * (rng.random(shape) < 0.2) * rng.integers(2, 6, shape)).astype(np.uint8)}


def seen_by_hand(folder, annotations, row):
    """Output of the network of a run for one image: logits, features and maps."""
    with torch.no_grad():
        image = normalizer("unit")(eval_transform("none", 32)(annotations.images.open(row))[None])
        return folder.network(image, want=frozenset({"cam"}))


def analyse(*words, scripts=None):
    """Run `analyse.py` without its script."""
    argv = [str(word) for word in words]
    check_subcommand("analyse.py", argv)
    return analyse_command(argv, scripts=scripts or {})


def refused(*words, **how):
    """The one line with which it refuses."""
    with pytest.raises(UserError) as caught:
        analyse(*words, **how)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def table(path):
    """The rows of a CSV file."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
