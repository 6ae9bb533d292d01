"""Released checkpoints with a ResNet and a linear head, residual attention, or a normalised neck.

Sources of the names: published code zhongjingyu1/CoNeS (pipeline/resnet_cam.py, resnet.py), Kevinz-code/CSRA
(pipeline/resnet_csra.py), snucml/LargeLossMatters (models.py, train.py), elijahcole/single-positive-multi-label
(models.py, train.py), youngwk/BridgeGapExplanationPAMC (models.py, train.py), gyeong-ryeol-song/SPML-IGNORE (models.py,
train_resnet.py), wutong16/DistributionBalancedLoss (mllt/models), zhongjingyu1/NDLP (main/train.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from models.released.contents import Contents, HeadOverrides, Plan, placed
from utils.checks import UserError, require

SELECTORS = "contrastive_class_selector_"
"""Networks of CoNeS that never run, 84 million parameters at 20 classes."""

_DEPTHS: dict[tuple[bool, tuple[int, ...]], str] = {
    (True, (3, 4, 6, 3)): "resnet50",
    (True, (3, 4, 23, 3)): "resnet101",
    (True, (3, 8, 36, 3)): "resnet152",
    (False, (2, 2, 2, 2)): "resnet18",
    (False, (3, 4, 6, 3)): "resnet34",
}
_STAGES = ("layer1", "layer2", "layer3", "layer4")
_IN_SEQUENCE = {"0.": "conv1.", "1.": "bn1.", **{f"{4 + n}.": f"{stage}." for n, stage in enumerate(_STAGES)}}
"""Places of torchvision's parts in a Sequential of all but the last."""

BACKBONE = {part: f"backbone.{part}" for part in ("conv1.", "bn1.", *(f"{stage}." for stage in _STAGES))}
"""Parts of a ResNet under torchvision's names, each with its place here."""


def resnet_name(contents: Contents, prefix: str = "", stages: tuple[str, ...] = _STAGES) -> str:
    """The ResNet by its numbers of blocks. Raises: UserError when no ResNet has them."""
    blocks = tuple(contents.count(f"{prefix}{stage}.") for stage in stages)
    bottleneck = contents.any(f"{prefix}{stages[0]}.0.conv3.")
    name = _DEPTHS.get((bottleneck, blocks))
    if name is None:
        raise UserError(
            f"{contents.path}: its stages have {', '.join(map(str, blocks))} blocks, which no ResNet of 18 to 152 "
            f"layers has; fetch the file again"
        )
    return name


def is_cones(contents: Contents) -> bool:
    """CoNeS: a linear layer `fc_all`, and the selectors."""
    return is_bce(contents) and contents.any(SELECTORS)


def is_bce(contents: Contents) -> bool:
    """The BCE baseline of CoNeS: the same without selectors."""
    return "fc_all.weight" in contents.state


def plan_fc_all(contents: Contents, told: HeadOverrides) -> Plan:
    """CoNeS and its baseline; the selectors are dropped."""
    settings = {"model": resnet_name(contents), "head": "linear"}
    place = placed({SELECTORS: "", "fc_all.": "head.fc.", **BACKBONE})
    return Plan(settings, contents.side("fc_all.weight"), place)


def is_csra(contents: Contents) -> bool:
    """CSRA on a ResNet."""
    return contents.any("classifier.multi_head.") and "conv1.weight" in contents.state


def attention(contents: Contents, told: HeadOverrides) -> tuple[dict[str, Any], int, tuple[str, ...]]:
    """Settings of a CSRA head, its number of classes, and what had to be assumed."""
    heads = contents.count("classifier.multi_head.")
    require(
        told.num_heads in (None, heads),
        f"--num_heads {told.num_heads}: {contents.path} holds {heads}; leave the flag out",
    )
    settings: dict[str, Any] = {"head": "csra", "num_heads": heads}
    notes: tuple[str, ...] = ()
    if told.lam is None:
        notes = ("lam is not in the file: 0.1, the published default; give --lam for a network that has another",)
    else:
        settings["lam"] = told.lam
    return settings, contents.side("classifier.multi_head.0.head.weight"), notes


def place_attention(key: str) -> str | None:
    """Where a tensor of a CSRA head belongs."""
    number, _, last = key.removeprefix("classifier.multi_head.").partition(".")
    return f"head.weights.{number}" if last == "head.weight" else None


def plan_csra(contents: Contents, told: HeadOverrides) -> Plan:
    """CSRA on a ResNet."""
    settings, classes, notes = attention(contents, told)
    trunk = placed(BACKBONE)
    return Plan(
        {"model": resnet_name(contents), **settings},
        classes,
        lambda key: place_attention(key) if key.startswith("classifier.multi_head.") else trunk(key),
        notes=notes,
    )


def is_large_loss(contents: Contents) -> bool:
    """LargeLossMatters: a linear classifier, with options beside."""
    return contents.any("linear_classifier.") and contents.form == "tuple"


def is_single_positive(contents: Contents) -> bool:
    """Cole et al.: the same names, without options."""
    return contents.any("linear_classifier.") and contents.form != "tuple"


def plan_linear_classifier(contents: Contents, told: HeadOverrides) -> Plan:
    """Both; the layer is one deeper where training began with it alone."""
    require(
        contents.any("feature_extractor."),
        f"{contents.path}: a linear layer on features computed beforehand, without the network that made them; train "
        f"it here (--train_mode linear_fixed_features), or take a checkpoint of the whole network",
    )
    layer = "linear_classifier.fc." if contents.any("linear_classifier.fc.") else "linear_classifier."
    place = placed({layer: "head.fc.", **_sequence()})
    return Plan({"model": _sequence_name(contents), "head": "linear"}, contents.side(f"{layer}weight"), place)


def is_boostlu(contents: Contents) -> bool:
    """BoostLU: a 1 x 1 convolution, and options that name its alpha."""
    return _is_convolution(contents) and (contents.form != "tuple" or "alpha" in contents.beside)


def is_ignore(contents: Contents) -> bool:
    """IGNORE: the same without alpha."""
    return _is_convolution(contents)


def plan_boostlu(contents: Contents, told: HeadOverrides) -> Plan:
    """BoostLU; names and tensors alone do not say whether scores are boosted."""
    alpha = contents.beside.get("alpha") if told.boostlu is None else told.boostlu
    require(
        isinstance(alpha, int | float),
        f"{contents.path}: does not say whether scores are boosted; give --boostlu 5 (BoostLU) or --boostlu 1 (IGNORE)",
    )
    return _plan_convolution(contents, {"boostlu": float(alpha)})  # type: ignore[arg-type]


def plan_ignore(contents: Contents, told: HeadOverrides) -> Plan:
    """IGNORE on a ResNet."""
    return _plan_convolution(contents, {} if told.boostlu is None else {"boostlu": told.boostlu})


def is_distribution_balanced(contents: Contents) -> bool:
    """DistributionBalancedLoss: a neck and a head, as mmcv saves them."""
    return contents.form == "dict" and is_ndlp(contents)


def is_ndlp(contents: Contents) -> bool:
    """NDLP: the same, names and tensors alone."""
    return contents.any("neck.fc.") and contents.any("head.fc_cls.")


def plan_neck(contents: Contents, told: HeadOverrides) -> Plan:
    """Both; the neck's second layer, which never runs, is dropped."""
    settings = {
        "model": resnet_name(contents, "backbone."),
        "head": "pfc",
        "neck_width": contents.side("neck.fc.weight"),
    }
    place = placed(
        {
            "neck.fc_hidden_": "",
            "neck.fc.": "head.fc.",
            "neck.bn.": "head.bn.",
            "head.fc_cls.": "head.fc_cls.",
            "backbone.": "backbone.",
        }
    )
    return Plan(settings, contents.side("head.fc_cls.weight"), place, names=_class_names(contents))


def _class_names(contents: Contents) -> tuple[str, ...]:
    """What mmcv keeps of the training set."""
    meta = contents.beside.get("meta")
    names = meta.get("CLASSES") if isinstance(meta, Mapping) else None
    plain = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
    return tuple(names) if plain and names else ()


def _sequence() -> dict[str, str]:
    """Places of a ResNet that is a Sequential."""
    return {f"feature_extractor.{number}": f"backbone.{part}" for number, part in _IN_SEQUENCE.items()}


def _sequence_name(contents: Contents) -> str:
    """The ResNet that is a Sequential."""
    return resnet_name(contents, "feature_extractor.", ("4", "5", "6", "7"))


def _is_convolution(contents: Contents) -> bool:
    return contents.any("onebyone_conv.") and contents.any("feature_extractor.")


def _plan_convolution(contents: Contents, settings: dict[str, Any]) -> Plan:
    """A 1 x 1 convolution before the mean is the linear layer behind it."""
    return Plan(
        {"model": _sequence_name(contents), "head": "linear", **settings},
        contents.side("onebyone_conv.weight"),
        placed({"onebyone_conv.": "head.fc.", **_sequence()}),
        _without_places,
    )


def _without_places(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weight of a 1 x 1 convolution as that of a linear layer."""
    weight = state.get("head.fc.weight")
    if weight is None or tuple(weight.shape[2:]) != (1, 1):
        return state
    return {**state, "head.fc.weight": weight.flatten(1)}
