"""Estimates of transition matrices: golden values, a slow oracle, noise that is known, classes that tell nothing."""

import numpy as np
import pytest
import torch

from data.labels.regimes import flipped_labels
from losses.transition_estimate import (
    HOW,
    LEAST_CHOSEN,
    anchor_rates,
    clean_labels,
    count_labels,
    estimate_noise,
    low_losses,
    pair_rates,
    pair_tables,
)
from tests import golden_files
from tests.oracles import transition as oracle

ZERO = {"": "none", "candidates": "rho_pos", "missing": "rho_neg"}


def golden(kind):
    cases = golden_files.each_case("transition.npz")
    return [each for each in cases if each.values[0] is None or each.values[0]["kind"] == kind]


def surest(arrays):
    """(N, C) probabilities of the epoch of least validation loss of each class."""
    best = arrays["val_loss"].argmin(axis=1)
    return np.stack([prob[epoch, :, 1] for prob, epoch in zip(arrays["prob"], best, strict=True)], axis=1).astype(float)


@pytest.mark.parametrize("case, arrays", golden("estimate"))
def test_golden_matrices(case, arrays):
    noisy, clean, zero = arrays["noisy"] == 1, arrays["selected"], ZERO[case["true_zero"]]
    found, scores = estimate_noise(noisy, clean, surest(arrays), zero), surest(arrays)
    for label, matrix in enumerate(arrays["T"]):
        few = min((clean & noisy)[:, label].sum(), (clean & ~noisy)[:, label].sum()) < LEAST_CHOSEN
        assert few == (not matrix.any())
        if few:  # the published matrix stays zero
            matrix = oracle.dual(scores[:, label], noisy[:, label])
        assert (found.how[label] == 0) == (not few and label not in case["unsolved"])
        if matrix[0, 1] + matrix[1, 0] < 1:
            np.testing.assert_allclose(found.rates[label], [matrix[0, 1], matrix[1, 0]], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("case, arrays", golden("noise"))
def test_golden_noise_is_the_regime_flip(case, arrays):
    truth = (arrays["truth"] == 1).astype(np.int8)
    rng = np.random.RandomState(case["seed"])
    found = flipped_labels(truth, rng, case["rho_plus"], case["rho_minus"])
    np.testing.assert_array_equal(found == 1, arrays["noisy"] == 1)


def noisy_labels(seed, rows=300, classes=4):
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(rows, 2)) @ rng.normal(size=(2, classes))
    truth = hidden + rng.normal(size=(rows, classes)) > 0.4
    return truth, truth ^ (rng.random((rows, classes)) < np.where(truth, 0.2, 0.1)), rng.random((rows, classes)) < 0.8


@pytest.mark.parametrize("zero, column", [("none", None), ("rho_neg", 0), ("rho_pos", 1)])
@pytest.mark.parametrize("seed", range(4))
def test_rates_match_loops(seed, zero, column):
    truth, noisy, chosen = noisy_labels(seed)
    clean = chosen & ((truth == noisy) | (np.arange(len(truth)) % 9 == 0)[:, None])
    found, solved = pair_rates(pair_tables(count_labels(noisy, clean)), zero)
    expected = oracle.rates(noisy, clean, column)
    assert solved.tolist() == [each is not None for each in expected]
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, [0, 0] if theirs is None else theirs, rtol=1e-9, atol=1e-12)


def test_labels_are_counted_in_blocks(monkeypatch):
    _, noisy, clean = noisy_labels(1)
    whole = count_labels(noisy, clean)
    monkeypatch.setattr("losses.transition_estimate._ROWS", 7)
    for one, other in zip(count_labels(noisy, clean), whole, strict=True):
        np.testing.assert_array_equal(one, other)


def test_with_clean_labels_known_the_noise_is_found():
    truth, noisy, _ = noisy_labels(5, rows=60_000)
    found, solved = pair_rates(pair_tables(count_labels(noisy, truth == noisy)))
    assert solved.all()
    np.testing.assert_allclose(found, [[0.1, 0.2]] * 4, atol=0.03)


@pytest.mark.parametrize("rho_neg, rho_pos", [(0.1, 0.1), (0.2, 0.2), (0.0, 0.4), (0.3, 0.0)])
def test_from_losses_alone_the_noise_is_nearly_found(rho_neg, rho_pos):
    truth, _, _ = noisy_labels(7, rows=4000)
    rng = np.random.default_rng(8)
    noisy = truth ^ (rng.random(truth.shape) < np.where(truth, rho_pos, rho_neg))
    logits = np.where(truth, 2, -2) + 1.5 * rng.normal(size=truth.shape)
    losses = np.log1p(np.exp(np.where(noisy, -logits, logits)))
    found = estimate_noise(noisy, clean_labels(noisy, losses / losses.max()), 1 / (1 + np.exp(-logits)))
    assert (found.how == 0).all()
    np.testing.assert_allclose(found.rates, [[rho_neg, rho_pos]] * 4, atol=0.12)


def test_a_class_that_tells_nothing_spoils_no_other():
    _, noisy, clean = noisy_labels(2)
    alone = estimate_noise(noisy, clean, noisy * 0.8 + 0.1)
    with_constants = np.column_stack([noisy, np.zeros(len(noisy), bool), np.ones(len(noisy), bool)])
    found = estimate_noise(with_constants, np.column_stack([clean, clean[:, :2]]), with_constants * 0.8 + 0.1)
    np.testing.assert_array_equal(found.how[:4], alone.how)
    assert [HOW[number] for number in found.how[4:]] == ["none", "none"]
    assert (found.rates[4:] == 0).all()
    assert np.isfinite(found.rates).all()


@pytest.mark.parametrize("number, expected", [(LEAST_CHOSEN, 0), (LEAST_CHOSEN - 1, 1)])
@pytest.mark.parametrize("kind", [True, False])
def test_too_few_clean_labels_of_a_kind_take_the_anchors(number, expected, kind):
    truth, noisy, _ = noisy_labels(5, rows=2000)
    clean = truth == noisy
    rows = np.flatnonzero(clean[:, 0] & (noisy[:, 0] == kind))
    clean[rows[number:], 0] = False
    found = estimate_noise(noisy, clean, np.where(truth, 0.9, 0.1))
    assert found.how.tolist() == [expected, 0, 0, 0]
    assert found.how.dtype == np.int8


def test_anchors_match_loops_and_a_side_that_nobody_guesses_is_what_is_seen():
    rng = np.random.default_rng(3)
    scores, noisy = rng.random((50, 3)), rng.random((50, 3)) < 0.4
    scores[:, 2] /= 2
    found = anchor_rates(scores, noisy)
    for label in range(2):
        matrix = oracle.dual(scores[:, label], noisy[:, label])
        np.testing.assert_allclose(found[label], [matrix[0, 1], matrix[1, 0]], rtol=1e-12)
    low, high, share = scores[:, 2].min(), scores[:, 2].max(), noisy[:, 2].mean()
    np.testing.assert_allclose(found[2], [(1 - low) * share + low, (1 - high) * (1 - share)], rtol=1e-12)


@pytest.mark.parametrize("zero, column", [("rho_neg", 0), ("rho_pos", 1)])
def test_a_side_that_is_known_to_be_none_is_none_and_all_of_it_is_clean(zero, column):
    _, noisy, _ = noisy_labels(4)
    losses = np.random.default_rng(0).random(noisy.shape)
    clean = clean_labels(noisy, losses, zero)
    assert clean[noisy == (zero == "rho_neg")].all()
    assert not clean.all()
    found = estimate_noise(noisy, clean, np.where(noisy, 0.7, 0.2), zero)
    assert (found.rates[:, column] == 0).all()


def test_the_lower_of_two_groups_of_losses_is_chosen():
    rng = np.random.default_rng(0)
    low, high = rng.normal(0.1, 0.02, 70), rng.normal(0.7, 0.1, 30)
    order = rng.permutation(100)
    values = np.concatenate([low, high])[order]
    np.testing.assert_array_equal(low_losses(values), order < 70)
    assert torch.equal(*(torch.from_numpy(low_losses(values)) for _ in range(2)))
    for alike in (np.full(5, 0.3), np.zeros(1), np.zeros(0)):
        assert low_losses(alike).tolist() == [True] * len(alike)
    assert low_losses(np.array([0.0, 1.0])).tolist() == [True, False]
