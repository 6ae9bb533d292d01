"""Released checkpoints of ASL: TResNet and a linear layer.

Source of the names: published code Alibaba-MIIL/ASL (src/models/tresnet, infer.py).
"""

from __future__ import annotations

from collections.abc import Mapping

from models.backbones.tresnet import TRESNETS, positive_scales, size_of
from models.released.contents import Contents, HeadOverrides, Plan, placed
from utils.checks import UserError, require


def is_asl(contents: Contents) -> bool:
    """A TResNet that classifies."""
    return contents.any("body.conv1.") and contents.any("head.fc.")


def plan_asl(contents: Contents, told: HeadOverrides) -> Plan:
    """TResNet-M, -L or -XL with one linear layer."""
    name = size_of(contents.state)
    if name is None:
        raise UserError(
            f"{contents.path}: a TResNet of another size than {', '.join(TRESNETS)}, which is not read here"
        )
    require(
        not contents.any("head.fc.embedding_generator."),
        f"{contents.path}: a TResNet with a bottleneck of two layers in its head, which is not read here",
    )
    classes, said = contents.side("head.fc.weight"), contents.beside.get("num_classes")
    require(
        said is None or said == classes,
        f"{contents.path}: says it has {str(said)[:20]} classes, but its last layer has {classes}; fetch it again",
    )
    place = placed({"body.": "backbone.body.", "head.fc.": "head.fc."})
    settings = {"model": name, "head": "linear"}
    return Plan(settings, classes, place, positive_scales, names=_class_names(contents, classes))


def _class_names(contents: Contents, classes: int) -> tuple[str, ...]:
    """Names by number, where there is one for each class."""
    held = contents.beside.get("idx_to_class")
    if not isinstance(held, Mapping) or set(held) != set(range(classes)):
        return ()
    return tuple(str(held[number]) for number in range(classes))
