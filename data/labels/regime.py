"""Label regimes: the labels of a dataset that training sees, drawn from the true ones."""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.random import Generator, RandomState

from data.labels.class_rates import content_hash, read_class_rates, read_confusion
from data.labels.partial_annotation import (
    fixed_per_class_labels,
    known_labels,
    random_per_sample_labels,
    require_known_number,
)
from data.labels.regimes import (
    candidate_labels,
    confused_labels,
    dropped_positives,
    flipped_labels,
    full_labels,
    observed_labels,
    require_number,
    require_rate,
    semi_labels,
)
from utils.checks import require
from utils.options import Shorthand, option
from utils.types import Annotations, LabelTable

RegimeName = Literal[
    "candidate", "dropped", "single", "observed", "known", "flip", "semi", "fpc", "rps", "full", "given"
]
GeneratorKind = Literal["published", "native"]

_PARAMETERS = {
    "candidate": ("partial_rate",),
    "dropped": ("drop_rate", "keep_one"),
    "observed": ("num_pos", "num_neg"),
    "known": ("known_rate",),
    "flip": ("rho_pos", "rho_neg"),
    "semi": ("labelled_share",),
    "fpc": ("fpc_known",),
    "rps": ("rps_unknown",),
}
_RATES = ("partial_rate", "drop_rate", "known_rate", "rho_pos", "rho_neg", "labelled_share", "rps_unknown")


def labels_left(text: str) -> dict[str, str]:
    """The settings that `--labels_left` stands for: a percentage of the positives, or `single`, one per image.

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


LABELS_LEFT = Shorthand(
    "PERCENT|single",
    "published spelling: 25 is --labels dropped --drop_rate 0.75, single is --labels single",
    labels_left,
)


@dataclass(frozen=True, kw_only=True)
class Regime:
    """The recipe of observed labels, and its draws. Raises: UserError when a value is outside its range."""

    labels: RegimeName = option(
        "candidate",
        "label regime: the recipe by which observed labels come from the true ones",
        shorthands={"labels_left": LABELS_LEFT},
        common=True,
    )
    partial_rate: float = option(0.1, "candidate: chance of each absent class to be a candidate too", common=True)
    class_rates: Path | None = option(None, "candidate: a rate for each class instead, from a CSV file class,rate")
    confusion: Path | None = option(None, "candidate: chances that one class brings another along, from a CSV file")
    drop_rate: float = option(0.75, "dropped: chance of each positive to go unlabelled", common=True)
    keep_one: bool = option(False, "dropped: leave every image at least one positive")
    num_pos: int = option(1, "observed: positives kept per image, -1 for all")
    num_neg: int = option(0, "observed: negatives kept per image, -1 for all")
    known_rate: float = option(0.1, "known: chance of each entry, present or absent, to be known")
    rho_pos: float = option(0.1, "flip: chance of each present label to be seen as absent")
    rho_neg: float = option(0.1, "flip: chance of each absent label to be seen as present")
    labelled_share: float = option(0.1, "semi: share of the images that are labelled, fully")
    fpc_known: int = option(
        1000, "fpc: positives known of each class, and as many negatives; all where there are fewer"
    )
    rps_unknown: float = option(0.5, "rps: chance of each entry, present or absent, to be unknown")
    label_file: Path | None = option(None, "take the observed labels from this file")
    label_seed: int | None = option(None, "seed of the label regime (default: --seed)")
    label_rng: GeneratorKind = option(
        "published", "draw labels in the published order, or by the faster native generator"
    )

    def __post_init__(self) -> None:
        names, generators = get_args(RegimeName), get_args(GeneratorKind)
        require(self.name in names, f"label regime {self.name!r}: there are {', '.join(names)}")
        require(self.rng in generators, f"generator {self.rng!r}: there are {', '.join(generators)}")
        for name in _RATES:
            require_rate(name, getattr(self, name))
        require_number("num_pos", self.num_pos)
        require_number("num_neg", self.num_neg)
        require_known_number(self.fpc_known)
        require(0 <= self.seed < 2**32, f"label seed {self.seed}: must be in 0 .. 2^32 - 1")
        by_class = [name for name in ("class_rates", "confusion") if getattr(self, name) is not None]
        require(len(by_class) < 2, "class_rates and confusion are both set: candidates are drawn by one of them")
        if by_class and self.name != "candidate":
            require(False, f"{by_class[0]} is set: it is for candidate labels, not for {self.name} labels")

    def with_seed(self, seed: int) -> Regime:
        """The same regime, drawn by `seed` where `--label_seed` is not given."""
        return self if self.label_seed is not None else replace(self, label_seed=seed)

    @property
    def name(self) -> RegimeName:
        """The recipe, `--labels`."""
        return self.labels

    @property
    def seed(self) -> int:
        """The seed of the draws; 0 where nobody has decided it."""
        return self.label_seed or 0

    @property
    def rng(self) -> GeneratorKind:
        """Numpy's legacy generator, which drew the published label files, or its present one, which is faster."""
        return self.label_rng

    @property
    def is_drawn(self) -> bool:
        """True if chance has a part in these labels, so that they are worth a file."""
        return self.name not in ("full", "given")

    @property
    def rate(self) -> float | None:
        """The one rate that counts in this regime, None where there is none, or more than one."""
        names = [name for name in _PARAMETERS.get(self.name, ()) if name in _RATES]
        by_class = self.class_rates is not None or self.confusion is not None
        return None if by_class or len(names) != 1 else float(getattr(self, names[0]))

    def parameters(self) -> dict[str, Any]:
        """Parameters that tell this regime from others of its name, without seed and generator; of a file, its hash.

        Raises:
            UserError: the file of class rates, or the confusion, cannot be read.
        """
        if self.class_rates is not None:
            return {"class_rates": content_hash(self.class_rates)}
        if self.confusion is not None:
            return {"confusion": content_hash(self.confusion)}
        if self.name == "single":
            return {"num_pos": 1, "num_neg": 0}
        numbers = {name: getattr(self, name) for name in _PARAMETERS.get(self.name, ())}
        return {name: float(value) if name in _RATES else value for name, value in numbers.items()}

    @property
    def draw_text(self) -> str:
        """The parameters as a part of a file's name: `0.1`, `p1n0`, `pallnall`, `n1000`, `class_rates-5f0c21aa`."""
        numbers = self.parameters()
        match self.name:
            case "single" | "observed":
                return "p{}n{}".format(*map(_number_text, numbers.values()))
            case "flip":
                return f"p{float(self.rho_pos)!r}n{float(self.rho_neg)!r}"
            case "fpc":
                return f"n{self.fpc_known}"
            case "full" | "given":
                return "all"
        if self.rate is None:
            return "-".join(next(iter(numbers.items())))
        return repr(self.rate) + ("-keep1" if numbers.get("keep_one") else "")

    @property
    def rate_text(self) -> str:
        """The part of a label file's name that tells two regimes of one name apart: `draw_text`, and the generator."""
        return self.draw_text if self.rng == "published" or not self.is_drawn else f"{self.draw_text}-native"

    def describe(self) -> str:
        """The regime in words, without the seed: `candidate labels at rate 0.1`."""
        numbers = self.parameters()
        text = f"{self.name} labels" + ("" if self.rate is None else f" at rate {self.rate!r}")
        if "num_pos" in numbers:
            text += " ({} positive, {} negative a row)".format(*map(_number_text, numbers.values()))
        elif self.rate is None and numbers:
            text += f" ({', '.join(f'{name} {value}' for name, value in numbers.items())})"
        if numbers.get("keep_one"):
            text += ", at least one kept a row"
        return text if self.rng == "published" or not self.is_drawn else f"{text}, native generator"

    def generator(self) -> RandomState | Generator:
        """A fresh generator of this regime's kind and seed."""
        return RandomState(self.seed) if self.rng == "published" else np.random.default_rng(self.seed)


def observe(annotations: Annotations, regime: Regime) -> LabelTable:
    """The labels of `annotations` that `regime` lets training see, rows in the order of `annotations`.

    The recipe of "single" and "observed" was published on rows in the order of their ids as texts ("100" before
    "9" on COCO), so it draws in that order here too, and "semi" with it. Sparse truth gives sparse labels.

    Raises:
        UserError: the file of class rates, or the confusion, cannot be read or does not fit the classes; or labels are
            to be drawn from soft ones.
    """
    require_drawable(annotations.truth, regime)
    truth, rng = annotations.truth, regime.generator()
    match regime.name:
        case "given":
            return truth if annotations.given is None else annotations.given
        case "full":
            return full_labels(truth)
        case "candidate":
            return _candidates(annotations, regime)
        case "dropped":
            return dropped_positives(truth, rng, regime.drop_rate, regime.keep_one)
        case "known":
            return known_labels(truth, rng, regime.known_rate)
        case "flip":
            return flipped_labels(truth, rng, regime.rho_pos, regime.rho_neg)
        case "semi":
            return semi_labels(truth, rng, regime.labelled_share, annotations.recipe_order())
        case "fpc":
            return fixed_per_class_labels(truth, rng, regime.fpc_known)
        case "rps":
            return random_per_sample_labels(truth, rng, regime.rps_unknown)
    numbers = regime.parameters()
    return observed_labels(truth, rng, numbers["num_pos"], numbers["num_neg"], annotations.recipe_order())


def require_drawable(truth: LabelTable, regime: Regime) -> None:
    """Raise UserError if `regime` draws labels, or reads drawn ones from a file, and the true ones are soft."""
    source = f"--labels {regime.name}" if regime.label_file is None else f"--label_file {regime.label_file}"
    require(
        truth.soft is None or (regime.label_file is None and not regime.is_drawn),
        f"{source}: is of labels that are present or absent, and these are soft (--soft_labels keep); take --labels "
        "given or full without a file, or --soft_labels threshold=0.5",
    )


def _candidates(annotations: Annotations, regime: Regime) -> LabelTable:
    """Candidate labels at one rate, at a rate for each class, or by confusion."""
    truth, rng, classes = annotations.truth, regime.generator(), annotations.classes
    if regime.confusion is not None:
        return confused_labels(truth, rng, read_confusion(regime.confusion, classes))
    if regime.class_rates is not None:
        return candidate_labels(truth, rng, read_class_rates(regime.class_rates, classes))
    return candidate_labels(truth, rng, regime.partial_rate)


def _number_text(number: int) -> str:
    return "all" if number < 0 else str(number)
