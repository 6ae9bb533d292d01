from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.font_manager import FontEntry
from PIL import Image

from utils import fonts
from utils.fonts import fallbacks, fit_fonts, in_ascii
from utils.plots import save_figure

STIX = "\u1d81"  # a letter that the usual font lacks and STIXGeneral, which comes with matplotlib, has


@pytest.fixture(autouse=True)
def only_matplotlibs(monkeypatch):
    """The fonts that come with matplotlib, whatever the system has; nothing has been said yet."""
    bundled = [font for font in fonts.fontManager.ttflist if "mpl-data" in font.fname]
    monkeypatch.setattr(fonts.fontManager, "ttflist", bundled)
    monkeypatch.setattr(fonts, "_told", set())
    monkeypatch.setattr(fonts, "findSystemFonts", list)
    for each in (fallbacks, fonts._add_newer_fonts):
        each.cache_clear()
    yield
    for each in (fallbacks, fonts._add_newer_fonts):
        each.cache_clear()


def drawn(path, text):
    figure = Figure(figsize=(1, 1))
    figure.text(0.2, 0.3, text, fontsize=40)
    save_figure(figure, path)
    return figure, np.asarray(Image.open(path))


def test_a_font_that_has_the_letters_is_taken(tmp_path, capsys):
    figure, pixels = drawn(tmp_path / "a.png", STIX)
    assert figure.texts[0].get_fontfamily()[-1] == "STIXGeneral"
    assert capsys.readouterr().out == ""
    _, numbers = drawn(tmp_path / "b.png", "\u7ea2")
    assert (pixels != numbers).any()


@pytest.mark.parametrize(
    "text", ["plain", "caf\u00e9", "\u043a\u043e\u0448\u043a\u0430", "\u0394x", "a\u200b\u00a0b", ""]
)
def test_letters_of_the_usual_font_change_nothing(tmp_path, capsys, text):
    figure, _ = drawn(tmp_path / "a.png", text)
    assert figure.texts[0].get_fontfamily() == Figure().text(0, 0, "").get_fontfamily()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("text", ["\u7ea2\u8272", "\ud55c\uad6d", "\u304c", "\u0915\u0941", "\u0e41\u0e21\u0e27"])
def test_letters_that_no_font_has_are_said_once(tmp_path, capsys, text):
    for name in "ab":
        drawn(tmp_path / f"{name}.png", f"cat {text}")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("figures: no font of this system has ")
    assert lines[0].endswith("install a font that has them, such as Noto Sans CJK")
    assert text[0] in lines[0]


def test_letters_that_no_font_has_are_written_by_their_numbers(tmp_path):
    figure, _ = drawn(tmp_path / "a.png", "caf\u00e9 \u7ea2\u8272\n\U0001f98a fox\nplain")
    assert figure.texts[0].get_text() == "caf\u00e9 \\u7ea2\\u8272\n\\U0001f98a fox\nplain"
    figure, _ = drawn(tmp_path / "b.png", f"{STIX} \u7ea2")
    assert figure.texts[0].get_text() == f"{STIX} \\u7ea2"


@pytest.mark.parametrize(("count", "text"), [(6, "\\u7ea2" * 6 + "abcd"), (7, "\\u7ea2" * 6 + "\\..."), (0, "x" * 50)])
def test_a_line_that_grows_by_that_is_cut(count, text):
    before = "\u7ea2" * count + {6: "abcd", 7: "", 0: "x" * 50}[count]
    assert in_ascii(before, frozenset("\u7ea2\u8272")) == text
    assert len(text) == {6: 40, 7: 40, 0: 50}[count]


def test_a_font_that_was_installed_since_is_found(tmp_path, monkeypatch, capsys):
    (stix,) = [font.fname for font in fonts.fontManager.ttflist if font.fname.endswith("STIXGeneral.ttf")]
    (tmp_path / "new.ttf").write_bytes(Path(stix).read_bytes())
    (tmp_path / "damaged.ttf").write_bytes(b"no font")
    older = [font for font in fonts.fontManager.ttflist if "DejaVu" in font.name]
    monkeypatch.setattr(fonts.fontManager, "ttflist", older)
    count = len(older)
    files = [str(tmp_path / name) for name in ("damaged.ttf", "new.ttf")]
    monkeypatch.setattr(fonts, "findSystemFonts", lambda: [*files, older[0].fname])
    figure, _ = drawn(tmp_path / "a.png", STIX)
    assert figure.texts[0].get_text() == STIX
    assert figure.texts[0].get_fontfamily()[-1] == "STIXGeneral"
    assert capsys.readouterr().out == ""
    assert [font.fname for font in fonts.fontManager.ttflist[count:]] == [str(tmp_path / "new.ttf")]


def test_many_letters_are_counted(capsys):
    figure = Figure()
    figure.text(0, 0, "".join(chr(0x4E00 + k) for k in range(30)))
    fit_fonts(figure)
    assert "has 30 of their letters (\u4e00 \u4e01 \u4e02 \u4e03 \u4e04 ...)" in capsys.readouterr().out


@pytest.mark.parametrize("count", [1, 5, 6])
def test_at_most_five_letters_are_shown(capsys, count):
    figure = Figure()
    figure.text(0, 0, "".join(chr(0x4E00 + k) for k in reversed(range(count))))
    fit_fonts(figure)
    shown = " ".join(chr(0x4E00 + k) for k in range(min(count, 5))) + (" ..." if count > 5 else "")
    said = f"has {count} of their letters ({shown}), which are written by their numbers (\\u4e00); install a font"
    assert said in capsys.readouterr().out


def test_letters_that_were_said_before_are_not_said_again(capsys):
    for text in ("\u4e00\u4e01", "\u4e01\u4e02\u4e03", "\u4e03\u4e00"):
        figure = Figure()
        figure.text(0, 0, text)
        fit_fonts(figure)
    lines = capsys.readouterr().out.splitlines()
    assert ["(\u4e00 \u4e01)" in lines[0], "has 2 of their letters (\u4e02 \u4e03)" in lines[1]] == [True, True]
    assert len(lines) == 2


def test_the_font_with_most_of_the_letters_left_is_taken_and_of_equal_ones_the_first(monkeypatch):
    held = {"1": "abc", "2": "cdef", "3": "ab", "4": "", "5": "cdef"}
    monkeypatch.setattr(
        fonts, "_system_fonts", lambda: list(zip(["one", "two", "three", "no", "x"], held, strict=True))
    )
    monkeypatch.setattr(fonts, "_letters_of", lambda file: frozenset(map(ord, held[file])))
    assert fallbacks("abcdefgh") == (("two", "one"), frozenset("gh"))
    assert fallbacks("ab") == (("one",), frozenset())
    assert fallbacks("hg") == ((), frozenset("gh"))


def test_fonts_of_upright_letters_and_usual_weight_are_known_by_name(monkeypatch):
    usual = fonts.FontProperties(fname=fonts._usual()).get_name()
    kept = [("C", "normal", 400), ("A", "normal", "normal"), ("B", "normal", "regular")]
    left_out = [
        ("D", "italic", 400),
        ("E", "normal", 700),
        ("F", "normal", "bold"),
        (usual, "normal", 400),
        ("Last Resort HE", "normal", 400),
        ("Adobe Blank", "normal", 400),
    ]
    entries = [
        FontEntry(fname=f"{name}.ttf", name=name, style=style, weight=weight) for name, style, weight in kept + left_out
    ]
    monkeypatch.setattr(fonts.fontManager, "ttflist", entries)
    assert fonts._system_fonts() == [("A", "A.ttf"), ("B", "B.ttf"), ("C", "C.ttf")]


def test_letters_and_boxes_are_told_apart():
    assert fallbacks(STIX + "\u7ea2") == (("STIXGeneral",), frozenset("\u7ea2"))
    assert fallbacks("") == ((), frozenset())


def test_a_font_of_boxes_is_never_taken():
    assert not any("Last Resort" in name for name, _ in fonts._system_fonts())


def test_a_font_that_cannot_be_read_has_no_letters(tmp_path):
    (tmp_path / "a.ttf").write_bytes(b"no font")
    assert fonts._letters_of(str(tmp_path / "a.ttf")) == frozenset()
