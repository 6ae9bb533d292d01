import contextlib
import io
from dataclasses import replace

import numpy as np
import pytest
import torch

from losses import ClassBalanced, ClassBalancedConfig, Focal, FocalConfig
from losses.common.functional import weighted_bce
from losses.reweighted import (
    PositiveCounts,
    class_balanced_weights,
    class_frequencies,
    effective_number_weights,
    focal_losses,
)
from tests.losses.fake_model import FakeModel, batch_of, info_for, random_labels
from tests.oracles import distribution_balanced as oracle
from tests.ranks import run_ranks
from utils import collectives
from utils.checks import UserError
from utils.class_facts import ClassCounts

CODES = random_labels(8, 5, rate=0.3)
INDEX = [4, 0, 3, 6, 1]
TARGETS = (CODES[INDEX] == 1).astype(float)
COUNTS = (CODES == 1).sum(axis=0)
MODES = ["by_class", "average_n", "average_w", "min_n"]


@pytest.mark.parametrize("gamma, balance", [(0.0, 1.0), (2.0, 2.0), (0.5, 0.25), (5.0, 1.0)])
@pytest.mark.parametrize("seed", range(3))
def test_focal_losses_match_loops_for_hard_and_soft_targets(seed, gamma, balance):
    rng = np.random.default_rng(seed)
    logits, weight = rng.normal(0, 4, (4, 6)), rng.random((4, 6))
    for targets in (rng.integers(0, 2, (4, 6)).astype(float), rng.random((4, 6))):
        expected = np.vectorize(oracle.focal)(logits, targets, gamma, balance)
        said = {"gamma": gamma, "balance": balance}
        ours = focal_losses(torch.tensor(logits), torch.tensor(targets), **said)
        np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-13)
        weighted = focal_losses(torch.tensor(logits), torch.tensor(targets), **said, weight=torch.tensor(weight))
        np.testing.assert_allclose(weighted, weight * expected, rtol=1e-9, atol=1e-13)


def test_without_focus_it_is_bce():
    logits, targets = torch.randn(4, 6).double() * 4, torch.rand(4, 6).double()
    ours = focal_losses(logits, targets, gamma=0.0, balance=1.0)
    torch.testing.assert_close(ours.mean(), weighted_bce(logits, targets), rtol=1e-12, atol=0)


def test_focal_losses_pass_gradcheck():
    logits, targets = torch.randn(3, 4, dtype=torch.float64, requires_grad=True), torch.rand(3, 4).double()
    for gamma in (0.0, 0.5, 2.0):
        assert torch.autograd.gradcheck(
            lambda z, gamma=gamma: focal_losses(z, targets, gamma=gamma, balance=2.0), (logits,)
        )


def test_easy_labels_lose_most_of_their_weight():
    easy, hard = torch.tensor([[4.0]]), torch.tensor([[-4.0]])
    one = torch.ones(1, 1)
    shares = [
        float(focal_losses(logit, one, gamma=2.0, balance=1.0) / focal_losses(logit, one, gamma=0.0, balance=1.0))
        for logit in (easy, hard)
    ]
    assert shares[0] == pytest.approx((1 / (1 + np.exp(4))) ** 2, rel=1e-4)
    assert shares[1] == pytest.approx((1 / (1 + np.exp(-4))) ** 2, rel=1e-4)


@pytest.mark.parametrize("gamma", [0.0, 0.01, 0.5, 1.0, 2.0])
def test_loss_and_gradient_are_finite_at_any_logit(gamma):
    for kind in (torch.float32, torch.float64):
        for target in (0.0, 0.5, 1.0):
            logits = torch.tensor([[-1e4, -300.0, -40.0, 0.0, 40.0, 300.0, 1e4]], dtype=kind, requires_grad=True)
            losses = focal_losses(logits, torch.full_like(logits, target), gamma=gamma, balance=2.0)
            losses.sum().backward()
            assert torch.isfinite(losses).all()
            assert torch.isfinite(logits.grad).all()


def frequencies_of(counts):
    return PositiveCounts(torch.tensor(counts).double(), 50)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("beta", [0.5, 0.9, 0.9999])
def test_class_balanced_weights_match_loops(beta, mode):
    rng = np.random.default_rng(1)
    hard, soft = (rng.random((6, 5)) < 0.4).astype(float), rng.random((6, 5)) * (rng.random((6, 5)) < 0.6)
    hard[2] = soft[2] = 0
    for targets in (hard, soft):
        ours = class_balanced_weights(torch.tensor(targets), frequencies_of([0, 1, 7, 30, 50]), beta=beta, mode=mode)
        expected = oracle.class_balanced(targets, [0, 1, 7, 30, 50], beta, mode)
        np.testing.assert_allclose(ours.expand(6, 5), expected, rtol=1e-9)


def test_effective_numbers_between_no_reweighting_and_one_over_n():
    counts = torch.tensor([1.0, 3.0, 200.0], dtype=torch.float64)
    assert effective_number_weights(counts, 0.0).tolist() == [1.0, 1.0, 1.0]
    torch.testing.assert_close(effective_number_weights(counts, 1 - 1e-9), 1 / counts, rtol=1e-6, atol=0)
    single = effective_number_weights(counts.float(), 0.9999)
    torch.testing.assert_close(single.double(), effective_number_weights(counts, 0.9999), rtol=1e-5, atol=0)


def with_truth(info):
    return replace(info, clean_counts=ClassCounts(np.full(5, 2), "clean"))


def test_frequencies_come_from_the_labels_that_are_asked_for(capsys):
    info = with_truth(info_for(CODES))
    candidate = class_frequencies(info, "candidate")
    assert candidate.positives.tolist() == COUNTS.tolist()
    assert candidate.images == len(CODES)
    assert capsys.readouterr().out == ""
    assert class_frequencies(info, "clean").positives.tolist() == [2.0] * 5
    assert "TRUE labels" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"--prior clean: .*give --prior candidate"):
        class_frequencies(info_for(CODES), "clean")


def test_one_focal_step_reads_unknown_as_absent():
    model = FakeModel(5)
    out = Focal(FocalConfig(focal_gamma=1.5, focal_balance=3.0), info_for(CODES))(model, batch_of(CODES, INDEX))
    check(out, lambda z, y, i, j: oracle.focal(z, y, 1.5, 3.0))
    assert model.calls == [frozenset()]


@pytest.mark.parametrize("norm", ["mean", "none"])
@pytest.mark.parametrize("mode", MODES)
def test_one_class_balanced_step_reads_unknown_as_absent(mode, norm):
    config = ClassBalancedConfig(cb_mode=mode, cb_norm=norm, cb_beta=0.8, focal_gamma=0.5, focal_balance=2.0)
    out = ClassBalanced(config, info_for(CODES))(FakeModel(5), batch_of(CODES, INDEX))
    weights = oracle.class_balanced(TARGETS, COUNTS, 0.8, mode)
    if norm == "mean":
        weights = weights / np.mean([oracle.effective(count, 0.8) for count in oracle.guarded(COUNTS)])
    check(out, lambda z, y, i, j: oracle.focal(z, y, 0.5, 2.0, weights[i, j]))


def check(out, loss):
    """The total and its two parts are the mean of `loss` over the batch."""
    logits = out.logits.double().numpy()
    expected = np.array([[loss(logits[i, j], TARGETS[i, j], i, j) for j in range(5)] for i in range(len(INDEX))])
    assert float(out.total.detach()) == pytest.approx(expected.mean(), rel=1e-4)
    assert float(out.parts["positive"]) == pytest.approx((expected * TARGETS).mean(), rel=1e-4)
    assert float(sum(out.parts.values())) == pytest.approx(expected.mean(), rel=1e-4)
    assert out.total.requires_grad
    assert not any(part.requires_grad for part in [out.logits, *out.parts.values()])


def test_classes_of_one_frequency_are_balanced_already():
    codes = np.eye(5, dtype=np.int8)
    totals = []
    for beta in (0.0, 0.9, 0.9999):
        criterion = ClassBalanced(ClassBalancedConfig(cb_beta=beta), info_for(codes))
        out = criterion(FakeModel(5), batch_of(codes, INDEX[:3]))
        totals.append(float(out.total.detach()))
    logits = out.logits
    plain = float(weighted_bce(logits, torch.from_numpy(codes[INDEX[:3]]).float()))
    assert totals == pytest.approx([plain] * 3, rel=1e-5)


CRITERIA = {"focal": (Focal, FocalConfig), "cb": (ClassBalanced, ClassBalancedConfig)}


@pytest.mark.parametrize(
    "name, change",
    [
        ("focal", {"focal_gamma": 1.0}),
        ("focal", {"focal_balance": 1.0}),
        ("cb", {"cb_beta": 0.0}),
        ("cb", {"cb_mode": "average_n"}),
        ("cb", {"cb_norm": "none"}),
        ("cb", {"focal_gamma": 2.0}),
        ("cb", {"focal_balance": 2.0}),
        ("cb", {"prior": "clean"}),
    ],
)
def test_each_setting_reaches_training(name, change):
    method, config = CRITERIA[name]
    gradients = []
    for said in (config(), config(**change)):
        model = FakeModel(5)
        method(said, with_truth(info_for(CODES)))(model, batch_of(CODES, INDEX)).total.backward()
        gradients.append(model.head.weight.grad)
    assert not torch.allclose(*gradients, rtol=1e-3)


@pytest.mark.parametrize("name", CRITERIA)
def test_half_precision_saturated_logits_stay_finite_and_nothing_is_kept(name):
    codes = np.array([[1, 0]], dtype=np.int8)
    model, batch = FakeModel(2), batch_of(codes, [0])
    with torch.no_grad():
        model.head.bias.copy_(torch.tensor([-5e4, 5e4]))
    method, config = CRITERIA[name]
    criterion = method(config(), info_for(codes))
    out = criterion(model.half(), batch._replace(images=batch.images.half()))
    out.total.backward()
    assert torch.isfinite(out.total)
    assert torch.isfinite(model.head.weight.grad).all()
    assert criterion.state_dict() == {}


def share_a_batch(rank):
    """What is printed, and losses and gradients as the engine combines them: each rank's by its share of the batch."""
    index = INDEX if rank is None else (INDEX[:2] if rank == 0 else INDEX[2:])
    heard, found = io.StringIO(), []
    for method, config in ((Focal, FocalConfig()), (ClassBalanced, ClassBalancedConfig(prior="clean"))):
        model, share = FakeModel(5), len(index) / len(INDEX)
        with contextlib.redirect_stdout(heard):
            criterion = method(config, with_truth(info_for(CODES)))
        total = share * criterion(model, batch_of(CODES, index)).total
        total.backward()
        found += [collectives.all_sum(total), collectives.all_sum(model.head.weight.grad)]
    return heard.getvalue(), found


def test_two_ranks_have_the_losses_and_gradients_of_one_process_and_one_speaks():
    _, alone = share_a_batch(None)
    ranks = run_ranks(share_a_batch)
    for _, found in ranks:
        for value, expected in zip(found, alone, strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-7)
    assert "TRUE labels" in ranks[0][0]
    assert ranks[1][0] == ""


@pytest.mark.parametrize(
    "wrong",
    [
        {"cb_beta": 1.0},
        {"cb_beta": -0.1},
        {"cb_mode": "average"},
        {"cb_norm": "sum"},
        {"focal_gamma": float("nan")},
        {"focal_balance": -2.0},
        {"prior": "true"},
    ],
)
def test_a_setting_that_cannot_work_is_refused_by_name(wrong):
    (name,) = wrong
    for _, config in CRITERIA.values():
        if name in config.__dataclass_fields__:
            with pytest.raises(UserError, match=f"--{name} "):
                config(**wrong)
