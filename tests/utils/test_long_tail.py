import numpy as np
import pytest
from scipy.sparse import csr_array

from tests.oracles import long_tail as oracle
from utils.long_tail import class_frequencies, class_groups, positives
from utils.types import ABSENT, PRESENT, UNKNOWN, LabelTable


def random_truth(seed, rows=40, classes=7):
    rng = np.random.default_rng(seed)
    truth = rng.choice(np.array([PRESENT, ABSENT, UNKNOWN], dtype=np.int8), (rows, classes), p=[0.3, 0.6, 0.1])
    truth[truth[:, 2] == PRESENT, 2] = ABSENT  # a class that nobody has
    truth[3] = ABSENT
    return truth


def stored(truth, default):
    """The same labels as a CSR table whose unstored entries mean `default`, classes in backward order."""
    kept = truth != default
    labels = [np.flatnonzero(row)[::-1] for row in kept]
    ends = np.cumsum([0, *map(len, labels)])
    data = np.concatenate([row[label] for row, label in zip(truth, labels, strict=True)])
    return LabelTable(csr_array((data, np.concatenate(labels), ends), shape=truth.shape), default=default)


def test_groups_at_their_limits():
    got = class_groups(np.array([100, 99, 20, 19, 0, 101, 5000]))
    assert {name: members.tolist() for name, members in got.items()} == {
        "head": [0, 5, 6],
        "middle": [1, 2],
        "tail": [3, 4],
    }


@pytest.mark.parametrize("seed", range(5))
def test_each_class_is_in_one_group(seed):
    counts = np.random.default_rng(seed).integers(0, 200, 50)
    got = class_groups(counts)
    assert sorted(np.concatenate(list(got.values())).tolist()) == list(range(50))
    assert counts[got["head"]].min() > counts[got["middle"]].max() > counts[got["tail"]].max()


@pytest.mark.parametrize("seed", range(5))
def test_frequencies_match_loops(seed):
    truth = random_truth(seed)
    having, lacking, conditional = oracle.frequencies(truth.tolist())
    got = class_frequencies(LabelTable(truth))
    np.testing.assert_array_equal(got.class_freq, having)
    np.testing.assert_array_equal(got.neg_class_freq, lacking)
    np.testing.assert_allclose(got.condition_prob, conditional, rtol=1e-12)
    assert having[2] == 0
    assert got.class_freq.dtype == got.neg_class_freq.dtype == np.int64


def test_a_conditional_share_by_hand():
    got = class_frequencies(LabelTable(np.array([[1, 1], [1, 0], [1, 0], [0, 0]], dtype=np.int8)))
    np.testing.assert_allclose(got.condition_prob, [[1, 1 / 3], [1, 1]])  # a third of the rows with 0 have 1


@pytest.mark.parametrize("default", [ABSENT, UNKNOWN, PRESENT])
def test_storage_does_not_matter(default):
    truth = random_truth(9)
    table = stored(truth, default)
    np.testing.assert_array_equal(table.dense(), truth)
    for one, two in zip(positives(table), np.nonzero(truth == PRESENT), strict=True):
        np.testing.assert_array_equal(one, two)
    for one, two in zip(class_frequencies(table), class_frequencies(LabelTable(truth)), strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_table_without_rows_has_no_frequencies():
    got = class_frequencies(LabelTable(np.zeros((0, 3), dtype=np.int8)))
    assert got.class_freq.tolist() == got.neg_class_freq.tolist() == [0, 0, 0]
    np.testing.assert_array_equal(got.condition_prob, np.zeros((3, 3)))
