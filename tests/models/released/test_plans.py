"""Released files by the names and sizes of their tensors, without any network: what they are, and what follows."""

from pathlib import Path

import pytest
import torch

from models.released import read_released
from models.released.contents import Contents, HeadOverrides, unpack
from models.released.resnets import (
    is_bce,
    is_boostlu,
    is_cones,
    is_csra,
    is_distribution_balanced,
    is_ignore,
    is_large_loss,
    is_ndlp,
    is_single_positive,
    plan_boostlu,
    plan_csra,
    plan_ignore,
    plan_linear_classifier,
    plan_neck,
    resnet_name,
)
from models.released.transformers import is_query2label, is_vit_csra, plan_query2label, plan_vit_csra
from utils.checks import UserError

FILE = Path("file.pth")
NONE = HeadOverrides()
DEPTHS = {
    "resnet18": (False, (2, 2, 2, 2)),
    "resnet34": (False, (3, 4, 6, 3)),
    "resnet50": (True, (3, 4, 6, 3)),
    "resnet101": (True, (3, 4, 23, 3)),
    "resnet152": (True, (3, 8, 36, 3)),
}


def contents(*names, form="bare", metadata=None, **shapes):
    """A file of tensors of one number each, but for those whose shape is given; `__` stands for a dot."""
    state = {name: torch.zeros(1) for name in names}
    state |= {name.replace("__", "."): torch.zeros(shape) for name, shape in shapes.items()}
    return Contents(FILE, state, metadata or {}, form)


def stages(name="resnet50", prefix="", numbers=("layer1", "layer2", "layer3", "layer4")):
    """Names of the blocks of a ResNet."""
    bottleneck, blocks = DEPTHS[name]
    return [
        f"{prefix}{stage}.{block}.conv{3 if bottleneck else 2}.weight"
        for stage, count in zip(numbers, blocks, strict=True)
        for block in range(count)
    ]


SEQUENCE = stages(prefix="feature_extractor.", numbers="4567")


@pytest.mark.parametrize("name", DEPTHS)
def test_a_resnet_is_told_by_its_blocks(name):
    assert resnet_name(contents(*stages(name))) == name
    assert resnet_name(contents(*stages(name, "backbone.")), "backbone.") == name
    with pytest.raises(UserError, match=r"its stages have \d+, \d+, \d+, \d+ blocks, which no ResNet"):
        resnet_name(contents(*stages(name), "layer1.77.conv1.weight"))


@pytest.mark.parametrize(
    ("recognised", "names", "form", "metadata"),
    [
        (is_cones, ["fc_all.weight", "contrastive_class_selector_0.weight"], "bare", {}),
        (is_bce, ["fc_all.weight"], "bare", {}),
        (is_csra, ["classifier.multi_head.0.head.weight", "conv1.weight"], "bare", {}),
        (is_vit_csra, ["classifier.multi_head.0.head.weight", "patch_embed.proj.weight"], "bare", {}),
        (is_large_loss, ["linear_classifier.weight"], "tuple", {}),
        (is_single_positive, ["linear_classifier.weight"], "bare", {}),
        (is_single_positive, ["linear_classifier.weight"], "dict", {}),
        (is_boostlu, ["onebyone_conv.weight", "feature_extractor.0.weight"], "tuple", {"alpha": 5}),
        (is_boostlu, ["onebyone_conv.weight", "feature_extractor.0.weight"], "bare", {}),
        (is_ignore, ["onebyone_conv.weight", "feature_extractor.0.weight"], "tuple", {}),
        (is_distribution_balanced, ["neck.fc.weight", "head.fc_cls.weight"], "dict", {}),
        (is_ndlp, ["neck.fc.weight", "head.fc_cls.weight"], "bare", {}),
        (is_query2label, ["transformer.decoder.norm.weight", "query_embed.weight"], "bare", {}),
    ],
)
def test_a_family_is_told_by_all_of_its_names(recognised, names, form, metadata):
    assert recognised(contents(*names, form=form, metadata=metadata)) is True
    for gone in names:
        rest = [name for name in names if name != gone]
        assert recognised(contents("other.weight", *rest, form=form, metadata=metadata)) is False


def test_forms_tell_families_of_equal_names_apart():
    linear, convolved = ["linear_classifier.weight"], ["onebyone_conv.weight", "feature_extractor.0.weight"]
    assert not is_large_loss(contents(*linear, form="dict"))
    assert not is_single_positive(contents(*linear, form="tuple"))
    assert not is_boostlu(contents(*convolved, form="tuple"))
    neck = ["neck.fc.weight", "head.fc_cls.weight"]
    assert not is_distribution_balanced(contents(*neck, form="bare"))


def csra(**more):
    names = [f"classifier.multi_head.{head}.head.weight" for head in range(4)]
    return contents(*stages(), *names, classifier__multi_head__0__head__weight=(7, 5, 1, 1), **more)


def test_heads_of_csra_are_counted_and_lam_is_given_or_assumed():
    plan = plan_csra(csra(), NONE)
    assert plan.settings == {"model": "resnet50", "head": "csra", "num_heads": 4}
    assert plan.num_classes == 7
    assert [note.split(";")[0] for note in plan.notes] == ["lam is not in the file: 0.1, the published default"]
    given = plan_csra(csra(), HeadOverrides(lam=0.0, num_heads=4))
    assert (given.settings["lam"], given.notes) == (0.0, ())
    with pytest.raises(UserError, match=r"--num_heads 2: file\.pth has 4; leave the flag out"):
        plan_csra(csra(), HeadOverrides(num_heads=2))
    assert plan.rename("classifier.multi_head.3.head.weight") == "head.weights.3"
    assert plan.rename("classifier.multi_head.3.head.bias") is None
    assert plan.rename("layer1.0.conv1.weight") == "backbone.layer1.0.conv1.weight"
    assert plan.rename("fc.weight") is None


@pytest.mark.parametrize(
    ("alpha", "given", "expected"), [(5, None, 5.0), (5, 2.0, 2.0), (None, 1.5, 1.5), (0.5, None, 0.5), ("5", 3.0, 3.0)]
)
def test_the_boost_is_that_of_the_file_unless_one_is_given(alpha, given, expected):
    file = contents(*SEQUENCE, onebyone_conv__weight=(6, 4, 1, 1), metadata={"alpha": alpha} if alpha else {})
    plan = plan_boostlu(file, HeadOverrides(boostlu=given))
    assert plan.settings == {"model": "resnet50", "head": "linear", "boostlu": expected}
    assert plan.num_classes == 6
    weights = {"head.fc.weight": torch.zeros(6, 4, 1, 1), "other": torch.zeros(2)}
    assert {name: value.shape for name, value in plan.adjust(weights).items()} == {
        "head.fc.weight": (6, 4),
        "other": (2,),
    }
    wider = {"head.fc.weight": torch.zeros(6, 4, 3, 1)}
    assert plan.adjust(wider)["head.fc.weight"].shape == (6, 4, 3, 1)
    assert plan.adjust({}) == {}


@pytest.mark.parametrize("alpha", [None, "5", [5]])
def test_a_boost_that_is_not_known_is_asked_for(alpha):
    file = contents(*SEQUENCE, onebyone_conv__weight=(6, 4, 1, 1), metadata={"alpha": alpha})
    with pytest.raises(UserError, match="does not say whether scores are boosted; give --boostlu 5"):
        plan_boostlu(file, NONE)


def test_ignore_is_not_boosted_unless_it_is_said():
    file = contents(*SEQUENCE, onebyone_conv__weight=(6, 4, 1, 1))
    assert plan_ignore(file, NONE).settings == {"model": "resnet50", "head": "linear"}
    assert plan_ignore(file, HeadOverrides(boostlu=1.0)).settings["boostlu"] == 1.0


@pytest.mark.parametrize("layer", ["linear_classifier.", "linear_classifier.fc."])
def test_a_linear_classifier_may_be_nested(layer):
    file = contents(*SEQUENCE, **{f"{layer}weight".replace(".", "__"): (3, 8)})
    plan = plan_linear_classifier(file, NONE)
    assert (plan.settings, plan.num_classes) == ({"model": "resnet50", "head": "linear"}, 3)
    renamed = {f"{layer}bias": "head.fc.bias", "feature_extractor.0.weight": "backbone.conv1.weight"}
    renamed |= {"feature_extractor.1.bias": "backbone.bn1.bias", "feature_extractor.7.0.x": "backbone.layer4.0.x"}
    assert {name: plan.rename(name) for name in renamed} == renamed
    with pytest.raises(UserError, match="without the network that made them"):
        plan_linear_classifier(contents(**{f"{layer}weight".replace(".", "__"): (3, 8)}), NONE)


@pytest.mark.parametrize(
    ("meta", "names"),
    [
        ({"CLASSES": ["a", "b"]}, ("a", "b")),
        ({"CLASSES": ("a", "b")}, ("a", "b")),
        *(({"CLASSES": wrong}, ()) for wrong in (["a", 5], [5, "a"], [], "ab", None, {"a": 1})),
        ({}, ()),
        (None, ()),
        (["CLASSES"], ()),
    ],
)
def test_names_of_classes_are_texts_all_of_them(meta, names):
    file = contents(
        *stages(prefix="backbone."),
        neck__fc__weight=(11, 5),
        head__fc_cls__weight=(2, 11),
        metadata={"meta": meta},
        form="dict",
    )
    plan = plan_neck(file, NONE)
    assert plan.names == names
    assert (plan.settings, plan.num_classes) == ({"model": "resnet50", "head": "pfc", "neck_width": 11}, 2)
    assert [plan.rename(f"neck.{part}.weight") for part in ("fc_hidden_1", "fc", "bn")] == [
        "",
        "head.fc.weight",
        "head.bn.weight",
    ]


@pytest.mark.parametrize(
    ("width", "patch", "layers", "name"),
    [(768, 16, 12, "vit_b_16"), (768, 32, 12, "vit_b_32"), (1024, 16, 24, "vit_l_16"), (1024, 32, 24, "vit_l_32")],
)
def test_a_vit_is_told_by_width_patch_and_layers(width, patch, layers, name):
    def file(count, positions=1 + 3 * 3):
        return contents(
            *(f"blocks.{number}.norm1.weight" for number in range(count)),
            classifier__multi_head__0__head__weight=(7, 5, 1, 1),
            patch_embed__proj__weight=(width, 3, patch, patch),
            pos_embed=(1, positions, 4),
        )

    plan = plan_vit_csra(file(layers), NONE)
    assert plan.settings == {"model": name, "head": "csra", "num_heads": 1}
    assert (plan.img_size, plan.num_classes) == (3 * patch, 7)
    assert [plan_vit_csra(file(layers, n), NONE).img_size for n in (0, 1, 5)] == [patch, patch, 2 * patch]
    with pytest.raises(UserError, match=f"a ViT of width {width}, patches of {patch} pixels and {layers + 1} layers"):
        plan_vit_csra(file(layers + 1), NONE)
    renamed = {
        "blocks.11.attn.qkv.bias": "backbone.encoder.layers.encoder_layer_11.self_attention.in_proj_bias",
        "blocks.0.mlp.fc2.weight": "backbone.encoder.layers.encoder_layer_0.mlp.3.weight",
        "cls_token": "backbone.class_token",
        "norm.weight": "backbone.encoder.ln.weight",
        "classifier.multi_head.0.head.weight": "head.weights.0",
        "blocks.0.other.weight": None,
        "fc.weight": None,
    }
    assert {name: plan.rename(name) for name in renamed} == renamed


def query2label(*more, metadata=None, **shapes):
    body = "backbone.0.body."
    return contents(
        *stages("resnet101", body),
        f"{body}conv1.weight",
        "transformer.encoder.layers.0.norm1.weight",
        *(f"transformer.decoder.layers.{layer}.norm1.weight" for layer in range(2)),
        *more,
        query_embed__weight=(9, 16),
        transformer__decoder__layers__0__linear1__weight=(33, 16),
        metadata=metadata,
        **shapes,
    )


def test_settings_of_query2label_are_those_of_its_tensors():
    plain = {"head": "q2l", "hidden_dim": 16, "dim_feedforward": 33, "nheads": 4, "enc_layers": 1, "dec_layers": 2}
    plain |= {"keep_input_proj": False, "pre_norm": False, "model": "resnet101"}
    plain |= {"keep_first_self_attn_dec": False, "keep_other_self_attn_dec": False}
    plan = plan_query2label(query2label(), NONE)
    assert (plan.settings, plan.num_classes, plan.img_size) == (plain, 9, None)
    more = {
        "input_proj.weight": "keep_input_proj",
        "transformer.encoder.norm.weight": "pre_norm",
        "transformer.decoder.layers.0.self_attn.in_proj_weight": "keep_first_self_attn_dec",
        "transformer.decoder.layers.1.self_attn.in_proj_weight": "keep_other_self_attn_dec",
    }
    for tensor, setting in more.items():
        assert plan_query2label(query2label(tensor), NONE).settings == {**plain, setting: True}
    sized = query2label(**{"backbone.1.pe": (1, 16, 14, 14)})
    assert plan_query2label(sized, NONE).img_size == 448
    assert plan_query2label(sized, NONE).rename("backbone.1.pe") == ""
    assert plan.rename("fc.W") == "head.fc.W"


@pytest.mark.parametrize(
    ("saved", "given", "heads", "assumed"),
    [(8, None, 8, 0), (8, 2, 2, 0), (None, 2, 2, 0), (None, None, 4, 1), ("8", None, 4, 1), (True, None, 4, 1)],
)
def test_attention_heads_are_given_or_saved_or_assumed(saved, given, heads, assumed):
    plan = plan_query2label(query2label(metadata={"nheads": saved}), HeadOverrides(nheads=given))
    assert (plan.settings["nheads"], len(plan.notes)) == (heads, assumed)


def test_a_network_that_cannot_be_is_refused_with_the_name_of_the_file():
    """Heads that CSRA never has: the settings of the network refuse them."""
    names = [f"classifier.multi_head.{head}.head.weight" for head in range(3)]
    state = contents(*stages(), "conv1.weight", *names).state
    with pytest.raises(UserError, match=r"^file\.pth: --num_heads 3: choose from 1, 2, 4, 6, 8"):
        read_released(state, FILE)


@pytest.mark.parametrize(("names", "said"), [("ab", "a, b"), ("abc", "a, b, c"), ("abcd", r"a, b, c, \.\.\.")])
def test_what_is_of_no_family_is_refused_with_its_first_names(names, said):
    with pytest.raises(UserError, match=rf"^file\.pth: a checkpoint of no kind that is read here \(it has {said}\)"):
        read_released(contents(*names).state, FILE)


def test_sizes_are_those_along_an_axis_that_is_there():
    file = contents(a__weight=(3, 5), number=())
    assert (file.size("a.weight"), file.size("a.weight", 1)) == (3, 5)
    for key, axis, shape in (("a.weight", 2, r"\(3, 5\)"), ("number", 0, r"\(\)")):
        with pytest.raises(UserError, match=rf"^file\.pth: {key} has the shape {shape}, which does not fit$"):
            file.size(key, axis)
    with pytest.raises(UserError, match=r"^file\.pth: has no b, which such a checkpoint has"):
        file.size("b")


def test_a_name_that_is_there_with_and_without_its_wrapper_is_refused():
    state = {"fc_all.weight": torch.ones(3, 2), "module.fc_all.weight": torch.zeros(3, 2)}
    with pytest.raises(UserError, match=r"^file\.pth: has a name with and without module\.; fetch the file again$"):
        unpack(state, FILE)
