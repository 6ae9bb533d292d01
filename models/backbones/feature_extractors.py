"""Architectures of backbones: images (B, 3, H, W) to a feature map (B, D, h, w).

Parameters keep torchvision's names, so that published weights load.
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
        """The parts that are frozen or trained together, in the order of the network: the first layer, then stages."""
        raise NotImplementedError

    @property
    def published(self) -> nn.Module:
        """The module whose parameters are named as in published files: itself, or the network that it wraps."""
        return self

    def forward(self, images: Tensor) -> Tensor:
        """The feature map."""
        raise NotImplementedError


def map_shape(backbone: nn.Module, height: int, width: int) -> tuple[int, int, int]:
    """(D, h, w) of a backbone's feature map of an image, from a copy on the meta device, so that nothing is computed.

    Raises: whatever the backbone raises for an image that it cannot take.
    """
    meta = copy.deepcopy(backbone).to("meta").eval()
    shape = meta(torch.empty(1, 3, height, width, device="meta")).shape
    return shape[1], shape[2], shape[3]


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
"""The parts of torchvision's networks that pool, classify, or are used in training only."""

_CONTAINERS = ("features", "layers", "blocks", "stages", "trunk_output", "body")  # parts whose children are the stages
_REFERENCE_SIZE = 224  # width and stride are found at this size, which every network takes


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
        for part, last in _last_layers(name, whole):
            self.add_module(part, last)
        self.width, height, _ = map_shape(self, _REFERENCE_SIZE, _REFERENCE_SIZE)
        # Borders cost some networks a pixel or two of the map; strides are powers of two.
        self.stride = 2 ** round(math.log2(_REFERENCE_SIZE / height))

    def stages(self) -> list[Stage]:
        """The blocks in the order of the network."""
        return stages_of(self)

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, `width`, h, w)."""
        features = images
        for part in self.children():
            features = part(features)
        return features


def stages_of(network: nn.Module) -> list[Stage]:
    """The blocks of a network in their order, each with the layers without a matrix that follow it.

    Layers without a matrix that come before all others belong to the first block.
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
    """The parts of a network; of a container of stages, its children."""
    for part, module in network.named_children():
        if part in _CONTAINERS:
            yield from module.children()
        else:
            yield module


_WITHOUT_HELPERS = {"aux_logits": False, "init_weights": True}
_ARGUMENTS = {"googlenet": _WITHOUT_HELPERS, "inception_v3": _WITHOUT_HELPERS}


def _last_layers(name: str, whole: nn.Module) -> list[tuple[str, nn.Module]]:
    """Layers that belong to the features although torchvision applies them in `forward` or behind the pooling.

    DenseNet's last ReLU. ConvNeXt's last norm, here at every position: without it features have any scale.
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

    Images are normalised by the mean and deviation of ImageNet, as for every other network, and rescaled to that range
    first (torchvision's `transform_input`).
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
    pipeline/vit_csra.py). Images of another size than that of pretraining (224 pixels) get position embeddings that
    are interpolated as torchvision's `interpolate_embeddings` does; pixels behind the last whole patch are ignored.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        whole = torchvision.models.get_model(name, weights=None)
        self.class_token, self.conv_proj, self.encoder = whole.class_token, whole.conv_proj, whole.encoder
        self.width, self.stride = whole.hidden_dim, whole.patch_size

    def stages(self) -> list[Stage]:
        """Patch, position and class embeddings, then the layers, the last one with the final norm."""
        *layers, last = self.encoder.layers
        embedding = (self.class_token, self.conv_proj, self.encoder.pos_embedding)
        return [embedding, *((layer,) for layer in layers), (last, self.encoder.ln)]

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, D, H/patch, W/patch), rounded down."""
        patches = self.conv_proj(images)
        tokens = torch.cat([self.class_token.expand(len(images), -1, -1), patches.flatten(2).transpose(1, 2)], dim=1)
        tokens = tokens + resized_positions(self.encoder.pos_embedding, *patches.shape[2:])
        output = self.encoder.ln(self.encoder.layers(self.encoder.dropout(tokens)))
        features: Tensor = output[:, 1:].transpose(1, 2).reshape(patches.shape)
        return features


def resized_positions(embedding: Tensor, height: int, width: int) -> Tensor:
    """Position embeddings for another grid of patches.

    Args:
        embedding: (1, 1 + n * n, D), the class token's first.
        height: h, patches per column.
        width: w, patches per row.

    Returns:
        (1, 1 + h * w, D): `embedding` itself where the grid is the same, else interpolated (bicubic, corners aligned).
    """
    side = math.isqrt(embedding.shape[1] - 1)
    if (height, width) == (side, side):
        return embedding
    grid = embedding[:, 1:].transpose(1, 2).reshape(1, -1, side, side)
    resized = F.interpolate(grid, (height, width), mode="bicubic", align_corners=True)
    return torch.cat([embedding[:, :1], resized.flatten(2).transpose(1, 2)], dim=1)


def backbone_class(name: str) -> Callable[[str], Backbone]:
    """The class that builds torchvision's network `name`."""
    if name.startswith(("resnet", "resnext", "wide_resnet")):
        return ResNet
    if name in _ARGUMENTS:
        return CentredFeatureExtractor
    return VisionTransformer if name.startswith("vit_") else FeatureExtractor
