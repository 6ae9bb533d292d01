"""Thresholds and calibrations of a checkpoint: what they say of scores, and their way into a file and back."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit

from engine.core.decisions import Decisions, Thresholds, decisions_of
from utils.calibration import Calibration, Knots
from utils.checks import UserError

LOGITS = np.array([[0.0, 1.0, -1.0], [2.0, -3.0, 0.5]])
LIMITS = Thresholds(
    "precision=0.9", "the validation split", np.array([0.0, np.inf, -1.0]), np.array([True, False, True])
)
WARM = Calibration("temperature", np.array([True, True, False]), np.array([1.0, 2.0, 0.5]))
STEPS = Calibration(
    "isotonic",
    np.array([True, False, False]),
    knots=tuple(Knots(np.array([-1.0, 1.0]), np.array([low, 1.0])) for low in (0.0, 0.25, 0.5)),
)


def test_nothing_decided_leaves_scores_as_they_are():
    none = Decisions()
    np.testing.assert_array_equal(none.probabilities(LOGITS), expit(LOGITS))
    assert (none.predicted(LOGITS), none.threshold_probabilities(), none.as_plain()) == (None, None, {})
    assert none.take([1]) == none


def test_a_logit_at_its_threshold_is_a_prediction_and_none_reaches_infinity():
    decided = Decisions(LIMITS)
    assert decided.predicted(LOGITS).tolist() == [[True, False, True], [True, False, True]]
    assert decided.predicted(LOGITS - 0.01).tolist() == [[False, False, False], [True, False, True]]
    np.testing.assert_allclose(decided.threshold_probabilities(), [0.5, 1.0, expit(-1.0)])
    np.testing.assert_allclose(Decisions(LIMITS, WARM).threshold_probabilities(), [0.5, 1.0, expit(-2.0)])
    np.testing.assert_allclose(Decisions(LIMITS, STEPS).threshold_probabilities(), [0.5, 1.0, 0.5])


@pytest.mark.parametrize("calibration", [None, WARM, STEPS])
@pytest.mark.parametrize("thresholds", [None, LIMITS])
def test_decisions_come_back_from_a_file_and_follow_their_classes(thresholds, calibration):
    decided = Decisions(thresholds, calibration, "200 images" if calibration else "")
    found = decisions_of(json.loads(json.dumps(decided.as_plain())), 3, Path("x.pth"))
    assert found.as_plain() == decided.as_plain()
    np.testing.assert_array_equal(found.probabilities(LOGITS), decided.probabilities(LOGITS))
    assert found.calibrated_on == decided.calibrated_on
    turned = found.take([2, 0, 1])
    np.testing.assert_array_equal(
        turned.probabilities(LOGITS[:, [2, 0, 1]]), decided.probabilities(LOGITS)[:, [2, 0, 1]]
    )
    if thresholds is not None:
        np.testing.assert_array_equal(turned.predicted(LOGITS[:, [2, 0, 1]]), decided.predicted(LOGITS)[:, [2, 0, 1]])
        assert turned.thresholds.own.tolist() == [True, True, False]
        assert (turned.thresholds.rule, turned.thresholds.chosen_on) == ("precision=0.9", "the validation split")


def test_what_is_chosen_anew_alone_leaves_the_other_as_it_was():
    old = Decisions(LIMITS, WARM, "old")
    assert old.updated(Decisions(None, STEPS, "new")) == Decisions(LIMITS, STEPS, "new")
    other = Thresholds("f1", "", np.zeros(3), LIMITS.own)
    assert old.updated(Decisions(other)) == Decisions(other, WARM, "old")
    assert Decisions().updated(old) == old


def test_a_file_without_decisions_has_none():
    assert decisions_of(None, 3, Path("x.pth")) is None


def changed(*keys, to):
    """The content of a file with one part replaced, or taken away by ...."""
    content = Decisions(LIMITS, STEPS, "x").as_plain()
    part = content
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = to
    if to is ...:
        del part[keys[-1]]
    return content


@pytest.mark.parametrize(
    "content",
    [
        3,
        "text",
        {"thresholds": 3},
        {"calibration": None},
        changed("thresholds", "logits", to=[0.0, 1.0]),
        changed("thresholds", "logits", to=[0.0, 1.0, float("nan")]),
        changed("thresholds", "logits", to=["a", 1.0, 2.0]),
        changed("thresholds", "logits", to=...),
        changed("thresholds", "own", to=[1, 0, 1]),
        changed("thresholds", "own", to=[True]),
        changed("thresholds", "rule", to=...),
        changed("calibration", "method", to="platt"),
        changed("calibration", "method", to="temperature"),
        changed("calibration", "fitted_on", to=...),
        changed("calibration", "knots", to=[[[0.0], [0.5]]]),
        changed("calibration", "knots", 0, to=[[0.0, 1.0], [0.5]]),
        changed("calibration", "knots", 0, to=[[], []]),
        changed("calibration", "knots", 0, to=[[1.0, 0.0], [0.1, 0.2]]),
        changed("calibration", "knots", 0, to=[[0.0, 1.0], [0.2, 0.1]]),
        changed("calibration", "knots", 0, to=[[0.0, 1.0], [0.2, 1.1]]),
        changed("calibration", "knots", 0, to=[[0.0, 1.0], [-0.1, 1.0]]),
        *(
            {"calibration": {"method": "temperature", "fitted_on": "", "own": [True] * 3, "temperature": values}}
            for values in ([1.0, 0.0, 1.0], [1.0, -1.0, 1.0], [1.0, float("inf"), 1.0], [1.0], None)
        ),
    ],
)
def test_damaged_decisions_are_refused_in_one_line(content):
    with pytest.raises(UserError, match=r"^x\.pth: a damaged model file: its thresholds or calibration are not those"):
        decisions_of(content, 3, Path("x.pth"))
