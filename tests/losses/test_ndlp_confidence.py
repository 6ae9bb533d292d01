"""NDLP's formulas against loops, and what must hold of them whatever the numbers."""

import math

import numpy as np
import pytest
import torch

from losses.common.candidate_memory import ClassTotals
from losses.ndlp_confidence import (
    bounded_distribution,
    class_shares,
    class_thresholds,
    moved_confidence,
    moved_totals,
    one_per_image,
    predicted_confidence,
    predicted_confidence_each,
    pseudo_labels,
    refined_distribution,
    reliable_rows,
    rows_wanted,
    sharpened,
    sharpened_each,
)
from tests.losses.fake_model import random_labels
from tests.oracles import ndlp as oracle

CLOSE = {"rtol": 1e-12, "atol": 1e-14}
SHAPES = [(12, 5), (1, 4), (30, 1), (7, 23)]


def drawn(rows, classes, seed=0):
    """Candidates with an empty row, confidences on them with an empty class where there are several, and logits."""
    rng = np.random.default_rng(seed)
    candidates = (random_labels(rows, classes, seed) == 1).astype(float)
    if rows > 1 and classes > 1:
        candidates[-1] = candidates[:, 0] = 0
    confidence = candidates * rng.random((rows, classes))
    confidence /= np.maximum(confidence.sum(axis=1, keepdims=True), 1e-9)
    return candidates, confidence, rng.normal(0, 3, (rows, classes))


def tensors(*arrays):
    return [torch.from_numpy(np.asarray(array)) for array in arrays]


def totals_of(confidence):
    """Of all images."""
    return ClassTotals(confidence.sum(dim=0), (confidence != 0).sum(dim=0))


@pytest.mark.parametrize("shape", SHAPES)
def test_totals_after_a_step_are_those_of_all_images(shape):
    _, confidence, _ = drawn(*shape)
    _, others, _ = drawn(*shape, seed=1)
    before, others = tensors(confidence, others)
    index = torch.tensor([0, len(before) - 1, 0])
    after, rows = before.clone(), torch.stack([others[0], others[-1], torch.full_like(others[0], math.nan)])
    for place in (1, 0):
        after[index[place]] = rows[place]
    rows[2] = 7.0  # of an image that comes twice the first row counts
    given = totals_of(before)
    found, expected = moved_totals(given, before[index], rows, index), totals_of(after)
    np.testing.assert_allclose(found.sums, expected.sums, **CLOSE)
    assert found.counts.tolist() == expected.counts.tolist()
    assert given.counts.tolist() == totals_of(before).counts.tolist()


def test_totals_stay_right_over_a_long_epoch_in_which_confidences_nearly_vanish():
    _, confidence, _ = drawn(200, 5)
    (dense,) = tensors(confidence)
    totals, generator = totals_of(dense), torch.Generator().manual_seed(0)
    for step in range(1500):
        index = torch.randint(0, 200, (8,), generator=generator)
        after = one_per_image(dense[index] * (0.97 if step % 2 else 0.9), index, "last")
        totals = moved_totals(totals, dense[index], after, index)
        dense[index] = after
    expected = totals_of(dense)
    assert expected.sums.max() < 2
    np.testing.assert_allclose(totals.sums, expected.sums, rtol=0, atol=1e-12)
    assert torch.equal(totals.counts, expected.counts)


@pytest.mark.parametrize("gamma", [0.5, 1.5, 2.0, 3.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_pseudo_labels_are_those_of_the_loops(shape, gamma):
    _, confidence, _ = drawn(*shape)
    (rows,) = tensors(confidence)
    np.testing.assert_allclose(class_thresholds(totals_of(rows)), oracle.thresholds(confidence), **CLOSE)
    np.testing.assert_allclose(sharpened(rows, gamma), oracle.sharpened(confidence, gamma), **CLOSE)
    found = pseudo_labels(sharpened(rows, gamma), class_thresholds(totals_of(rows)))
    np.testing.assert_array_equal(found, oracle.pseudo(oracle.sharpened(confidence, gamma), confidence))


@pytest.mark.parametrize("gamma", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_confidences_that_know_nothing_of_each_other_are_those_of_the_loops(shape, gamma):
    candidates, confidence, logits = drawn(*shape)
    rows, scores, named = tensors(confidence, logits, candidates > 0)
    np.testing.assert_allclose(sharpened_each(rows, gamma), oracle.sharpened_each(confidence, gamma), **CLOSE)
    np.testing.assert_allclose(
        predicted_confidence_each(scores, named), oracle.predicted_each(logits, candidates), **CLOSE
    )


def test_each_confidence_is_sharpened_away_from_one_half():
    values = torch.tensor([[0.0, 0.25, 0.5, 0.75, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(sharpened_each(values, 1.0), values)
    assert sharpened_each(values, 2.0).tolist() == [[0.0, pytest.approx(0.1), 0.5, pytest.approx(0.9), 1.0]]
    far = sharpened_each(torch.tensor([[0.5, 0.5 - 1e-9, 1e-12]], dtype=torch.float64), 2000.0)
    assert far.tolist() == [[0.5, pytest.approx(0.5, abs=1e-5), 0.0]]


def test_a_class_that_nobody_has_as_a_candidate_never_gets_a_pseudo_label():
    confidence = torch.tensor([[0.0, 1.0], [0.0, 0.5]], dtype=torch.float64)
    assert class_thresholds(totals_of(confidence)).tolist() == [math.inf, 0.75]
    assert not pseudo_labels(confidence, class_thresholds(totals_of(confidence)))[:, 0].any()


def test_a_confidence_that_equals_its_threshold_is_no_pseudo_label():
    confidence = torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    assert not pseudo_labels(sharpened(confidence, 3.0), class_thresholds(totals_of(confidence))).any()


def test_sharpening_keeps_the_order_and_survives_large_exponents():
    _, confidence, _ = drawn(9, 6, 3)
    (rows,) = tensors(confidence)
    torch.testing.assert_close(sharpened(rows, 1.0), rows)
    mild, sharp = sharpened(rows, 2.0), sharpened(rows, 900.0)
    assert torch.equal(mild.argsort(stable=True), rows.argsort(stable=True))
    filled = rows.sum(dim=1) > 0
    torch.testing.assert_close(sharp.sum(dim=1), filled.double())
    assert torch.equal(sharp.argmax(dim=1), rows.argmax(dim=1))


@pytest.mark.parametrize("shape", SHAPES)
def test_predictions_are_those_of_the_loops(shape):
    candidates, _, logits = drawn(*shape)
    found = predicted_confidence(*tensors(logits, candidates > 0))
    np.testing.assert_allclose(found, oracle.predicted(logits, candidates), **CLOSE)


def test_predictions_do_not_vanish_where_all_mass_lies_outside_the_candidates():
    logits = torch.tensor([[3000.0, -2000.0, -2001.0], [5.0, 4.0, 3.0]])
    candidates = torch.tensor([[False, True, True], [False, False, False]])
    found = predicted_confidence(logits, candidates)
    expected = 1 / (1 + math.exp(-1))
    np.testing.assert_allclose(found, [[0, expected, 1 - expected], [0, 0, 0]], **CLOSE)


@pytest.mark.parametrize("repeats", ["mean", "last"])
def test_an_image_that_comes_repeatedly_moves_as_a_whole(repeats):
    candidates, confidence, logits = drawn(12, 5)
    index = [3, 7, 3, 0, 11, 7, 3]
    prediction = oracle.predicted(logits[: len(index)], candidates[index])
    one = one_per_image(*tensors(prediction, index), repeats)
    moved = confidence.copy()
    moved[index] = moved_confidence(*tensors(confidence[index]), one, 0.3)
    np.testing.assert_allclose(moved, oracle.update(confidence, index, prediction, 0.3, repeats), **CLOSE)
    assert torch.equal(one[0], one[2])


def test_the_mean_over_repeats_depends_on_no_order():
    values, index = torch.rand(6, 3, dtype=torch.float64), torch.tensor([1, 4, 1, 2, 1, 4])
    order = torch.tensor([4, 2, 0, 5, 3, 1])
    torch.testing.assert_close(
        one_per_image(values, index, "mean")[order], one_per_image(values[order], index[order], "mean")
    )
    assert torch.equal(one_per_image(values, torch.arange(6), "last"), values)


def test_a_moved_confidence_stays_a_distribution_over_the_candidates():
    candidates, confidence, logits = drawn(12, 5)
    said = predicted_confidence(*tensors(logits, candidates > 0))
    moved = moved_confidence(*tensors(confidence), said, 0.1)
    np.testing.assert_allclose(moved.sum(dim=1), candidates.any(axis=1), **CLOSE)
    assert not moved[torch.from_numpy(candidates == 0)].any()
    assert torch.equal(moved[-1], torch.from_numpy(confidence[-1]))  # nothing was said of an image without candidates


def test_a_confidence_of_which_nothing_is_said_stays_as_it_was():
    held = torch.tensor([[0.25, 0.75], [0.25, 0.75]], dtype=torch.float64)
    said = torch.tensor([[0.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    assert moved_confidence(held, said, 0.5).tolist() == [[0.25, 0.75], [0.125, 0.875]]


@pytest.mark.parametrize("seed", range(6))
def test_reliable_rows_are_those_of_the_loops(seed):
    rng = np.random.default_rng(seed)
    size, classes = int(rng.integers(1, 20)), int(rng.integers(1, 9))
    losses, labels = rng.random(size).round(1), rng.random((size, classes)) < 0.4  # ties among the losses
    wanted = rows_wanted(*tensors(rng.dirichlet(np.ones(classes))), size, 0.8)
    found = reliable_rows(*tensors(losses, labels), wanted)
    assert found.nonzero().squeeze(1).tolist() == oracle.chosen(losses, labels, wanted.tolist())


def test_reliable_rows_at_the_limits():
    losses, labels = torch.rand(8), torch.rand(8, 4) < 0.6
    everything = torch.full((4,), 8.0)
    assert torch.equal(reliable_rows(losses, labels, everything), labels.any(dim=1))
    assert not reliable_rows(losses, torch.zeros_like(labels), everything).any()
    one_each = reliable_rows(losses, labels, torch.zeros(4))
    best = {int(losses.masked_fill(~column, math.inf).argmin()) for column in labels.T if column.any()}
    assert set(one_each.nonzero().squeeze(1).tolist()) == best


def test_reliable_rows_follow_a_permutation():
    losses, labels, wanted = torch.rand(10), torch.rand(10, 5) < 0.5, torch.rand(5) * 3
    order, classes = torch.randperm(10), torch.randperm(5)
    found = reliable_rows(losses, labels, wanted)
    assert torch.equal(reliable_rows(losses[order], labels[order][:, classes], wanted[classes]), found[order])


def test_reliable_rows_only_grow_with_what_is_wanted():
    losses, labels = torch.rand(20), torch.rand(20, 6) < 0.5
    few, more = (reliable_rows(losses, labels, torch.full((6,), count)) for count in (1.2, 4.0))
    assert (few & ~more).sum() == 0
    assert more.sum() > few.sum()


@pytest.mark.parametrize("step", ["reference", "bounded"])
def test_a_distribution_refined_over_batches_is_that_of_the_loops(step):
    _, confidence, _ = drawn(40, 6)
    d, log_d = np.full(6, 1 / 6), torch.full((6,), -math.log(6), dtype=torch.float64)
    for start in range(0, 36, 4):
        rows = confidence[start : start + 4]
        (eps,) = tensors(oracle.shares(rows))
        np.testing.assert_allclose(class_shares(*tensors(rows)), eps, **CLOSE)
        if step == "reference":
            d, log_d = oracle.refined(d, eps.tolist()), refined_distribution(log_d, eps)
        else:
            d, log_d = (
                oracle.bounded(d, eps.tolist(), 0.2, 5.0),
                bounded_distribution(log_d, eps, mu=0.2, max_ratio=5.0),
            )
        np.testing.assert_allclose(log_d.exp(), d, rtol=1e-10)


def test_the_published_recurrence_runs_away_and_stays_exact_where_a_float_holds_nothing():
    log_d = torch.full((3,), -math.log(3), dtype=torch.float64)
    eps = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    for _ in range(1000):
        log_d = refined_distribution(log_d, eps)
    np.testing.assert_allclose(log_d[2] - log_d[0], 1000 * math.log((0.7 + 1e-8) / (0.1 + 1e-8)), rtol=1e-9)
    assert log_d.exp().tolist() == [0, pytest.approx(0, abs=1e-200), 1]


def test_the_bounded_distribution_leans_to_what_is_rare_within_its_bounds():
    log_d = torch.full((4,), -math.log(4), dtype=torch.float64)
    eps = torch.tensor([0.9, 0.09, 0.01, 0.0], dtype=torch.float64)
    for _ in range(500):
        log_d = bounded_distribution(log_d, eps, mu=0.1, max_ratio=3.0)
    d = log_d.exp()
    np.testing.assert_allclose(d.sum(), 1)
    assert d[0] < d[1]
    np.testing.assert_allclose(d[1:] / d[0], [3 / (4 * 0.09), 9, 9], rtol=1e-9)
    for settings in ({"mu": 0.1, "max_ratio": 1.0}, {"mu": 0.0, "max_ratio": 3.0}):
        start = torch.full((4,), -math.log(4), dtype=torch.float64)
        torch.testing.assert_close(bounded_distribution(start, eps, **settings), start)


def test_a_batch_without_any_confidence_leaves_the_distribution_alone():
    log_d = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64).log()
    nothing = class_shares(torch.zeros(4, 3, dtype=torch.float64))
    assert nothing.tolist() == [0, 0, 0]
    assert torch.equal(bounded_distribution(log_d, nothing, mu=0.5, max_ratio=3.0), log_d)
    d = refined_distribution(log_d, nothing).exp()
    np.testing.assert_allclose(d, oracle.refined([0.2, 0.3, 0.5], [0, 0, 0]), rtol=1e-9)


def test_no_formula_changes_its_inputs():
    candidates, confidence, logits = tensors(*drawn(12, 5))
    index, losses, wanted = torch.arange(12), torch.rand(12), torch.ones(5, dtype=torch.float64)
    before = [part.clone() for part in (candidates, confidence, logits, wanted, losses)]
    soft = sharpened(confidence, 3.0)
    reliable_rows(losses, pseudo_labels(soft, class_thresholds(totals_of(confidence))), wanted)
    said = predicted_confidence(logits, candidates > 0)
    moved_confidence(confidence, one_per_image(said, index, "mean"), 0.1)
    bounded_distribution(refined_distribution(wanted, class_shares(confidence)), wanted, mu=0.1, max_ratio=3.0)
    for old, new in zip(before, (candidates, confidence, logits, wanted, losses), strict=True):
        assert torch.equal(old, new)
