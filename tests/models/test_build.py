import dataclasses
from typing import get_args, get_type_hints

import numpy as np
import pytest
import safetensors.torch
import torch

from models.backbones.build import BACKBONES, SceneNet
from models.build import HEADS, INFORMED, TOLD, LabelInfo, ModelConfig, build_model, require_head
from models.heads.gcn import label_graph
from tests.losses.fake_model import random_labels
from utils.checks import UserError
from utils.types import LabelTable

FACTS = LabelInfo([f"class {label}" for label in range(7)], LabelTable(random_labels(40, 7)))


def small(**settings):
    return ModelConfig(**{"model": "scenenet", "weights": "none"} | settings)


def flat(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_choices_of_the_settings_are_the_keys_of_the_dictionaries():
    assert set(get_args(get_type_hints(ModelConfig)["head"])) == set(HEADS)
    assert set(HEADS) >= INFORMED | TOLD


PUBLISHED = {
    "model": "resnet101",
    "head": "linear",
    "num_heads": 1,
    "lam": 0.1,
    "boostlu": None,
    "neck_width": 256,
    "neck_dropout": 0.5,
    "hidden_dim": None,
    "dim_feedforward": None,
    "nheads": 4,
    "enc_layers": None,
    "dec_layers": 2,
    "dropout": 0.1,
    "keep_input_proj": False,
    "pre_norm": False,
    "keep_first_self_attn_dec": False,
    "keep_other_self_attn_dec": False,
    "pos_emb": False,
    "unknown_state": "zeros",
    "word_vectors": "random",
    "word_width": 300,
    "gcn_width": 1024,
    "gcn_threshold": 0.4,
    "gcn_p": 0.2,
    "frozen_stages": -1,
    "norm_eval": False,
    "norm_frozen": False,
    "weights": "default",
}


def test_defaults_are_those_of_the_papers():
    assert dataclasses.asdict(ModelConfig()) == PUBLISHED
    assert all(field.metadata["help"] for field in dataclasses.fields(ModelConfig))


@pytest.mark.parametrize(
    "settings, part",
    [
        ({"model": "resnet42"}, "did you mean resnet"),
        ({"head": "mlp"}, "csra"),
        ({"num_heads": 5}, "1, 2, 4, 6, 8"),
        ({"lam": -0.1}, "--lam"),
        ({"lam": float("nan")}, "--lam"),
        ({"boostlu": 0.0}, "--boostlu"),
        ({"boostlu": -5.0}, "--boostlu"),
        ({"boostlu": float("inf")}, "--boostlu"),
        ({"boostlu": float("nan")}, "--boostlu"),
        *(({"boostlu": 5.0, "head": head}, "--head linear or csra") for head in ("pfc", "q2l", "gcn", "ctran")),
        *(
            ({name: 0}, f"--{name} 0")
            for name in ("hidden_dim", "dim_feedforward", "nheads", "enc_layers", "dec_layers")
        ),
        ({"dropout": 1.0}, "--dropout"),
        ({"unknown_state": "ones"}, "--unknown_state"),
        ({"word_vectors": ""}, "--word_vectors"),
        ({"word_width": 0}, "--word_width"),
        ({"gcn_width": 0}, "--gcn_width"),
        ({"gcn_threshold": 0.0}, "--gcn_threshold"),
        ({"gcn_threshold": 1.1}, "--gcn_threshold"),
        ({"gcn_p": 1.0}, "--gcn_p"),
        ({"neck_width": 0}, "--neck_width"),
        ({"neck_dropout": 1.0}, "--neck_dropout"),
        ({"neck_dropout": -0.1}, "--neck_dropout"),
        ({"frozen_stages": -2}, "--frozen_stages"),
        ({"weights": ""}, "--weights"),
    ],
)
def test_wrong_settings_are_refused_at_birth_with_the_choices(settings, part):
    with pytest.raises(UserError, match=part):
        ModelConfig(**settings)


@pytest.mark.parametrize("model, stages", [("scenenet", 3), ("resnet18", 4), ("squeezenet1_1", 8)])
def test_more_stages_than_there_are_are_refused(model, stages):
    build_model(small(model=model, frozen_stages=stages), 5, seed=0)
    with pytest.raises(UserError, match=f"{model} has {stages}"):
        build_model(small(model=model, frozen_stages=stages + 1), 5, seed=0)


@pytest.mark.parametrize("head", HEADS)
def test_built_model_has_the_configured_parts(head):
    model = build_model(small(head=head, num_heads=2, lam=0.4), num_classes=7, seed=0, facts=FACTS)
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


def test_settings_of_query2label_reach_the_head():
    config = small(head="q2l", hidden_dim=24, dim_feedforward=10, nheads=3, enc_layers=2, dec_layers=3, dropout=0.3)
    head = build_model(config, 7, seed=0).head
    layers = head.transformer.encoder.layers
    assert (len(layers), len(head.transformer.decoder.layers)) == (2, 3)
    assert layers[0].linear1.weight.shape == (10, 24)
    assert (layers[0].self_attn.num_heads, layers[0].dropout.p) == (3, 0.3)
    assert head.input_proj.weight.shape == (24, 96, 1, 1)
    told = small(head="q2l", keep_first_self_attn_dec=True, pre_norm=True, keep_input_proj=True)
    head = build_model(told, 7, seed=0).head
    assert [layer.self_attention for layer in head.transformer.decoder.layers] == [True, False]
    assert all(layer.pre_norm for layer in head.transformer.decoder.layers)
    assert head.input_proj.weight.shape == (96, 96, 1, 1)
    other = build_model(small(head="q2l", keep_other_self_attn_dec=True), 7, seed=0).head
    assert [layer.self_attention for layer in other.transformer.decoder.layers] == [False, True]


def test_settings_of_ctran_reach_the_head():
    config = small(head="ctran", hidden_dim=24, dim_feedforward=10, nheads=3, enc_layers=2, dropout=0.3, pos_emb=True)
    head = build_model(config, 7, seed=0).head
    assert (len(head.layers), head.layers[0].linear1.weight.shape) == (2, (10, 24))
    assert (head.layers[0].self_attn.num_heads, head.layers[0].dropout.p, head.positions) == (3, 0.3, True)
    assert len(build_model(small(head="ctran"), 7, seed=0).head.layers) == 3
    assert not build_model(small(head="ctran"), 7, seed=0).head.known_label_lt.weight[0].any()
    assert build_model(small(head="ctran", unknown_state="random"), 7, seed=0).head.known_label_lt.weight[0].all()


def test_facts_of_the_labels_become_buffers_that_a_checkpoint_brings_back(tmp_path):
    vectors = np.random.default_rng(0).random((7, 12)).astype(np.float32)
    np.save(tmp_path / "vectors.npy", vectors)
    config = small(
        head="gcn", word_vectors=str(tmp_path / "vectors.npy"), word_width=12, gcn_width=9, gcn_threshold=0.2, gcn_p=0.5
    )
    model = build_model(config, 7, seed=0, facts=FACTS)
    np.testing.assert_array_equal(model.head.graph.vectors.numpy(), vectors)
    assert torch.equal(model.head.graph.adjacency, label_graph(FACTS.observed, 0.2, 0.5))
    assert model.head.gc1.weight.shape == (12, 9)
    (tmp_path / "vectors.npy").unlink()
    again = build_model(config, 7, seed=1, pretrained=False)
    again.load_state_dict(model.state_dict())
    images = torch.rand(2, 3, 40, 40)
    assert torch.equal(again.eval()(images).logits, model.eval()(images).logits)


def test_random_vectors_follow_the_seed_and_one_hot_ones_need_no_width():
    one, same, other = (build_model(small(head="gcn"), 7, seed=s, facts=FACTS).head.graph.vectors for s in (3, 3, 4))
    assert one.shape == (7, 300)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    config = small(head="gcn", word_vectors="one-hot")
    assert torch.equal(build_model(config, 7, seed=0, facts=FACTS).head.graph.vectors, torch.eye(7))
    assert build_model(config, 7, seed=0, pretrained=False).head.gc1.weight.shape[0] == 7


def test_a_head_that_needs_facts_does_not_start_without():
    with pytest.raises(ValueError, match="facts"):
        build_model(small(head="gcn"), 7, seed=0)


@pytest.mark.parametrize("head", HEADS)
def test_heads_that_take_no_labels_are_refused_where_labels_are_told(head):
    require_head(small(head=head), frozenset({"cam", "peers"}), "cones")
    if head in TOLD:
        require_head(small(head=head), frozenset({"labels"}), "label_mask")
        return
    with pytest.raises(UserError, match=f"^--head {head}: label_mask [^\n]* ctran[^\n]*$"):
        require_head(small(head=head), frozenset({"labels"}), "label_mask")


@pytest.mark.parametrize("name", ["resnet18", "scenenet"])
def test_stages_hold_every_parameter_once_in_the_order_of_the_network(name):
    backbone = BACKBONES[name]()
    stages = backbone.stages()
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
