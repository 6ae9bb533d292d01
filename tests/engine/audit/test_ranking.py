import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from engine.audit.ranking import (
    AlikePair,
    Contradiction,
    alike_classes,
    calibrated,
    contradictions,
    margins,
    ranked,
    thresholds,
)

NAN = float("nan")


def test_calibration_is_a_logistic_regression_of_known_labels():
    rng = np.random.default_rng(0)
    codes = rng.integers(-1, 2, (80, 2)).astype(np.int8)
    evidence = [3 * rng.standard_normal((80, 2)) + codes + 5, rng.standard_normal((80, 2)) - codes]
    found = calibrated(evidence, codes)
    for label in range(2):
        inputs = np.stack([each[:, label] for each in evidence], axis=1)
        inputs = (inputs - inputs.mean(0)) / inputs.std(0)
        known = codes[:, label] >= 0
        model = LogisticRegression(C=10.0).fit(inputs[known], codes[known, label])
        np.testing.assert_allclose(found[:, label], model.predict_proba(inputs)[:, 1], rtol=1e-6)
        assert found[known, label].mean() == pytest.approx((codes[known, label] == 1).mean(), abs=1e-3)


def test_evidence_that_never_varies_leaves_the_share_of_the_class():
    codes = np.array([[1], [0], [0], [0]], dtype=np.int8)
    np.testing.assert_allclose(calibrated([np.full((4, 1), 3.0)], codes), 0.25, atol=1e-3)


PROBABILITIES = np.array([[0.9, 0.5, NAN], [0.8, 0.3, NAN], [0.2, 0.4, NAN], [0.85, 0.1, NAN], [0.05, 0.2, NAN]])
CODES = np.array([[1, 1, 1], [1, 0, 0], [1, -1, 0], [0, 0, -1], [0, 0, 0]], dtype=np.int8)


def test_thresholds_are_mean_probabilities_of_labels_of_each_kind():
    limits = thresholds(PROBABILITIES, CODES)
    np.testing.assert_allclose(limits.present, [1.9 / 3, 0.5, NAN])
    np.testing.assert_allclose(limits.absent, [0.45, 0.2, NAN])
    assert np.isnan(thresholds(PROBABILITIES, np.zeros((5, 3), dtype=np.int8)).present).all()


def test_labels_are_ranked_by_probability_and_beyond_the_threshold_they_are_sure():
    limits = thresholds(PROBABILITIES, CODES)
    missing = ranked("missing", PROBABILITIES, CODES, limits)
    assert list(zip(missing.image.tolist(), missing.label.tolist(), strict=True)) == [
        (3, 0),
        (1, 1),
        (4, 1),
        (3, 1),
        (4, 0),
    ]
    assert missing.score.tolist() == [0.85, 0.3, 0.2, 0.1, 0.05]
    assert missing.rank.tolist() == [1, 1, 2, 3, 2]
    assert missing.sure.tolist() == [True, False, False, False, False]
    wrong = ranked("wrong", PROBABILITIES, CODES, limits)
    assert wrong.image.tolist() == [2, 0, 1, 0]
    np.testing.assert_allclose(wrong.score, [0.8, 0.5, 0.2, 0.1])
    assert wrong.sure.tolist() == [True, False, False, False]
    unknown = ranked("unknown", PROBABILITIES, CODES, limits)
    assert (unknown.image.tolist(), unknown.label.tolist(), unknown.rank.tolist()) == ([2], [1], [1])
    none = ranked("unknown", PROBABILITIES, CODES[:2].repeat(3, 0)[:5], limits)
    assert len(none.rank) == 0


def test_of_equal_probabilities_the_first_class_and_image_come_first():
    half = np.full((2, 2), 0.5)
    found = ranked("missing", half, np.zeros((2, 2), dtype=np.int8), thresholds(half, np.eye(2, dtype=np.int8)))
    assert list(zip(found.label.tolist(), found.image.tolist(), strict=True)) == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_margins_are_in_units_of_the_distance_of_both_thresholds():
    limits = thresholds(PROBABILITIES, CODES)
    span = 1.9 / 3 - 0.45
    assert margins("missing", PROBABILITIES, limits)[3, 0] == pytest.approx((0.85 - 1.9 / 3) / span)
    assert margins("wrong", PROBABILITIES, limits)[2, 0] == pytest.approx((0.45 - 0.2) / span)
    upside_down = limits._replace(present=limits.absent, absent=limits.present)
    assert np.isnan(margins("missing", PROBABILITIES, upside_down)).all()
    assert not ranked("missing", PROBABILITIES, CODES, upside_down).sure.any()


def test_classes_are_alike_where_one_is_probable_beside_the_other():
    codes = np.zeros((20, 3), dtype=np.int8)
    codes[:6, 0], codes[6:9, 1] = 1, 1
    probabilities = np.full((20, 3), 0.02)
    probabilities[:6, 0], probabilities[6:9, 1] = 0.9, 0.8
    probabilities[:6, 1] = [0.3, 0.3, 0.3, 0.3, 0.3, 0.9]
    probabilities[5, 0] = 0.01
    limits = thresholds(probabilities, codes)
    (pair,) = alike_classes(probabilities, codes, limits)
    usual = (1.5 + 0.9 + 11 * 0.02) / 17
    assert pair == AlikePair(0, 1, 6, pytest.approx(0.4), pytest.approx(usual), 1)
    assert alike_classes(probabilities, codes, limits, least=7) == []


def test_pairs_contradict_each_other_where_one_is_present_and_the_other_absent():
    codes = np.array([[1, 0, -1], [0, 0, 1], [1, 1, 0]], dtype=np.int8)
    pairs = np.array([[0, 1], [0, 2], [1, 2]])
    assert contradictions(pairs, codes) == [
        Contradiction(0, 0, 0, 1),
        Contradiction(1, 1, 2, 0),
        Contradiction(2, 0, 2, 1),
        Contradiction(2, 1, 2, 1),
        Contradiction(2, 2, 1, 2),
    ]
    assert contradictions(pairs[:0], codes) == []
