"""`evaluate.py`: the metrics of a checkpoint on a test set."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from data.build import DatasetConfig, load_splits
from data.cache import Cache
from data.loader import LoaderConfig
from data.pictures import without_missing
from data.stores import keep_pictures
from engine.checkpoint import SavedModel, read_model
from engine.distributed import Runtime
from engine.evaluate import Measured, evaluate, groups_as_dict
from engine.result import beside_as_dict
from engine.sections import TRAINING_CONFIGS
from engine.settings import Layer, Setting, Settings, parse_settings, typed_values
from models.peers import Network, Peers
from utils.checks import UserError, require
from utils.console import say
from utils.options import option
from utils.ranking import RANKS, ranking_figures
from utils.safe_files import write_atomically
from utils.types import Annotations, Splits


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """Which checkpoint, and how it is scored."""

    load_from: Path | None = option(None, "checkpoint to score, such as best.pth of a run")
    ensemble: Path | None = option(None, "a second checkpoint, to score it too, and both together")
    seed: int = option(0, "seed of a generated dataset")
    device: Literal["auto", "cpu", "cuda"] = option("auto", "where to compute")
    precision: Literal["fp32", "bf16", "fp16"] = option("fp32", "precision of the forward pass")
    top_k: bool = option(False, "also print recall and precision of each picture's 1, 3 and 5 highest scores")
    json: Path | None = option(None, "also write the figures, class by class, to this file")

    def __post_init__(self) -> None:
        require(self.load_from is not None, "--load_from: name the checkpoint to score")


class Scored(NamedTuple):
    """What a checkpoint reaches on a test set."""

    measured: Measured
    ranking: dict[str, float] | None  # None where few labels of a picture are known, and its ranking says little
    groups: dict[str, float | None]


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
        splits, measured = _measured(saved, settings, runtime)
    finally:
        runtime.close()
    if runtime.is_main:
        test = splits.test
        ranking = None if measured.scores is None else ranking_figures(measured.scores, test.truth.dense())
        scored = Scored(measured, ranking, groups_as_dict(measured.metrics, splits.groups))
        _say(saved, test, scored, settings.values["dataset"], config.top_k)
        if config.json is not None:
            _write(saved, test, scored, settings.values["dataset"], config.json)
    return 0


def _measured(saved: SavedModel, settings: Settings, runtime: Runtime) -> tuple[Splits, Measured]:
    """The dataset, its test set without missing pictures if so wished, and the figures of the model on it.

    The wrapped model is gone when it returns, as `Runtime.close` wants it.
    """
    config: ScoreConfig = settings.sections["scoring"]
    model = runtime.wrap(_networks(saved, config.ensemble))
    splits = load_splits(settings.sections["data"], config.seed, need_images=True)
    _check_classes(saved, splits.test, settings.values["dataset"])
    if settings.values["missing_images"] == "skip":
        splits = splits._replace(test=splits.test.take(without_missing(splits.test, "test")))
    if settings.values["check_images"]:
        splits.test.images.check()
    if config.top_k:
        _require_rankable(splits.test, settings.values["dataset"])
    loader: LoaderConfig = settings.sections["loader"]
    cache, processes = Cache(settings.values["cache_dir"]), runtime.local_world_size
    with runtime.main_first():
        kept = keep_pictures({"test": splits.test}, loader.cache, cache, processes=processes, shown=runtime.is_main)
    workers = loader.workers(beside_gpu=runtime.device.type == "cuda", processes=processes)
    return splits, evaluate(model, kept["test"], loader, runtime, workers)


def _networks(saved: SavedModel, second: Path | None) -> Network:
    """The network of a checkpoint, or with a second one both as peers; of two networks the first is taken."""
    network = saved.build()
    if second is None:
        return network
    other = read_model(second)
    require(
        saved.classes == other.classes,
        f"--ensemble {second}: trained on other classes than {saved.path}; give one that fits",
    )
    return Peers(*(each.f if isinstance(each, Peers) else each for each in (network, other.build())))


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


def _require_rankable(test: Annotations, dataset: str) -> None:
    """Figures of a ranking need truth for most of a picture's labels."""
    require(
        not test.truth.stores_known_only,
        f"--top_k: of a test picture of {dataset} only few labels are known, which says little of its ranking; "
        "leave --top_k out",
    )


def _say(saved: SavedModel, test: Annotations, scored: Scored, dataset: str, top_k: bool) -> None:
    """Print the table."""
    say(f"{saved.path} (epoch {saved.epoch}) on the test set of {dataset}, {len(test)} images")
    metrics, beside = scored.measured.metrics, beside_as_dict(scored.measured)
    if beside:
        say("           " + "".join(f"{name:>9}" for name in ("f", *beside)))
    for name, value in metrics.as_dict().items():
        say(f"  {name:8} {100 * value:6.2f}" + "".join(f"   {100 * other[name]:6.2f}" for other in beside.values()))
    for name, mean in scored.groups.items():
        say(f"  {name:8} " + ("no class judged" if mean is None else f"{100 * mean:6.2f}"))
    if top_k and scored.ranking is not None:
        say("  k           rec    prec     top   of each picture's k highest scores")
        for k in RANKS:
            figures = (100 * scored.ranking[f"{name}@{k}"] for name in ("rec", "prec", "top"))
            say(f"  {k:<7}" + "".join(f"{value:8.2f}" for value in figures))
    empty = [test.classes[k] for k in metrics.classes_without_positives]
    if empty:
        say(f"  classes without positives: {', '.join(empty)} (left out of mAP, 0 in mAP_all)")


def _write(saved: SavedModel, test: Annotations, scored: Scored, dataset: str, file: Path) -> None:
    """Write all figures, class by class, as JSON."""
    metrics = scored.measured.metrics
    average_precision = metrics.per_class.tolist()
    content = {
        "load_from": str(saved.path),
        "dataset": dataset,
        "test": metrics.as_dict(),
        "top_k": scored.ranking,
        "extra": {**scored.groups, **beside_as_dict(scored.measured)},
        "average_precision": {
            name: None if value != value else value for name, value in zip(test.classes, average_precision, strict=True)
        },
    }
    text = json.dumps(content, indent=2) + "\n"
    write_atomically(file, lambda out: out.write(text.encode()))
