"""Two networks of one architecture that are trained together, each selecting or correcting labels for the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from models.build import Architecture, build_model
from models.classifier import Classifier
from models.heads.base import LabelInfo
from utils.seeding import derive_seed
from utils.types import ModelOutput


def ensemble_logits(f: Tensor, g: Tensor) -> Tensor:
    """The logits of the mean of two networks' probabilities, exact where both are all but certain.

    Args:
        f: (B, C) logits of the first network.
        g: (B, C) logits of the second.

    Returns:
        (B, C).
    """
    return torch.logaddexp(logsigmoid(f), logsigmoid(g)) - torch.logaddexp(logsigmoid(-f), logsigmoid(-g))


class Peers(nn.Module):
    """Networks f and g. Called as a model, it is f, the network that is reported; a criterion calls each separately."""

    f: Classifier
    g: Classifier

    def __init__(self, f: nn.Module, g: nn.Module) -> None:
        super().__init__()
        self.f, self.g = f, g  # type: ignore[assignment]  # a Classifier, or what stands in for one

    def forward(self, images: Tensor, want: frozenset[str] = frozenset()) -> ModelOutput:
        """Output of f for images (B, 3, H, W)."""
        output: ModelOutput = self.f(images, want)
        return output

    def views(self, images: Tensor) -> dict[str, Tensor]:
        """Logits (B, C) of images by `f`, `g`, and the mean of their probabilities, `ensemble`; float32 at least."""
        logits = (network(images).logits for network in (self.f, self.g))
        f, g = (each.to(torch.promote_types(each.dtype, torch.float32)) for each in logits)
        return {"f": f, "g": g, "ensemble": ensemble_logits(f, g)}

    def each(self, change: Callable[[Classifier], nn.Module]) -> Peers:
        """Peers of `change(f)` and `change(g)`, computed in this order."""
        return Peers(change(self.f), change(self.g))

    def freeze_backbone(self, frozen: bool) -> None:
        """Train neither backbone from now on, or train both again."""
        self.f.freeze_backbone(frozen)
        self.g.freeze_backbone(frozen)

    def check_size(self, name: str, size: int) -> None:
        """Raise UserError unless their backbones, called `name`, can take images of `size` x `size` pixels."""
        self.f.check_size(name, size)

    @property
    def stride(self) -> int:
        """Pixels of the image per pixel of either feature map."""
        return self.f.stride

    @property
    def feature_width(self) -> int:
        """D, the channels of either feature map."""
        return self.f.feature_width

    def backbone_parameters(self) -> list[nn.Parameter]:
        """Parameters of both backbones."""
        return [*self.f.backbone_parameters(), *self.g.backbone_parameters()]

    def head_parameters(self) -> list[nn.Parameter]:
        """Parameters of both heads."""
        return [*self.f.head_parameters(), *self.g.head_parameters()]


Network = Classifier | Peers
"""The model that a run trains and a checkpoint contains."""


def build_peers(
    architecture: Architecture,
    num_classes: int,
    seed: int,
    pretrained: bool = True,
    label_info: LabelInfo | None = None,
) -> Peers:
    """Build two models on the CPU that share the pretrained weights and differ in their random initialisation.

    f is the model that `build_model` builds from `seed`, with a new head: heads that begin with the same rows of an
    earlier run would not differ. Weights are read once, for it. Arguments and raises as there.
    """
    architecture = architecture._replace(model=replace(architecture.model, head_rows=False))
    f = build_model(architecture, num_classes, seed, pretrained, label_info)
    unread = architecture._replace(model=replace(architecture.model, weights="none"))
    g = build_model(unread, num_classes, derive_seed(seed, "peer"), pretrained, label_info)
    if pretrained and architecture.model.weights != "none":
        g.backbone.load_state_dict(f.backbone.state_dict())
    return Peers(f, g)
