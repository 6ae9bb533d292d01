"""The setting that was probably meant."""

import pytest

from engine.core.setting_table import Setting
from engine.core.suggestions import described, suggestion
from utils.options import Shorthand


def setting(name, text, aliases=(), shorthands=()):
    short = {each: Shorthand("N", "", dict) for each in shorthands}
    return Setting(name, "run", "int", (), 0, text, aliases, {}, short, False, False)


TABLE = {
    each.name: each
    for each in (
        setting("head_lr_mult", "the head's learning rate, in times that of the backbone"),
        setting("lr", "learning rate of the backbone", ("base_lr",)),
        setting("w_d", "weight decay", shorthands=("no_decay",)),
        setting("img_size", "side of an image in pixels"),
    )
}


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("--img_sise", "--img_size"),
        ("img_sise", "img_size"),
        ("--IMG-SIZE", "--img_size"),
        ("--base-lrr", "--base_lr"),
        ("--learning_rate", "--lr"),
        ("--learning-rate", "--lr"),
        ("--weight_decay", "--w_d"),
        ("--no_deca", "--no_decay"),
        ("--confg", "--config"),
        ("side", None),
        ("zzz", None),
    ],
)
def test_what_was_meant(given, meant):
    expected = f"; did you mean {meant}?" if meant else "; --help lists what there is"
    assert suggestion(given, TABLE, ["--config"]) == expected


def test_the_earliest_mention_comes_first_and_one_word_describes_nothing():
    assert described("learning_rate", TABLE) == ["lr", "head_lr_mult"]
    assert described("rate", TABLE) == []
    assert described("rate_learning", TABLE) == []
    assert described("of_an_image", TABLE) == ["img_size"]
