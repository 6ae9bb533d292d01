import os
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from losses import DistributionBalanced, DistributionBalancedConfig
from losses.common.functional import weighted_bce
from losses.distribution_balanced import (
    BalanceConfig,
    distribution_balanced,
    label_weights,
    logit_bias,
    normalised,
    rebalance_weights,
)
from losses.reweighted import PositiveCounts
from tests import golden_files
from tests.losses.fake_model import FakeModel, batch_of, info_for, random_labels
from tests.oracles import distribution_balanced as oracle
from tests.ranks import run_ranks
from utils import collectives
from utils.checks import UserError
from utils.class_facts import ClassCounts

GOLDEN = "db_loss.npz"
CODES = random_labels(9, 5, rate=0.3)
INDEX = [4, 0, 3, 6, 1]
PLAIN = {"reweight": "none", "init_bias": 0.0, "neg_scale": 1.0, "focal_gamma": 0.0, "focal_balance": 1.0}
NO_REG = {"init_bias": 0.0, "neg_scale": 1.0}
NO_FOCAL = {"focal_gamma": 0.0, "focal_balance": 1.0}
VARIANTS = {
    "full": {},
    "full_byinstance": {"weight_norm": "by_instance"},
    "rebalance_only": NO_REG | NO_FOCAL,
    "rebalance_focal": NO_REG,
    "rebalance_reg_nofocal": NO_FOCAL,
    "focal_only": NO_REG | {"reweight": "none"},
    "bce": PLAIN,
    "inv_focal": NO_REG | {"reweight": "inverse"},
    "sqrt_inv_focal": NO_REG | {"reweight": "sqrt_inverse"},
    "cb_focal": NO_REG | {"reweight": "class_balanced", "cb_mode": "by_class", "cb_beta": 0.9},
}
"""What each name in the golden file stands for, beside the parameters that it gives."""


def golden_sets():
    """The sets of the golden file by name, for parametrize; one named skip where it is absent."""
    if not (Path(os.environ.get("GOLDEN_DIR", golden_files.HERE)) / GOLDEN).exists():
        return [pytest.param(None, id=GOLDEN, marks=pytest.mark.skip(reason=f"no golden file {GOLDEN}"))]
    golden = golden_files.load(GOLDEN)
    ending = "_neg_class_freq"
    names = [key.removesuffix(ending) for key in golden if key.endswith(ending)]
    return [pytest.param(golden_files.part(golden, f"{name}_"), id=name) for name in names]


def golden_frequencies(arrays):
    """Of the file's counts; how many images there are follows from its first class."""
    images = int(arrays["class_freq"][0] + arrays["neg_class_freq"][0])
    return PositiveCounts(torch.from_numpy(arrays["class_freq"]).double(), images)


def golden_config(arrays):
    alpha, beta, gamma = arrays["map_param"].tolist()
    (init_bias, neg_scale), (balance, focus) = arrays["logit_reg"].tolist(), arrays["focal"].tolist()
    return BalanceConfig(
        map_alpha=alpha,
        map_beta=beta,
        map_gamma=gamma,
        init_bias=init_bias,
        neg_scale=neg_scale,
        focal_balance=balance,
        focal_gamma=focus,
    )


def golden_targets(arrays, kind):
    return torch.from_numpy(arrays["labels" if kind == "hard" else "soft_labels"])


@pytest.mark.parametrize("kind", ["hard", "soft"])
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("arrays", golden_sets())
def test_golden_losses_and_gradients(arrays, variant, kind):
    if f"{variant}_{kind}" not in arrays:
        pytest.skip(f"no {variant}_{kind} in the golden file")
    logits = torch.from_numpy(arrays["logits"]).requires_grad_()
    config = replace(golden_config(arrays), **VARIANTS[variant])
    losses = distribution_balanced(logits, golden_targets(arrays, kind), golden_frequencies(arrays), config)
    losses.mean().backward()
    np.testing.assert_allclose(losses.detach(), arrays[f"{variant}_{kind}"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(float(losses.detach().mean()), arrays[f"{variant}_{kind}_mean"], rtol=1e-5)
    np.testing.assert_allclose(logits.grad, arrays[f"{variant}_{kind}_grad"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("arrays", golden_sets())
def test_golden_weights_and_shifts(arrays):
    config, frequencies = golden_config(arrays), golden_frequencies(arrays)
    for kind in ("hard", "soft"):
        weights = label_weights(golden_targets(arrays, kind).float(), frequencies, config)
        np.testing.assert_allclose(weights, arrays[f"weight_{kind}"], rtol=1e-5)
    shift = logit_bias(frequencies, config)
    np.testing.assert_allclose(shift, arrays["init_bias"], rtol=1e-4, atol=1e-7)
    after = arrays["logits"] + shift.float().numpy()
    np.testing.assert_allclose(after, arrays["logits_after_call"], rtol=1e-5, atol=1e-6)


def case(seed, rows=6, classes=5):
    """Logits, hard and soft targets (a row without labels in both), and frequencies of which one is 0 and one N."""
    rng = np.random.default_rng(seed)
    logits, hard = rng.normal(0, 3, (rows, classes)), (rng.random((rows, classes)) < 0.4).astype(float)
    soft = rng.random((rows, classes)) * (rng.random((rows, classes)) < 0.7)
    hard[1] = soft[1] = 0
    counts = rng.integers(1, 40, classes)
    counts[:2] = 0, 40
    return logits, hard, soft, counts


def frequencies_of(counts, images=40):
    return PositiveCounts(torch.tensor(counts).double(), images)


@pytest.mark.parametrize(
    "said",
    [
        *({"reweight": name} for name in ("rebalance", "inverse", "sqrt_inverse", "none")),
        *({"reweight": "class_balanced", "cb_mode": mode} for mode in ("by_class", "average_n", "average_w", "min_n")),
    ],
    ids=lambda said: "-".join(said.values()),
)
@pytest.mark.parametrize("norm", ["none", "by_instance", "by_batch"])
@pytest.mark.parametrize("seed", range(2))
def test_losses_match_loops(seed, norm, said):
    config = BalanceConfig(**said, weight_norm=norm, cb_beta=0.95, focal_gamma=1.5)
    logits, *both, counts = case(seed)
    for targets in both:
        ours = distribution_balanced(torch.tensor(logits), torch.tensor(targets), frequencies_of(counts), config)
        expected = oracle.losses(logits, targets, counts, 40, asdict(config))
        np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-13)


def test_with_everything_off_it_is_bce_with_its_gradient():
    logits, hard, soft, counts = case(3)
    for targets in (torch.tensor(hard), torch.tensor(soft)):
        leaves = [torch.tensor(logits).requires_grad_() for _ in range(2)]
        ours = distribution_balanced(leaves[0], targets, frequencies_of(counts), BalanceConfig(**PLAIN)).mean()
        plain = weighted_bce(leaves[1], targets)
        torch.testing.assert_close(ours, plain, rtol=1e-12, atol=0)
        ours.backward()
        plain.backward()
        torch.testing.assert_close(leaves[0].grad, leaves[1].grad, rtol=1e-10, atol=1e-15)


def test_nothing_that_is_given_is_changed():
    logits, hard, _, counts = case(4)
    given = torch.tensor(logits), torch.tensor(hard), torch.tensor(counts).double()
    kept = [each.clone() for each in given]
    for norm in ("none", "by_instance", "by_batch"):
        config = BalanceConfig(weight_norm=norm)
        first, second = (
            distribution_balanced(given[0], given[1], PositiveCounts(given[2], 40), config) for _ in range(2)
        )
        assert torch.equal(first, second)
    assert all(torch.equal(one, other) for one, other in zip(given, kept, strict=True))


def test_an_order_of_classes_or_images_does_not_matter():
    logits, _, soft, counts = case(5)
    z, y = torch.tensor(logits), torch.tensor(soft)
    ours = distribution_balanced(z, y, frequencies_of(counts), BalanceConfig())
    order = torch.tensor([3, 0, 4, 2, 1])
    turned = distribution_balanced(z[:, order], y[:, order], frequencies_of(counts[order.numpy()]), BalanceConfig())
    torch.testing.assert_close(turned, ours[:, order], rtol=1e-12, atol=0)
    rows = torch.tensor([5, 2, 0, 1, 4, 3])
    turned = distribution_balanced(z[rows], y[rows], frequencies_of(counts), BalanceConfig())
    torch.testing.assert_close(turned, ours[rows], rtol=1e-12, atol=0)


def test_of_two_labels_the_rarer_weighs_more_and_one_alone_has_the_whole_share():
    frequencies = frequencies_of([2, 20, 10])
    settings = {"alpha": 0.1, "beta": 10.0, "gamma": 0.3}
    both, alone, none = rebalance_weights(
        torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]).double(), frequencies, **settings
    )
    assert both[0] > both[2] > both[1]
    assert float(alone[1]) == pytest.approx(0.1 + 1 / (1 + np.exp(-10 * 0.7)))
    assert none.tolist() == pytest.approx([1.1, 1.1, 1.1])


def test_the_shift_lowers_rare_classes_raises_frequent_ones_and_is_finite_at_both_ends():
    shift = logit_bias(frequencies_of([0, 1, 20, 39, 40]), BalanceConfig())
    assert torch.isfinite(shift).all()
    assert (shift.diff() > 0).all()
    assert float(shift[2]) == 0.0
    torch.testing.assert_close(shift, -shift.flip(0))


def test_a_larger_scale_punishes_confident_negatives_and_spares_uncertain_ones():
    """The gradient at an absent label does not depend on the scale at z + v = 0, and falls with it below."""
    slopes = []
    for scale in (1.0, 5.0):
        logits = torch.tensor([[0.0, -1.0]], dtype=torch.float64, requires_grad=True)
        config = BalanceConfig(**PLAIN | {"neg_scale": scale})
        distribution_balanced(logits, torch.zeros(1, 2), frequencies_of([20, 20]), config).sum().backward()
        slopes.append(logits.grad[0])
    assert float(slopes[0][0]) == pytest.approx(0.5)
    assert float(slopes[1][0]) == pytest.approx(0.5)
    assert slopes[1][1] < slopes[0][1] / 5


@pytest.mark.parametrize("reweight", ["rebalance", "class_balanced", "none"])
def test_losses_pass_gradcheck_for_soft_targets_too(reweight):
    logits, hard, soft, counts = case(6)
    config = BalanceConfig(reweight=reweight, weight_norm="by_instance")
    for targets in (hard, soft):
        leaf = torch.tensor(logits).requires_grad_()
        assert torch.autograd.gradcheck(
            lambda z, y=targets: distribution_balanced(z, torch.tensor(y), frequencies_of(counts), config), (leaf,)
        )


@pytest.mark.parametrize("gamma", [0.0, 0.01, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_loss_and_gradient_are_finite_at_any_logit_and_count(kind, gamma):
    values = torch.tensor([-1e4, -300.0, -40.0, -3.0, 0.0, 3.0, 40.0, 300.0, 1e4], dtype=kind)
    frequencies = frequencies_of([0, 0, 1, 5, 20, 39, 40, 40, 3])
    for target in (0.0, 0.3, 1.0):
        for reweight in ("rebalance", "inverse", "class_balanced"):
            logits = values[None].clone().requires_grad_()
            config = BalanceConfig(focal_gamma=gamma, reweight=reweight, weight_norm="by_batch")
            losses = distribution_balanced(logits, torch.full_like(logits, target), frequencies, config)
            losses.sum().backward()
            assert losses.dtype == kind
            assert torch.isfinite(losses).all()
            assert torch.isfinite(logits.grad).all()


def test_smallest_batches_and_data_sets():
    one = distribution_balanced(torch.zeros(1, 1), torch.ones(1, 1), frequencies_of([1], images=1), BalanceConfig())
    assert torch.isfinite(one).all()
    for norm in ("none", "by_instance"):
        none = torch.zeros(0, 3)
        assert distribution_balanced(none, none, frequencies_of([1, 2, 3]), BalanceConfig(weight_norm=norm)).shape == (
            0,
            3,
        )


def with_truth(codes, truth):
    return replace(info_for(codes), clean_counts=ClassCounts(truth.sum(axis=0), "clean"))


def test_one_step_reads_unknown_as_absent_and_counts_the_labels_it_trains_on():
    model, config = FakeModel(5), DistributionBalancedConfig()
    out = DistributionBalanced(config, info_for(CODES))(model, batch_of(CODES, INDEX))
    counts, targets = (CODES == 1).sum(axis=0), (CODES[INDEX] == 1).astype(float)
    expected = oracle.losses(out.logits.double().numpy(), targets, counts, len(CODES), asdict(config))
    assert float(out.total.detach()) == pytest.approx(expected.mean(), rel=1e-4)
    assert float(out.parts["positive"]) == pytest.approx((expected * targets).mean(), rel=1e-4)
    assert float(sum(out.parts.values())) == pytest.approx(expected.mean(), rel=1e-4)
    assert out.total.requires_grad
    assert not any(part.requires_grad for part in [out.logits, *out.parts.values()])
    assert model.calls == [frozenset()]
    torch.testing.assert_close(out.logits, model(batch_of(CODES, INDEX).images).logits.detach())


def test_clean_counts_are_used_on_request_only_and_this_is_said(capsys):
    truth = np.zeros_like(CODES)
    truth[0] = 1
    info = with_truth(CODES, truth)
    candidate = DistributionBalanced(DistributionBalancedConfig(), info)
    assert capsys.readouterr().out == ""
    clean = DistributionBalanced(DistributionBalancedConfig(prior="clean"), info)
    assert "--prior clean" in capsys.readouterr().out
    assert candidate.frequencies.positives.tolist() == (CODES == 1).sum(axis=0).tolist()
    assert clean.frequencies.positives.tolist() == [1.0] * 5
    assert clean.frequencies.images == len(CODES)
    totals = [criterion(FakeModel(5), batch_of(CODES, INDEX)).total for criterion in (candidate, clean)]
    assert totals[0] != totals[1]
    with pytest.raises(UserError, match="--prior clean: the training set has no true labels"):
        DistributionBalanced(DistributionBalancedConfig(prior="clean"), info_for(CODES))


def test_it_has_no_state_and_keeps_none():
    criterion = DistributionBalanced(DistributionBalancedConfig(), info_for(CODES))
    batch = batch_of(CODES, INDEX)
    first, second = (criterion(FakeModel(5), batch).total for _ in range(2))
    assert torch.equal(first, second)
    assert criterion.state_dict() == {}
    assert criterion.parameter_groups() == []


def test_half_precision_saturated_logits_stay_finite():
    codes = np.array([[1, 0]], dtype=np.int8)
    model, batch = FakeModel(2), batch_of(codes, [0])
    with torch.no_grad():
        model.head.bias.copy_(torch.tensor([-5e4, 5e4]))
    criterion = DistributionBalanced(DistributionBalancedConfig(), info_for(codes))
    out = criterion(model.half(), batch._replace(images=batch.images.half()))
    out.total.backward()
    assert torch.isfinite(out.total)
    assert torch.isfinite(model.head.weight.grad).all()


@pytest.mark.parametrize(
    "change",
    [
        {"reweight": "inverse"},
        {"reweight": "class_balanced"},
        {"map_alpha": 0.5},
        {"map_beta": 1.0},
        {"map_gamma": 0.6},
        {"weight_norm": "by_instance"},
        {"weight_norm": "by_batch"},
        {"init_bias": 1.0},
        {"neg_scale": 2.0},
        {"focal_gamma": 1.0},
        {"focal_balance": 1.0},
        {"reweight": "class_balanced", "cb_beta": 0.5},
        {"reweight": "class_balanced", "cb_mode": "min_n"},
    ],
)
def test_each_setting_reaches_training(change):
    before = {name: value for name, value in change.items() if name == "reweight" and len(change) > 1}
    gradients = []
    for said in (before, change):
        model = FakeModel(5)
        criterion = DistributionBalanced(DistributionBalancedConfig(**said), info_for(CODES))
        criterion(model, batch_of(CODES, INDEX)).total.backward()
        gradients.append(model.head.weight.grad)
    assert not torch.allclose(*gradients, rtol=1e-3)


def share_a_batch(rank):
    """Losses and gradients as the engine combines them: each rank's weighted by its share of the global batch."""
    index = INDEX if rank is None else (INDEX[:2] if rank == 0 else INDEX[2:])
    found = []
    for norm in ("none", "by_instance", "by_batch"):
        model, share = FakeModel(5), len(index) / len(INDEX)
        config = DistributionBalancedConfig(weight_norm=norm, prior="clean")
        out = DistributionBalanced(config, with_truth(CODES, CODES == 1))(model, batch_of(CODES, index))
        (share * out.total).backward()
        found += [collectives.all_sum(share * out.total), collectives.all_sum(model.head.weight.grad)]
    return found


def test_two_ranks_have_the_losses_and_gradients_of_one_process_on_the_whole_batch():
    alone = share_a_batch(None)
    for found in run_ranks(share_a_batch):
        for value, expected in zip(found, alone, strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-7)


def test_weights_that_vanish_are_not_divided_by_nothing():
    assert normalised(torch.zeros(2, 3), "by_instance").tolist() == [[0.0] * 3] * 2
    assert normalised(torch.zeros(2, 3), "by_batch").tolist() == [[0.0] * 3] * 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"reweight": "balance"},
        {"weight_norm": "instance"},
        {"map_alpha": -0.1},
        {"map_beta": 0.0},
        {"map_gamma": float("inf")},
        {"init_bias": float("nan")},
        {"neg_scale": 0.0},
        {"focal_gamma": -1.0},
        {"focal_balance": 0.0},
        {"cb_beta": 1.0},
        {"cb_mode": "average"},
        {"prior": "true"},
    ],
)
def test_a_setting_that_cannot_work_is_refused_by_name(wrong):
    with pytest.raises(UserError, match=f"--{next(iter(wrong))} "):
        DistributionBalancedConfig(**wrong)
