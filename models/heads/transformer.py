"""Transformer layers over tokens (B, L, d), as Query2Label and C-Tran use them (Vaswani et al., NIPS 2017; DETR).

B batch, L tokens, d width, h w feature map. Parameters have the names and layouts of torch's own layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from utils.checks import require
from utils.options import option


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Settings that all heads with a transformer share."""

    hidden_dim: int | None = option(
        None,
        "q2l, ctran: width of the transformer (default: that of the backbone; else a 1x1 convolution comes first)",
    )
    dim_feedforward: int | None = option(
        None, "q2l, ctran: width inside its linear layers (default: q2l 4 times --hidden_dim, ctran the same as it)"
    )
    nheads: int = option(4, "q2l, ctran: attention heads")
    dropout: float = option(0.1, "q2l, ctran: dropout in every layer")

    def __post_init__(self) -> None:
        check_at_least_one(self, "hidden_dim", "dim_feedforward", "nheads")
        require(0 <= self.dropout < 1, f"--dropout {self.dropout}: must be in [0, 1)")


def check_at_least_one(config: object, *names: str) -> None:
    """Raise UserError unless each of these settings is unset or at least 1."""
    for name in names:
        value = getattr(config, name)
        require(value is None or value >= 1, f"--{name} {value}: must be at least 1")


def sine_position_encoding(maps: Tensor) -> Tensor:
    """Fixed encoding of the positions of a map (DETR; published code query2labels, lib/models/position_encoding.py).

    u_i = 2 pi i / (h + 1e-6) for row i = 1..h, v_j = 2 pi j / (w + 1e-6) for column j = 1..w; with N = d/2 channels
    for each and t_c = 10000^(2 floor(c/2) / N), channel c is sin(u_i / t_c) where c is even and cos(u_i / t_c) where
    it is odd, then the same of v_j.

    Args:
        maps: (B, d, h, w), of which shape, type and device count; d is a multiple of 4.

    Returns:
        (1, d, h, w) of the type of `maps`, computed in single precision at least.
    """
    _, channels, height, width = maps.shape
    device, dtype = maps.device, torch.promote_types(maps.dtype, torch.float32)
    half = channels // 2
    channel = torch.arange(half, device=device, dtype=dtype)
    scale = 10000.0 ** (2 * (channel // 2) / half)

    def wave(count: int) -> Tensor:
        """(N, count) the channels of one axis."""
        angle = torch.arange(1, count + 1, device=device, dtype=dtype) * (2 * math.pi / (count + 1e-6))
        phase = angle / scale[:, None]
        return torch.where((channel % 2 == 0)[:, None], phase.sin(), phase.cos())

    rows, columns = wave(height), wave(width)
    both = [rows[:, :, None].expand(-1, -1, width), columns[:, None, :].expand(-1, height, -1)]
    return torch.cat(both)[None].to(maps.dtype)


def tokens_of(maps: Tensor) -> Tensor:
    """Maps (B, d, h, w) as tokens (B, h * w, d), row by row."""
    return maps.flatten(2).transpose(1, 2)


def attention_map(attention: nn.MultiheadAttention, query: Tensor, key: Tensor) -> Tensor:
    """Weights of an attention layer, averaged over its heads, without dropout even in training.

    Args:
        attention: the layer.
        query: (B, K, d).
        key: (B, L, d).

    Returns:
        (B, K, L), each row sums to 1.
    """
    weight, bias = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
    shape = (len(query), -1, attention.num_heads, attention.head_dim)
    q = F.linear(query, weight[0], bias[0]).view(shape)
    k = F.linear(key, weight[1], bias[1]).view(shape)
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(attention.head_dim)
    return scores.softmax(dim=-1).mean(dim=1)


def input_projection(width: int, hidden: int, projected: bool = False) -> nn.Module:
    """A 1x1 convolution if widths differ or it is asked for, else the identity."""
    return nn.Conv2d(width, hidden, kernel_size=1) if projected or width != hidden else nn.Identity()


def check_width(hidden: int, heads: int) -> None:
    """Raise UserError unless width `hidden` goes with the sine position encoding and that many heads."""
    require(hidden % 4 == 0, f"--hidden_dim {hidden}: must be a multiple of 4, for the sine position encoding")
    require(hidden % heads == 0, f"--nheads {heads}: the width of the transformer, {hidden}, must be a multiple of it")


class TransformerLayer(nn.Module):
    """The common part of encoder and decoder layers: residual branches, of which the last is two linear layers.

    A branch is computed from the tokens and the sum is normalised; with `pre_norm` the branch is computed from
    normalised tokens and the sum is left as it is. Dropout on the attention weights, inside the linear layers, and on
    the output of a branch.
    """

    def __init__(self, width: int, inner: int, dropout: float, pre_norm: bool) -> None:
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(width, inner), nn.Linear(inner, width)
        self.dropout = nn.Dropout(dropout)
        self.pre_norm = pre_norm

    def residual(self, tokens: Tensor, norm: nn.Module, branch: Callable[[Tensor], Tensor]) -> Tensor:
        """Tokens (B, L, d) plus `branch` of them, which keeps the shape."""
        before: Tensor = norm(tokens) if self.pre_norm else tokens
        total = tokens + self.dropout(branch(before))
        after: Tensor = total if self.pre_norm else norm(total)
        return after

    def feed_forward(self, tokens: Tensor) -> Tensor:
        """W2 relu(W1 x + b1) + b2 of each token."""
        output: Tensor = self.linear2(self.dropout(self.linear1(tokens).relu()))
        return output


class EncoderLayer(TransformerLayer):
    """Self-attention, then two linear layers, each token for itself.

    x <- LN1(x + attention(q = k = x + P, v = x)), x <- LN2(x + W2 relu(W1 x + b1) + b2), P the position encoding.
    """

    def __init__(self, width: int, heads: int, inner: int, dropout: float, pre_norm: bool = False) -> None:
        super().__init__(width, inner, dropout, pre_norm)
        self.self_attn = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, tokens: Tensor, encoding: Tensor | None = None) -> Tensor:
        """Tokens (B, L, d) with the position encoding (1, L, d), if any, to tokens (B, L, d)."""

        def self_attention(x: Tensor) -> Tensor:
            """Self-attention of the tokens, whose positions are in queries and keys."""
            encoded = x if encoding is None else x + encoding
            return _attend(self.self_attn, encoded, encoded, x)

        return self.residual(self.residual(tokens, self.norm1, self_attention), self.norm2, self.feed_forward)


class DecoderLayer(TransformerLayer):
    """Cross-attention from queries to a memory, then two linear layers; self-attention of the queries first if wanted.

    t <- LN1(t + attention(q = k = t + Q, v = t)) with `self_attention`,
    t <- LN2(t + attention(q = t + Q, k = memory + P, v = memory)), t <- LN3(t + W2 relu(W1 t + b1) + b2).
    """

    def __init__(
        self, width: int, heads: int, inner: int, dropout: float, pre_norm: bool, self_attention: bool
    ) -> None:
        super().__init__(width, inner, dropout, pre_norm)
        self.self_attention = self_attention
        if self_attention:
            self.self_attn = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
            self.norm1 = nn.LayerNorm(width)
        self.multihead_attn = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.norm2, self.norm3 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, tokens: Tensor, queries: Tensor, memory: Tensor, encoding: Tensor) -> Tensor:
        """Tokens (B, K, d) of queries (1, K, d) to tokens (B, K, d), given a memory and its position encoding.

        Args:
            tokens: (B, K, d).
            queries: Q, (1, K, d).
            memory: (B, L, d).
            encoding: P, (1, L, d).
        """
        attending = self._self_attended(tokens, queries)
        attended = self.residual(
            attending, self.norm2, lambda t: _attend(self.multihead_attn, t + queries, memory + encoding, memory)
        )
        return self.residual(attended, self.norm3, self.feed_forward)

    @torch.no_grad()
    def cross_attention(self, tokens: Tensor, queries: Tensor, memory: Tensor, encoding: Tensor) -> Tensor:
        """(B, K, L) weights by which the queries attend to the memory, without gradient; arguments as of `forward`."""
        attending = self._self_attended(tokens, queries)
        before = self.norm2(attending) if self.pre_norm else attending
        return attention_map(self.multihead_attn, before + queries, memory + encoding)

    def _self_attended(self, tokens: Tensor, queries: Tensor) -> Tensor:
        """Tokens (B, K, d) after the self-attention, if there is one."""
        if not self.self_attention:
            return tokens

        def self_attention(t: Tensor) -> Tensor:
            """Self-attention of the classes."""
            return _attend(self.self_attn, t + queries, t + queries, t)

        return self.residual(tokens, self.norm1, self_attention)


def _attend(attention: nn.MultiheadAttention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Output of an attention layer, without the weights, which torch would otherwise keep in full."""
    output: Tensor = attention(query, key, value, need_weights=False)[0]
    return output
