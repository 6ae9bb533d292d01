"""Networks of torchvision as backbones: their features and gradients, and that no tensor is lost."""

import functools
from contextlib import contextmanager

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from models.backbones.build import BACKBONES, build_backbone
from models.backbones.feature_extractors import (
    CLASSIFYING,
    Backbone,
    CentredFeatureExtractor,
    FeatureExtractor,
    VisionTransformer,
    map_shape,
    resized_positions,
)

QUICK = {
    "alexnet": 96,
    "googlenet": 64,
    "mnasnet0_5": 64,
    "mobilenet_v3_small": 64,
    "regnet_y_400mf": 64,
    "resnet18": 40,
    "shufflenet_v2_x0_5": 64,
    "squeezenet1_1": 64,
}
LARGER = {
    "convnext_tiny": 64,
    "densenet121": 64,
    "efficientnet_b0": 40,
    "inception_v3": 107,
    "maxvit_t": 224,
    "mobilenet_v2": 40,
    "resnext50_32x4d": 40,
    "swin_t": 48,
    "swin_v2_t": 48,
    "vgg11": 64,
    "vit_b_32": 64,
    "wide_resnet50_2": 40,
}
"""The smallest network of each family, with a size of image that it takes and that is quickly computed."""


def slow(values):
    return [pytest.param(*value, marks=pytest.mark.slow) for value in values]


@contextmanager
def without_values():
    """A block in which networks are built on the meta device, whatever their size."""
    with pytest.MonkeyPatch.context() as patch:
        # RegNet reads the numbers that it computes its layout of.
        patch.setattr(torchvision.models.regnet, "torch", CPUNumbers())
        with torch.device("meta"):
            yield


class CPUNumbers:
    """torch, for a module whose own numbers are to have values."""

    arange, tensor = functools.partial(torch.arange, device="cpu"), functools.partial(torch.tensor, device="cpu")

    def __getattr__(self, name):
        return getattr(torch, name)


@functools.cache
def meta_backbone(name):
    with without_values():
        return BACKBONES[name]()


@pytest.fixture(autouse=True)
def quickly_started(monkeypatch):
    """Random numbers that cost little: initial values play no part here."""
    for start in ("normal_", "trunc_normal_", "kaiming_normal_", "xavier_uniform_"):
        monkeypatch.setattr(nn.init, start, lambda tensor, *args, **kwargs: tensor.data.uniform_(-0.05, 0.05))


def whole(name):
    arguments = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return torchvision.models.get_model(name, weights=None, **arguments)


def check_layout(name):
    backbone = meta_backbone(name)
    width, height, map_width = map_shape(backbone, 224, 224)
    assert width == backbone.width
    assert abs(224 / backbone.stride - height) <= 2
    assert height == map_width
    stages = backbone.stages()
    assert len(stages) >= 4
    found = [
        id(parameter)
        for stage in stages
        for part in stage
        for parameter in ([part] if isinstance(part, nn.Parameter) else part.parameters())
    ]
    assert found == [id(parameter) for parameter in backbone.parameters()]


@pytest.mark.parametrize("name", [*QUICK, "vit_b_16", *slow([name] for name in sorted(set(BACKBONES) - set(QUICK)))])
def test_width_stride_and_stages_of_every_network(name):
    check_layout(name)


@pytest.mark.parametrize(
    "name, width, stride",
    [
        ("vit_b_16", 768, 16),
        ("vit_l_16", 1024, 16),
        ("vit_h_14", 1280, 14),
        ("resnet101", 2048, 32),
        ("alexnet", 256, 32),
        ("squeezenet1_1", 512, 16),
        ("mobilenet_v3_small", 576, 32),
        ("scenenet", 96, 8),
    ],
)
def test_published_widths(name, width, stride):
    assert (meta_backbone(name).width, meta_backbone(name).stride) == (width, stride)


def one_step(backbone, size):
    """A backward pass from two images, after which every parameter has a gradient."""
    torch.manual_seed(0)
    features = backbone.train()(torch.rand(2, 3, size, size))
    assert features.shape[:2] == (2, backbone.width)
    assert features.shape[2] * features.shape[3] > 1
    features.mean(dim=(2, 3)).square().sum().backward()
    for key, parameter in backbone.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key


def family(name):
    """The module of torchvision that a network is from."""
    return torchvision.models.get_model_builder(name).__module__


def test_no_family_goes_without_a_step():
    assert {family(name) for name in QUICK | LARGER} == {
        family(name) for name in torchvision.models.list_models(module=torchvision.models)
    }


@pytest.mark.parametrize("name, size", [("scenenet", 40), *QUICK.items(), *slow(LARGER.items())])
def test_one_step_with_each_family(name, size):
    one_step(build_backbone(name), size)


@pytest.mark.parametrize("name", ["vgg11_bn", "densenet121", "squeezenet1_1", "mnasnet0_5", "shufflenet_v2_x0_5"])
def test_names_are_those_of_torchvision_without_what_classifies(name):
    with without_values():
        everything = whole(name).state_dict()
    assert list(meta_backbone(name).state_dict()) == [key for key in everything if key.split(".")[0] not in CLASSIFYING]


@pytest.mark.parametrize("name", [*QUICK, *slow([name] for name in LARGER)])
def test_every_tensor_is_in_the_whole_network(name):
    with without_values():
        everything = whole(name).state_dict()
    ours = meta_backbone(name).state_dict()
    lost = [key for key in everything if key not in ours and key.split(".")[0] not in CLASSIFYING]
    assert not lost
    assert {key: value.shape for key, value in ours.items()}.items() <= {
        k: v.shape for k, v in everything.items()
    }.items()


@pytest.mark.parametrize(
    "name, size, pooled",
    [
        ("mobilenet_v3_small", 64, lambda net, x: net.features(x)),
        ("regnet_y_400mf", 64, lambda net, x: net.trunk_output(net.stem(x))),
        *slow(
            [
                ("densenet121", 64, lambda net, x: nn.functional.relu(net.features(x))),
                ("swin_t", 64, lambda net, x: net.permute(net.norm(net.features(x)))),
                ("convnext_tiny", 64, lambda net, x: net.classifier[0](net.features(x))),
            ]
        ),
    ],
)
@torch.no_grad()
def test_features_are_those_of_torchvision(name, size, pooled):
    net, backbone, images = whole(name).eval(), build_backbone(name).eval(), torch.rand(2, 3, size, size)
    missing = backbone.load_state_dict(net.state_dict(), strict=False)[0]
    assert not missing
    torch.testing.assert_close(backbone(images), pooled(net, images))


@pytest.mark.parametrize("name, size", [("googlenet", 64), *slow([("inception_v3", 107)])])
@torch.no_grad()
def test_centred_networks_take_images_normalised_as_for_the_others(name, size):
    net = torchvision.models.get_model(name, weights=None, init_weights=False, transform_input=True).eval()
    backbone = build_backbone(name).eval()
    backbone.load_state_dict(net.state_dict(), strict=False)
    assert isinstance(backbone, CentredFeatureExtractor)
    images = torch.rand(2, 3, size, size)
    expected = FeatureExtractor.forward(backbone, net._transform_input(images))
    torch.testing.assert_close(backbone(images), expected)


@pytest.fixture
def small_vit(monkeypatch):
    """torchvision's ViT in a size of ours: 32 pixels, patches of 8."""
    torch.manual_seed(0)
    net = torchvision.models.VisionTransformer(32, 8, num_layers=2, num_heads=2, hidden_dim=12, mlp_dim=16).eval()
    nn.init.normal_(net.class_token)
    monkeypatch.setattr(torchvision.models, "get_model", lambda name, weights: net)
    return net


@torch.no_grad()
def test_patch_tokens_are_those_of_torchvision(small_vit):
    images = torch.rand(2, 3, 32, 32)
    tokens = torch.cat([small_vit.class_token.expand(2, -1, -1), small_vit._process_input(images)], dim=1)
    expected = small_vit.encoder(tokens)[:, 1:].reshape(2, 4, 4, 12).permute(0, 3, 1, 2)
    torch.testing.assert_close(VisionTransformer("vit").eval()(images), expected)


@pytest.mark.parametrize("size", [32, 48, 44])
def test_a_step_with_patches_at_any_size(small_vit, size):
    backbone = VisionTransformer("vit")
    assert backbone(torch.rand(1, 3, size, size)).shape == (1, 12, size // 8, size // 8)
    assert len(backbone.stages()) == 3
    one_step(backbone, size)


def test_positions_of_the_trained_grid_stay_and_others_are_those_of_torchvision():
    embedding = torch.randn(1, 1 + 7 * 7, 12, generator=torch.Generator().manual_seed(0))
    assert resized_positions(embedding, 7, 7) is embedding
    published = torchvision.models.vision_transformer.interpolate_embeddings(
        image_size=448, patch_size=32, model_state={"encoder.pos_embedding": embedding}
    )["encoder.pos_embedding"]
    torch.testing.assert_close(resized_positions(embedding, 14, 14), published)
    found = resized_positions(embedding, 3, 4)  # every third row and every second column of the seven
    torch.testing.assert_close(found[:, 0], embedding[:, 0])
    torch.testing.assert_close(found[:, 1:].view(3, 4, 12), embedding[0, 1:].view(7, 7, 12)[::3, ::2])


def test_map_shape_computes_nothing_and_leaves_the_network_alone():
    backbone = build_backbone("scenenet")
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    assert map_shape(backbone, 40, 56) == (96, 5, 7)
    assert backbone.training
    for key, value in backbone.state_dict().items():
        np.testing.assert_array_equal(value, before[key])


def test_a_backbone_without_code_does_nothing():
    for call in (lambda: Backbone().forward(torch.zeros(1, 3, 8, 8)), Backbone().stages):
        with pytest.raises(NotImplementedError):
            call()
