"""`evaluate.py`: the metrics of a checkpoint on a test set."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from data.build import DatasetConfig, load_splits
from data.files.cache import Cache
from data.images.caching import keep_images
from data.loading.loader import LoaderConfig
from data.subsets.overlap import without_missing
from engine.core.checkpoint import SavedModel, read_model, save_safetensors
from engine.core.distributed import Runtime
from engine.core.manifest import Published, load_manifest
from engine.core.scoring import EvalResult, beside_as_dict, evaluate, groups_as_dict
from engine.core.settings import Setting, Settings, SettingsLayer, parse_settings, typed_values
from engine.evaluation.class_order import check_classes, said_of_order
from engine.training.config import TRAINING_CONFIGS
from models.peers import Network, Peers
from models.released import FAMILIES
from models.released.contents import HeadOverrides
from utils.checks import require
from utils.console import say, warn
from utils.options import option
from utils.ranking import RANKS, ranking_figures
from utils.safe_files import write_atomically
from utils.types import Annotations, Splits


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """Which checkpoint, and how it is scored."""

    load_from: Path | None = option(None, "checkpoint to score: best.pth of a run, or one that a paper released")
    paper: str | None = option(None, "print what a paper reports beside: a name in configs/released.yaml")
    save_as: Path | None = option(None, "also write the checkpoint to this .safetensors file, which --load_from reads")
    lam: float | None = option(None, "released CSRA: weight of its attention, which the file does not say")
    num_heads: int | None = option(None, "released CSRA: attention heads; only checked against the file")
    nheads: int | None = option(None, "released Query2Label: attention heads, which the file does not say")
    boostlu: float | None = option(None, "released BoostLU: its alpha, where the file does not say it (1: none)")
    ensemble: Path | None = option(None, "a second checkpoint, to score it too, and both together")
    seed: int = option(0, "seed of a generated dataset")
    device: Literal["auto", "cpu", "cuda"] = option("auto", "where to compute")
    precision: Literal["fp32", "bf16", "fp16"] = option("fp32", "precision of the forward pass")
    top_k: bool = option(False, "also print recall and precision of each picture's 1, 3 and 5 highest scores")
    json: Path | None = option(None, "also write the figures, class by class, to this file")

    def __post_init__(self) -> None:
        require(self.load_from is not None, "--load_from: name the checkpoint to score")
        require(
            self.save_as is None or self.save_as.suffix == ".safetensors",
            f"--save_as {self.save_as}: name it .safetensors, the suffix says how to read it",
        )


class Scored(NamedTuple):
    """What a checkpoint reaches on a test set."""

    measured: EvalResult
    ranking: dict[str, float] | None  # None where few labels of a picture are known, and its ranking says little
    groups: dict[str, float | None]


class _Reader:
    """Reads the checkpoint once, as soon as it is known which, for what it says of its pictures counts as a setting."""

    saved: SavedModel

    def recorded(self, first: Mapping[str, Any], table: Mapping[str, Setting]) -> SettingsLayer:
        """What the checkpoint says about the data it was trained on; the command line still wins."""
        require(first["load_from"] is not None, "--load_from: name the checkpoint to score")
        dataset = None if first["dataset"] == table["dataset"].default else first["dataset"]
        told = HeadOverrides(**{name: first[name] for name in HeadOverrides._fields})
        self.saved = saved = read_model(first["load_from"], told, first["paper"], dataset)
        kept = {name: value for name, value in saved.settings.items() if name in table and value is not None}
        for name in (*_NOT_THE_DATA, *HeadOverrides._fields):
            kept.pop(name, None)
        text = {name: str(value) for name, value in kept.items()}
        return SettingsLayer(str(saved.path), typed_values(text, table, str(saved.path)))


_NOT_THE_DATA = ("precision", "device", "label_file", "cache")
"""Settings that are the training run's business."""


def score_command(argv: Sequence[str] | None = None, *, program: str) -> int:
    """Load a checkpoint, score the test set of its dataset, print the table. Returns the exit code."""
    sections = {"data": DatasetConfig, "loader": LoaderConfig, "scoring": ScoreConfig}
    reader = _Reader()
    settings = parse_settings(
        sections, argv, program=program, defaults={}, elsewhere=TRAINING_CONFIGS, recorded=reader.recorded
    )
    config: ScoreConfig = settings.sections["scoring"]
    saved = reader.saved
    published = _published(saved, settings)
    runtime = Runtime(config.device, config.precision)
    try:
        if config.save_as is not None and runtime.is_main:
            _convert(saved, settings, config.save_as)
        if config.save_as is not None and not _dataset_known(settings):
            return 0
        splits, measured = _measured(saved, settings, runtime)
    finally:
        runtime.close()
    if runtime.is_main:
        test = splits.test
        ranking = None if measured.scores is None else ranking_figures(measured.scores, test.truth.dense())
        scored = Scored(measured, ranking, groups_as_dict(measured.metrics, splits.groups))
        _say(saved, test, scored, settings.values["dataset"], config.top_k, published)
        if config.json is not None:
            _write(saved, test, scored, settings.values["dataset"], config.json, published)
    return 0


def _dataset_known(settings: Settings) -> bool:
    """Whether somebody said the dataset: the command line, a settings file or the checkpoint."""
    return settings.origins["dataset"] != "default"


def _published(saved: SavedModel, settings: Settings) -> Published | None:
    """What is reported for the checkpoint, and checks of what was said of it."""
    config: ScoreConfig = settings.sections["scoring"]
    given = [name for name in HeadOverrides._fields if settings.origins[name] == "command line"]
    require(
        saved.released is not None or not given,
        f"--{', --'.join(given)}: {saved.path} is a checkpoint of this project and says all of its network itself; "
        "leave it out",
    )
    require(
        bool(saved.classes and saved.released is None) or config.save_as is not None or _dataset_known(settings),
        f"{saved.path}: does not say which dataset it is for ({_kind(saved)}); give --dataset",
    )
    entry = load_manifest().named(config.paper) if config.paper is not None else saved.published
    dataset = settings.values["dataset"]
    require(
        entry is None or config.paper is None or entry.dataset == dataset,
        f"--paper {config.paper}: reports {entry and entry.dataset}, not {dataset}; choose another, or its --dataset",
    )
    return entry if entry is not None and entry.dataset == dataset else None


def _say_notes(saved: SavedModel) -> None:
    """Say what was assumed of a released file and what was left out, a line each."""
    for note in saved.notes:
        say(f"{saved.path}: {note}")
    if saved.released is not None and saved.released.dropped:
        say(f"{saved.path}: {len(saved.released.dropped)} tensors that never run are left out")


def _remark(saved: SavedModel, settings: Settings) -> None:
    """Say what was assumed, and warn in one line where pictures are prepared in another way than in training."""
    _say_notes(saved)
    differ = [name for name in ("img_size", "normalize") if name in saved.settings]
    differ = [name for name in differ if str(saved.settings[name]) != str(settings.values[name])]
    if differ:
        trained = ", ".join(f"{name} {saved.settings[name]}" for name in differ)
        given = ", ".join(f"--{name} {settings.values[name]}" for name in differ)
        warn(f"warning: {given}: {saved.path} was trained with {trained}; figures will differ")


def _convert(saved: SavedModel, settings: Settings, file: Path) -> None:
    """Write the checkpoint as safetensors; of a released one with the classes of the dataset where that is known."""
    classes, more = saved.classes, {}
    if not classes and _dataset_known(settings):
        data: DatasetConfig = settings.sections["data"]
        test = load_splits(data, settings.sections["scoring"].seed, need_images=False).test
        check_classes(saved, test, data.dataset)
        classes, more = test.classes, {"dataset": data.dataset}
    save_safetensors(file, saved, classes, more)
    if not _dataset_known(settings):  # else it is said beside the figures
        _say_notes(saved)
    say(f"{file}: {saved.path} with {saved.num_classes} classes{'' if classes else ', names not known'}")


def _measured(saved: SavedModel, settings: Settings, runtime: Runtime) -> tuple[Splits, EvalResult]:
    """The dataset, its test set without missing pictures if so wished, and the figures of the model on it.

    The wrapped model is gone when it returns, as `Runtime.close` wants it.
    """
    config: ScoreConfig = settings.sections["scoring"]
    model = runtime.wrap(_networks(saved, config.ensemble))
    splits = load_splits(settings.sections["data"], config.seed, need_images=True)
    check_classes(saved, splits.test, settings.values["dataset"])
    if settings.values["missing_images"] == "skip":
        splits = splits._replace(test=splits.test.take(without_missing(splits.test, "test")))
    if settings.values["check_images"]:
        splits.test.images.check()
    if config.top_k:
        _require_rankable(splits.test, settings.values["dataset"])
    if runtime.is_main:
        _remark(saved, settings)
    loader: LoaderConfig = settings.sections["loader"]
    cache, processes = Cache(settings.values["cache_dir"]), runtime.local_world_size
    with runtime.main_first():
        kept = keep_images({"test": splits.test}, loader.cache, cache, processes=processes, shown=runtime.is_main)
    workers = loader.workers(beside_gpu=runtime.device.type == "cuda", processes=processes)
    return splits, evaluate(model, kept["test"], loader, runtime, workers)


def _networks(saved: SavedModel, second: Path | None) -> Network:
    """The network of a checkpoint, or with a second one both as peers; of two networks the first is taken."""
    network = saved.build()
    if second is None:
        return network
    other = read_model(second)
    require(
        saved.num_classes == other.num_classes
        and (saved.classes == other.classes or () in (saved.classes, other.classes)),
        f"--ensemble {second}: trained on other classes than {saved.path}; give one that fits",
    )
    return Peers(*(each.f if isinstance(each, Peers) else each for each in (network, other.build())))


def _require_rankable(test: Annotations, dataset: str) -> None:
    """Figures of a ranking need truth for most of a picture's labels."""
    require(
        not test.truth.stores_known_only,
        f"--top_k: of a test picture of {dataset} only few labels are known, which says little of its ranking; "
        "leave --top_k out",
    )


def _say(
    saved: SavedModel, test: Annotations, scored: Scored, dataset: str, top_k: bool, published: Published | None
) -> None:
    """Print the table."""
    say(f"{saved.path} ({_kind(saved)}) on the test set of {dataset}, {len(test)} images")
    if order := said_of_order(saved, test, dataset):
        say(f"  {order}")
    metrics, beside = scored.measured.metrics, beside_as_dict(scored.measured)
    if beside:
        say("           " + "".join(f"{name:>9}" for name in ("f", *beside)))
    reported = published.metrics if published else {}
    for name, value in metrics.as_dict().items():
        others = "".join(f"   {100 * other[name]:6.2f}" for other in beside.values())
        say(f"  {name:8} {100 * value:6.2f}{others}{_reported(reported, name, value)}")
    for name, mean in scored.groups.items():
        say(
            f"  {name:8} "
            + ("no class judged" if mean is None else f"{100 * mean:6.2f}{_reported(reported, name, mean)}")
        )
    if published:
        say(f"  published: {published.name}, {published.paper} ({published.source})")
    if top_k and scored.ranking is not None:
        say("  k           rec    prec     top   of each picture's k highest scores")
        for k in RANKS:
            figures = (100 * scored.ranking[f"{name}@{k}"] for name in ("rec", "prec", "top"))
            say(f"  {k:<7}" + "".join(f"{value:8.2f}" for value in figures))
    empty = [test.classes[k] for k in metrics.classes_without_positives]
    if empty:
        say(f"  classes without positives: {', '.join(empty)} (left out of mAP, 0 in mAP_all)")


def _kind(saved: SavedModel) -> str:
    """What a checkpoint is, in a few words."""
    return f"released, {FAMILIES[saved.released.family].title}" if saved.released else f"epoch {saved.epoch}"


def _reported(reported: Mapping[str, float], name: str, value: float) -> str:
    """The published figure and how far the measured one is from it, in points; nothing where none is published."""
    if name not in reported:
        return ""
    return f"   published {reported[name]:6.2f} ({100 * value - reported[name]:+.2f})"


def _write(
    saved: SavedModel, test: Annotations, scored: Scored, dataset: str, file: Path, published: Published | None
) -> None:
    """Write all figures, class by class, as JSON; published ones are fractions as well."""
    metrics = scored.measured.metrics
    average_precision = metrics.per_class.tolist()
    content: dict[str, Any] = {
        "load_from": str(saved.path),
        "dataset": dataset,
        "test": metrics.as_dict(),
        "top_k": scored.ranking,
        "extra": {**scored.groups, **beside_as_dict(scored.measured)},
        "average_precision": {
            name: None if value != value else value for name, value in zip(test.classes, average_precision, strict=True)
        },
    }
    if published:
        figures = {name: value / 100 for name, value in published.metrics.items()}
        content["published"] = {"name": published.name, "paper": published.paper, "test": figures}
    text = json.dumps(content, indent=2) + "\n"
    write_atomically(file, lambda out: out.write(text.encode()))
