"""What a run keeps on disk: `best.pth` (a model anyone can score) and `last/` (all that resuming needs)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from models.build import ModelConfig, build_model
from models.peers import Network, Peers, build_peers
from utils.checks import UserError
from utils.safe_files import load_tensors, write_atomically
from utils.types import StateDict

FORMAT = "partial-truth model 1"


@dataclass(frozen=True)
class SavedModel:
    """A model file of ours: the weights and what is needed to use them."""

    path: Path
    weights: StateDict
    classes: tuple[str, ...]
    settings: dict[str, Any]
    epoch: int
    peers: bool  # whether the weights are those of two networks

    def build(self) -> Network:
        """The network or networks with these weights. Raises: UserError when they do not fit the architecture."""
        names = ModelConfig.__dataclass_fields__
        config = ModelConfig(**{name: value for name, value in self.settings.items() if name in names})
        build = build_peers if self.peers else build_model
        model = build(config, len(self.classes), seed=0, pretrained=False)
        load_weights(model, self.weights, self.path)
        return model


def load_weights(model: Network, weights: Mapping[str, Any], path: Path) -> None:
    """Load all weights or none. Raises: UserError naming the first key or shape that does not fit."""
    own = model.state_dict()
    missing, unknown = sorted(own.keys() - weights.keys()), sorted(weights.keys() - own.keys())
    wrong = [name for name in own if name in weights and own[name].shape != weights[name].shape]
    if missing or unknown or wrong:
        first = f"no {missing[0]}" if missing else f"unexpected {unknown[0]}" if unknown else f"shape of {wrong[0]}"
        raise UserError(
            f"{path}: a checkpoint of another architecture ({first}; {len(missing)} keys missing, {len(unknown)} "
            f"unexpected, {len(wrong)} of another shape); give the --model, --head and dataset it was trained with"
        )
    model.load_state_dict(dict(weights))


def save_model(path: Path, model: Network, classes: tuple[str, ...], settings: dict[str, Any], epoch: int) -> None:
    """Write a model file atomically. Raises: RunError when the disk refuses; an earlier file stays intact."""
    content = {
        "format": FORMAT,
        "model": model.state_dict(),
        "classes": list(classes),
        "settings": plain_values(settings),
        "epoch": epoch,
        "peers": isinstance(model, Peers),
    }
    write_atomically(path, lambda file: torch.save(content, file))


def read_model(path: Path) -> SavedModel:
    """Read a model file of ours; never runs code. Raises: UserError when it is none."""
    content = load_tensors(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path}: not a model file of this project (best.pth of a run)")
    kinds = {"model": dict, "classes": list, "settings": dict, "epoch": int}
    wrong = [name for name, kind in kinds.items() if not isinstance(content.get(name), kind)]
    if wrong:
        raise UserError(f"{path}: a damaged model file: `{wrong[0]}` is missing or of another kind")
    peers = content.get("peers", False)  # earlier files hold one network and do not say so
    return SavedModel(path, content["model"], tuple(content["classes"]), content["settings"], content["epoch"], peers)


def save_state(path: Path, state: StateDict) -> None:
    """Write the state of a run atomically. Raises: RunError when the disk refuses; the earlier state stays intact."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: torch.save(state, file))


def read_state(path: Path) -> StateDict:
    """Read the state of a run; never runs code."""
    state: StateDict = load_tensors(path)
    return state


def plain_values(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with paths as text, so that a checkpoint holds nothing but tensors and plain values."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in settings.items()}
