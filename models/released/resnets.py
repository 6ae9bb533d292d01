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

from models.released.contents import Contents, HeadOverrides, Plan, rename_prefix
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
"""Torchvision's parts by their position in a Sequential of all but the last two."""

BACKBONE = {part: f"backbone.{part}" for part in ("conv1.", "bn1.", *(f"{stage}." for stage in _STAGES))}
"""Parts of a ResNet under torchvision's names, each with its name here."""


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
    """True for CoNeS: a linear layer `fc_all`, and the selectors."""
    return is_bce(contents) and contents.any(SELECTORS)


def is_bce(contents: Contents) -> bool:
    """True for the BCE baseline of CoNeS: the same without selectors."""
    return "fc_all.weight" in contents.state


def plan_fc_all(contents: Contents, overrides: HeadOverrides) -> Plan:
    """CoNeS and its baseline; the selectors are dropped."""
    settings = {"model": resnet_name(contents), "head": "linear"}
    rename = rename_prefix({SELECTORS: "", "fc_all.": "head.fc.", **BACKBONE})
    return Plan(settings, contents.size("fc_all.weight"), rename)


def is_csra(contents: Contents) -> bool:
    """True for CSRA on a ResNet."""
    return contents.any("classifier.multi_head.") and "conv1.weight" in contents.state


def csra_settings(contents: Contents, overrides: HeadOverrides) -> tuple[dict[str, Any], int, tuple[str, ...]]:
    """Settings of a CSRA head, its number of classes, and the assumptions that were made."""
    heads = contents.count("classifier.multi_head.")
    require(
        overrides.num_heads in (None, heads),
        f"--num_heads {overrides.num_heads}: {contents.path} has {heads}; leave the flag out",
    )
    settings: dict[str, Any] = {"head": "csra", "num_heads": heads}
    notes: tuple[str, ...] = ()
    if overrides.lam is None:
        notes = ("lam is not in the file: 0.1, the published default; give --lam for a network that has another",)
    else:
        settings["lam"] = overrides.lam
    return settings, contents.size("classifier.multi_head.0.head.weight"), notes


def rename_csra(key: str) -> str | None:
    """Our name of a tensor of a CSRA head."""
    number, _, last = key.removeprefix("classifier.multi_head.").partition(".")
    return f"head.weights.{number}" if last == "head.weight" else None


def plan_csra(contents: Contents, overrides: HeadOverrides) -> Plan:
    """CSRA on a ResNet."""
    settings, classes, notes = csra_settings(contents, overrides)
    rename_backbone = rename_prefix(BACKBONE)
    return Plan(
        {"model": resnet_name(contents), **settings},
        classes,
        lambda key: rename_csra(key) if key.startswith("classifier.multi_head.") else rename_backbone(key),
        notes=notes,
    )


def is_large_loss(contents: Contents) -> bool:
    """True for LargeLossMatters: a linear classifier, with options beside."""
    return contents.any("linear_classifier.") and contents.form == "tuple"


def is_single_positive(contents: Contents) -> bool:
    """True for Cole et al.: the same names, without options."""
    return contents.any("linear_classifier.") and contents.form != "tuple"


def plan_linear_classifier(contents: Contents, overrides: HeadOverrides) -> Plan:
    """LargeLossMatters and Cole et al.; the layer is nested where training began with it alone."""
    require(
        contents.any("feature_extractor."),
        f"{contents.path}: a linear layer on features computed beforehand, without the network that made them; train "
        f"it here (--train_mode linear_fixed_features), or take a checkpoint of the whole network",
    )
    layer = "linear_classifier.fc." if contents.any("linear_classifier.fc.") else "linear_classifier."
    rename = rename_prefix({layer: "head.fc.", **_sequence()})
    return Plan({"model": _sequence_name(contents), "head": "linear"}, contents.size(f"{layer}weight"), rename)


def is_boostlu(contents: Contents) -> bool:
    """True for BoostLU: a 1 x 1 convolution, and options that name its alpha."""
    return _is_convolution(contents) and (contents.form != "tuple" or "alpha" in contents.metadata)


def is_ignore(contents: Contents) -> bool:
    """True for IGNORE: the same without alpha."""
    return _is_convolution(contents)


def plan_boostlu(contents: Contents, overrides: HeadOverrides) -> Plan:
    """BoostLU on a ResNet; tensors alone do not show whether scores are boosted."""
    alpha = contents.metadata.get("alpha") if overrides.boostlu is None else overrides.boostlu
    require(
        isinstance(alpha, int | float),
        f"{contents.path}: does not say whether scores are boosted; give --boostlu 5 (BoostLU) or --boostlu 1 (IGNORE)",
    )
    return _plan_convolution(contents, {"boostlu": float(alpha)})  # type: ignore[arg-type]


def plan_ignore(contents: Contents, overrides: HeadOverrides) -> Plan:
    """IGNORE on a ResNet."""
    return _plan_convolution(contents, {} if overrides.boostlu is None else {"boostlu": overrides.boostlu})


def is_distribution_balanced(contents: Contents) -> bool:
    """True for DistributionBalancedLoss: a neck and a head, as mmcv saves them."""
    return contents.form == "dict" and is_ndlp(contents)


def is_ndlp(contents: Contents) -> bool:
    """True for NDLP: the same in a plain state_dict."""
    return contents.any("neck.fc.") and contents.any("head.fc_cls.")


def plan_neck(contents: Contents, overrides: HeadOverrides) -> Plan:
    """DistributionBalancedLoss and NDLP; the neck's second layer, which never runs, is dropped."""
    settings = {
        "model": resnet_name(contents, "backbone."),
        "head": "pfc",
        "neck_width": contents.size("neck.fc.weight"),
    }
    rename = rename_prefix(
        {
            "neck.fc_hidden_": "",
            "neck.fc.": "head.fc.",
            "neck.bn.": "head.bn.",
            "head.fc_cls.": "head.fc_cls.",
            "backbone.": "backbone.",
        }
    )
    return Plan(settings, contents.size("head.fc_cls.weight"), rename, names=_class_names(contents))


def _class_names(contents: Contents) -> tuple[str, ...]:
    """The class names that mmcv saves."""
    meta = contents.metadata.get("meta")
    names = meta.get("CLASSES") if isinstance(meta, Mapping) else None
    plain = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
    return tuple(names) if plain and names else ()


def _sequence() -> dict[str, str]:
    """Our names of the parts of a ResNet that is a Sequential."""
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
        contents.size("onebyone_conv.weight"),
        rename_prefix({"onebyone_conv.": "head.fc.", **_sequence()}),
        _as_linear_weight,
    )


def _as_linear_weight(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weight of a 1 x 1 convolution as that of a linear layer."""
    weight = state.get("head.fc.weight")
    if weight is None or tuple(weight.shape[2:]) != (1, 1):
        return state
    return {**state, "head.fc.weight": weight.flatten(1)}
