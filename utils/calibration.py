"""Scores turned into probabilities class by class, fitted on images that no weight was trained on.

N images, C classes; logits (N, C), truth (N, C) int8: 1 present, 0 absent, -1 unknown, which is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit

from utils.metrics import Mask, Scores
from utils.thresholds import ENOUGH_POSITIVES, Floats
from utils.types import PRESENT, UNKNOWN, Codes

CalibrationMethod = Literal["temperature", "isotonic"]

_MOST = 20.0
"""Temperatures are searched from 1 / this to this: classes that are told apart without error would have none."""


class Knots(NamedTuple):
    """A function of the logit, linear between its knots and constant outside."""

    logit: Floats  # (K,) rising
    probability: Floats  # (K,) rising


@dataclass(frozen=True)
class Calibration:
    """What makes probabilities of logits: one temperature per class, or one rising function per class."""

    method: CalibrationMethod
    own: Mask
    """(C,) False where a class has too few positives or negatives, and so the function of all classes together."""
    temperature: Floats | None = None
    """(C,) for `temperature`: the probability is sigmoid(logit / temperature) (Guo et al., ICML 2017, eq. 9)."""
    knots: tuple[Knots, ...] = ()
    """One per class for `isotonic` (Zadrozny & Elkan, KDD 2002)."""

    def probabilities(self, logits: Scores) -> NDArray[np.floating[Any]]:
        """Probabilities (N, C) of logits (N, C), in their precision."""
        if self.temperature is not None:
            found: NDArray[np.floating[Any]] = expit(logits / self.temperature.astype(logits.dtype))
            return found
        columns = [np.interp(column, *one) for column, one in zip(logits.T, self.knots, strict=True)]
        return np.stack(columns, axis=1).astype(logits.dtype)

    def take(self, columns: NDArray[np.int64]) -> Calibration:
        """The calibration of these classes, in their order."""
        temperature = None if self.temperature is None else self.temperature[columns]
        knots = tuple(self.knots[k] for k in columns) if self.knots else ()
        return Calibration(self.method, self.own[columns], temperature, knots)


def fit_calibration(
    logits: Scores, truth: Codes, method: CalibrationMethod, enough: int = ENOUGH_POSITIVES
) -> Calibration:
    """The calibration of every class; one with too few known positives or negatives has that of all entries together.

    Raises: ValueError when all known entries together are too few.
    """
    present, known = truth == PRESENT, truth != UNKNOWN
    positives, negatives = (present & known).sum(axis=0), (~present & known).sum(axis=0)
    if min(positives.sum(), negatives.sum()) < enough:
        raise ValueError(f"{positives.sum()} positives and {negatives.sum()} negatives are known")
    own = (positives >= enough) & (negatives >= enough)
    fit = fit_temperature if method == "temperature" else fit_isotonic
    common = fit(logits[known], present[known])
    each = [fit(logits[known[:, k], k], present[known[:, k], k]) if own[k] else common for k in range(truth.shape[1])]
    if method == "temperature":
        return Calibration(method, own, np.array(each, dtype=np.float64))
    return Calibration(method, own, knots=tuple(each))  # type: ignore[arg-type]  # knots, of `fit_isotonic`


def fit_temperature(logits: NDArray[Any], present: NDArray[np.bool_]) -> float:
    """The temperature with the lowest binary cross-entropy.

    Args:
        logits: (M,).
        present: (M,) True where the class is there.
    """
    values = logits.astype(np.float64)

    def loss(log_temperature: float) -> float:
        scaled = values * np.exp(-log_temperature)
        return float((np.logaddexp(0, scaled) - scaled * present).mean())

    bound = np.log(_MOST)  # convex in 1 / temperature, so there is one minimum between the bounds
    return float(np.exp(minimize_scalar(loss, bounds=(-bound, bound), method="bounded", options={"xatol": 1e-6}).x))


def fit_isotonic(logits: NDArray[Any], present: NDArray[np.bool_]) -> Knots:
    """The rising function with the lowest squared error, as scikit-learn's `IsotonicRegression` finds it; as above."""
    from sklearn.isotonic import IsotonicRegression  # takes a second to import

    fitted = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
    fitted.fit(logits.astype(np.float64), present.astype(np.float64))
    return Knots(fitted.X_thresholds_.astype(np.float64), fitted.y_thresholds_.astype(np.float64))
