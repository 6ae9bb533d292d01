from dataclasses import dataclass
from typing import Literal, NamedTuple

import pytest

from losses.common.variants import fill_variant_options, require_choices, variant_options
from utils.checks import UserError


class Choice(NamedTuple):
    colour: str
    size: str


VARIANTS = {"fixed": Choice("red", "small"), "reference": Choice("blue", "large")}


@dataclass(frozen=True, kw_only=True)
class Config:
    variant: str = "fixed"
    colour: Literal["red", "blue"] | None = None
    size: Literal["small", "large"] | None = None
    other: Literal["a", "b"] = "a"
    free: str = ""

    def __post_init__(self):
        fill_variant_options(self, VARIANTS)
        require_choices(self)


@pytest.mark.parametrize("variant", VARIANTS)
def test_options_left_none_are_those_of_the_variant(variant):
    config = Config(variant=variant)
    assert Choice(config.colour, config.size) == variant_options(config, VARIANTS) == VARIANTS[variant]


def test_an_option_that_is_set_stays():
    config = Config(variant="reference", colour="red")
    assert Choice(config.colour, config.size) == variant_options(config, VARIANTS) == Choice("red", "large")


@pytest.mark.parametrize(
    "wrong, line",
    [
        ({"variant": "own"}, "--variant own: must be one of fixed, reference"),
        ({"colour": "green"}, "--colour green: must be one of red, blue"),
        ({"other": "c"}, "--other c: must be one of a, b"),
    ],
)
def test_a_value_that_is_no_choice_is_refused(wrong, line):
    with pytest.raises(UserError, match=f"^{line}$"):
        Config(**wrong)


def test_other_settings_are_free():
    assert Config(free="anything").free == "anything"
