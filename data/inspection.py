"""Statistics of a dataset: its labels, boxes and images. Pure functions; nothing is printed here.

N rows, C classes, K classes chosen. Label tables are counted as they are stored: a sparse one never becomes dense.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.sparse import csr_array

from data.images.files import ArrayImages, FileImages
from data.images.opening import decode, fault, header, image_size
from utils.checks import RunError
from utils.long_tail import positives
from utils.types import ABSENT, PRESENT, UNKNOWN, Annotations, Boxes, Images, Index, LabelTable

_BLOCK = 1 << 22  # entries compared at a time
_ROWS = 1 << 18  # of a sparse table counted at a time
_NAMED = 5  # classes named in a line
_EDGE = 1.0  # pixels a box may reach over the image's edge: corners are often rounded


def untold_classes(split: str, annotations: Annotations) -> str:
    """A line on the classes whose absence is known of no image of a split, so that any ranking of them is perfect.

    Args:
        split: its name, as in "test".
        annotations: its labels.

    Returns: the line; empty where there is no such class.
    """
    present, absent = (annotations.truth.counts(code) for code in (PRESENT, ABSENT))
    untold = np.flatnonzero((present > 0) & (absent == 0))
    if not len(untold):
        return ""
    if len(untold) == (present > 0).sum():
        what = "any class: its average precision means nothing and counts as 0"
    else:
        named = ", ".join(annotations.classes[k] for k in untold[:_NAMED]) + (", ..." if len(untold) > _NAMED else "")
        what = f"{len(untold)} of {len(present)} classes ({named}): they have no average precision"
    return f"no {split} image is known to be without {what}; absence must be labelled too (0 in a table)"


@dataclass(frozen=True)
class LabelStats:
    """Statistics of one table of labels."""

    counts: Index
    """(3, C) number of rows with each code, at [code + 1]."""
    per_row: Index
    """(M,) number of rows with 0, 1, 2, ... present classes."""
    all_unknown: int
    """Number of rows whose labels are all unknown."""

    @property
    def rows(self) -> int:
        """N."""
        return int(self.per_row.sum())

    @property
    def present(self) -> Index:
        """(C,) positives of each class."""
        present: Index = self.counts[PRESENT + 1]
        return present

    @property
    def cardinality(self) -> float:
        """Mean number of present classes per row; 0 without rows."""
        return float(self.present.sum() / max(self.rows, 1))

    @property
    def density(self) -> float:
        """Mean share of the classes that are present in a row."""
        return self.cardinality / max(len(self.present), 1)

    @property
    def imbalance(self) -> float | None:
        """Positives of the most frequent class over those of the rarest that has any; None without positives."""
        counts = self.present[self.present > 0]
        return float(counts.max() / counts.min()) if len(counts) else None


def label_stats(table: LabelTable) -> LabelStats:
    """Count the codes of a table by class and by row."""
    counts = np.stack([table.counts(code) for code in (UNKNOWN, ABSENT, PRESENT)])
    all_unknown = int((row_counts(table, UNKNOWN) == table.num_classes).sum())
    return LabelStats(counts, np.bincount(row_counts(table, PRESENT)).astype(np.int64), all_unknown)


def row_counts(table: LabelTable, code: int) -> Index:
    """(N,) number of classes with `code` in each row."""
    codes = table.codes
    if not isinstance(codes, csr_array):
        return np.asarray((codes == code).sum(axis=1, dtype=np.int64))
    stored = np.diff(codes.indptr)
    row = np.repeat(np.arange(len(table)), stored)
    counts = np.bincount(row[codes.data == code], minlength=len(table))
    if code == table.default:
        counts += table.num_classes - stored
    return counts.astype(np.int64)


@dataclass(frozen=True)
class NoiseStats:
    """Comparison of observed labels with the truth, class by class, all (C,)."""

    labelled: Index
    """Labelled present."""
    judged: Index
    """Labelled present, where the truth is known."""
    wrong: Index
    """Labelled present, truly absent."""
    unlabelled: Index
    """Truly present, without a label."""
    denied: Index
    """Truly present, labelled absent."""
    unknown: Index
    """Labelled unknown, whatever the truth."""
    hiding: Index
    """Labelled unknown, where the truth is known."""


def noise_stats(truth: LabelTable, observed: LabelTable) -> NoiseStats:
    """Compare the labels that training sees with the truth of the same rows."""
    pairs = joint_counts(truth, observed)
    true, labelled, absent, unknown = PRESENT + 1, PRESENT + 1, ABSENT + 1, UNKNOWN + 1
    return NoiseStats(
        labelled=pairs[:, labelled].sum(axis=0),
        judged=pairs[[absent, true], labelled].sum(axis=0),
        wrong=pairs[absent, labelled],
        unlabelled=pairs[true, unknown],
        denied=pairs[true, absent],
        unknown=pairs[:, unknown].sum(axis=0),
        hiding=pairs[[absent, true], unknown].sum(axis=0),
    )


def joint_counts(truth: LabelTable, observed: LabelTable) -> Index:
    """(3, 3, C) number of rows with each pair of codes, at [true code + 1, observed code + 1]."""
    if isinstance(truth.codes, csr_array) and isinstance(observed.codes, csr_array):
        return _joint_stored(truth, observed)
    counts = np.zeros((9, truth.num_classes), dtype=np.int64)
    size = max(1, _BLOCK // max(truth.num_classes, 1))
    for start in range(0, len(truth), size):
        rows = slice(start, start + size)
        pair = (truth.rows(rows) + 1) * 3 + (observed.rows(rows) + 1)
        for value in range(9):
            counts[value] += (pair == value).sum(axis=0)
    return counts.reshape(3, 3, -1)


def _joint_stored(truth: LabelTable, observed: LabelTable) -> Index:
    """`joint_counts` of two sparse tables: 0 stands for "not stored", codes for 1, 2, 3 and 4, 8, 12."""
    both = csr_array(_marked(truth, 1) + _marked(observed, 4))
    counts = np.zeros((3, 3, truth.num_classes), dtype=np.int64)
    for value in range(1, 16):
        one, other = value % 4, value // 4
        cell = (one - 1 if one else truth.default + 1, other - 1 if other else observed.default + 1)
        counts[cell] += np.bincount(both.indices[both.data == value], minlength=truth.num_classes)
    counts[truth.default + 1, observed.default + 1] += len(truth) - counts.sum(axis=(0, 1))
    return counts


def _marked(table: LabelTable, factor: int) -> csr_array:
    """The stored entries as `factor` times 1, 2, 3, so that none of them is a zero that addition would drop."""
    codes = table.codes
    assert isinstance(codes, csr_array)
    return csr_array(((codes.data + 2) * np.int8(factor), codes.indices, codes.indptr), shape=codes.shape)


class CoOccurrence(NamedTuple):
    """Classes that appear together."""

    classes: Index
    """(K,) the classes, most frequent first; each has a positive."""
    counts: Index
    """(K, K) number of rows in which both are present; on the diagonal, the rows of one class."""

    def conditional(self) -> NDArray[np.float64]:
        """(K, K) P(k | j) at [j, k]: the share of the rows with j that also have k."""
        return self.counts / np.diag(self.counts)[:, None]


def co_occurrence(table: LabelTable, at_most: int) -> CoOccurrence:
    """Count how often the `at_most` most frequent classes of a table appear together."""
    present = table.counts(PRESENT)
    chosen = np.argsort(-present, kind="stable")[:at_most]
    chosen = chosen[present[chosen] > 0]
    rank = np.full(table.num_classes, -1)
    rank[chosen] = np.arange(len(chosen))
    counts = np.zeros((len(chosen), len(chosen)), dtype=np.int64)
    size = max(1, _BLOCK // max(table.num_classes, 1)) if not isinstance(table.codes, csr_array) else _ROWS
    for start in range(0, len(table), size):
        block = table.take(np.arange(start, min(start + size, len(table))))
        row, label = positives(block)
        kept = rank[label] >= 0
        ones = np.ones(int(kept.sum()), dtype=np.int64)
        indicator = csr_array((ones, (row[kept], rank[label[kept]])), shape=(len(block), len(chosen)))
        counts += (indicator.T @ indicator).toarray()
    return CoOccurrence(chosen, counts)


class ClassPair(NamedTuple):
    """Class `then` is present in `rows` of the `given_rows` rows with class `given`, a share of `share`."""

    given: int
    then: int
    share: float
    rows: int
    given_rows: int


def strongest_pairs(co_occurrence: CoOccurrence, count: int, least: int) -> list[ClassPair]:
    """The `count` pairs of classes with the highest P(then | given), out of those that share `least` rows or more.

    Ties go to the pair with more rows, then to the more frequent classes.
    """
    share, together = co_occurrence.conditional(), co_occurrence.counts
    given, then = np.nonzero((together >= least) & ~np.eye(len(together), dtype=bool))
    order = np.lexsort((then, given, -together[given, then], -share[given, then]))[:count]
    classes = co_occurrence.classes.tolist()
    return [
        ClassPair(classes[j], classes[k], float(share[j, k]), int(together[j, k]), int(together[j, j]))
        for j, k in zip(given[order].tolist(), then[order].tolist(), strict=True)
    ]


class StoredImage(NamedTuple):
    """Properties of the file of one image."""

    fault: str | None  # as the end of a sentence; None for a good image
    side: tuple[int, int] = (0, 0)  # width and height in pixels
    mode: str = ""  # Pillow's name: RGB, L (grey), CMYK, P (palette), I;16 (16 bit), ...
    form: str = ""  # suffix of the file and its true format: ".jpg JPEG"
    size: int = 0  # bytes


def examine(images: Images, row: int) -> StoredImage:
    """Decode one image to its end and return its properties."""
    if not isinstance(images, FileImages):
        try:
            image = images.open(row)
        except RunError as error:
            return StoredImage(f"cannot be read ({error})")
        form = "in memory" if isinstance(images, ArrayImages) else f"part of {Path(images.name(row)).suffix.lower()}"
        return StoredImage(None, image.size, image.mode, form, len(image.tobytes()))
    path = images.name(row)
    wrong = fault(path, images.reading)
    if wrong is not None:
        return StoredImage(wrong)
    _, mode, encoding = header(path)
    form = f"{Path(path).suffix.lower() or 'no ending'} {encoding}"
    return StoredImage(None, image_size(path, images.reading), mode, form, os.stat(path).st_size)  # noqa: PTH116 - a string already


def digest(images: Images, row: int) -> bytes:
    """SHA-256 of the file of an image; of its pixels if it has no file of its own. Raises: OSError, RunError."""
    if not isinstance(images, FileImages):
        image = images.open(row)
        return hashlib.sha256(repr(image.size).encode() + image.tobytes()).digest()
    with Path(images.name(row)).open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def grey_square(images: Images, row: int, side: int) -> NDArray[np.uint8]:
    """(side, side) the grey levels of an image, scaled to a square. Raises: what opening it raises."""
    if isinstance(images, FileImages):
        return _scaled(decode(images.name(row), images.reading, draft=side), side)
    return _scaled(images.open(row), side)


def _scaled(image: Image.Image, side: int) -> NDArray[np.uint8]:
    return np.asarray(image.convert("L").resize((side, side), Image.Resampling.LANCZOS))


@dataclass(frozen=True)
class ImageStats:
    """Statistics of the images of N rows; rows with a fault have sides 0, empty strings and size 0."""

    sides: Index
    """(N, 2) width and height in pixels."""
    modes: NDArray[np.str_]
    """(N,) Pillow's mode."""
    forms: NDArray[np.str_]
    """(N,) suffix and format of the file."""
    sizes: Index
    """(N,) size in bytes."""
    faults: Mapping[int, str]
    """Faults by row."""


def image_stats(rows: int, examined: Iterable[tuple[int, StoredImage]]) -> ImageStats:
    """Collect results of `examine` for some of `rows` rows; needs little memory however many there are."""
    sides, sizes = np.zeros((rows, 2), dtype=np.int64), np.zeros(rows, dtype=np.int64)
    modes, forms = np.zeros(rows, dtype="U8"), np.zeros(rows, dtype="U24")
    faults = {}
    for row, image in examined:
        sides[row], sizes[row], modes[row], forms[row] = image.side, image.size, image.mode, image.form
        if image.fault is not None:
            faults[row] = image.fault
    return ImageStats(sides, modes, forms, sizes, faults)


def shared_sizes(sizes: Mapping[str, Index]) -> dict[str, Index]:
    """By split, the rows whose size in bytes another row of any split has too: only these can be duplicates."""
    values, counts = np.unique(np.concatenate([part[part > 0] for part in sizes.values()]), return_counts=True)
    shared = values[counts > 1]
    return {split: np.flatnonzero(np.isin(part, shared)) for split, part in sizes.items()}


DuplicateGroup = tuple[tuple[str, int], ...]
"""Splits and rows of one and the same image."""


def duplicates(digests: Iterable[tuple[str, int, bytes]]) -> list[DuplicateGroup]:
    """Splits and rows of each image that occurs more than once, from (split, row, digest)."""
    groups: dict[bytes, list[tuple[str, int]]] = {}
    for split, row, value in digests:
        groups.setdefault(value, []).append((split, row))
    return [tuple(group) for group in groups.values() if len(group) > 1]


class BoxStats(NamedTuple):
    """Indices of boxes that cannot be right."""

    empty: Index
    """Boxes without area, or with a corner that is not finite."""
    outside: Index
    """Boxes more than a pixel outside their image, where its size is known."""


def box_stats(boxes: Boxes, sides: Index | None) -> BoxStats:
    """Check M boxes in images of `sides` (N, 2) pixels, 0 if unknown; None if no size is known."""
    x1, y1, x2, y2 = boxes.corners.astype(np.float64).T
    empty = ~((x2 > x1) & (y2 > y1) & np.isfinite(boxes.corners).all(axis=1))
    outside = np.zeros(len(empty), dtype=bool)
    if sides is not None:
        width, height = sides[boxes.row].T
        over = np.maximum.reduce([-x1, -y1, x2 - width, y2 - height]) > _EDGE
        outside = over & (width > 0)
    return BoxStats(np.flatnonzero(empty), np.flatnonzero(outside))
