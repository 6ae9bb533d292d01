"""Released checkpoints of ASL: TResNet and a linear layer.

Source of the names: published code Alibaba-MIIL/ASL (src/models/tresnet, infer.py).
"""

from __future__ import annotations

from collections.abc import Mapping

from models.backbones.tresnet import TRESNETS, positive_scales, size_of
from models.released.contents import Contents, HeadOverrides, Plan, rename_prefix
from utils.checks import UserError, require


def is_asl(contents: Contents) -> bool:
    """True for a TResNet with its classifier."""
    return contents.any("body.conv1.") and contents.any("head.fc.")


def plan_asl(contents: Contents, overrides: HeadOverrides) -> Plan:
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
    classes, stated = contents.size("head.fc.weight"), contents.metadata.get("num_classes")
    require(
        stated is None or stated == classes,
        f"{contents.path}: says it has {str(stated)[:20]} classes, but its last layer has {classes}; fetch it again",
    )
    rename = rename_prefix({"body.": "backbone.body.", "head.fc.": "head.fc."})
    settings = {"model": name, "head": "linear"}
    return Plan(settings, classes, rename, positive_scales, names=_class_names(contents, classes))


def _class_names(contents: Contents, classes: int) -> tuple[str, ...]:
    """Class names by number, if there is one for each class."""
    names = contents.metadata.get("idx_to_class")
    if not isinstance(names, Mapping) or set(names) != set(range(classes)):
        return ()
    return tuple(str(names[number]) for number in range(classes))
