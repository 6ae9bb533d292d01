"""GPR against golden values, and its limits."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from losses import GR, GRConfig
from losses.gpr import GPR, GPRConfig, gpr_losses, tile_scores, top_codes
from losses.single_positive import count_penalty
from tests import golden_files
from tests.losses.fake_model import FakeModel, batch_of, info_for, random_labels
from utils.checks import UserError
from utils.prior_scores import as_probabilities
from utils.types import ABSENT, PRESENT, UNKNOWN

ROWS, CLASSES = 10, 6
CODES = random_labels(ROWS, CLASSES, seed=4, rate=0.2)
INDEX = [4, 0, 3, 7]


def golden(kind):
    cases = golden_files.each_case("prior_scores.npz")
    return [each for each in cases if each.values[0] is None or each.values[0]["kind"] == kind]


@pytest.mark.parametrize("case, arrays", golden("damp"))
def test_golden_scores_of_tiles(case, arrays):
    images, tiles = len(arrays["obs"]), case["grid_size"] ** 2
    found = as_probabilities(arrays["similarity"], "cosine", case["temp"])
    parts = found[images:].reshape(tiles, images, -1).swapaxes(0, 1)
    scores = tile_scores(found[:images], parts, np.where(arrays["obs"] == 1, PRESENT, UNKNOWN), case["eta"])
    np.testing.assert_allclose(scores, arrays["final_score"], rtol=1e-5, atol=1e-6)
    codes = top_codes(scores, case["threshold"], case["top_k"])
    np.testing.assert_array_equal(codes == PRESENT, arrays["pseudo"] == 1)


@pytest.mark.parametrize("case, arrays", golden("gpr"))
@pytest.mark.parametrize("variant", ["reference", "fixed"])
def test_golden_losses_and_gradients(case, arrays, variant):
    logits = torch.from_numpy(arrays["logits"]).requires_grad_()
    observed = torch.where(torch.from_numpy(arrays["obs"]) == 1, PRESENT, UNKNOWN)
    given = torch.from_numpy(arrays["pseudo"]) * bool(case["use_pl"])
    guessed = torch.where(given == 1, PRESENT, torch.where(given == -1, ABSENT, UNKNOWN))
    config = GPRConfig(
        present_power=case["q2q3"][0],
        absent_power=case["q2q3"][1],
        pseudo_bounds=tuple(case["lam"]),
        pseudo_target=case["rho"],
        variant=variant,
    )
    pseudo, weights = torch.from_numpy(arrays["K"]), torch.from_numpy(arrays["V_before"])
    losses = gpr_losses(logits, observed, guessed, pseudo, weights, config)
    total = losses.mean() + case["reg"] * count_penalty(torch.sigmoid(logits), case["expected_num_pos"])
    total.backward()
    near = {"rtol": 1e-9, "atol": 1e-12} if variant == "reference" else {"rtol": 1e-4, "atol": 1e-8}
    np.testing.assert_allclose(float(total.detach()), arrays["loss"], **near)
    np.testing.assert_allclose(logits.grad, arrays["grad"], **near)


def test_losses_pass_gradcheck():
    torch.manual_seed(0)
    pseudo, weights = torch.rand(2, 5, 7).double()
    observed, guessed = torch.tensor(random_labels(5, 7)), torch.randint(-1, 2, (5, 7))
    logits = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    for variant in ("fixed", "reference"):
        config = GPRConfig(variant=variant)
        assert torch.autograd.gradcheck(
            lambda x, c=config: gpr_losses(x, observed, guessed, pseudo, weights, c), (logits,)
        )


def test_without_high_scores_and_penalty_it_is_gr():
    model, batch, info = FakeModel(CLASSES), batch_of(CODES, INDEX), info_for(CODES)
    ours = GPR(GPRConfig(pseudo_threshold=1.0, count_weight=0.0), info)(model, batch)
    torch.testing.assert_close(ours.total, GR(GRConfig(), info)(model, batch).total)
    assert not ours.modified.any()


def test_tiles_count_and_what_is_observed_stays():
    info = info_for(CODES)
    tiles = np.random.default_rng(3).random((ROWS, 4, CLASSES)).astype(np.float32)
    with_tiles = replace(info, prior_scores=replace(info.prior_scores, tiles=tiles))
    plain, tiled = (GPR(GPRConfig(), each).guessed for each in (info, with_tiles))
    assert not torch.equal(plain, tiled)
    out = GPR(GPRConfig(), with_tiles)(FakeModel(CLASSES), batch_of(CODES, INDEX))
    np.testing.assert_array_equal(out.modified, (CODES[INDEX] == UNKNOWN) & (tiled[INDEX].numpy() == PRESENT))
    names = ("positive", "negative", "unknown", "guess", "penalty")
    assert float(out.total.detach()) == pytest.approx(sum(float(out.parts[name]) for name in names), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_saturated_logits_have_finite_losses_and_gradients(dtype):
    logits = (200 * torch.randn(4, CLASSES).sign()).to(dtype).requires_grad_()
    out = GPR(GPRConfig(), info_for(CODES)).from_logits(logits, torch.from_numpy(CODES[INDEX]), torch.tensor(INDEX))
    out.total.backward()
    assert out.total.isfinite()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize(
    "settings",
    [
        {"pseudo_threshold": 1.5},
        {"pseudo_top": 0},
        {"tile_floor": -0.1},
        {"pseudo_bounds": (0.4, 0.7)},
        {"pseudo_target": 2.0},
        {"count_weight": -1.0},
        {"mean_labels": 0.0},
    ],
)
def test_settings_that_cannot_work_are_refused(settings):
    with pytest.raises(UserError, match=f"^--{next(iter(settings))} "):
        GPRConfig(**settings)


def test_labels_that_it_cannot_use_are_refused():
    with pytest.raises(UserError, match="gpr: no label is unknown"):
        GPR(GPRConfig(), info_for(np.abs(CODES)))
