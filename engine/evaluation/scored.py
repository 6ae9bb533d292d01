"""Results of a checkpoint on a test set, and the file of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from engine.core.checkpoint import SavedModel
from engine.core.manifest import Published
from engine.core.scoring import EvalResult, beside_as_dict
from engine.evaluation.published import comparison
from utils.safe_files import write_text
from utils.types import Annotations


class Scored(NamedTuple):
    """Results of a checkpoint on a test set."""

    measured: EvalResult
    ranking: dict[str, float] | None  # None if few labels per image are known
    groups: dict[str, float | None]
    published: dict[str, float] | None = None
    """The figures by the published evaluators, where they were asked for."""


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
        "extra": {**scored.groups, **beside_as_dict(scored.measured)},
        "average_precision": {
            name: None if value != value else value for name, value in zip(test.classes, average_precision, strict=True)
        },
    }
    if published:
        fractions = {name: value / 100 for name, value in published.metrics.items()}
        compared = bool(comparison(published, len(test), dataset).reported)
        content["published"] = {
            **{"name": published.name, "paper": published.paper, "test": fractions},
            **{"compared": compared, "images": len(test)},
        }
    write_text(file, json.dumps(content, indent=2) + "\n")
