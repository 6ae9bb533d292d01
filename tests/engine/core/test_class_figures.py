"""Figures of each class against scikit-learn."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, precision_score, recall_score, roc_auc_score

from engine.core.class_figures import class_figures
from utils.metrics import area_under_roc, evaluate_known, evaluate_scores, known_scores
from utils.types import LabelTable

RNG = np.random.default_rng(1)
SCORES = RNG.integers(-4, 5, (60, 5)) / 2.0  # many are equal
TRUTH = RNG.choice([1, 0, -1], (60, 5), p=[0.3, 0.5, 0.2]).astype(np.int8)
TRUTH[:, 3] = np.where(TRUTH[:, 3] == 1, 0, TRUTH[:, 3])  # no positives
TRUTH[:, 4] = -1
CLASSES = tuple("abcde")


def result(scores=SCORES):
    return SimpleNamespace(metrics=evaluate_scores(SCORES, TRUTH), scores=scores)


@pytest.mark.parametrize("limit", [0.0, 1.5])
def test_every_figure_is_that_of_the_known_entries_of_its_class(limit):
    found = class_figures(result(), LabelTable(TRUTH), None if limit == 0 else limit <= SCORES)
    for k in range(3):
        known = TRUTH[:, k] != -1
        truth, scores = TRUTH[known, k], SCORES[known, k]
        assert found.AP[k] == pytest.approx(average_precision_score(truth, scores))
        assert found.AUROC[k] == pytest.approx(roc_auc_score(truth, scores))
        for name, score in (("precision", precision_score), ("recall", recall_score), ("F1", f1_score)):
            assert getattr(found, name)[k] == pytest.approx(score(truth, scores >= limit))
    assert found.mean_auroc == pytest.approx(found.AUROC[:3].mean())
    assert np.isnan(found.AUROC[3:]).all()
    rows = found.as_dicts(CLASSES)
    assert [row["class"] for row in rows] == list("abcde")
    assert [row["known"] for row in rows] == (TRUTH != -1).sum(axis=0).tolist()
    assert [row["positives"] for row in rows] == (TRUTH == 1).sum(axis=0).tolist()
    assert rows[0]["predicted"] == int(((SCORES[:, 0] >= limit) & (TRUTH[:, 0] != -1)).sum())
    assert (rows[3]["recall"], rows[3]["AUROC"], rows[3]["precision"]) == (None, None, 0.0)
    assert [rows[4][name] for name in ("AP", "AUROC", "precision", "recall", "F1")] == [None] * 5


def test_of_scores_of_known_entries_alone_counts_are_left():
    metrics = evaluate_known(known_scores(SCORES, TRUTH))
    found = class_figures(SimpleNamespace(metrics=metrics, scores=None), None)
    dense = class_figures(result(), LabelTable(TRUTH))
    np.testing.assert_array_equal(found.precision, dense.precision)
    np.testing.assert_array_equal(found.AP, dense.AP)
    assert np.isnan(found.AUROC).all()
    assert math.isnan(found.mean_auroc)


def test_a_pair_of_equal_scores_counts_one_half():
    assert area_under_roc(np.array([1.0, 1.0, 0.0]), np.array([1, 0, 0])) == 0.75
    assert math.isnan(area_under_roc(np.array([1.0]), np.array([1])))
    assert math.isnan(area_under_roc(np.array([1.0]), np.array([0])))
