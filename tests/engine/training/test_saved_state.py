"""The progress that a save names, checked field by field."""

import math
from dataclasses import asdict

import pytest

from engine.training.loop import TrainState
from engine.training.saved_state import checked_position
from utils.metrics import FIGURES

ROW = {"epoch": 1, "loss": 0.5, "images_per_second": 3.0}
SOUND = asdict(TrainState(epoch=2, step=3, sums={"loss": 1.0}, seconds=2.5, images=12, best_epoch=1, history=[ROW]))


def test_what_was_saved_is_given_back():
    assert checked_position(SOUND, 2, 3) == SOUND
    earlier = {name: value for name, value in SOUND.items() if name not in ("stopped", "plateau")}
    assert checked_position(earlier, 2, 3) == earlier
    ended = {**SOUND, "epoch": 3, "step": 0, "history": [ROW, ROW], "plateau": {"factor": 0.1, "waited": 2}}
    assert checked_position(ended, 2, 3) == ended
    begun = {**SOUND, "epoch": 1, "step": 0, "seconds": 0, "images": 0, "best_epoch": 0, "history": []}
    assert checked_position(begun, 2, 3) == begun


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("epoch", value) for value in (0, 4, 2.0, True)),
        *(("step", value) for value in (-1, 4, 1.0, "3")),
        *(("history", value) for value in ([], [ROW, ROW], [{"epoch": 1}], [7], [{**ROW, "loss": "x"}])),
        *(("sums", value) for value in ([], {"loss": None}, {"loss": 1.0, "part": None}, {1: 1.0}, {"loss": 2**60})),
        *(("seconds", value) for value in (-1.0, math.inf, math.nan, "1")),
        *(("best_score", value) for value in (math.nan, None, "1")),
        *(("images", value) for value in (-1, 1.5)),
        ("plateau", {"factor": "x"}),
        ("best_epoch", None),
        ("stopped", 1),
    ],
)
def test_what_cannot_be_is_named(name, value):
    with pytest.raises(ValueError, match=f"^its (history|{name}) cannot be"):
        checked_position({**SOUND, name: value}, 2, 3)


def test_an_epoch_behind_the_last_and_one_bad_row_of_several_are_named():
    with pytest.raises(ValueError, match=r"^its epoch cannot be"):
        checked_position({**SOUND, "epoch": 4, "history": [ROW] * 3}, 2, 3)
    with pytest.raises(ValueError, match=r"^its history cannot be"):
        checked_position({**SOUND, "epoch": 3, "history": [ROW, {"epoch": 1}]}, 2, 3)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_split_that_was_scored_has_all_of_its_figures(split):
    figures = {f"{split}_{name}": 0.5 for name in FIGURES}
    assert checked_position({**SOUND, "history": [{**ROW, **figures}]}, 2, 3)["history"] == [{**ROW, **figures}]
    for name in figures.keys() - {f"{split}_mAP"}:
        fewer = {key: value for key, value in figures.items() if key != name}
        with pytest.raises(ValueError, match=r"^its history cannot be"):
            checked_position({**SOUND, "history": [{**ROW, **fewer}]}, 2, 3)


@pytest.mark.parametrize("change", [{"more": 1}, {"history": None}])
def test_other_forms_are_errors_too(change):
    with pytest.raises((KeyError, TypeError)):
        checked_position({**SOUND, **change}, 2, 3)
