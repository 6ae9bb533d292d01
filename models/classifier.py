"""A backbone and a head as one model, with the output that every criterion reads."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from models.backbones.feature_extractors import Backbone, Stage, map_shape
from models.backbones.given import GivenFeatures
from models.heads.base import Head
from utils.checks import UserError
from utils.grids import Layout, tile_maps
from utils.types import ModelOutput

_USUAL_SIZES = (224, 240, 256, 288, 320, 336, 384, 392, 448, 512, 518)
"""Sides of images, in pixels, that networks were published for."""


class Classifier(nn.Module):
    """Images (B, 3, H, W) to logits (B, C), features (B, D, h, w) and, when asked, activation maps (B, C, h, w).

    The published CoNeS networks also have a selector network per class (84 million parameters at 20 classes), which
    never runs; there is none here.

    Args:
        backbone: images to features.
        head: features to logits.
        frozen_stages: the backbone's first layer (0) and so many stages behind it are never trained: no gradient,
            BatchNorm in evaluation mode. -1: none. As in published code wutong16/DistributionBalancedLoss (ResNet of
            mmcv).
        norm_eval: all BatchNorm of the backbone stays in evaluation mode; its scale and shift are trained all the same.
        norm_frozen: scale and shift are not trained either. As in published code SlongLiu/query2labels
            (FrozenBatchNorm2d).
    """

    def __init__(
        self,
        backbone: Backbone,
        head: Head,
        *,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        norm_frozen: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        frozen = [part for stage in backbone.stages()[: frozen_stages + 1] for part in stage]
        norms = [module for module in backbone.modules() if isinstance(module, _BatchNorm)]
        self._never_trained: Stage = (*frozen, *(norms if norm_frozen else ()))
        eval_norms = norms if norm_eval or norm_frozen else []
        self._always_eval = [*(part for part in frozen if isinstance(part, nn.Module)), *eval_norms]
        self.freeze_backbone(False)

    def forward(
        self,
        images: Tensor,
        want: frozenset[str] = frozenset(),
        known: Tensor | None = None,
        layout: Layout | None = None,
    ) -> ModelOutput:
        """Logits and features always; when wanted `cam`, without gradient, `class_vectors`, `pooled` or `divergence`.

        There is no divergence of a head that draws nothing.
        Labels `known` beforehand, (B, C) PRESENT, ABSENT or UNKNOWN, are for heads that take them; not with maps.
        With the `layout` of the last images also the logits of their tiles: the head on each tile's part of the map.
        """
        features = self.backbone(images)
        output = self.on_features(features, want, known)
        return output if layout is None else output._replace(tile_logits=self._tile_logits(features, layout))

    def _tile_logits(self, features: Tensor, layout: Layout) -> Tensor:
        """(E, T, C) of the last E of the maps (B, D, h, w)."""
        tiles = tile_maps(features[len(features) - len(layout.tiles) :], layout.rows, layout.columns)
        logits: Tensor = self.head(tiles)
        return logits.view(*layout.tiles.shape, logits.shape[1])

    def on_features(
        self, features: Tensor, want: frozenset[str] = frozenset(), known: Tensor | None = None
    ) -> ModelOutput:
        """The output of `forward` for images with these features (B, D, h, w)."""
        if known is not None:
            return ModelOutput(self.head.with_labels(features, known), features)
        if "cam" in want:
            logits, cam = self.head.with_cam(features)
            return ModelOutput(logits, features, cam)
        if "class_vectors" in want:
            logits, vectors = self.head.with_class_vectors(features)
            return ModelOutput(logits, features, class_vectors=vectors)
        if "pooled" in want:
            logits, pooled = self.head.with_pooled(features)
            return ModelOutput(logits, features, pooled=pooled)
        if "divergence" in want:
            logits, divergence = self.head.with_divergence(features)
            return ModelOutput(logits, features, divergence=divergence)
        return ModelOutput(self.head(features), features)

    def train(self, mode: bool = True) -> Classifier:
        """Set the mode of all modules except the frozen parts of the backbone, which stay in evaluation mode."""
        super().train(mode)
        self.backbone.train(mode and not self._frozen)
        for module in self._always_eval:
            module.eval()
        return self

    def freeze_backbone(self, frozen: bool) -> None:
        """Keep the backbone unchanged from now on, BatchNorm statistics included, or train it again.

        The frozen stages are never trained.
        """
        self._frozen = frozen
        self.backbone.requires_grad_(not frozen)
        for part in self._never_trained:
            part.requires_grad_(False)
        self.train(self.training)

    @torch.no_grad()
    def reads_pooled(self) -> bool:
        """Tell whether the head uses only the mean of a feature map over its positions, by a try on uneven maps."""
        if self.head.needs_maps:
            return False
        like = next(self.head.parameters())
        steps = torch.arange(4 * self.feature_width * 9, device=like.device, dtype=like.dtype)
        maps = (steps * steps).sin().view(4, self.feature_width, 3, 3)  # both signs, nothing random
        was, head = self.head.training, self.head.eval()
        same = torch.allclose(head(maps), head(maps.mean(dim=(2, 3), keepdim=True)), rtol=1e-4, atol=1e-5)
        head.train(was)
        return same

    def check_size(self, name: str, size: int) -> None:
        """Raise UserError unless the backbone, called `name`, has a map of more than one position at `size` x `size`.

        On a feature map of one position, a last batch of one image would leave BatchNorm nothing to average over.
        """
        if self.on_given_features:
            return
        reason = self._misfit(size)
        if not reason:
            return
        larger = (tried for tried in (*range(self.stride + 1, 224, self.stride), 224) if tried > size)
        enough = next((tried for tried in larger if not self._misfit(tried)), None)
        if enough:
            raise UserError(f"--img_size {size}: too small for {name}, give at least {enough}")
        fits = next((tried for tried in _USUAL_SIZES if not self._misfit(tried)), None)
        hint = f"give {fits}" if fits else "take another network"
        raise UserError(f"--img_size {size}: {name} cannot take it ({reason}); {hint}")

    def _misfit(self, size: int) -> str:
        """The reason why images of that size cannot be taken; empty if they can."""
        try:
            _, height, width = map_shape(self.backbone, size, size)
        except (RuntimeError, AssertionError, ValueError) as error:
            return " ".join(str(error).split())
        return "" if height * width > 1 else "its feature map has one position only"

    @property
    def on_given_features(self) -> bool:
        """True if features from elsewhere stand in for images, of which there are none."""
        return isinstance(self.backbone, GivenFeatures)

    @property
    def stride(self) -> int:
        """Pixels of the image per pixel of the feature map."""
        return self.backbone.stride

    @property
    def feature_width(self) -> int:
        """D, the channels of the feature map."""
        return self.backbone.width

    @torch.no_grad()
    def class_vector_width(self) -> int:
        """Numbers in the vector of a class, by a try. Raises: ValueError of a head that has no such vectors."""
        like = next(self.head.parameters())
        was, head = self.head.training, self.head.eval()
        found = head.class_vectors(torch.zeros(1, self.feature_width, 1, 1, device=like.device, dtype=like.dtype))
        head.train(was)
        return found.vectors.shape[2]

    def backbone_parameters(self) -> list[nn.Parameter]:
        """Parameters of the backbone, by module and not by name; none where features are given.

        Raises: ValueError if there are none otherwise.
        """
        return [] if self.on_given_features else _parameters(self.backbone, "backbone")

    def head_parameters(self) -> list[nn.Parameter]:
        """Parameters of the head, for a learning rate of its own. Raises: ValueError if there are none."""
        return _parameters(self.head, "head")


class Pooling(nn.Module):
    """Images (B, 3, H, W) to features averaged over positions, (B, D)."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images: Tensor) -> Tensor:
        """The mean of the feature map, as a head that pools first takes it."""
        return mean_over_positions(self.classifier.backbone(images))


def mean_over_positions(maps: Tensor) -> Tensor:
    """Means (B, D) of feature maps (B, D, h, w), in single precision at least, as a head takes them.

    To the bit the same whichever way the maps lie in memory.
    """
    wide = maps.to(torch.promote_types(maps.dtype, torch.float32))
    return wide.contiguous(memory_format=torch.channels_last).mean(dim=(2, 3))


class OnFeatures(nn.Module):
    """A classifier whose input are features in the place of images: only its head runs."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images: Tensor, want: frozenset[str] = frozenset(), known: Tensor | None = None) -> ModelOutput:
        """The output of the classifier for features (B, D, h, w), or pooled ones as maps of one position."""
        return self.classifier.on_features(images, want, known)


def _parameters(module: nn.Module, part: str) -> list[nn.Parameter]:
    """All parameters of a part. An empty group would silently leave its learning rate without effect."""
    parameters = list(module.parameters())
    if not parameters:
        raise ValueError(f"the {part} ({type(module).__name__}) has no parameters to give to an optimiser")
    return parameters
