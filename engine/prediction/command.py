"""`predict.py`: predict labels of images, as text, files, heat maps and a page; or export a checkpoint."""

from __future__ import annotations

import base64
import io
import json
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from data.images.decoders import Decoder
from data.images.reading import Reading, ReadingConfig
from data.loading.eval_view import EvalView
from engine.core.checkpoint import SavedModel, read_model
from engine.core.gpu_memory import gpu_memory_told
from engine.core.hub import local_file
from engine.core.setting_table import training_names
from engine.core.settings import Command, parse_settings
from engine.prediction.export import FORMATS, TOLERANCE, export_model
from engine.prediction.heatmaps import write_maps
from engine.prediction.html import Page, Tile, contact_sheet
from engine.prediction.predictor import Label, Prediction, Predictor, Unreadable, class_names
from engine.prediction.shard_files import HEADER, LabelledImage, label_rows
from engine.prediction.shards import ShardConfig, ShardJob, file_sha256, predict_in_shards
from engine.prediction.sources import FoundImages, ImageFile, ListedImages, NamedImages, find_images
from engine.prediction.walking import shown
from utils.checks import RunError, UserError, require
from utils.console import say, show, warn
from utils.csv_cells import csv_text
from utils.foreign_states import CheckpointWeights
from utils.options import as_text, option
from utils.safe_files import make_folder, write_text

_THUMBNAIL = 240  # pixels, the longer side of an image on the page


@dataclass(frozen=True, kw_only=True)
class PredictConfig(ReadingConfig):
    """Checkpoint, number of labels per image, and output files."""

    load_from: Path | None = option(None, "checkpoint to predict by: best.pth of a run, or hf://OWNER/NAME")
    top: int = option(5, "largest number of labels per image")
    threshold: float | None = option(
        None, "leave out labels that score less (default: the thresholds in the checkpoint, if any)"
    )
    json: Path | None = option(None, "write the labels to this file as JSON")
    csv: Path | None = option(None, "write the labels to this file as CSV, one row per label")
    html: Path | None = option(None, "write images and labels to this file as a page for a browser")
    heatmaps: Path | None = option(None, "folder for heat maps of the best classes over the images")
    heatmap_top: int = option(3, "--heatmaps: largest number of labels drawn per image")
    batch_size: int = option(16, "images per forward pass", aliases=("bsize",))
    device: Literal["auto", "cpu", "cuda"] = option("auto", "where to compute")
    decoder: Decoder | None = option(None, "decoder of the images (default: that of training)")
    checkpoint_weights: CheckpointWeights | None = option(
        None, "a released file that holds averaged weights beside raw ones: use these (default: the averaged, ema)"
    )
    classes: Path | None = option(None, "text file of class names, one per line, to use instead of the checkpoint's")
    export: Literal["onnx", "torchscript", "pt2"] | None = option(
        None, "write the model to --output in this format, and predict nothing"
    )
    output: Path | None = option(None, "--export: the file to write")

    def __post_init__(self) -> None:
        ReadingConfig.__post_init__(self)
        require(self.load_from is not None, "--load_from: name the checkpoint to predict by")
        for name in ("top", "heatmap_top", "batch_size"):
            require(getattr(self, name) >= 1, f"--{name} {getattr(self, name)}: must be at least 1")
        require(self.threshold is None or 0 <= self.threshold <= 1, f"--threshold {self.threshold}: must be in 0 .. 1")
        require(self.export is None or self.output is not None, f"--export {self.export}: say where to with --output")
        require(
            self.output is None or self.export is not None,
            f"--output {self.output}: is for --export; predictions go to --json, --csv, --html and --heatmaps",
        )

    def files(self) -> dict[str, Path]:
        """The files to write, by flag."""
        named = {name: getattr(self, name) for name in ("json", "csv", "html", "output")}
        return {name: path for name, path in named.items() if path is not None}


@dataclass
class PredictionResults:
    """Predictions of all images, and what the output files need of them."""

    labels: list[tuple[ImageFile, list[Label]]] = field(default_factory=list)
    tiles: list[Tile] = field(default_factory=list)
    unreadable: list[Unreadable] = field(default_factory=list)


PREDICT = Command(
    program="predict.py",
    about="Labels of images by a checkpoint; name images, and folders of images. Or the checkpoint, exported.",
    groups={"prediction": (PredictConfig,), "very many images": (ShardConfig,)},
    words="IMAGE|FOLDER [...]",
)
COMMANDS = (PREDICT,)


def predict_command(argv: Sequence[str] | None = None) -> int:
    """Predict the images named among the flags, or export. Returns the exit code.

    Args:
        argv: the command line without the program, None for the real one.

    Raises:
        UserError: the request cannot be fulfilled; nothing has been written then.
        RunError: a file cannot be written, or a score is not finite.
    """
    settings = parse_settings(PREDICT, argv, elsewhere=training_names())
    config = settings.of(PredictConfig)
    paths = list(dict.fromkeys(Path(word).expanduser() for word in settings.words))
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    require(processes == 1, "predict.py: works in one process; start it without a launcher")
    shards = settings.of(ShardConfig)
    if config.export is not None:
        require(shards.shards is None, f"--export {config.export}: predicts nothing; leave --shards out")
        require(not paths, f"--export {config.export}: predicts nothing; leave {paths and shown(paths[0])} out")
        _check_files(config, [])
        return _export(_here(config))
    require(bool(paths) or shards.image_list is not None, "predict.py: name an image, or a folder of images")
    if shards.shards is not None:
        return _predict_in_shards(_here(config), shards, paths)
    images = find_images(paths)
    _check_files(config, [source.path for source in images.sources])
    if config.heatmaps is not None:
        _check_heatmaps(config.heatmaps, paths)
    return _predict(_here(config), images)


def read_class_names(path: Path | None) -> list[str]:
    """The lines of a file of class names, none without a file. Raises: UserError naming file and line."""
    if path is None:
        return []
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no UTF-8 text"
        raise UserError(f"--classes {path}: cannot be read ({reason}); give a text file of class names") from None
    while names and not names[-1]:
        names.pop()
    require(bool(names), f"--classes {path}: has no names; give one per line")
    lines: dict[str, int] = {}
    for number, name in enumerate(names, 1):
        require(bool(name), f"--classes {path}, line {number}: is empty; give one name per line")
        first = lines.setdefault(name, number)
        require(first == number, f"--classes {path}, line {number}: {name} again, as in line {first}")
    return names


def as_json(results: PredictionResults, load_from: Path, classes: Sequence[str]) -> str:
    """All predictions as JSON, scores rounded to six decimals."""
    content = {
        "load_from": str(load_from),
        "classes": list(classes),
        "pictures": [
            {"path": str(source.path), "labels": [{"label": one.name, "score": round(one.score, 6)} for one in labels]}
            for source, labels in results.labels
        ],
        "unreadable": [{"path": one.name, "reason": one.reason} for one in results.unreadable],
    }
    return json.dumps(content, indent=1) + "\n"


def as_csv(results: PredictionResults) -> str:
    """All predictions as CSV, one row per label: path, rank from 1, label, score. No row for images without labels."""
    images = [LabelledImage(str(source.path), labels) for source, labels in results.labels]
    return csv_text([HEADER, *label_rows(images)])


def _here(config: PredictConfig) -> PredictConfig:
    """The settings with the checkpoint as a file, fetched where it is on the hub."""
    assert config.load_from is not None
    return replace(config, load_from=local_file(config.load_from))


def _export(config: PredictConfig) -> int:
    assert config.load_from is not None
    assert config.export is not None
    assert config.output is not None
    saved = _read(config.load_from, config.checkpoint_weights)
    names = class_names(saved, read_class_names(config.classes))
    difference = export_model(saved, names, config.export, config.output, config)
    if difference is None:
        say(f"not compared with torch: {FORMATS[config.export].reader} is not installed")
    else:
        say(f"logits differ from torch's by {difference:.1e} at most (allowed: {TOLERANCE:.0e})")
    say(f"written: {config.output}")
    return 0


def _read(path: Path, checkpoint_weights: CheckpointWeights | None) -> SavedModel:
    """Read the checkpoint and print what had to be assumed of it."""
    saved = read_model(path, checkpoint_weights=checkpoint_weights)
    for note in saved.notes:
        say(f"{path}: {note}")
    return saved


def _predictor(config: PredictConfig) -> Predictor:
    """The model of the checkpoint."""
    assert config.load_from is not None
    names = read_class_names(config.classes)
    saved = _read(config.load_from, config.checkpoint_weights)
    if saved.decisions is not None and saved.decisions.thresholds is not None and config.threshold is None:
        say(f"labels by the thresholds in {config.load_from} ({saved.decisions.thresholds.rule})")
    return Predictor.of(saved, device=config.device, classes=names, decoder=config.decoder, reading=config)


def _predict_in_shards(config: PredictConfig, shards: ShardConfig, paths: Sequence[Path]) -> int:
    """Predict the images into a folder of files. Returns the exit code. Raises: UserError, RunError."""
    assert config.load_from is not None
    for name in (*config.files(), *(["heatmaps"] if config.heatmaps is not None else [])):
        require(False, f"--{name}: takes memory or a file for each image; leave it out beside --shards")
    images = _images_for_shards(shards, paths)
    predictor = _predictor(config)
    recipe = {
        "checkpoint": file_sha256(config.load_from),
        "classes": list(predictor.classes),
        "decoder": predictor.view.decoder,
        "checkpoint_weights": config.checkpoint_weights,
        **_reading_told(predictor.view.reading),
        **{name: getattr(config, name) for name in ("top", "threshold", "batch_size")},
    }
    labels = partial(Prediction.labels, top=config.top, threshold=config.threshold)
    job = ShardJob(predictor=predictor, images=images, labels=labels, batch_size=config.batch_size, recipe=recipe)
    return predict_in_shards(job, shards)


def _reading_told(reading: Reading) -> dict[str, Any]:
    """Rules of reading in a recipe; None where they are those of folders that an earlier version began."""
    limits = reading.value_range
    return {
        "exif": None if reading.exif == "ignore" else reading.exif,
        "value_range": None if limits is None else as_text(limits),
    }


def _images_for_shards(shards: ShardConfig, paths: Sequence[Path]) -> NamedImages | ListedImages:
    """The images named, or those of the list. Raises: UserError when there are none, or both are given."""
    listed = shards.image_list
    if listed is None:
        images: NamedImages | ListedImages = NamedImages(paths)
    else:
        require(not paths, f"--image_list {listed}: lists all images; leave {paths and shown(paths[0])} out")
        assert shards.shards is not None
        inside = _real(listed).is_relative_to(_real(shards.shards))
        require(not inside, f"--image_list {listed}: lies in --shards {shards.shards}; name another folder")
        images = ListedImages(listed)
    next(iter(images))  # one that is missing, or a list without images, is refused before anything is made
    return images


def _predict(config: PredictConfig, images: FoundImages) -> int:
    """Predict the images, print their labels, and write all files."""
    assert config.load_from is not None
    predictor = _predictor(config)
    if config.heatmaps is not None:
        make_folder(config.heatmaps, "--heatmaps")
    if images.skipped:
        say(f"skipped {images.skipped} files that are no images")
    results = _predict_all(predictor, config, images)
    load_from = config.load_from
    texts = {"json": lambda: as_json(results, load_from, predictor.classes), "csv": lambda: as_csv(results)}
    texts["html"] = lambda: contact_sheet(Page(str(load_from), results.tiles, results.unreadable))
    for name, path in config.files().items():
        write_text(path, texts[name](), errors="surrogateescape" if name == "csv" else "backslashreplace")
        say(f"written: {path}")
    if config.heatmaps is not None:
        say(f"written: {config.heatmaps}")
    if results.unreadable:
        warn(f"{len(results.unreadable)} of {len(images.sources)} images could not be read")
    return 1 if results.unreadable else 0


def _predict_all(predictor: Predictor, config: PredictConfig, images: FoundImages) -> PredictionResults:
    """Predict all images, printing each as soon as it is predicted."""
    results = PredictionResults()
    sources = {os.fspath(source.path): source for source in images.sources}

    def unreadable(one: Unreadable) -> None:
        """Warn of an image, and note it for the files."""
        warn(f"{shown(one.name)}: {shown(one.reason)}")
        results.unreadable.append(one)

    maps = config.heatmaps is not None
    with warnings.catch_warnings(), gpu_memory_told("predicting", ["a smaller --batch_size"]):
        warnings.simplefilter("ignore")  # decoders complain of odd metadata, which is harmless
        for prediction in predictor.predict(
            list(sources), batch_size=config.batch_size, maps=maps, unreadable=unreadable
        ):
            _report(prediction, sources[prediction.name], predictor, config, results)
    return results


def _report(
    prediction: Prediction, source: ImageFile, predictor: Predictor, config: PredictConfig, results: PredictionResults
) -> None:
    """Print the labels of one image, write its heat maps, and keep what the files need."""
    labels = prediction.labels(config.top, config.threshold)
    results.labels.append((source, labels))
    tell = say if config.files() or config.heatmaps is not None else show  # without files, what is printed is all
    tell(f"{shown(source.path)}: {', '.join(f'{one.name} {one.score:.3f}' for one in labels) or 'no label'}")
    if config.heatmaps is not None:
        write_maps(prediction, labels[: config.heatmap_top], source, config.heatmaps, predictor.view)
    if config.html is not None:
        results.tiles.append(_tile(source, labels, predictor.view))


def _tile(source: ImageFile, labels: Sequence[Label], view: EvalView) -> Tile:
    """The tile of an image on the page; without a thumbnail if the file no longer opens."""
    try:
        image = view.files([source.path]).open(0)
    except RunError:
        return Tile(shown(source.path), "", (1, 1), labels)
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return Tile(shown(source.path), base64.b64encode(buffer.getvalue()).decode(), image.size, labels)


def _real(path: Path) -> Path:
    """The path without links; `Path.resolve` raises for a link to itself, which is refused as unreadable later."""
    return Path(os.path.realpath(path))


def _check_files(config: PredictConfig, images: Sequence[Path]) -> None:
    """Check that no file to write replaces a file to read or another one to write. Raises: UserError."""
    inputs = {_real(path) for path in (*images, config.load_from, config.classes) if path is not None}
    seen: dict[Path, str] = {}
    for name, path in config.files().items():
        require(path.parent.is_dir(), f"--{name} {path}: there is no folder {path.parent}; make it first")
        require(not path.is_dir(), f"--{name} {path}: is a folder; name a file")
        real = _real(path)
        require(real not in inputs, f"--{name} {path}: is read by this command, and would be lost; name another file")
        require(real not in seen, f"--{name} {path}: is what --{seen.get(real)} writes; name another file")
        seen[real] = name


def _check_heatmaps(folder: Path, paths: Sequence[Path]) -> None:
    """Check that heat maps are not written where the next call would look for images. Raises: UserError."""
    for path in paths:
        require(
            not (path.is_dir() and _real(folder).is_relative_to(_real(path))),
            f"--heatmaps {folder}: lies in {path}, where the next call would take the heat maps for images; name a "
            "folder elsewhere",
        )
