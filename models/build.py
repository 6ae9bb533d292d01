"""From settings to a model."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from models.backbones import BACKBONES, STAGES, load_weights
from models.classifier import Classifier
from models.heads import HEADS, check_num_heads
from utils.checks import require
from utils.options import option


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which network, and what it starts from."""

    model: Literal["resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "scenenet"] = option(
        "resnet101", "backbone; scenenet is a small one for 40 x 40 scenes"
    )
    head: Literal["linear", "csra", "pfc"] = option(
        "linear", "mean pooling and a linear layer, residual attention (CSRA), or a normalised neck and a layer (PFC)"
    )
    num_heads: int = option(1, "attention heads of CSRA: 1, 2, 4, 6 or 8")
    lam: float = option(0.1, "weight of CSRA's attention beside the mean")
    boostlu: float | None = option(
        None, "BoostLU: positive scores of places are multiplied by this before pooling (5 in the paper; default: off)"
    )
    neck_width: int = option(256, "features between the two layers of PFC")
    neck_dropout: float = option(0.5, "dropout of these features")
    frozen_stages: int = option(
        -1, "the backbone's first layer (0) and so many stages behind it stay as they are, in every epoch; -1: none"
    )
    norm_eval: bool = option(False, "BatchNorm of the backbone keeps the statistics it starts with")
    weights: str = option(
        "default", "backbone weights: default (torchvision IMAGENET1K_V1), none, or a .pth or .safetensors"
    )

    def __post_init__(self) -> None:
        require(self.model in MODELS, f"--model {self.model}: choose from {', '.join(MODELS)}")
        require(self.head in HEADS, f"--head {self.head}: choose from {', '.join(HEADS)}")
        require(math.isfinite(self.lam) and self.lam >= 0, f"--lam {self.lam}: a number of at least 0 is needed")
        require(
            self.boostlu is None or (math.isfinite(self.boostlu) and self.boostlu > 0),
            f"--boostlu {self.boostlu}: a number above 0 is needed; leave it out for no boost",
        )
        require(
            self.boostlu is None or self.head != "pfc",
            "--boostlu: boosts scores of places, which --head pfc does not have; take --head linear or csra",
        )
        require(self.neck_width >= 1, f"--neck_width {self.neck_width}: must be at least 1")
        require(0 <= self.neck_dropout < 1, f"--neck_dropout {self.neck_dropout}: must be in [0, 1)")
        stages = STAGES[self.model]
        require(
            -1 <= self.frozen_stages <= stages,
            f"--frozen_stages {self.frozen_stages}: {self.model} has {stages}; give -1 (none) to {stages}",
        )
        require(bool(self.weights), "--weights is empty: give default, none or a path")
        check_num_heads(self.num_heads)


def backbone_and_head(config: ModelConfig, num_classes: int) -> Classifier:
    """The classifier of a configured backbone and head, randomly initialised."""
    backbone = BACKBONES[config.model]()
    head = HEADS[config.head](backbone.width, num_classes, config)
    return Classifier(backbone, head, frozen_stages=config.frozen_stages, norm_eval=config.norm_eval)


MODELS: dict[str, Callable[[ModelConfig, int], Classifier]] = dict.fromkeys(BACKBONES, backbone_and_head)
"""Models by the name `--model` takes."""


def build_model(config: ModelConfig, num_classes: int, seed: int, pretrained: bool = True) -> Classifier:
    """The configured model on the CPU.

    Args:
        config: which model.
        num_classes: C.
        seed: decides what is random in the start; torch's own generator is left as it was.
        pretrained: False leaves `config.weights` unread, for a checkpoint is going to replace all parameters.

    Raises: UserError when weights cannot be had or do not fit.
    """
    require(num_classes > 0, f"a model needs at least one class, got {num_classes}")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which reseeds the GPUs as well
        model = MODELS[config.model](config, num_classes)
    if pretrained:
        load_weights(model.backbone, config.model, config.weights)
    return model
