"""Query2Label: each class has a query that attends to the feature map (Liu et al., 2021, arXiv 2107.10834).

B batch, C classes, D backbone width, d width of the transformer, h w feature map. Published code
https://github.com/SlongLiu/query2labels, lib/models/query2label.py and transformer.py. Settings, and all differences
from that code: docs/models.md.

Keys of a published checkpoint: `transformer.*`, `query_embed.weight`, `input_proj.*` and `fc.*` are those of this head
under `head.`; `backbone.0.body.*` is the ResNet under `backbone.`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.heads.base import Head, LabelInfo
from models.heads.bottleneck import Bottleneck, Gaussian
from models.heads.transformer import (
    DecoderLayer,
    EncoderLayer,
    TransformerConfig,
    check_at_least_one,
    check_width,
    input_projection,
    sine_position_encoding,
    tokens_of,
)
from utils.checks import require
from utils.head_vectors import ClassVectors
from utils.options import option


@dataclass(frozen=True, kw_only=True)
class Query2LabelConfig(TransformerConfig):
    """Query2Label."""

    enc_layers: int = option(1, "q2l: encoder layers over the feature map")
    dec_layers: int = option(2, "q2l: decoder layers in which the classes attend to the feature map")
    keep_input_proj: bool = option(False, "q2l: a 1x1 convolution first even where widths agree")
    pre_norm: bool = option(False, "q2l: norms before the branches of a layer instead of behind the sums")
    bottleneck: int = option(
        0,
        "q2l: in training the output of a class is drawn from a Gaussian of so many numbers, whose mean is scored "
        "otherwise (256 in MIME; 0: off)",
    )
    keep_first_self_attn_dec: bool = option(False, "q2l: self-attention of the classes in the first decoder layer")
    keep_other_self_attn_dec: bool = option(False, "q2l: self-attention of the classes in the other decoder layers")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least_one(self, "enc_layers", "dec_layers")
        require(self.bottleneck >= 0, f"--bottleneck {self.bottleneck}: must be 0 or more; 0 is none")


class Encoder(nn.Module):
    """Layers over the tokens of the map, with a norm at the end where the layers do not normalise their sums."""

    def __init__(self, layers: list[EncoderLayer], width: int, pre_norm: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(width) if pre_norm else nn.Identity()

    def forward(self, tokens: Tensor, encoding: Tensor) -> Tensor:
        """Tokens (B, h * w, d) with the position encoding (1, h * w, d) to the memory (B, h * w, d)."""
        for layer in self.layers:
            tokens = layer(tokens, encoding)
        memory: Tensor = self.norm(tokens)
        return memory


class QueryDecoder(nn.Module):
    """Layers in which the classes attend to the memory, and a norm behind the last."""

    def __init__(self, layers: list[DecoderLayer], width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(width)

    def forward(self, queries: Tensor, memory: Tensor, encoding: Tensor) -> tuple[Tensor, Tensor]:
        """Queries (1, C, d) on memory (B, h * w, d) with the position encoding (1, h * w, d).

        Returns:
            The output token of each class, (B, C, d), and the input of the last layer, (B, C, d).
        """
        tokens = memory.new_zeros(memory.shape[0], *queries.shape[1:])
        before = tokens
        for layer in self.layers:
            before, tokens = tokens, layer(tokens, queries, memory, encoding)
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

    The activation map of a class is its attention in the last decoder layer, averaged over the heads, (B, C, h, w), at
    least 0, sum 1 over positions. It is computed without dropout, in training too.

    Args:
        width: D.
        classes: C.
        hidden: d; None takes D.
        inner: width inside the linear layers; None takes 4 d.
        heads: attention heads.
        encoder_layers: layers over the map.
        decoder_layers: layers in which classes attend to the map.
        dropout: see `models.heads.transformer.TransformerLayer`.
        projected: a 1x1 convolution D to d comes first; there always is one where d is not D.
        pre_norm: norms before the branches instead of behind the sums.
        self_attention: True for self-attention of the classes in the first decoder layer, and in the others.
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
        logits: Tensor = self.fc(self._vectors(self._decoded(features)[0]))
        return logits

    def with_cam(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, C) and maps (B, C, h, w) of one pass."""
        output, before, memory, encoding = self._decoded(features)
        layer = self.transformer.decoder.layers[-1]
        assert isinstance(layer, DecoderLayer)
        weights = layer.cross_attention(before, self.query_embed.weight[None], memory, encoding)
        return self.fc(self._vectors(output)), weights.view(*weights.shape[:2], *features.shape[2:])

    def with_class_vectors(self, features: Tensor) -> tuple[Tensor, ClassVectors]:
        """Logits (B, C), and the outputs of the classes (B, C, d) with the weights that give these logits."""
        vectors = self._vectors(self._decoded(features)[0])
        return self.fc(vectors), ClassVectors(vectors, self.fc.W[0], self.fc.b[0])

    def class_vectors(self, features: Tensor) -> ClassVectors:
        """The outputs of the classes (B, C, d) behind the last decoder layer."""
        return self.with_class_vectors(features)[1]

    @torch.no_grad()
    def cam(self, features: Tensor) -> Tensor:
        """Maps (B, C, h, w): the attention of each class."""
        return self.with_cam(features)[1]

    def _vectors(self, output: Tensor) -> Tensor:
        """What is scored of the outputs of the classes (B, C, d)."""
        return output.to(self.fc.W.dtype)

    def _decoded(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Outputs of the classes and inputs of the last layer, (B, C, d); the memory and its position encoding."""
        maps = self.input_proj(features)
        encoding = tokens_of(sine_position_encoding(maps))
        memory = self.transformer.encoder(tokens_of(maps), encoding)
        output, before = self.transformer.decoder(self.query_embed.weight[None], memory, encoding)
        return output, before, memory, encoding


class BottleneckQuery2LabelHead(Query2LabelHead):
    """Query2Label whose outputs pass a variational bottleneck (MIME, ICML 2023).

    In training the vector of a class is drawn, from torch's generator; in evaluation it is the mean, so that scores
    repeat (the published code draws in tests too).

    Args:
        width: D.
        classes: C.
        bottleneck: numbers of a vector.
        how: as for `Query2LabelHead`.
    """

    def __init__(self, width: int, classes: int, *, bottleneck: int, **how: Any) -> None:
        super().__init__(width, classes, **how)
        self.bottleneck = Bottleneck(self.query_embed.embedding_dim, bottleneck)
        self.fc = GroupWiseLinear(classes, bottleneck)

    def with_divergence(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, C), and the divergence (B,) of the distributions behind them from standard normal ones."""
        found = self.bottleneck(self._decoded(features)[0])
        return self.fc(self._drawn(found)), found.divergence()

    def _vectors(self, output: Tensor) -> Tensor:
        return self._drawn(self.bottleneck(output))

    def _drawn(self, found: Gaussian) -> Tensor:
        return (found.drawn() if self.training else found.mean).to(self.fc.W.dtype)


def build_q2l(width: int, classes: int, config: Query2LabelConfig, label_info: LabelInfo | None) -> Head:
    """The Query2Label head of a config, with a bottleneck if so set."""
    bottleneck: dict[str, Any] = {"bottleneck": config.bottleneck} if config.bottleneck else {}
    kind = BottleneckQuery2LabelHead if config.bottleneck else Query2LabelHead
    return kind(
        width,
        classes,
        **bottleneck,
        hidden=config.hidden_dim,
        inner=config.dim_feedforward,
        heads=config.nheads,
        encoder_layers=config.enc_layers,
        decoder_layers=config.dec_layers,
        dropout=config.dropout,
        projected=config.keep_input_proj,
        pre_norm=config.pre_norm,
        self_attention=(config.keep_first_self_attn_dec, config.keep_other_self_attn_dec),
    )
