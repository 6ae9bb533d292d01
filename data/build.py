"""From settings to annotations, observed labels and splits: the one place that knows every dataset by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Literal, NamedTuple

from data.datasets import DATASETS, SYNONYMS, DatasetSource
from data.datasets.table.config import TableConfig
from data.files.cache import Cache
from data.labels.files import ResolvedLabels, resolve_labels
from data.labels.regime import Regime, observe
from data.labels.regimes import full_labels
from data.subsets.long_tail import LongTailConfig, subsample_long_tail
from data.subsets.overlap import check_disjoint, without_missing
from data.subsets.splits import TrainingSplitConfig, split_rows
from utils.checks import UserError, require
from utils.options import Shorthand, option
from utils.types import Annotations, Index, LabelTable, Splits

LABEL_FOLDER = Path("pre-processed-data")
LABELS_LEFT = "published spelling: 25 is --labels dropped --drop_rate 0.75, single is --labels single"


def labels_left(text: str) -> dict[str, str]:
    """What `--labels_left` stands for: so many percent of the positives left, or `single`, one an image.

    Raises: ValueError for anything else.
    """
    if text == "single":
        return {"labels": "single"}
    try:
        dropped = (100 - Decimal(text)) / 100
    except InvalidOperation:
        dropped = Decimal("NaN")
    if not dropped.is_finite() or not 0 <= dropped <= 1:
        raise ValueError("must be single, or a percentage such as 75, 50 or 25")
    return {"labels": "dropped", "drop_rate": str(dropped)}


@dataclass(frozen=True, kw_only=True)
class DatasetConfig(TableConfig, LongTailConfig):
    """Which dataset, and which labels of it are seen; shared by every command that reads a dataset."""

    dataset: str = option("digits", "name of the dataset: " + " ".join(DATASETS), synonyms=SYNONYMS)
    path_images: Path | None = option(None, "folder of the dataset", aliases=("data_dir",))
    path_lists: Path = option(Path("appendix"), "folder of the lists of the long-tailed splits")
    num_cls: int | None = option(None, "number of classes; only checked against the dataset")
    missing_images: Literal["error", "skip"] = option("error", "rows whose picture file is not there")
    labels: Literal["candidate", "dropped", "single", "observed", "known", "flip", "semi", "full", "given"] = option(
        "candidate",
        "label regime: how the labels that are seen come from the true ones",
        shorthands={"labels_left": Shorthand("PERCENT|single", LABELS_LEFT, labels_left)},
    )
    partial_rate: float = option(0.1, "candidate: chance of each absent class to be a candidate too")
    class_rates: Path | None = option(None, "candidate: a rate for each class instead, from a CSV file class,rate")
    confusion: Path | None = option(None, "candidate: chances that one class brings another along, from a CSV file")
    drop_rate: float = option(0.75, "dropped: chance of each positive to go unlabelled")
    keep_one: bool = option(False, "dropped: leave every image at least one positive")
    num_pos: int = option(1, "observed: positives kept an image, -1 for all")
    num_neg: int = option(0, "observed: negatives kept an image, -1 for all")
    known_rate: float = option(0.1, "known: chance of each entry, present or absent, to be known")
    rho_pos: float = option(0.1, "flip: chance of each present label to be seen as absent")
    rho_neg: float = option(0.1, "flip: chance of each absent label to be seen as present")
    labelled_share: float = option(0.1, "semi: share of the images that are labelled, fully")
    label_file: Path | None = option(None, "take the observed labels from this file")
    label_seed: int | None = option(None, "seed of the label regime (default: --seed)")
    label_rng: Literal["published", "native"] = option(
        "published", "draw labels in the published order, or by the faster native generator"
    )
    cache_dir: Path | None = option(None, "where parsed annotations are kept (default: ~/.cache/partial-truth)")

    def __post_init__(self) -> None:
        TableConfig.__post_init__(self)
        LongTailConfig.__post_init__(self)
        known = ", ".join(DATASETS)
        require(self.dataset in DATASETS, f"--dataset {self.dataset}: no such dataset; there are {known}")

    def regime(self, seed: int) -> Regime:
        """The label regime of these settings; `seed` is used where `--label_seed` says nothing."""
        return Regime(
            name=self.labels,
            partial_rate=self.partial_rate,
            class_rates=self.class_rates,
            confusion=self.confusion,
            drop_rate=self.drop_rate,
            keep_one=self.keep_one,
            num_pos=self.num_pos,
            num_neg=self.num_neg,
            known_rate=self.known_rate,
            rho_pos=self.rho_pos,
            rho_neg=self.rho_neg,
            labelled_share=self.labelled_share,
            seed=seed if self.label_seed is None else self.label_seed,
            rng=self.label_rng,
        )


class Data(NamedTuple):
    """What a run trains and is measured on. `observed` holds the rows of `train`, in its order."""

    train: Annotations
    observed: LabelTable
    validation: Annotations | None
    test: Annotations
    groups: Mapping[str, Index]
    labels: ResolvedLabels
    regime: Regime


def load_splits(config: DatasetConfig, seed: int, *, need_images: bool) -> Splits:
    """Read the dataset, and thin its training set out to a long tail where the settings ask for that.

    Raises: UserError when a folder, file or entry is missing or wrong, or when two splits share a picture.
    """
    source = DatasetSource(
        path_images=config.path_images or Path(),
        path_lists=config.path_lists,
        seed=seed,
        cache=Cache(config.cache_dir),
        need_images=need_images,
        table=config,
    )
    splits = DATASETS[config.dataset](source)
    found = len(splits.train.classes)
    if config.num_cls not in (None, found):
        raise UserError(f"--num_cls {config.num_cls}: {config.dataset} has {found} classes; leave the flag out")
    check_disjoint({"training": splits.train, "validation": splits.validation, "test": splits.test})
    return subsample_long_tail(splits, config, seed)


def build_data(config: DatasetConfig, split: TrainingSplitConfig, seed: int) -> Data:
    """Read the dataset, find or make its observed labels, take the validation split off, leave out missing pictures.

    Labels are drawn for the whole training set before anything is left out, so one label file serves every
    `--val_frac`, and a collection of which some pictures were never got.
    """
    splits = load_splits(config, seed, need_images=True)
    require(
        splits.validation is None or split.val_frac == 0,
        f"--val_frac {split.val_frac}: {config.dataset} has a validation split of its own; leave the flag out",
    )
    resolved, regime = _training_labels(splits.train, config, split, seed)
    rows, held_out = split_rows(splits.train, split, seed)
    validation = splits.train.take(held_out) if len(held_out) else splits.validation
    if split.val_set_variant == "observed":
        validation = _seen_as_observed(splits, held_out, config, seed)
    train, observed, test = splits.train.take(rows), resolved.table.take(rows), splits.test
    if config.missing_images == "skip":
        there = without_missing(train, "training")
        train, observed = train.take(there), observed.take(there)
        validation = validation and validation.take(without_missing(validation, "validation"))
        test = test.take(without_missing(test, "test"))
    return Data(train, observed, validation, test, splits.groups, resolved, regime)


def _training_labels(
    train: Annotations, config: DatasetConfig, split: TrainingSplitConfig, seed: int
) -> tuple[ResolvedLabels, Regime]:
    """The labels to train on, of the whole training set, and their regime; the true ones where "clean" is wanted."""
    regime = config.regime(seed)
    if split.train_set_variant == "observed":
        return resolve_labels(train, config.dataset, regime, LABEL_FOLDER, config.label_file), regime
    require(
        config.label_file is None or split.val_set_variant == "observed",
        f"--train_set_variant clean: trains on the true labels, not on --label_file {config.label_file}; give one",
    )
    clean = Regime(name="full", seed=regime.seed)
    return resolve_labels(train, config.dataset, clean, LABEL_FOLDER), clean


def _seen_as_observed(splits: Splits, held_out: Index, config: DatasetConfig, seed: int) -> Annotations:
    """The validation split with the labels that the regime lets be seen in place of the true ones.

    Unknown labels are read as absent, except in a table of known labels only. A validation split of the dataset's own
    gets labels from a generator of the same seed.

    Raises: UserError when there is no validation split.
    """
    regime = config.regime(seed)
    if len(held_out):
        drawn = resolve_labels(splits.train, config.dataset, regime, LABEL_FOLDER, config.label_file)
        return replace(splits.train.take(held_out), truth=full_labels(drawn.table.take(held_out)))
    if splits.validation is None:
        raise UserError("--val_set_variant observed: there is no validation split; give --val_frac")
    return replace(splits.validation, truth=full_labels(observe(splits.validation, regime)))


def check_images(data: Data) -> None:
    """Decode every picture once (remembered in the cache). Raises: UserError naming the first that is damaged."""
    for part in (data.train, data.validation, data.test):
        if part is not None:
            part.images.check()
