from itertools import product

import numpy as np
import pytest
import torch

from losses import ASL, ASLConfig
from losses.asl import asymmetric_losses, reduced
from losses.common.functional import weighted_bce
from tests import golden_files
from tests.losses.fake_model import FakeModel, batch_of, info_for, random_labels
from tests.oracles import single_positive as oracle
from tests.ranks import run_ranks
from utils import collectives
from utils.checks import UserError
from utils.types import Batch

CODES = random_labels(7, 5)
INDEX = [4, 0, 3, 6, 1]
PUBLISHED = {"gamma_neg": 4.0, "gamma_pos": 1.0, "clip": 0.05, "eps": 1e-8, "constant_weight": True}


@pytest.mark.parametrize("reduction, suffix", [("sum", ""), ("query2label", "_q2l")])
def test_golden_losses_of_the_published_code(reduction, suffix):
    golden = golden_files.load("asl.npz")
    for at, (gamma_neg, gamma_pos, clip, eps) in enumerate(golden["params"]):
        logits = torch.from_numpy(golden["logits"]).requires_grad_()
        losses = asymmetric_losses(
            logits,
            torch.from_numpy(golden["targets"]),
            gamma_neg=gamma_neg,
            gamma_pos=gamma_pos,
            clip=clip,
            eps=eps,
            constant_weight=bool(golden["disable_grad"][at]),
        )
        total = reduced(losses, Batch(logits, logits, torch.arange(len(logits))), reduction)
        total.backward()
        np.testing.assert_allclose(float(total.detach()), golden[f"loss{suffix}"][at], rtol=1e-10)
        np.testing.assert_allclose(logits.grad, golden[f"grad{suffix}"][at], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("change", [{}, {"clip": 0.0}, {"gamma_pos": 0.0, "gamma_neg": 2.0}, {"eps": 1e-2}])
def test_losses_match_loops(seed, change):
    rng = np.random.default_rng(seed)
    settings = PUBLISHED | change
    logits, targets = rng.normal(0, 4, (4, 6)), rng.integers(0, 2, (4, 6))
    expected = oracle.asymmetric(
        logits, targets, *(settings[name] for name in ("gamma_neg", "gamma_pos", "clip", "eps"))
    )
    losses = asymmetric_losses(torch.tensor(logits), torch.tensor(targets).double(), **settings)
    assert float(losses.sum()) == pytest.approx(expected, rel=1e-9)


def test_without_focus_and_margin_it_is_bce():
    logits, targets = torch.randn(4, 6).double() * 4, torch.randint(0, 2, (4, 6)).double()
    none = {"gamma_neg": 0.0, "gamma_pos": 0.0, "clip": 0.0, "eps": 1e-300, "constant_weight": False}
    ours = asymmetric_losses(logits, targets, **none)
    torch.testing.assert_close(ours.mean(), weighted_bce(logits, targets), rtol=1e-9, atol=0)


def test_absent_labels_below_the_margin_cost_nothing():
    logits = torch.tensor([[-10.0, -4.0, 0.0]], requires_grad=True)
    losses = asymmetric_losses(logits, torch.zeros(1, 3), **PUBLISHED)
    losses.sum().backward()
    assert losses[0, :2].tolist() == [0, 0]
    assert logits.grad[0, :2].tolist() == [0, 0]
    assert logits.grad[0, 2] > 0


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("gamma", [0.0, 0.01, 0.5, 1.0, 4.0])
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_loss_and_gradient_are_finite_at_any_logit(kind, gamma, constant):
    values = torch.tensor([-1e4, -300.0, -40.0, -3.0, 0.0, 3.0, 40.0, 300.0, 1e4], dtype=kind)
    for target in (0.0, 1.0):
        logits = values.clone().requires_grad_()
        settings = PUBLISHED | {"gamma_neg": gamma, "gamma_pos": gamma, "constant_weight": constant}
        losses = asymmetric_losses(logits, torch.full_like(values, target), **settings)
        losses.sum().backward()
        assert torch.isfinite(losses).all()
        assert torch.isfinite(logits.grad).all()


def test_losses_pass_gradcheck_for_soft_targets_too():
    logits, targets = torch.randn(3, 4, dtype=torch.float64, requires_grad=True), torch.rand(3, 4).double()
    settings = PUBLISHED | {"constant_weight": False, "clip": 0.0}
    assert torch.autograd.gradcheck(lambda x: asymmetric_losses(x, targets, **settings), (logits,))


def test_a_constant_weight_changes_the_gradient_alone():
    logits, targets, gradients, totals = torch.randn(3, 4), torch.ones(3, 4), [], []
    for constant in (True, False):
        leaf = logits.clone().requires_grad_()
        total = asymmetric_losses(leaf, targets, **PUBLISHED | {"constant_weight": constant}).sum()
        total.backward()
        totals.append(float(total.detach()))
        gradients.append(leaf.grad)
    assert totals[0] == totals[1]
    assert not torch.allclose(*gradients)


@pytest.mark.parametrize("reduction, scale", [("sum", 25.0), ("query2label", 1000.0)])
def test_one_step_reads_unknown_as_absent(reduction, scale):
    model, config = FakeModel(5), ASLConfig(reduction=reduction, gamma_neg=2.0)
    out = ASL(config, info_for(CODES))(model, batch_of(CODES, INDEX))
    expected = oracle.asymmetric(out.logits.double().numpy(), CODES[INDEX] == 1, 2.0, 1.0, 0.05, 1e-8)
    assert float(out.total.detach()) == pytest.approx(expected / 25 * scale, rel=1e-4)
    assert float(out.parts["positive"] + out.parts["negative"]) == pytest.approx(expected / 25, rel=1e-4)
    assert out.total.requires_grad
    assert not any(part.requires_grad for part in [out.logits, *out.parts.values()])
    assert model.calls == [frozenset()]


@pytest.mark.parametrize(
    "change",
    [{"gamma_neg": 1.0}, {"gamma_pos": 3.0}, {"clip": 0.4}, {"eps": 0.3}, {"disable_torch_grad_focal_loss": False}],
)
def test_each_setting_reaches_training(change):
    gradients = []
    for config in (ASLConfig(), ASLConfig(**change)):
        model = FakeModel(5)
        ASL(config, info_for(CODES))(model, batch_of(CODES, INDEX)).total.backward()
        gradients.append(model.head.weight.grad)
    assert not torch.allclose(*gradients)


def share_a_batch(rank):
    """Losses and gradients as the engine combines them: each rank's weighted by its share of the global batch."""
    index = INDEX if rank is None else (INDEX[:2] if rank == 0 else INDEX[2:])
    found = []
    for reduction, told in product(("sum", "query2label"), (True, False)):
        model, share = FakeModel(5), len(index) / len(INDEX)
        batch = batch_of(CODES, index)._replace(global_index=torch.tensor(INDEX) if told else None)
        out = ASL(ASLConfig(reduction=reduction), info_for(CODES))(model, batch)
        (share * out.total).backward()
        found += [collectives.all_sum(share * out.total), collectives.all_sum(model.head.weight.grad)]
    return found


def test_two_ranks_have_the_losses_and_gradients_of_one_process_on_the_whole_batch():
    alone = share_a_batch(None)
    for found in run_ranks(share_a_batch):
        for value, expected in zip(found, alone, strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "wrong",
    [
        {"gamma_neg": -1.0},
        {"gamma_pos": float("nan")},
        {"clip": 1.0},
        {"clip": -0.1},
        {"eps": 0.0},
        {"eps": 1.0},
        {"reduction": "mean"},
    ],
)
def test_a_setting_that_cannot_work_is_refused_by_name(wrong):
    with pytest.raises(UserError, match=f"--{next(iter(wrong))} "):
        ASLConfig(**wrong)
