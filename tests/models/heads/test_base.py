"""All heads by name: the interface they share, and the registry."""

import dataclasses

import pytest
import torch

from models.heads import HEADS, HeadKind
from models.heads.base import Head, LabelInfo
from tests.losses.fake_model import random_labels
from utils.types import LabelTable

LABEL_INFO = LabelInfo([f"class {label}" for label in range(5)], LabelTable(random_labels(20, 5)))
SMALL = {
    "csra": {"num_heads": 8, "lam": 0.4},
    "pfc": {"neck_width": 6},
}


def built(name, width=32, **settings):
    """A small head by name."""
    torch.manual_seed(0)
    config = HEADS[name].config(**{**SMALL.get(name, {}), **settings})
    return HEADS[name].build(width, 5, config, LABEL_INFO)


BOOST, SALIENCY = {"boostlu": 5.0}, {"saliency": 0.5}
ALL = [*((name, {}) for name in HEADS), *((name, more) for name in ("linear", "csra") for more in (BOOST, SALIENCY))]
ALL.append(("linear", {"pool": "max"}))


@pytest.mark.parametrize("name, settings", ALL)
def test_heads_under_bfloat16_autocast_are_finite_and_their_logits_are_not_rounded(name, settings):
    head = built(name, **settings)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = 50 * torch.randn(300, 32, 7, 7).bfloat16()
        logits, cam = head(features), head.with_cam(features)[1]
    logits.sum().backward()
    assert logits.dtype == torch.float32
    assert len(logits.unique()) > 0.9 * logits.numel()  # bfloat16 would leave at most a third
    assert cam.isfinite().all()
    assert cam.shape == (300, 5, 7, 7)
    assert all(parameter.grad.isfinite().all() for parameter in head.parameters())


@pytest.mark.parametrize("name, settings", ALL)
def test_logits_and_maps_in_one_pass_are_those_of_two(name, settings):
    head, features = built(name, **settings).eval(), torch.randn(3, 32, 4, 5)
    logits, cam = head.with_cam(features)
    torch.testing.assert_close(logits, head(features))
    torch.testing.assert_close(cam, head.cam(features))
    assert not cam.requires_grad


@pytest.mark.parametrize("name, settings", ALL)
def test_heads_on_the_meta_device_give_shapes(name, settings):
    head = built(name, **settings).to("meta")
    assert head(torch.empty(2, 32, 3, 3, device="meta")).shape == (2, 5)


@pytest.mark.parametrize("name, settings", ALL)
def test_heads_of_another_precision_stay_in_it(name, settings):
    head = built(name, **settings)
    for dtype in (torch.float64, torch.bfloat16):
        assert head.to(dtype)(torch.randn(2, 32, 3, 3, dtype=dtype)).dtype == dtype


@pytest.mark.parametrize("name", HEADS)
def test_only_heads_that_say_so_take_labels(name):
    head, features = built(name), torch.randn(2, 32, 3, 3)
    known = torch.zeros(2, 5)
    if HEADS[name].takes_labels:
        assert head.with_labels(features, known).shape == (2, 5)
    else:
        with pytest.raises(ValueError, match=f"{type(head).__name__} takes no labels"):
            head.with_labels(features, known)


@pytest.mark.parametrize("name", HEADS)
def test_only_heads_that_say_so_are_initialised_from_label_info(name):
    torch.manual_seed(0)
    head = HEADS[name].build(32, 5, HEADS[name].config(), None)
    torch.manual_seed(0)
    informed = HEADS[name].build(32, 5, HEADS[name].config(), LABEL_INFO)
    same = all(torch.equal(value, informed.state_dict()[key]) for key, value in head.state_dict().items())
    assert same != HEADS[name].needs_label_info


@pytest.mark.parametrize("kind", HEADS.values(), ids=list(HEADS))
def test_configs_are_frozen_and_say_what_their_head_and_settings_are(kind):
    assert kind.title
    assert all(field.metadata["help"] for field in dataclasses.fields(kind.config))
    with pytest.raises(dataclasses.FrozenInstanceError):
        kind.config().anything = 1


def test_a_head_without_code_does_nothing():
    for call in (Head().forward, Head().cam):
        with pytest.raises(NotImplementedError):
            call(torch.zeros(1, 2, 3, 3))


def test_titles_are_the_first_lines_of_the_configs():
    assert {name: kind.title for name, kind in HEADS.items()} == {
        "linear": "Mean pooling and one linear layer",
        "csra": "Class-specific residual attention",
        "pfc": "A normalised neck and one linear layer",
        "q2l": "Query2Label",
        "gcn": "ML-GCN",
        "ctran": "C-Tran",
    }
    nameless = type("Nameless", (), {})
    assert HeadKind(nameless, HEADS["linear"].build)[:4] == (nameless, HEADS["linear"].build, False, False)
    assert HeadKind(nameless, HEADS["linear"].build).class_vectors(nameless()) is False
    assert HeadKind(nameless, HEADS["linear"].build).title == "Nameless"
