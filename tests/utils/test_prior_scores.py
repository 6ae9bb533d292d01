"""Prior scores as probabilities, and their rows and columns."""

import math

import numpy as np
import pytest

from utils.prior_scores import PriorScores, as_probabilities


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_kinds_become_probabilities(dtype):
    values = np.array([[0.25, 0.5, 0.125]], dtype)
    np.testing.assert_array_equal(as_probabilities(values, "probability", 1), values)
    logistic = [[1 / (1 + math.exp(-value)) for value in values[0].tolist()]]
    np.testing.assert_allclose(as_probabilities(values, "logit", 1), logistic, rtol=1e-6)
    powers = [math.exp(value / 0.1) for value in values[0].tolist()]
    found = as_probabilities(values, "cosine", 0.1)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [[power / sum(powers) for power in powers]], rtol=1e-6)


def test_extreme_numbers_stay_finite():
    np.testing.assert_array_equal(as_probabilities(np.array([[-6e4, 0, 6e4]]), "logit", 1), [[0, 0.5, 1]])
    for temperature in (1e-4, 1e-320):
        np.testing.assert_array_equal(as_probabilities(np.array([[-1.0, 1.0]]), "cosine", temperature), [[0, 1]])


def test_rows_and_columns_are_those_of_the_dataset_and_the_softmax_is_over_its_classes():
    values = np.array([[0.1, 0.9, 0.2], [0.3, 0.8, 0.4]])
    tiles = np.stack([values, values[:, ::-1]], axis=1)
    scores = PriorScores(values, np.array([1, 0, 1]), np.array([2, 0]), "cosine", 0.1, tiles)
    assert len(scores) == 3
    expected = as_probabilities(np.array([[0.4, 0.3], [0.2, 0.1]]), "cosine", 0.1)
    np.testing.assert_array_equal(scores.rows(np.array([0, 1])), expected)
    np.testing.assert_array_equal(scores.rows(slice(1, 3)), expected[::-1])
    assert scores.tile_rows(slice(None)).shape == (3, 2, 2)
    np.testing.assert_array_equal(scores.tile_rows(np.array([1]))[:, 0], expected[1:])


def test_bits_of_bfloat16_are_read():
    bits = (np.array([[0.5, 0.25]], np.float32).view(np.uint32) >> 16).astype(np.uint16)
    np.testing.assert_array_equal(PriorScores(bits, np.array([0]), np.array([1, 0])).rows(slice(None)), [[0.25, 0.5]])


def test_tiles_that_are_not_there_are_told():
    with pytest.raises(ValueError, match="whole images alone"):
        PriorScores(np.ones((1, 1)), np.array([0]), np.array([0])).tile_rows(slice(None))
