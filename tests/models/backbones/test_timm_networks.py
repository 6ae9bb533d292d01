"""Backbones of timm, by a stand-in for the package: what is asked of it, and what is made of its features."""

import sys
from types import ModuleType

import pytest
import torch
from torch import nn

from models.backbones.build import build_backbone, load_weights, require_backbone, weights_name
from models.backbones.timm_networks import TimmFeatureExtractor
from models.build import Architecture, build_model
from utils.checks import UserError


class Convolutions(nn.Module):
    def __init__(self, output_fmt="NCHW"):
        super().__init__()
        self.default_cfg = {"input_size": (3, 32, 32)}
        self.stem = nn.Conv2d(3, 6, 4, stride=4)
        self.stages = nn.Sequential(nn.Conv2d(6, 8, 2, stride=2), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1))
        self.output_fmt = output_fmt

    def forward(self, images):
        features = self.stages(self.stem(images))
        return features.permute(0, 2, 3, 1) if self.output_fmt == "NHWC" else features


class Patches(nn.Module):
    num_prefix_tokens = 2

    def __init__(self):
        super().__init__()
        self.default_cfg = {"input_size": (3, 32, 32)}
        self.cls_token = nn.Parameter(torch.zeros(1, 2, 8))
        self.patch_embed = nn.Conv2d(3, 8, 8, stride=8)
        self.blocks = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))

    def forward(self, images):
        patches = self.patch_embed(images).flatten(2).transpose(1, 2)
        return self.blocks(torch.cat([self.cls_token.expand(len(images), -1, -1), patches], dim=1))


class Unpoolable(nn.Module):
    def __init__(self):
        super().__init__()
        raise AssertionError("cannot go\nwithout pooling")


class Silent(nn.Module):
    def __init__(self):
        super().__init__()
        raise NotImplementedError


class PatchesAlone(nn.Module):
    """Tokens of patches without a class token, and nothing said about one."""

    def __init__(self):
        super().__init__()
        self.default_cfg = {"input_size": (3, 32, 32)}
        self.patch_embed = nn.Conv2d(3, 8, 8, stride=8)

    def forward(self, images):
        return self.patch_embed(images).flatten(2).transpose(1, 2)


NETWORKS = {
    "small_stubborn": Unpoolable,
    "small_silent": Silent,
    "small_mixer": PatchesAlone,
    "small_conv": Convolutions,
    "small_swin": lambda: Convolutions("NHWC"),
    "small_vit": Patches,
}


@pytest.fixture
def timm(monkeypatch):
    """A package of three networks, which remembers what was asked of it."""
    module, asked = ModuleType("timm"), []

    def create_model(name, pretrained, num_classes, global_pool):
        asked.append((name, pretrained, num_classes, global_pool))
        network = NETWORKS[name.split(".")[0]]()
        if name.endswith("nowhere") and pretrained:
            raise OSError("no\nnetwork")
        if pretrained:
            for parameter in network.parameters():
                nn.init.constant_(parameter, 0.5)
        return network

    module.create_model, module.asked = create_model, asked
    module.is_model = lambda name: name.split(".")[0] in NETWORKS
    module.list_models = lambda: list(NETWORKS)
    monkeypatch.setitem(sys.modules, "timm", module)
    return module


def test_without_the_package_one_line_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)  # what an import of a missing package comes to
    for attempt in (lambda: Architecture.of(model="timm/resnet50"), lambda: build_backbone("timm/resnet50")):
        with pytest.raises(UserError, match=r"^--model timm/.*pip install 'timm>=1\.0\.20'[^\n]*$"):
            attempt()


def test_unknown_names_are_refused_naming_the_nearest(timm):
    with pytest.raises(UserError, match="did you mean timm/small_conv"):
        require_backbone("timm/smal_conv")
    require_backbone("timm/small_conv.tagged_in1k")
    with pytest.raises(
        UserError, match=r"^--model timm/xyzzy: timm has no network of that name; timm\.list_models\(\) "
    ):
        require_backbone("timm/xyzzy")


def test_a_network_that_cannot_be_a_backbone_is_one_line(timm):
    with pytest.raises(UserError, match=r"^--model timm/small_stubborn: [^\n]*cannot go without pooling[^\n]*$"):
        build_backbone("timm/small_stubborn")
    with pytest.raises(UserError, match=r"^--model timm/small_silent: [^\n]* \(NotImplementedError\)$"):
        build_backbone("timm/small_silent")


def test_the_trial_pass_that_tells_the_layout_builds_no_graph(timm, monkeypatch):
    seen, forward = [], Convolutions.forward
    monkeypatch.setattr(
        Convolutions,
        "forward",
        lambda network, images: seen.append(torch.is_grad_enabled()) or forward(network, images),
    )
    build_backbone("timm/small_conv")
    assert seen == [False]


@pytest.mark.parametrize("name", ["small_conv", "small_swin", "small_vit", "small_mixer"])
def test_features_become_maps_with_channels_first(timm, name):
    backbone = build_backbone(f"timm/{name}")
    assert timm.asked == [(name, False, 0, "")]
    assert (backbone.width, backbone.stride) == (8, 8)
    assert backbone.training
    images = torch.rand(2, 3, 32, 48)
    features = backbone(images)
    assert features.shape == (2, 8, 4, 6)
    network = backbone.network
    if name in ("small_vit", "small_mixer"):
        prefix = 2 if name == "small_vit" else 0
        expected = network(images)[:, prefix:].transpose(1, 2).reshape(2, 8, 4, 6)
    else:
        expected = network.stages(network.stem(images))
    torch.testing.assert_close(features, expected)


@pytest.mark.parametrize("name, stages", [("small_conv", 3), ("small_vit", 3)])
def test_stages_hold_every_parameter_once_in_the_order_of_the_network(timm, name, stages):
    backbone = build_backbone(f"timm/{name}")
    found = backbone.stages()
    assert len(found) == stages
    staged = [id(p) for s in found for m in s for p in ([m] if isinstance(m, nn.Parameter) else m.parameters())]
    assert staged == [id(parameter) for parameter in backbone.parameters()]


def test_default_weights_are_those_that_timm_fetches(timm):
    backbone = build_backbone("timm/small_conv")
    load_weights(backbone, "timm/small_conv", "default")
    assert timm.asked[-1] == ("small_conv", True, 0, "")
    assert all((parameter == 0.5).all() for parameter in backbone.parameters())
    assert "timm" in weights_name("timm/small_conv", "default")


def test_weights_that_cannot_be_fetched_are_one_line(timm):
    backbone = build_backbone("timm/small_conv.nowhere")
    with pytest.raises(UserError, match=r"^--model timm/small_conv\.nowhere: [^\n]*no network[^\n]*$"):
        load_weights(backbone, "timm/small_conv.nowhere", "default")


def test_a_file_of_timms_own_names_loads(timm, tmp_path):
    torch.manual_seed(1)
    state = Convolutions().state_dict()
    torch.save(state | {"head.fc.weight": torch.ones(3)}, tmp_path / "w.pth")
    backbone = TimmFeatureExtractor("small_conv")
    load_weights(backbone, "timm/small_conv", str(tmp_path / "w.pth"))
    for key, value in backbone.network.state_dict().items():
        assert torch.equal(value, state[key])


def test_a_whole_model_is_built_frozen_and_given_maps(timm):
    architecture = Architecture.of(model="timm/small_vit", head="csra", weights="none", frozen_stages=0)
    model = build_model(architecture, 5, seed=0)
    assert model(torch.rand(2, 3, 32, 32), frozenset({"cam"})).cam.shape == (2, 5, 4, 4)
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {f"backbone.network.{name}" for name in ("cls_token", "patch_embed.weight", "patch_embed.bias")}


@pytest.mark.parametrize(
    "name, size, width, stages",
    [
        ("resnet10t", 64, 512, 5),
        ("convnext_atto", 64, 320, 5),
        ("tresnet_m", 64, 2048, 5),
        ("swin_tiny_patch4_window7_224", 224, 768, 5),
        ("test_vit", 160, 64, 7),
        ("efficientvit_b0", 64, None, None),
    ],
)
def test_one_step_with_networks_of_the_package_itself(name, size, width, stages):
    pytest.importorskip("timm")
    if width is None:
        with pytest.raises(UserError, match=f"^--model timm/{name}: timm could not build it [^\n]*$"):
            build_backbone(f"timm/{name}")
        return
    torch.manual_seed(0)
    model = build_model(Architecture.of(model=f"timm/{name}", weights="none", frozen_stages=0), 5, seed=0)
    assert (model.feature_width, len(model.backbone.stages())) == (width, stages)
    model.check_size(name, size)
    found = model.train()(torch.rand(2, 3, size, size), frozenset({"cam"}))
    assert found.cam.shape[:2] == (2, 5)
    found.logits.square().sum().backward()
    learns = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert all(parameter.grad is not None for parameter in learns)
    assert len(learns) < len(list(model.parameters()))


def test_tokens_that_are_no_grid_are_refused(timm, monkeypatch):
    backbone = TimmFeatureExtractor("small_vit")
    monkeypatch.setattr(Patches, "num_prefix_tokens", 1)
    refusal = r"^--model timm/small_vit: its 17 tokens are no grid of patches; take another network$"
    with pytest.raises(UserError, match=refusal):
        backbone(torch.rand(1, 3, 32, 32))
    with pytest.raises(UserError, match=refusal):
        build_backbone("timm/small_vit")
    monkeypatch.setattr(Patches, "num_prefix_tokens", 7)
    with pytest.raises(UserError, match="its 1 tokens are no grid"):
        backbone(torch.rand(1, 3, 8, 48))


@pytest.mark.parametrize(("height", "width"), [(8, 48), (48, 8), (8, 8)])
def test_tokens_of_a_single_row_or_column_are_a_map(timm, height, width):
    backbone, images = TimmFeatureExtractor("small_mixer"), torch.rand(2, 3, height, width)
    torch.testing.assert_close(backbone(images), backbone.network.patch_embed(images))
