"""The report of a run: its figures, settings, pictures and labels, gathered for a page."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.special import expit

from data.build import Data
from data.inspection import co_occurrence
from data.loading.loader import LoaderConfig
from engine.core.run_results import few
from engine.core.settings import Settings
from engine.report.content import (
    Picture,
    RunReport,
    SettingLine,
    Step,
    Suspicious,
    Table,
    confidence,
    percent,
    picture,
    shown_classes,
    worst_classes,
)
from engine.training.examples import draw_examples, draw_tail
from engine.training.recorder import Recorder
from engine.training.summary import FinalResults
from models.peers import Network
from utils.bootstrap import DRAWS, Uncertainty, bootstrap
from utils.console import say
from utils.metrics import Scores
from utils.options import as_words
from utils.plots import plot_curves, plot_heat_map
from utils.thresholds import Rule, choose_thresholds
from utils.types import ABSENT, PRESENT, UNKNOWN, Annotations

COOCCURRENCE_FILE = "cooccurrence.png"
_SQUARE = 60
"""Most classes in the picture of labels that go together: of more, the most frequent ones."""
_SUSPICIOUS = 30
_EPOCHS = 60
"""Rows of the table of changed labels: of more epochs evenly spaced ones."""
_CHANGES = ("modified_true", "modified_ever_true", "unknown_true", "found", "found_ever")
_GIVEN = {PRESENT: "present", ABSENT: "absent", UNKNOWN: "unknown"}
_PICTURES = {
    "curves.png": ("Curves", "Training loss and mAP over epochs"),
    "tail.png": ("Along the tail", "Average precision of each class above the number of its training images"),
    COOCCURRENCE_FILE: (
        "Labels that go together, as training sees them: of the images with the class of a row, the share that has "
        "that of a column too",
        "Square of shares by pairs of classes",
    ),
    "examples.png": (
        "Test images, with their true labels, those with the highest probability, and the map of the best",
        "Test images beside the labels and maps of the network",
    ),
}


class EndedRun(NamedTuple):
    """A run that has come to its end."""

    settings: Settings
    data: Data
    info: Mapping[str, Any]
    """`summary.run_info` of it."""
    result: Mapping[str, Any]
    """The content of its `result.json`."""
    results: FinalResults
    history: Sequence[Mapping[str, float]]
    """The rows of its log."""
    recorder: Recorder


def draw_pictures(run: EndedRun, network: Network, folder: Path, *, with_images: bool) -> None:
    """Draw the curves of a run, its long tail, labels that go together, and test images with the network's labels.

    Args:
        run: the run.
        network: the one that is reported.
        folder: where the pictures go.
        with_images: False for a run on features without images.
    """
    data, method = run.data, run.settings.method
    plot_curves({method: list(run.history)}, folder / "curves.png")
    draw_tail(data, run.results.chosen.metrics, folder / "tail.png")
    together = co_occurrence(data.observed, _SQUARE)
    if np.triu(together.counts, 1).any():  # of single positives none go together
        names = [data.train.classes[k] for k in together.classes]
        title = "share of the images with the class of the row that have the class of the column"
        plot_heat_map(names, together.conditional(), folder / COOCCURRENCE_FILE, title=title)
    path = folder / "examples.png"
    if with_images:
        draw_examples(method, network, data.test, run.settings.of(LoaderConfig).eval_view(), path)
    else:
        say(f"{path.name} is not drawn: beside --features there are no images")


def run_report(run: EndedRun, folder: Path) -> RunReport:
    """Gather what the page of a run shows.

    Args:
        run: the run.
        folder: where its pictures are, and its checkpoint.
    """
    settings, scores = run.settings, run.results.chosen.scores
    sure = _uncertainty(scores, run.data.test)
    rows = _with_thresholds(_with_intervals(run.result["per_class"], sure, run.data.test), run)
    classes, left_out = shown_classes(rows)
    lines = [SettingLine(name, as_words(settings.values[name]), settings.origins[name]) for name in settings.values]
    return RunReport(
        title=f"{getattr(settings.method_config, 'mod_scheme', settings.method)} on {run.info['dataset']}",
        subtitle=f"{folder.name}: {run.info['network']}",
        figures=_figures(run.result),
        facts=_facts(run.info, run.result),
        notes=[*_notes(run.result), *_sure_note(sure, run.data.test)],
        worst=worst_classes(rows),
        classes=classes,
        left_out=left_out,
        pictures=_pictures(folder),
        confidence=confidence(scores, None if scores is None else run.data.test.truth.dense()),
        epochs=changes(run.history),
        suspicious=suspicious(run.data, run.recorder),
        steps=_steps(folder / "best.pth", has_validation=run.data.validation is not None),
        given=[line for line in lines if line.origin != "default"],
        defaults=[line for line in lines if line.origin == "default"],
    )


def _uncertainty(scores: Scores | None, test: Annotations) -> Uncertainty | None:
    """How sure the figures of the test set are; None without dense scores, or without images."""
    if scores is None or not len(scores):
        return None
    return bootstrap(scores, test.truth.dense(), test.groups, draws=DRAWS)


def _with_intervals(
    rows: Sequence[Mapping[str, Any]], sure: Uncertainty | None, test: Annotations
) -> list[Mapping[str, Any]]:
    """Rows of the table of classes with the intervals of their AP as texts, empty where none were computed."""
    texts = {} if sure is None else dict(zip(test.classes, sure.texts(), strict=True))
    return [{**row, "interval": texts.get(row["class"], "")} for row in rows]


def _with_thresholds(rows: Sequence[Mapping[str, Any]], run: EndedRun) -> list[Mapping[str, Any]]:
    """The rows with the probability of the highest F1 on the validation split as text, empty where it is not known."""
    validation, split, texts = run.results.validation, run.data.validation, {}
    if split is not None and validation is not None and validation.scores is not None:
        codes = split.truth.dense()
        if (codes == PRESENT).any():
            values = choose_thresholds(validation.scores, codes, Rule("f1")).values
            texts = {name: f"{value:.3f}" for name, value in zip(split.classes, expit(values).tolist(), strict=True)}
    return [{**row, "threshold": texts.get(row["class"], "")} for row in rows]


def _sure_note(sure: Uncertainty | None, test: Annotations) -> list[str]:
    """A note on what the intervals are."""
    if sure is None or math.isnan(sure.mAP.low):
        return []
    unit, ends = "images" if test.groups is None else "groups", " to ".join(percent(end) for end in sure.mAP)
    told = f"{100 * sure.level:.0f} % interval of the mAP: {ends}."
    drawn = f"{sure.draws:,} bootstrap draws of {sure.units:,} {unit} of the test set"
    return [f"{told} It and those of classes are of {drawn}."]


def _figures(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Main figures of the test set, in percent."""
    areas = [row["AUROC"] for row in result["per_class"] if row["AUROC"] is not None]
    shown = {name: result["test"][name] for name in ("mAP", "CF1", "OF1")}
    if areas:
        shown["mean AUROC"] = sum(areas) / len(areas)
    if "ECE" in result["calibration"]:
        shown["ECE"] = result["calibration"]["ECE"]
    return [(name, percent(value)) for name, value in shown.items()]


def _facts(info: Mapping[str, Any], result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was trained on what."""
    images = ", ".join(f"{count:,} {split}" for split, count in info["images"].items() if count)
    chosen = f"{result['selected_epoch']} of {result['epochs_trained']}, by {result['selection']}"
    last = f"{percent(result['last']['mAP'])} after the last epoch"
    best = result["best_on_test"]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return [
        ("images", images),
        ("labels", f"{info['labels']}, seed {info['label_seed']}"),
        ("epoch", f"{chosen}; test mAP {last}, {percent(best['mAP'])} in the best epoch on the test set"),
        ("network", str(info["network"])),
        ("computed on", f"{info['device']}, {info['precision']}, {versions}"),
    ]


def _notes(result: Mapping[str, Any]) -> list[str]:
    """Sentences on classes that are not scored."""
    extra, notes = result["extra"], []
    if extra["classes_without_positives"]:
        notes.append(f"No test image has {few(extra['classes_without_positives'])}: left out of mAP.")
    if extra["classes_without_negatives"]:
        notes.append(f"No test image is known to be without {few(extra['classes_without_negatives'])}: not scored.")
    return notes


def _pictures(folder: Path) -> list[Picture]:
    """The pictures of the folder, in the order of the page."""
    found = (picture(folder / name, *words) for name, words in _PICTURES.items())
    return [one for one in found if one is not None]


def changes(history: Sequence[Mapping[str, float]]) -> Table:
    """The log's columns on changed labels, by epoch."""
    columns = [name for name in _CHANGES if any(name in row for row in history)]
    rows = [row for row in history if any(name in row for name in columns)]
    if len(rows) > _EPOCHS:
        rows = [rows[place] for place in np.linspace(0, len(rows) - 1, _EPOCHS).round().astype(int).tolist()]
    cells = [[f"{row['epoch']:.0f}", *(percent(row.get(name)) for name in columns)] for row in rows]
    return Table(["epoch", *columns], cells)


def suspicious(data: Data, recorder: Recorder) -> list[Suspicious]:
    """The training labels with the highest loss that came after the first epoch; none where these were not recorded.

    In the first epoch most losses are high; those of wrong labels are highest once the others have been learned.
    """
    if recorder.highest is None:
        return []
    later = recorder.highest.epoch > 1
    losses = recorder.highest.loss.where(later, -math.inf) if bool(later.any()) else recorder.highest.loss
    values, places = losses.flatten().topk(min(_SUSPICIOUS, losses.numel()))
    kept = torch.isfinite(values)  # -inf: never seen
    found = []
    for loss, place in zip(values[kept].tolist(), places[kept].tolist(), strict=True):
        row, label = divmod(place, losses.shape[1])
        given, truth = (int(table.rows(np.array([row]))[0, label]) for table in (data.observed, data.train.truth))
        other = _GIVEN[truth] if truth not in (given, UNKNOWN) else ""
        found.append(Suspicious(data.train.ids[row], data.train.classes[label], _GIVEN[given], loss, other))
    return found


def _steps(checkpoint: Path, *, has_validation: bool) -> list[Step]:
    """What to do with the checkpoint, command by command."""
    file = shlex.quote(str(checkpoint))
    steps = [
        Step("Score it again, with a line for each class:", f"python evaluate.py --load_from {file} --per_class"),
        Step("Labels of your images:", f"python predict.py photos/ --load_from {file} --html labels.html"),
        Step("A model for other programs:", f"python predict.py --load_from {file} --export onnx --output model.onnx"),
    ]
    if has_validation:
        words = f"python evaluate.py --load_from {file} --choose_thresholds f1 --calibrate isotonic --in_place"
        steps.insert(1, Step("Choose thresholds on the validation split, and keep them in the checkpoint:", words))
    return steps
