"""TResNet in plain torch beside timm's, and its parts beside plain loops."""

import numpy as np
import pytest
import torch
from torch import nn

from models.backbones.build import BACKBONES, build_backbone, load_weights
from models.backbones.tresnet import (
    TRESNETS,
    BasicBlock,
    Blur,
    Bottleneck,
    SpaceToDepth,
    SqueezeExcitation,
    TResNet,
    TResNetBlock,
    positive_scales,
    size_of,
)
from tests.models.released.released_files import lively, published_tresnet
from utils.checks import UserError


def test_space_to_depth_is_row_column_colour():
    images = torch.arange(2 * 3 * 8 * 12, dtype=torch.float32).view(2, 3, 8, 12)
    found = SpaceToDepth()(images).numpy()
    assert found.shape == (2, 48, 2, 3)
    for row in range(4):
        for column in range(4):
            for colour in range(3):
                channel = (row * 4 + column) * 3 + colour
                np.testing.assert_array_equal(found[:, channel], images.numpy()[:, colour, row::4, column::4])


def test_what_is_behind_the_last_whole_square_is_not_seen():
    images = torch.rand(1, 3, 11, 9)
    torch.testing.assert_close(SpaceToDepth()(images), SpaceToDepth()(images[:, :, :8, :8]))


@pytest.mark.parametrize("height, width", [(6, 8), (5, 7)])
def test_blur_is_every_second_place_of_a_mirrored_weighted_mean(height, width):
    maps = torch.randn(2, 3, height, width, dtype=torch.float64)
    padded = np.pad(maps.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)), mode="reflect")
    kernel = np.outer([1, 2, 1], [1, 2, 1]) / 16
    found = Blur()(maps).numpy()
    assert found.shape == (2, 3, (height + 1) // 2, (width + 1) // 2)
    for row in range(found.shape[2]):
        for column in range(found.shape[3]):
            seen = padded[:, :, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
            np.testing.assert_allclose(found[:, :, row, column], (seen * kernel).sum((2, 3)), atol=1e-12)


@torch.no_grad()
def test_squeeze_and_excitation_scales_each_channel_by_two_layers_over_the_means():
    torch.manual_seed(0)
    layer, maps = SqueezeExcitation(6, 4).double(), torch.randn(2, 6, 3, 5, dtype=torch.float64)
    first, second = (part.weight[:, :, 0, 0].numpy() for part in (layer.fc1, layer.fc2))
    found = layer(maps).numpy()
    for n, image in enumerate(maps.numpy()):
        inner = np.maximum(first @ image.mean(axis=(1, 2)) + layer.fc1.bias.numpy(), 0)
        scale = 1 / (1 + np.exp(-(second @ inner + layer.fc2.bias.numpy())))
        np.testing.assert_allclose(found[n], image * scale[:, None, None], rtol=1e-12)


@pytest.mark.parametrize("name", ["tresnet_m", "tresnet_l"])
@torch.no_grad()
def test_published_weights_give_the_features_of_timm(name):
    pytest.importorskip("timm")
    whole, state = published_tresnet(name)
    body = {key: value for key, value in state.items() if key.startswith("body.")}
    assert size_of(body) == name
    ours = TResNet(name).eval()
    missing, unexpected = ours.load_state_dict(positive_scales(body), strict=False)
    assert all(key.endswith("num_batches_tracked") for key in missing)
    assert not unexpected
    images = torch.rand(2, 3, 64, 96)
    expected = whole.forward_features(images)
    assert expected.std() > 1e-3
    torch.testing.assert_close(ours(images), expected, rtol=1e-4, atol=1e-4)


def test_sizes_are_those_of_the_published_networks():
    """Widths of 64 times 1, 1.2 and 1.3."""
    published = {"m": (1.0, [3, 4, 11, 3]), "l": (1.2, [4, 5, 18, 3]), "xl": (1.3, [4, 5, 24, 3])}
    assert {name: (size.channels, list(size.blocks)) for name, size in TRESNETS.items()} == {
        f"tresnet_{name}": (int(64 * factor), blocks) for name, (factor, blocks) in published.items()
    }


@pytest.mark.parametrize("name", TRESNETS)
def test_sizes_widths_and_stages(name):
    with torch.device("meta"):
        ours = build_backbone(name)
        assert ours(torch.empty(1, 3, 64, 96)).shape == (1, ours.width, 2, 3)
    assert ours.width == 32 * TRESNETS[name].channels
    staged = [id(parameter) for stage in ours.stages() for part in stage for parameter in part.parameters()]
    assert staged == [id(parameter) for parameter in ours.parameters()]
    assert size_of(ours.state_dict()) == name


def test_a_network_of_another_size_has_no_name():
    with torch.device("meta"):
        state = BACKBONES["tresnet_m"]().state_dict()
    assert size_of({key: value for key, value in state.items() if not key.startswith("body.layer3.7.")}) is None
    assert size_of({}) is None


def test_only_scales_of_norms_are_made_positive():
    ours = lively(TResNet("tresnet_m"))
    state = ours.state_dict()
    found = positive_scales(state)
    changed = {key for key in state if not torch.equal(state[key], found[key])}
    norms = {key for key in state if f"{key.removesuffix('weight')}running_mean" in state and key.endswith("weight")}
    assert changed == norms
    assert len(norms) == 1 + 2 * (3 + 4) + 3 * (11 + 3) + 3  # the stem, the blocks, three shortcuts


def test_scales_are_their_size_and_a_hundred_thousandth():
    one, weights = torch.zeros(3, dtype=torch.float64), torch.tensor([-0.5, 0.0, 2.0], dtype=torch.float64)
    found = positive_scales({"a.weight": weights, "a.bias": weights, "a.running_mean": one, "b.weight": weights})
    torch.testing.assert_close(found["a.weight"], weights.abs() + 0.00001, rtol=1e-12, atol=0)
    assert all(torch.equal(found[name], value) for name, value in (("a.bias", weights), ("b.weight", weights)))


def test_norms_and_slopes_are_those_of_the_published_network():
    """inplace_abn has the epsilon of torch; a leaky slope of 0.01 behind the stem, of 0.001 inside blocks."""
    with torch.device("meta"):
        ours = TResNet("tresnet_m")
    assert {module.eps for module in ours.modules() if isinstance(module, nn.BatchNorm2d)} == {1e-5}
    stem, *others = (module.negative_slope for module in ours.modules() if isinstance(module, nn.LeakyReLU))
    assert (stem, set(others)) == (pytest.approx(0.01), {0.001})
    assert len(others) == 3 + 4 + 2 * (11 + 3)
    assert ours.stride == 32


@pytest.mark.parametrize(("kind", "planes", "squeezed"), [(BasicBlock, 64, 64), (BasicBlock, 512, 128)])
def test_channels_are_squeezed_to_a_quarter_at_least_64(kind, planes, squeezed):
    assert kind(planes, planes, 1, True).se.fc1.out_channels == squeezed


@pytest.mark.parametrize(("planes", "squeezed"), [(64, 64), (256, 128)])
def test_channels_of_a_bottleneck_are_squeezed_to_half_of_its_width_at_least_64(planes, squeezed):
    block = Bottleneck(4 * planes, planes, 1, True)
    assert (block.se.fc1.in_channels, block.se.fc1.out_channels) == (planes, squeezed)
    assert block.downsample is None


def test_a_block_without_a_branch_does_nothing():
    with pytest.raises(NotImplementedError):
        TResNetBlock.branch(BasicBlock(64, 64, 1, False), torch.zeros(1, 64, 2, 2))


def test_there_are_no_default_weights():
    with pytest.raises(UserError, match="--weights default: there are none for tresnet_m"):
        load_weights(TResNet("tresnet_m"), "tresnet_m", "default")


def test_it_learns():
    ours = TResNet("tresnet_m").train()
    ours(torch.rand(2, 3, 64, 64)).square().mean().backward()
    assert all(parameter.grad is not None for parameter in ours.parameters())
