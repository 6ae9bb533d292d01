"""The files of an audit that are tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.audit.findings import WORDS, Findings, Suspicion
from engine.audit.ranking import KINDS
from utils.csv_cells import csv_text

AUDIT_COLUMNS = (
    "kind",
    "rank",
    "image",
    "class",
    "given",
    "suggested",
    "score",
    "rank_in_class",
    "sure",
    "split",
    "why",
)
CLASS_COLUMNS = (
    *("class", "present", "absent", "unknown", "mean_where_present", "mean_where_absent"),
    *(f"sure_{kind}" for kind in KINDS),
    "not_ranked_because",
)
DUPLICATE_COLUMNS = (
    "image",
    "other",
    "cosine",
    "class",
    "present_on",
    "probability_of_present",
    "probability_of_absent",
)
ALIKE_COLUMNS = ("class", "looks_like", "images", "mean_probability", "usual_probability", "probably_swapped")


def audit_csv(findings: Findings, suspicions: Sequence[Suspicion]) -> str:
    """The suspicious labels, a line each."""
    images = findings.images
    rows = [
        (
            *(one.kind, one.rank, images.ids[one.row], images.classes[one.label]),
            *(WORDS[int(images.codes[one.row, one.label])], WORDS[one.suggested], f"{one.score:.4f}"),
            *(one.rank_in_class, int(one.sure), images.place(one.row)[0], one.why),
        )
        for one in suspicions
    ]
    return csv_text([AUDIT_COLUMNS, *rows])


def classes_csv(findings: Findings) -> str:
    """The classes, a line each."""
    limits = findings.scored.limits
    rows: list[Sequence[Any]] = []
    for label, one in enumerate(findings.classes):
        means = [_number(limits.present[label]), _number(limits.absent[label])]
        rows.append((*one[:4], *means, *(one.sure[kind] for kind in KINDS), one.why_not))
    return csv_text([CLASS_COLUMNS, *rows])


def duplicates_csv(findings: Findings) -> str:
    """Pairs of nearly equal images: a line for each class on which they disagree, or one without a class."""
    images, scored = findings.images, findings.scored
    by_pair: dict[int, list[Sequence[Any]]] = {}
    for one in findings.contradictions:
        chances = (scored.probabilities[row, one.label] for row in (one.present, one.absent))
        cells = (images.classes[one.label], images.ids[one.present], *map(_number, chances))
        by_pair.setdefault(one.pair, []).append(cells)
    rows = [
        (images.ids[first], images.ids[second], _number(scored.cosines[pair]), *cells)
        for pair, (first, second) in enumerate(scored.pairs.tolist())
        for cells in by_pair.get(pair, [("", "", "", "")])
    ]
    return csv_text([DUPLICATE_COLUMNS, *rows])


def alike_csv(findings: Findings) -> str:
    """Pairs of classes that look alike, a line each."""
    classes = findings.images.classes
    rows = [
        (classes[one.label], classes[one.other], one.images, _number(one.mean), _number(one.usual), one.swapped)
        for one in findings.alike
    ]
    return csv_text([ALIKE_COLUMNS, *rows])


def _number(value: float) -> str:
    """A number with four decimals; nothing for NaN."""
    return "" if value != value else f"{value:.4f}"
