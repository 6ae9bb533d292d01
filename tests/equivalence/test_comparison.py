"""The comparison itself: that it would notice, and that both sides get what they should."""

import math

import numpy as np
import pytest
import torch

from engine.core.scoring import group_figures_as_dict
from tests.equivalence.cases import CASES
from tests.equivalence.comparison import Bounds, differences, epochs_of
from tests.equivalence.plain import Outcome, figures, grouped, scaled
from tests.equivalence.scene import SCENES, TAIL, with_validation
from utils.long_tail import class_groups
from utils.metrics import evaluate_scores

ROW = {"test_mAP": 0.5, "test_OF1": 0.25}


def outcome(loss=1.0, weight=1.0, mean=1.0, kept=1.0, figure=0.5, chosen=1):
    """A run of one step."""
    weights = {"fc.weight": torch.tensor([0.0, weight]), "bn.running_mean": torch.tensor([mean])}
    states = [{"q": torch.tensor([kept], dtype=torch.float32), "d": torch.tensor([kept], dtype=torch.float64)}]
    return Outcome([loss], states, weights, [{**ROW, "test_mAP": figure}], chosen)


def found(**changed):
    reported = {"mAP": 0.5, "OF1": 0.25}
    return differences(outcome(), outcome(**changed), reported, 0.0)._asdict()


def test_equal_runs_have_no_differences():
    assert {kind: value for kind, value in found().items() if value} == {"steps": 1}


@pytest.mark.parametrize(
    "part, kinds",
    [
        ("loss", {"losses"}),
        ("weight", {"weights"}),
        ("mean", {"buffers"}),
        ("kept", {"state", "float32_state"}),
        ("figure", {"figures"}),
    ],
)
def test_a_difference_is_found_where_it_is(part, kinds):
    seen = found(**{part: 0.75})
    assert {kind for kind in Bounds._fields if seen[kind]} == kinds
    assert all(seen[kind] == 0.25 for kind in kinds)


def test_what_one_side_does_not_have_differs_infinitely():
    ours, theirs = outcome(), outcome()
    del theirs.weights["fc.weight"]
    assert differences(ours, theirs, {}, 0.0).weights == math.inf
    assert found(loss=math.nan)["losses"] == math.inf
    theirs = outcome()._replace(states=[{"q": outcome().states[0]["q"]}])
    assert differences(ours, theirs, {}, 0.0).state == math.inf
    with pytest.raises(ValueError, match="zip"):
        differences(ours, outcome()._replace(losses=[1.0, 1.0]), {}, 0.0)


def test_another_epoch_reported_is_a_difference():
    ours = outcome()._replace(figures=[ROW, ROW], losses=[1, 1], states=outcome().states * 2)
    assert differences(ours, ours, {"mAP": 0.5}, 0.0).figures == 0
    assert differences(ours, ours._replace(chosen=2), {"mAP": 0.5}, 0.0).figures == math.inf


@pytest.mark.parametrize("steps, expected", [(16, (4, 4)), (4, (2, 2)), (12, (4, 3)), (1, (2, 2)), (64, (4, 16))])
def test_steps_are_spread_over_epochs(steps, expected):
    assert epochs_of(CASES["bce"], steps) == expected


@pytest.mark.parametrize("rows", [7, 15, 31, 50])
def test_a_validation_split_leaves_the_rows_that_were_asked_for(rows):
    total = with_validation(rows)
    assert total - round(0.2 * total) == rows


def test_the_most_frequent_class_of_the_long_tail_fills_the_epoch(tmp_path):
    scene = SCENES["voc-lt"](tmp_path, 32, np.random.default_rng(0))
    train = np.stack([codes for one, codes in scene.truth.items() if one.startswith("2008_")])
    counts = train.sum(axis=0)
    assert counts.argmax() == 0
    assert 32 <= counts[0] * len(TAIL) < 32 + len(TAIL)
    assert counts.min() >= 1
    assert train.any(axis=1).all()


def test_figures_are_those_of_the_log():
    rng = np.random.default_rng(3)
    logits, truth = rng.normal(size=(40, 6)), rng.integers(-1, 2, (40, 6)).astype(np.int8)
    truth[:, 2], truth[:, 4] = 0, -1
    measured = evaluate_scores(logits, truth).as_dict()
    assert figures("test", logits, truth) == pytest.approx({f"test_{name}": value for name, value in measured.items()})


def test_figures_of_groups_are_those_of_the_log():
    rng = np.random.default_rng(4)
    logits, truth = rng.normal(size=(40, 6)), rng.integers(0, 2, (40, 6)).astype(np.int8)
    seen = np.array([120, 100, 99, 20, 19, 1])
    ours = group_figures_as_dict(evaluate_scores(logits, truth), class_groups(seen))
    named = {f"test_{group}_{name}": value for group, row in ours.items() for name, value in row.items()}
    assert grouped(logits, truth, seen) == pytest.approx(named)


def test_pixels_are_scaled_in_float64():
    pixels = torch.full((1, 3, 1, 1), 51, dtype=torch.uint8)
    assert scaled(pixels, None).flatten().tolist() == [0.2] * 3
    assert scaled(pixels, ((0.1, 0.2, 0.0), (1.0, 1.0, 2.0))).flatten().tolist() == [0.1, 0.0, 0.1]
