import re

import numpy as np
import pytest

from tests.oracles import metrics as oracle
from tests.utils.test_metrics import random_case, single_positive_cases
from utils.ranking import AtRank, at_rank, ranking_figures


def ranks_of(held):
    """The k of a golden case."""
    return sorted(int(found[1]) for name in held if (found := re.fullmatch(r"prec_at_(\d+)", name)))


def test_golden_figures_at_each_rank():
    for held in single_positive_cases():
        assert ranks_of(held)
        ties = any(len(set(row)) < len(row) for row in held["scores"].tolist())
        for k in ranks_of(held):
            found = at_rank(held["scores"], held["labels"], k)
            for name in ("rec", "prec"):
                # Which of equal scores comes first is unspecified in the published code, so it has a stable variant.
                expected = held.get(f"{name}_at_{k}_stable", held[f"{name}_at_{k}"])
                np.testing.assert_allclose(getattr(found, name), expected, rtol=1e-12)
            if not ties:
                np.testing.assert_allclose(found.rec, held[f"rec_at_{k}"], rtol=1e-12)
                np.testing.assert_allclose(found.top, held[f"top_{k}"], rtol=1e-12)


@pytest.mark.parametrize("unknown", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("levels", [None, 3])
@pytest.mark.parametrize("k", [1, 2, 5, 7, 9])
def test_figures_equal_the_loops(k, levels, unknown):
    scores, truth = random_case(k, unknown=unknown, levels=levels)
    truth[:4] = np.minimum(truth[:4], 0)  # without positives
    np.testing.assert_allclose(at_rank(scores, truth, k), oracle.at_rank(scores, truth, k), rtol=1e-12)


def test_by_hand():
    scores = np.array([[0.9, 0.1, 0.5, 0.4], [0.1, 0.2, 0.3, 0.4], [0.0, 1.0, 0.0, 0.0]])
    truth = np.array([[1, 0, 0, 1], [1, 1, 0, 0], [0, 0, 0, 0]], dtype=np.int8)
    assert at_rank(scores, truth, 1) == pytest.approx(((1 / 2 + 0 + 0) / 3, 1 / 3, 1 / 3))
    assert at_rank(scores, truth, 3) == pytest.approx(((1 + 1 / 2 + 0) / 3, (2 / 3 + 1 / 3 + 0) / 3, 2 / 3))


def test_of_equal_scores_the_class_listed_last_comes_first():
    scores, truth = np.zeros((1, 4)), np.array([[1, 0, 0, 1]], dtype=np.int8)
    assert at_rank(scores, truth, 1) == (0.5, 1.0, 1.0)
    assert at_rank(scores, truth[:, [3, 0, 1, 2]], 2) == (0.0, 0.0, 0.0)


def test_a_label_of_unknown_truth_keeps_its_place_and_counts_neither_way():
    scores = np.array([[4.0, 3.0, 2.0, 1.0]])
    truth = np.array([[-1, 1, 0, 1]], dtype=np.int8)
    assert at_rank(scores, truth, 1) == (0.0, 0.0, 0.0)
    assert at_rank(scores, truth, 2) == (0.5, 1.0, 1.0)
    assert at_rank(scores, truth, 3) == (0.5, 0.5, 1.0)


@pytest.mark.parametrize("unknown", [0.0, 0.4])
def test_order_of_images_and_of_classes_does_not_matter(unknown):
    scores, truth = random_case(3, unknown=unknown)
    expected = ranking_figures(scores, truth)
    rng = np.random.default_rng(1)
    rows, columns = rng.permutation(len(scores)), rng.permutation(scores.shape[1])
    assert ranking_figures(scores[rows], truth[rows]) == pytest.approx(expected)
    assert ranking_figures(scores[:, columns], truth[:, columns]) == pytest.approx(expected)


def test_only_the_order_of_scores_counts():
    scores, truth = random_case(4, dtype=np.float64)
    assert ranking_figures(np.exp(scores), truth) == ranking_figures(scores, truth)


def test_with_all_classes_taken_everything_is_found():
    scores, truth = random_case(5)
    positives = (truth == 1).sum(axis=1)
    found = at_rank(scores, truth, truth.shape[1])
    assert found.rec == found.top == pytest.approx((positives > 0).mean())
    assert found.prec == pytest.approx((positives / truth.shape[1]).mean())


def test_a_ranking_by_the_truth_is_perfect_and_the_opposite_finds_nothing():
    truth = np.repeat([[0, 1, 0, 1, 1, 0, 0, 0]], 3, axis=0).astype(np.int8)
    assert at_rank(truth.astype(float), truth, 3) == (1.0, 1.0, 1.0)
    assert at_rank(-truth.astype(float), truth, 5) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_infinite_scores_have_a_rank(dtype):
    scores = np.array([[-np.inf, 0.0, np.inf]], dtype=dtype)
    assert at_rank(scores, np.array([[0, 0, 1]], dtype=np.int8), 1) == (1.0, 1.0, 1.0)
    assert at_rank(scores, np.array([[1, 0, 0]], dtype=np.int8), 2) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("shape", [(0, 3), (4, 0), (0, 0)])
def test_nothing_to_rank_gives_zeros(shape):
    assert at_rank(np.zeros(shape), np.zeros(shape, dtype=np.int8), 1) == AtRank(0.0, 0.0, 0.0)


def test_names_of_the_figures():
    scores, truth = random_case(6)
    found = ranking_figures(scores, truth)
    assert list(found) == [f"{name}@{k}" for k in (1, 3, 5) for name in ("rec", "prec", "top")]
    assert found["rec@3"] == at_rank(scores, truth, 3).rec
    assert list(ranking_figures(scores, truth, [2])) == ["rec@2", "prec@2", "top@2"]


def test_inputs_are_left_as_they_were():
    scores, truth = random_case(7, unknown=0.2)
    copies = scores.copy(), truth.copy()
    ranking_figures(scores, truth)
    np.testing.assert_array_equal(scores, copies[0])
    np.testing.assert_array_equal(truth, copies[1])


def test_what_has_no_rank_is_refused():
    scores, truth = random_case(8)
    with pytest.raises(ValueError, match="at least 1"):
        at_rank(scores, truth, 0)
    with pytest.raises(ValueError, match=r"\(60, 6\)"):
        at_rank(scores[:, :6], truth, 1)
    scores[2, 3] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        at_rank(scores, truth, 1)
