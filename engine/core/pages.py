"""Pages in one file, for any browser, without a server or a network."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

_SHARED = Path(__file__).parent / "templates"
"""What all pages have: `page.css`, their colours, light and dark."""


def templates_in(folder: Path) -> Environment:
    """The templates of a folder. All text that is put in is escaped, and what no page may hold is spelled out."""
    return Environment(
        loader=FileSystemLoader([folder, _SHARED]),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_printable,  # of each value that is put in, before it is escaped
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _printable(value: object) -> object:
    """A value of a template; characters of a text that no page may hold are spelled out."""
    if not isinstance(value, str) or isinstance(value, Markup) or value.isprintable():
        return value  # what a macro has made is escaped already
    text = value.encode("utf-8", "backslashreplace").decode()  # surrogates: names that are no UTF-8
    return "".join(c if c.isprintable() or c in " \n\t" else c.encode("unicode_escape").decode() for c in text)
