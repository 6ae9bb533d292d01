"""C-Tran: places and labels look at each other, some labels known beforehand (Lanchantin et al., CVPR 2021).

B batch, C classes, D backbone width, d width of the transformer, h w feature map. Published code
https://github.com/QData/C-Tran, models/CTran.py and transformer_layers.py. Settings, and every place where this
differs from that code: docs/models.md.

Keys of a published checkpoint, here under `head.`: `self_attn_layers.N.transformer_layer.*` is `layers.N.*`,
`LayerNorm.*` is `norm.*`, `output_linear.*` is `fc.*`; `label_lt.weight` and `known_label_lt.weight` keep their names.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from models.heads.pooling import Head
from models.heads.transformer import (
    EncoderLayer,
    attention_map,
    check_width,
    input_projection,
    sine_positions,
    tokens_of,
)
from utils.types import UNKNOWN


class CTranHead(Head):
    """C-Tran on a feature map of any size, told some labels or none.

    Tokens: the places of the map, and for each class its embedding plus that of its state: unknown, absent or present.
    All look at all, in several layers; the token of a class gives its logit.

    The activation map is how much the token of a class looks at each place in the last layer, averaged over its heads,
    (B, C, h, w), at least 0; over places and labels together it sums to 1. Nothing is dropped in it.

    Args:
        width: D.
        classes: C.
        hidden: d; None takes D. Where it is not D, a 1x1 convolution stands first, which the published code lacks.
        inner: width inside the linear layers; None takes d.
        heads: attention heads.
        layers: how many.
        dropout: see `models.heads.transformer.Layer`.
        positions: sine positions are added to the places (the published option fails).
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
        positions: bool = False,
        unknown_zero: bool = True,
    ) -> None:
        super().__init__()
        hidden = hidden or width
        check_width(hidden, heads)
        self.input_proj = input_projection(width, hidden)
        self.label_lt = nn.Embedding(classes, hidden)
        # Rows: unknown, absent, present. The first is told to have no gradient, so it stays what it starts as.
        self.known_label_lt = nn.Embedding(3, hidden, padding_idx=0)
        self.norm = nn.LayerNorm(hidden)
        self.layers = nn.ModuleList(EncoderLayer(hidden, heads, inner or hidden, dropout) for _ in range(layers))
        self.fc = nn.Linear(hidden, classes)
        self.positions = positions
        self.apply(_start)
        if unknown_zero:
            with torch.no_grad():
                self.known_label_lt.weight[0] = 0

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, C), no label being known."""
        return self.with_labels(features, self._nothing(features))

    def with_labels(self, features: Tensor, known: Tensor) -> Tensor:
        """Logits (B, C) where labels `known` (B, C) are told as PRESENT, ABSENT or UNKNOWN; those told are not kept."""
        tokens = self._tokens(features, known)
        for layer in self.layers:
            tokens = layer(tokens)
        return self._logits(tokens)

    def with_cam(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, C), no label being known, and maps (B, C, h, w) of one pass."""
        *others, last = self.layers
        assert isinstance(last, EncoderLayer)
        tokens = self._tokens(features, self._nothing(features))
        for layer in others:
            tokens = layer(tokens)
        with torch.no_grad():
            seen = attention_map(last.self_attn, tokens[:, -self.fc.out_features :], tokens)
        height, width = features.shape[2:]
        cam = seen[:, :, : height * width].reshape(*seen.shape[:2], height, width)
        return self._logits(last(tokens)), cam

    @torch.no_grad()
    def cam(self, features: Tensor) -> Tensor:
        """Maps (B, C, h, w): where the token of each class looks."""
        return self.with_cam(features)[1]

    def _nothing(self, features: Tensor) -> Tensor:
        return features.new_full((features.shape[0], self.fc.out_features), UNKNOWN)

    def _tokens(self, features: Tensor, known: Tensor) -> Tensor:
        """(B, h * w + C, d) what the first layer sees."""
        maps = self.input_proj(features)
        if self.positions:
            maps = maps + sine_positions(maps.shape[1], maps.shape[2], maps.shape[3], maps.device).to(maps.dtype)
        labels = self.label_lt.weight + self.known_label_lt(known.long() - UNKNOWN)
        tokens: Tensor = self.norm(torch.cat([tokens_of(maps).to(labels.dtype), labels], dim=1))
        return tokens

    def _logits(self, tokens: Tensor) -> Tensor:
        """Logits (B, C) of all tokens (B, h * w + C, d), those of the classes last."""
        return (tokens[:, -self.fc.out_features :] * self.fc.weight).sum(dim=2) + self.fc.bias


def _start(module: nn.Module) -> None:
    """Linear layers and embeddings start uniform in +-1/sqrt(input width), as published."""
    if isinstance(module, nn.Linear | nn.Embedding):
        bound = 1 / math.sqrt(module.weight.shape[1])
        nn.init.uniform_(module.weight, -bound, bound)
        if isinstance(module, nn.Linear):
            nn.init.uniform_(module.bias, -bound, bound)
