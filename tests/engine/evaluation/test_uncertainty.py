"""Intervals and figures per group: what is computed, printed and written."""

from types import SimpleNamespace

import numpy as np
import pytest

from engine.evaluation.uncertainty import (
    UncertaintyConfig,
    UncertaintyFigures,
    interval_texts,
    uncertainty_content,
    uncertainty_figures,
    uncertainty_lines,
)
from utils.bootstrap import Interval, Uncertainty, bootstrap
from utils.metrics import evaluate_scores
from utils.types import LabelTable
from utils.unit_rows import group_rows

RNG = np.random.default_rng(2)
SCORES = RNG.normal(size=(30, 3)).astype(np.float32)
TRUTH = (SCORES + RNG.normal(size=(30, 3)) > 0).astype(np.int8)
TRUTH[:, 2] = 0
GROUPS = np.arange(30) // 4
NAMES = ("cat", "dog", "owl")


def figures(groups=None, *, scores=SCORES, **config):
    test = SimpleNamespace(groups=groups, truth=LabelTable(TRUTH))
    return uncertainty_figures(SimpleNamespace(scores=scores), test, UncertaintyConfig(**config))


@pytest.mark.parametrize(("groups", "unit", "units"), [(None, "images", 30), (GROUPS, "groups", 8)])
def test_intervals_are_of_groups_where_there_are_any(groups, unit, units):
    found = figures(groups, bootstrap=50)
    assert (found.unit, found.intervals.units) == (unit, units)
    expected = bootstrap(SCORES, TRUTH, groups, draws=50)
    np.testing.assert_array_equal(found.intervals.low, expected.low)
    assert found.intervals.mAP == expected.mAP


@pytest.mark.parametrize("score", ["max", "mean"])
def test_a_group_counts_as_one_image(score):
    assert figures().per_group is None
    found = figures(GROUPS, group_scores=score, bootstrap=0)
    rows = group_rows(SCORES, TRUTH, GROUPS, score)
    expected = evaluate_scores(rows.scores, rows.truth)
    assert (found.per_group.groups, found.per_group.score) == (8, score)
    assert found.per_group.metrics.as_dict() == expected.as_dict()
    assert found.intervals is None


@pytest.mark.parametrize("scores", [None, SCORES[:0]])
def test_where_few_labels_are_known_or_there_is_no_image_there_is_neither(scores):
    found = figures(GROUPS, scores=scores)
    assert found == UncertaintyFigures(None, "groups", None)
    assert uncertainty_lines(found) == []
    assert interval_texts(found) is None
    assert uncertainty_content(found, NAMES) == {"uncertainty": None, "per_group": None}


INTERVALS = Uncertainty(
    1234, 1000, 0.95, Interval(0.61234, 0.7), np.array([0.5, 0.123, np.nan]), np.array([1.0, 0.456, np.nan])
)


def test_the_lines_say_what_was_drawn():
    assert uncertainty_lines(UncertaintyFigures(INTERVALS, "groups", None)) == [
        "mAP: 95 % interval 61.23 to 70.00 (1,000 bootstrap draws of 1,234 groups)"
    ]
    nothing = INTERVALS._replace(mAP=Interval(np.nan, np.nan))
    assert uncertainty_lines(UncertaintyFigures(nothing, "images", None)) == []
    found = figures(GROUPS, bootstrap=0, group_scores="mean")
    value = 100 * found.per_group.metrics.mAP
    (line,) = uncertainty_lines(found)
    assert line.startswith(f"per group (8 groups, mean score of their images): mAP {value:.2f}  mAP_all ")
    assert "@" not in line
    assert "(8 groups, highest score of their images)" in uncertainty_lines(figures(GROUPS, bootstrap=0))[0]


def test_the_texts_of_classes_are_percentages():
    assert interval_texts(UncertaintyFigures(INTERVALS, "images", None)) == ["50.0-100.0", "12.3-45.6", "-"]


def test_the_file_has_fractions_and_nothing_where_there_is_nothing():
    found = figures(GROUPS, bootstrap=0)
    content = uncertainty_content(UncertaintyFigures(INTERVALS, "groups", found.per_group), NAMES)
    assert content["uncertainty"] == {
        **{"drawn": "groups", "units": 1234, "draws": 1000, "level": 0.95, "mAP": [0.61234, 0.7]},
        "average_precision": {"cat": [0.5, 1.0], "dog": [0.123, 0.456], "owl": None},
    }
    of_groups = content["per_group"]
    assert (of_groups["groups"], of_groups["scores"]) == (8, "max")
    assert of_groups["test"] == found.per_group.metrics.as_dict()
    assert list(of_groups["average_precision"]) == list(NAMES)
    assert of_groups["average_precision"]["cat"] == found.per_group.metrics.per_class[0]
    assert of_groups["average_precision"]["owl"] is None
