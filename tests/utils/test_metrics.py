import warnings

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, precision_score, recall_score

from data.datasets.openimages import class_groups
from tests import golden_files
from tests.golden_files import each_case
from tests.oracles import metrics as oracle
from utils.metrics import (
    KnownScores,
    average_precision,
    calibration_error,
    evaluate_known,
    evaluate_scores,
    f1_at,
    group_map,
    known_scores,
    reliability,
    top_mask,
)
from utils.thresholds import best_threshold, class_thresholds

HALF = 0.5
LABELS = ("CP", "CR", "CF1", "OP", "OR", "OF1")


def random_case(seed, rows=60, classes=7, unknown=0.0, levels=None, dtype=np.float32):
    """Scores and truth; `levels` distinct scores make ties."""
    rng = np.random.default_rng(seed)
    truth = (rng.random((rows, classes)) < 0.3).astype(np.int8)
    scores = rng.normal(size=(rows, classes)) + truth
    if levels:
        scores = np.round(scores * levels / 6)
    truth[rng.random(truth.shape) < unknown] = -1
    return scores.astype(dtype), truth


def in_our_code(case, targets):
    """Targets of a golden case as 1, 0, -1: its ternary form marks an entry to ignore with 0 and a negative with -1."""
    if case["types"] == "voc07":
        return np.select([targets == 1, targets == 0], [1, -1], 0).astype(np.int8)
    return targets.astype(np.int8)


@pytest.mark.parametrize("case, arrays", each_case("metrics_csra.npz"))
def test_golden_average_precision(case, arrays):
    found = evaluate_scores(arrays["scores"], in_our_code(case, arrays["targets"]), threshold=HALF)
    np.testing.assert_allclose(found.per_class, arrays["ap"], rtol=1e-10)
    np.testing.assert_allclose(found.mAP, np.nanmean(arrays["ap"]), rtol=1e-10)
    np.testing.assert_allclose(found.mAP_all, np.nansum(arrays["ap"]) / len(arrays["ap"]), rtol=1e-10)
    if np.isfinite(arrays["mAP"]):
        np.testing.assert_allclose(found.mAP, arrays["mAP"], rtol=1e-10)


@pytest.mark.parametrize("case, arrays", each_case("metrics_csra.npz"))
def test_golden_precision_recall(case, arrays):
    truth = in_our_code(case, arrays["targets"])
    found = evaluate_scores(arrays["scores"], truth, threshold=HALF).at_threshold
    chosen = ((arrays["scores"] >= HALF) & (truth != -1)).sum(axis=0)
    # The published code counts one prediction for every class without any, in OP as well.
    published_op = found.OP * chosen.sum() / np.maximum(chosen, 1).sum()
    with_published_op = found._replace(OP=published_op, OF1=oracle.harmonic(published_op, found.OR))
    expected = arrays["CP_CR_CF1_OP_OR_OF1"]
    defined = np.isfinite(expected)  # CR of a class without positives is undefined in the published code
    assert defined[0]
    assert defined[3:].all()
    np.testing.assert_allclose(np.array(with_published_op)[defined], expected[defined], rtol=1e-10)


def single_positive_cases():
    """Arrays of each case of the golden file of the single-positive papers' metrics."""
    golden = golden_files.load("spml_metrics.npz")
    return [golden_files.part(golden, f"{name}__") for name in golden["cases"]]


def test_golden_average_precision_of_the_single_positive_papers():
    for held in single_positive_cases():
        found = evaluate_scores(held["scores"], held["labels"], threshold=HALF)
        np.testing.assert_allclose(np.nan_to_num(found.per_class), held["ap"], rtol=1e-10)
        np.testing.assert_allclose(100 * found.mAP_all, held["map"], rtol=1e-10)


def openimages_metrics(held, sparse):
    scores, truth = held["scores"], held["oi_labels"]
    return evaluate_known(known_scores(scores, truth)) if sparse else evaluate_scores(scores, truth)


@pytest.mark.parametrize("sparse", [False, True])
def test_golden_openimages_average_precision(sparse):
    for held in single_positive_cases():
        found = openimages_metrics(held, sparse)
        counted = np.where(found.known, np.nan_to_num(found.per_class), np.nan)  # known without positives: 0
        np.testing.assert_allclose(counted, held["oi_ap_aligned_nan"], rtol=1e-10)
        np.testing.assert_allclose(counted[found.known], held["oi_ap_compact"], rtol=1e-10)
        everything = group_map(found.per_class, found.known, {"all": np.arange(len(counted))})
        np.testing.assert_allclose(100 * everything["all"], held["oi_map"], rtol=1e-10)


@pytest.mark.parametrize("sparse", [False, True])
def test_golden_openimages_groups(sparse):
    grouped = [held for held in single_positive_cases() if "group_map" in held]
    if not grouped:
        pytest.skip("no case with group_map in spml_metrics.npz")
    for held in grouped:
        found = openimages_metrics(held, sparse)
        by_group = group_map(found.per_class, found.known, class_groups(held["train_count"]))
        assert list(by_group) == ["G1", "G2", "G3", "G4", "G5"]
        np.testing.assert_allclose(100 * np.array(list(by_group.values())), held["group_map"], rtol=1e-10)


@pytest.mark.parametrize("levels", [None, 3, 12])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_average_precision_equals_scikit_learn(levels, dtype):
    scores, truth = random_case(1, rows=300, classes=4, levels=levels, dtype=dtype)
    for k in range(4):
        assert average_precision(scores[:, k], truth[:, k]) == pytest.approx(
            average_precision_score(truth[:, k], scores[:, k]), rel=1e-12
        )


def test_average_precision_by_hand():
    assert average_precision(np.array([0.9, 0.8, 0.7, 0.6]), np.array([1, 0, 1, 0])) == pytest.approx((1 + 2 / 3) / 2)
    assert average_precision(np.array([0.5, 0.5, 0.5, 0.5]), np.array([1, 0, 1, 0])) == 0.5
    assert average_precision(np.array([np.inf, 0.0, -np.inf]), np.array([0, 1, 1])) == pytest.approx(
        (1 / 2 + 2 / 3) / 2
    )


@pytest.mark.parametrize("unknown", [0.0, 0.3])
@pytest.mark.parametrize("levels", [None, 5])
@pytest.mark.parametrize("seed", range(3))
def test_all_figures_equal_the_loops(seed, unknown, levels):
    scores, truth = random_case(seed, unknown=unknown, levels=levels)
    truth[:, 2] = np.minimum(truth[:, 2], 0)  # no positives
    truth[:, 4] = -1  # nothing known
    scores[:, 5] = -9  # nothing predicted
    found = evaluate_scores(scores, truth, threshold=0.25)
    expected = oracle.known_average_precisions(scores, truth)
    np.testing.assert_allclose(found.per_class, expected, rtol=1e-12)
    assert found.mAP == pytest.approx(np.nanmean(expected))
    assert found.mAP_all == pytest.approx(np.nansum(expected) / truth.shape[1])
    assert found.classes_without_positives == (2, 4)
    np.testing.assert_allclose(found.at_threshold, oracle.precision_recall(scores >= 0.25, truth))
    np.testing.assert_allclose(found.at_top, oracle.precision_recall(oracle.top(scores, 3), truth))


def test_all_figures_equal_scikit_learn_on_complete_truth():
    scores, truth = random_case(4, rows=200)
    found, predicted = evaluate_scores(scores, truth).as_dict(), scores >= 0
    assert found["mAP"] == pytest.approx(average_precision_score(truth, scores, average="macro"))
    for name, average in (("C", "macro"), ("O", "micro")):
        assert found[f"{name}P"] == pytest.approx(precision_score(truth, predicted, average=average))
        assert found[f"{name}R"] == pytest.approx(recall_score(truth, predicted, average=average))
    assert found["OF1"] == pytest.approx(f1_score(truth, predicted, average="micro"))


def test_names_of_the_figures():
    scores, truth = random_case(5)
    found = evaluate_scores(scores, truth)
    assert list(found.as_dict()) == ["mAP", "mAP_all", *LABELS, *(f"{name}@3" for name in LABELS)]
    assert found.as_dict()["OF1@3"] == found.at_top.OF1 != found.at_threshold.OF1


def test_an_unknown_entry_counts_nowhere():
    scores, truth = random_case(6)
    truth[3, 1] = -1
    before = evaluate_scores(scores, truth)
    moved = scores.copy()
    moved[3, 1] = -moved[3, 1]
    after = evaluate_scores(moved, truth)
    np.testing.assert_array_equal(after.per_class, before.per_class)
    assert after.at_threshold == before.at_threshold


@pytest.mark.parametrize("levels", [None, 4])
def test_order_of_images_does_not_matter(levels):
    scores, truth = random_case(7, unknown=0.2, levels=levels)
    order = np.random.default_rng(0).permutation(len(scores))
    before, after = evaluate_scores(scores, truth), evaluate_scores(scores[order], truth[order])
    np.testing.assert_array_equal(after.per_class, before.per_class)
    assert after.as_dict() == before.as_dict()


def test_order_of_classes_does_not_matter():
    scores, truth = random_case(8, unknown=0.2)
    order = np.random.default_rng(1).permutation(scores.shape[1])
    before, after = evaluate_scores(scores, truth), evaluate_scores(scores[:, order], truth[:, order])
    np.testing.assert_array_equal(after.per_class, before.per_class[order])
    assert after.as_dict() == pytest.approx(before.as_dict())


def test_float64_scores_are_not_rounded():
    scores = np.array([[1.0], [1.0 + 1e-12]])
    truth = np.array([[0], [1]], dtype=np.int8)
    assert evaluate_scores(scores, truth).mAP == 1.0
    assert evaluate_scores(scores.astype(np.float32), truth).mAP == 0.5


def known_entries_of(scores, truth, **more):
    return evaluate_known(known_scores(scores, truth), **more)


@pytest.mark.parametrize("evaluate", [evaluate_scores, known_entries_of])
def test_threshold_is_reached_by_equality(evaluate):
    truth, below = np.ones((1, 1), dtype=np.int8), np.nextafter(0.5, 0)
    assert evaluate(np.array([[0.5]]), truth, threshold=0.5).at_threshold == (1, 1, 1, 1, 1, 1)
    assert evaluate(np.array([[below]]), truth, threshold=0.5).at_threshold == (0, 0, 0, 0, 0, 0)
    assert evaluate(np.array([[0.0]]), truth).at_threshold.OR == 1.0
    assert evaluate(np.array([[-1e-9]]), truth).at_threshold.OR == 0.0


@pytest.mark.parametrize("evaluate", [evaluate_scores, known_entries_of])
def test_a_class_without_known_absence_is_no_part_of_the_means(evaluate):
    truth = np.array([[1, 1, -1, 0], [0, -1, -1, 0], [1, -1, -1, -1]], dtype=np.int8)
    scores = np.array([[0.5, 0.1, 0.3, 0.1], [0.9, 0.2, 0.3, 0.2], [0.1, -0.3, 0.3, 0.3]])
    found = evaluate(scores, truth)
    first = (1 / 2 + 2 / 3) / 2
    np.testing.assert_allclose(found.per_class, [first, np.nan, np.nan, np.nan])
    assert (found.mAP, found.mAP_all) == pytest.approx((first, first / 3))  # untold left out, the others 0
    assert (found.classes_without_positives, found.classes_without_negatives) == ((2, 3), (1,))
    assert found.known.tolist() == [True, False, False, True]
    assert [part.tolist() for part in found.tally] == [[2, 1, 0, 0], [3, 1, 0, 2], [2, 1, 0, 0], [3, 1, 0, 2]]
    assert found.tally.untold.tolist() == [False, True, False, False]


@pytest.mark.parametrize("shape", [(0, 3), (4, 0), (4, 3)])
def test_nothing_to_judge_gives_zero_without_warning(shape):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = evaluate_scores(np.zeros(shape, dtype=np.float32), np.full(shape, -1, dtype=np.int8))
    assert set(found.as_dict().values()) == {0.0}
    assert found.classes_without_positives == tuple(range(shape[1]))


def test_nothing_predicted_gives_zero_precision_and_f1():
    scores, truth = random_case(9)
    assert evaluate_scores(scores, truth, threshold=100).at_threshold == (0, 0, 0, 0, 0, 0)


@pytest.mark.parametrize("count", [1, 3, 9])
def test_top_mask_equals_the_loops_with_ties_and_infinities(count):
    scores, _ = random_case(10, levels=3)
    scores[:5, :6] = -np.inf
    scores[5, 2] = np.inf
    np.testing.assert_array_equal(top_mask(scores, count), oracle.top(scores, count))
    np.testing.assert_array_equal(top_mask(np.round(scores[6:]).astype(np.int64), count), oracle.top(scores[6:], count))


def test_inputs_are_left_as_they_were():
    scores, truth = random_case(11, unknown=0.2)
    copies = scores.copy(), truth.copy()
    evaluate_scores(scores, truth)
    np.testing.assert_array_equal(scores, copies[0])
    np.testing.assert_array_equal(truth, copies[1])


def test_nan_scores_and_wrong_shapes_are_refused():
    scores, truth = random_case(12)
    scores[4, 2] = np.nan
    with pytest.raises(ValueError, match="row 4, class 2"):
        evaluate_scores(scores, truth)
    with pytest.raises(ValueError, match="NaN"):
        average_precision(scores[:, 2], truth[:, 2])
    with pytest.raises(ValueError, match=r"\(60, 6\)"):
        evaluate_scores(scores[:, :6], truth)


def same(one, other):
    """Hold that two evaluations give the same figures, to the last bit."""
    np.testing.assert_array_equal(one.per_class, other.per_class)
    np.testing.assert_array_equal(one.known, other.known)
    assert one.as_dict() == other.as_dict()
    assert one.classes_without_positives == other.classes_without_positives


@pytest.mark.parametrize("unknown", [0.0, 0.5, 0.95, 1.0])
@pytest.mark.parametrize("levels", [None, 4])
@pytest.mark.parametrize("seed", range(3))
def test_known_entries_alone_give_what_whole_matrices_give(seed, levels, unknown):
    scores, truth = random_case(seed, unknown=unknown, levels=levels)
    truth[:, 2] = np.minimum(truth[:, 2], 0)  # no positives
    truth[:, 4] = -1  # nothing known
    expected = evaluate_scores(scores, truth, threshold=0.25)
    same(evaluate_known(known_scores(scores, truth), threshold=0.25), expected)
    oracle_values = oracle.known_average_precisions(scores, truth)
    np.testing.assert_allclose(evaluate_known(known_scores(scores, truth)).per_class, oracle_values, rtol=1e-12)


def test_known_entries_come_in_any_order_and_in_batches():
    scores, truth = random_case(3, unknown=0.7)
    expected = evaluate_scores(scores, truth)
    rows = np.array_split(np.random.default_rng(0).permutation(len(scores)), 7)
    parts = [known_scores(scores[one], truth[one]) for one in rows]
    columns = (np.concatenate(column) for column in zip(*(part[:-1] for part in parts), strict=True))
    same(evaluate_known(KnownScores(*columns, num_classes=truth.shape[1])), expected)


def test_what_is_predicted_among_the_unknown_pushes_known_entries_out_of_the_top():
    scores = np.array([[5.0, 4, 3, 2, 1]])
    truth = np.array([[-1, -1, -1, 1, 0]], dtype=np.int8)
    assert not known_scores(scores, truth).in_top.any()
    truth[0, 2] = 1
    assert known_scores(scores, truth).in_top.tolist() == [True, False, False]


def test_known_entries_that_do_not_fit_each_other_are_refused():
    scores, truth = random_case(12, unknown=0.5)
    entries = known_scores(scores, truth)
    for part in ("label", "present", "score", "in_top"):
        with pytest.raises(ValueError, match=r"\d+ labels, \d+ truths, \d+ scores and \d+ top marks"):
            evaluate_known(entries._replace(**{part: getattr(entries, part)[1:]}))
    scores[truth == 1] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        evaluate_known(known_scores(scores, truth))


def test_which_classes_are_known():
    scores, truth = random_case(2, unknown=0.5)
    truth[:, 3] = -1
    truth[:, 5] = np.minimum(truth[:, 5], 0)
    assert evaluate_scores(scores, truth).known.tolist() == [k != 3 for k in range(truth.shape[1])]
    truth[:, :] = -1
    assert not evaluate_known(known_scores(scores, truth)).known.any()


def test_groups_count_classes_without_positives_as_0_and_leave_out_unknown_ones():
    per_class = np.array([0.5, np.nan, 0.9, np.nan])
    known = np.array([True, True, True, False])
    groups = {
        "a": np.array([0, 1]),
        "b": np.array([3, 2]),
        "c": np.array([3]),
        "d": np.array([], dtype=np.int64),
        "e": np.array([2, 2, 0]),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = group_map(per_class, known, groups)
    assert list(found) == list("abcde")
    assert (found["a"], found["b"]) == (0.25, 0.9)
    assert np.isnan([found["c"], found["d"]]).all()
    assert found["e"] == pytest.approx(2.3 / 3)


def slow_calibration_error(values, present, bins):
    """The definition, bin by bin, of the known entries of one class or of all."""
    total = 0.0
    for b in range(bins):
        low = -1.0 if b == 0 else b / bins
        inside = [k for k in range(len(values)) if low < values[k] <= (b + 1) / bins]
        if inside:
            share, mean = (sum(part[k] for k in inside) / len(inside) for part in (present, values))
            total += len(inside) / len(values) * abs(share - mean)
    return total


@pytest.mark.parametrize("unknown", [0.0, 0.4])
@pytest.mark.parametrize("bins", [1, 8])
def test_calibration_error_is_the_definition(unknown, bins):
    scores, truth = random_case(3, unknown=unknown, dtype=np.float64)
    values = np.round(1 / (1 + np.exp(-scores)) * 64) / 64  # many on the edges of bins
    pooled, per_class = calibration_error(values, truth, bins)
    known = truth >= 0
    assert pooled == pytest.approx(slow_calibration_error(values[known], truth[known], bins))
    each = [slow_calibration_error(values[known[:, k], k], truth[known[:, k], k], bins) for k in range(7)]
    assert per_class == pytest.approx(np.mean(each))


@pytest.mark.parametrize("bins", [1, 15])
def test_a_reliability_diagram_shows_what_the_pooled_error_sums_up(bins):
    rng = np.random.default_rng(2)
    values, truth = rng.random((50, 4)), rng.integers(-1, 2, (50, 4)).astype(np.int8)
    values[0] = 0.0, 1.0, 1 / 15, 2 / 15
    found = reliability(values, truth, bins)
    known = truth != -1
    assert found.entries.sum() == known.sum()
    gaps = found.entries * np.abs(found.present - found.probability)
    assert gaps.sum() / known.sum() == pytest.approx(calibration_error(values, truth, bins)[0])
    if bins == 1:
        assert found.probability.tolist() == [pytest.approx(values[known].mean())]
        assert found.present.tolist() == [pytest.approx((truth[known] == 1).mean())]
    few = reliability(np.array([[0.01], [0.99]]), np.array([[0], [1]], dtype=np.int8))
    assert (few.entries.tolist(), few.present.tolist(), few.probability.tolist()) == ([1, 1], [0, 1], [0.01, 0.99])


def test_calibration_error_has_fifteen_bins_and_leaves_out_classes_nobody_knows():
    values, truth = np.array([[0.0, 1.0, 0.3], [1.0, 0.0, 0.3]]), np.array([[0, 1, -1], [1, 1, -1]], dtype=np.int8)
    assert calibration_error(values, truth) == (pytest.approx(0.25), pytest.approx(0.25))
    assert np.isnan(calibration_error(values, np.full((2, 3), -1, dtype=np.int8))).all()
    values = np.array([[1 / 15 - 1e-6], [1 / 15 + 1e-6]])  # neighbours in two bins: their errors do not cancel
    assert calibration_error(values, np.array([[0], [1]], dtype=np.int8))[0] == pytest.approx(0.5, abs=1e-5)


@pytest.mark.parametrize("levels", [None, 3])
def test_the_best_threshold_is_that_of_trying_all(levels):
    for seed in range(6):
        scores, truth = random_case(seed, rows=20, unknown=0.3, levels=levels)
        for k, found in enumerate(class_thresholds(scores, truth)):
            one, known = scores[:, k], truth[:, k] >= 0
            f1 = {float(t): f1_score(truth[known, k], one[known] >= t, zero_division=0) for t in np.unique(one[known])}
            best = max(f1.values())
            assert found == max(t for t, value in f1.items() if value == pytest.approx(best))
            assert found == best_threshold(one, truth[:, k])


def test_a_class_without_positives_is_never_predicted():
    assert best_threshold(np.array([1.0, 2.0]), np.array([0, -1])) == np.inf
    scores, truth = random_case(1)
    truth[:, 2] = 0
    thresholds = class_thresholds(scores, truth)
    assert np.isinf(thresholds).tolist() == [k == 2 for k in range(7)]
    metrics = evaluate_scores(scores - np.where(np.isinf(thresholds), 1e9, thresholds), truth)
    assert f1_at(scores, truth, thresholds) == (metrics.at_threshold.CF1, metrics.at_threshold.OF1)
    assert f1_at(scores, truth, 0.25) == evaluate_scores(scores, truth, 0.25).at_threshold[2::3]
