"""Backbones by name, with their pretrained weights.

`scenenet`, every classification network of torchvision, `tresnet_m`, `tresnet_l`, `tresnet_xl`, and `timm/NAME` where
timm is installed.

As a command, `python -m models.backbones CHECKPOINT OUT.safetensors` takes the backbone out of a run's checkpoint, in
half the size; `--weights` reads the checkpoint as well.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import safetensors.torch
import torch
import torchvision
from torch import Tensor

from models.backbones.feature_extractors import Backbone, SceneNet, backbone_class
from models.backbones.given import GivenFeatures, given_shape
from models.backbones.packaged import PACKAGED, packaged_state
from models.backbones.timm_networks import PREFIX, TimmFeatureExtractor, require_timm_model
from models.backbones.tresnet import TRESNETS, TResNet, positive_scales
from models.backbones.weights_file import backbone_state
from utils.checks import RunError, UserError, require
from utils.console import say
from utils.foreign_states import CheckpointWeights
from utils.nearest import nearest
from utils.safe_files import all_finite, is_state, load_tensors, write_atomically

SCENENET_WEIGHTS = Path(__file__).parents[1] / "weights" / "scenenet_letters.safetensors"
"""Trained on scenes of letters; no digit was seen."""


class Pretrained(NamedTuple):
    """The source of a backbone's default weights."""

    name: str
    file: Callable[[], Path]  # finds or fetches; raises UserError


class LoadedFile(NamedTuple):
    """A file of weights that was read."""

    path: Path
    content: Any


def _imagenet(name: str) -> Pretrained:
    """The first ImageNet weights of torchvision (IMAGENET1K_V1), which the papers started from.

    Two networks have none; theirs are the first for images of 224 pixels (IMAGENET1K_SWAG_LINEAR_V1).
    """
    published = torchvision.models.get_model_weights(name).__members__
    weights = published.get("IMAGENET1K_V1") or published["IMAGENET1K_SWAG_LINEAR_V1"]
    return Pretrained(f"torchvision {weights}", partial(_fetched, str(weights), weights.url))


def _fetched(name: str, url: str) -> Path:
    """The file of named weights in torch hub's cache, downloaded and checked against its hash where it is absent."""
    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if not file.exists():
        digest = re.search(r"-([0-9a-f]{8,})\.", file.name)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(file), digest and digest[1], progress=False)
        except (OSError, HTTPException, RuntimeError) as error:  # no connection, no disk space, wrong hash
            raise UserError(
                f"{name} ({file.name}) could not be fetched: {error}; put the file into {file.parent}, "
                f"or give --weights PATH, or --weights none for a random start"
            ) from error
    return file


def _shipped() -> Path:
    """The letter weights that come with the code."""
    exists = SCENENET_WEIGHTS.is_file()
    require(exists, f"{SCENENET_WEIGHTS} is missing: check the file out again, or give --weights PATH or none")
    return SCENENET_WEIGHTS


def _absent(name: str) -> Path:
    """The default weights of a network that has none. Raises: UserError."""
    raise UserError(f"--weights default: there are none for {name}; give --weights PATH, or --weights none")


_TORCHVISION = torchvision.models.list_models(module=torchvision.models)

BACKBONES: dict[str, Callable[[], Backbone]] = {name: partial(backbone_class(name), name) for name in _TORCHVISION}
BACKBONES["scenenet"] = SceneNet
BACKBONES.update({name: partial(TResNet, name) for name in TRESNETS})

PRETRAINED: dict[str, Pretrained] = {name: _imagenet(name) for name in _TORCHVISION}
PRETRAINED["scenenet"] = Pretrained("scenenet letters", _shipped)
PRETRAINED.update({name: Pretrained(f"{name}, which has none", partial(_absent, name)) for name in TRESNETS})
"""The meaning of `--weights default` by backbone."""


def require_backbone(name: str) -> None:
    """Raise UserError unless there is a backbone of that name."""
    if name.startswith(PREFIX):
        require_timm_model(name.removeprefix(PREFIX))
        return
    if given_shape(name):
        return
    close = nearest(name, BACKBONES)
    hint = f"did you mean {close}?" if close else f"there are scenenet, torchvision's networks and {PREFIX}NAME"
    require(name in BACKBONES, f"--model {name}: no backbone has that name; {hint}")


def build_backbone(name: str) -> Backbone:
    """The backbone `name`, randomly initialised from torch's generator. Raises: UserError when there is none."""
    require_backbone(name)
    if shape := given_shape(name):
        return GivenFeatures(shape[0])
    return TimmFeatureExtractor(name.removeprefix(PREFIX)) if name.startswith(PREFIX) else BACKBONES[name]()


def weights_name(name: str, weights: str) -> str:
    """The meaning of `weights` for the backbone `name`, in words for the log."""
    default = f"{name}, as timm has it" if name.startswith(PREFIX) else PRETRAINED[name].name
    packaged = {key: f"{key}, ImageNet out of the package {value.package}" for key, value in PACKAGED.items()}
    return {"none": "none (random start)", "default": default, **packaged}.get(weights, weights)


def load_weights(
    backbone: Backbone, name: str, weights: str, checkpoint_weights: CheckpointWeights | None = None
) -> LoadedFile | None:
    """Load named weights into a backbone.

    Args:
        backbone: built by `BACKBONES[name]`.
        name: the key of the backbone.
        weights: "none", "default", a key of `PACKAGED`, or the path of a `.pth` or `.safetensors` file of a network of
            this architecture.
        checkpoint_weights: averaged or raw weights of a file that holds both; None: the averaged ones.

    Returns:
        The file that was read; None where there was none.

    Raises: UserError when the file cannot be had or read or does not fit; the backbone is then as it was.
    """
    if weights == "none":
        return None
    target = backbone.published
    if weights == "default" and name.startswith(PREFIX):
        target.load_state_dict(TimmFeatureExtractor(name.removeprefix(PREFIX), pretrained=True).published.state_dict())
        return None
    if weights in PACKAGED:
        target.load_state_dict(packaged_state(weights, target.state_dict()))
        return None
    file = PRETRAINED[name].file() if weights == "default" else Path(weights).expanduser()
    own, content = target.state_dict(), load_tensors(file)
    state, notes, classified = backbone_state(content, file, own, checkpoint_weights)
    if name in TRESNETS and classified:  # a file of inplace_abn; the checkpoint of a run has its head elsewhere
        state = positive_scales(state)
    _require_fit(state, own, f"{file}{_trained_as(content)} does not fit {name}")
    target.load_state_dict(state, strict=False)  # the line above allows missing batch counters only
    say_of_file(file, *notes)
    return LoadedFile(file, content)


def say_of_file(file: Path, *notes: str) -> None:
    """Say lines about a file of weights, once over all processes."""
    if os.environ.get("RANK", "0") == "0":
        for note in notes:
            say(f"{file}: {note}")


def _trained_as(content: Any) -> str:
    """The backbone that the checkpoint of a run says it has, in brackets; empty where it says nothing."""
    settings = content.get("settings") if isinstance(content, Mapping) else None
    model = settings.get("model") if isinstance(settings, Mapping) else None
    return f" ({model[:60]})" if isinstance(model, str) else ""


def _require_fit(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], complaint: str) -> None:
    """Raise UserError naming the tensors that are missing, unexpected or of another shape."""
    # Batch counters are absent from files older than they are, and only averaging without momentum reads them.
    missing = [key for key in wanted if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in wanted]
    reshaped = [
        f"{key} {tuple(state[key].shape)} for {tuple(wanted[key].shape)}"
        for key in wanted
        if key in state and state[key].shape != wanted[key].shape
    ]
    faults = {"missing": missing, "unexpected": unexpected, "of another shape": reshaped}
    messages = [f"{len(keys)} {fault} ({_first(keys)})" for fault, keys in faults.items() if keys]
    require(not messages, f"{complaint}: {'; '.join(messages)}; nothing was loaded")


def _first(names: Sequence[str], limit: int = 4) -> str:
    """The first names of a list."""
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")


def export_backbone(checkpoint: Path, out: Path) -> None:
    """Write the backbone of a run's checkpoint as float16 safetensors, which `--weights OUT` loads.

    Args:
        checkpoint: a file whose "model" entry is a state_dict with keys `backbone.*` and `head.*`.
        out: the `.safetensors` file to write or replace.

    Raises: UserError when the file is no checkpoint of a run; RunError when `out` cannot be written.
    """
    require(out.suffix == ".safetensors", f"{out}: name the output .safetensors, the suffix decides how it is read")
    content = load_tensors(checkpoint)
    model = content.get("model") if isinstance(content, Mapping) else None
    prefix = "backbone."
    state = model if is_state(model) else {}
    halves = {key.removeprefix(prefix): _half(value) for key, value in state.items() if key.startswith(prefix)}
    require(
        bool(halves),
        f"{checkpoint}: has no backbone.* tensors under 'model', so it is no checkpoint of a run with a backbone; "
        f"--weights {checkpoint} of a training script reads other files as they are",
    )
    finite = all(map(all_finite, halves.values()))
    require(finite, f"{checkpoint}: the backbone has values that are not finite in float16")

    def write(file: BinaryIO) -> None:
        """Write the tensors."""
        file.write(safetensors.torch.save(halves))

    write_atomically(out, write)


def _half(value: Tensor) -> Tensor:
    """Floats as float16, counters as they are."""
    return (value.half() if value.is_floating_point() else value).contiguous()


def main(argv: Sequence[str] | None = None) -> int:
    """Write the backbone of a checkpoint; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m models.backbones", description="Take the backbone of a checkpoint."
    )
    parser.add_argument("checkpoint", type=Path, help="best.pth of a run")
    parser.add_argument("out", type=Path, help="the .safetensors file to write")
    arguments = parser.parse_args(argv)
    try:
        export_backbone(arguments.checkpoint, arguments.out)
    except (UserError, RunError) as error:
        sys.stderr.write(f"{error}\n")
        return 2 if isinstance(error, UserError) else 1
    return 0
