"""Transformer layers over tokens (B, L, d), as Query2Label and C-Tran use them (Vaswani et al., NIPS 2017; DETR).

B batch, L tokens, d width, h w places of a feature map. Parameters have the names and layouts of torch's own layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from utils.checks import require


def sine_positions(width: int, height: int, breadth: int, device: torch.device | None = None) -> Tensor:
    """Fixed positions of the places of a map (DETR; published code query2labels, lib/models/position_encoding.py).

    u_i = 2 pi i / (h + 1e-6) for row i = 1..h, v_j = 2 pi j / (w + 1e-6) for column j = 1..w; with N = d/2 channels
    for each and t_c = 10000^(2 floor(c/2) / N), channel c is sin(u_i / t_c) where c is even and cos(u_i / t_c) where
    it is odd, then the same of v_j.

    Args:
        width: d, a multiple of 4.
        height: h.
        breadth: w.
        device: where to make them.

    Returns:
        (1, d, h, w) float32.
    """
    half = width // 2
    channel = torch.arange(half, device=device)
    scale = 10000.0 ** (2 * (channel // 2) / half)

    def wave(count: int) -> Tensor:
        """(N, count) the channels of one axis."""
        angle = torch.arange(1, count + 1, device=device) * (2 * math.pi / (count + 1e-6))
        phase = angle / scale[:, None]
        return torch.where((channel % 2 == 0)[:, None], phase.sin(), phase.cos())

    rows, columns = wave(height), wave(breadth)
    both = [rows[:, :, None].expand(-1, -1, breadth), columns[:, None, :].expand(-1, height, -1)]
    return torch.cat(both)[None]


def tokens_of(maps: Tensor) -> Tensor:
    """Maps (B, d, h, w) as tokens (B, h * w, d), row by row."""
    return maps.flatten(2).transpose(1, 2)


def attention_map(attention: nn.MultiheadAttention, query: Tensor, key: Tensor) -> Tensor:
    """Where an attention layer looks, averaged over its heads; nothing is dropped, in training neither.

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
    """The map as it is where widths agree, unless a projection is asked for; else a 1x1 convolution."""
    return nn.Conv2d(width, hidden, kernel_size=1) if projected or width != hidden else nn.Identity()


def check_width(hidden: int, heads: int) -> None:
    """Raise UserError unless a transformer of width `hidden` has room for sine positions and that many heads."""
    require(hidden % 4 == 0, f"--hidden_dim {hidden}: must be a multiple of 4, for the positions of places")
    require(hidden % heads == 0, f"--nheads {heads}: the width of the transformer, {hidden}, must be a multiple of it")


class TransformerLayer(nn.Module):
    """What the two kinds of layers share: a branch is added to the tokens, and the linear layers are the last branch.

    A branch is computed of the tokens and the sum is normalised; with `pre_norm` the branch is computed of normalised
    tokens and the sum is left as it is. Dropout on the attention weights, inside the linear layers, on what is added.
    """

    def __init__(self, width: int, inner: int, dropout: float, pre_norm: bool) -> None:
        super().__init__()
        self.linear1, self.linear2 = nn.Linear(width, inner), nn.Linear(inner, width)
        self.dropout = nn.Dropout(dropout)
        self.pre_norm = pre_norm

    def added(self, tokens: Tensor, norm: nn.Module, branch: Callable[[Tensor], Tensor]) -> Tensor:
        """Tokens (B, L, d) and what `branch` makes of them, which is of the same shape."""
        before: Tensor = norm(tokens) if self.pre_norm else tokens
        total = tokens + self.dropout(branch(before))
        after: Tensor = total if self.pre_norm else norm(total)
        return after

    def feed_forward(self, tokens: Tensor) -> Tensor:
        """W2 relu(W1 x + b1) + b2 of each token."""
        found: Tensor = self.linear2(self.dropout(self.linear1(tokens).relu()))
        return found


class EncoderLayer(TransformerLayer):
    """Self-attention, then two linear layers, each token for itself.

    x <- LN1(x + attention(q = k = x + positions, v = x)), x <- LN2(x + W2 relu(W1 x + b1) + b2).
    """

    def __init__(self, width: int, heads: int, inner: int, dropout: float, pre_norm: bool = False) -> None:
        super().__init__(width, inner, dropout, pre_norm)
        self.self_attn = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, tokens: Tensor, positions: Tensor | None = None) -> Tensor:
        """Tokens (B, L, d), at positions (1, L, d) if they have any, to tokens (B, L, d)."""

        def look(x: Tensor) -> Tensor:
            placed = x if positions is None else x + positions
            return _attend(self.self_attn, placed, placed, x)

        return self.added(self.added(tokens, self.norm1, look), self.norm2, self.feed_forward)


class DecoderLayer(TransformerLayer):
    """Queries that look at a memory, then two linear layers; before them, if so built, the queries at each other.

    t <- LN1(t + attention(q = k = t + Q, v = t)) with `self_attention`,
    t <- LN2(t + attention(q = t + Q, k = memory + positions, v = memory)), t <- LN3(t + W2 relu(W1 t + b1) + b2).
    """

    def __init__(
        self, width: int, heads: int, inner: int, dropout: float, pre_norm: bool = False, self_attention: bool = False
    ) -> None:
        super().__init__(width, inner, dropout, pre_norm)
        self.self_attention = self_attention
        if self_attention:
            self.self_attn = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
            self.norm1 = nn.LayerNorm(width)
        self.multihead_attn = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.norm2, self.norm3 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, tokens: Tensor, queries: Tensor, memory: Tensor, positions: Tensor) -> Tensor:
        """Tokens (B, K, d) that ask queries (1, K, d) of memory (B, L, d) at positions (1, L, d): tokens (B, K, d)."""
        asking = self._asking(tokens, queries)
        found = self.added(
            asking, self.norm2, lambda t: _attend(self.multihead_attn, t + queries, memory + positions, memory)
        )
        return self.added(found, self.norm3, self.feed_forward)

    @torch.no_grad()
    def looks(self, tokens: Tensor, queries: Tensor, memory: Tensor, positions: Tensor) -> Tensor:
        """(B, K, L) where the queries look in the memory, without gradient; arguments as of `forward`."""
        asking = self._asking(tokens, queries)
        before = self.norm2(asking) if self.pre_norm else asking
        return attention_map(self.multihead_attn, before + queries, memory + positions)

    def _asking(self, tokens: Tensor, queries: Tensor) -> Tensor:
        """The tokens that look at the memory: as they came, or after they have looked at each other."""
        if not self.self_attention:
            return tokens

        def look(t: Tensor) -> Tensor:
            return _attend(self.self_attn, t + queries, t + queries, t)

        return self.added(tokens, self.norm1, look)


def _attend(attention: nn.MultiheadAttention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """What an attention layer gives, without the weights, which torch would otherwise hold in full."""
    found: Tensor = attention(query, key, value, need_weights=False)[0]
    return found
