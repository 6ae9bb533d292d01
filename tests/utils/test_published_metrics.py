"""Figures by the published evaluators, against their golden values and against plain loops."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from tests.utils.test_metrics import each_case, in_our_code
from utils.metrics import evaluate_scores
from utils.published_metrics import arbitrary_average_precision, full_row_figures, published_figures, sigmoid

RATIOS = ("CP", "CR", "CF1", "OP", "OR", "OF1")


def by_loops(scores, truth):
    """(mean AP, CP, CR, OP, OR) of probabilities without ties, entry by entry."""
    precisions, classes, sums = [], [], np.zeros(3)
    for one, labels in zip(scores.T, truth.T, strict=True):
        ranked = [label for _, label in sorted(zip(one, labels, strict=True), reverse=True) if label >= 0]
        hits = [rank for rank, label in enumerate(ranked, 1) if label == 1]
        precisions.append(np.mean([count / rank for count, rank in enumerate(hits, 1)]))
        chosen = [label for score, label in zip(one, labels, strict=True) if label >= 0 and score >= 0.5]
        true, predicted = chosen.count(1), max(len(chosen), 1)
        classes.append((true / predicted, true / len(hits)))
        sums += true, predicted, len(hits)
    return np.mean(precisions), *np.mean(classes, axis=0), sums[0] / sums[1], sums[0] / sums[2]


@pytest.mark.parametrize("seed", range(4))
def test_figures_match_loops(seed):
    rng = np.random.default_rng(seed)
    logits = rng.normal(-1.5, 1, (40, 6)).astype(np.float32)
    logits[:, 0] -= 20  # a class in which nothing is predicted
    truth = rng.choice([-1, 0, 1], (40, 6), p=[0.1, 0.6, 0.3]).astype(np.int8)
    found = published_figures(logits, truth)
    names = ("mAP", "CP", "CR", "OP", "OR")
    np.testing.assert_allclose([found[name] for name in names], by_loops(sigmoid(logits), truth), rtol=1e-12)
    assert found["CF1"] == pytest.approx(2 * found["CP"] * found["CR"] / (found["CP"] + found["CR"]))
    assert found["OF1"] == pytest.approx(2 * found["OP"] * found["OR"] / (found["OP"] + found["OR"]))
    ours = evaluate_scores(logits, truth)
    assert found["mAP"] == pytest.approx(ours.mAP)
    assert found["OP"] < ours.at_threshold.OP
    assert found["OR"] == pytest.approx(ours.at_threshold.OR)


@pytest.mark.parametrize("case, arrays", each_case("metrics_csra.npz"))
def test_golden_ratios_of_the_published_code(case, arrays):
    scores = arrays["scores"].astype(np.float64)
    with np.errstate(divide="ignore"):
        logits = np.log(scores) - np.log1p(-scores)
    found = published_figures(logits, in_our_code(case, arrays["targets"]))
    expected = arrays["CP_CR_CF1_OP_OR_OF1"]
    defined = np.isfinite(expected)  # CR of a class without positives is not, there
    np.testing.assert_allclose(np.array([found[name] for name in RATIOS])[defined], expected[defined], rtol=1e-6)


def test_saturated_scores_are_equal_and_ranked_as_the_sort_leaves_them():
    logits = np.array([[40.0], [90.0], [18.0], [-3.0]], dtype=np.float32)
    assert sigmoid(logits)[:3].tolist() == [[1.0]] * 3
    truth = np.array([[0], [1], [0], [0]], dtype=np.int8)
    rank = np.flatnonzero(np.argsort(-sigmoid(logits[:, 0])) == 1)[0] + 1
    assert published_figures(logits, truth)["mAP"] == 1 / rank
    assert evaluate_scores(logits, truth).mAP == 1


def test_average_precision_by_hand():
    assert arbitrary_average_precision(np.array([0.9, 0.1, 0.8, 0.4]), np.array([0, 1, 1, 0])) == (1 / 2 + 2 / 4) / 2


def test_nothing_known_and_nothing_present_are_zero():
    for code in (-1, 0):
        found = published_figures(np.full((3, 2), -1.0), np.full((3, 2), code, dtype=np.int8))
        assert set(found.values()) == {0.0}


def test_logits_of_any_size_give_no_warning():
    assert sigmoid(np.array([-1e4, 0, 1e4])).tolist() == [0, 0.5, 1]


def test_of_images_without_an_unknown_label_all_classes_count():
    rng = np.random.default_rng(0)
    logits, truth = rng.normal(size=(9, 3)).round(1), rng.integers(0, 2, (9, 3)).astype(np.int8)
    truth[:, 2], truth[[1, 4], 0], truth[7, 2] = 0, -1, -1
    rows = [0, 2, 3, 5, 6, 8]
    each = [average_precision_score(truth[rows, label], logits[rows, label]) for label in range(2)]
    assert full_row_figures(logits, truth) == {"mAP": pytest.approx(sum(each) / 3)}
    assert full_row_figures(logits, np.full((9, 3), -1, dtype=np.int8)) is None
