"""The formulas of CoNeS and its settings; the criterion is in test_cones_training.py."""

import re
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch

from losses.common.candidate_memory import CandidateMemory
from losses.common.functional import weighted_bce
from losses.common.variants import variant_options
from losses.cones import (
    VARIANTS,
    CoNeSConfig,
    CoNeSVariant,
    cones_loss,
    negative_weights,
    pseudo_labels,
    update_confidence,
)
from tests import golden_files
from tests.oracles import cones as oracle
from utils.checks import UserError
from utils.types import LabelTable

DOUBLE = {"rtol": 1e-10, "atol": 1e-14}
SINGLE = {"rtol": 1e-5, "atol": 1e-8}


def inputs_of(arrays):
    logits, targets = (torch.from_numpy(arrays[name].copy()) for name in ("logits", "targets"))
    confidence = torch.from_numpy(arrays["confidence"])[torch.from_numpy(arrays["batch_index"])]
    return logits, targets, confidence


def agree(ours, expected, **tolerance):
    """Equal where the published code gives a number; ours is a number everywhere."""
    ours, expected = np.asarray(ours), np.asarray(expected)
    assert np.isfinite(ours).all()
    held = np.isfinite(expected)
    np.testing.assert_allclose(ours[held], expected[held], **tolerance)


def random_case(seed, batch=5, classes=7, spread=3.0):
    rng = np.random.default_rng(seed)
    candidates = (rng.random((batch, classes)) < 0.4).astype(float)
    candidates[0] = 0
    candidates[0, 2] = 1  # a sole candidate
    confidence = rng.random((batch, classes)) * candidates
    confidence /= np.maximum(confidence.sum(axis=1, keepdims=True), 1e-9)
    return rng.normal(0, spread, (batch, classes)), candidates, confidence


def as_tensors(*arrays):
    return [torch.from_numpy(np.array(array)) for array in arrays]


@pytest.mark.parametrize("case, arrays", golden_files.each_case("cones_loss.npz"))
def test_golden_loss_of_the_published_code(case, arrays):
    logits, targets, confidence = inputs_of(arrays)
    exact = DOUBLE if logits.dtype == torch.float64 else SINGLE
    beta = float(np.float32(arrays["beta"]))  # it keeps beta and the sum of the second term in single precision
    loss = cones_loss(
        logits.requires_grad_(), targets, confidence, r=float(arrays["r"]), beta=beta, norm="reference", rule="strict"
    )
    loss.total.backward()
    agree(loss.weights, arrays["phi_all"], **exact)
    agree(loss.targets, arrays["targets_new"])
    agree(loss.bce.detach(), arrays["loss_bce"], **exact)
    agree(logits.grad, arrays["grad_logits"], **exact)
    agree(loss.pml.detach(), arrays["loss_pml"], **SINGLE)
    agree(loss.total.detach(), arrays["loss"], **SINGLE)


@pytest.mark.parametrize("case, arrays", golden_files.each_case("cones_loss.npz"))
def test_golden_loss_with_weights_on_the_simplex(case, arrays):
    logits, targets, confidence = inputs_of(arrays)
    r, beta = float(arrays["r"]), float(arrays["beta"])
    loss = cones_loss(logits, targets, confidence, r=r, beta=beta, rule="strict")
    agree(loss.weights - targets, arrays["derived_phi_simplex"], **SINGLE)
    agree(loss.pml, arrays["derived_loss_pml_simplex"], **SINGLE)
    agree(loss.total, arrays["derived_loss_simplex"], **SINGLE)
    agree(negative_weights(logits.double(), targets, r), arrays["derived_phi_simplex"], **DOUBLE)


@pytest.mark.parametrize("case, arrays", golden_files.each_case("cones_confidence.npz"))
def test_golden_confidence_over_successive_steps(case, arrays):
    candidates = arrays["candidates"].astype(np.int8)
    confidence = CandidateMemory(LabelTable(candidates)).dense()
    np.testing.assert_allclose(confidence, arrays["confidence_init"], rtol=1e-5)
    correlation, targets = as_tensors(arrays["correlation"], candidates.astype(np.float32))
    step = 0
    while f"s{step}_logits" in arrays:
        index = torch.from_numpy(arrays[f"s{step}_batch_index"])
        logits = torch.from_numpy(arrays[f"s{step}_logits"])
        confidence[index] = update_confidence(
            confidence[index], logits, targets[index], correlation, float(arrays["mu"])
        )
        np.testing.assert_allclose(confidence, arrays[f"s{step}_confidence_after"], rtol=1e-5)
        step += 1
    assert step > 0


def test_golden_confidence_of_rows_without_and_with_one_candidate():
    golden = golden_files.load("cones_confidence.npz")
    arrays = golden_files.part(golden, "deg_")
    mu = float(re.search(r"mu (0?\.\d+)", golden_files.meta(golden)["degenerate"])[1])
    candidates = arrays["candidates"].astype(np.int8)
    start = CandidateMemory(LabelTable(candidates)).dense()
    agree(start, arrays["confidence_init"], rtol=1e-5)
    logits, targets, correlation = as_tensors(arrays["logits"], candidates.astype(np.float32), arrays["correlation"])
    after = update_confidence(start, logits, targets, correlation, mu)
    agree(after, arrays["confidence_after"], rtol=1e-5)
    assert not after[targets.sum(dim=1) == 0].any()


@pytest.mark.parametrize("r", [1.5, 2.0, 3.0])
@pytest.mark.parametrize("seed", range(3))
def test_loss_matches_loops(seed, r):
    logits, candidates, confidence = random_case(seed)
    ours = cones_loss(*as_tensors(logits, candidates, confidence), r=r, beta=0.3, threshold=0.7)
    expected = oracle.loss(logits, candidates, confidence, r, 0.3, threshold=0.7)
    np.testing.assert_allclose([float(ours.total), float(ours.bce), float(ours.pml)], expected, rtol=1e-10)
    np.testing.assert_allclose(ours.weights, oracle.negative_weights(logits, candidates, r) + candidates, rtol=1e-10)


@pytest.mark.parametrize("r", [1.5, 2.0, 4.0])
def test_weights_minimise_their_objective_on_the_simplex(r):
    logits, candidates, _ = random_case(4, batch=6)
    phi = negative_weights(*as_tensors(logits, candidates), r).numpy()
    rng = np.random.default_rng(0)
    for weights, row, taken in zip(phi, logits, candidates, strict=True):
        negatives = np.flatnonzero(taken == 0)
        loss = np.array([oracle.softplus(row[j]) for j in negatives])
        assert weights.sum() == pytest.approx(1 / len(negatives), rel=1e-10)
        for other in rng.dirichlet(np.ones(len(negatives)), 50) / len(negatives):
            assert (weights[negatives] ** r * loss).sum() <= (other**r * loss).sum() * (1 + 1e-9)


def test_weights_tend_to_equal_ones_as_r_grows_and_to_the_easiest_negative_as_r_falls():
    logits, candidates, _ = random_case(5)
    negatives = 1 - candidates
    number = negatives.sum(axis=1, keepdims=True)
    even = negative_weights(*as_tensors(logits, candidates), 1e9).numpy()
    np.testing.assert_allclose(even, negatives / number**2, rtol=1e-6)
    single = negative_weights(*as_tensors(logits, candidates), 1.001).numpy()
    easiest = np.where(negatives > 0, logits, np.inf).argmin(axis=1)
    np.testing.assert_allclose(single[np.arange(len(single)), easiest], 1 / number[:, 0], rtol=1e-6)


def test_weights_of_very_sure_negatives_keep_their_ratio():
    logits = torch.tensor([[-50.0, -60, -750, -760, 5]])
    phi = negative_weights(logits, torch.tensor([[0.0, 0, 1, 1, 0]]), 2.0)[0]
    assert float(phi[1] / phi[0]) == pytest.approx(np.exp(10), rel=1e-5)
    phi = negative_weights(logits, torch.tensor([[1.0, 1, 0, 0, 0]]), 3.0)[0]  # e^-750 is 0 even in float64
    assert float(phi[3] / phi[2]) == pytest.approx(np.exp(5), rel=1e-5)


@pytest.mark.parametrize("norm", ["simplex", "reference"])
@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_extreme_logits_full_rows_and_empty_rows_stay_finite(norm, kind):
    logits = torch.tensor([[50.0, -50, 0, 30], [-50, -50, 50, 50], [1, 2, 3, 4], [-5e4, 5e4, -200, 200]], dtype=kind)
    candidates = torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 0, 0]])
    for r in (1.01, 2.0, 3.0):
        inputs = logits.clone().requires_grad_()
        loss = cones_loss(inputs, candidates, candidates / 4, r=r, beta=0.1, norm=norm)
        loss.total.backward()
        assert torch.isfinite(loss.total)
        assert torch.isfinite(loss.weights).all()
        assert torch.isfinite(inputs.grad).all()
        assert loss.weights[2].tolist() == [1, 1, 1, 1]


def test_no_gradient_goes_through_weights_or_pseudo_labels():
    logits, candidates, confidence = as_tensors(*random_case(6))
    loss = cones_loss(logits.requires_grad_(), candidates, confidence, r=3, beta=0.4)
    (gradient,) = torch.autograd.grad(loss.total, logits)

    def frozen(x):
        return weighted_bce(x, candidates) + 0.4 * weighted_bce(x, loss.targets, loss.weights)

    assert torch.autograd.gradcheck(frozen, (logits,))
    torch.testing.assert_close(gradient, torch.autograd.grad(frozen(logits), logits)[0])


def test_without_beta_it_is_bce_exactly():
    logits, candidates, confidence = as_tensors(*random_case(7))
    logits = logits.float()
    loss = cones_loss(logits, candidates, confidence, r=3, beta=0)
    assert torch.equal(loss.total, weighted_bce(logits, candidates.float()))


def test_loss_ignores_the_order_of_classes_and_images():
    arrays = as_tensors(*random_case(8))
    classes, images = torch.tensor([3, 0, 6, 1, 5, 2, 4]), torch.tensor([4, 1, 0, 3, 2])
    plain = cones_loss(*arrays, r=3, beta=0.5)
    moved = cones_loss(*[array[images][:, classes] for array in arrays], r=3, beta=0.5)
    torch.testing.assert_close(moved.total, plain.total)
    torch.testing.assert_close(moved.weights, plain.weights[images][:, classes])


def test_formulas_change_no_input():
    arrays = as_tensors(*random_case(9))
    kept = [array.clone() for array in arrays]
    cones_loss(*arrays, r=3, beta=0.5)
    update_confidence(arrays[2], arrays[0], arrays[1], torch.eye(7), 0.5)
    assert all(torch.equal(a, b) for a, b in zip(arrays, kept, strict=True))


def test_a_sole_candidate_is_a_pseudo_positive_unless_strict():
    candidates = torch.tensor([[0.0, 1, 0], [1, 0, 1]])
    confidence = torch.tensor([[0.0, 1, 0], [0.6, 0, 0.4]])
    assert pseudo_labels(confidence, candidates).tolist() == [[0, 1, 0], [1, 0, 0]]
    assert pseudo_labels(confidence, candidates, rule="strict").tolist() == [[0, 0, 0], [1, 0, 0]]


def test_a_lower_threshold_marks_more_candidates_of_an_image_but_never_others():
    candidates = torch.tensor([[1.0, 1, 1, 0]])
    confidence = torch.tensor([[0.45, 0.35, 0.2, 0]])
    marked = [pseudo_labels(confidence, candidates, threshold=factor).sum().item() for factor in (1.5, 1.0, 0.5, 1e-6)]
    assert marked == [0, 2, 3, 3]


@pytest.mark.parametrize("seed", range(3))
def test_confidence_update_matches_loops_and_stays_a_distribution_over_candidates(seed):
    logits, candidates, _ = random_case(seed)
    candidates[1] = 0
    confidence = oracle.initial_confidence(candidates)
    correlation = np.random.default_rng(seed).random((7, 7))
    ours = update_confidence(*as_tensors(confidence, logits, candidates, correlation), 0.8)
    np.testing.assert_allclose(
        ours, oracle.update_confidence(confidence, logits, candidates, correlation, 0.8), rtol=1e-10
    )
    np.testing.assert_allclose(ours.sum(dim=1), candidates.any(axis=1).astype(float), rtol=1e-10)
    assert not ours.numpy()[candidates == 0].any()


@pytest.mark.parametrize("kind", [torch.float16, torch.float32])
def test_confidence_survives_saturated_logits(kind):
    logits = torch.tensor([[-6e4, -6e4, -6e4], [6e4, -6e4, 0]], dtype=kind)
    candidates = torch.tensor([[1.0, 1, 0], [1, 1, 0]])
    after = update_confidence(candidates / 2, logits, candidates, torch.eye(3, dtype=torch.float64), 0.5)
    assert after.tolist() == [[0.5, 0.5, 0], [0.75, 0.25, 0]]


@pytest.mark.parametrize(
    "wrong",
    [
        {"r_ws": 1.0},
        {"r_ws": float("nan")},
        {"tau": 1.0},
        {"tau": -0.1},
        {"clusters": 0},
        {"beta": -1.0},
        {"mu": 1.1},
        {"gamma": -0.1},
        {"memory_per_class": 4},
        {"pseudo_threshold": 0.0},
        {"variant": "published"},
        {"phi_norm": "sum"},
    ],
)
def test_settings_that_cannot_work_are_refused_by_name(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))) as refusal:
        CoNeSConfig(**wrong)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_fills_every_option(variant):
    config = CoNeSConfig(variant=variant)
    assert variant_options(config, VARIANTS) == VARIANTS[variant]
    assert all(getattr(config, name) == value for name, value in VARIANTS[variant]._asdict().items())


@pytest.mark.parametrize("name", CoNeSVariant._fields)
def test_each_option_is_settable_alone(name):
    other = "candidates" if name == "prototype_images" else getattr(VARIANTS["reference"], name)
    config = CoNeSConfig(**{name: other})
    assert variant_options(config, VARIANTS) == VARIANTS["fixed"]._replace(**{name: other})
    assert variant_options(config, VARIANTS) != VARIANTS["fixed"]


def test_settings_are_frozen():
    with pytest.raises(FrozenInstanceError):
        CoNeSConfig().beta = 1.0
