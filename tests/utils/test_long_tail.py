import warnings

import numpy as np
import pytest
from scipy.sparse import csr_array
from sklearn.metrics import f1_score

from tests import golden_files
from tests.oracles import long_tail as oracle
from utils.long_tail import class_frequencies, class_groups, group_figures, positives
from utils.metrics import count_predictions, evaluate_known, evaluate_scores, known_scores
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


def test_golden_group_figures():
    golden = golden_files.load("lt_metrics.npz")
    assert golden["num_cases"] > 0
    for number in range(int(golden["num_cases"])):
        case = golden_files.part(golden, f"case{number}_")
        truth = case["labels"].astype(np.int8)
        found = evaluate_scores(case["scores"], truth)
        np.testing.assert_allclose(np.nan_to_num(found.per_class), case["ap"], rtol=1e-9)
        above = count_predictions(case["scores"] > 0, truth == PRESENT, np.ones_like(truth, dtype=bool))
        names = golden["rows"].tolist()
        groups = {name: case[name] for name in names if name != "total"}
        figures = group_figures(found.per_class, above, groups)
        columns = {"mAP": "mAP", "micro_f1": "micro_F1", "macro_f1": "macro_F1", "acc": "accuracy"}
        rows = [[getattr(figures[name], columns[column]) for column in golden["cols"].tolist()] for name in names]
        np.testing.assert_allclose(rows, case["metrics"], rtol=1e-9)


def scored(seed, unknown=0.0, rows=50, classes=8):
    rng = np.random.default_rng(seed)
    truth = (rng.random((rows, classes)) < np.linspace(0.05, 0.6, classes)).astype(np.int8)
    scores = rng.normal(size=truth.shape) + truth
    truth[rng.random(truth.shape) < unknown] = UNKNOWN
    return scores, truth


@pytest.mark.parametrize("seed", range(4))
def test_f1_of_groups_equals_scikit_learn(seed):
    scores, truth = scored(seed)
    scores[:, 2], truth[:, 3] = -1.0, ABSENT  # a class that is never predicted, and one that is never there
    groups = {"some": np.array([0, 2, 5]), "others": np.array([1, 3, 4, 6, 7])}
    metrics = evaluate_scores(scores, truth)
    figures = group_figures(metrics.per_class, metrics.tally, groups)
    for name, classes in {**groups, "total": np.arange(8)}.items():
        for average in ("micro", "macro"):
            expected = f1_score(truth[:, classes], scores[:, classes] >= 0, average=average, zero_division=0)
            assert getattr(figures[name], f"{average}_F1") == pytest.approx(expected, rel=1e-12)
        assert figures[name].accuracy == pytest.approx(((scores >= 0) == truth)[:, classes].mean(), rel=1e-12)
    assert figures["total"].mAP == pytest.approx(metrics.mAP_all)
    assert figures["total"].micro_F1 == pytest.approx(metrics.at_threshold.OF1)


@pytest.mark.parametrize("seed", range(3))
def test_group_figures_leave_unknown_entries_out(seed):
    scores, truth = scored(seed, unknown=0.4)
    truth[:, 5] = UNKNOWN
    groups = {"a": np.array([0, 1, 5]), "b": np.array([2, 7]), "dark": np.array([5]), "none": np.array([], dtype=int)}
    dense, known = evaluate_scores(scores, truth), evaluate_known(known_scores(scores, truth))
    figures = group_figures(dense.per_class, dense.tally, groups)
    sparse = group_figures(known.per_class, known.tally, groups)
    for name in groups:
        np.testing.assert_allclose(figures[name], sparse[name])
    assert all(np.isnan(figures["dark"]))
    assert all(np.isnan(figures["none"]))
    for name, classes in {"a": [0, 1], "b": [2, 7]}.items():
        f1, right = [], []
        for k in classes:
            rows = truth[:, k] != UNKNOWN
            predicted, present = scores[rows, k] >= 0, truth[rows, k] == PRESENT
            f1.append(f1_score(present, predicted, zero_division=0))
            right.append((predicted == present).mean())
        assert figures[name].macro_F1 == pytest.approx(np.mean(f1))
        assert figures[name].accuracy == pytest.approx(np.mean(right))


def test_group_figures_do_not_depend_on_the_order_of_classes_and_rows():
    scores, truth = scored(7)
    groups = {"a": np.array([0, 3]), "b": np.array([1, 2, 4, 5, 6, 7])}
    order, rows = np.random.default_rng(0).permutation(8), np.random.default_rng(1).permutation(50)
    place = np.argsort(order)
    one, other = evaluate_scores(scores, truth), evaluate_scores(scores[rows][:, order], truth[rows][:, order])
    moved = {name: place[classes] for name, classes in groups.items()}
    found = group_figures(other.per_class, other.tally, moved)
    for name, figures in group_figures(one.per_class, one.tally, groups).items():
        np.testing.assert_allclose(found[name], figures)


def test_group_figures_by_hand():
    truth = np.array([[1, 1, -1, 0], [0, 1, 1, -1], [1, -1, -1, -1], [0, 1, -1, -1]], dtype=np.int8)
    scores = np.array([[0.5, 0.1, 9, 0.1], [0.9, -0.2, 0.3, 9], [0.1, 9, 9, 9], [-1, 0.3, 9, 9]])
    metrics = evaluate_scores(scores, truth)
    groups = {"both": np.array([1, 0]), "present": np.array([1]), "one": np.array([2]), "absent": np.array([3])}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = group_figures(metrics.per_class, metrics.tally, groups)
    # right of known: 3 of 4, 2 of 3, 1 of 1, 0 of 1; true, chosen and present: 2 3 2, 2 2 3, 1 1 1, 0 1 0
    first, f1 = (1 / 2 + 2 / 3) / 2, [4 / 5, 4 / 5, 1, 0]
    assert found["both"] == pytest.approx((first, 8 / 10, 4 / 5, (3 / 4 + 2 / 3) / 2))
    assert found["present"] == pytest.approx((np.nan, 4 / 5, 4 / 5, 2 / 3), nan_ok=True)
    assert found["one"] == pytest.approx((np.nan, 1, 1, 1), nan_ok=True)
    assert found["absent"] == pytest.approx((0, 0, 0, 0))
    assert found["total"] == pytest.approx((first / 2, 10 / 13, np.mean(f1), (3 / 4 + 2 / 3 + 1) / 4))


def test_a_class_of_which_nothing_is_known_is_left_out_silently():
    scores, truth = scored(1)
    truth[:, 3] = UNKNOWN
    metrics = evaluate_scores(scores, truth)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures = group_figures(metrics.per_class, metrics.tally, {"dark": np.array([3])})
        class_frequencies(LabelTable(np.zeros((2, 3), dtype=np.int8)))
    assert np.isnan(figures["dark"]).all()
