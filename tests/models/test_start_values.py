"""Parameters start as their docstrings say: the spread of each weight, bounds where they are uniform, biases."""

import math

import pytest
import torch
from torch import nn

from models.backbones.feature_extractors import SceneNet
from models.backbones.tresnet import BasicBlock, TResNet
from models.heads.csra import CSRAHead
from models.heads.gcn import GraphConvolution
from models.heads.query2label import GroupWiseLinear


@pytest.fixture(autouse=True)
def _same_draws():
    torch.manual_seed(0)


def assert_uniform(weight, bound):
    """Values fill -bound to bound evenly."""
    values = weight.detach().flatten()
    assert bound * 0.97 < values.max() <= bound
    assert -bound <= values.min() < -bound * 0.97
    assert values.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.06)
    assert abs(values.mean().item()) < bound / 10


def test_the_classes_own_linear_layers_start_within_the_root_of_their_width():
    layer = GroupWiseLinear(900, 25)
    assert_uniform(layer.W, 1 / 5)
    assert_uniform(layer.b, 1 / 5)


def test_graph_convolutions_start_within_the_root_of_what_they_give():
    assert_uniform(GraphConvolution(30, 64).weight, 1 / 8)


def test_the_weights_of_csra_start_as_a_convolution_does():
    head = CSRAHead(100, 40, 2, 0.1)
    for weight in head.weights:
        assert_uniform(weight, 1 / 10)
    assert not torch.equal(*head.weights)


@pytest.mark.parametrize(
    ("build", "slope"), [(SceneNet, 0.0), (lambda: TResNet("tresnet_m"), 0.01)], ids=["scenenet", "tresnet"]
)
def test_convolutions_start_by_what_they_give(build, slope):
    """Kaiming, fan out: variance 2 / ((1 + slope^2) * channels out * pixels of the kernel)."""
    checked = 0
    for name, module in build().named_modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 4000:
            fan = module.out_channels // module.groups * math.prod(module.kernel_size)
            expected = math.sqrt(2 / (1 + slope**2) / fan)
            assert module.weight.std().item() == pytest.approx(expected, rel=0.05), name
            checked += 1
    assert checked >= 6


@pytest.mark.parametrize("side", [8, 9])
def test_a_block_of_stride_2_halves_maps_of_odd_sides_upwards(side):
    """Kept here with the other facts of a network that is new: its shortcut is the mean of what there is."""
    block = BasicBlock(64, 64, 2, False).eval()
    maps = torch.rand(1, 64, side, side)
    assert block(maps).shape == (1, 64, (side + 1) // 2, (side + 1) // 2)
    mean = block.downsample[0](maps)
    last = maps[:, :, 8 if side == 9 else 6 :, 8 if side == 9 else 6 :].mean(dim=(2, 3))
    torch.testing.assert_close(mean[:, :, -1, -1], last)
