"""Architectures of backbones: images (B, 3, H, W) to a feature map (B, D, h, w).

Each keeps the names that torchvision gives to its parameters, so that published weights load.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from itertools import takewhile

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock

Stage = tuple[nn.Module | nn.Parameter, ...]


class Backbone(nn.Module):
    """Images (B, 3, H, W) to features (B, `width`, about H / `stride`, about W / `stride`)."""

    width: int
    stride: int

    def stages(self) -> list[Stage]:
        """What learns or stays as it is together, from the image on: the first layer, then the stages."""
        raise NotImplementedError

    @property
    def published(self) -> nn.Module:
        """The module whose parameters are named as in published files: itself, or what it wraps."""
        return self

    def forward(self, images: Tensor) -> Tensor:
        """The feature map."""
        raise NotImplementedError


def map_shape(backbone: nn.Module, height: int, width: int) -> tuple[int, int, int]:
    """(D, h, w) of what a backbone makes of a picture, found on a copy without values, so that nothing is computed.

    Raises: whatever the backbone raises for a picture it cannot take.
    """
    hollow = copy.deepcopy(backbone).to("meta").eval()
    with torch.no_grad():
        found = hollow(torch.empty(1, 3, height, width, device="meta")).shape
    return found[1], found[2], found[3]


class ResNet(Backbone):
    """torchvision's ResNet, ResNeXt or wide ResNet up to layer4 (stride 32), without fc."""

    def __init__(self, name: str) -> None:
        super().__init__()
        whole = torchvision.models.get_model(name, weights=None)
        self.conv1, self.bn1, self.relu, self.maxpool = whole.conv1, whole.bn1, whole.relu, whole.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = whole.layer1, whole.layer2, whole.layer3, whole.layer4
        self.width, self.stride = whole.fc.in_features, 32

    def stages(self) -> list[Stage]:
        """The first convolution with its BatchNorm, then layer1 to layer4."""
        return [(self.conv1, self.bn1), (self.layer1,), (self.layer2,), (self.layer3,), (self.layer4,)]

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, 512 or 2048, H/32, W/32)."""
        stem = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        features: Tensor = self.layer4(self.layer3(self.layer2(self.layer1(stem))))
        return features


class SceneNet(Backbone):
    """A network of 0.17 million parameters for 40 x 40 scenes, feature map 5 x 5 (stride 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 24, kernel_size=5, stride=2, padding=2, bias=False)
        self.bn1 = nn.BatchNorm2d(24)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _residual(24, 24, stride=1)
        self.layer2 = _residual(24, 48, stride=2)
        self.layer3 = _residual(48, 96, stride=2)
        self.width, self.stride = 96, 8
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def stages(self) -> list[Stage]:
        """The first convolution with its BatchNorm, then layer1 to layer3."""
        return [(self.conv1, self.bn1), (self.layer1,), (self.layer2,), (self.layer3,)]

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, 96, H/8, W/8)."""
        features: Tensor = self.layer3(self.layer2(self.layer1(self.relu(self.bn1(self.conv1(images))))))
        return features


def _residual(channels: int, out: int, stride: int) -> nn.Module:
    """Two 3x3 convolutions with a shortcut, which is a 1x1 convolution where sizes change."""
    shortcut = None
    if (channels, stride) != (out, 1):
        shortcut = nn.Sequential(
            nn.Conv2d(channels, out, kernel_size=1, stride=stride, bias=False), nn.BatchNorm2d(out)
        )
    block: nn.Module = BasicBlock(channels, out, stride, shortcut)
    return block


CLASSIFYING = ("avgpool", "flatten", "dropout", "fc", "classifier", "head", "heads", "AuxLogits", "aux1", "aux2")
"""The parts of torchvision's networks that pool, classify, or help in training only."""

_IN_SERIES = ("features", "layers", "blocks", "stages", "trunk_output", "body")  # parts that hold the stages one by one
_PICTURE = 224  # the size at which width and stride are found: one that every network takes


class FeatureExtractor(Backbone):
    """A torchvision network of convolutions or windows up to its pooling: its parts, one after another.

    The stages are the blocks as torchvision lists them, each with the layers without a matrix that follow it (norms,
    activations, pooling).
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        whole = torchvision.models.get_model(name, weights=None, **_ARGUMENTS.get(name, {}))
        for part, module in takewhile(lambda item: item[0] not in CLASSIFYING, whole.named_children()):
            self.add_module(part, nn.Sequential(*module) if isinstance(module, nn.ModuleList) else module)
        for part, last in _behind(name, whole):
            self.add_module(part, last)
        self.width, *side = map_shape(self, _PICTURE, _PICTURE)
        # Borders cost some networks a pixel or two of the map; strides are powers of two.
        self.stride = 2 ** round(math.log2(_PICTURE / side[0]))

    def stages(self) -> list[Stage]:
        """The blocks in the order of the network."""
        return staged(self)

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, `width`, h, w)."""
        features = images
        for part in self.children():
            features = part(features)
        return features


def staged(network: nn.Module) -> list[Stage]:
    """The blocks of a network in their order, each with the layers without a matrix that follow it.

    Layers without a matrix that come before all others are of the first block.
    """
    grouped: list[list[nn.Module]] = [[]]
    for block in _blocks(network):
        if _has_matrix(block) and any(map(_has_matrix, grouped[-1])):
            grouped.append([])
        grouped[-1].append(block)
    return [tuple(group) for group in grouped]


def _has_matrix(block: nn.Module) -> bool:
    return any(parameter.ndim > 1 for parameter in block.parameters())


def _blocks(network: nn.Module) -> Iterator[nn.Module]:
    """The parts of a network, those that hold the stages one by one opened."""
    for part, module in network.named_children():
        if part in _IN_SERIES:
            yield from module.children()
        else:
            yield module


_WITHOUT_HELPERS = {"aux_logits": False, "init_weights": True}
_ARGUMENTS = {"googlenet": _WITHOUT_HELPERS, "inception_v3": _WITHOUT_HELPERS}


def _behind(name: str, whole: nn.Module) -> list[tuple[str, nn.Module]]:
    """What belongs to the features although torchvision applies it in `forward` or behind the pooling.

    DenseNet's last ReLU. ConvNeXt's last norm, here place by place: without it features are of any size.
    """
    if name.startswith("densenet"):
        return [("relu", nn.ReLU(inplace=True))]
    if name.startswith("convnext"):
        classifier = whole.get_submodule("classifier")
        assert isinstance(classifier, nn.Sequential)
        return [("classifier", nn.Sequential(classifier[0]))]
    return []


class CentredFeatureExtractor(FeatureExtractor):
    """GoogLeNet and Inception v3, whose published weights expect pixels from -1 to 1.

    Pictures come normalised by the mean and deviation of ImageNet, as for every other network, and are brought to that
    range first (torchvision's `transform_input`).
    """

    MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, `width`, h, w)."""
        pixels = [
            images[:, channel] * (deviation / 0.5) + (mean - 0.5) / 0.5
            for channel, (mean, deviation) in enumerate(zip(self.MEAN, self.DEVIATION, strict=True))
        ]
        return super().forward(torch.stack(pixels, dim=1))


class VisionTransformer(Backbone):
    """torchvision's ViT (Dosovitskiy et al., ICLR 2021): the patch tokens of its last layer, normalised, as a map.

    The class token takes part and is left out at the end, as in the ViT of CSRA (published code, CSRA,
    pipeline/vit_csra.py). Pictures of another size than the one trained on (224 pixels) get positions that are
    interpolated as torchvision's `interpolate_embeddings` does; what is left of a picture behind its last whole patch
    is not seen.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        whole = torchvision.models.get_model(name, weights=None)
        self.class_token, self.conv_proj, self.encoder = whole.class_token, whole.conv_proj, whole.encoder
        self.width, self.stride = whole.hidden_dim, whole.patch_size

    def stages(self) -> list[Stage]:
        """Patches, positions and class token, then the layers, the last one with the final norm."""
        *layers, last = self.encoder.layers
        embedding = (self.class_token, self.conv_proj, self.encoder.pos_embedding)
        return [embedding, *((layer,) for layer in layers), (last, self.encoder.ln)]

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, D, H/patch, W/patch), rounded down."""
        patches = self.conv_proj(images)
        tokens = torch.cat([self.class_token.expand(len(images), -1, -1), patches.flatten(2).transpose(1, 2)], dim=1)
        tokens = tokens + resized_positions(self.encoder.pos_embedding, *patches.shape[2:])
        seen = self.encoder.ln(self.encoder.layers(self.encoder.dropout(tokens)))
        features: Tensor = seen[:, 1:].transpose(1, 2).reshape(patches.shape)
        return features


def resized_positions(held: Tensor, height: int, width: int) -> Tensor:
    """Position embeddings of another grid.

    Args:
        held: (1, 1 + n * n, D), the class token's first.
        height: h, patches in a column.
        width: w, patches in a row.

    Returns:
        (1, 1 + h * w, D): `held` itself where the grid is the same, else interpolated (bicubic, corners aligned).
    """
    side = math.isqrt(held.shape[1] - 1)
    if (height, width) == (side, side):
        return held
    grid = held[:, 1:].transpose(1, 2).reshape(1, -1, side, side)
    resized = F.interpolate(grid, (height, width), mode="bicubic", align_corners=True)
    return torch.cat([held[:, :1], resized.flatten(2).transpose(1, 2)], dim=1)


def trunk_of(name: str) -> Callable[[str], Backbone]:
    """The class that builds torchvision's network `name`."""
    if name.startswith(("resnet", "resnext", "wide_resnet")):
        return ResNet
    if name in _ARGUMENTS:
        return CentredFeatureExtractor
    return VisionTransformer if name.startswith("vit_") else FeatureExtractor
