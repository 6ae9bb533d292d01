from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import pytest

from utils.options import as_text, converter, kind_of, option, reader


@pytest.mark.parametrize(
    "kind, text, value",
    [
        (int, "010", 10),
        (float, "1e-5", 1e-5),
        (bool, "True", True),
        (bool, "no", False),
        (str, "no", "no"),
        (Path, "a/b", Path("a/b")),
        (Literal["x", "y"], "x", "x"),
        (int | None, "", None),
        (int | None, "3", 3),
        (Literal["x"] | None, "", None),
    ],
)
def test_text_becomes_the_annotated_type(kind, text, value):
    convert, _ = converter(kind)
    assert convert(text) == value


UNFIT = [(int, "1.0"), (float, "nan"), (float, "x"), (bool, "2"), (Literal["x"], "z"), (str, "")]


@pytest.mark.parametrize("kind, text", UNFIT)
def test_text_that_does_not_fit_is_a_value_error_with_a_reason(kind, text):
    convert, _ = converter(kind)
    with pytest.raises(ValueError, match="must"):
        convert(text)


def test_choices_come_with_the_annotation():
    assert converter(Literal["x", "y"])[1] == ("x", "y")
    assert converter(int)[1] == ()


def test_an_option_says_everything_once():
    @dataclass(frozen=True)
    class Config:
        rate: float = option(0.5, "share of labels", aliases=("share",))

    (field,) = fields(Config)
    assert (Config().rate, field.metadata["help"], field.metadata["aliases"]) == (0.5, "share of labels", ("share",))


@pytest.mark.parametrize(
    "kind, text, value",
    [
        (tuple[int, ...], "0,2,-2,-2", (0, 2, -2, -2)),
        (tuple[int, ...], "-2 2", (-2, 2)),
        (tuple[float, ...] | None, "", None),
        (tuple[float, ...] | None, "0.4, 0.8", (0.4, 0.8)),
        (tuple[int, ...], "", ()),
        (tuple[Literal["x", "y"], ...], "y,x", ("y", "x")),
    ],
)
def test_lists_are_written_with_commas_and_read_back(kind, text, value):
    convert, _ = converter(kind)
    assert convert(text) == value
    assert convert(as_text(value)) == value


@pytest.mark.parametrize("value", [None, True, 3, 1e-5, "x", Path("a/b"), (1, -2)])
def test_every_value_has_a_text_that_gives_it_back(value):
    kinds = {type(None): int | None, tuple: tuple[int, ...], type(Path()): Path}
    convert, _ = converter(kinds.get(type(value), type(value)))
    assert convert(as_text(value)) == value


def test_choices_of_a_registry_make_a_choice_of_a_text():
    kind = kind_of(str, ("a", "b"))
    assert kind == "choice"
    with pytest.raises(ValueError, match="must be one of a, b"):
        reader(kind, ("a", "b"))("c")
