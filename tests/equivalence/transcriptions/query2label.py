"""Query2Label: `main_mlc.py` of SlongLiu/query2labels (../shared/spec/models.md, sections 1, 2).

The loop is ASL's, with other parts: stem and first stage frozen, all BatchNorm of the backbone as it starts; a last
batch that is not full is left out of training; AdamW, whose rate of batch / 256 the one-cycle rate overrides at once;
the asymmetric loss divided by B and K, times 1000. Raw and averaged weights are scored, and the best of all is kept:
here the averaged, of the last epoch, as in ours. Left out: half precision, Cutout, RandAugment, the early stop.
B batch, K classes, d width, L positions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.equivalence.plain import IMAGENET, Given, Net, Outcome
from tests.equivalence.transcriptions.asl import asymmetric, cycle


def positions(width: int, height: int, length: int) -> Tensor:
    """(L, d) sine encoding: half of the channels tell the row, half the column."""
    half = width // 2
    table = torch.empty(height, length, width, dtype=torch.float64)
    for row in range(height):
        for column in range(length):
            for channel in range(half):
                scale = 10000 ** (2 * (channel // 2) / half)
                wave = math.sin if channel % 2 == 0 else math.cos
                table[row, column, channel] = wave(2 * math.pi * (row + 1) / (height + 1e-6) / scale)
                table[row, column, half + channel] = wave(2 * math.pi * (column + 1) / (length + 1e-6) / scale)
    return table.flatten(0, 1)


def attended(layer: nn.MultiheadAttention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Scaled dot products, head by head."""
    width, heads = layer.embed_dim, layer.num_heads
    q, k, v = (
        F.linear(each, weight, bias).unflatten(2, (heads, width // heads)).transpose(1, 2)
        for each, weight, bias in zip(
            (query, key, value), layer.in_proj_weight.chunk(3), layer.in_proj_bias.chunk(3), strict=True
        )
    )
    weights = torch.softmax(q @ k.transpose(2, 3) / math.sqrt(width // heads), dim=3)
    joined: Tensor = layer.out_proj((weights @ v).transpose(1, 2).flatten(2))
    return joined


class Layer(nn.Module):
    """An attention and two linear layers, each added and normalised; named as in the release."""

    def __init__(self, width: int, inner: int, heads: int, decoding: bool) -> None:
        super().__init__()
        attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.decoding = decoding
        self.add_module("multihead_attn" if decoding else "self_attn", attention)
        self.linear1, self.linear2 = nn.Linear(width, inner), nn.Linear(inner, width)
        for name in ("norm2", "norm3") if decoding else ("norm1", "norm2"):
            self.add_module(name, nn.LayerNorm(width))

    def forward(self, tokens: Tensor, own: Tensor, memory: Tensor, encoding: Tensor) -> Tensor:
        """Tokens after both branches."""
        if self.decoding:
            tokens = self.norm2(tokens + attended(self.multihead_attn, tokens + own, memory + encoding, memory))
            last = self.norm3
        else:
            at = tokens + encoding
            tokens, last = self.norm1(tokens + attended(self.self_attn, at, at, tokens)), self.norm2
        result: Tensor = last(tokens + self.linear2(torch.relu(self.linear1(tokens))))
        return result


class QueryHead(nn.Module):
    """One encoder layer over the positions, two decoder layers for the classes, a vector and a bias for each."""

    def __init__(self, classes: int, inner: int, heads: int, width: int = 96) -> None:
        super().__init__()
        encoder = nn.ModuleDict({"layers": nn.ModuleList([Layer(width, inner, heads, False)])})
        layers = nn.ModuleList(Layer(width, inner, heads, True) for _ in range(2))
        decoder = nn.ModuleDict({"layers": layers, "norm": nn.LayerNorm(width)})
        self.transformer = nn.ModuleDict({"encoder": encoder, "decoder": decoder})
        self.query_embed = nn.Embedding(classes, width)
        self.fc = nn.ParameterDict({"W": torch.zeros(1, classes, width), "b": torch.zeros(1, classes)})

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, K)."""
        memory = features.flatten(2).transpose(1, 2)
        encoding, queries = positions(*features.shape[1:])[None], self.query_embed.weight[None]
        encoder, decoder = self.transformer["encoder"], self.transformer["decoder"]
        for layer in encoder["layers"]:
            memory = layer(memory, memory, memory, encoding)
        tokens = torch.zeros_like(queries).expand(len(memory), -1, -1)
        for layer in decoder["layers"]:
            tokens = layer(tokens, queries, memory, encoding)
        return (self.fc["W"] * decoder["norm"](tokens)).sum(dim=2) + self.fc["b"]


class FrozenNormNet(Net):
    """The network with its stem, its first stage and all BatchNorm of the backbone as they start."""

    def __init__(self, given: Given, inner: int, heads: int) -> None:
        super().__init__(QueryHead(given.observed.shape[1], inner, heads), given.start)
        norms = [module for module in self.backbone.modules() if isinstance(module, nn.BatchNorm2d)]
        for part in (self.backbone.conv1, self.backbone.layer1, *norms):
            part.requires_grad_(False)

    def train(self, mode: bool = True) -> FrozenNormNet:
        """The head alone changes its mode."""
        super().train(mode)
        for module in self.backbone.modules():
            module.eval()
        return self


def train(
    given: Given, *, dim_feedforward: int = 8192, nheads: int = 4, lr: float = 1e-4, ema: float = 0.9997
) -> Outcome:
    """The whole run; dropout is 0."""
    whole = len(given.truth["train"]) // given.batch_size
    given = given._replace(order=[batches[:whole] for batches in given.order])
    net = FrozenNormNet(given, dim_feedforward, nheads)
    learning = [parameter for parameter in net.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=given.batch_size / 256 * lr, weight_decay=1e-2)

    def loss_of(logits: Tensor, labels: Tensor) -> Tensor:
        losses = asymmetric(logits, labels, gamma_neg=2, margin=0, eps=1e-5)
        return losses.sum() / len(logits) / labels.shape[1] * 1000

    return cycle(given, net, optimizer, loss_of, lr=lr, epochs=len(given.order), ema=ema, normalise=IMAGENET)
