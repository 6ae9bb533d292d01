"""Label regimes: pure functions from true labels and a random generator to the labels that training sees.

N rows, C classes. Truth that is UNKNOWN counts as ABSENT in every regime but "given". The published recipes are
defined by numpy's legacy generator (`RandomState`); given a `Generator` the same functions draw its own stream.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.random import Generator, RandomState
from numpy.typing import NDArray

from utils.checks import UserError, require
from utils.types import ABSENT, PRESENT, UNKNOWN, Annotations, Codes, Index, LabelTable

RegimeName = Literal["candidate", "dropped", "single", "observed", "full", "given"]
GeneratorKind = Literal["published", "native"]

_BLOCK = 1 << 18  # draws at a time; for a `Generator` part of what its stream means


def candidate_labels(truth: Codes, rng: RandomState | Generator, rate: float) -> Codes:
    """Candidate labels: each true label, and each other one with probability `rate`.

    A `RandomState` is used as published: N * C doubles in row-major order, one per entry, a candidate where the draw
    is below the rate (CoNeS, published code, utils/pml_data.py). A `Generator` needs one byte an entry instead.

    Args:
        truth: (N, C) codes; not changed.
        rng: where the draws come from.
        rate: in [0, 1].

    Returns:
        (N, C) int8, PRESENT for a candidate, ABSENT for the rest.

    Raises:
        UserError: `rate` is outside [0, 1].
    """
    _require_rate(rate)
    below = _below_rate if isinstance(rng, Generator) else _below_rate_published
    positive = (truth == PRESENT).reshape(-1)
    for start in range(0, truth.size, _BLOCK):
        part = positive[start : start + _BLOCK]
        part |= below(rng, len(part), rate)  # type: ignore[arg-type]
    return _codes(positive.reshape(truth.shape))


def dropped_positives(truth: Codes, rng: RandomState | Generator, rate: float) -> Codes:
    """Each positive loses its label with probability `rate`, independently (the "x % left" settings of CLS).

    One draw per positive, in row-major order. A row may lose all of its labels.

    Args:
        truth: (N, C) codes; not changed.
        rng: where the draws come from.
        rate: in [0, 1].

    Returns:
        (N, C) int8, PRESENT for a kept positive, UNKNOWN for the rest.

    Raises:
        UserError: `rate` is outside [0, 1].
    """
    _require_rate(rate)
    row, column = np.nonzero(truth == PRESENT)
    kept = rng.uniform(0.0, 1.0, len(row)) >= rate
    observed = np.full(truth.shape, UNKNOWN, dtype=np.int8)
    observed[row[kept], column[kept]] = PRESENT
    return observed


def observed_labels(truth: Codes, rng: RandomState | Generator, num_pos: int, num_neg: int) -> Codes:
    """A few known labels per row: at most `num_pos` positives and `num_neg` negatives, chosen by shuffling.

    The recipe of Cole et al. (CVPR 2021), published code, preproc/generate_observed_labels.py: row by row the
    positions of the positives are shuffled, then those of the negatives, also where none of them is wanted, so that
    the draws of a row depend on the truth alone. A row without positives stays, with nothing positive known.

    Args:
        truth: (N, C) codes; not changed.
        rng: where the draws come from.
        num_pos: positives kept per row, -1 for all.
        num_neg: negatives kept per row, -1 for all.

    Returns:
        (N, C) int8, PRESENT and ABSENT for what is known, UNKNOWN for the rest.

    Raises:
        UserError: a number is below -1.
    """
    _require_number("num_pos", num_pos)
    _require_number("num_neg", num_neg)
    positive = truth == PRESENT
    observed = np.full(truth.shape, UNKNOWN, dtype=np.int8)
    for row, known in zip(positive, observed, strict=True):
        known[_shuffled(row, rng)[: _stop(num_pos)]] = PRESENT
        known[_shuffled(~row, rng)[: _stop(num_neg)]] = ABSENT
    return observed


def full_labels(truth: Codes) -> Codes:
    """The true labels (N, C), UNKNOWN read as ABSENT; a copy."""
    return _codes(truth == PRESENT)


def given_labels(truth: Codes) -> Codes:
    """The labels (N, C) as the dataset's files give them, UNKNOWN included; a copy."""
    return truth.copy()


@dataclass(frozen=True, kw_only=True)
class Regime:
    """Which labels training sees, and by which draws. Raises: UserError when a value is none of its range."""

    name: RegimeName
    partial_rate: float = 0.1
    """candidate: chance of each absent class to be a candidate too."""
    drop_rate: float = 0.75
    """dropped: chance of each positive to go unlabelled."""
    num_pos: int = 1
    """observed: positives kept per row, -1 for all."""
    num_neg: int = 0
    """observed: negatives kept per row, -1 for all."""
    seed: int = 0
    rng: GeneratorKind = "published"
    """numpy's legacy generator, as the published label files, or its faster present one."""

    def __post_init__(self) -> None:
        names, generators = get_args(RegimeName), get_args(GeneratorKind)
        require(self.name in names, f"label regime {self.name!r}: there are {', '.join(names)}")
        require(self.rng in generators, f"generator {self.rng!r}: there are {', '.join(generators)}")
        _require_rate(self.partial_rate)
        _require_rate(self.drop_rate)
        _require_number("num_pos", self.num_pos)
        _require_number("num_neg", self.num_neg)
        require(0 <= self.seed < 2**32, f"label seed {self.seed}: must be in 0 .. 2^32 - 1")

    @property
    def is_drawn(self) -> bool:
        """Whether chance has a part in these labels, so that they are worth a file."""
        return self.name in ("candidate", "dropped", "single", "observed")

    @property
    def rate(self) -> float | None:
        """The rate that counts in this regime, None where there is none."""
        return {"candidate": self.partial_rate, "dropped": self.drop_rate}.get(self.name)

    @property
    def known(self) -> tuple[int, int] | None:
        """The numbers of positives and negatives kept, None where the regime has no such numbers."""
        return {"single": (1, 0), "observed": (self.num_pos, self.num_neg)}.get(self.name)

    @property
    def rate_text(self) -> str:
        """The part of a label file's name that tells two regimes of one name apart: `0.1`, `p1n0`, `pallnall`."""
        if self.known is not None:
            text = "p{}n{}".format(*self._known_texts())
        else:
            text = "all" if self.rate is None else repr(float(self.rate))
        return text if self.rng == "published" or not self.is_drawn else f"{text}-native"

    def describe(self) -> str:
        """The regime in words, without the seed: `candidate labels at rate 0.1`."""
        text = f"{self.name} labels"
        if self.rate is not None:
            text += f" at rate {float(self.rate)!r}"
        if self.known is not None:
            text += " ({} positive, {} negative a row)".format(*self._known_texts())
        return text if self.rng == "published" or not self.is_drawn else f"{text}, native generator"

    def generator(self) -> RandomState | Generator:
        """A fresh generator of this regime's kind and seed."""
        return RandomState(self.seed) if self.rng == "published" else np.random.default_rng(self.seed)

    def _known_texts(self) -> list[str]:
        return ["all" if number < 0 else str(number) for number in self.known or ()]


def observe(annotations: Annotations, regime: Regime) -> LabelTable:
    """The labels of `annotations` that `regime` lets training see, rows in the order of `annotations`.

    The recipe of "single" and "observed" was published on rows in the order of their ids as texts ("100" before
    "9" on COCO), so it draws in that order here too.
    """
    truth = annotations.truth
    if regime.name == "given":
        return truth
    codes, rng = truth.dense(), regime.generator()
    if regime.known is not None:
        order = annotations.recipe_order()
        observed = np.empty_like(codes)
        observed[order] = observed_labels(codes[order], rng, *regime.known)
        return LabelTable(observed)
    if regime.name == "candidate":
        return LabelTable(candidate_labels(codes, rng, regime.partial_rate))
    return LabelTable(full_labels(codes) if regime.name == "full" else dropped_positives(codes, rng, regime.drop_rate))


def _codes(present: NDArray[np.bool_]) -> Codes:
    """PRESENT where true, ABSENT elsewhere, without a copy: these codes are the bytes of the truth values."""
    codes: Codes = present.view(np.int8)
    return codes


def _below_rate_published(rng: RandomState, count: int, rate: float) -> NDArray[np.bool_]:
    """(count,) one double a place, in order: whether it is below `rate`."""
    return rng.uniform(0.0, 1.0, count) < rate


def _below_rate(rng: Generator, count: int, rate: float) -> NDArray[np.bool_]:
    """(count,) True with probability `rate`, to the precision of a double.

    One byte decides nearly every place: below, or above, 256 * rate cut to an integer. Where it is equal, a second
    draw decides by the fraction that was cut off.
    """
    whole, fraction = int(rate * 256), rate * 256 % 1
    words = rng.integers(0, 2**64, -(-count // 8), dtype=np.uint64)  # eight draws each; faster than byte by byte
    draws = words.astype("<u8", copy=False).view(np.uint8)[:count]
    below = draws < whole
    even = np.flatnonzero(draws == whole)
    below[even] = rng.random(len(even)) < fraction
    return below


def _shuffled(chosen: NDArray[np.bool_], rng: RandomState | Generator) -> Index:
    """The positions that are chosen, shuffled. 64-bit and one-dimensional: numpy's stream depends on it."""
    positions = np.flatnonzero(chosen).astype(np.int64, copy=False)
    rng.shuffle(positions)
    return positions


def _stop(number: int) -> int | None:
    """The end of a slice that keeps `number` entries, -1 for all."""
    return None if number < 0 else number


def _require_rate(rate: float) -> None:
    if not 0 <= rate <= 1:  # a NaN is outside too
        raise UserError(f"rate {rate}: must be between 0 and 1")


def _require_number(name: str, number: int) -> None:
    require(number >= -1, f"{name} {number}: must be -1 (all) or a number of labels")
