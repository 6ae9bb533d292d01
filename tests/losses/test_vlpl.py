"""VLPL against golden values, slow loops and its limits."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from losses import EM, VLPL, EMConfig, VLPLConfig
from losses.assume_negative import label_costs
from losses.vlpl import pseudo_codes, vlpl_losses
from tests import golden_files
from tests.losses.fake_model import FakeModel, batch_of, info_for, random_labels
from tests.oracles import em as oracle
from utils.checks import UserError
from utils.prior_scores import PriorScores, as_probabilities
from utils.types import ABSENT, PRESENT, UNKNOWN

ROWS, CLASSES = 10, 6
CODES = random_labels(ROWS, CLASSES, seed=4, rate=0.2)
INDEX = [4, 0, 3, 7]


def golden(kind):
    cases = golden_files.each_case("prior_scores.npz")
    return [each for each in cases if each.values[0] is None or each.values[0]["kind"] == kind]


def build(codes=CODES, scores=None, **settings):
    info = info_for(codes)
    if scores is not None:
        info = replace(info, prior_scores=PriorScores(scores, np.arange(len(scores)), np.arange(scores.shape[1])))
    return VLPL(VLPLConfig(**settings), info)


@pytest.mark.parametrize("case, arrays", golden("em_pl"))
def test_golden_losses_and_gradients(case, arrays):
    logits = torch.from_numpy(arrays["logits"]).requires_grad_()
    observed = torch.where(torch.from_numpy(arrays["obs"]) == 1, PRESENT, UNKNOWN)
    given = torch.from_numpy(arrays["pseudo"])
    pseudo = torch.where(given == 1, PRESENT, torch.where(given == -1, ABSENT, UNKNOWN))
    config = VLPLConfig(entropy_weight=case["alpha"], pseudo_weight=case["beta_pos"], variant="reference")
    loss = vlpl_losses(logits, label_costs(logits, "reference"), observed, pseudo, config).mean()
    loss.backward()
    np.testing.assert_allclose(float(loss.detach()), arrays["loss"], rtol=1e-9)
    np.testing.assert_allclose(logits.grad, arrays["grad"], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("case, arrays", golden("vlpl_threshold"))
def test_golden_scores_and_pseudo_labels(case, arrays):
    image, text = (
        arrays[name] / np.linalg.norm(arrays[name], axis=1, keepdims=True) for name in ("image_feature", "text_feature")
    )
    scores = as_probabilities(image @ text.T, "cosine", case["temp"])
    np.testing.assert_allclose(scores, arrays["score"], rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(pseudo_codes(scores, case["threshold"]) == PRESENT, arrays["pseudo"] == 1)


@pytest.mark.parametrize("variant, guard", [("fixed", 0.0), ("reference", 1e-5)])
def test_losses_and_gradients_match_loops(variant, guard):
    rng = np.random.default_rng(1)
    values, observed = rng.normal(0, 4, (5, 7)), random_labels(5, 7, 2)
    pseudo = rng.integers(-1, 2, (5, 7)).astype(np.int8)
    config = VLPLConfig(entropy_weight=0.3, pseudo_weight=0.6, pseudo_target=0.8, variant=variant)
    soft = np.where((observed == UNKNOWN) & (pseudo == PRESENT), 0.8, 0)
    left_out = (observed == UNKNOWN) & (pseudo == ABSENT)

    def losses(x):
        return vlpl_losses(x, label_costs(x, variant), torch.tensor(observed), torch.tensor(pseudo), config)

    logits = torch.tensor(values, requires_grad=True)
    found = losses(logits)
    expected = np.where(left_out, 0, oracle.losses(values, observed, soft, 0.3, 0.6, guard))
    np.testing.assert_allclose(found.detach(), expected, rtol=1e-12)
    assert torch.autograd.gradcheck(losses, (logits,))
    if variant == "fixed":
        found.mean().backward()
        gradient = np.where(left_out, 0, oracle.gradient(values, observed, soft, 0.3, 0.6))
        np.testing.assert_allclose(logits.grad, gradient, rtol=1e-10, atol=1e-16)


def test_labels_above_the_threshold_are_present_and_the_lowest_left_out():
    scores = np.array([[0.3, 0.31, 0.1, 0.1, 0.05]], np.float32)
    np.testing.assert_array_equal(pseudo_codes(scores, float(scores[0, 0])), [[-1, 1, -1, -1, -1]])
    np.testing.assert_array_equal(pseudo_codes(scores, 0.2, 0.5), [[1, 1, 0, -1, 0]])
    np.testing.assert_array_equal(pseudo_codes(scores, 0.0, 1.0), np.ones((1, 5)))
    np.testing.assert_array_equal(pseudo_codes(scores, 1.0, 1.0), np.zeros((1, 5)))


def test_what_is_unknown_is_told_and_what_is_observed_stays():
    scores = np.random.default_rng(0).random((ROWS, CLASSES)).astype(np.float32)
    criterion, batch = build(scores=scores, pseudo_threshold=0.5), batch_of(CODES, INDEX)
    out = criterion(FakeModel(CLASSES), batch)
    expected = (CODES[INDEX] == UNKNOWN) & (scores[INDEX] > 0.5)
    np.testing.assert_array_equal(out.modified, expected)
    assert float(out.parts["labelled"]) == pytest.approx(expected.sum(axis=1).mean())
    total = sum(float(out.parts[name]) for name in ("positive", "negative", "entropy", "pseudo"))
    assert float(out.total.detach()) == pytest.approx(total, rel=1e-5)
    permuted = criterion(FakeModel(CLASSES), batch_of(CODES, INDEX[::-1]))
    torch.testing.assert_close(permuted.total, out.total)


def test_without_high_scores_it_is_em():
    model, batch = FakeModel(CLASSES), batch_of(CODES, INDEX)
    ours = build(pseudo_threshold=1.0)(model, batch)
    torch.testing.assert_close(ours.total, EM(EMConfig(), info_for(CODES))(model, batch).total)
    assert not ours.modified.any()


def test_pseudo_labels_are_made_in_blocks_and_not_saved(monkeypatch):
    whole = build().pseudo
    monkeypatch.setattr("losses.vlpl._BLOCK", 3 * CLASSES)
    assert torch.equal(build().pseudo, whole)
    assert whole.dtype == torch.int8
    assert build().state_dict() == {}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_saturated_logits_have_finite_losses_and_gradients(dtype):
    logits = (200 * torch.randn(4, CLASSES).sign()).to(dtype).requires_grad_()
    out = build().from_logits(logits, torch.from_numpy(CODES[INDEX]), torch.tensor(INDEX))
    out.total.backward()
    assert out.total.isfinite()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"pseudo_threshold": 1.5}, "--pseudo_threshold 1.5"),
        ({"pseudo_target": -0.1}, "--pseudo_target -0.1"),
        ({"left_out": 2.0}, "--left_out 2.0"),
        ({"pseudo_weight": -1.0}, "--pseudo_weight -1.0: must not be negative"),
        ({"entropy_weight": 0.0}, "--entropy_weight 0.0"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, said):
    with pytest.raises(UserError, match=said):
        VLPLConfig(**settings)


def test_labels_that_it_cannot_use_and_lacking_scores_are_refused():
    with pytest.raises(UserError, match="vlpl: no label is unknown"):
        build(np.abs(CODES))
    with pytest.raises(ValueError, match="prior_scores is missing"):
        VLPL(VLPLConfig(), replace(info_for(CODES), prior_scores=None))
