"""Groups of images as one row each, against plain loops."""

import numpy as np
import pytest

from tests.oracles.bootstrap import group_rows as by_hand
from utils.unit_rows import group_rows

RNG = np.random.default_rng(1)
SCORES = RNG.normal(size=(15, 4)).astype(np.float32)
TRUTH = RNG.choice([-1, 0, 1], (15, 4), p=[0.3, 0.5, 0.2]).astype(np.int8)
GROUPS = np.array([5, 2, 2, 9, 5, 2, 9, 9, 9, 1, 7, 7, 1, 5, 12])


@pytest.mark.parametrize("score", ["max", "mean"])
def test_a_group_has_the_labels_of_any_and_lacks_those_that_all_lack(score):
    found = group_rows(SCORES, TRUTH, GROUPS, score)
    scores, truth = by_hand(SCORES, TRUTH, GROUPS.tolist(), score == "mean")
    np.testing.assert_allclose(found.scores, scores, rtol=1e-6)
    assert found.truth.tolist() == truth
    assert found.truth.dtype == np.int8


def test_the_highest_score_is_the_default_and_a_group_of_one_is_its_image():
    found = group_rows(SCORES, TRUTH, np.arange(15)[::-1])
    np.testing.assert_array_equal(found.scores, SCORES[::-1])
    np.testing.assert_array_equal(found.truth, TRUTH[::-1])
    np.testing.assert_array_equal(group_rows(SCORES, TRUTH, GROUPS).scores[0], np.maximum(SCORES[9], SCORES[12]))


def test_no_images_make_no_groups():
    assert group_rows(SCORES[:0], TRUTH[:0], GROUPS[:0]).truth.shape == (0, 4)


@pytest.mark.parametrize(("rows", "groups"), [(14, 15), (15, 14)])
def test_lengths_that_differ_are_refused(rows, groups):
    with pytest.raises(ValueError, match=rf"15 scores, {rows} rows of truth and {groups} groups"):
        group_rows(SCORES, TRUTH[:rows], GROUPS[:groups])
