"""The linear head against plain loops, and with BoostLU against published values."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from models.heads.linear import BoostedLinearHead, LinearConfig, LinearHead, MaxLinearHead, build_linear
from tests.golden_files import load, part
from tests.models.heads.head_checks import interchange, random_features, require_detached_cam
from utils.checks import UserError


def boosted_linear(alpha, width=6, classes=4, seed=0):
    torch.manual_seed(seed)
    return BoostedLinearHead(width, classes, alpha).double()


def test_golden_boostlu():
    golden = load("boostlu.npz")
    assert len(golden["cases"]) > 0
    for name in golden["cases"]:
        case = {key: torch.tensor(value).double() for key, value in part(golden, f"{name}__").items()}
        classes, width = case["weight"].shape[:2]
        head = BoostedLinearHead(width, classes, case["alpha"].item()).double()
        head.load_state_dict({"fc.weight": case["weight"].flatten(1), "fc.bias": case["bias"]})
        features = case["feats"].requires_grad_()
        logits = head(features)
        (logits * case["upstream"]).sum().backward()
        found = {
            "cam": head.scores(features),
            "logits": logits,
            "grad_feats": features.grad,
            "grad_weight": head.fc.weight.grad[:, :, None, None],
            "grad_bias": head.fc.bias.grad,
        }
        for what, value in found.items():
            rounding = 1e-5 * case[what].abs().max().item()  # the golden sums over positions are of single precision
            torch.testing.assert_close(value, case[what], rtol=1e-5, atol=rounding, msg=f"{name} {what}")


def test_linear_head_is_pooling_and_a_matrix():
    head, features = LinearHead(6, 4).double(), random_features()
    expected = np.einsum("bdhw,kd->bk", features.numpy(), head.fc.weight.detach().numpy()) / 20
    np.testing.assert_allclose(head(features).detach().numpy(), expected + head.fc.bias.detach().numpy(), rtol=1e-12)


def test_mean_of_the_linear_cam_is_the_logit_without_bias():
    head, features = LinearHead(6, 4).double(), random_features()
    torch.testing.assert_close(head.cam(features).mean(dim=(2, 3)) + head.fc.bias, head(features))


def test_the_linear_head_of_maxima_is_its_formula_in_loops():
    head, features = MaxLinearHead(6, 4).double(), random_features()
    weight, bias, x = head.fc.weight.tolist(), head.fc.bias.tolist(), features.tolist()
    for n in range(3):
        highest = [max(value for row in x[n][d] for value in row) for d in range(6)]
        for k in range(4):
            expected = bias[k] + sum(weight[k][d] * highest[d] for d in range(6))
            assert head(features)[n, k].item() == pytest.approx(expected, rel=1e-12)
    plain = LinearHead(6, 4).double()
    interchange(plain, head)
    assert torch.equal(head.cam(features), plain.cam(features))
    assert torch.equal(head.class_vectors(features).vectors, plain.class_vectors(features).vectors)
    even = features.mean(dim=(2, 3), keepdim=True)  # of one position both are the same
    torch.testing.assert_close(head(even), plain(even))
    require_detached_cam(head)


def test_equal_maxima_share_the_gradient_and_no_other_position_has_any():
    head, features = MaxLinearHead(1, 1).double(), torch.tensor([[[[2.0, 1.0], [2.0, -3.0]]]]).double().requires_grad_()
    torch.nn.init.ones_(head.fc.weight)
    head(features).sum().backward()
    assert features.grad.tolist() == [[[[0.5, 0.0], [0.5, 0.0]]]]


def test_the_config_says_which_linear_head_is_built():
    built = {pool: build_linear(6, 4, LinearConfig(pool=pool), None) for pool in ("mean", "max")}
    assert {pool: type(head) for pool, head in built.items()} == {"mean": LinearHead, "max": MaxLinearHead}
    assert {pool: head.needs_maps for pool, head in built.items()} == {"mean": False, "max": True}
    assert LinearConfig().pool == "mean"
    assert LinearConfig(pool="max").linear
    with pytest.raises(UserError, match=r"^--pool median: choose from mean, max$"):
        LinearConfig(pool="median")
    for more in ({"boostlu": 5.0}, {"saliency": 0.5}):
        with pytest.raises(
            UserError, match=r"^--pool max: BoostLU and saliency are of averaged scores; leave --boostlu"
        ):
            LinearConfig(pool="max", **more)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 5.0])
def test_boosted_linear_head_equals_the_loops(alpha):
    head, features = boosted_linear(alpha), random_features()
    weight, bias, x = head.fc.weight.tolist(), head.fc.bias.tolist(), features.tolist()
    for n in range(3):
        for k in range(4):
            scores = [bias[k] + sum(weight[k][d] * x[n][d][i][j] for d in range(6)) for i in range(4) for j in range(5)]
            boost = [alpha * score if score > 0 else score for score in scores]
            assert head(features)[n, k].item() == pytest.approx(sum(boost) / 20, rel=1e-12)
            np.testing.assert_allclose(head.cam(features)[n, k].flatten().numpy(), boost, rtol=1e-10, atol=1e-14)


class Largest(TorchDispatchMode):
    """Remembers the number of elements of the largest tensor made inside."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        made = out if isinstance(out, tuple | list) else [out]
        self.elements = max([self.elements, *(value.numel() for value in made if isinstance(value, torch.Tensor))])
        return out


def test_cam_never_holds_the_product_of_classes_and_channels():
    features, head = torch.randn(2, 64, 7, 7), LinearHead(64, 50)
    with Largest() as made:
        head.cam(features)
    assert 0 < made.elements <= features.numel()


def test_the_cam_is_the_layer_at_every_position():
    head, features = LinearHead(6, 4).double(), random_features()
    expected = torch.einsum("bdhw,kd->bkhw", features, head.fc.weight.detach())
    torch.testing.assert_close(head.cam(features), expected)


def test_gradients_of_the_boosted_head_are_those_of_its_values():
    features = random_features(shape=(2, 6, 2, 2)).requires_grad_()
    assert torch.autograd.gradcheck(boosted_linear(5.0), (features,))


def test_boost_of_one_is_the_plain_head():
    plain = LinearHead(6, 4).double()
    plain.load_state_dict(boosted_linear(1.0).state_dict())
    torch.testing.assert_close(boosted_linear(1.0)(random_features()), plain(random_features()))


def test_weights_of_plain_and_boosted_heads_are_interchangeable():
    interchange(LinearHead(6, 4), boosted_linear(5.0))


def test_mean_of_a_boosted_map_is_the_logit():
    head, features = boosted_linear(5.0), random_features()
    torch.testing.assert_close(head.cam(features).mean(dim=(2, 3)), head(features))


@pytest.mark.parametrize("head", [LinearHead(6, 4).double(), boosted_linear(5.0)])
def test_cam_carries_no_gradient_and_leaves_features_alone(head):
    require_detached_cam(head)


def test_settings_reach_the_head():
    assert type(build_linear(6, 4, LinearConfig(), None)) is LinearHead
    head = build_linear(6, 4, LinearConfig(boostlu=5.0), None)
    assert (type(head), head.alpha) == (BoostedLinearHead, 5.0)
