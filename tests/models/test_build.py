import dataclasses
from typing import get_args, get_type_hints

import pytest
import safetensors.torch
import torch

from models.backbones import BACKBONES, STAGES, SceneNet
from models.build import MODELS, ModelConfig, build_model
from models.heads import HEADS
from utils.checks import UserError


def small(**settings):
    return ModelConfig(**{"model": "scenenet", "weights": "none"} | settings)


def flat(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_choices_of_the_settings_are_the_keys_of_the_dictionaries():
    hints = get_type_hints(ModelConfig)
    assert set(get_args(hints["model"])) == set(MODELS) == set(BACKBONES)
    assert set(get_args(hints["head"])) == set(HEADS)


def test_defaults_are_those_of_the_papers():
    config = ModelConfig()
    assert dataclasses.astuple(config) == ("resnet101", "linear", 1, 0.1, None, 256, 0.5, -1, False, "default")
    assert all(field.metadata["help"] for field in dataclasses.fields(config))


@pytest.mark.parametrize(
    "settings, part",
    [
        ({"model": "resnet42"}, "scenenet"),
        ({"head": "mlp"}, "csra"),
        ({"num_heads": 5}, "1, 2, 4, 6, 8"),
        ({"lam": -0.1}, "--lam"),
        ({"lam": float("nan")}, "--lam"),
        ({"boostlu": 0.0}, "--boostlu"),
        ({"boostlu": -5.0}, "--boostlu"),
        ({"boostlu": float("inf")}, "--boostlu"),
        ({"boostlu": float("nan")}, "--boostlu"),
        ({"boostlu": 5.0, "head": "pfc"}, "--head linear or csra"),
        ({"neck_width": 0}, "--neck_width"),
        ({"neck_dropout": 1.0}, "--neck_dropout"),
        ({"neck_dropout": -0.1}, "--neck_dropout"),
        ({"frozen_stages": 4, "model": "scenenet"}, "scenenet has 3"),
        ({"frozen_stages": 5, "model": "resnet18"}, "resnet18 has 4"),
        ({"frozen_stages": -2}, "--frozen_stages"),
        ({"weights": ""}, "--weights"),
    ],
)
def test_wrong_settings_are_refused_at_birth_with_the_choices(settings, part):
    with pytest.raises(UserError, match=part):
        ModelConfig(**settings)


@pytest.mark.parametrize("head", HEADS)
def test_built_model_has_the_configured_parts(head):
    model = build_model(small(head=head, num_heads=2, lam=0.4), num_classes=7, seed=0)
    assert model(torch.rand(2, 3, 40, 40)).logits.shape == (2, 7)
    assert model.feature_width == 96
    if head == "csra":
        assert (len(model.head.weights), model.head.lam) == (2, 0.4)


def test_settings_of_the_neck_and_of_what_stays_reach_the_model():
    model = build_model(small(head="pfc", neck_width=11, neck_dropout=0.25, frozen_stages=1, norm_eval=True), 5, seed=0)
    assert (model.head.fc.out_features, model.head.dropout.p) == (11, 0.25)
    assert not any(parameter.requires_grad for parameter in model.backbone.layer1.parameters())
    assert all(parameter.requires_grad for parameter in model.backbone.layer2.parameters())
    assert not model.backbone.layer3.bn1.training
    assert model.backbone.layer3.training


@pytest.mark.parametrize("name", BACKBONES)
def test_stages_hold_every_parameter_once_in_the_order_of_the_network(name):
    backbone = BACKBONES[name]()
    stages = backbone.stages()
    assert len(stages) == STAGES[name] + 1
    held = [id(parameter) for stage in stages for module in stage for parameter in module.parameters()]
    assert held == [id(parameter) for parameter in backbone.parameters()]


@pytest.mark.parametrize("head", ["linear", "csra"])
def test_a_boosted_model_starts_as_the_plain_one_and_scores_otherwise(head):
    plain, boosted = (build_model(small(head=head, boostlu=alpha), 5, seed=3).eval() for alpha in (None, 5.0))
    assert list(plain.state_dict()) == list(boosted.state_dict())
    assert torch.equal(flat(plain), flat(boosted))
    assert boosted.head.alpha == 5.0
    images = torch.rand(2, 3, 40, 40)
    assert not torch.allclose(plain(images).logits, boosted(images).logits)


def test_seed_decides_the_start_and_nothing_else_does():
    torch.manual_seed(1)
    first = flat(build_model(small(), 5, seed=7))
    torch.manual_seed(2)
    assert torch.equal(flat(build_model(small(), 5, seed=7)), first)
    assert not torch.equal(flat(build_model(small(), 5, seed=8)), first)


def test_the_global_generator_is_left_alone():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    build_model(small(), 5, seed=7)
    assert torch.equal(torch.rand(3), expected)


def test_weights_replace_the_backbone_and_keep_the_seeded_head(tmp_path):
    torch.manual_seed(9)
    state = SceneNet().state_dict()
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    bare = build_model(small(), 5, seed=7)
    loaded = build_model(small(weights=str(tmp_path / "w.safetensors")), 5, seed=7)
    assert all(torch.equal(value, state[key]) for key, value in loaded.backbone.state_dict().items())
    assert torch.equal(loaded.head.fc.weight, bare.head.fc.weight)


def test_weights_stay_unread_when_a_checkpoint_will_replace_them():
    config = small(weights="absent.pth")
    build_model(config, 5, seed=0, pretrained=False)
    with pytest.raises(UserError, match=r"absent\.pth"):
        build_model(config, 5, seed=0)


def test_a_model_without_classes_is_refused():
    with pytest.raises(UserError, match="class"):
        build_model(small(), 0, seed=0)


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        small().model = "resnet18"
