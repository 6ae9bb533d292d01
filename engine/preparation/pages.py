"""What the page of a dataset says about getting it."""

from __future__ import annotations

import re
from pathlib import Path

from utils.checks import UserError

PAGES = Path(__file__).resolve().parents[2] / "docs" / "datasets"

_TERMS = re.compile(r"^## Terms\n+(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
_NOTHING = "nothing to download"


def page_of(dataset: str, pages: Path = PAGES) -> Path:
    """The page whose sentence below the title names a dataset. Raises: UserError if there is none."""
    for page in sorted(pages.glob("*.md")):
        if f"`{dataset}`" in _summary(page.read_text("utf-8")):
            return page
    raise UserError(f"{pages}: no page of {dataset} there; run the scripts from a whole checkout")


def needs_nothing(text: str) -> bool:
    """Whether a page says that its dataset is generated."""
    return _NOTHING in _summary(text)


def terms(text: str) -> str:
    """The section of a page about terms that a person has to accept; "" where it has none."""
    found = _TERMS.search(text)
    return found[1].strip() if found else ""


def steps(text: str) -> str:
    """The beginning of a page: where the dataset is from, and how its folder has to look.

    It goes on to the last code block before the first list of remarks, or to that list if there is no block.
    """
    start = re.split(r"^- ", text, maxsplit=1, flags=re.MULTILINE)[0]
    blocks = list(re.finditer(r"^```.*?^```\n", start, flags=re.MULTILINE | re.DOTALL))
    return (start[: blocks[-1].end()] if blocks else start).strip()


def _summary(text: str) -> str:
    """The paragraph below the title."""
    return text.split("\n\n")[1]
