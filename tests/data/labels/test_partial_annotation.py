"""Fixed numbers per class and random parts per image: published recipe, numbers that are kept, what is refused."""

import numpy as np
import pytest
from scipy.sparse import csr_array

from data.labels.partial_annotation import fixed_per_class_labels, random_per_sample_labels
from tests import golden_files
from tests.oracles import regimes as oracle
from utils.checks import UserError
from utils.types import ABSENT, PRESENT, UNKNOWN, LabelTable

RECIPES = {"fpc": (fixed_per_class_labels, int), "rps": (random_per_sample_labels, float)}
MAKERS = [np.random.RandomState, np.random.default_rng]


def truth_table(seed, rows=60, classes=6, rate=0.2):
    return (np.random.RandomState(seed).random_sample((rows, classes)) < rate).astype(np.int8)


@pytest.mark.parametrize("case, arrays", golden_files.each_case("csl_labels.npz"))
def test_golden_labels(case, arrays):
    recipe, kind = RECIPES[case["mode"]]
    truth = arrays["truth"].astype(np.int8)
    for table in (LabelTable(truth.copy()), LabelTable(csr_array(truth))):
        got = recipe(table, np.random.RandomState(case["seed"]), kind(case["param"]))
        np.testing.assert_array_equal(got.dense(), arrays["observed"])


@pytest.mark.parametrize("number", [1, 3, 1000])
def test_numbers_match_the_oracle_dense_and_sparse(number):
    truth = truth_table(1)
    expected = oracle.fpc(truth, 5, number)
    for table in (LabelTable(truth.copy()), LabelTable(csr_array(truth))):
        got = fixed_per_class_labels(table, np.random.RandomState(5), number)
        assert isinstance(got.codes, csr_array) == isinstance(table.codes, csr_array)
        np.testing.assert_array_equal(got.dense(), expected)


@pytest.mark.parametrize("make", MAKERS)
def test_each_class_has_the_number_asked_for_or_all(make):
    truth = truth_table(2)
    truth[:, 0], truth[:, 1] = ABSENT, PRESENT  # a class that is nowhere, and one that is everywhere
    seen = fixed_per_class_labels(truth, make(0), 10)
    for code in (PRESENT, ABSENT):
        np.testing.assert_array_equal((seen == code).sum(axis=0), np.minimum((truth == code).sum(axis=0), 10))
    known = seen != UNKNOWN
    np.testing.assert_array_equal(seen[known], truth[known])


@pytest.mark.parametrize("make", MAKERS)
def test_any_row_may_be_chosen(make):
    truth = np.array([[1], [0], [1], [0], [0], [1], [0]], dtype=np.int8)
    seen = np.stack([fixed_per_class_labels(truth, make(seed), 1)[:, 0] for seed in range(60)])
    assert ((seen != UNKNOWN).sum(axis=1) == 2).all()
    assert (seen != UNKNOWN).any(axis=0).all()


@pytest.mark.parametrize("make", MAKERS)
def test_rps_leaves_the_share_and_the_ends_and_grows(make):
    truth = truth_table(3, rows=4000)
    seen = random_per_sample_labels(truth, make(0), 0.7) == UNKNOWN
    assert abs(seen.mean() - 0.7) < 5 * np.sqrt(0.21 / seen.size)
    assert seen[random_per_sample_labels(truth, make(0), 0.5) == UNKNOWN].all()
    np.testing.assert_array_equal(random_per_sample_labels(truth, make(0), 0.0), truth)
    assert (random_per_sample_labels(truth, make(0), 1.0) == UNKNOWN).all()


@pytest.mark.parametrize("number", [0, -1])
def test_a_number_that_shows_nothing_is_refused(number):
    with pytest.raises(UserError, match=f"^fpc_known {number}: must be at least 1 [^\n]*$"):
        fixed_per_class_labels(truth_table(0), np.random.RandomState(0), number)


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_a_share_outside_of_its_range_is_refused(rate):
    with pytest.raises(UserError, match=r"^rps_unknown .* between 0 and 1$"):
        random_per_sample_labels(truth_table(0), np.random.RandomState(0), rate)
