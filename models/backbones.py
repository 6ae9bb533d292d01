"""Backbones: images (B, 3, H, W) to a feature map (B, D, h, w), with the weights they start from.

As a command, `python -m models.backbones CHECKPOINT OUT.safetensors` takes the backbone out of a run's checkpoint.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeGuard

import safetensors.torch
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from utils.checks import RunError, UserError, require
from utils.safe_files import load_tensors, write_atomically

SCENENET_WEIGHTS = Path(__file__).parent / "weights" / "scenenet_letters.safetensors"
"""Trained on scenes of letters; no digit was seen."""


class Backbone(nn.Module):
    """Images (B, 3, H, W) to features (B, `width`, H / `stride`, W / `stride`), rounded up."""

    width: int
    stride: int

    def stages(self) -> list[tuple[nn.Module, ...]]:
        """What learns or stays as it is together, from the image on: the first layer, then the stages."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """The feature map."""
        raise NotImplementedError


class ResNet(Backbone):
    """torchvision's ResNet of a given depth up to layer4 (stride 32), under torchvision's own names, without fc."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        whole = torchvision.models.get_model(f"resnet{depth}", weights=None)
        self.conv1, self.bn1, self.relu, self.maxpool = whole.conv1, whole.bn1, whole.relu, whole.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = whole.layer1, whole.layer2, whole.layer3, whole.layer4
        self.width, self.stride = whole.fc.in_features, 32

    def stages(self) -> list[tuple[nn.Module, ...]]:
        """The first convolution with its BatchNorm, then layer1 to layer4."""
        return [(self.conv1, self.bn1), (self.layer1,), (self.layer2,), (self.layer3,), (self.layer4,)]

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, 512 or 2048, H/32, W/32)."""
        stem = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        features: Tensor = self.layer4(self.layer3(self.layer2(self.layer1(stem))))
        return features


class SceneNet(Backbone):
    """A network of 0.17 million parameters for 40 x 40 scenes, feature map 5 x 5 (stride 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 24, kernel_size=5, stride=2, padding=2, bias=False)
        self.bn1 = nn.BatchNorm2d(24)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _residual(24, 24, stride=1)
        self.layer2 = _residual(24, 48, stride=2)
        self.layer3 = _residual(48, 96, stride=2)
        self.width, self.stride = 96, 8
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def stages(self) -> list[tuple[nn.Module, ...]]:
        """The first convolution with its BatchNorm, then layer1 to layer3."""
        return [(self.conv1, self.bn1), (self.layer1,), (self.layer2,), (self.layer3,)]

    def forward(self, images: Tensor) -> Tensor:
        """Features (B, 96, H/8, W/8)."""
        features: Tensor = self.layer3(self.layer2(self.layer1(self.relu(self.bn1(self.conv1(images))))))
        return features


def _residual(channels: int, out: int, stride: int) -> nn.Module:
    """Two 3x3 convolutions with a shortcut, which is a 1x1 convolution where sizes change."""
    shortcut = None
    if (channels, stride) != (out, 1):
        shortcut = nn.Sequential(
            nn.Conv2d(channels, out, kernel_size=1, stride=stride, bias=False), nn.BatchNorm2d(out)
        )
    block: nn.Module = BasicBlock(channels, out, stride, shortcut)
    return block


class Pretrained(NamedTuple):
    """Where a backbone's default weights come from."""

    name: str
    file: Callable[[], Path]  # finds or fetches; raises UserError


def _imagenet(depth: int) -> Pretrained:
    """The first ImageNet weights of torchvision (IMAGENET1K_V1), which the papers started from."""
    weights = torchvision.models.get_model_weights(f"resnet{depth}").IMAGENET1K_V1
    return Pretrained(f"torchvision {weights}", partial(_fetched, str(weights), weights.url))


def _fetched(name: str, url: str) -> Path:
    """The file of named weights in torch hub's cache, downloaded and checked against its hash where it is absent."""
    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if not file.exists():
        digest = re.search(r"-([0-9a-f]{8,})\.", file.name)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(file), digest and digest[1], progress=False)
        except (OSError, HTTPException, RuntimeError) as error:  # no network, no room, wrong hash
            raise UserError(
                f"{name} ({file.name}) could not be fetched: {error}; put the file into {file.parent}, "
                f"or give --weights PATH, or --weights none for a random start"
            ) from error
    return file


def _shipped() -> Path:
    """The letter weights that come with the code."""
    found = SCENENET_WEIGHTS.is_file()
    require(found, f"{SCENENET_WEIGHTS} is missing: check the file out again, or give --weights PATH or none")
    return SCENENET_WEIGHTS


BACKBONES: dict[str, Callable[[], Backbone]] = {
    "resnet18": partial(ResNet, 18),
    "resnet34": partial(ResNet, 34),
    "resnet50": partial(ResNet, 50),
    "resnet101": partial(ResNet, 101),
    "resnet152": partial(ResNet, 152),
    "scenenet": SceneNet,
}

STAGES: dict[str, int] = {name: 3 if name == "scenenet" else 4 for name in BACKBONES}
"""How many stages a backbone has behind its first layer."""

PRETRAINED: dict[str, Pretrained] = {
    "resnet18": _imagenet(18),
    "resnet34": _imagenet(34),
    "resnet50": _imagenet(50),
    "resnet101": _imagenet(101),
    "resnet152": _imagenet(152),
    "scenenet": Pretrained("scenenet letters", _shipped),
}
"""What `--weights default` means."""


def weights_name(name: str, weights: str) -> str:
    """What `weights` means for the backbone `name`, in words for the log."""
    words = {"none": "none (random start)", "default": PRETRAINED[name].name}
    return words.get(weights, weights)


def load_weights(backbone: Backbone, name: str, weights: str) -> None:
    """Start a backbone from named weights, in place.

    Args:
        backbone: what `BACKBONES[name]` built.
        name: the key of the backbone.
        weights: "none", "default", or the path of a `.pth` or `.safetensors` file of this architecture.

    Raises: UserError when the file cannot be had or read or does not fit; the backbone is then as it was.
    """
    if weights == "none":
        return
    file = PRETRAINED[name].file() if weights == "default" else Path(weights).expanduser()
    state = trunk_state(load_tensors(file), file)
    _require_fit(state, backbone.state_dict(), f"{file} does not fit {name}")
    backbone.load_state_dict(state, strict=False)  # what may be missing was settled one line above


def trunk_state(held: Any, file: Path) -> dict[str, Tensor]:
    """Tensors of a backbone by name, from a state_dict with or without `module.` before and `fc.*` beside them.

    Raises: UserError when the file holds something else.
    """
    if isinstance(held, Mapping) and "model" in held:
        raise UserError(
            f"{file}: a run's checkpoint; python -m models.backbones {file} OUT.safetensors takes its backbone"
        )
    require(_is_state(held), f"{file}: not a state_dict (names to tensors) but {type(held).__name__}")
    named = {key.removeprefix("module."): value for key, value in held.items()}
    return {key: value for key, value in named.items() if not key.startswith("fc.")}


def _is_state(held: Any) -> TypeGuard[Mapping[str, Tensor]]:
    """Whether a file held names and tensors, at least one, and nothing else."""
    if not isinstance(held, Mapping) or not held:
        return False
    return all(isinstance(key, str) and isinstance(value, Tensor) for key, value in held.items())


def _require_fit(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], complaint: str) -> None:
    """Raise UserError naming what is missing, unexpected or of another shape."""
    # Batch counters are absent from files older than they are, and only averaging without momentum reads them.
    missing = [key for key in wanted if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in wanted]
    reshaped = [
        f"{key} {tuple(state[key].shape)} for {tuple(wanted[key].shape)}"
        for key in wanted
        if key in state and state[key].shape != wanted[key].shape
    ]
    faults = {"missing": missing, "unexpected": unexpected, "of another shape": reshaped}
    told = [f"{len(keys)} {fault} ({_some(keys)})" for fault, keys in faults.items() if keys]
    require(not told, f"{complaint}: {'; '.join(told)}; nothing was loaded")


def _some(names: Sequence[str], limit: int = 4) -> str:
    """The first names of a list."""
    return ", ".join(names[:limit]) + (", ..." if len(names) > limit else "")


def export_backbone(checkpoint: Path, out: Path) -> None:
    """Write the backbone of a run's checkpoint as float16 safetensors, which `--weights OUT` loads.

    Args:
        checkpoint: a file whose "model" entry is a state_dict with keys `backbone.*` and `head.*`.
        out: the `.safetensors` file to make or replace.

    Raises: UserError when the checkpoint is none of ours; RunError when `out` cannot be written.
    """
    require(out.suffix == ".safetensors", f"{out}: name the output .safetensors, the suffix says how to read it")
    held = load_tensors(checkpoint)
    model = held.get("model") if isinstance(held, Mapping) else None
    prefix = "backbone."
    state = model if _is_state(model) else {}
    halves = {key.removeprefix(prefix): _half(value) for key, value in state.items() if key.startswith(prefix)}
    require(bool(halves), f"{checkpoint}: holds no backbone.* tensors under 'model', so it is no checkpoint of a run")
    finite = all(bool(value.isfinite().all()) for value in halves.values())
    require(finite, f"{checkpoint}: the backbone holds values that are not finite in float16")

    def write(file: BinaryIO) -> None:
        file.write(safetensors.torch.save(halves))

    write_atomically(out, write)


def _half(value: Tensor) -> Tensor:
    """Floats as float16, counters as they are."""
    return (value.half() if value.is_floating_point() else value).contiguous()


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m models.backbones CHECKPOINT OUT.safetensors`; the exit code."""
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


if __name__ == "__main__":
    sys.exit(main())
