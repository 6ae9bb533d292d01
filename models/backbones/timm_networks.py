"""Backbones of timm (https://github.com/huggingface/pytorch-image-models), an optional package.

timm is imported when a model named `timm/NAME` is asked for, and not before.
"""

from __future__ import annotations

import importlib
import math
from types import ModuleType

import torch
from torch import Tensor, nn

from models.backbones.feature_extractors import Backbone, Stage, stages_of
from utils.checks import UserError, require
from utils.nearest import nearest

PREFIX = "timm/"


def _timm() -> ModuleType:
    """The package. Raises: UserError where it is not installed."""
    try:
        return importlib.import_module("timm")
    except ImportError:
        raise UserError(
            f"--model {PREFIX}...: timm is not installed; pip install 'timm>=1.0.20', or take a network of torchvision"
        ) from None


def require_timm_model(name: str) -> None:
    """Raise UserError unless timm is installed and has an architecture `name`, with or without a tag behind a dot."""
    timm = _timm()
    if timm.is_model(name):
        return
    close = nearest(name, timm.list_models())
    hint = f"did you mean {PREFIX}{close}?" if close else "timm.list_models() lists them"
    raise UserError(f"--model {PREFIX}{name}: timm has no network of that name; {hint}")


class TimmFeatureExtractor(Backbone):
    """A network of timm without pooling and classifier, its last features as a map (B, D, h, w).

    Patch tokens of transformers are laid out as a grid, without class and register tokens; channels come first.
    """

    def __init__(self, name: str, pretrained: bool = False) -> None:
        super().__init__()
        self.name = name
        try:
            self.network: nn.Module = _timm().create_model(name, pretrained=pretrained, num_classes=0, global_pool="")
            self.width, self.stride = self._layout(self.network.default_cfg["input_size"][-1])
        except UserError:
            raise
        except Exception as error:  # no connection, no weights; without pooling networks fail in many ways
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"--model {PREFIX}{name}: timm could not build it ({reason})") from error

    def _layout(self, size: int) -> tuple[int, int]:
        """Width and stride, from an image of the size that the network was made for."""
        training = self.network.training
        with torch.no_grad():
            features = self.eval()(torch.zeros(1, 3, size, size))
        self.train(training)
        return features.shape[1], round(size / features.shape[2])

    @property
    def published(self) -> nn.Module:
        """The network as timm builds it, whose parameters have timm's names."""
        return self.network

    def stages(self) -> list[Stage]:
        """Class tokens and position embeddings with the first layer, then the blocks in the order of the network."""
        first, *others = stages_of(self.network)
        return [(*self.network.parameters(recurse=False), *first), *others]

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, `width`, h, w)."""
        features: Tensor = self.network(images)
        if features.ndim == 4:
            channels_last = str(getattr(self.network, "output_fmt", "NCHW")).endswith("NHWC")
            return features.permute(0, 3, 1, 2) if channels_last else features
        patches = features[:, int(getattr(self.network, "num_prefix_tokens", 0)) :]
        height = round(math.sqrt(patches.shape[1] * images.shape[2] / images.shape[3]))
        require(
            height > 0 and patches.shape[1] % height == 0,
            f"--model {PREFIX}{self.name}: its {patches.shape[1]} tokens are no grid of patches; take another network",
        )
        return patches.transpose(1, 2).reshape(len(patches), -1, height, patches.shape[1] // height)
