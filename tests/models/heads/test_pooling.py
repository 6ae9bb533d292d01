import copy

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from models.build import HEADS, LabelInfo, ModelConfig
from models.heads.pooling import BoostedCSRAHead, BoostedLinearHead, CSRAHead, LinearHead, PFCHead, attention, boosted
from tests.golden_files import each_case, load, part
from tests.losses.fake_model import random_labels
from utils.checks import UserError
from utils.types import LabelTable

MAX = 99  # how the golden file writes an infinite temperature


def csra(width=6, classes=4, num_heads=4, lam=0.3, seed=0):
    torch.manual_seed(seed)
    return CSRAHead(width, classes, num_heads, lam).double()


def random_features(seed=0, shape=(3, 6, 4, 5)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def csra_by_loops(features, weights, temperatures, lam):
    """Logits (B, C) place by place, from the formula."""
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


@pytest.mark.parametrize("num_heads", [0, 3, 5, 7, 9, -1])
def test_other_numbers_of_heads_are_refused(num_heads):
    with pytest.raises(UserError, match="1, 2, 4, 6, 8"):
        csra(num_heads=num_heads)


def test_linear_head_is_pooling_and_a_matrix():
    head, features = LinearHead(6, 4).double(), random_features()
    expected = np.einsum("bdhw,kd->bk", features.numpy(), head.fc.weight.detach().numpy()) / 20
    np.testing.assert_allclose(head(features).detach().numpy(), expected + head.fc.bias.detach().numpy(), rtol=1e-12)


def test_cam_equals_the_einsum():
    features, linear, attentive = random_features(), LinearHead(6, 4).double(), csra()
    weight = linear.fc.weight.detach()
    torch.testing.assert_close(linear.cam(features), torch.einsum("bdhw,kd->bkhw", features, weight))
    units = [w.detach()[:, :, 0, 0] / w.detach().norm(dim=1)[:, :, 0] for w in attentive.weights]
    torch.testing.assert_close(attentive.cam(features), torch.einsum("bdhw,kd->bkhw", features, sum(units)))


def test_mean_of_the_linear_cam_is_the_logit_without_bias():
    head, features = LinearHead(6, 4).double(), random_features()
    torch.testing.assert_close(head.cam(features).mean(dim=(2, 3)) + head.fc.bias, head(features))


def boosted_linear(alpha, width=6, classes=4, seed=0):
    torch.manual_seed(seed)
    return BoostedLinearHead(width, classes, alpha).double()


def boosted_csra(alpha, num_heads=4, lam=0.3, seed=0):
    torch.manual_seed(seed)
    return BoostedCSRAHead(6, 4, num_heads, lam, alpha).double()


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
            rounding = 1e-5 * case[what].abs().max().item()  # the golden sums over places are of single precision
            torch.testing.assert_close(value, case[what], rtol=1e-5, atol=rounding, msg=f"{name} {what}")


@pytest.mark.parametrize("alpha", [0.5, 1.0, 5.0])
def test_boosted_linear_head_equals_the_loops(alpha):
    head, features = boosted_linear(alpha), random_features()
    weight, bias, x = head.fc.weight.tolist(), head.fc.bias.tolist(), features.tolist()
    for n in range(3):
        for k in range(4):
            places = [bias[k] + sum(weight[k][d] * x[n][d][i][j] for d in range(6)) for i in range(4) for j in range(5)]
            boost = [alpha * score if score > 0 else score for score in places]
            assert head(features)[n, k].item() == pytest.approx(sum(boost) / 20, rel=1e-12)
            np.testing.assert_allclose(head.cam(features)[n, k].flatten().numpy(), boost, rtol=1e-10, atol=1e-14)


def test_the_slope_of_the_boost_at_zero_is_one():
    scores = torch.tensor([-1.0, 0.0, 2.0], requires_grad=True)
    values = boosted(scores, 5.0)
    values.sum().backward()
    assert values.tolist() == [-1.0, 0.0, 10.0]
    assert scores.grad.tolist() == [1.0, 1.0, 5.0]


@pytest.mark.parametrize("head", [boosted_linear(5.0), boosted_csra(5.0)], ids=["linear", "csra"])
def test_gradients_of_boosted_heads_are_those_of_their_values(head):
    assert torch.autograd.gradcheck(head, (random_features(shape=(2, 6, 2, 2)).requires_grad_(),))


def test_boost_of_one_is_the_plain_head():
    features = random_features()
    plain = LinearHead(6, 4).double()
    plain.load_state_dict(boosted_linear(1.0).state_dict())
    torch.testing.assert_close(boosted_linear(1.0)(features), plain(features))
    torch.testing.assert_close(boosted_csra(1.0)(features), csra()(features))


@pytest.mark.parametrize(
    "plain, boost", [(LinearHead(6, 4), boosted_linear(5.0)), (csra(seed=3), boosted_csra(5.0))], ids=["linear", "csra"]
)
def test_weights_of_plain_and_boosted_heads_are_interchangeable(plain, boost):
    boost.load_state_dict(plain.double().state_dict())
    plain.load_state_dict(boost.state_dict())
    features = random_features()
    assert not torch.allclose(plain(features), boost(features))
    for name, value in plain.state_dict().items():
        assert torch.equal(value, boost.state_dict()[name])


def test_mean_of_a_boosted_map_is_the_logit():
    features = random_features()
    linear, attentive = boosted_linear(5.0), boosted_csra(5.0, lam=0.0)
    torch.testing.assert_close(linear.cam(features).mean(dim=(2, 3)), linear(features))
    torch.testing.assert_close(attentive.cam(features).mean(dim=(2, 3)), attentive(features))


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


@pytest.mark.parametrize("head", [LinearHead(6, 4).double(), csra(), boosted_linear(5.0), boosted_csra(5.0)])
def test_cam_carries_no_gradient_and_leaves_features_alone(head):
    features = random_features().requires_grad_()
    before = features.detach().clone()
    assert not head.cam(features).requires_grad
    assert torch.equal(features, before)


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


@pytest.mark.parametrize("name, alpha", [*((name, None) for name in HEADS), ("linear", 5.0), ("csra", 5.0)])
def test_heads_by_name_under_bfloat16_autocast_are_finite(name, alpha):
    config = ModelConfig(model="scenenet", head=name, num_heads=8, lam=0.4, boostlu=alpha, neck_width=6)
    facts = LabelInfo([f"class {label}" for label in range(5)], LabelTable(random_labels(20, 5)))
    head = HEADS[name](32, 5, config, facts)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = 50 * torch.randn(2, 32, 7, 7).bfloat16()
        logits, cam = head(features), head.with_cam(features)[1]
    logits.float().sum().backward()
    assert logits.isfinite().all()
    assert cam.isfinite().all()
    assert cam.shape == (2, 5, 7, 7)
    assert all(parameter.grad.isfinite().all() for parameter in head.parameters())


def pfc(width=6, classes=4, neck=5, dropout=0.0, seed=0):
    torch.manual_seed(seed)
    head = PFCHead(width, classes, neck, dropout).double()
    with torch.no_grad():
        for value in (head.bn.weight, head.bn.bias, head.bn.running_mean, head.fc.bias, head.fc_cls.bias):
            value.normal_()
        head.bn.running_var.uniform_(0.5, 2.0)
    return head


def published_pfc(golden, dropout=0.0):
    """A head of the sizes and weights of published ones; the layer that never runs is passed over."""
    neck_width, width = golden["neck.fc.weight"].shape
    head = PFCHead(width, len(golden["head.fc_cls.bias"]), neck_width, dropout)
    ours = {name: torch.tensor(golden[f"neck.{name}"]) for name in head.state_dict() if f"neck.{name}" in golden}
    ours |= {name: torch.tensor(golden[f"head.{name}"]) for name in head.state_dict() if f"head.{name}" in golden}
    missing, unexpected = head.load_state_dict(ours, strict=False)
    assert set(missing) <= {"bn.num_batches_tracked"}
    assert not unexpected
    return head


def test_golden_pfc():
    golden = load("pfc_head.npz")
    head = published_pfc(golden)
    head.bn.momentum, head.bn.eps = float(golden["momentum"]), float(golden["bn_eps"])
    for mode in ("eval", "train"):
        head.train(mode == "train")
        features = torch.tensor(golden["x"], requires_grad=True)
        neck = copy.deepcopy(head).neck(features)
        logits = head(features)
        logits.square().sum().backward()
        for name, value in {"feat": neck, "logits": logits, "grad_x": features.grad}.items():
            expected = golden[f"{mode}_{name}"]
            rounding = 1e-5 * np.abs(expected).max()
            np.testing.assert_allclose(value.detach().numpy(), expected, rtol=1e-4, atol=rounding, err_msg=name)
    for name in ("running_mean", "running_var"):
        found = getattr(head.bn, name).numpy()
        np.testing.assert_allclose(found, golden[f"train_{name}_after"], rtol=1e-4, atol=1e-6)


def test_golden_pfc_of_full_size():
    golden = load("pfc_head.npz")
    features = wave(golden["full_x_recipe"], golden["full_x_shape"]).abs()
    (batch, neck), classes = golden["full_feat"].shape, golden["full_logits"].shape[1]
    sizes = {"neck.fc": (neck, features.shape[1]), "neck.fc_hidden_1": (neck, neck), "head.fc_cls": (classes, neck)}
    weights = {}
    for name, recipe in zip(golden["full_names"].tolist(), golden["full_recipe"], strict=True):
        layer, kind = name.rsplit(".", 1)
        shape = sizes.get(layer, (neck,))
        weights[name] = wave(recipe, shape if kind == "weight" else shape[:1]).numpy()
    head = published_pfc(weights).eval()
    assert batch == len(features)
    for found, name in ((head.neck(features), "full_feat"), (head(features), "full_logits")):
        rounding = 1e-5 * np.abs(golden[name]).max()
        np.testing.assert_allclose(found.detach().numpy(), golden[name], rtol=1e-4, atol=rounding)


def wave(recipe, shape):
    """off + amp sin(step i + phase) for the flat position i, computed in double precision."""
    amp, off, step, phase = recipe.tolist()
    places = np.arange(np.prod(shape))
    return torch.tensor((off + amp * np.sin(step * places + phase)).reshape(shape).astype(np.float32))


def test_pfc_equals_the_formula():
    head, features = pfc(), random_features()
    state = {name: value.numpy() for name, value in head.state_dict().items()}
    reduced = features.numpy().mean(axis=(2, 3)) @ state["fc.weight"].T + state["fc.bias"]
    mean, var = state["bn.running_mean"].copy(), state["bn.running_var"].copy()
    for train in (False, True):
        middle, spread = (reduced.mean(axis=0), reduced.var(axis=0)) if train else (mean, var)
        normalised = (reduced - middle) / np.sqrt(spread + head.bn.eps) * state["bn.weight"] + state["bn.bias"]
        expected = normalised @ state["fc_cls.weight"].T + state["fc_cls.bias"]
        np.testing.assert_allclose(head.train(train)(features).detach().numpy(), expected, rtol=1e-9)
    np.testing.assert_allclose(head.bn.running_var, 0.9 * var + 0.1 * reduced.var(axis=0, ddof=1), rtol=1e-9)


def test_mean_of_the_pfc_map_is_the_logit_less_a_constant_of_the_class():
    head = pfc().eval()
    gaps = [head(x) - head.cam(x).mean(dim=(2, 3)) for x in (random_features(), random_features(seed=1))]
    torch.testing.assert_close(torch.cat(gaps), gaps[0][:1].expand(6, -1))
    torch.testing.assert_close(head.train().cam(random_features()), head.eval().cam(random_features()))


def test_gradients_of_pfc_are_those_of_its_values():
    for head in (pfc().eval(), pfc().train()):
        assert torch.autograd.gradcheck(head, (random_features(shape=(3, 6, 2, 2)).requires_grad_(),))


def test_a_single_row_takes_the_running_statistics_and_leaves_them():
    head, features = pfc().eval(), random_features(shape=(1, 6, 4, 5))
    expected, before = head(features), copy.deepcopy(head.state_dict())
    torch.testing.assert_close(head.train()(features), expected)
    for name, value in head.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_pfc_drops_in_training_only():
    head, features = pfc(dropout=0.5), random_features()
    assert not torch.equal(head(features), head(features))
    head.eval()
    assert torch.equal(head(features), head(features))


def test_pfc_starts_as_published():
    torch.manual_seed(0)
    head = PFCHead(512, 80, 256, 0.5)
    assert head.fc.weight.std().item() == pytest.approx((2 / 256) ** 0.5, rel=0.02)
    assert head.fc_cls.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert not any(bias.abs().max() for bias in (head.fc.bias, head.fc_cls.bias, head.bn.bias))
    assert (head.bn.weight == 1).all()
