"""Calibration of scores against scikit-learn, and against what made the labels."""

import numpy as np
import pytest
from scipy.special import expit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from utils.calibration import fit_calibration, fit_isotonic, fit_temperature

RNG = np.random.default_rng(5)
LOGITS = RNG.normal(0, 3, (400, 4))
TRUTH = (RNG.random((400, 4)) < expit(LOGITS / [0.5, 1, 2, 4])).astype(np.int8)


def test_a_temperature_is_that_of_a_logistic_regression_through_the_origin():
    for k in range(4):
        expected = LogisticRegression(C=1e12, fit_intercept=False).fit(LOGITS[:, [k]], TRUTH[:, k]).coef_.item()
        found = fit_temperature(LOGITS[:, k], TRUTH[:, k] == 1)
        assert 1 / found == pytest.approx(expected, rel=1e-3)
    assert fit_temperature(np.array([-1.0, 2.0]), np.array([False, True])) == pytest.approx(1 / 20, rel=1e-3)
    assert fit_temperature(np.array([-1.0, 2.0]), np.array([True, False])) == pytest.approx(20, rel=1e-3)


def test_isotonic_probabilities_are_those_of_scikit_learn_between_and_beyond_the_scores():
    new = np.linspace(-20, 20, 101)
    found = fit_calibration(LOGITS.astype(np.float32), TRUTH, "isotonic")
    for k in range(4):
        fitted = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
        fitted.fit(LOGITS[:, k].astype(np.float32).astype(np.float64), TRUTH[:, k])
        probabilities = found.probabilities(np.tile(new[:, None], (1, 4)))[:, k]
        np.testing.assert_allclose(probabilities, fitted.predict(new), atol=1e-12)
    assert found.method == "isotonic"
    assert found.temperature is None


def test_temperatures_divide_the_logits_of_their_class():
    found = fit_calibration(LOGITS, TRUTH, "temperature")
    assert found.temperature.tolist() == [fit_temperature(LOGITS[:, k], TRUTH[:, k] == 1) for k in range(4)]
    np.testing.assert_array_equal(found.probabilities(LOGITS), expit(LOGITS / found.temperature))
    single = LOGITS.astype(np.float32)
    assert found.probabilities(single).dtype == np.float32
    assert fit_calibration(single, TRUTH, "isotonic").probabilities(single).dtype == np.float32
    assert found.knots == ()


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_a_class_with_few_positives_or_negatives_has_the_function_of_all_and_unknown_entries_say_nothing(method):
    truth = TRUTH.copy()
    truth[:100] = -1
    truth[:, 1] = 0
    truth[100:109, 1] = 1  # nine positives
    truth[:, 2] = 1
    truth[100:110, 2] = 0  # ten negatives
    found, known = fit_calibration(LOGITS, truth, method), truth != -1
    fit = fit_temperature if method == "temperature" else fit_isotonic
    assert found.own.tolist() == [True, False, True, True]

    def of(k):
        return found.temperature[k] if method == "temperature" else found.knots[k].probability.tolist()

    def fitted(logits, labels):
        one = fit(logits, labels == 1)
        return one if method == "temperature" else one.probability.tolist()

    assert of(1) == fitted(LOGITS[known], truth[known])
    assert of(0) == fitted(LOGITS[known[:, 0], 0], truth[known[:, 0], 0])
    assert of(2) == fitted(LOGITS[known[:, 2], 2], truth[known[:, 2], 2])
    swapped = found.take(np.array([2, 0]))
    assert swapped.own.tolist() == [True, True]
    np.testing.assert_array_equal(swapped.probabilities(LOGITS[:, [2, 0]]), found.probabilities(LOGITS)[:, [2, 0]])


def test_too_few_entries_are_told():
    truth = np.zeros((30, 2), dtype=np.int8)
    truth[:9, 0] = 1
    with pytest.raises(ValueError, match="9 positives and 51 negatives are known"):
        fit_calibration(LOGITS[:30, :2], truth, "temperature")
    truth[:, :] = 1
    truth[:9, 0] = 0
    with pytest.raises(ValueError, match="51 positives and 9 negatives are known"):
        fit_calibration(LOGITS[:30, :2], truth, "temperature")
    truth[9, 0] = 0
    fit_calibration(LOGITS[:30, :2], truth, "temperature")
