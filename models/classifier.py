"""A backbone and a head, and the output that every criterion reads."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from models.backbones.feature_extractors import Backbone, Stage, map_shape
from models.heads.base import Head
from utils.checks import UserError
from utils.types import ModelOutput

_USUAL_SIZES = (224, 240, 256, 288, 320, 336, 384, 392, 448, 512, 518)
"""Sides of pictures, in pixels, that networks were published for."""


class Classifier(nn.Module):
    """Images (B, 3, H, W) to logits (B, C), features (B, D, h, w) and, when asked, activation maps (B, C, h, w).

    The published CoNeS networks hold a selector network per class besides (84 million parameters at 20 classes) which
    never runs; there is none here.

    Args:
        backbone: images to features.
        head: features to logits.
        frozen_stages: the backbone's first layer (0) and so many stages behind it never learn: no gradient, BatchNorm
            in evaluation mode. -1: all learns. As in published code wutong16/DistributionBalancedLoss (ResNet of mmcv).
        norm_eval: all BatchNorm of the backbone stays in evaluation mode; its scale and shift learn all the same.
        norm_frozen: they do not either. As in published code SlongLiu/query2labels (FrozenBatchNorm2d).
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
        self._frozen = False
        kept = [part for stage in backbone.stages()[: frozen_stages + 1] for part in stage]
        norms = [module for module in backbone.modules() if isinstance(module, _BatchNorm)]
        self._never_learning: Stage = (*kept, *(norms if norm_frozen else ()))
        still = norms if norm_eval or norm_frozen else []
        self._in_evaluation = [*(part for part in kept if isinstance(part, nn.Module)), *still]
        self.freeze_backbone(False)

    def forward(self, images: Tensor, want: frozenset[str] = frozenset(), known: Tensor | None = None) -> ModelOutput:
        """Logits and features always; `cam`, without gradient, when "cam" is wanted.

        Labels `known` beforehand, (B, C) PRESENT, ABSENT or UNKNOWN, are for heads that take them; not with maps.
        """
        features = self.backbone(images)
        if known is not None:
            return ModelOutput(self.head.with_labels(features, known), features)
        if "cam" in want:
            logits, cam = self.head.with_cam(features)
            return ModelOutput(logits, features, cam)
        return ModelOutput(self.head(features), features)

    def train(self, mode: bool = True) -> Classifier:
        """As every module, except that what is frozen of the backbone stays in evaluation mode."""
        super().train(mode)
        self.backbone.train(mode and not self._frozen)
        for module in self._in_evaluation:
            module.eval()
        return self

    def freeze_backbone(self, frozen: bool) -> None:
        """Leave the backbone as it is from now on, BatchNorm statistics included, or let it learn again.

        The frozen stages never learn.
        """
        self._frozen = frozen
        self.backbone.requires_grad_(not frozen)
        for part in self._never_learning:
            part.requires_grad_(False)
        self.train(self.training)

    @torch.no_grad()
    def reads_pooled(self) -> bool:
        """Whether the head sees of a feature map only its mean over places, tried on maps that are uneven."""
        device = next(self.head.parameters()).device
        steps = torch.arange(4 * self.feature_width * 9, device=device, dtype=torch.float32)
        maps = (steps * steps * 0.37).sin().view(4, self.feature_width, 3, 3)  # both signs, no chance
        was, head = self.head.training, self.head.eval()
        same = torch.allclose(head(maps), head(maps.mean(dim=(2, 3), keepdim=True)), rtol=1e-4, atol=1e-5)
        head.train(was)
        return same

    def check_size(self, name: str, size: int) -> None:
        """Raise UserError unless its backbone, called `name`, makes more than one place of `size` x `size` pixels.

        On a feature map of one place, a last batch of one image would leave BatchNorm nothing to average over.
        """
        reason = self._unfit(size)
        if not reason:
            return
        larger = (tried for tried in (*range(self.stride + 1, 224, self.stride), 224) if tried > size)
        enough = next((tried for tried in larger if not self._unfit(tried)), None)
        if enough:
            raise UserError(f"--img_size {size}: too small for {name}, give at least {enough}")
        fits = next((tried for tried in _USUAL_SIZES if not self._unfit(tried)), None)
        hint = f"give {fits}" if fits else "take another network"
        raise UserError(f"--img_size {size}: {name} cannot take it ({reason}); {hint}")

    def _unfit(self, size: int) -> str:
        """Why pictures of that size will not do; empty where they will."""
        try:
            _, height, width = map_shape(self.backbone, size, size)
        except (RuntimeError, AssertionError, ValueError) as error:
            return " ".join(str(error).split())
        return "" if height * width > 1 else "one place is all that is left of it"

    @property
    def stride(self) -> int:
        """Pixels of the picture a pixel of the feature map."""
        return self.backbone.stride

    @property
    def feature_width(self) -> int:
        """D, the channels of the feature map."""
        return self.backbone.width

    def backbone_parameters(self) -> list[nn.Parameter]:
        """Parameters of the backbone, by module and not by name. Raises: ValueError if there are none."""
        return _parameters(self.backbone, "backbone")

    def head_parameters(self) -> list[nn.Parameter]:
        """Parameters of the head, for a learning rate of its own. Raises: ValueError if there are none."""
        return _parameters(self.head, "head")


class Pooling(nn.Module):
    """Images (B, 3, H, W) to features averaged over places, (B, D)."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images: Tensor) -> Tensor:
        """The mean of the feature map, as a head that pools first takes it."""
        features: Tensor = self.classifier.backbone(images)
        return features.mean(dim=(2, 3))


class OnPooled(nn.Module):
    """A classifier whose input is what `Pooling` made of the images: its head alone computes."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images: Tensor, want: frozenset[str] = frozenset()) -> ModelOutput:
        """Logits (B, C) of pooled features as images of one pixel (B, D, 1, 1); there is nothing else to want."""
        return ModelOutput(self.classifier.head(images))


def _parameters(module: nn.Module, part: str) -> list[nn.Parameter]:
    """All parameters of a part. An empty group would leave its learning rate without effect, unseen."""
    parameters = list(module.parameters())
    if not parameters:
        raise ValueError(f"the {part} ({type(module).__name__}) has no parameters to give to an optimiser")
    return parameters
