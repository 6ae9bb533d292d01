"""Checkpoints that papers released, read into the networks of this project.

A family is recognised by the names of its tensors; every tensor is renamed, documented as dead weight, or listed as
unexpected, and nothing is loaded in part. Formats, sources and what is dropped: docs/checkpoints.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from models.build import Architecture, build_model
from models.released.contents import Contents, HeadOverrides, Plan, listed, unpack
from models.released.resnets import (
    is_bce,
    is_boostlu,
    is_cones,
    is_csra,
    is_distribution_balanced,
    is_ignore,
    is_large_loss,
    is_ndlp,
    is_single_positive,
    plan_boostlu,
    plan_csra,
    plan_fc_all,
    plan_ignore,
    plan_linear_classifier,
    plan_neck,
)
from models.released.transformers import is_query2label, is_vit_csra, plan_query2label, plan_vit_csra
from models.released.tresnets import is_asl, plan_asl
from utils.checks import UserError
from utils.foreign_states import CheckpointWeights
from utils.safe_files import require_plain_tensors


class Family(NamedTuple):
    """A kind of released checkpoints."""

    title: str
    matches: Callable[[Contents], bool]
    plan: Callable[[Contents, HeadOverrides], Plan]


FAMILIES: dict[str, Family] = {
    "cones": Family("CoNeS", is_cones, plan_fc_all),
    "bce": Family("BCE baseline of CoNeS", is_bce, plan_fc_all),
    "csra": Family("CSRA", is_csra, plan_csra),
    "vit_csra": Family("CSRA on a ViT", is_vit_csra, plan_vit_csra),
    "large_loss": Family("LargeLossMatters", is_large_loss, plan_linear_classifier),
    "single_positive": Family("single-positive", is_single_positive, plan_linear_classifier),
    "boostlu": Family("BoostLU", is_boostlu, plan_boostlu),
    "ignore": Family("IGNORE", is_ignore, plan_ignore),
    "distribution_balanced": Family("DistributionBalancedLoss", is_distribution_balanced, plan_neck),
    "ndlp": Family("NDLP", is_ndlp, plan_neck),
    "query2label": Family("Query2Label", is_query2label, plan_query2label),
    "asl": Family("ASL", is_asl, plan_asl),
}
"""The families in the order in which they are tried."""


class Released(NamedTuple):
    """A released checkpoint, ready for use."""

    family: str
    settings: dict[str, Any]
    """Settings of model and head by name."""
    num_classes: int
    weights: dict[str, Tensor]
    """All tensors of the network, by our names."""
    dropped: tuple[str, ...]
    """Published names of dead weight that was left out."""
    notes: tuple[str, ...]
    """Assumptions that were made, one line each."""
    names: tuple[str, ...]
    """Names of the classes if they are in the file, else none."""
    img_size: int | None
    """The size of images if the weights show it."""
    epoch: int


class MisfitError(UserError):
    """Tensors of a file that its network lacks, or the other way round; the message names the first few."""

    def __init__(self, message: str, missing: list[str], unexpected: list[str], reshaped: list[str]) -> None:
        super().__init__(message)
        self.missing, self.unexpected, self.reshaped = missing, unexpected, reshaped


def recognise(content: Any, path: Path, wanted: CheckpointWeights | None = None) -> tuple[str, Contents]:
    """The family of a file and its contents.

    Args:
        content: the file as `utils.safe_files.load_tensors` returns it.
        path: the file, for messages.
        wanted: averaged or raw weights where the file holds both; None: the averaged ones.

    Raises: UserError when it is of no known family, or does not hold the wanted weights.
    """
    contents = unpack(content, path, wanted)
    family = next((name for name, each in FAMILIES.items() if each.matches(contents)), None)
    if family is None:
        raise UserError(
            f"{path}: a checkpoint of no kind that is read here (it has {contents.first_names()}); "
            f"docs/checkpoints.md lists them, and --weights FILE of a training script takes a backbone"
        )
    return family, contents


def read_released(content: Any, path: Path, overrides: HeadOverrides | None = None) -> Released:
    """The network in a released checkpoint.

    Args:
        content: the file as `utils.safe_files.load_tensors` returns it.
        path: the file, for messages.
        overrides: settings that do not show in weights; the published defaults of others are assumed and noted.

    Raises:
        UserError: the file is of no known family, or damaged.
        MisfitError: tensors are missing, unexpected or of another shape; all are listed.
    """
    family, contents = recognise(content, path)
    return released_of(family, contents, overrides or HeadOverrides())


def released_of(family: str, contents: Contents, overrides: HeadOverrides) -> Released:
    """The network in the contents of a file whose family is known; as `read_released`."""
    plan = FAMILIES[family].plan(contents, overrides)
    names = {key: plan.rename(key) for key in contents.state}
    kept = {key: contents.state[key] for key, name in names.items() if name != ""}
    require_plain_tensors(kept, contents.path)
    weights = plan.adjust({name: _as_float32(contents.state[key]) for key, name in names.items() if name})
    unexpected = [key for key, name in names.items() if name is None]
    epoch = contents.metadata.get("epoch")
    return Released(
        family,
        plan.settings,
        plan.num_classes,
        _fitted(weights, unexpected, plan, contents.path, FAMILIES[family].title),
        tuple(key for key, name in names.items() if name == ""),
        (*contents.notes, *plan.notes),
        plan.names if len(plan.names) == plan.num_classes else (),
        plan.img_size,
        epoch if type(epoch) is int else 0,
    )


def _fitted(
    weights: Mapping[str, Tensor], unexpected: list[str], plan: Plan, path: Path, title: str
) -> dict[str, Tensor]:
    """The weights by the network's own names and types, absent batch counters as 0."""
    own = _meta_state(plan, path)
    counters = {key for key in own if key.endswith("num_batches_tracked")}  # no file of before 2018 has them
    missing = [key for key in own if key not in weights and key not in counters]
    extra = [*unexpected, *(key for key in weights if key not in own)]
    reshaped = [
        f"{key} {tuple(weights[key].shape)} for {tuple(own[key].shape)}"
        for key in own
        if key in weights and not _fits(weights[key], own[key], key in counters)
    ]
    faults = {"missing": missing, "unexpected": extra, "of another shape or kind": reshaped}
    messages = [f"{len(keys)} {fault} ({listed(keys)})" for fault, keys in faults.items() if keys]
    if messages:
        message = f"{path}: does not fit {title} ({plan.settings['model']}): {'; '.join(messages)}; nothing was loaded"
        raise MisfitError(message, missing, extra, reshaped)
    state = {**{key: torch.zeros((), dtype=torch.int64) for key in counters}, **weights}
    return {key: state[key].to(value.dtype) for key, value in own.items()}


def _as_float32(value: Tensor) -> Tensor:
    """Floats of any precision in float32; counters as they are."""
    return value.float() if value.is_floating_point() else value


def _fits(value: Tensor, own: Tensor, counter: bool) -> bool:
    """Tell whether a tensor has the shape of the network's own, and is floating or not as that is.

    Averages make fractions of counters too.
    """
    return value.shape == own.shape and (counter or value.is_floating_point() == own.is_floating_point())


def _meta_state(plan: Plan, path: Path) -> dict[str, Tensor]:
    """Names, shapes and types of the network's tensors, without values."""
    try:
        with torch.device("meta"):
            return build_model(architecture_of(plan.settings), plan.num_classes, seed=0, pretrained=False).state_dict()
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def architecture_of(settings: Mapping[str, Any]) -> Architecture:
    """The architecture of a released network. Raises: UserError when the settings cannot be."""
    return Architecture.of(**settings, weights="none")
