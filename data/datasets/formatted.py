"""Formatted arrays: `formatted_{train,val}_{images,labels,labels_obs}.npy`, the form of the single-positive papers.

Cole et al. (CVPR 2021, single-positive-multi-label, preproc/format_*.py and generate_observed_labels.py); Large Loss
Matters (CVPR 2022) and CoNeS (Dataset/VG) use it too. N rows, C classes:

- images: (N,) texts, file names relative to the image folder;
- labels: (N, C) true labels, 1 present, 0 absent;
- labels_obs: (N, C) observed labels, 1 present, 0 unknown, -1 absent; some datasets lack them.

"val" is the test set: validation rows are taken off the training rows. The recipes draw in the order of these files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.datasets.source import DatasetSource
from data.files.text_files import is_plain_text, read_lines, relative_path
from data.images.files import FileImages
from utils.checks import UserError, require
from utils.safe_files import load_npy, write_atomically, write_text
from utils.types import ABSENT, PRESENT, UNKNOWN, Annotations, Codes, Index, LabelTable, Splits

NameOf = Callable[[Annotations, int], str]
"""Maps annotations and a row to the file name in the array of images."""

_SPLITS = ("train", "val")
_IMAGE_FOLDERS = ("JPEGImages", "images", "Flickr")  # published file names are relative to these
_OBSERVED = {PRESENT: 1, UNKNOWN: 0, ABSENT: -1}  # our code: code in the files


class FormattedLayout(NamedTuple):
    """Layout of the formatted arrays of one dataset."""

    name: str
    """Name of the dataset, for messages."""
    roots: tuple[str, ...]
    """Folders below `path_images` that file names may be relative to; the first that exists counts."""
    identify: Callable[[str], str]
    """Maps a relative file name to the image id, "" where the name has none."""
    classes: tuple[str, ...] | None
    """C names; None: those of `classes.txt` beside the arrays, one per line, else "class 00" and so on."""
    width: int | None
    """C, if it is fixed."""


class _FormattedSplit(NamedTuple):
    """One split in the order of its files."""

    ids: tuple[str, ...]
    files: tuple[str, ...]
    truth: Codes


def is_formatted(folder: Path) -> bool:
    """Tell whether any of the required arrays is in `folder`."""
    return any(array_path(folder, split, kind).exists() for split in _SPLITS for kind in ("images", "labels"))


def array_path(folder: Path, split: str, kind: str) -> Path:
    """Path of one array: split "train" or "val", kind "images", "labels" or "labels_obs"."""
    return folder / f"formatted_{split}_{kind}.npy"


def load_formatted(source: DatasetSource, layout: FormattedLayout) -> Splits:
    """Read the training and test set from the arrays in `path_images`.

    Rows are ordered by id, ids that are numbers by their value; `places` has the rows of the files. Observed labels
    of the training set, if there are any, become `given`; those of the test set are not read.

    Raises:
        UserError: an array is missing, damaged, of another type, shape or value, or has Python objects; a file
            name is not valid, or is listed twice or in both sets; the number of classes is not that of the dataset.
    """
    folder = source.path_images
    arrays = [_read_split(folder, split, layout) for split in _SPLITS]
    widths = [content.truth.shape[1] for content in arrays]
    require(
        widths[0] == widths[1],
        f"{array_path(folder, 'val', 'labels')}: {widths[1]} classes, the training labels have {widths[0]};"
        f" both must be of one dataset",
    )
    _check_disjoint(folder, *arrays)
    given = _read_observed(folder, arrays[0].truth.shape)
    classes = layout.classes or _classes(folder, widths[0])
    root = _image_folder(source, layout)
    train, test = (_annotations(source, root, classes, *pair) for pair in zip(arrays, (given, None), strict=True))
    return Splits(train, test)


def write_formatted(
    folder: Path,
    splits: Splits,
    observed_train: LabelTable,
    observed_test: LabelTable,
    name_of: NameOf,
    *,
    overwrite: bool = False,
) -> None:
    """Write the six arrays and `classes.txt`, rows in the order that the recipes draw in.

    Types are the published ones: texts, and float64 for both kinds of labels. UNKNOWN truth becomes 0, as in the
    papers. Each file is complete or absent; while a set is being replaced its image names are missing, so that it
    cannot be read.

    Args:
        folder: output folder; created if it is missing.
        splits: training and test set.
        observed_train: (N, C) observed labels of `splits.train`, in its order.
        observed_test: the same for `splits.test`; the recipe draws them anew from the same seed.
        name_of: file name of each image; `names_below` gives those of the published files.
        overwrite: replace arrays that exist.

    Raises:
        UserError: such files exist already, a name cannot be used, or the labels are stored sparsely.
        RunError: the files cannot be written.
    """
    both = (splits.train, splits.test)
    for rows, observed in zip(both, (observed_train, observed_test), strict=True):
        if (len(observed), observed.num_classes) != (len(rows), len(rows.classes)):
            raise ValueError(f"observed labels {len(observed)} x {observed.num_classes} for {len(rows)} images")
    _require_writable(folder, splits.train, overwrite=overwrite)
    names = [_names(rows, name_of) for rows in both]
    _prepare(folder)
    write_text(folder / "classes.txt", "".join(f"{name}\n" for name in splits.train.classes))
    for split, rows, observed, images in zip(_SPLITS, both, (observed_train, observed_test), names, strict=True):
        order = rows.recipe_order()
        truth = (rows.truth.rows(order) == PRESENT).astype(np.float64)
        _save(array_path(folder, split, "labels"), truth)
        _save(array_path(folder, split, "labels_obs"), _to_file_code(observed.rows(order)))
        _save(array_path(folder, split, "images"), images[order])


def names_below(path_images: Path) -> NameOf:
    """Return a function for the file names of the published arrays, which are relative to the image folder.

    A name is the part of the path after the last folder `JPEGImages`, `images` or `Flickr`, or, without one of these,
    the path relative to `path_images`.
    """

    def name_of(annotations: Annotations, row: int) -> str:
        """File name of an image in the published files."""
        path = Path(annotations.images.name(row))
        try:
            parts = path.relative_to(path_images).parts
        except ValueError as error:
            raise UserError(f"image {path}: lies outside of {path_images}; give --path_images its dataset") from error
        start = max((depth for depth, part in enumerate(parts[:-1], 1) if part in _IMAGE_FOLDERS), default=0)
        return "/".join(parts[start:])

    return name_of


def _read_split(folder: Path, split: str, layout: FormattedLayout) -> _FormattedSplit:
    path = array_path(folder, split, "images")
    files = _read_names(path)
    ids = _image_ids(path, files, layout)
    values = _read_labels(array_path(folder, split, "labels"), len(files), (PRESENT, ABSENT))
    expected = layout.width if layout.classes is None else len(layout.classes)
    if expected not in (None, values.shape[1]):
        raise UserError(
            f"{array_path(folder, split, 'labels')}: {values.shape[1]} classes, {layout.name} has {expected};"
            f" give --path_images its own arrays"
        )
    return _FormattedSplit(ids, files, values.astype(np.int8))


def _read_names(path: Path) -> tuple[str, ...]:
    """Read the relative file names of one split, each of them checked."""
    names = load_npy(path)
    if names.dtype.kind != "U" or names.ndim != 1 or not names.size:
        raise UserError(f"{path}: holds {names.dtype} {names.shape}; must be a list of file names, texts of shape (N,)")
    texts: list[str] = names.tolist()
    for row, text in enumerate(texts):
        if not (text.isprintable() or is_plain_text(text)):  # isprintable alone would refuse unusual spaces too
            raise UserError(f"{path}, row {row}: {text[:80]!r} holds control characters; get this file anew")
    return tuple(relative_path(text, f"{path}, row {row}") for row, text in enumerate(texts))


def _image_ids(path: Path, files: Sequence[str], layout: FormattedLayout) -> tuple[str, ...]:
    """Return the image id of each file name. Raises: UserError for a name without one, or an id that occurs twice."""
    first: dict[str, int] = {}
    for row, file in enumerate(files):
        image = layout.identify(file)
        if not image:
            raise UserError(f"{path}, row {row}: {file[:80]!r} is no file name of an image of {layout.name}")
        if image in first:
            raise UserError(f"{path}, row {row}: image {image[:80]} is listed twice (also in row {first[image]})")
        first[image] = row
    return tuple(first)


def _read_labels(path: Path, rows: int, allowed: Sequence[int]) -> NDArray[Any]:
    """Read numbers (N, C), each one of `allowed`."""
    values = load_npy(path)
    if values.dtype.kind not in "biuf" or values.ndim != 2:
        raise UserError(f"{path}: holds {values.dtype} {values.shape}; must be numbers of shape (N, C)")
    if len(values) != rows or not values.shape[1]:
        raise UserError(f"{path}: shape {values.shape} does not fit the {rows} names in the array of images beside it")
    valid = np.zeros(values.shape, dtype=np.bool_)
    for number in allowed:
        valid |= values == number
    if not valid.all():
        row, label = np.argwhere(~valid)[0]
        raise UserError(
            f"{path}, row {row}: class {label} is {values[row, label]}; must be one of"
            f" {', '.join(str(number) for number in allowed)} ({(~valid).sum()} such entries)"
        )
    return values


def _read_observed(folder: Path, shape: tuple[int, ...]) -> LabelTable | None:
    """Read the observed training labels (N, C) in the order of the files; None if the dataset has none."""
    path = array_path(folder, "train", "labels_obs")
    if not path.exists():
        return None
    values = _read_labels(path, shape[0], tuple(_OBSERVED.values()))
    require(values.shape == shape, f"{path}: {values.shape[1]} classes, the true labels have {shape[1]}")
    codes = np.full(shape, UNKNOWN, dtype=np.int8)
    for code in (PRESENT, ABSENT):
        codes[values == _OBSERVED[code]] = code
    return LabelTable(codes)


def _check_disjoint(folder: Path, train: _FormattedSplit, test: _FormattedSplit) -> None:
    shared = set(train.ids) & set(test.ids)
    if shared:
        row = next(row for row, image in enumerate(test.ids) if image in shared)
        raise UserError(
            f"{array_path(folder, 'val', 'images')}, row {row}: image {test.ids[row][:80]} is in the training set too"
            f" (row {train.ids.index(test.ids[row])} of the training images; {len(shared)} such)"
        )


def _classes(folder: Path, width: int) -> tuple[str, ...]:
    """Read the C names of `classes.txt`; without that file, number the classes."""
    path = folder / "classes.txt"
    if not path.exists():
        digits = max(2, len(str(width - 1)))
        return tuple(f"class {label:0{digits}}" for label in range(width))
    lines: dict[str, int] = {}
    for line, name in read_lines(path, "it names the classes, one per line"):
        require(name not in lines, f"{path}, line {line}: class {name[:60]!r} is also in line {lines.get(name)}")
        lines[name] = line
    require(len(lines) == width, f"{path}: {len(lines)} class names for the {width} columns of labels beside it")
    return tuple(lines)


def _image_folder(source: DatasetSource, layout: FormattedLayout) -> Path:
    """Return the folder that file names are relative to; one that need not exist if images are not needed."""
    folders = [source.path_images / root for root in layout.roots]
    existing = next((folder for folder in folders if folder.is_dir()), None)
    if existing is None and source.need_images:
        raise UserError(f"{folders[0]}: no such folder; the images of {layout.name} belong there")
    return existing or folders[0]


def _annotations(
    source: DatasetSource, root: Path, classes: tuple[str, ...], content: _FormattedSplit, given: LabelTable | None
) -> Annotations:
    """Annotations of one split, ordered by id."""
    order = _order_by_id(content.ids)
    return Annotations(
        FileImages([f"{root}/{content.files[row]}" for row in order], source.cache),
        tuple(content.ids[row] for row in order),
        classes,
        LabelTable(content.truth[order]),
        given=None if given is None else given.take(order),
        places=order,
    )


def _order_by_id(ids: Sequence[str]) -> Index:
    """Rows in the order of their ids: by value if all of them are numbers, else as texts."""
    if not all(image.isascii() and image.isdigit() for image in ids):
        return np.array(sorted(range(len(ids)), key=ids.__getitem__), dtype=np.int64)

    def value(row: int) -> tuple[int, str, str]:  # sorts numbers of any length without conversion
        """The key of a numeric id: its length, its digits, the id itself."""
        digits = ids[row].lstrip("0")
        return len(digits), digits, ids[row]

    return np.array(sorted(range(len(ids)), key=value), dtype=np.int64)


def _require_writable(folder: Path, train: Annotations, *, overwrite: bool) -> None:
    """Refuse to replace existing arrays without `overwrite`, and always to replace a list of other classes."""
    require(
        not train.truth.stores_known_only,
        f"{folder}: formatted arrays have an entry per image and class, the labels of this dataset are stored sparsely",
    )
    paths = [array_path(folder, split, kind) for split in _SPLITS for kind in ("images", "labels", "labels_obs")]
    existing = next((path for path in paths if path.exists()), None)
    require(overwrite or existing is None, f"{existing}: exists already; name another folder, or add --overwrite")
    listed = folder / "classes.txt"
    names = [name for _, name in read_lines(listed, "it names the classes")] if listed.exists() else []
    require(not names or names == list(train.classes), f"{listed}: names other classes than these; name another folder")


def _names(annotations: Annotations, name_of: NameOf) -> NDArray[np.str_]:
    """Return the file names (N,) of all images, checked to be distinct and inside the dataset."""
    names = [
        relative_path(name_of(annotations, row), f"image {annotations.images.name(row)}")
        for row in range(len(annotations))
    ]
    first: dict[str, int] = {}
    for row, name in enumerate(names):
        if first.setdefault(name, row) != row:
            raise UserError(
                f"image {annotations.images.name(row)}: would be called {name}, as"
                f" {annotations.images.name(first[name])} is; formatted arrays need distinct names"
            )
    return np.array(names, dtype=np.str_)


def _prepare(folder: Path) -> None:
    """Create the folder, and make a set that will be replaced unreadable."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for split in _SPLITS:
            array_path(folder, split, "images").unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written to ({error.strerror}); name another folder") from error


def _to_file_code(codes: Codes) -> NDArray[np.float64]:
    values = np.empty(codes.shape, dtype=np.float64)
    for code, number in _OBSERVED.items():
        values[codes == code] = number
    return values


def _save(path: Path, array: NDArray[Any]) -> None:
    def write(file: BinaryIO) -> None:
        """Write the array."""
        np.save(file, array, allow_pickle=False)

    write_atomically(path, write)
