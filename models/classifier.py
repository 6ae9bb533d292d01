"""A backbone and a head, and the output that every criterion reads."""

from __future__ import annotations

from torch import Tensor, nn

from models.backbones import Backbone
from models.heads import Head
from utils.types import ModelOutput


class Classifier(nn.Module):
    """Images (B, 3, H, W) to logits (B, C), features (B, D, h, w) and, when asked, activation maps (B, C, h, w).

    The published CoNeS networks hold a selector network per class besides (84 million parameters at 20 classes) which
    never runs; there is none here.
    """

    def __init__(self, backbone: Backbone, head: Head) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, images: Tensor, want: frozenset[str] = frozenset()) -> ModelOutput:
        """Logits and features always; `cam`, without gradient, when "cam" is wanted."""
        features = self.backbone(images)
        cam = self.head.cam(features) if "cam" in want else None
        return ModelOutput(self.head(features), features, cam)

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


def _parameters(module: nn.Module, part: str) -> list[nn.Parameter]:
    """All parameters of a part. An empty group would leave its learning rate without effect, unseen."""
    parameters = list(module.parameters())
    if not parameters:
        raise ValueError(f"the {part} ({type(module).__name__}) has no parameters to give to an optimiser")
    return parameters
