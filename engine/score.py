"""`evaluate.py`: the metrics of a checkpoint on a test set."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from data.build import DatasetConfig, load_splits
from data.cache import Cache
from data.loader import LoaderConfig
from data.pictures import without_missing
from data.stores import keep_pictures
from engine.checkpoint import SavedModel, read_model
from engine.distributed import Runtime
from engine.evaluate import evaluate, groups_as_dict
from engine.sections import TRAINING_CONFIGS
from engine.settings import Layer, Setting, parse_settings, typed_values
from utils.checks import UserError, require
from utils.console import say
from utils.metrics import Metrics
from utils.options import option
from utils.safe_files import write_atomically
from utils.types import Annotations


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """Which checkpoint, and how it is scored."""

    load_from: Path | None = option(None, "checkpoint to score, such as best.pth of a run")
    seed: int = option(0, "seed of a generated dataset")
    device: Literal["auto", "cpu", "cuda"] = option("auto", "where to compute")
    precision: Literal["fp32", "bf16", "fp16"] = option("fp32", "precision of the forward pass")
    json: Path | None = option(None, "also write the figures, class by class, to this file")

    def __post_init__(self) -> None:
        require(self.load_from is not None, "--load_from: name the checkpoint to score")


def score_command(argv: Sequence[str] | None = None, *, program: str) -> int:
    """Load a checkpoint, score the test set of its dataset, print the table. Returns the exit code."""
    sections = {"data": DatasetConfig, "loader": LoaderConfig, "scoring": ScoreConfig}
    settings = parse_settings(
        sections, argv, program=program, defaults={}, elsewhere=TRAINING_CONFIGS, recorded=_recorded
    )
    config: ScoreConfig = settings.sections["scoring"]
    assert config.load_from is not None
    saved = read_model(config.load_from)
    runtime = Runtime(config.device, config.precision)
    try:
        model = runtime.wrap(saved.build())
        splits = load_splits(settings.sections["data"], config.seed, need_images=True)
        test = splits.test
        _check_classes(saved, test, settings.values["dataset"])
        if settings.values["missing_images"] == "skip":
            test = test.take(without_missing(test, "test"))
        if settings.values["check_images"]:
            test.images.check()
        loader: LoaderConfig = settings.sections["loader"]
        cache, processes = Cache(settings.values["cache_dir"]), runtime.local_world_size
        with runtime.main_first():
            kept = keep_pictures({"test": test}, loader.cache, cache, processes=processes, shown=runtime.is_main)
        workers = loader.workers(beside_gpu=runtime.device.type == "cuda", processes=processes)
        metrics = evaluate(model, kept["test"], loader, runtime, workers)
    finally:
        runtime.close()
    if runtime.is_main:
        _report(saved, test, metrics, groups_as_dict(metrics, splits.groups), settings.values["dataset"], config.json)
    return 0


def _recorded(first: Mapping[str, Any], table: Mapping[str, Setting]) -> Layer:
    """What the checkpoint says about the data it was trained on; the command line still wins."""
    require(first["load_from"] is not None, "--load_from: name the checkpoint to score")
    saved = read_model(first["load_from"])
    kept = {name: value for name, value in saved.settings.items() if name in table and value is not None}
    for name in ("precision", "device", "label_file", "cache"):  # the training run's business
        kept.pop(name, None)
    text = {name: str(value) for name, value in kept.items()}
    return Layer(str(saved.path), typed_values(text, table, str(saved.path)))


def _check_classes(saved: SavedModel, test: Annotations, dataset: str) -> None:
    """The columns of the scores must be the columns of the truth."""
    if saved.classes != test.classes:
        raise UserError(
            f"{saved.path}: trained on {len(saved.classes)} classes ({', '.join(saved.classes[:3])}, ...), but "
            f"{dataset} has {len(test.classes)} ({', '.join(test.classes[:3])}, ...); give the --dataset it is for"
        )


def _report(
    saved: SavedModel,
    test: Annotations,
    metrics: Metrics,
    groups: Mapping[str, float | None],
    dataset: str,
    file: Path | None,
) -> None:
    figures = metrics.as_dict()
    say(f"{saved.path} (epoch {saved.epoch}) on the test set of {dataset}, {len(test)} images")
    for name, value in figures.items():
        say(f"  {name:8} {100 * value:6.2f}")
    for name, mean in groups.items():
        say(f"  {name:8} " + ("no class judged" if mean is None else f"{100 * mean:6.2f}"))
    empty = [test.classes[k] for k in metrics.classes_without_positives]
    if empty:
        say(f"  classes without positives: {', '.join(empty)} (left out of mAP, 0 in mAP_all)")
    if file is not None:
        per_class = {
            name: None if value != value else value
            for name, value in zip(test.classes, metrics.per_class.tolist(), strict=True)
        }
        content = {"load_from": str(saved.path), "dataset": dataset, "test": figures, "extra": dict(groups)}
        content["average_precision"] = per_class
        text = json.dumps(content, indent=2) + "\n"
        write_atomically(file, lambda out: out.write(text.encode()))
