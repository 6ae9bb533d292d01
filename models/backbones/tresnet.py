"""TResNet (Ridnik et al., WACV 2021, arXiv 2003.13630), the backbone of ASL's released networks, in plain torch.

A ResNet whose stem rearranges pixels, whose strides follow a blur, and whose blocks have squeeze and excitation.
Published code https://github.com/Alibaba-MIIL/ASL, src/models/tresnet/; parameters have its names, from `body.` on.
There, normalisation and activation are one operation of the package inplace_abn, which computes with |weight| + 1e-5
instead of the weight: `positive_scales` converts published weights to that form.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.backbones.feature_extractors import Backbone, Stage

_BLOCK = re.compile(r"body\.layer([1-4])\.(\d+)\.")


class Size(NamedTuple):
    """Channels of the first stage, and number of blocks in each of the four stages."""

    channels: int
    blocks: tuple[int, int, int, int]


TRESNETS: dict[str, Size] = {
    "tresnet_m": Size(64, (3, 4, 11, 3)),
    "tresnet_l": Size(76, (4, 5, 18, 3)),
    "tresnet_xl": Size(83, (4, 5, 24, 3)),
}
"""The sizes of the published code by name; its widths are 64 times 1, 1.2 and 1.3, rounded down."""

_SLOPE = 1e-3  # of leaky ReLU inside blocks; the stem has ten times that
_EPSILON = 1e-5
_PATCH = 4


class SpaceToDepth(nn.Module):
    """Squares of 4 x 4 pixels become channels: (B, 3, H, W) to (B, 48, H/4, W/4), channel = (row, column, colour)."""

    def forward(self, images: Tensor) -> Tensor:
        """Rearranged pixels; those left over at the right and at the bottom are ignored."""
        height, width = (side // _PATCH for side in images.shape[2:])
        whole = images[:, :, : height * _PATCH, : width * _PATCH]
        squares = whole.reshape(len(images), -1, height, _PATCH, width, _PATCH)
        return squares.permute(0, 3, 5, 1, 2, 4).reshape(len(images), -1, height, width)


class Blur(nn.Module):
    """A blur by (1, 2, 1) / 4 in both directions with stride 2, borders mirrored."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        line = torch.tensor([0.25, 0.5, 0.25])
        # In no checkpoint. Made here and moved with the network: a GPU would be waited for if each call made it.
        self.register_buffer("kernel", line[:, None] * line, persistent=False)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, D, h, w) to (B, D, h/2, w/2), rounded up."""
        channels = maps.shape[1]
        kernel = self.kernel.to(maps.dtype).expand(channels, 1, 3, 3)
        return F.conv2d(F.pad(maps, (1, 1, 1, 1), mode="reflect"), kernel, stride=2, groups=channels)


class SqueezeExcitation(nn.Module):
    """Channels scaled by two layers over their means."""

    def __init__(self, channels: int, reduced: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(channels, reduced, 1), nn.Conv2d(reduced, channels, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, D, h, w) to the same shape."""
        scale: Tensor = self.fc2(self.fc1(maps.mean(dim=(2, 3), keepdim=True)).relu())
        return maps * scale.sigmoid()


def _normed(channels: int, out: int, kernel: int, slope: float | None = None) -> nn.Sequential:
    """A convolution, its norm, and a leaky ReLU of that slope below 0 unless it is None."""
    layers = [
        nn.Conv2d(channels, out, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(out, eps=_EPSILON),
    ]
    return nn.Sequential(*layers, *([] if slope is None else [nn.LeakyReLU(slope)]))


def _strided(layers: nn.Sequential, stride: int) -> nn.Sequential:
    """The layers, followed by a blur where their stride is 2."""
    return layers if stride == 1 else nn.Sequential(layers, Blur())


class TResNetBlock(nn.Module):
    """The common part of both kinds of blocks: a shortcut, which is a mean and a convolution where sizes change."""

    expansion: int

    def __init__(self, channels: int, planes: int, stride: int) -> None:
        super().__init__()
        self.downsample: nn.Sequential | None = None
        if (channels, stride) != (planes * self.expansion, 1):
            mean = [nn.AvgPool2d(2, 2, ceil_mode=True)] if stride == 2 else []
            self.downsample = nn.Sequential(*mean, _normed(channels, planes * self.expansion, 1))

    def forward(self, maps: Tensor) -> Tensor:
        """(B, D, h, w) to (B, planes * expansion, h / stride, w / stride)."""
        shortcut = maps if self.downsample is None else self.downsample(maps)
        return (self.branch(maps) + shortcut).relu()

    def branch(self, maps: Tensor) -> Tensor:
        """The residual, which is added to the shortcut."""
        raise NotImplementedError


class BasicBlock(TResNetBlock):
    """Two 3 x 3 convolutions, then squeeze and excitation."""

    expansion = 1

    def __init__(self, channels: int, planes: int, stride: int, squeezed: bool) -> None:
        super().__init__(channels, planes, stride)
        self.conv1 = _strided(_normed(channels, planes, 3, _SLOPE), stride)
        self.conv2 = _normed(planes, planes, 3)
        self.se = SqueezeExcitation(planes, max(planes // 4, 64)) if squeezed else nn.Identity()

    def branch(self, maps: Tensor) -> Tensor:
        """The residual, which is added to the shortcut."""
        residual: Tensor = self.se(self.conv2(self.conv1(maps)))
        return residual


class Bottleneck(TResNetBlock):
    """A 1 x 1, a 3 x 3 and a 1 x 1 convolution, squeeze and excitation before the last."""

    expansion = 4

    def __init__(self, channels: int, planes: int, stride: int, squeezed: bool) -> None:
        super().__init__(channels, planes, stride)
        self.conv1 = _normed(channels, planes, 1, _SLOPE)
        self.conv2 = _strided(_normed(planes, planes, 3, _SLOPE), stride)
        self.se = SqueezeExcitation(planes, max(planes * self.expansion // 8, 64)) if squeezed else nn.Identity()
        self.conv3 = _normed(planes, planes * self.expansion, 1)

    def branch(self, maps: Tensor) -> Tensor:
        """The residual, which is added to the shortcut."""
        residual: Tensor = self.conv3(self.se(self.conv2(self.conv1(maps))))
        return residual


class TResNet(Backbone):
    """The network `name` of `TRESNETS` without pooling and classifier, stride 32."""

    def __init__(self, name: str) -> None:
        super().__init__()
        planes, blocks = TRESNETS[name]
        stages: list[tuple[str, nn.Module]] = [
            ("SpaceToDepth", SpaceToDepth()),
            ("conv1", _normed(3 * _PATCH**2, planes, 3, 10 * _SLOPE)),
        ]
        channels = planes
        for number, count in enumerate(blocks):
            kind, squeezed = (BasicBlock if number < 2 else Bottleneck), number < 3
            out, strides = planes * 2**number, [1 if number == 0 else 2, *[1] * (count - 1)]
            widths = [channels, *[out * kind.expansion] * (count - 1)]
            stage = [kind(each, out, stride, squeezed) for each, stride in zip(widths, strides, strict=True)]
            stages.append((f"layer{number + 1}", nn.Sequential(*stage)))
            channels = out * kind.expansion
        self.body = nn.Sequential(OrderedDict(stages))
        self.width, self.stride = channels, 32
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="leaky_relu")

    def stages(self) -> list[Stage]:
        """The first convolution, then layer1 to layer4."""
        return [(stage,) for stage in list(self.body)[1:]]

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, `width`, H/32, W/32)."""
        features: Tensor = self.body(images)
        return features


def positive_scales(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Published weights with the scales that inplace_abn computes with, |weight| + 1e-5, instead of the stored ones.

    The norms are those whose running means are in `state`.
    """
    norms = {key.removesuffix("running_mean") for key in state if key.endswith(".running_mean")}
    return {
        key: value.abs() + _EPSILON if key.removesuffix("weight") in norms and key.endswith("weight") else value
        for key, value in state.items()
    }


def size_of(state: Mapping[str, Tensor]) -> str | None:
    """The name in `TRESNETS` of the network with these tensors, named from `body.` on; None if there is none."""
    stem = state.get("body.conv1.0.weight", torch.empty(0))
    blocks: list[set[str]] = [set(), set(), set(), set()]
    for key in state:
        if found := _BLOCK.match(key):
            blocks[int(found[1]) - 1].add(found[2])
    size = (sum(stem.shape[:1]), tuple(len(numbers) for numbers in blocks))
    return next((name for name, known in TRESNETS.items() if size == tuple(known)), None)
