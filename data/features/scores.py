"""Scores of images that another program computed, by ids and class names: `.npz`, `.safetensors`.

M rows, K classes of the file, T tiles of an image. The numbers stay in the file, which is mapped into memory; nothing
in it is ever run.

- `.npz` of `numpy.savez`: arrays `scores` (M, K), `ids` (M,), `classes` (K,) and `kind`; `tile_scores` (M, T, K) where
  parts of images were scored too;
- `.safetensors`: tensors `scores` and `tile_scores`; in the metadata `ids`, `classes` and `kind`, lists in JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from data.features.reader import (
    check_ids,
    file_hash,
    metadata_texts,
    names_in,
    npz_array,
    npz_texts,
    npz_words,
    plain_numbers,
    stored_tensor,
)
from utils.checks import UserError, require
from utils.nearest import nearest
from utils.prior_scores import KINDS, Kind
from utils.safe_files import open_file
from utils.types import Index

FORMS = (".npz", ".safetensors")
_NUMBERS = ("float16", "float32", "float64")
_TILES = "tile_scores"
_SYNONYMS = {"softmax": "probability"}
_BLOCK = 1 << 22  # numbers that are looked at in one go
_SLACK = 0.01  # by which a cosine in half precision may be beyond 1
_RANGES = {"probability": (0.0, 1.0), "cosine": (-1 - _SLACK, 1 + _SLACK), "logit": (-np.inf, np.inf)}


class ScoreFile(NamedTuple):
    """Scores in a file, with their ids and classes."""

    path: Path
    values: NDArray[Any]
    """(M, K), in the file; bfloat16 as its bits, uint16."""
    tiles: NDArray[Any] | None
    """(M, T, K), where there are any."""
    ids: tuple[str, ...]
    classes: tuple[str, ...]
    kind: Kind

    def content_hash(self) -> str:
        """SHA-256 (hex) of the file."""
        return file_hash(self.path)

    def columns(self, classes: Sequence[str]) -> Index:
        """(C,) the column of each class of a dataset. Raises: UserError naming one that the file lacks."""
        place = {name: column for column, name in enumerate(self.classes)}
        absent = [name for name in classes if name not in place]
        if absent:
            alike = (name for name in self.classes if name.casefold() == absent[0].casefold())
            close = next(alike, None) or nearest(absent[0], self.classes)
            hint = f"it has {close!r}: write names as the dataset does" if close else "add its scores"
            raise UserError(
                f"{self.path}: has no scores of {len(absent):,} of {len(classes):,} classes of the dataset "
                f"({', '.join(name[:40] for name in absent[:3])}{', ...' if len(absent) > 3 else ''}); {hint}"
            )
        return np.array([place[name] for name in classes], dtype=np.int64)

    def require_numbers(self) -> None:
        """Raise UserError naming the first row with a score that is not finite, or that its kind cannot have."""
        for name, values in (("scores", self.values), (_TILES, self.tiles)):
            if values is not None:
                self._require_numbers(name, values)

    def _require_numbers(self, name: str, values: NDArray[Any]) -> None:
        low, high = _RANGES[self.kind]
        size = max(1, _BLOCK // max(1, values[:1].size))
        for start in range(0, len(values), size):
            flat = plain_numbers(values[start : start + size]).reshape(len(values[start : start + size]), -1)
            right = (np.isfinite(flat) & (flat >= low) & (flat <= high)).all(axis=1)
            if not right.all():
                row = start + int(right.argmin())
                wanted = "finite" if self.kind == "logit" else f"between {round(low)} and {round(high)}"
                raise UserError(
                    f"{self.path}: the {name} of {self.ids[row][:80]!r} (row {row}) are not all {wanted}, as those of "
                    f"kind {self.kind!r} must be; compute them again, or write another kind"
                )


def read_scores(path: Path) -> ScoreFile:
    """The scores of a file, everything checked but the numbers themselves (`ScoreFile.require_numbers`).

    Raises: UserError when the file is missing, damaged or of another form, holds Python objects, has an id or a class
        twice, not one id for each row or not one class for each column, or says no kind.
    """
    require(
        path.suffix in FORMS, f"{path}: prior scores are read from {', '.join(FORMS)}; write numpy.savez(file, ...)"
    )
    with open_file(path):
        pass  # a missing file has one message, whatever its form
    values, tiles = _arrays(path)
    (ids, where), (classes, columns), kind = _texts(path, "ids"), _texts(path, "classes"), _kind(path)
    check_ids(ids, len(values), where, "scores")
    _check_classes(classes, values.shape[1], columns)
    return ScoreFile(path, values, tiles, tuple(ids), tuple(classes), kind)


def _arrays(path: Path) -> tuple[NDArray[Any], NDArray[Any] | None]:
    """The arrays `scores` and `tile_scores` of a file, their shapes and types checked."""
    read = stored_tensor if path.suffix == ".safetensors" else npz_array
    values = read(path, "scores")
    _require_floats(path, "scores", values, "M x K (images x classes)", values.ndim == 2 and 0 not in values.shape)
    if _TILES not in names_in(path):
        return values, None
    tiles = read(path, _TILES)
    fits = tiles.ndim == 3 and 0 not in tiles.shape and (len(tiles), tiles.shape[2]) == values.shape
    _require_floats(path, _TILES, tiles, f"{len(values)} x T x {values.shape[1]}, as its scores are", fits)
    return values, tiles


def _require_floats(path: Path, name: str, values: NDArray[Any], shape: str, fits: bool) -> None:
    packed = path.suffix == ".safetensors" and values.dtype == np.uint16  # bfloat16
    require(
        packed or values.dtype.name in _NUMBERS, f"{path}: {name} are {values.dtype}; must be {', '.join(_NUMBERS)}"
    )
    found = " x ".join(map(str, values.shape[:8])) or "of one number"
    require(fits, f"{path}: {name} have the shape {found}; must be {shape}")


def _texts(path: Path, name: str) -> tuple[list[str], str]:
    """Texts of a file and where they stand."""
    if path.suffix == ".safetensors":
        return metadata_texts(path, name)
    return npz_texts(path, name, [other for other in ("scores", _TILES) if other in names_in(path)])


def _kind(path: Path) -> Kind:
    """The kind of the scores: one word, or a list of one."""
    words = npz_words(path, "kind") if path.suffix == ".npz" else metadata_texts(path, "kind")[0]
    kind = _SYNONYMS.get(words[0], words[0]) if len(words) == 1 else ""
    require(kind in KINDS, f"{path}: `kind` is {', '.join(words)[:60]!r}; must be one of {', '.join(KINDS)}")
    return cast(Kind, kind)


def _check_classes(classes: Sequence[str], columns: int, where: str) -> None:
    """Raise UserError unless there is one name for each column, none empty and none twice."""
    require(
        len(classes) == columns,
        f"{where}: {len(classes):,} classes for {columns:,} columns; there must be one for each",
    )
    twice = next((name for place, name in enumerate(classes) if name in classes[:place]), None)
    require(twice is None, f"{where}: {str(twice)[:80]!r} stands there twice; keep one column each")
