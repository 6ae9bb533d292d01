"""From settings to a model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch

from models.backbones.build import build_backbone, load_weights, require_backbone
from models.classifier import Classifier
from models.heads.ctran import CTranHead
from models.heads.gcn import GCNHead, LabelGraph, label_graph
from models.heads.pooling import (
    BoostedCSRAHead,
    BoostedLinearHead,
    CSRAHead,
    Head,
    LinearHead,
    PFCHead,
    check_num_heads,
)
from models.heads.query2label import Query2LabelHead
from models.heads.word_vectors import class_vectors, vector_width
from utils.checks import require
from utils.options import option
from utils.types import LabelTable


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which network, and what it starts from."""

    model: str = option(
        "resnet101",
        "backbone: any classification network of torchvision (resnet50, convnext_tiny, vit_b_16, ...), timm/NAME where "
        "timm is installed, or scenenet, a small one for 40 x 40 scenes",
    )
    head: Literal["linear", "csra", "pfc", "q2l", "gcn", "ctran"] = option(
        "linear",
        "mean pooling and a linear layer, residual attention (csra), a normalised neck and a layer (pfc), Query2Label "
        "(q2l), ML-GCN (gcn) or C-Tran (ctran)",
    )
    num_heads: int = option(1, "attention heads of CSRA: 1, 2, 4, 6 or 8")
    lam: float = option(0.1, "weight of CSRA's attention beside the mean")
    boostlu: float | None = option(
        None, "BoostLU: positive scores of places are multiplied by this before pooling (5 in the paper; default: off)"
    )
    neck_width: int = option(256, "features between the two layers of PFC")
    neck_dropout: float = option(0.5, "dropout of these features")
    hidden_dim: int | None = option(
        None,
        "q2l, ctran: width of the transformer (default: that of the backbone; else a 1x1 convolution stands first)",
    )
    dim_feedforward: int | None = option(
        None, "q2l, ctran: width inside its linear layers (default: q2l 4 times --hidden_dim, ctran the same as it)"
    )
    nheads: int = option(4, "q2l, ctran: attention heads")
    enc_layers: int | None = option(
        None, "q2l: layers over the map (default 1); ctran: layers over map and labels (default 3)"
    )
    dec_layers: int = option(2, "q2l: layers in which the classes look at the map")
    dropout: float = option(0.1, "q2l, ctran: dropout in every layer")
    keep_input_proj: bool = option(False, "q2l: a 1x1 convolution first where widths agree, too")
    pre_norm: bool = option(False, "q2l: norms before the branches of a layer instead of behind the sums")
    keep_first_self_attn_dec: bool = option(False, "q2l: classes look at each other in the first decoder layer")
    keep_other_self_attn_dec: bool = option(False, "q2l: classes look at each other in the other decoder layers")
    pos_emb: bool = option(False, "ctran: places of the map have sine positions")
    unknown_state: Literal["zeros", "random"] = option(
        "zeros", "ctran: the state of a label that is not known adds nothing, or a fixed random vector, as published"
    )
    word_vectors: str = option(
        "random", "gcn: vectors of the class names: random, one-hot, a GloVe text file, or a .npy with a row a class"
    )
    word_width: int = option(300, "gcn: numbers of a word vector; a file must have as many")
    gcn_width: int = option(1024, "gcn: width between the two graph convolutions")
    gcn_threshold: float = option(0.4, "gcn: share P(j|i) from which label j goes with label i", aliases=("gcn_t",))
    gcn_p: float = option(0.2, "gcn: weight of the labels that go with a label, beside itself; p/(1-p) is 0.25")
    frozen_stages: int = option(
        -1, "the backbone's first layer (0) and so many stages behind it stay as they are, in every epoch; -1: none"
    )
    norm_eval: bool = option(False, "BatchNorm of the backbone keeps the statistics it starts with")
    norm_frozen: bool = option(False, "BatchNorm of the backbone keeps statistics, scale and shift (Query2Label)")
    weights: str = option(
        "default", "backbone weights: default (torchvision IMAGENET1K_V1), none, or a .pth or .safetensors"
    )

    def __post_init__(self) -> None:
        require_backbone(self.model)
        require(self.head in HEADS, f"--head {self.head}: choose from {', '.join(HEADS)}")
        _check_pooling(self)
        _check_transformer(self)
        _check_graph(self)
        require(self.frozen_stages >= -1, f"--frozen_stages {self.frozen_stages}: give -1 (none), 0 or more")
        require(bool(self.weights), "--weights is empty: give default, none or a path")


def _check_pooling(config: ModelConfig) -> None:
    """What linear, csra and pfc are told."""
    require(math.isfinite(config.lam) and config.lam >= 0, f"--lam {config.lam}: a number of at least 0 is needed")
    require(
        config.boostlu is None or (math.isfinite(config.boostlu) and config.boostlu > 0),
        f"--boostlu {config.boostlu}: a number above 0 is needed; leave it out for no boost",
    )
    require(
        config.boostlu is None or config.head in ("linear", "csra"),
        f"--boostlu: boosts scores of places, which --head {config.head} does not pool; take --head linear or csra",
    )
    require(config.neck_width >= 1, f"--neck_width {config.neck_width}: must be at least 1")
    require(0 <= config.neck_dropout < 1, f"--neck_dropout {config.neck_dropout}: must be in [0, 1)")
    check_num_heads(config.num_heads)


def _check_transformer(config: ModelConfig) -> None:
    """What q2l and ctran are told."""
    for name in ("hidden_dim", "dim_feedforward", "nheads", "enc_layers", "dec_layers"):
        value = getattr(config, name)
        require(value is None or value >= 1, f"--{name} {value}: must be at least 1")
    require(0 <= config.dropout < 1, f"--dropout {config.dropout}: must be in [0, 1)")
    require(config.unknown_state in ("zeros", "random"), f"--unknown_state {config.unknown_state}: zeros or random")


def _check_graph(config: ModelConfig) -> None:
    """What gcn is told."""
    require(bool(config.word_vectors), "--word_vectors is empty: give random, one-hot or a path")
    for name in ("word_width", "gcn_width"):
        require(getattr(config, name) >= 1, f"--{name} {getattr(config, name)}: must be at least 1")
    require(0 < config.gcn_threshold <= 1, f"--gcn_threshold {config.gcn_threshold}: must be above 0, at most 1")
    require(0 <= config.gcn_p < 1, f"--gcn_p {config.gcn_p}: must be in [0, 1)")


class LabelInfo(NamedTuple):
    """What a head may have to know of the labels before training."""

    classes: Sequence[str]
    """The C class names."""
    observed: LabelTable
    """The training set's labels as training sees them, (N, C)."""


def linear_head(width: int, classes: int, config: ModelConfig, facts: LabelInfo | None) -> Head:
    """A linear head, boosted if so set."""
    if config.boostlu is None:
        return LinearHead(width, classes)
    return BoostedLinearHead(width, classes, config.boostlu)


def csra_head(width: int, classes: int, config: ModelConfig, facts: LabelInfo | None) -> Head:
    """A head of residual attention, boosted if so set."""
    if config.boostlu is None:
        return CSRAHead(width, classes, config.num_heads, config.lam)
    return BoostedCSRAHead(width, classes, config.num_heads, config.lam, config.boostlu)


def pfc_head(width: int, classes: int, config: ModelConfig, facts: LabelInfo | None) -> Head:
    """A head with a neck."""
    return PFCHead(width, classes, config.neck_width, config.neck_dropout)


def q2l_head(width: int, classes: int, config: ModelConfig, facts: LabelInfo | None) -> Head:
    """A Query2Label head."""
    return Query2LabelHead(
        width,
        classes,
        hidden=config.hidden_dim,
        inner=config.dim_feedforward,
        heads=config.nheads,
        encoder_layers=config.enc_layers or 1,
        decoder_layers=config.dec_layers,
        dropout=config.dropout,
        projected=config.keep_input_proj,
        pre_norm=config.pre_norm,
        self_attention=(config.keep_first_self_attn_dec, config.keep_other_self_attn_dec),
    )


def gcn_head(width: int, classes: int, config: ModelConfig, facts: LabelInfo | None) -> Head:
    """An ML-GCN head; without facts its vectors and its graph are empty, for a checkpoint to fill."""
    if facts is None:
        vectors = torch.zeros(classes, vector_width(config.word_vectors, classes, config.word_width))
        return GCNHead(width, LabelGraph(vectors, torch.zeros(classes, classes)), config.gcn_width)
    size = vector_width(config.word_vectors, classes, config.word_width)
    vectors = class_vectors(config.word_vectors, facts.classes, size)
    graph = label_graph(facts.observed, config.gcn_threshold, config.gcn_p)
    return GCNHead(width, LabelGraph(vectors, graph), config.gcn_width)


def ctran_head(width: int, classes: int, config: ModelConfig, facts: LabelInfo | None) -> Head:
    """A C-Tran head."""
    return CTranHead(
        width,
        classes,
        hidden=config.hidden_dim,
        inner=config.dim_feedforward,
        heads=config.nheads,
        layers=config.enc_layers or 3,
        dropout=config.dropout,
        positions=config.pos_emb,
        unknown_zero=config.unknown_state == "zeros",
    )


HEADS: dict[str, Callable[[int, int, ModelConfig, LabelInfo | None], Head]] = {
    "linear": linear_head,
    "csra": csra_head,
    "pfc": pfc_head,
    "q2l": q2l_head,
    "gcn": gcn_head,
    "ctran": ctran_head,
}
"""Heads by name: called with feature width D, number of classes C, the settings, and what is known of the labels."""

INFORMED = frozenset({"gcn"})
"""Heads that cannot start without knowing something of the labels."""

TOLD = frozenset({"ctran"})
"""Heads that can be told labels of the images they judge."""


def require_head(config: ModelConfig, needs: frozenset[str], method: str) -> None:
    """Raise UserError unless the head can do what a criterion of these `needs` asks of it."""
    require(
        "labels" not in needs or config.head in TOLD,
        f"--head {config.head}: {method} tells the network labels, which this head does not take; give --head "
        f"{', '.join(TOLD)}, or train it by another method",
    )


def build_model(
    config: ModelConfig, num_classes: int, seed: int, pretrained: bool = True, facts: LabelInfo | None = None
) -> Classifier:
    """The configured model on the CPU.

    Args:
        config: which model.
        num_classes: C.
        seed: decides what is random in the start; torch's own generator is left as it was.
        pretrained: False leaves `config.weights` and files of word vectors unread, for a checkpoint is going to
            replace all parameters and buffers.
        facts: of the labels, for heads in `INFORMED`; they become buffers, so a checkpoint needs none.

    Raises:
        UserError: weights or word vectors cannot be had or do not fit, or sizes do not go together.
        ValueError: a head in `INFORMED` is to start without facts.
    """
    require(num_classes > 0, f"a model needs at least one class, got {num_classes}")
    if pretrained and facts is None and config.head in INFORMED:
        raise ValueError(f"--head {config.head} is built from facts of the labels")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which reseeds the GPUs as well
        backbone = build_backbone(config.model)
        head = HEADS[config.head](backbone.width, num_classes, config, facts if pretrained else None)
    stages = len(backbone.stages()) - 1
    require(
        config.frozen_stages <= stages,
        f"--frozen_stages {config.frozen_stages}: {config.model} has {stages}; give -1 (none) to {stages}",
    )
    model = Classifier(
        backbone,
        head,
        frozen_stages=config.frozen_stages,
        norm_eval=config.norm_eval,
        norm_frozen=config.norm_frozen,
    )
    if pretrained:
        load_weights(model.backbone, config.model, config.weights)
    return model
