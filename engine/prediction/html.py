"""A page of pictures and their predicted labels in one file, for any browser, without a server or a network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape
from string import Template
from typing import NamedTuple

from engine.prediction.html_page import PAGE, SCRIPT, STYLE
from engine.prediction.predictor import Label, Unreadable


class Tile(NamedTuple):
    """One picture of the page."""

    name: str
    thumbnail: str  # a JPEG in base64, empty where there is none
    size: tuple[int, int]  # its width and height in pixels
    labels: Sequence[Label]  # best first


class Page(NamedTuple):
    """What the page shows."""

    source: str  # what predicted
    tiles: Sequence[Tile]
    unreadable: Sequence[Unreadable]


def contact_sheet(page: Page) -> str:
    """The page as HTML. All text from outside is escaped, and the page's own policy forbids it to load anything."""
    counts = Counter(label.name for tile in page.tiles for label in tile.labels)
    choices = [
        f'<option value="{_text(name)}">{_text(name)} ({count})</option>' for name, count in sorted(counts.items())
    ]
    return Template(PAGE).substitute(
        style=STYLE,
        script=SCRIPT,
        source=_text(page.source),
        count=f"{len(page.tiles):,} picture{'' if len(page.tiles) == 1 else 's'}",
        choices="\n".join(choices),
        unreadable=_faults(page.unreadable),
        tiles="\n".join(_tile(tile) for tile in page.tiles),
    )


def _tile(tile: Tile) -> str:
    width, height = tile.size
    told = ", ".join(f"{label.name} {label.score:.2f}" for label in tile.labels) or "no label"
    picture = '<p class="gone">no picture</p>'
    if tile.thumbnail:
        picture = (
            f'<img src="data:image/jpeg;base64,{tile.thumbnail}" alt="{_text(f"{tile.name}: {told}")}" '
            f'width="{width}" height="{height}" loading="lazy" decoding="async">'
        )
    labels = "".join(_label(label) for label in tile.labels) or '<li class="none">no label</li>'
    name = _text(tile.name)
    return (
        f'<li class="tile"><figure><div class="frame">{picture}</div><figcaption>{name}</figcaption>'
        f"</figure><ol>{labels}</ol></li>"
    )


def _label(label: Label) -> str:
    name, share = _text(label.name), f"{100 * label.score:.1f}%"
    return (
        f'<li data-label="{name}" data-score="{label.score:.6f}" style="--share:{share}">'
        f"<span>{name}</span> <b>{label.score:.2f}</b></li>"
    )


def _faults(unreadable: Sequence[Unreadable]) -> str:
    """What could not be read, folded up; nothing where there is nothing."""
    if not unreadable:
        return ""
    lines = "".join(f"<li>{_text(one.name)}: {_text(one.reason)}</li>" for one in unreadable)
    return f"<details><summary>{len(unreadable)} could not be read</summary><ul>{lines}</ul></details>"


def _text(text: str) -> str:
    """Any text as HTML text or attribute; letters that no page may hold are spelled out."""
    held = text.encode("utf-8", "backslashreplace").decode()
    return escape("".join(c if c.isprintable() or c in " \n\t" else c.encode("unicode_escape").decode() for c in held))
