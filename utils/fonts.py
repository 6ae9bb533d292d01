r"""Fonts for the letters of figures: those of the system where the usual one lacks some, such as Chinese or Hindi.

Letters that no font has are written in ASCII, by their numbers (`\u7ea2`), and a line says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from contextlib import suppress
from functools import cache

from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, findSystemFonts, fontManager
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text

from utils.console import say

_NO_FONTS = ("Last Resort", "Adobe Blank")  # their letters are boxes
_SHOWN = 5  # letters in a line
_LONGEST = 40  # signs of a line with letters by their numbers
_told: set[str] = set()


def fit_fonts(figure: Figure) -> None:
    """Give the texts of a figure fonts that have their letters; write and say once which letters no font has."""
    texts = [text for text in figure.findobj(Text) if not text.get_text().isascii()]
    lacking = _lacking("".join(text.get_text() for text in texts), [_usual()])
    if not lacking:
        return
    families, unknown = fallbacks("".join(sorted(lacking)))
    for text in texts:
        text.set_fontfamily([*text.get_fontfamily(), *families])
        text.set_text(in_ascii(text.get_text(), unknown))
    new = unknown - _told
    if new:
        _told.update(new)
        first = sorted(new)[:_SHOWN]
        shown = " ".join(first) + (" ..." if len(new) > _SHOWN else "")
        say(
            f"figures: no font of this system has {len(new)} of their letters ({shown}), which are written by their "
            f"numbers ({in_ascii(first[0], unknown)}); install a font that has them, such as Noto Sans CJK"
        )


def in_ascii(text: str, letters: Set[str]) -> str:
    r"""A text with these letters by their numbers, such as `\u7ea2`; a line that grows by that is cut at 40 signs."""
    if not letters & set(text):
        return text
    codes = {letter: letter.encode("ascii", "backslashreplace").decode() for letter in letters}
    return "\n".join(_cut(line, "".join(codes.get(letter, letter) for letter in line)) for line in text.split("\n"))


def _cut(before: str, text: str) -> str:
    """A text that was changed, cut where it became longer than may be."""
    return text if text == before or len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


@cache
def fallbacks(letters: str) -> tuple[tuple[str, ...], frozenset[str]]:
    """Families of the system's fonts that have these letters, and the letters that none has.

    Of several fonts, that is taken which has most of the letters that are left; the first by name of equally good ones.
    """
    left, families = set(letters), []
    _add_newer_fonts()
    coverage = {name: set(letters) - _lacking(letters, [path]) for name, path in _system_fonts()}
    while left:
        best = max(coverage, key=lambda name: len(coverage[name] & left), default=None)
        if best is None or not coverage[best] & left:
            break
        families.append(best)
        left -= coverage[best]
    return tuple(families), frozenset(left)


@cache
def _add_newer_fonts() -> None:
    """Let matplotlib know fonts that were installed since it looked for them: it keeps a list of those it found."""
    known = {font.fname for font in fontManager.ttflist}
    for file in findSystemFonts():
        if file not in known:
            with suppress(OSError, RuntimeError, ValueError):  # a damaged font is none
                fontManager.addfont(file)


def _system_fonts() -> list[tuple[str, str]]:
    """Families and files of the other fonts in upright letters of usual weight, by name."""
    usual = FontProperties(fname=_usual()).get_name()
    fonts = {
        font.name: font.fname
        for font in fontManager.ttflist
        if font.name != usual
        and font.style == "normal"
        and font.weight in (400, "normal", "regular")
        and not font.name.startswith(_NO_FONTS)
    }
    return sorted(fonts.items())


def _usual() -> str:
    return str(findfont(FontProperties()))


def _lacking(letters: Iterable[str], files: Iterable[str]) -> set[str]:
    """The printable letters that none of the font files has."""
    known = set().union(*(_letters_of(file) for file in files))
    return {letter for letter in letters if letter.isprintable() and ord(letter) not in known}


@cache
def _letters_of(file: str) -> frozenset[int]:
    try:
        return frozenset(FT2Font(file).get_charmap())
    except (OSError, RuntimeError, ValueError):
        return frozenset()
