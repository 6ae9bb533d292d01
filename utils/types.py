"""The types that annotations, labels, models, criteria and the engine meet in.

B batch, C classes, N rows, D feature width, h w feature map, H W image.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from itertools import pairwise
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.sparse import csr_array
from torch import Tensor

from utils.class_facts import ClassCounts, ClassPriors
from utils.grids import Layout
from utils.head_vectors import ClassVectors, PooledFeatures
from utils.prior_scores import PriorScores

PRESENT, ABSENT, UNKNOWN = 1, 0, -1
"""The one code for truth and observation alike, int8. Other codes live in converters beside their file formats."""

_BLOCK = 1 << 22  # entries of a table that are processed at a time
_IDS = 1 << 16  # and ids, which are text

Codes = NDArray[np.int8]
SoftTargets = NDArray[np.float32]
Index = NDArray[np.int64]


class LabelTable:
    """N x C label codes: a dense int8 array, or a scipy CSR array whose unstored entries all mean `default`.

    A stored zero of a CSR table is a label like any other (ABSENT), not a missing entry. Soft labels stand beside the
    codes, which are then what counts as present or absent wherever a label must be one of the two.

    Args:
        codes: (N, C).
        default: code of the entries that a CSR array does not store.
        soft: (N, C) float32 in [0, 1], -1 where the label is unknown; only beside dense codes. None: labels are hard.
    """

    def __init__(self, codes: Codes | csr_array, *, default: int = ABSENT, soft: SoftTargets | None = None) -> None:
        self.codes = codes
        self.default = default
        self.soft = soft
        self._hash = ""
        self._counts: dict[int, Index] = {}
        values = codes.data if isinstance(codes, csr_array) else codes
        if values.dtype != np.int8 or codes.ndim != 2:
            raise TypeError(f"labels must be int8 (N, C), got {values.dtype} {codes.shape}")
        if values.size and not (values.min() >= UNKNOWN and values.max() <= PRESENT):
            raise ValueError("labels must be 1 (present), 0 (absent) or -1 (unknown)")
        values.flags.writeable = False
        if soft is not None:
            _require_targets(codes, soft)
            soft.flags.writeable = False

    def __len__(self) -> int:
        return int(self.codes.shape[0])

    @property
    def num_classes(self) -> int:
        """C."""
        return int(self.codes.shape[1])

    @property
    def stores_known_only(self) -> bool:
        """True if unstored entries are UNKNOWN: a table of few known labels, perhaps too large to be made dense."""
        return isinstance(self.codes, csr_array) and self.default == UNKNOWN

    def rows(self, index: Index | slice) -> Codes:
        """The dense (B, C) rows at `index`, a copy."""
        if isinstance(self.codes, csr_array):
            part = self.codes[index]
            dense = np.full(part.shape, self.default, dtype=np.int8)
            dense[np.repeat(np.arange(part.shape[0]), np.diff(part.indptr)), part.indices] = part.data
            return dense
        return np.array(self.codes[index])

    def take(self, index: Index) -> LabelTable:
        """The table of the rows at `index`, stored the same way; itself for all rows in order."""
        if _is_all(index, len(self)):
            return self
        soft = None if self.soft is None else self.soft[index]
        return LabelTable(self.codes[index], default=self.default, soft=soft)

    def hard(self) -> LabelTable:
        """The table without its soft targets; itself where there are none."""
        return self if self.soft is None else LabelTable(self.codes, default=self.default)

    def dense(self) -> Codes:
        """All rows as one (N, C) copy; only for tables known to be small."""
        return self.rows(slice(None))

    def counts(self, code: int = PRESENT) -> Index:
        """(C,) number of rows with `code` in each class; counted once."""
        if code not in self._counts:
            self._counts[code] = self._counted(code)
        return self._counts[code].copy()

    def _counted(self, code: int) -> Index:
        if not isinstance(self.codes, csr_array):
            size = max(1, _BLOCK // max(self.num_classes, 1))
            parts = (self.codes[start : start + size] for start in range(0, len(self), size))
            found = (np.asarray((part == code).sum(axis=0, dtype=np.int64)) for part in parts)
            return sum(found, np.zeros(self.num_classes, dtype=np.int64))
        matching = np.zeros(self.num_classes, dtype=np.int64)
        stored = np.zeros(self.num_classes, dtype=np.int64)
        for start in range(0, len(self.codes.data), _BLOCK):  # bincount copies its input as int64
            part = slice(start, start + _BLOCK)
            columns = self.codes.indices[part]
            stored += np.bincount(columns, minlength=self.num_classes)
            matching += np.bincount(columns[self.codes.data[part] == code], minlength=self.num_classes)
        return matching + (len(self) - stored) if code == self.default else matching

    def hash(self) -> str:
        """SHA-256 (hex) of shape, codes and soft targets; equal for equal labels, dense or sparse."""
        if not self._hash:
            digest = hashlib.sha256(repr((len(self), self.num_classes)).encode())
            size = max(1, _BLOCK // max(self.num_classes, 1))
            for start in range(0, len(self), size):  # by blocks, so that a sparse table never becomes dense
                digest.update(np.ascontiguousarray(self.rows(slice(start, start + size))).data)
            if self.soft is not None:
                digest.update(np.ascontiguousarray(self.soft).data)
            self._hash = digest.hexdigest()
        return self._hash


def _is_all(index: Index, rows: int) -> bool:
    """True if `index` names all rows in order: what is immutable need not be copied for them."""
    return len(index) == rows and bool((index == np.arange(rows)).all())


def _require_targets(codes: Codes | csr_array, soft: SoftTargets) -> None:
    """Raise TypeError or ValueError unless `soft` fits dense `codes`."""
    if isinstance(codes, csr_array) or soft.dtype != np.float32 or soft.shape != codes.shape:
        raise TypeError(f"soft targets must be float32 of the shape of dense labels, got {soft.dtype} {soft.shape}")
    unknown = codes == UNKNOWN
    if not (((soft >= 0) & (soft <= 1)) ^ unknown).all() or not (soft[unknown] == UNKNOWN).all():
        raise ValueError("soft targets must be in [0, 1], and -1 exactly where the label is unknown")


class Images(Protocol):
    """Images of a dataset: files, or arrays in memory."""

    def __len__(self) -> int: ...

    def open(self, row: int) -> Image.Image:
        """Return the loaded RGB image of one row. Raises: RunError naming the file when it cannot be read."""
        ...

    def name(self, row: int) -> str:
        """Name of that image for messages: its path, or its id."""
        ...

    def label(self, row: int) -> str:
        """That image in a message: its name, and where it was named or else the row."""
        ...

    def take(self, index: Index) -> Images:
        """Images of the rows at `index`."""
        ...

    def missing(self) -> Index:
        """(M,) rows whose image is missing."""
        ...

    def check(self) -> None:
        """Raise UserError naming the first image that is missing or damaged."""
        ...

    def faults(self) -> list[tuple[int, str]]:
        """Rows whose image is missing or cannot be read, each with its fault as the end of a sentence."""
        ...


class Boxes(NamedTuple):
    """Objects in images: rows and classes (M,), corners (M, 4) x1 y1 x2 y2 in pixels counted from 0."""

    row: Index
    label: Index
    corners: NDArray[np.float32]


@dataclass(frozen=True)
class Annotations:
    """Images and their true labels. Rows are ordered by image id."""

    images: Images
    ids: tuple[str, ...]
    classes: tuple[str, ...]
    truth: LabelTable
    boxes: Boxes | None = None
    given: LabelTable | None = None
    """Labels for training in the dataset's own files, where they are not the truth itself."""
    places: Index | None = None
    """(N,) position of each row in the published files whose order recipes draw in; None: order of the ids as text."""
    groups: Index | None = None
    """(N,) what each image belongs to (patient, site, burst): a split that is drawn keeps groups whole."""
    listed: tuple[str, ...] = ()
    """Ids of the rows of published label files, where those may have more than this set; they are matched by id."""

    def __post_init__(self) -> None:
        for name in ("images", "truth", "given", "places", "groups"):
            part: Sized | None = getattr(self, name)
            if part is not None and len(part) != len(self.ids):
                raise ValueError(f"{name}: {len(part)} rows for {len(self.ids)} ids")
        if len(self.classes) != self.truth.num_classes:
            raise ValueError(f"{len(self.classes)} class names for {self.truth.num_classes} columns")

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, index: Index) -> Annotations:
        """The annotations of the rows at `index`, in that order; these themselves for all rows in theirs."""
        if _is_all(index, len(self)):
            return self
        boxes = None
        if self.boxes is not None:
            new_row = np.full(len(self), -1, dtype=np.int64)
            new_row[index] = np.arange(len(index))
            kept = new_row[self.boxes.row] >= 0
            boxes = Boxes(new_row[self.boxes.row[kept]], self.boxes.label[kept], self.boxes.corners[kept])
        return Annotations(
            self.images.take(index),
            tuple(self.ids[row] for row in index),
            self.classes,
            self.truth.take(index),
            boxes,
            None if self.given is None else self.given.take(index),
            None if self.places is None else self.places[index],
            None if self.groups is None else self.groups[index],
            self.listed,
        )

    def scored(self) -> Annotations:
        """The same with truth that is present, absent or unknown, as metrics need it: without soft targets."""
        return self if self.truth.soft is None else replace(self, truth=self.truth.hard())

    def recipe_order(self) -> Index:
        """(N,) rows in the order in which the published recipes draw: "100" before "9" where ids are numbers."""
        if self.places is not None:
            return np.argsort(self.places, kind="stable")
        if all(one <= other for one, other in pairwise(self.ids)):  # without a list of millions of numbers
            return np.arange(len(self))
        return np.array(sorted(range(len(self)), key=self.ids.__getitem__), dtype=np.int64)

    def content_hash(self) -> str:
        """SHA-256 (hex) of ids, class names and true labels: of all that a figure depends on but the pixels."""
        return hashlib.sha256(f"{self.row_hash()} {self.truth.hash()}".encode()).hexdigest()

    def row_hash(self) -> str:
        """SHA-256 (hex) of the ids in order and the class names, which a label file must match."""
        digest = hashlib.sha256()
        for start in range(0, len(self.ids), _IDS):  # the text of millions of ids never stands in memory at once
            digest.update("".join(f"{each}\n" for each in self.ids[start : start + _IDS]).encode())
        digest.update("\n".join(["", *self.classes]).encode())
        return digest.hexdigest()


class Splits(NamedTuple):
    """Result of a dataset reader."""

    train: Annotations
    test: Annotations
    groups: Mapping[str, Index] = MappingProxyType({})
    """Groups of classes whose mean average precision is reported too, such as head, middle and tail."""
    validation: Annotations | None = None
    """A validation split of the dataset's own; None: `--val_frac` takes one off `train`."""
    found: Mapping[str, str] = MappingProxyType({})
    """Settings that were found in the files, by name: a run keeps them."""
    aliases: Mapping[str, str] = MappingProxyType({})
    """Class by another name that files of the dataset call it by, such as `/m/01yrx`."""
    held_out: bool = False
    """True if the files name no test set, so that a share of their images is held out as one."""

    def parts(self) -> tuple[Annotations, Annotations, Annotations | None]:
        """Training, test and validation split."""
        return self.train, self.test, self.validation


class Batch(NamedTuple):
    """The input of a criterion, on the device of the model.

    `images` is the input of the model: float32 and normalised. Bytes of images and pooled features have batches of
    their own, which loaders yield and turn into this one; a pooled feature is then an image of one pixel, (B, D, 1, 1).
    """

    images: Tensor  # (B, 3, H, W)
    observed: Tensor  # (B, C) float: 1, 0, -1
    index: Tensor  # type: ignore[assignment]  # (B,) long, rows of the training set; hides tuple.index, unused here
    second_view: Tensor | None = None  # (B, 3, H, W), for criteria that need it
    truth: Tensor | None = None  # (B, C) int8, for analysis; no criterion reads it, and it may lie on another device
    soft: Tensor | None = None  # (B, C) float in [0, 1], -1 unknown, beside the codes of soft labels, else None
    host_index: Tensor | None = None  # `index` on the host, where it is known there: label memories may lie there
    global_index: Tensor | None = None
    """(G,) long, `index` of the batch of all processes in the order of one: process r of P has rows r, r + P, ... of
    it, or, of fewer rows than processes, all of them. On the host, beside a GPU in pinned memory. None where only this
    process's rows are known."""
    layout: Layout | None = None  # of the last rows, where those are grids of the rows before them


class ModelOutput(NamedTuple):
    """Output of every model."""

    logits: Tensor  # (B, C)
    features: Tensor | None = None  # (B, D, h, w)
    cam: Tensor | None = None  # (B, C, h, w), only when asked for
    class_vectors: ClassVectors | None = None  # with gradient, only when asked for
    divergence: Tensor | None = None  # (B,) of heads that draw what they score, with gradient, only when asked for
    tile_logits: Tensor | None = None  # (E, T, C) of the tiles of the last E images, only when a layout is given
    pooled: PooledFeatures | None = None  # with gradient, only when asked for


class Model(Protocol):
    """A model as criteria use it: a call that names the outputs it wants besides the logits."""

    def __call__(self, images: Tensor, want: frozenset[str] = frozenset()) -> ModelOutput:
        """Images (B, 3, H, W) in, logits (B, C) out."""
        ...


class LabelledModel(Protocol):
    """A model that also takes known labels as input."""

    def __call__(self, images: Tensor, want: frozenset[str] = frozenset(), known: Tensor | None = None) -> ModelOutput:
        """Images (B, 3, H, W) and known labels, (B, C) codes, UNKNOWN where none is given; logits (B, C) out."""
        ...


class PeerModels(Protocol):
    """Both networks of a criterion that needs two, instead of a `Model`: each is called by itself."""

    f: Model
    g: Model


class LossOutput(NamedTuple):
    """Output of every criterion."""

    total: Tensor  # scalar; without gradient it means: no optimiser step for this batch
    logits: Tensor  # (B, C) detached
    parts: dict[str, Tensor]  # detached scalars for the log
    modified: Tensor | None = None  # (B, C) bool: labels that this step changed or left out, for analysis

    def of_first(self, rows: int) -> LossOutput:
        """The same with logits and modified labels of the first rows alone, where others were added behind them."""
        modified = None if self.modified is None else self.modified[:rows]
        return self._replace(logits=self.logits[:rows], modified=modified)


@dataclass(frozen=True, kw_only=True)
class CriterionInfo:
    """Facts about the training set and the run that a criterion is built with."""

    observed: LabelTable
    classes: Sequence[str]
    epochs: int
    steps_per_epoch: int
    feature_width: int
    class_counts: ClassCounts
    seed: int
    clean_counts: ClassCounts | None = None
    """Counts of the true labels; only for criteria whose settings ask for them, and which print that they use them."""
    frozen_epochs: int = 0
    """Epochs, from the first on, in which the backbone does not learn."""
    class_priors: ClassPriors | None = None
    """Those that a file gives; only for criteria whose settings name one."""
    prior_scores: PriorScores | None = None
    """Scores of the training images from outside; only for criteria that need them."""
    candidate_rates: NDArray[np.float64] | None = None
    """(C,) chance of each absent class to be a candidate; None where the label regime tells none."""
    noise_rates: NDArray[np.float64] | None = None
    """(C, 2) chances of wrong labels that a file gives, as in `NoiseRates`."""
    groups: Index | None = None
    """(N,) number from 0 of what each training image belongs to; only for criteria that need it."""
    class_vector_width: int = 0
    """Width of the vector of each class that the head gives; only for criteria that need these."""


StateDict = dict[str, Any]
