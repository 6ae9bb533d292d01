"""C-Tran: attention between image features and labels, some of them known (Lanchantin et al., CVPR 2021).

B batch, C classes, D backbone width, d width of the transformer, h w feature map. Published code
https://github.com/QData/C-Tran, models/CTran.py and transformer_layers.py. Settings, and all differences from
that code: docs/models.md.

Keys of a published checkpoint, here under `head.`: `self_attn_layers.N.transformer_layer.*` is `layers.N.*`,
`LayerNorm.*` is `norm.*`, `output_linear.*` is `fc.*`; `label_lt.weight` and `known_label_lt.weight` keep their names.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from models.heads.base import Head, LabelInfo
from models.heads.transformer import (
    EncoderLayer,
    TransformerConfig,
    attention_map,
    check_at_least_one,
    check_width,
    input_projection,
    sine_position_encoding,
    tokens_of,
)
from utils.checks import require
from utils.head_vectors import ClassVectors
from utils.options import option
from utils.types import UNKNOWN


@dataclass(frozen=True, kw_only=True)
class CTranConfig(TransformerConfig):
    """C-Tran."""

    enc_layers: int = option(3, "ctran: layers over the feature map and the labels")
    pos_emb: bool = option(False, "ctran: sine position encoding of the feature map")
    unknown_state: Literal["zeros", "random"] = option(
        "zeros", "ctran: the state of a label that is not known adds nothing, or a fixed random vector, as published"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least_one(self, "enc_layers")
        require(self.unknown_state in ("zeros", "random"), f"--unknown_state {self.unknown_state}: zeros or random")


class CTranHead(Head):
    """C-Tran on a feature map of any size, given some known labels or none.

    Tokens: the positions of the map, and for each class its embedding plus that of its state: unknown, absent or
    present. All attend to all, in several layers; the token of a class gives its logit.

    The activation map of a class is the attention of its token to each position in the last layer, averaged over the
    heads, (B, C, h, w), at least 0; over positions and labels together it sums to 1. It is computed without dropout.

    Args:
        width: D.
        classes: C.
        hidden: d; None takes D. Where it is not D, a 1x1 convolution comes first, which the published code lacks.
        inner: width inside the linear layers; None takes d.
        heads: attention heads.
        layers: number of layers.
        dropout: see `models.heads.transformer.TransformerLayer`.
        encode_positions: True adds a sine position encoding to the map (the published option fails).
        unknown_zero: the state "unknown" adds nothing; else it is a fixed random vector, as published.
    """

    def __init__(
        self,
        width: int,
        classes: int,
        *,
        hidden: int | None = None,
        inner: int | None = None,
        heads: int = 4,
        layers: int = 3,
        dropout: float = 0.1,
        encode_positions: bool = False,
        unknown_zero: bool = True,
    ) -> None:
        super().__init__()
        hidden = hidden or width
        check_width(hidden, heads)
        self.input_proj = input_projection(width, hidden)
        self.label_lt = nn.Embedding(classes, hidden)
        # Rows: unknown, absent, present. The first gets no gradient, so it stays as initialised.
        self.known_label_lt = nn.Embedding(3, hidden, padding_idx=0)
        self.norm = nn.LayerNorm(hidden)
        self.layers = nn.ModuleList(EncoderLayer(hidden, heads, inner or hidden, dropout) for _ in range(layers))
        self.fc = nn.Linear(hidden, classes)
        self.encode_positions = encode_positions
        self.apply(_initialise)
        if unknown_zero:
            with torch.no_grad():
                self.known_label_lt.weight[0] = 0

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, C), no label being known."""
        return self.with_labels(features, self._all_unknown(features))

    def with_labels(self, features: Tensor, known: Tensor) -> Tensor:
        """Logits (B, C) given labels `known` (B, C), PRESENT, ABSENT or UNKNOWN, for all classes."""
        tokens = self._tokens(features, known)
        for layer in self.layers:
            tokens = layer(tokens)
        return self._logits(tokens)

    def with_cam(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, C), no label being known, and maps (B, C, h, w) of one pass."""
        *others, last = self.layers
        assert isinstance(last, EncoderLayer)
        tokens = self._tokens(features, self._all_unknown(features))
        for layer in others:
            tokens = layer(tokens)
        with torch.no_grad():
            weights = attention_map(last.self_attn, tokens[:, -self.fc.out_features :], tokens)
        height, width = features.shape[2:]
        cam = weights[:, :, : height * width].reshape(*weights.shape[:2], height, width)
        return self._logits(last(tokens)), cam

    def with_class_vectors(self, features: Tensor) -> tuple[Tensor, ClassVectors]:
        """Logits (B, C), no label being known, and the tokens of the classes (B, C, d) that give them."""
        tokens = self._tokens(features, self._all_unknown(features))
        for layer in self.layers:
            tokens = layer(tokens)
        own = tokens[:, -self.fc.out_features :].to(self.fc.weight.dtype)
        return self._logits(tokens), ClassVectors(own, self.fc.weight, self.fc.bias)

    def class_vectors(self, features: Tensor) -> ClassVectors:
        """The tokens of the classes (B, C, d) behind the last layer, no label being known."""
        return self.with_class_vectors(features)[1]

    @torch.no_grad()
    def cam(self, features: Tensor) -> Tensor:
        """Maps (B, C, h, w): the attention of the token of each class."""
        return self.with_cam(features)[1]

    def _all_unknown(self, features: Tensor) -> Tensor:
        return features.new_full((features.shape[0], self.fc.out_features), UNKNOWN)

    def _tokens(self, features: Tensor, known: Tensor) -> Tensor:
        """(B, h * w + C, d) the input of the first layer."""
        maps = self.input_proj(features)
        if self.encode_positions:
            maps = maps + sine_position_encoding(maps)
        labels = self.label_lt.weight + self.known_label_lt(known.long() - UNKNOWN)
        tokens: Tensor = self.norm(torch.cat([tokens_of(maps).to(labels.dtype), labels], dim=1))
        return tokens

    def _logits(self, tokens: Tensor) -> Tensor:
        """Logits (B, C) of all tokens (B, h * w + C, d), those of the classes last."""
        return (tokens[:, -self.fc.out_features :] * self.fc.weight).sum(dim=2) + self.fc.bias


def _initialise(module: nn.Module) -> None:
    """Linear layers and embeddings start uniform in +-1/sqrt(input width), as published."""
    if isinstance(module, nn.Linear | nn.Embedding):
        bound = 1 / math.sqrt(module.weight.shape[1])
        nn.init.uniform_(module.weight, -bound, bound)
        if isinstance(module, nn.Linear):
            nn.init.uniform_(module.bias, -bound, bound)


def build_ctran(width: int, classes: int, config: CTranConfig, label_info: LabelInfo | None) -> Head:
    """The C-Tran head of a config."""
    return CTranHead(
        width,
        classes,
        hidden=config.hidden_dim,
        inner=config.dim_feedforward,
        heads=config.nheads,
        layers=config.enc_layers,
        dropout=config.dropout,
        encode_positions=config.pos_emb,
        unknown_zero=config.unknown_state == "zeros",
    )
