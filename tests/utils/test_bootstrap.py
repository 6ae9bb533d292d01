"""Intervals of average precision, against draws made row by row."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from tests.oracles.bootstrap import drawn_precision, drawn_rows, quantile
from utils import bootstrap as room
from utils.bootstrap import bootstrap, drawn_weights, weighted_average_precision

RNG = np.random.default_rng(0)
SCORES = RNG.integers(0, 8, (24, 5)).astype(np.float32)  # many ties
TRUTH = RNG.choice([-1, 0, 1], (24, 5), p=[0.2, 0.4, 0.4]).astype(np.int8)
TRUTH[:, 2] = 0
TRUTH[3, 2] = 1  # a positive in one unit
TRUTH[:, 3] = 1
TRUTH[5:7, 3] = -1  # no negative
GROUPS = np.array([7, 3, 3, 9, 7, 7, 1, 1, 0, 9, 3, 2, 2, 2, 5, 6, 6, 8, 8, 8, 4, 4, 0, 1])


def unit_of(groups):
    return np.arange(24) if groups is None else np.searchsorted(np.unique(groups), groups)


@pytest.mark.parametrize("groups", [None, GROUPS], ids=["images", "groups"])
@pytest.mark.parametrize(("draws", "level"), [(1, 0.95), (40, 0.5), (60, 0.95)])
def test_intervals_are_those_of_rows_that_are_repeated(groups, draws, level):
    unit = unit_of(groups)
    units = int(unit.max()) + 1
    found = bootstrap(SCORES, TRUTH, groups, draws=draws, seed=4, level=level)
    assert (found.units, found.draws, found.level) == (units, draws, level)
    values = [drawn_precision(SCORES, TRUTH, rows) for rows in drawn_rows(unit.tolist(), units, draws, 4)]
    shares = (1 - level) / 2, (1 + level) / 2
    for k in range(5):
        ends = [np.nan, np.nan] if k in (2, 3) else [quantile([row[k] for row in values], share) for share in shares]
        np.testing.assert_allclose([found.low[k], found.high[k]], ends, rtol=1e-6)
    means = [np.mean([value for value in row if value == value]) for row in values]
    np.testing.assert_allclose(found.mAP, [quantile(means, share) for share in shares], rtol=1e-6)


def test_a_class_needs_positives_and_negatives_in_two_units():
    groups = np.array([0, 0, 1, 1, 2])
    scores = np.arange(5.0)[:, None]
    for codes, told in (
        ([1, 1, 0, 0, 0], False),
        ([1, 0, 1, 0, 0], True),
        ([0, 0, 1, 1, 1], False),
        ([1, 1, 1, -1, 0], False),
        ([0, 0, 1, 0, 1], True),
    ):
        found = bootstrap(scores, np.array(codes, dtype=np.int8)[:, None], groups, draws=50)
        assert bool(np.isfinite(found.low[0])) == told
        assert np.isfinite(found.low[0]) == np.isfinite(found.high[0])


def test_without_anything_to_judge_there_is_no_interval():
    found = bootstrap(SCORES, np.zeros_like(TRUTH), None, draws=3)
    assert np.isnan(found.mAP).all()
    assert np.isnan(found.low).all()


def test_equal_groups_widen_the_interval():
    scores = RNG.normal(size=(40, 1))
    truth = (scores + RNG.normal(size=(40, 1)) > 0).astype(np.int8)
    repeated = bootstrap(np.repeat(scores, 25, 0), np.repeat(truth, 25, 0), None, draws=200)
    grouped = bootstrap(np.repeat(scores, 25, 0), np.repeat(truth, 25, 0), np.repeat(np.arange(40), 25), draws=200)
    width = [float(each.high[0] - each.low[0]) for each in (repeated, grouped)]
    assert width[1] > 3 * width[0]
    one = bootstrap(scores, truth, None, draws=200)
    np.testing.assert_allclose([grouped.low, grouped.high], [one.low, one.high], rtol=1e-12)


@pytest.mark.parametrize("held", [1, 24, 100, 1000])
def test_how_many_draws_are_held_at_a_time_changes_nothing(monkeypatch, held):
    expected = bootstrap(SCORES, TRUTH, GROUPS, draws=11)
    monkeypatch.setattr(room, "_HELD", held)
    parts = list(drawn_weights(unit_of(GROUPS), 10, 11, 0))
    assert parts[0].shape[1] == min(11, max(1, held // 24))
    assert sum(part.shape[1] for part in parts) == 11
    for one, other in zip(bootstrap(SCORES, TRUTH, GROUPS, draws=11), expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_weights_count_how_often_the_unit_of_an_image_was_drawn():
    (weights,) = drawn_weights(np.array([1, 0, 1, 2]), 3, 4, 9)
    rng = np.random.default_rng(9)
    for draw in range(4):
        taken = rng.integers(0, 3, 3).tolist()
        assert weights[:, draw].tolist() == [taken.count(unit) for unit in (1, 0, 1, 2)]
    assert weights.dtype == np.float32


def test_weighted_precision_is_that_of_scikit_learn():
    scores, present = SCORES[:, 0], TRUTH[:, 0] == 1
    weights = RNG.integers(0, 4, (24, 6)).astype(np.float32)
    weights[present, 5] = 0
    found = weighted_average_precision(scores, present, weights)
    expected = [average_precision_score(present, scores, sample_weight=weights[:, draw]) for draw in range(5)]
    np.testing.assert_allclose(found[:5], expected, rtol=1e-6)
    assert np.isnan(found[5])
    assert np.isnan(weighted_average_precision(scores, np.zeros(24, dtype=bool), weights)).all()


@pytest.mark.parametrize(("scores", "truth", "draws"), [((3, 2), (3, 3), 1), ((0, 2), (0, 2), 1), ((3, 2), (3, 2), 0)])
def test_what_cannot_be_drawn_is_refused(scores, truth, draws):
    with pytest.raises(ValueError, match=r"must both be \(N, C\), N and draws at least 1"):
        bootstrap(np.zeros(scores), np.zeros(truth, dtype=np.int8), None, draws=draws)
