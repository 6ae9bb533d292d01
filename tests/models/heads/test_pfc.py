"""The normalised neck against published values and its formula."""

import copy

import numpy as np
import pytest
import torch

from models.heads.pfc import PFCConfig, PFCHead, build_pfc
from tests.golden_files import load
from tests.models.heads.head_checks import random_features
from utils.checks import UserError


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
    index = np.arange(np.prod(shape))
    return torch.tensor((off + amp * np.sin(step * index + phase)).reshape(shape).astype(np.float32))


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


@pytest.mark.parametrize(
    "settings, part",
    [
        ({"neck_width": 0}, "--neck_width"),
        ({"neck_dropout": 1.0}, "--neck_dropout"),
        ({"neck_dropout": -0.1}, "--neck_dropout"),
    ],
)
def test_wrong_settings_are_refused(settings, part):
    with pytest.raises(UserError, match=part):
        PFCConfig(**settings)


def test_settings_reach_the_head():
    head = build_pfc(6, 4, PFCConfig(neck_width=11, neck_dropout=0.25), None)
    assert (head.fc.out_features, head.dropout.p, head.fc_cls.out_features) == (11, 0.25, 4)
