"""Results of a checkpoint on a test set, and the file of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from engine.core.checkpoint import SavedModel
from engine.core.manifest import Published
from engine.core.scoring import EvalResult, beside_as_dict
from engine.evaluation.decided import CalibrationErrors, DecisionFigures
from engine.evaluation.published import comparison
from engine.evaluation.uncertainty import UncertaintyFigures, uncertainty_content
from utils.metrics import defined
from utils.safe_files import write_text
from utils.types import Annotations


class Scored(NamedTuple):
    """Results of a checkpoint on a test set."""

    measured: EvalResult
    ranking: dict[str, float] | None  # None if few labels per image are known
    groups: dict[str, float | None]
    published: dict[str, float] | None = None
    """The figures by the published evaluators, where they were asked for."""
    decided: DecisionFigures | None = None
    """The figures by thresholds and calibration, and those of each class."""
    full_rows: dict[str, float] | None = None
    """Those of images without an unknown label, where they were asked for and there are any."""
    uncertainty: UncertaintyFigures | None = None
    """Intervals, and figures per group."""


def write_result(
    saved: SavedModel, test: Annotations, scored: Scored, dataset: str, file: Path, published: Published | None
) -> None:
    """Write all metrics, and AP per class, as JSON; published values too are fractions."""
    metrics = scored.measured.metrics
    average_precision = metrics.per_class.tolist()
    content: dict[str, Any] = {
        "load_from": str(saved.path),
        "dataset": dataset,
        "test": metrics.as_dict(),
        "top_k": scored.ranking,
        **({} if scored.published is None else {"published_metrics": scored.published}),
        **({} if scored.full_rows is None else {"full_rows": scored.full_rows}),
        "extra": {**scored.groups, **beside_as_dict(scored.measured)},
        "average_precision": {
            name: defined(value) for name, value in zip(test.classes, average_precision, strict=True)
        },
    }
    if published:
        fractions = {name: value / 100 for name, value in published.metrics.items()}
        compared = bool(comparison(published, len(test), dataset).reported)
        content["published"] = {
            **{"name": published.name, "paper": published.paper, "test": fractions},
            **{"compared": compared, "images": len(test)},
        }
    if scored.decided is not None:
        content |= _decided(scored.decided, test.classes)
    if scored.uncertainty is not None:
        content |= uncertainty_content(scored.uncertainty, test.classes)
    write_text(file, json.dumps(content, indent=2) + "\n")


def _decided(figures: DecisionFigures, classes: Sequence[str]) -> dict[str, Any]:
    """Figures of each class, and those by thresholds and calibration where the checkpoint has any."""
    decisions, rows = figures.decisions, figures.classes.as_dicts(classes)
    limits = decisions.threshold_probabilities()
    for row, limit in zip(rows, [None] * len(rows) if limits is None else limits.tolist(), strict=True):
        row["threshold"] = limit
    content: dict[str, Any] = {"AUROC": defined(figures.classes.mean_auroc), "per_class": rows}
    if decisions.thresholds is not None:
        content["thresholds"] = {
            **{"rule": decisions.thresholds.rule, "chosen_on": decisions.thresholds.chosen_on},
            **{"own": dict(zip(classes, decisions.thresholds.own.tolist(), strict=True))},
            "test": None if figures.at_thresholds is None else figures.at_thresholds._asdict(),
        }
    if figures.uncalibrated is not None:
        content["calibration"] = {
            "method": None if decisions.calibration is None else decisions.calibration.method,
            "fitted_on": decisions.calibrated_on or None,
            "before": _errors(figures.uncalibrated),
            "after": None if figures.calibrated is None else _errors(figures.calibrated),
        }
    return content


def _errors(errors: CalibrationErrors) -> dict[str, float | None]:
    return {"ECE": defined(errors.pooled), "ECE_class": defined(errors.by_class)}
