"""Residual attention against published values and plain loops, plain and boosted."""

import numpy as np
import pytest
import torch

from models.heads.csra import BoostedCSRAHead, CSRAConfig, CSRAHead, attention, build_csra
from tests.golden_files import each_case
from tests.models.heads.head_checks import interchange, random_features, require_detached_cam
from utils.checks import UserError

MAX = 99  # the code of an infinite temperature in the golden file


def csra(width=6, classes=4, num_heads=4, lam=0.3, seed=0):
    torch.manual_seed(seed)
    return CSRAHead(width, classes, num_heads, lam).double()


def csra_by_loops(features, weights, temperatures, lam):
    """Logits (B, C) position by position, from the formula."""
    batch, _, height, width = features.shape
    classes = weights.shape[1]
    logits = np.zeros((batch, classes))
    for n in range(batch):
        for weight, temperature in zip(weights, temperatures, strict=True):
            for k in range(classes):
                m = weight[k] / np.sqrt((weight[k] ** 2).sum())
                s = np.array([m @ features[n, :, i, j] for i in range(height) for j in range(width)])
                share = np.exp(temperature * s) if np.isfinite(temperature) else (s == s.max()).astype(float)
                logits[n, k] += s.mean() + lam * (share * s).sum() / share.sum()
    return logits


@pytest.mark.parametrize("case, arrays", each_case("csra.npz"))
def test_golden_csra(case, arrays):
    features = torch.tensor(arrays["features"], requires_grad=True)
    weights = torch.tensor(arrays["head_weights"])
    heads, classes, width = weights.shape[:3]
    head = CSRAHead(width, classes, heads, case["lam"]).to(features.dtype)
    head.load_state_dict({f"weights.{h}": weight for h, weight in enumerate(weights)})
    assert [MAX if t == torch.inf else t for t in head.temperatures] == arrays["temperatures"].tolist()
    logits = head(features)
    logits.sum().backward()
    tolerance = {"rtol": 1e-10, "atol": 1e-12} if features.dtype == torch.float64 else {"rtol": 1e-5, "atol": 2e-6}
    found = {
        "logits": logits,
        "head_logits": head.head_logits(features),
        "grad_features": features.grad,
        "grad_head_weights": torch.stack([weight.grad for weight in head.weights]),
    }
    for name, value in found.items():
        np.testing.assert_allclose(value.detach().numpy(), arrays[name], err_msg=name, **tolerance)


@pytest.mark.parametrize("num_heads", [1, 2, 4, 6, 8])
def test_csra_equals_the_loops(num_heads):
    head, features = csra(num_heads=num_heads), random_features()
    weights = np.stack([weight.detach().numpy()[:, :, 0, 0] for weight in head.weights])
    expected = csra_by_loops(features.numpy(), weights, head.temperatures, lam=0.3)
    np.testing.assert_allclose(head(features).detach().numpy(), expected, rtol=1e-12)


def test_csra_gradients_are_those_of_its_values():
    head, features = csra(), random_features(shape=(2, 6, 2, 2)).requires_grad_()
    assert torch.autograd.gradcheck(head, (features,))


def test_csra_without_attention_is_the_sum_of_the_cam_means():
    head, features = csra(lam=0.0), random_features()
    torch.testing.assert_close(head(features), head.cam(features).mean(dim=(2, 3)))


def test_csra_does_not_see_the_length_of_a_class_vector():
    head, features = csra(), random_features()
    before = head(features)
    with torch.no_grad():
        head.weights[1].mul_(7.0)
    torch.testing.assert_close(head(features), before)


def test_csra_with_a_zero_class_vector_stays_finite():
    head, features = csra(), random_features()
    with torch.no_grad():
        head.weights[0][2] = 0
    logits = head(features)
    logits.sum().backward()
    assert logits.isfinite().all()
    assert all(weight.grad.isfinite().all() for weight in head.weights)
    torch.testing.assert_close(head.head_logits(features)[0, :, 2], torch.zeros(3, dtype=torch.float64))


def test_attention_runs_from_the_mean_to_the_maximum():
    scores = random_features(shape=(2, 3, 9))
    torch.testing.assert_close(attention(scores, 0.0), scores.mean(dim=2))
    torch.testing.assert_close(attention(scores, 1e4), scores.amax(dim=2))
    torch.testing.assert_close(attention(scores, torch.inf), scores.amax(dim=2))


def test_temperatures_are_the_published_ones():
    whole = {1: [1], 2: [1], 4: [1, 2, 4], 6: [1, 2, 3, 4, 5], 8: [1, 2, 3, 4, 5, 6, 7]}
    for heads, temperatures in whole.items():
        last = [] if heads == 1 else [torch.inf]
        assert list(csra(num_heads=heads).temperatures) == [*temperatures, *last]


@pytest.mark.parametrize("num_heads", [0, 3, 5, 7, 9, -1])
def test_other_numbers_of_heads_are_refused(num_heads):
    with pytest.raises(UserError, match="1, 2, 4, 6, 8"):
        csra(num_heads=num_heads)


def boosted_csra(alpha, num_heads=4, lam=0.3, seed=0):
    torch.manual_seed(seed)
    return BoostedCSRAHead(6, 4, num_heads, lam, alpha).double()


def test_boosted_csra_equals_the_loops():
    head, features = boosted_csra(3.0), random_features()
    for n, x in enumerate(features.numpy()):
        expected = np.zeros(4)
        for weight, temperature in zip(head.weights, head.temperatures, strict=True):
            m = weight.detach().numpy()[:, :, 0, 0]
            for k in range(4):
                s = np.array([m[k] @ x[:, i, j] for i in range(4) for j in range(5)]) / np.sqrt((m[k] ** 2).sum())
                s = np.array([3.0 * score if score > 0 else score for score in s])
                share = np.exp(temperature * s) if np.isfinite(temperature) else (s == s.max()).astype(float)
                expected[k] += s.mean() + 0.3 * (share * s).sum() / share.sum()
        np.testing.assert_allclose(head(features)[n].detach().numpy(), expected, rtol=1e-12)


def test_the_cam_is_the_sum_of_the_scores_by_unit_vectors():
    head, features = csra(), random_features()
    units = [weight.detach()[:, :, 0, 0] / weight.detach().norm(dim=1)[:, :, 0] for weight in head.weights]
    torch.testing.assert_close(head.cam(features), torch.einsum("bdhw,kd->bkhw", features, sum(units)))


def test_gradients_of_the_boosted_head_are_those_of_its_values():
    features = random_features(shape=(2, 6, 2, 2)).requires_grad_()
    assert torch.autograd.gradcheck(boosted_csra(5.0), (features,))


def test_boost_of_one_is_the_plain_head():
    torch.testing.assert_close(boosted_csra(1.0)(random_features()), csra()(random_features()))


def test_weights_of_plain_and_boosted_heads_are_interchangeable():
    plain, boost = csra(seed=3), boosted_csra(5.0)
    interchange(plain, boost)


def test_mean_of_a_boosted_map_without_attention_is_the_logit():
    head, features = boosted_csra(5.0, lam=0.0), random_features()
    torch.testing.assert_close(head.cam(features).mean(dim=(2, 3)), head(features))


@pytest.mark.parametrize("head", [csra(), boosted_csra(5.0)])
def test_cam_carries_no_gradient_and_leaves_features_alone(head):
    require_detached_cam(head)


@pytest.mark.parametrize(
    "settings, part",
    [
        ({"num_heads": 5}, "1, 2, 4, 6, 8"),
        ({"lam": -0.1}, "--lam"),
        ({"lam": float("nan")}, "--lam"),
        ({"boostlu": 0.0}, "--boostlu"),
    ],
)
def test_wrong_settings_are_refused(settings, part):
    with pytest.raises(UserError, match=part):
        CSRAConfig(**settings)


def test_settings_reach_the_head():
    head = build_csra(6, 4, CSRAConfig(num_heads=2, lam=0.4), None)
    assert (type(head), len(head.weights), head.lam) == (CSRAHead, 2, 0.4)
    head = build_csra(6, 4, CSRAConfig(boostlu=5.0), None)
    assert (type(head), len(head.weights), head.lam, head.alpha) == (BoostedCSRAHead, 1, 0.1, 5.0)
