import dataclasses

import numpy as np
import pytest
import safetensors.torch
import torch

from models.backbones.build import BACKBONES, SceneNet
from models.build import (
    Architecture,
    ModelConfig,
    SettingError,
    _values_of,
    architecture_from,
    build_model,
    require_head,
)
from models.heads import HEADS
from models.heads.base import LabelInfo
from models.heads.csra import CSRAConfig
from models.heads.ctran import CTranConfig
from models.heads.gcn import label_graph
from models.heads.linear import LinearConfig
from models.heads.query2label import Query2LabelConfig
from tests.losses.fake_model import random_labels
from utils.checks import UserError
from utils.options import option
from utils.types import LabelTable

LABEL_INFO = LabelInfo([f"class {label}" for label in range(7)], LabelTable(random_labels(40, 7)))


def small(**settings):
    return Architecture.of(**{"model": "scenenet", "weights": "none"} | settings)


def flat(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


MODEL = {
    "model": "resnet101",
    "head": "linear",
    "frozen_stages": -1,
    "norm_eval": False,
    "norm_frozen": False,
    "weights": "default",
    "checkpoint_weights": None,
    "head_rows": True,
}
TRANSFORMER = {"hidden_dim": None, "dim_feedforward": None, "nheads": 4, "dropout": 0.1}
SALIENCY = {"saliency": 0.0, "saliency_k": 5, "saliency_test": True}
PUBLISHED = {
    "linear": {"pool": "mean", "boostlu": None, **SALIENCY},
    "csra": {"num_heads": 1, "lam": 0.1, "boostlu": None, **SALIENCY},
    "pfc": {"neck_width": 256, "neck_dropout": 0.5},
    "q2l": {
        **TRANSFORMER,
        "enc_layers": 1,
        "dec_layers": 2,
        "keep_input_proj": False,
        "pre_norm": False,
        "bottleneck": 0,
        "keep_first_self_attn_dec": False,
        "keep_other_self_attn_dec": False,
    },
    "gcn": {"word_vectors": "random", "word_width": 300, "gcn_width": 1024, "gcn_threshold": 0.4, "gcn_p": 0.2},
    "ctran": {**TRANSFORMER, "enc_layers": 3, "pos_emb": False, "unknown_state": "zeros"},
}
OF_EARLIER_CHECKPOINTS = {
    name: value for config in (*PUBLISHED.values(), MODEL, {"enc_layers": None}) for name, value in config.items()
}
"""Checkpoints once had the settings of all heads, unset where a head had a default of its own."""


def test_defaults_are_those_of_the_papers():
    assert dataclasses.asdict(ModelConfig()) == MODEL
    assert {name: dataclasses.asdict(kind.config()) for name, kind in HEADS.items()} == PUBLISHED
    assert all(field.metadata["help"] for field in dataclasses.fields(ModelConfig))


def test_the_choices_of_a_head_are_the_registry():
    (head,) = (field for field in dataclasses.fields(ModelConfig) if field.name == "head")
    assert head.metadata["choices"] == tuple(HEADS)
    assert all(f"{name}: {kind.title}" in head.metadata["help"] for name, kind in HEADS.items())


@pytest.mark.parametrize(
    "settings, part",
    [
        ({"model": "resnet42"}, "did you mean resnet"),
        ({"head": "mlp"}, "csra"),
        ({"frozen_stages": -2}, "--frozen_stages"),
        ({"weights": ""}, "--weights"),
        ({"head": "csra", "num_heads": 5}, "1, 2, 4, 6, 8"),
    ],
)
def test_wrong_settings_are_refused_at_birth_with_the_choices(settings, part):
    with pytest.raises(UserError, match=part):
        Architecture.of(**settings)


@pytest.mark.parametrize("settings", [{"boostlu": 5.0, "head": "q2l"}, {"lam": 0.1}, {"depth": 3}])
def test_typed_settings_of_another_head_are_a_mistake_of_the_caller(settings):
    with pytest.raises(TypeError, match=r"boostlu|lam|depth"):
        Architecture.of(**settings)


@pytest.mark.parametrize("head, settings", PUBLISHED.items())
def test_settings_of_earlier_checkpoints_give_the_architecture_of_today(head, settings):
    found = architecture_from({**OF_EARLIER_CHECKPOINTS, "head": head, "seed": 3, "dataset": "voc07"})
    assert found == Architecture(ModelConfig(head=head), HEADS[head].config(**settings))
    texts = {name: "" if value is None else str(value) for name, value in OF_EARLIER_CHECKPOINTS.items()}
    assert architecture_from({**texts, "head": head}) == found


def test_values_and_their_texts_give_the_same_architecture():
    values = {"model": "scenenet", "head": "csra", "num_heads": 4, "lam": 0.3, "boostlu": 5.0, "norm_eval": True}
    found = architecture_from(values)
    assert found == Architecture.of(**values)
    assert architecture_from({name: str(value) for name, value in values.items()}) == found
    assert found.head == CSRAConfig(num_heads=4, lam=0.3, boostlu=5.0)


def test_settings_that_are_not_there_have_their_defaults():
    assert architecture_from({}) == Architecture(ModelConfig(), LinearConfig())
    assert architecture_from({"head": "q2l", "nheads": None}).head == Query2LabelConfig()
    assert architecture_from({"head": "ctran", "enc_layers": ""}).head == CTranConfig()


@pytest.mark.parametrize(
    "settings, complaint",
    [
        ({"head": "csra", "lam": "x"}, "setting lam 'x': must be a number"),
        ({"head": "mlp"}, "setting head 'mlp': must be one of linear, "),
        ({"norm_eval": 3}, "setting norm_eval '3': must be True or False"),
        ({"head": "q2l", "nheads": [4]}, "setting nheads '[4]': must be a whole number"),
        ({"head": "ctran", "unknown_state": "ones"}, "setting unknown_state 'ones': must be one of zeros, random"),
    ],
)
def test_values_of_another_kind_are_refused_in_one_line(settings, complaint):
    with pytest.raises(SettingError) as caught:
        architecture_from(settings)
    assert str(caught.value).startswith(complaint)
    assert "\n" not in str(caught.value)


def test_values_out_of_range_are_refused_by_their_head_alone():
    with pytest.raises(UserError, match=r"^--lam -1.0: "):
        architecture_from({"head": "csra", "lam": -1.0})
    assert architecture_from({"head": "linear", "lam": -1.0, "num_heads": "x"}).head == LinearConfig()


@pytest.mark.parametrize("model, stages", [("scenenet", 3), ("resnet18", 4), ("squeezenet1_1", 8)])
def test_more_stages_than_there_are_are_refused(model, stages):
    build_model(small(model=model, frozen_stages=stages), 5, seed=0)
    with pytest.raises(UserError, match=f"{model} has {stages}"):
        build_model(small(model=model, frozen_stages=stages + 1), 5, seed=0)


@pytest.mark.parametrize("head", HEADS)
def test_built_model_has_the_configured_parts(head):
    model = build_model(small(head=head), num_classes=7, seed=0, label_info=LABEL_INFO)
    assert model(torch.rand(2, 3, 40, 40)).logits.shape == (2, 7)
    assert model.feature_width == 96
    assert type(model.head) is type(HEADS[head].build(96, 7, HEADS[head].config(), LABEL_INFO))


def test_settings_of_the_head_and_of_frozen_stages_reach_the_model():
    model = build_model(small(head="pfc", neck_width=11, frozen_stages=1, norm_eval=True), 5, seed=0)
    assert model.head.fc.out_features == 11
    assert not any(parameter.requires_grad for parameter in model.backbone.layer1.parameters())
    assert all(parameter.requires_grad for parameter in model.backbone.layer2.parameters())
    assert not model.backbone.layer3.bn1.training
    assert model.backbone.layer3.training


def test_label_info_becomes_buffers_that_a_checkpoint_brings_back(tmp_path):
    vectors = np.random.default_rng(0).random((7, 12)).astype(np.float32)
    np.save(tmp_path / "vectors.npy", vectors)
    config = small(
        head="gcn", word_vectors=str(tmp_path / "vectors.npy"), word_width=12, gcn_width=9, gcn_threshold=0.2, gcn_p=0.5
    )
    model = build_model(config, 7, seed=0, label_info=LABEL_INFO)
    np.testing.assert_array_equal(model.head.graph.vectors.numpy(), vectors)
    assert torch.equal(model.head.graph.adjacency, label_graph(LABEL_INFO.observed, 0.2, 0.5))
    assert model.head.gc1.weight.shape == (12, 9)
    (tmp_path / "vectors.npy").unlink()
    again = build_model(config, 7, seed=1, pretrained=False)
    again.load_state_dict(model.state_dict())
    images = torch.rand(2, 3, 40, 40)
    assert torch.equal(again.eval()(images).logits, model.eval()(images).logits)


def test_random_vectors_follow_the_seed_and_one_hot_ones_need_no_width():
    models = (build_model(small(head="gcn"), 7, seed=seed, label_info=LABEL_INFO) for seed in (3, 3, 4))
    one, same, other = (model.head.graph.vectors for model in models)
    assert one.shape == (7, 300)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    config = small(head="gcn", word_vectors="one-hot")
    assert torch.equal(build_model(config, 7, seed=0, label_info=LABEL_INFO).head.graph.vectors, torch.eye(7))
    assert build_model(config, 7, seed=0, pretrained=False).head.gc1.weight.shape[0] == 7


def test_a_head_that_needs_label_info_does_not_start_without():
    with pytest.raises(ValueError, match="label info"):
        build_model(small(head="gcn"), 7, seed=0)


@pytest.mark.parametrize("head", HEADS)
def test_heads_that_take_no_labels_are_refused_where_labels_are_given(head):
    require_head(small(head=head), frozenset({"cam", "peers"}), "cones")
    if HEADS[head].takes_labels:
        require_head(small(head=head), frozenset({"labels"}), "label_mask")
        return
    with pytest.raises(UserError, match=f"^--head {head}: label_mask [^\n]* ctran[^\n]*$"):
        require_head(small(head=head), frozenset({"labels"}), "label_mask")


@pytest.mark.parametrize("name", ["resnet18", "scenenet"])
def test_stages_have_every_parameter_once_in_the_order_of_the_network(name):
    backbone = BACKBONES[name]()
    stages = backbone.stages()
    found = [id(parameter) for stage in stages for module in stage for parameter in module.parameters()]
    assert found == [id(parameter) for parameter in backbone.parameters()]


@pytest.mark.parametrize("head", ["linear", "csra"])
def test_a_boosted_model_starts_as_the_plain_one_and_scores_otherwise(head):
    plain, boosted = (build_model(small(head=head, boostlu=alpha), 5, seed=3).eval() for alpha in (None, 5.0))
    assert list(plain.state_dict()) == list(boosted.state_dict())
    assert torch.equal(flat(plain), flat(boosted))
    assert boosted.head.alpha == 5.0
    images = torch.rand(2, 3, 40, 40)
    assert not torch.allclose(plain(images).logits, boosted(images).logits)


@pytest.mark.parametrize("head", ["linear", "csra"])
def test_a_model_with_saliency_starts_as_the_plain_one_and_scores_otherwise(head):
    models = [build_model(small(head=head, **more), 5, seed=3).eval() for more in ({}, {"saliency": 0.5})]
    plain, salient = models
    assert list(plain.state_dict()) == list(salient.state_dict())
    assert torch.equal(flat(plain), flat(salient))
    images = torch.rand(2, 3, 40, 40)
    assert not torch.allclose(plain(images).logits, salient(images).logits)
    assert plain.reads_pooled() == (head == "linear")
    assert not salient.reads_pooled()
    mean = {"lam": 0.0} if head == "csra" else {}  # which without saliency is all that counts
    unscored = build_model(small(head=head, saliency=0.5, saliency_test=False, **mean), 5, seed=3)
    assert not unscored.reads_pooled()


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


def test_a_model_has_at_least_one_class():
    assert build_model(small(), 1, seed=0).head.fc.out_features == 1
    with pytest.raises(UserError, match=r"^a model needs at least one class, got 0$"):
        build_model(small(), 0, seed=0)


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        small().model.model = "resnet18"


def test_a_setting_that_is_unset_in_a_file_is_unset_and_one_that_is_not_there_has_its_default():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Config:
        width: int | None = option(5, "a width")
        name: str = option("a", "a name")

    assert _values_of(Config, {}) == {}
    assert _values_of(Config, {"width": None, "name": None}) == {"width": None}
    assert _values_of(Config, {"width": 7, "name": "b"}) == {"width": 7, "name": "b"}
    with pytest.raises(UserError, match="setting width 'x': must be a whole number"):
        _values_of(Config, {"width": "x"})
