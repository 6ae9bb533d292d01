"""What an audit has found, and why each label is listed. N images, C classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from engine.audit.ranking import (
    KINDS,
    AlikePair,
    Contradiction,
    Ranking,
    alike_classes,
    contradictions,
    ranked,
)
from engine.audit.scores import Scored
from engine.audit.source import AuditedImages
from utils.types import ABSENT, PRESENT, UNKNOWN

WORDS = {PRESENT: "present", ABSENT: "absent", UNKNOWN: "unknown"}
"""Labels in files."""


class Suspicion(NamedTuple):
    """One label that is listed."""

    kind: str
    rank: int
    """From 1, among all of its kind."""
    row: int
    label: int
    score: float
    rank_in_class: int
    sure: bool
    why: str

    @property
    def suggested(self) -> int:
        """The label that it probably is."""
        return ABSENT if self.kind == "wrong" else PRESENT


class ClassFindings(NamedTuple):
    """A class: its labels, and how many of them are suspicious."""

    name: str
    present: int
    absent: int
    unknown: int
    why_not: str
    """Why the class is not ranked; empty where it is."""
    sure: Mapping[str, int]
    """Labels beyond the threshold of the class, by kind."""


class Findings(NamedTuple):
    """Results of an audit."""

    images: AuditedImages
    scored: Scored
    rankings: Mapping[str, Ranking]
    classes: Sequence[ClassFindings]
    contradictions: Sequence[Contradiction]
    alike: Sequence[AlikePair]


def find(images: AuditedImages, scored: Scored, least: int) -> Findings:
    """Rank all labels, and look for contradictions and for classes that look alike.

    Args:
        images: the images and their labels.
        scored: their probabilities.
        least: labels that a class needed to be ranked.
    """
    codes, found = images.codes, scored.probabilities
    rankings = {kind: ranked(kind, found, codes, scored.limits) for kind in KINDS}
    return Findings(
        images,
        scored,
        rankings,
        _class_findings(images, scored, rankings, least),
        contradictions(scored.pairs, codes),
        alike_classes(found, codes, scored.limits),
    )


def _class_findings(
    images: AuditedImages, scored: Scored, rankings: Mapping[str, Ranking], least: int
) -> list[ClassFindings]:
    counts = {code: (images.codes == code).sum(axis=0).tolist() for code in WORDS}
    classes = len(images.classes)
    sure = {kind: np.bincount(one.label[one.sure], minlength=classes).tolist() for kind, one in rankings.items()}
    rows = []
    for label, name in enumerate(images.classes):
        present, absent, unknown = (counts[code][label] for code in (PRESENT, ABSENT, UNKNOWN))
        few = [f"{number} {word}" for number, word in ((present, "present"), (absent, "absent")) if number < least]
        why_not = f"only {' and '.join(few)} of the {least} that are needed" if few else _TOO_FEW_UNITS
        of_kinds = {kind: numbers[label] for kind, numbers in sure.items()}
        rows.append(ClassFindings(name, present, absent, unknown, "" if scored.ranked[label] else why_not, of_kinds))
    return rows


_TOO_FEW_UNITS = "all its labels are of images in one group"


def listed(findings: Findings, kind: str, most: int) -> list[Suspicion]:
    """The first labels of a kind, each with the reason."""
    ranking, copies = findings.rankings[kind], _contradicted(findings)
    shown = list(
        zip(
            *(part[:most].tolist() for part in (ranking.image, ranking.label, ranking.score, ranking.rank)), strict=True
        )
    )
    return [
        Suspicion(
            kind,
            number,
            row,
            label,
            score,
            rank,
            bool(ranking.sure[number - 1]),
            _why(findings, row, label, copies.get((row, label))),
        )
        for number, (row, label, score, rank) in enumerate(shown, 1)
    ]


def _contradicted(findings: Findings) -> dict[tuple[int, int], int]:
    """Of each label that a near duplicate contradicts, that image."""
    found: dict[tuple[int, int], int] = {}
    for one in findings.contradictions:
        found.setdefault((one.present, one.label), one.absent)
        found.setdefault((one.absent, one.label), one.present)
    return found


def _why(findings: Findings, row: int, label: int, copy: int | None) -> str:
    """The evidence for a label in a sentence."""
    scored, codes = findings.scored, findings.images.codes
    means = scored.limits.present[label], scored.limits.absent[label]
    parts = [
        f"probability {scored.probabilities[row, label]:.2f}, on average {means[0]:.2f} where labelled present and "
        f"{means[1]:.2f} where absent"
    ]
    if scored.neighbours is not None:
        theirs = codes[scored.neighbours.rows[row], label]
        known = int((theirs != UNKNOWN).sum())
        parts.append(f"labelled present on {int((theirs == PRESENT).sum())} of the {known} most similar images")
    if copy is not None:
        parts.append(f"{WORDS[int(codes[copy, label])]} on {findings.images.ids[copy]}, which is nearly the same image")
    return "; ".join(parts)
