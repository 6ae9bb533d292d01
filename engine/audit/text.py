"""The summary of an audit that is printed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from engine.audit.findings import ClassFindings, Findings, listed

_FIRST = 5  # labels of each kind, pairs and classes that are named
_MEANINGS = {
    "missing": "labelled absent, probably present",
    "wrong": "labelled present, probably absent",
    "unknown": "unknown, probably present",
}


def as_text(findings: Findings) -> str:
    """Numbers of suspicious labels by kind, the first of each, and what could not be ranked."""
    return "\n".join(_lines(findings))


def _lines(findings: Findings) -> Iterator[str]:
    images = findings.images
    yield f"{len(images):,} images, {len(images.classes):,} classes"
    for kind, meaning in _MEANINGS.items():
        ranking = findings.rankings[kind]
        if not len(ranking.image):
            continue
        yield f"{meaning}: {int(ranking.sure.sum()):,} of {len(ranking.image):,} beyond the threshold of their class"
        for one in listed(findings, kind, _FIRST):
            yield f"  {one.score:.2f}  {images.classes[one.label]}  {images.ids[one.row]}"
    pairs = findings.scored.pairs
    if len(pairs):
        disagree = len({one.pair for one in findings.contradictions})
        yield f"nearly the same images: {len(pairs):,} pairs, of which {disagree:,} have contradicting labels"
    for pair in findings.alike[:_FIRST]:
        names = images.classes[pair.label], images.classes[pair.other]
        likely = f"{pair.mean:.0%} (elsewhere {pair.usual:.0%})"
        yield f"looks alike: {names[0]} without {names[1]} is {names[1]} to {likely}"
    yield from _not_ranked([one for one in findings.classes if one.why_not])


def _not_ranked(classes: Sequence[ClassFindings]) -> Iterator[str]:
    for one in classes[:_FIRST]:
        yield f"not ranked: {one.name}: {one.why_not}"
    if len(classes) > _FIRST:
        yield f"not ranked: {len(classes) - _FIRST:,} more classes (classes.csv)"
