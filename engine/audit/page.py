"""The page of an audit in one file, for any browser, without a server: images, suspicious labels, boxes to tick."""

from __future__ import annotations

import base64
import io
import json
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from engine.audit.findings import WORDS, Findings, Suspicion
from engine.audit.source import AuditedImages
from engine.core.pages import templates_in
from utils.checks import RunError
from utils.types import ABSENT, PRESENT

_THUMBNAIL = 240  # pixels, the longer side of an image on the page
_PAIRS = 100  # contradicting pairs that are shown


class Box(NamedTuple):
    """A label that can be ticked."""

    kind: str
    name: str
    """Of the class."""
    key: str
    """Image, class, given and new label as JSON in ASCII, whatever names hold."""
    change: str
    score: str
    rank: str
    sure: bool
    why: str


class Tile(NamedTuple):
    """An image, and its suspicious labels."""

    name: str
    thumbnail: str
    """A JPEG in base64; empty where there is none."""
    size: tuple[int, int]
    boxes: Sequence[Box]
    note: str = ""


def audit_page(findings: Findings, suspicions: Sequence[Suspicion], command: str) -> str:
    """The page as HTML. All text from outside is escaped, and the page's own policy forbids it to load anything.

    Args:
        findings: all that was found.
        suspicions: the labels that are shown.
        command: the command line that takes a file of decisions, its path at the end; empty where none does.
    """
    template = _ENVIRONMENT.get_template("audit.html.j2")
    classes = sorted({findings.images.classes[one.label] for one in suspicions})
    return template.render(
        images=len(findings.images),
        tiles=_tiles(findings, suspicions),
        pairs=_pair_tiles(findings),
        classes=classes,
        table=findings.classes,
        alike=[(findings.images.classes[one.label], findings.images.classes[one.other], one) for one in findings.alike],
        kinds=[kind for kind in findings.rankings if any(one.kind == kind for one in suspicions)],
        command=command,
    )


def _tiles(findings: Findings, suspicions: Iterable[Suspicion]) -> list[Tile]:
    """The images of suspicious labels, the most suspicious first."""
    by_row: dict[int, list[Suspicion]] = {}
    for one in sorted(suspicions, key=lambda one: (one.rank, one.kind)):
        by_row.setdefault(one.row, []).append(one)
    return [_tile(findings.images, row, [_box(findings.images, one) for one in found]) for row, found in by_row.items()]


def _pair_tiles(findings: Findings) -> list[tuple[Tile, Tile]]:
    """Pairs of nearly equal images with contradicting labels, each image with the label that could change."""
    images, tiles = findings.images, []
    for one in findings.contradictions[:_PAIRS]:
        pair = []
        for row, other, given in ((one.present, one.absent, PRESENT), (one.absent, one.present, ABSENT)):
            chance = findings.scored.probabilities[row, one.label]
            score = "" if chance != chance else f"{chance if given == ABSENT else 1 - chance:.2f}"
            why = f"{WORDS[ABSENT if given == PRESENT else PRESENT]} on {images.ids[other]}"
            box = _plain_box(images, "duplicate", row, one.label, given, ABSENT if given == PRESENT else PRESENT)
            pair.append(_tile(images, row, [box._replace(score=score, why=why)]))
        tiles.append((pair[0], pair[1]))
    return tiles


def _box(images: AuditedImages, one: Suspicion) -> Box:
    """The box of a suspicious label."""
    box = _plain_box(images, one.kind, one.row, one.label, int(images.codes[one.row, one.label]), one.suggested)
    rank = f"{one.rank_in_class} of {images.classes[one.label]}"
    return box._replace(score=f"{one.score:.2f}", rank=rank, sure=one.sure, why=one.why)


def _plain_box(images: AuditedImages, kind: str, row: int, label: int, given: int, new: int) -> Box:
    """A box without its score and its reason."""
    name = images.classes[label]
    key = json.dumps([images.ids[row], name, WORDS[given], WORDS[new]])
    return Box(kind, name, key, f"{WORDS[given]} \u2192 {WORDS[new]}", "", "", sure=False, why="")


def _tile(images: AuditedImages, row: int, boxes: Sequence[Box]) -> Tile:
    """The tile of an image; without a thumbnail if the file does not open."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # decoders complain of odd metadata, which is harmless
            image = images.open(row)
    except RunError:
        return Tile(images.ids[row], "", (1, 1), boxes)
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return Tile(images.ids[row], base64.b64encode(buffer.getvalue()).decode(), image.size, boxes)


_ENVIRONMENT = templates_in(Path(__file__).parent / "templates")
