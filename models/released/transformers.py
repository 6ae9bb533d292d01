"""Released checkpoints with a transformer: CSRA on a ViT, and Query2Label.

Sources of the names: published code Kevinz-code/CSRA (pipeline/vit_csra.py), SlongLiu/query2labels (lib/models,
main_mlc.py); gyeong-ryeol-song/SPML-IGNORE (train_q2l.py) saves the latter's network with its options.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from models.backbones.tresnet import positive_scales, size_of
from models.released.contents import Contents, HeadOverrides, Plan, rename_prefix
from models.released.resnets import BACKBONE, csra_settings, rename_csra, resnet_name
from utils.checks import UserError, require

_VITS = {(768, 16, 12): "vit_b_16", (768, 32, 12): "vit_b_32", (1024, 16, 24): "vit_l_16", (1024, 32, 24): "vit_l_32"}
"""torchvision's networks by width, patch and layers."""

_VIT_NAMES = {
    "patch_embed.proj.": "backbone.conv_proj.",
    "cls_token": "backbone.class_token",
    "pos_embed": "backbone.encoder.pos_embedding",
    "norm.": "backbone.encoder.ln.",
}
_LAYER_NAMES = {
    "norm1.": "ln_1.",
    "norm2.": "ln_2.",
    "attn.qkv.weight": "self_attention.in_proj_weight",
    "attn.qkv.bias": "self_attention.in_proj_bias",
    "attn.proj.": "self_attention.out_proj.",
    "mlp.fc1.": "mlp.0.",
    "mlp.fc2.": "mlp.3.",
}
_LAYER = re.compile(r"blocks\.(\d+)\.(.+)")
_BODY = "backbone.0.body."


def is_vit_csra(contents: Contents) -> bool:
    """True for CSRA on a ViT."""
    return contents.any("classifier.multi_head.") and contents.any("patch_embed.")


def plan_vit_csra(contents: Contents, overrides: HeadOverrides) -> Plan:
    """CSRA on a ViT, whose layers have timm's names there and torchvision's here."""
    settings, classes, notes = csra_settings(contents, overrides)
    width, patch = contents.size("patch_embed.proj.weight"), contents.size("patch_embed.proj.weight", 2)
    name = _VITS.get((width, patch, contents.count("blocks.")))
    if name is None:
        raise UserError(
            f"{contents.path}: a ViT of width {width}, patches of {patch} pixels and {contents.count('blocks.')} "
            f"layers, which is none of {', '.join(_VITS.values())}"
        )
    size = patch * max(math.isqrt(contents.size("pos_embed", 1)), 1)  # a square of patches, and the class token
    return Plan({"model": name, **settings}, classes, _rename_vit, notes=notes, img_size=size)


def _rename_vit(key: str) -> str | None:
    """Our name of a tensor of CSRA's ViT."""
    if key.startswith("classifier.multi_head."):
        return rename_csra(key)
    if layer := _LAYER.fullmatch(key):
        inside = rename_prefix(_LAYER_NAMES)(layer[2])
        return inside and f"backbone.encoder.layers.encoder_layer_{layer[1]}.{inside}"
    return rename_prefix(_VIT_NAMES)(key)


def is_query2label(contents: Contents) -> bool:
    """True for Query2Label."""
    return contents.any("transformer.decoder.") and "query_embed.weight" in contents.state


def plan_query2label(contents: Contents, overrides: HeadOverrides) -> Plan:
    """Query2Label on a ResNet or TResNet; the fixed position encoding is computed here and dropped."""
    heads, notes = _attention_heads(contents, overrides)
    decoder = "transformer.decoder.layers."
    settings: dict[str, Any] = {
        "head": "q2l",
        "hidden_dim": contents.size("query_embed.weight", 1),
        "dim_feedforward": contents.size(f"{decoder}0.linear1.weight"),
        "nheads": heads,
        "enc_layers": contents.count("transformer.encoder.layers."),
        "dec_layers": contents.count(decoder),
        "keep_input_proj": contents.any("input_proj."),
        "pre_norm": contents.any("transformer.encoder.norm."),
        "keep_first_self_attn_dec": contents.any(f"{decoder}0.self_attn."),
        "keep_other_self_attn_dec": contents.any(f"{decoder}1.self_attn."),
    }
    head_names = {
        "backbone.1.pe": "",
        "transformer.": "head.transformer.",
        "query_embed.": "head.query_embed.",
        "input_proj.": "head.input_proj.",
        "fc.": "head.fc.",
    }
    body = {key.removeprefix(_BODY): value for key, value in contents.state.items() if key.startswith(_BODY)}
    size = 32 * contents.size("backbone.1.pe", 2) if "backbone.1.pe" in contents.state else None
    known = {"classes": contents.size("query_embed.weight"), "notes": notes, "img_size": size}
    if tresnet := size_of(body):
        rename = rename_prefix({**head_names, f"{_BODY}body.": "backbone.body."})
        return _plan({**settings, "model": tresnet}, rename, known)._replace(adjust=positive_scales)
    require(
        "conv1.weight" in body,
        f"{contents.path}: Query2Label on a backbone that is not read here (Swin, CvT or TResNet v2); those on ResNets "
        f"and on TResNet-L and -XL are",
    )
    rename = rename_prefix({**head_names, **{_BODY + part: ours for part, ours in BACKBONE.items()}})
    return _plan({**settings, "model": resnet_name(contents, _BODY)}, rename, known)


def _plan(settings: dict[str, Any], rename: Callable[[str], str | None], known: dict[str, Any]) -> Plan:
    return Plan(settings, known["classes"], rename, notes=known["notes"], img_size=known["img_size"])


def _attention_heads(contents: Contents, overrides: HeadOverrides) -> tuple[int, tuple[str, ...]]:
    """The number of attention heads, which no weight shows, and the assumptions that were made."""
    saved = contents.metadata.get("nheads")
    if overrides.nheads is not None:
        return overrides.nheads, ()
    if type(saved) is int:
        return saved, ()
    return 4, ("the number of attention heads is not in the file: 4, as published; give --nheads for another",)
