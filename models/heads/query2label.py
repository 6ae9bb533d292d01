"""Query2Label: every class asks the feature map whether it is there (Liu et al., 2021, arXiv 2107.10834).

B batch, C classes, D backbone width, d width of the transformer, h w feature map. Published code
https://github.com/SlongLiu/query2labels, lib/models/query2label.py and transformer.py. Settings, and every place where
this differs from that code: docs/models.md.

Keys of a published checkpoint: `transformer.*`, `query_embed.weight`, `input_proj.*` and `fc.*` are those of this head
under `head.`; `backbone.0.body.*` is the ResNet under `backbone.`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from models.heads.pooling import Head
from models.heads.transformer import (
    DecoderLayer,
    EncoderLayer,
    check_width,
    input_projection,
    sine_positions,
    tokens_of,
)


class Encoder(nn.Module):
    """Layers over the tokens of the map; normalised at the end where the layers leave their sums as they are."""

    def __init__(self, layers: list[EncoderLayer], width: int, pre_norm: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(width) if pre_norm else nn.Identity()

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Tokens (B, h * w, d) at positions (1, h * w, d) to the memory (B, h * w, d)."""
        for layer in self.layers:
            tokens = layer(tokens, positions)
        memory: Tensor = self.norm(tokens)
        return memory


class QueryDecoder(nn.Module):
    """Layers in which the classes ask, and a norm behind the last."""

    def __init__(self, layers: list[DecoderLayer], width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(width)

    def forward(self, queries: Tensor, memory: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Queries (1, C, d) on memory (B, h * w, d) at positions (1, h * w, d).

        Returns:
            What each class found, (B, C, d), and what came into the last layer, (B, C, d).
        """
        tokens = memory.new_zeros(memory.shape[0], *queries.shape[1:])
        before = tokens
        for layer in self.layers:
            before, tokens = tokens, layer(tokens, queries, memory, positions)
        return self.norm(tokens), before


class Transformer(nn.Module):
    """Encoder and decoder; matrices start Xavier uniform."""

    def __init__(self, encoder: Encoder, decoder: QueryDecoder) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)


class GroupWiseLinear(nn.Module):
    """A weight vector and a bias of its own for each class: z_ik = sum over d of W_kd t_ikd + b_k."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.W, self.b = nn.Parameter(torch.empty(1, classes, width)), nn.Parameter(torch.empty(1, classes))
        bound = 1 / math.sqrt(width)
        nn.init.uniform_(self.W, -bound, bound)
        nn.init.uniform_(self.b, -bound, bound)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (B, C, d) to logits (B, C)."""
        return (self.W * tokens).sum(dim=2) + self.b


class Query2LabelHead(Head):
    """Query2Label on a feature map of any size.

    The activation map is where each class looks: the attention of the last decoder layer over the places of the map,
    averaged over its heads, (B, C, h, w), at least 0, sum 1 over places. Nothing is dropped in it, also in training.

    Args:
        width: D.
        classes: C.
        hidden: d; None takes D.
        inner: width inside the linear layers; None takes 4 d.
        heads: attention heads.
        encoder_layers: layers over the map.
        decoder_layers: layers in which classes ask.
        dropout: see `models.heads.transformer.Layer`.
        projected: a 1x1 convolution D to d stands first; there always is one where d is not D.
        pre_norm: norms before the branches instead of behind the sums.
        self_attention: whether classes look at each other first: in the first decoder layer, in the others.
    """

    def __init__(
        self,
        width: int,
        classes: int,
        *,
        hidden: int | None = None,
        inner: int | None = None,
        heads: int = 4,
        encoder_layers: int = 1,
        decoder_layers: int = 2,
        dropout: float = 0.1,
        projected: bool = False,
        pre_norm: bool = False,
        self_attention: tuple[bool, bool] = (False, False),
    ) -> None:
        super().__init__()
        hidden = hidden or width
        inner = inner or 4 * hidden
        check_width(hidden, heads)
        self.input_proj = input_projection(width, hidden, projected)
        encoder = [EncoderLayer(hidden, heads, inner, dropout, pre_norm) for _ in range(encoder_layers)]
        decoder = [
            DecoderLayer(hidden, heads, inner, dropout, pre_norm, self_attention[min(number, 1)])
            for number in range(decoder_layers)
        ]
        self.transformer = Transformer(Encoder(encoder, hidden, pre_norm), QueryDecoder(decoder, hidden))
        self.query_embed = nn.Embedding(classes, hidden)
        self.fc = GroupWiseLinear(classes, hidden)

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, C)."""
        found, _, _, _ = self._asked(features)
        logits: Tensor = self.fc(found)
        return logits

    def with_cam(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, C) and maps (B, C, h, w) of one pass."""
        found, before, memory, positions = self._asked(features)
        layer = self.transformer.decoder.layers[-1]
        assert isinstance(layer, DecoderLayer)
        seen = layer.looks(before, self.query_embed.weight[None], memory, positions)
        return self.fc(found), seen.view(*seen.shape[:2], *features.shape[2:])

    @torch.no_grad()
    def cam(self, features: Tensor) -> Tensor:
        """Maps (B, C, h, w): where each class looks."""
        return self.with_cam(features)[1]

    def _asked(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What classes found and what the last layer was given, (B, C, d); the memory and its positions."""
        maps = self.input_proj(features)
        place = sine_positions(maps.shape[1], maps.shape[2], maps.shape[3], maps.device)
        positions = tokens_of(place).to(maps.dtype)
        memory = self.transformer.encoder(tokens_of(maps), positions)
        found, before = self.transformer.decoder(self.query_embed.weight[None], memory, positions)
        return found, before, memory, positions
