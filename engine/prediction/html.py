"""A page of images and their predicted labels in one file, for any browser, without a server or a network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from engine.core.pages import templates_in
from engine.prediction.predictor import Label, Unreadable


class Tile(NamedTuple):
    """One image of the page."""

    name: str
    thumbnail: str  # a JPEG in base64, empty where there is none
    size: tuple[int, int]  # width and height of the thumbnail in pixels
    labels: Sequence[Label]  # best first

    @property
    def description(self) -> str:
        """Name, labels and scores in one line, for readers who do not see the image."""
        labels = ", ".join(f"{label.name} {label.score:.2f}" for label in self.labels)
        return f"{self.name}: {labels or 'no label'}"


class Page(NamedTuple):
    """Content of the page."""

    source: str  # name of the checkpoint
    tiles: Sequence[Tile]
    unreadable: Sequence[Unreadable]


def contact_sheet(page: Page) -> str:
    """The page as HTML. All text from outside is escaped, and the page's own policy forbids it to load anything."""
    counts = Counter(label.name for tile in page.tiles for label in tile.labels)
    template = _ENVIRONMENT.get_template("contact_sheet.html.j2")
    return template.render(page._asdict(), counts=sorted(counts.items()))


_ENVIRONMENT = templates_in(Path(__file__).parent / "templates")
