"""Thresholds and calibration of a checkpoint, chosen on images that it was not trained on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from data.build import DatasetConfig, held_out_images
from data.labels.regime import Regime
from data.subsets.splits import TrainingSplitConfig
from engine.core.checkpoint import SavedModel
from engine.core.decisions import Decisions, Thresholds
from engine.core.scoring import EvalResult
from engine.core.settings import Settings
from utils.calibration import CalibrationMethod, fit_calibration
from utils.checks import UserError, require
from utils.options import option
from utils.thresholds import ENOUGH_POSITIVES, ClassThresholds, Rule, choose_thresholds
from utils.types import PRESENT, Annotations, Splits

_NAMED = 8  # classes in a message


@dataclass(frozen=True, kw_only=True)
class ChoiceConfig:
    """What is chosen for a checkpoint on held-out images, and where it is kept."""

    choose_thresholds: str | None = option(
        None, "choose the threshold of each class by f1, youden, precision=0.9 or recall=0.9, on --choose_on"
    )
    calibrate: CalibrationMethod | None = option(
        None, "fit what makes probabilities of the logits of each class, on --choose_on"
    )
    choose_on: Literal["validation", "test"] = option(
        "validation", "images to choose on: the validation split of training, or the test images themselves"
    )
    in_place: bool = option(False, "write what was chosen into the checkpoint itself; else --save_as FILE keeps it")

    def __post_init__(self) -> None:
        if self.choose_thresholds is not None:
            Rule.of(self.choose_thresholds)
        require(
            self.wanted or not self.in_place,
            "--in_place: nothing is chosen; give --choose_thresholds or --calibrate, or leave it out",
        )
        require(
            self.wanted or self.choose_on == "validation",
            f"--choose_on {self.choose_on}: nothing is chosen; give --choose_thresholds or --calibrate, or leave it "
            "out",
        )

    @property
    def wanted(self) -> bool:
        """True if anything is chosen."""
        return self.choose_thresholds is not None or self.calibrate is not None


class HeldOut(NamedTuple):
    """Images to choose on."""

    images: Annotations
    words: str
    """What they are, for the checkpoint and the console."""


def held_out(saved: SavedModel, settings: Settings, splits: Splits) -> HeldOut:
    """The images that thresholds are chosen on.

    Raises: UserError when there are none, or the network was trained on some of them.
    """
    data, split = settings.of(DatasetConfig), settings.of(TrainingSplitConfig)
    if settings.of(ChoiceConfig).choose_on == "test":
        return HeldOut(splits.test, f"the test set of {data.dataset}, {_count(splits.test)}")
    seed = int(saved.settings.get("seed", 0))
    found = held_out_images(splits, data, _regime(saved, settings), split, seed)
    if found is None:
        raise UserError(
            f"--choose_on validation: {saved.path} was trained without a validation split, so there are no images to "
            "choose on; train with --val_frac 0.2, or name other labelled images by --test_table and --choose_on test"
        )
    seen = saved.seen(found.ids)
    require(
        not seen,
        f"--choose_on validation: {saved.path} was trained on {seen:,} of these {len(found):,} images, where scores "
        "are too good to choose by; leave --val_frac, --split_seed and the like as they were in training",
    )
    labels = "" if split.val_set_variant == "clean" else f", with {split.val_set_variant} labels"
    return HeldOut(found, f"the validation split of {data.dataset}, {_count(found)}{labels}")


def _regime(saved: SavedModel, settings: Settings) -> Regime:
    """The label regime of the validation split, with the label file of training, which is not read otherwise."""
    regime, file = settings.of(Regime), saved.settings.get("label_file")
    if regime.label_file is None and file and settings.of(TrainingSplitConfig).val_set_variant != "clean":
        return replace(regime, label_file=Path(file))
    return regime


def _count(images: Annotations) -> str:
    return "1 image" if len(images) == 1 else f"{len(images):,} images"


class Decided(NamedTuple):
    """What was chosen, in the order of the classes of the dataset."""

    decisions: Decisions
    found: ClassThresholds | None
    """How the thresholds came about; None where none were chosen."""


def decide(measured: EvalResult, chosen_on: HeldOut, config: ChoiceConfig) -> Decided:
    """Thresholds and calibration for the scores of held-out images.

    Raises: UserError when too few labels of the images are known, or too few are present.
    """
    truth = chosen_on.images.truth
    if measured.scores is None:
        raise UserError(
            f"--choose_thresholds, --calibrate: only few labels of {chosen_on.words} are known, too few to choose by; "
            "leave them out"
        )
    codes, logits = truth.dense(), measured.scores
    thresholds = found = calibration = None
    if config.choose_thresholds is not None:
        require(
            bool((codes == PRESENT).any()),
            f"--choose_thresholds: no label is known to be present in {chosen_on.words}; choose on others",
        )
        found = choose_thresholds(logits, codes, Rule.of(config.choose_thresholds))
        thresholds = Thresholds(str(Rule.of(config.choose_thresholds)), chosen_on.words, found.values, found.own)
    if config.calibrate is not None:
        try:
            calibration = fit_calibration(logits, codes, config.calibrate)
        except ValueError as error:
            raise UserError(
                f"--calibrate {config.calibrate}: {error} in {chosen_on.words}, and {ENOUGH_POSITIVES} of each are "
                "needed; choose on others"
            ) from None
    return Decided(Decisions(thresholds, calibration, chosen_on.words if calibration else ""), found)


def notes(decided: Decided, classes: Sequence[str]) -> Iterator[str]:
    """Lines on classes whose threshold is not their own, or has not the precision that was asked for."""
    if decided.found is None or decided.decisions.thresholds is None:
        return
    shared = [f"{classes[k]} ({decided.found.positives[k]})" for k in np.flatnonzero(~decided.found.own).tolist()]
    if shared:
        yield (
            f"fewer than {ENOUGH_POSITIVES} positives to choose by, so the threshold of all classes together: "
            f"{_named(shared)}"
        )
    short = [classes[k] for k in np.flatnonzero(~decided.found.reached & decided.found.own).tolist()]
    if short:
        yield f"no threshold has {decided.decisions.thresholds.rule}; the most precise one is taken: {_named(short)}"


def _named(names: Sequence[str]) -> str:
    more = f", ... ({len(names)} in all)" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def in_order_of_checkpoint(decisions: Decisions, columns: list[int] | None) -> Decisions:
    """Decisions of a dataset's classes in the order of the checkpoint's.

    Args:
        decisions: in the order of the dataset.
        columns: the number of the checkpoint's score for each class of the dataset; None where they are the same.
    """
    return decisions if columns is None else decisions.take(np.argsort(columns).tolist())
