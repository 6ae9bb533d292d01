"""What `evaluate.py` prints: the table of metrics, and what must be known to read it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from data.build import DatasetConfig
from data.datasets.table.config import named
from data.inspection import untold_classes
from data.loading.loader import LoaderConfig
from engine.core.checkpoint import SavedModel
from engine.core.manifest import Preparation, Published
from engine.core.run_folder import percentages
from engine.core.run_results import few
from engine.core.scoring import beside_as_dict
from engine.core.settings import Settings
from engine.evaluation.class_order import class_order_note
from engine.evaluation.decided import DecisionFigures
from engine.evaluation.published import comparison
from engine.evaluation.scored import Scored
from models.released import FAMILIES
from utils.console import say, warn
from utils.options import as_text
from utils.ranking import RANKS
from utils.types import Annotations, Splits

_WIDEST = 28  # characters of a class name


def print_table(
    saved: SavedModel, test: Annotations, scored: Scored, dataset: str, top_k: bool, published: Published | None
) -> None:
    """Print the table."""
    say(f"{saved.path} ({kind_of(saved)}) on the test set of {dataset}, {len(test)} images")
    if order := class_order_note(saved, test, dataset):
        say(f"  {order}")
    metrics, beside = scored.measured.metrics, beside_as_dict(scored.measured)
    if beside:
        say("           " + "".join(f"{name:>9}" for name in ("f", *beside)))
    reported, lines = comparison(published, len(test), dataset)
    for name, value in metrics.as_dict().items():
        others = "".join(f"   {100 * other[name]:6.2f}" for other in beside.values())
        remark = "   the mAP of the single-positive papers" if name == "mAP_all" else ""
        say(f"  {name:8} {100 * value:6.2f}{others}{_reported(reported, name, value)}{remark}")
    for name, mean in scored.groups.items():
        say(
            f"  {name:8} "
            + ("no class evaluated" if mean is None else f"{100 * mean:6.2f}{_reported(reported, name, mean)}")
        )
    for line in lines:
        say(line)
    _print_others(scored, top_k)
    empty = [test.classes[k] for k in metrics.classes_without_positives]
    if empty:
        say(f"  classes without positives: {few(empty)} (left out of mAP, 0 in mAP_all)")
    if line := untold_classes("test", test):
        say(f"  {line}")


def _print_others(scored: Scored, top_k: bool) -> None:
    """Print the figures that were asked for beside the table."""
    if scored.published is not None:
        say(f"  by the published evaluators (CSRA, CoNeS): {percentages(scored.published)}")
    if scored.full_rows is not None:
        say(f"  on images without an unknown label: {percentages(scored.full_rows)}")
    if top_k and scored.ranking is not None:
        say("  k           rec    prec     top   of the k highest scores per image")
        for k in RANKS:
            values = (100 * scored.ranking[f"{name}@{k}"] for name in ("rec", "prec", "top"))
            say(f"  {k:<7}" + "".join(f"{value:8.2f}" for value in values))


def print_decisions(figures: DecisionFigures, notes: Iterable[str]) -> None:
    """Print the figures at the thresholds of the checkpoint, its calibration, and notes on both."""
    thresholds, calibration = figures.decisions.thresholds, figures.decisions.calibration
    if thresholds is not None:
        say(f"  thresholds by {thresholds.rule}, chosen on {thresholds.chosen_on}")
        if figures.at_thresholds is not None:
            say(f"  at these: {percentages(figures.at_thresholds._asdict())}")
    if calibration is not None:
        say(f"  calibration by {calibration.method}, fitted on {figures.decisions.calibrated_on}")
        if figures.uncalibrated is not None and figures.calibrated is not None:
            before, after = figures.uncalibrated, figures.calibrated
            say(
                f"  ECE {100 * before.pooled:.2f} -> {100 * after.pooled:.2f}, mean of the classes "
                f"{100 * before.by_class:.2f} -> {100 * after.by_class:.2f}"
            )
    for note in notes:
        say(f"  {note}")


def print_classes(classes: Sequence[str], figures: DecisionFigures, intervals: Sequence[str] | None = None) -> None:
    """Print one line of figures per class, with the interval of its AP behind if there are any."""
    limits = figures.decisions.threshold_probabilities()
    rows = figures.classes.as_dicts(classes)
    width = max(len("class"), *(min(len(name), _WIDEST) for name in classes))
    names = ("AP", "AUROC", "precision", "recall", "F1")
    heading = "" if intervals is None else "  interval of AP"
    say(f"  {'class':{width}}  positives    known     AP   AUROC  precision  recall      F1  threshold{heading}")
    for k, row in enumerate(rows):
        cells = ["-" if row[name] is None else f"{100 * row[name]:.2f}" for name in names]
        limit = 0.5 if limits is None else float(limits[k])
        say(
            f"  {row['class'][:_WIDEST]:{width}}  {row['positives']:9,}{row['known']:9,}"
            f"{cells[0]:>7}{cells[1]:>8}{cells[2]:>11}{cells[3]:>8}{cells[4]:>8}{limit:11.3f}"
            + ("" if intervals is None else f"{intervals[k]:>16}")
        )
    mean = figures.classes.mean_auroc
    if mean == mean:
        say(f"  mean AUROC {100 * mean:.2f}")


def _reported(reported: Mapping[str, float], name: str, value: float) -> str:
    """Published value and the difference to it in points, as text; empty if none is published."""
    if name not in reported:
        return ""
    return f"   published {reported[name]:6.2f} ({100 * value - reported[name]:+.2f})"


def print_caveats(saved: SavedModel, splits: Splits, settings: Settings) -> None:
    """Say if training images are scored, or only a part of a table that was named for scoring."""
    test, data = splits.test, settings.of(DatasetConfig)
    if seen := saved.seen(test.ids):
        say(f"  {seen:,} of these {len(test):,} images have ids that the network was trained on: no figure of a test")
    if settings.is_given("table") and splits.held_out:
        names, its = ("names", "its") if len(data.table or ()) == 1 else ("name", "their")
        part = f"{len(test):,} of {its} {len(splits.train) + len(test):,} images"
        say(f"  {named(data.table)} {names} no test set: {part} were held out by --test_frac and scored;")
        say("  to score all of a table, name it by --test_table beside the --table of training")


def print_order(saved: SavedModel, test: Annotations, dataset: str) -> None:
    """Say if a checkpoint that is not the first has its classes in another order, or does not name them."""
    if order := class_order_note(saved, test, dataset):
        say(f"{saved.path}: {order}")


def print_notes(saved: SavedModel) -> None:
    """Print the assumptions about a released file, and the number of tensors left out, one line each."""
    for note in saved.notes:
        say(f"{saved.path}: {note}")
    if saved.released is not None and saved.released.dropped:
        say(f"{saved.path}: {len(saved.released.dropped)} tensors that never run are left out")


def print_remarks(saved: SavedModel, settings: Settings) -> None:
    """Print assumptions, and warn in one line if images are prepared in another way than in training."""
    print_notes(saved)
    if saved.given_shape is not None:
        return
    loader, reading = settings.of(LoaderConfig), settings.of(DatasetConfig).reading
    of_loader = {name: as_text(getattr(loader, name)) for name in Preparation._fields if name in saved.settings}
    now = of_loader | {name: as_text(value) for name, value in reading._asdict().items()}
    then = {name: as_text(saved.settings.get(name)) for name in now}
    then["exif"] = then["exif"] or "ignore"  # of versions that turned no image
    differ = [name for name in now if now[name] != then[name]]
    if differ:
        given = ", ".join(f"--{name} {now[name]}" for name in differ)
        trained = ", ".join(f"{name} {then[name]}" for name in differ)
        warn(f"warning: {given}: {saved.path} was trained with {trained}; metrics will differ")


def kind_of(saved: SavedModel) -> str:
    """Kind of a checkpoint in a few words."""
    return f"released, {FAMILIES[saved.released.family].title}" if saved.released else f"epoch {saved.epoch}"
