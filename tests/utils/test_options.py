from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import pytest

from utils.options import converter, option


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
