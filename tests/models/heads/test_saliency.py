"""Saliency of the linear and the CSRA head against plain loops, its gradient, its limits and its settings."""

import numpy as np
import pytest
import torch

from models.heads.csra import CSRAConfig, CSRAHead, SaliencyCSRAHead, build_csra
from models.heads.linear import LinearConfig, LinearHead, SaliencyLinearHead, build_linear
from models.heads.saliency import Saliency, SaliencyConfig, saliency
from tests.losses.steps import WAITING, Recorder
from tests.models.heads.head_checks import interchange, random_features, require_detached_cam
from utils.checks import UserError

ALPHA, K = 0.7, 3


def linear(alpha=ALPHA, k=K, in_test=True):
    torch.manual_seed(0)
    return SaliencyLinearHead(6, 4, Saliency(alpha, k, in_test)).double()


def csra(alpha=ALPHA, k=K, in_test=True):
    torch.manual_seed(0)
    return SaliencyCSRAHead(6, 4, 4, 0.3, Saliency(alpha, k, in_test)).double()


def plain_of(head):
    plain = (LinearHead(6, 4) if isinstance(head, LinearHead) else CSRAHead(6, 4, 4, 0.3)).double()
    plain.load_state_dict(head.state_dict())
    return plain


def highest(score_map, k):
    """Mean of the k highest values, or of all."""
    values = sorted(np.ravel(score_map).tolist(), reverse=True)[:k]
    return sum(values) / len(values)


def ramp(*shape):
    return torch.arange(float(np.prod(shape)), dtype=torch.float64).view(shape)


@pytest.mark.parametrize("k", [1, 3, 20, 99])
def test_the_linear_head_is_its_formula_in_loops(k):
    head, x = linear(k=k), random_features()
    weight, bias = head.fc.weight.detach().numpy(), head.fc.bias.detach().numpy()
    logits, maps = head(x).detach().numpy(), head.cam(x).numpy()
    for n in range(3):
        for c in range(4):
            scores = [
                sum(weight[c, d] * float(x[n, d, i, j]) for d in range(6)) + bias[c] for i in range(4) for j in range(5)
            ]
            expected = sum(scores) / 20 + ALPHA * highest(scores, k)
            assert logits[n, c] == pytest.approx(expected, rel=1e-12)
            np.testing.assert_allclose(maps[n, c].ravel(), scores, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("k", [1, 3, 99])
def test_the_csra_head_adds_the_highest_values_of_its_map(k):
    head, x = csra(k=k), random_features()
    plain = plain_of(head)
    logits, maps, expected = head(x).detach().numpy(), head.cam(x).numpy(), plain(x).detach().numpy()
    np.testing.assert_array_equal(maps, plain.cam(x).numpy())
    for n in range(3):
        for c in range(4):
            assert logits[n, c] == pytest.approx(expected[n, c] + ALPHA * highest(maps[n, c], k), rel=1e-12)


def test_all_positions_of_a_map_without_bias_give_the_logit_and_alpha_times_it():
    head, x = linear(k=20), random_features()
    torch.nn.init.zeros_(head.fc.bias)
    torch.testing.assert_close(head(x), (1 + ALPHA) * plain_of(head)(x))
    small = random_features(shape=(3, 6, 2, 2))  # of fewer positions than k all count
    torch.testing.assert_close(head(small), (1 + ALPHA) * plain_of(head)(small))


def test_of_a_constant_map_every_k_gives_the_same():
    x = random_features(shape=(3, 6, 1, 1)).expand(3, 6, 4, 5)
    for k in (1, 3, 20):
        head = linear(k=k)
        torch.testing.assert_close(head(x), (1 + ALPHA) * plain_of(head)(x))


def test_a_raised_position_raises_the_logit_by_its_share_of_the_mean_and_of_the_highest():
    head = linear(k=5)
    torch.nn.init.ones_(head.fc.weight)
    x = -ramp(1, 6, 4, 5)
    before = head(x)
    raised = x.clone()
    raised[0, 0, 0, 0] += 0.25  # the highest position stays the highest
    torch.testing.assert_close(head(raised) - before, torch.full((1, 4), 0.25 * (1 / 20 + ALPHA / 5)).double())


@pytest.mark.parametrize("k", [1, 5, 20])
def test_the_highest_positions_have_a_gradient_of_their_own(k):
    scores = ramp(1, 1, 4, 5).requires_grad_()
    (scores.mean(dim=(2, 3)) + ALPHA * saliency(scores, k)).sum().backward()
    expected = np.full(20, 1 / 20)
    expected[20 - k :] += ALPHA / k
    np.testing.assert_allclose(scores.grad.flatten().numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("head", [linear(), csra()], ids=["linear", "csra"])
def test_gradients_are_those_of_the_values(head):
    assert torch.autograd.gradcheck(head, (random_features(shape=(2, 6, 2, 3)).requires_grad_(),))


@pytest.mark.parametrize("build", [linear, csra])
def test_an_alpha_of_zero_is_the_plain_head_bit_for_bit(build):
    head, results = build(alpha=0.0), []
    for each in (head, plain_of(head)):
        x = random_features().requires_grad_()
        logits = each(x)
        logits.square().sum().backward()
        results.append([logits, x.grad, *(parameter.grad for parameter in each.parameters())])
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


@pytest.mark.parametrize("build", [linear, csra])
def test_without_saliency_in_test_only_training_has_it(build):
    head, x = build(in_test=False), random_features()
    assert torch.equal(head.train()(x), build()(x))
    assert torch.equal(head.eval()(x), plain_of(head)(x))
    assert torch.equal(build().eval()(x), build().train()(x))


def test_the_mean_of_the_linear_map_is_the_plain_logit():
    head, x = linear(), random_features()
    torch.testing.assert_close(head.cam(x).mean(dim=(2, 3)), plain_of(head)(x))
    assert torch.equal(head.with_cam(x)[1], head.cam(x))


@pytest.mark.parametrize("head", [linear(), csra()], ids=["linear", "csra"])
def test_weights_are_those_of_the_plain_head_and_maps_carry_no_gradient(head):
    require_detached_cam(head)
    interchange(plain_of(head), head)


@pytest.mark.parametrize("head", [linear(), csra()], ids=["linear", "csra"])
def test_nothing_waits_for_the_device(head):
    x = random_features()
    with Recorder() as seen:
        head(x)
    assert "topk" in seen.names
    assert not seen.names & WAITING


def test_order_of_rows_and_of_positions_does_not_matter():
    head, x, rows = linear(), random_features(), torch.tensor([2, 0, 1])
    torch.testing.assert_close(head(x[rows]), head(x)[rows])
    torch.testing.assert_close(head(x.flip(-1).transpose(2, 3)), head(x))


def test_settings_reach_the_head():
    settings = {"saliency": 0.5, "saliency_k": 2, "saliency_test": False}
    one, other = build_linear(6, 4, LinearConfig(**settings), None), build_csra(6, 4, CSRAConfig(**settings), None)
    assert (type(one), type(other)) == (SaliencyLinearHead, SaliencyCSRAHead)
    assert one.added == other.added == Saliency(0.5, 2, False)
    assert (len(other.weights), other.lam) == (1, 0.1)
    assert type(build_linear(6, 4, LinearConfig(saliency=0.0), None)) is LinearHead
    assert type(build_csra(6, 4, CSRAConfig(saliency=0.0), None)) is CSRAHead
    assert build_linear(6, 4, LinearConfig(saliency=0.5), None).added == Saliency(0.5, 5, True)


@pytest.mark.parametrize(
    "settings, line",
    [
        ({"saliency": -0.1}, r"^--saliency -0\.1: must be 0 or more; the published value is 0\.5$"),
        ({"saliency": float("inf")}, "^--saliency inf: must be 0 or more"),
        ({"saliency": float("nan")}, "^--saliency nan: must be 0 or more"),
        ({"saliency_k": 0}, "^--saliency_k 0: must be at least 1 position$"),
        ({"saliency": 0.5, "boostlu": 5.0}, r"^--saliency 0\.5, --boostlu 5\.0: both change [^\n]*; give one$"),
        ({"boostlu": 0.0}, "^--boostlu"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(settings, line):
    SaliencyConfig(boostlu=5.0)
    with pytest.raises(UserError, match=line):
        SaliencyConfig(**settings)
