"""The information that a run starts with, and the content of its `result.json`."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torchvision

from data.build import Data, DatasetConfig
from data.loading.loader import LoaderConfig
from engine.core.class_figures import class_figures
from engine.core.distributed import Runtime
from engine.core.scoring import (
    EvalResult,
    MetricsBy,
    beside_as_dict,
    full_row_metrics,
    group_figures_as_dict,
    groups_as_dict,
    published_metrics,
)
from engine.core.settings import Settings
from engine.training.config import RunConfig
from engine.training.features import FeatureConfig
from engine.training.loop import TrainState
from models.backbones.build import weights_name
from models.backbones.given import given_shape
from models.build import ModelConfig
from utils.metrics import Metrics
from utils.types import LabelTable


class FinalResults(NamedTuple):
    """The results of a run at its end."""

    chosen: EvalResult  # the selected epoch on the test set
    last: EvalResult  # the last epoch there
    validation: EvalResult | None  # the selected epoch on the validation split
    calibration: dict[str, float]  # of the selected epoch on the test set


def run_info(settings: Settings, data: Data, runtime: Runtime, state: TrainState) -> dict[str, Any]:
    """The subject of a run, for the console and the log."""
    config, labels = settings.of(RunConfig), data.labels
    return {
        "method": settings.method,
        "dataset": settings.of(DatasetConfig).dataset,
        "images": {"train": len(data.train), "validation": len(data.validation or ()), "test": len(data.test)},
        "labels": data.regime.describe(),
        "label_file": labels.path and str(labels.path),
        "label_file_made_now": labels.made,
        "label_seed": data.regime.seed,
        "label_hash": labels.label_hash,
        "data": data.hashes(),
        "network": network_text(
            settings.of(ModelConfig), settings.of(LoaderConfig), settings.of(FeatureConfig).features
        ),
        "train_mode": config.train_mode,
        "sampler": sampler_text(settings.of(LoaderConfig)),
        "device": str(runtime.device),
        "processes": runtime.world_size,
        "precision": config.precision,
        "epoch": state.epoch,
        "step": state.step,
    }


def network_text(model: ModelConfig, loader: LoaderConfig, features: Path | None = None) -> str:
    """The network, what it starts from and what it sees, in words, for the console and the log."""
    if shape := given_shape(model.model):
        return f"head {model.head} on {features}, {' x '.join(map(str, shape))} for each image"
    start = weights_name(model.model, model.weights)
    pixels = f"{loader.img_size} x {loader.img_size} pixels ({loader.normalize})"
    return f"{model.model}, head {model.head}, weights {start}, {pixels}"


def sampler_text(config: LoaderConfig) -> str:
    """The order of training in words, and the labels that decide it, for the console and the log."""
    if config.sampler == "shuffled":
        return "shuffled"
    if config.sampler == "semi":
        return f"semi, {config.labelled_per_batch} labelled images in each batch of {config.batch_size}"
    whose = {"observed": "the observed labels", "clean": "the CLEAN labels, which partial labels do not show"}
    return f"class-aware by {whose[config.sampler_labels]}"


def result(settings: Settings, data: Data, selection: str, state: TrainState, results: FinalResults) -> dict[str, Any]:
    """The content of `result.json` of a run that has come to its end."""
    regime, classes, config = data.regime, data.test.classes, settings.of(RunConfig)
    chosen = results.chosen.metrics
    return {
        "method": settings.method,
        "variant": getattr(settings.method_config, "variant", None),
        "dataset": settings.of(DatasetConfig).dataset,
        "labels": regime.name,
        "rate": regime.rate,
        "seed": config.seed,
        "train_seed": config.training_seed,
        "epochs": config.epochs,
        "epochs_trained": state.trained,
        "train_mode": config.train_mode,
        "selection": selection,
        "selected_epoch": state.best_epoch,
        "test": chosen.as_dict(),
        "last": results.last.metrics.as_dict(),
        "validation": None if results.validation is None else results.validation.metrics.as_dict(),
        "calibration": results.calibration,
        "per_class": class_figures(results.chosen, data.test.truth).as_dicts(classes),
        "best_on_test": best_on_test(state, results),
        "extra": {
            **_grouped(chosen, data),
            **({"last": _grouped(results.last.metrics, data)} if data.groups else {}),
            **beside_as_dict(results.chosen),
            "classes_without_positives": [classes[k] for k in chosen.classes_without_positives],
            "classes_without_negatives": [classes[k] for k in chosen.classes_without_negatives],
        },
        "images_per_second": state.speed,
        "label_hash": data.labels.label_hash,
        "data": data.hashes(),
        "versions": versions(),
    }


def best_on_test(state: TrainState, results: FinalResults) -> dict[str, Any]:
    """The epoch with the highest test mAP of those that were scored, and its figures: chosen on the test set.

    Papers whose code tests after each epoch and selects none may report it; as a figure of a test it is too high.
    """
    scored = {
        int(row["epoch"]): {name: row[f"test_{name}"] for name in results.last.metrics.as_dict()}
        for row in state.history
        if "test_mAP" in row
    }
    scored |= {state.trained: results.last.metrics.as_dict(), state.best_epoch: results.chosen.metrics.as_dict()}
    epoch = max(sorted(scored), key=lambda one: scored[one]["mAP"])  # of equal ones the first
    return {"chosen_on": "the test set", "epoch": epoch, "epochs_scored": len(scored), **scored[epoch]}


def other_figures(results: FinalResults, truth: LabelTable, by: MetricsBy) -> dict[str, Any]:
    """Test figures of the selected and of the last epoch by other definitions; None for sparse truth.

    They are under `published_metrics` if by the published evaluators, under `full_rows` if of images without unknown
    labels, and none otherwise.
    """
    if by == "ours":
        return {}
    name, compute = ("published_metrics", published_metrics) if by == "published" else ("full_rows", full_row_metrics)
    return {name: {"test": compute(results.chosen, truth), "last": compute(results.last, truth)}}


def _grouped(metrics: Metrics, data: Data) -> dict[str, Any]:
    """The mAP of each group of classes by its name and, under `groups`, all figures of each and of all classes."""
    figures = {"groups": group_figures_as_dict(metrics, data.groups)} if data.groups else {}
    return {**groups_as_dict(metrics, data.groups), **figures}


def versions() -> dict[str, str]:
    """The versions a result depends on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "numpy": np.__version__,
    }
