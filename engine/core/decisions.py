"""What a checkpoint says of its own scores: a threshold per class, and what makes probabilities of its logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from utils.calibration import Calibration, Knots
from utils.checks import UserError
from utils.metrics import Mask, Scores
from utils.thresholds import Floats


@dataclass(frozen=True)
class Thresholds:
    """Thresholds that were chosen on held-out images."""

    rule: str
    """What for, as `--choose_thresholds` says it."""
    chosen_on: str
    """The images, in words."""
    logits: Floats
    """(C,) a logit of at least this is a prediction; infinity where nothing may be predicted."""
    own: Mask
    """(C,) False where a class had too few positives, and so has the threshold of all classes together."""


@dataclass(frozen=True)
class Decisions:
    """Thresholds and calibration of the classes of a network, in the order of its logits; each may be missing."""

    thresholds: Thresholds | None = None
    calibration: Calibration | None = None
    calibrated_on: str = ""
    """The images that the calibration was fitted on, in words."""

    def probabilities(self, logits: Scores) -> Scores:
        """Probabilities (N, C) of logits (N, C)."""
        return expit(logits) if self.calibration is None else self.calibration.probabilities(logits)

    def predicted(self, logits: Scores) -> NDArray[np.bool_] | None:
        """(N, C) True where logits (N, C) reach their thresholds; None without thresholds."""
        return None if self.thresholds is None else np.asarray(logits >= self.thresholds.logits)

    def threshold_probabilities(self) -> Floats | None:
        """(C,) the thresholds as probabilities; None without thresholds."""
        if self.thresholds is None:
            return None
        return np.asarray(self.probabilities(self.thresholds.logits[None])[0], dtype=np.float64)

    def updated(self, newer: Decisions) -> Decisions:
        """What is newer, and of this what that has not: thresholds are logits, which a calibration does not move."""
        fitted = newer if newer.calibration is not None else self
        return Decisions(newer.thresholds or self.thresholds, fitted.calibration, fitted.calibrated_on)

    def take(self, columns: Sequence[int]) -> Decisions:
        """The decisions of these classes, in their order."""
        index = np.asarray(columns, dtype=np.int64)
        thresholds = self.thresholds
        if thresholds is not None:
            thresholds = replace(thresholds, logits=thresholds.logits[index], own=thresholds.own[index])
        calibration = None if self.calibration is None else self.calibration.take(index)
        return replace(self, thresholds=thresholds, calibration=calibration)

    def as_plain(self) -> dict[str, Any]:
        """Numbers and texts alone, for a file."""
        content: dict[str, Any] = {}
        if self.thresholds is not None:
            chosen = self.thresholds
            content["thresholds"] = {
                **{"rule": chosen.rule, "chosen_on": chosen.chosen_on},
                **{"logits": chosen.logits.tolist(), "own": chosen.own.tolist()},
            }
        if self.calibration is not None:
            fitted = self.calibration
            content["calibration"] = {
                **{"method": fitted.method, "fitted_on": self.calibrated_on, "own": fitted.own.tolist()},
                "temperature": None if fitted.temperature is None else fitted.temperature.tolist(),
                "knots": [[knots.logit.tolist(), knots.probability.tolist()] for knots in fitted.knots],
            }
        return content


def decisions_of(content: Any, num_classes: int, path: Path) -> Decisions | None:
    """What `as_plain` made, read back; None where a file holds none. Raises: UserError when it is damaged."""
    if content is None:
        return None
    try:
        _expect(isinstance(content, dict))
        return Decisions(
            _thresholds(content["thresholds"], num_classes) if "thresholds" in content else None,
            _calibration(content["calibration"], num_classes) if "calibration" in content else None,
            str(content["calibration"]["fitted_on"]) if "calibration" in content else "",
        )
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError):
        raise UserError(
            f"{path}: a damaged model file: its thresholds or calibration are not those of {num_classes} classes"
        ) from None


def _thresholds(content: Mapping[str, Any], num_classes: int) -> Thresholds:
    logits = _numbers(content["logits"], num_classes)
    return Thresholds(str(content["rule"]), str(content["chosen_on"]), logits, _flags(content["own"], num_classes))


def _calibration(content: Mapping[str, Any], num_classes: int) -> Calibration:
    own = _flags(content["own"], num_classes)
    if content["method"] == "temperature":
        temperature = _numbers(content["temperature"], num_classes)
        _expect(bool((temperature > 0).all() and np.isfinite(temperature).all()))
        return Calibration("temperature", own, temperature)
    _expect(content["method"] == "isotonic" and len(content["knots"]) == num_classes)
    return Calibration("isotonic", own, knots=tuple(_knots(*one) for one in content["knots"]))


def _knots(logit: Any, probability: Any) -> Knots:
    found = Knots(_numbers(logit, len(logit)), _numbers(probability, len(logit)))
    rising = all(bool((np.diff(part) >= 0).all()) for part in found)
    _expect(rising and len(logit) > 0 and bool((found.probability >= 0).all() and (found.probability <= 1).all()))
    return found


def _numbers(values: Any, count: int) -> Floats:
    """(count,) floats, none of them NaN."""
    found = np.array(values, dtype=np.float64)
    _expect(found.shape == (count,) and not np.isnan(found).any())
    return found


def _flags(values: Any, count: int) -> Mask:
    found = np.array(values)
    _expect(found.shape == (count,) and found.dtype == np.bool_)
    return found


def _expect(condition: bool) -> None:
    if not condition:
        raise ValueError
