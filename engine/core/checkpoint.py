"""Model files and states of runs, and checkpoints that papers released, read as if they were ours.

A run keeps `best.pth`, a model that anyone can score, and `last/`, all that resuming needs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from engine.core.decisions import Decisions, decisions_of
from engine.core.manifest import Manifest, Published, load_manifest
from models.backbones.given import given_shape
from models.build import Architecture, SettingError, architecture_from, build_model
from models.peers import Network, Peers, build_peers
from models.released import Released, recognise, released_of
from models.released.contents import Contents, HeadOverrides
from utils.checks import UserError, require
from utils.foreign_states import CheckpointWeights
from utils.options import as_text
from utils.safe_files import (
    is_state,
    load_metadata,
    load_tensors,
    require_plain,
    require_plain_tensors,
    write_atomically,
)
from utils.sealed_files import check_seal, save_sealed
from utils.types import StateDict

FORMAT = "partial-truth model 1"

SEES_NO_IMAGE = (
    "is a head on features from a file (--features), without the backbone that made them, so it sees no image: make "
    "features of yours in the same way, and score them with evaluate.py --features FILE"
)
"""What is said of a run or checkpoint where images are wanted."""

_MOST_CLASSES = 1_000_000  # more than any dataset has; a file may say anything


@dataclass(frozen=True)
class SavedModel:
    """A model file: the weights and what is needed to use them."""

    path: Path
    weights: StateDict
    classes: tuple[str, ...]
    """Names in the order of the logits; empty where the file has none, as most that papers released."""
    settings: dict[str, Any]
    """Those of the run; of a released file those of its network, and how its images are prepared (`Preparation`)."""
    epoch: int
    peers: bool
    """True if the weights are those of two networks."""
    num_classes: int
    released: Released | None = None
    """The network of a released file; None for a file of ours."""
    published: Published | None = None
    """The published result of it, if any."""
    notes: tuple[str, ...] = ()
    """Assumptions about the file, one line each."""
    trained_on: torch.Tensor = field(default_factory=lambda: image_marks(()))
    """`image_marks` of the training set of a run of ours; none where they are not known."""
    decisions: Decisions | None = None
    """Thresholds and calibration that were chosen for it, in the order of its logits; None where none were."""

    def seen(self, ids: Sequence[str]) -> int:
        """Number of these image ids that are those of training images."""
        return int(torch.isin(image_marks(ids), self.trained_on).sum())

    @property
    def given_shape(self) -> tuple[int, ...] | None:
        """D, or D, h and w, of the features that the network takes in the place of images; None for one of images."""
        return given_shape(str(self.settings.get("model")))

    @property
    def has_saliency(self) -> bool:
        """True if the network was trained with saliency in its logits."""
        return bool(float(self.settings.get("saliency") or 0))

    def with_saliency(self, in_test: bool) -> SavedModel:
        """The model with saliency in its logits or without. Raises: UserError if it was trained without."""
        told = f"--saliency_test: the network in {self.path} was trained without saliency; leave the flag out"
        require(self.has_saliency, told)
        return replace(self, settings={**self.settings, "saliency_test": in_test})

    def require_images(self) -> None:
        """Raise UserError if the network is a head on features from elsewhere, and can see no image."""
        require(self.given_shape is None, f"{self.path}: {SEES_NO_IMAGE}")

    def build(self) -> Network:
        """The network or networks with these weights. Raises: UserError when they do not fit, or are not finite."""
        architecture = _architecture(self.settings, self.path)
        build = build_peers if self.peers else build_model
        require_plain_tensors(self.weights, self.path)
        if (expected := _meta_state(self, architecture)) is not None:
            _require_fit(expected, self.weights, self.path)  # before memory is taken for sizes that a file only claims
        model = build(architecture, self.num_classes, seed=0, pretrained=False)
        load_weights(model, self.weights, self.path)
        return model


def _meta_state(saved: SavedModel, architecture: Architecture) -> StateDict | None:
    """The tensors of the network without values; None for the few networks that cannot be built so."""
    build = build_peers if saved.peers else build_model
    with suppress(RuntimeError, NotImplementedError), torch.device("meta"):  # they compute their layout with tensors
        return build(architecture, saved.num_classes, seed=0, pretrained=False).state_dict()
    return None


def _architecture(settings: Mapping[str, Any], path: Path) -> Architecture:
    """The architecture of the network. Raises: UserError when a value cannot be one."""
    try:
        return architecture_from(settings)
    except SettingError as error:
        raise UserError(f"{path}: a damaged model file: {error}") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def load_weights(model: Network, weights: Mapping[str, Any], path: Path) -> None:
    """Load all weights or none. Raises: UserError naming the first key or shape that does not fit."""
    _require_fit(model.state_dict(), weights, path)
    model.load_state_dict(dict(weights))


def _require_fit(own: Mapping[str, Any], weights: Mapping[str, Any], path: Path) -> None:
    """Raise UserError naming the first key or shape that does not fit."""
    missing, unknown = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    wrong = [name for name in own if name in weights and own[name].shape != weights[name].shape]
    if missing or unknown or wrong:
        first = f"no {missing[0]}" if missing else f"unexpected {unknown[0]}" if unknown else f"shape of {wrong[0]}"
        raise UserError(
            f"{path}: a checkpoint of another architecture ({first}; {len(missing)} keys missing, {len(unknown)} "
            f"unexpected, {len(wrong)} of another shape); give the --model, --head and dataset it was trained with"
        )


def image_marks(ids: Sequence[str]) -> torch.Tensor:
    """(N,) int64: 64 bits of a hash of each image id, by which a checkpoint knows what it was trained on."""
    marks = bytearray()  # grown, for there may be millions
    for each in ids:
        marks += hashlib.blake2b(each.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return torch.frombuffer(marks, dtype=torch.int64) if ids else torch.empty(0, dtype=torch.int64)


def save_model(
    path: Path,
    model: Network,
    classes: tuple[str, ...],
    settings: dict[str, Any],
    epoch: int,
    trained_on: Sequence[str] = (),
) -> None:
    """Write a model file atomically, which any machine can load, be it without the GPU that the model is on.

    Raises: RunError when the disk refuses; an earlier file stays intact.
    """
    content = {
        "format": FORMAT,
        "model": {name: value.cpu() for name, value in model.state_dict().items()},
        "classes": list(classes),
        "settings": plain_values(settings),
        "epoch": epoch,
        "peers": isinstance(model, Peers),
        "trained_on": image_marks(trained_on),
    }
    save_sealed(path, content)


def save_safetensors(path: Path, saved: SavedModel, classes: tuple[str, ...], settings: Mapping[str, Any]) -> None:
    """Write a model, ours or a released one, as safetensors that `read_model` reads back, atomically.

    Args:
        path: the file to make or replace.
        saved: the model.
        classes: names of its classes; empty where they are not known.
        settings: more than those in `saved`, such as the dataset.

    Raises: UserError when the weights do not make a network; RunError when the disk refuses.
    """
    weights = {name: value.clone().contiguous() for name, value in saved.build().state_dict().items()}
    entries = {
        "classes": list(classes),
        "settings": plain_values({**saved.settings, **settings}),
        "epoch": saved.epoch,
        "peers": saved.peers,
        "num_classes": saved.num_classes,
        **_held_decisions(saved),
    }
    metadata = {"format": FORMAT, **{name: json.dumps(value) for name, value in entries.items()}}
    content = safetensors.torch.save(weights, metadata)
    write_atomically(path, lambda file: file.write(content))


def save_again(saved: SavedModel) -> None:
    """Write the file of a model of ours anew, atomically, with what was decided on its scores since it was read.

    Raises: RunError when the disk refuses; the earlier file stays intact.
    """
    if saved.path.suffix == ".safetensors":
        save_safetensors(saved.path, saved, saved.classes, {})
        return
    content = {
        "format": FORMAT,
        "model": saved.weights,
        "classes": list(saved.classes),
        "settings": saved.settings,
        "epoch": saved.epoch,
        "peers": saved.peers,
        "num_classes": saved.num_classes,
        "trained_on": saved.trained_on,
        **_held_decisions(saved),
    }
    save_sealed(saved.path, content)


def _held_decisions(saved: SavedModel) -> dict[str, Any]:
    return {} if saved.decisions is None else {"decisions": saved.decisions.as_plain()}


def read_model(
    path: Path,
    overrides: HeadOverrides | None = None,
    paper: str | None = None,
    dataset: str | None = None,
    checkpoint_weights: CheckpointWeights | None = None,
) -> SavedModel:
    """Read a model file, ours or one that a paper released; never runs code.

    Args:
        path: the file.
        overrides: settings of a released network that its weights do not show; they win over published ones.
        paper: name of the published result that a released file is of; else it is found by hash or file name.
        dataset: the dataset a released file is used on, None where it is not known yet.
        checkpoint_weights: averaged or raw weights of a released file that holds both; None: the averaged ones.

    Raises: UserError when the file cannot be read, is neither, is damaged, or does not hold the wanted weights.
    """
    check_seal(path, ours=False)
    loaded = load_tensors(path)
    content = _of_safetensors(loaded, path) if path.suffix == ".safetensors" else loaded
    if isinstance(content, dict) and content.get("format") == FORMAT:
        text = f"{path} is a checkpoint of this project, which holds one set of weights; leave the flag out"
        require(checkpoint_weights is None, f"--checkpoint_weights {checkpoint_weights}: {text}")
        return _own(content, path)
    return _released(*recognise(loaded, path, checkpoint_weights), overrides or HeadOverrides(), paper, dataset)


def _of_safetensors(tensors: dict[str, torch.Tensor], path: Path) -> dict[str, Any]:
    """The content that `save_safetensors` wrote, in the form of `save_model`; empty for other files."""
    metadata = load_metadata(path)
    if metadata.get("format") != FORMAT:
        return {}
    try:
        values = {name: json.loads(value) for name, value in metadata.items() if name != "format"}
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: a damaged model file: its metadata cannot be read") from error
    return {**values, "format": FORMAT, "model": tensors}


def _own(content: dict[str, Any], path: Path) -> SavedModel:
    """A model file of ours, its parts checked."""
    check_seal(path)
    kinds = {name: isinstance(content.get(name), kind) for name, kind in (("classes", list), ("settings", dict))}
    sound = {
        "model": is_state(content.get("model")),
        **{name: fits and all(isinstance(each, str) for each in content[name]) for name, fits in kinds.items()},
        "epoch": isinstance(content.get("epoch"), int),
    }
    wrong = [name for name, fine in sound.items() if not fine]
    if wrong:
        raise UserError(f"{path}: a damaged model file: `{wrong[0]}` is missing or of another kind")
    count = content.get("num_classes", len(content["classes"]))
    fits = type(count) is int and 0 < count < _MOST_CLASSES and len(content["classes"]) in (0, count)
    require(fits, f"{path}: a damaged model file: it says it has {str(count)[:20]} classes")
    peers = bool(content.get("peers", False))  # earlier files hold one network and do not say so
    held = tuple(content["classes"]), content["settings"], content["epoch"]
    decisions = decisions_of(content.get("decisions"), count, path)
    return SavedModel(
        path, dict(content["model"]), *held, peers, count, trained_on=_marks(content), decisions=decisions
    )


def _marks(content: Mapping[str, Any]) -> torch.Tensor:
    """Marks of the images that a model was trained on; none of a file that has none, or something else there."""
    marks = content.get("trained_on")
    if isinstance(marks, torch.Tensor) and marks.dtype == torch.int64 and marks.ndim == 1:
        return marks
    return image_marks(())


def _released(
    family: str, contents: Contents, overrides: HeadOverrides, paper: str | None, dataset: str | None
) -> SavedModel:
    """A released file, with its published result."""
    manifest, path = load_manifest(), contents.path
    published, notes = _entry(manifest, path, family, paper, dataset)
    if published is not None:
        known = {key: value for key, value in published.overrides._asdict().items() if value is not None}
        given = {key: value for key, value in overrides._asdict().items() if value is not None}
        overrides = HeadOverrides(**{**known, **given})
    released = released_of(family, contents, overrides)
    view = published.view if published else manifest.families[family].view(dataset)
    if released.img_size and not published:
        view = view._replace(img_size=released.img_size)
    settings = {**released.settings, **view._asdict(), **({"dataset": published.dataset} if published else {})}
    return SavedModel(
        path,
        released.weights,
        released.names,
        settings,
        released.epoch,
        False,
        released.num_classes,
        released,
        published,
        (*released.notes, *notes),
    )


def _entry(
    manifest: Manifest, path: Path, family: str, paper: str | None, dataset: str | None
) -> tuple[Published | None, tuple[str, ...]]:
    """The published result that a file is of, if any, and a note about the choice."""
    if paper is not None:
        entry = manifest.named(paper)
        require(entry.family == family, f"--paper {paper}: is of {entry.family}, but {path} is a file of {family}")
        return entry, ()
    found = manifest.matching(path, family, dataset)
    if len(found) > 1:
        names = ", ".join(entry.name for entry in found[:8])
        return None, (f"several published results have a file of this name: {names}; choose with --paper",)
    return (found[0] if found else None), ()


def save_state(path: Path, state: StateDict, previous: Path | None = None) -> None:
    """Write the state of a run atomically, with a checksum.

    Args:
        path: the file to make or replace; its folder exists.
        state: tensors and plain values.
        previous: a name beside it under which the state that is replaced stays.

    Raises: RunError when the disk refuses; the earlier states stay intact.
    """
    save_sealed(path, state, keep=previous)


def read_state(path: Path) -> StateDict:
    """Read the state of a run; never runs code. Raises: UserError when the file is missing or damaged."""
    check_seal(path)
    state: StateDict = load_tensors(path)
    whole = isinstance(state, dict) and all(name in state for name in ("loop", "recorder", "label_hash"))
    require(whole, f"{path}: damaged, or not the state of a run; put an intact copy back, or start anew")
    _require_plain_tree(state, "state", path)
    return state


def _require_plain_tree(part: Any, name: str, path: Path) -> None:
    """Raise UserError unless every tensor in a nested state is of real numbers and complete in the file."""
    if isinstance(part, torch.Tensor):
        require_plain(name, part, path)
    elif isinstance(part, Mapping | list | tuple):
        for key, value in part.items() if isinstance(part, Mapping) else enumerate(part):
            _require_plain_tree(value, str(key), path)


def plain_values(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with paths and lists as text, so that a checkpoint holds nothing but tensors and plain values."""
    return {name: as_text(value) if isinstance(value, Path | tuple) else value for name, value in settings.items()}
