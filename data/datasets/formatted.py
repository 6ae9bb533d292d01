"""Formatted arrays: `formatted_{train,val}_{images,labels,labels_obs}.npy`, the form of the single-positive papers.

Cole et al. (CVPR 2021, single-positive-multi-label, preproc/format_*.py and generate_observed_labels.py); Large Loss
Matters (CVPR 2022) and CoNeS (Dataset/VG) use it too. N rows, C classes:

- images: (N,) texts, file names relative to the folder of the pictures;
- labels: (N, C) true labels, 1 present, 0 absent;
- labels_obs: (N, C) observed labels, 1 present, 0 unknown, -1 absent; not in every dataset.

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
from utils.safe_files import load_npy, write_atomically
from utils.types import ABSENT, PRESENT, UNKNOWN, Annotations, Codes, Index, LabelTable, Splits

NameOf = Callable[[Annotations, int], str]
"""From annotations and a row to the name of its picture, as the array of images shall have it."""

_PARTS = ("train", "val")
_PICTURE_FOLDERS = ("JPEGImages", "images", "Flickr")  # what published names are relative to
_OBSERVED = {PRESENT: 1, UNKNOWN: 0, ABSENT: -1}  # our code: the files' code


class Form(NamedTuple):
    """What the formatted arrays of one dataset are like."""

    name: str
    """The dataset, for messages."""
    roots: tuple[str, ...]
    """Folders below `path_images` that file names may be relative to; the first that exists is the one."""
    identify: Callable[[str], str]
    """From a relative file name to the image id; an empty text where the name has none."""
    classes: tuple[str, ...] | None
    """C names; None: those of `classes.txt` beside the arrays, one a line, else "class 00" and so on."""
    width: int | None
    """C, where it is fixed."""


class _Part(NamedTuple):
    """One phase in the order of its files."""

    ids: tuple[str, ...]
    files: tuple[str, ...]
    truth: Codes


def is_formatted(folder: Path) -> bool:
    """Whether any of the arrays that must be there is in `folder`."""
    return any(array_path(folder, part, what).exists() for part in _PARTS for what in ("images", "labels"))


def array_path(folder: Path, part: str, what: str) -> Path:
    """Where one array lies: part "train" or "val", what "images", "labels" or "labels_obs"."""
    return folder / f"formatted_{part}_{what}.npy"


def load_formatted(source: DatasetSource, form: Form) -> Splits:
    """The training and test set that the arrays in `path_images` describe.

    Rows are ordered by id, ids that are numbers by their value; `places` has the rows of the files. Observed labels
    of the training set, where there are any, become `given`; those of the test set are not read.

    Raises:
        UserError: an array is missing, damaged, of another type, shape or value, or holds Python objects; a file
            name is none, is listed twice or in both sets; the classes are not as many as the dataset has.
    """
    folder = source.path_images
    parts = [_read_part(folder, part, form) for part in _PARTS]
    widths = [part.truth.shape[1] for part in parts]
    require(
        widths[0] == widths[1],
        f"{array_path(folder, 'val', 'labels')}: {widths[1]} classes, the training labels have {widths[0]};"
        f" both must be of one dataset",
    )
    _require_apart(folder, *parts)
    given = _read_observed(folder, parts[0].truth.shape)
    classes = form.classes or _classes(folder, widths[0])
    root = _picture_folder(source, form)
    train, test = (_annotations(source, root, classes, *pair) for pair in zip(parts, (given, None), strict=True))
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

    Types are the published ones: texts, and float64 for both kinds of labels. UNKNOWN truth becomes 0, as the papers
    count it. Each file is whole or absent; while a set is being replaced it lacks its image names, and cannot be read.

    Args:
        folder: where to; made where it is missing.
        splits: training and test set.
        observed_train: (N, C) observed labels of `splits.train`, in its order.
        observed_test: the same of `splits.test`; the recipe draws them afresh from the same seed.
        name_of: how pictures are called; `names_below` does it as the published files do.
        overwrite: whether arrays that are there may be replaced.

    Raises:
        UserError: there are such files already, a name cannot be used, or the table is too sparse to be written out.
        RunError: the system refuses to write.
    """
    held = (splits.train, splits.test)
    for rows, observed in zip(held, (observed_train, observed_test), strict=True):
        if (len(observed), observed.num_classes) != (len(rows), len(rows.classes)):
            raise ValueError(f"observed labels {len(observed)} x {observed.num_classes} for {len(rows)} pictures")
    _require_writable(folder, splits.train, overwrite=overwrite)
    names = [_names(rows, name_of) for rows in held]
    _prepare(folder)
    _write_text(folder / "classes.txt", splits.train.classes)
    for part, rows, observed, images in zip(_PARTS, held, (observed_train, observed_test), names, strict=True):
        order = rows.recipe_order()
        truth = (rows.truth.rows(order) == PRESENT).astype(np.float64)
        _save(array_path(folder, part, "labels"), truth)
        _save(array_path(folder, part, "labels_obs"), _to_file_code(observed.rows(order)))
        _save(array_path(folder, part, "images"), images[order])


def names_below(path_images: Path) -> NameOf:
    """Names as the published arrays have them: relative to the folder of the pictures.

    That is the part behind the last folder `JPEGImages`, `images` or `Flickr`, and where there is none of these,
    what follows `path_images`.
    """

    def name_of(annotations: Annotations, row: int) -> str:
        """The name that the published files have for a picture."""
        path = Path(annotations.images.name(row))
        try:
            parts = path.relative_to(path_images).parts
        except ValueError as error:
            raise UserError(f"picture {path}: lies outside of {path_images}; give --path_images its dataset") from error
        start = max((place + 1 for place, part in enumerate(parts[:-1]) if part in _PICTURE_FOLDERS), default=0)
        return "/".join(parts[start:])

    return name_of


def _read_part(folder: Path, part: str, form: Form) -> _Part:
    path = array_path(folder, part, "images")
    files = _read_names(path)
    ids = _identified(path, files, form)
    values = _read_labels(array_path(folder, part, "labels"), len(files), (PRESENT, ABSENT))
    wanted = form.width if form.classes is None else len(form.classes)
    if wanted not in (None, values.shape[1]):
        raise UserError(
            f"{array_path(folder, part, 'labels')}: {values.shape[1]} classes, {form.name} has {wanted};"
            f" give --path_images its own arrays"
        )
    return _Part(ids, files, values.astype(np.int8))


def _read_names(path: Path) -> tuple[str, ...]:
    """The relative file names of one phase, checked one by one."""
    names = load_npy(path)
    if names.dtype.kind != "U" or names.ndim != 1 or not names.size:
        raise UserError(f"{path}: holds {names.dtype} {names.shape}; must be a list of file names, texts of shape (N,)")
    texts: list[str] = names.tolist()
    for row, text in enumerate(texts):
        if not (text.isprintable() or is_plain_text(text)):  # the first alone refuses unusual spaces too
            raise UserError(f"{path}, row {row}: {text[:80]!r} holds control characters; get this file anew")
    return tuple(relative_path(text, f"{path}, row {row}") for row, text in enumerate(texts))


def _identified(path: Path, files: Sequence[str], form: Form) -> tuple[str, ...]:
    """The image id of each file name. Raises: UserError for a name without one, or an id that is there twice."""
    first: dict[str, int] = {}
    for row, file in enumerate(files):
        one = form.identify(file)
        if not one:
            raise UserError(f"{path}, row {row}: {file[:80]!r} is not called as the pictures of {form.name} are")
        if one in first:
            raise UserError(f"{path}, row {row}: image {one[:80]} is listed twice (also in row {first[one]})")
        first[one] = row
    return tuple(first)


def _read_labels(path: Path, rows: int, allowed: Sequence[int]) -> NDArray[Any]:
    """(N, C) numbers, each one of `allowed`."""
    values = load_npy(path)
    if values.dtype.kind not in "biuf" or values.ndim != 2:
        raise UserError(f"{path}: holds {values.dtype} {values.shape}; must be numbers of shape (N, C)")
    if len(values) != rows or not values.shape[1]:
        raise UserError(f"{path}: shape {values.shape} does not fit the {rows} names in the array of images beside it")
    right = np.zeros(values.shape, dtype=np.bool_)
    for number in allowed:
        right |= values == number
    if not right.all():
        row, label = np.argwhere(~right)[0]
        raise UserError(
            f"{path}, row {row}: class {label} is {values[row, label]}; must be one of"
            f" {', '.join(str(number) for number in allowed)} ({(~right).sum()} such entries)"
        )
    return values


def _read_observed(folder: Path, shape: tuple[int, ...]) -> LabelTable | None:
    """The observed training labels (N, C) in the order of the files; None where the dataset has none."""
    path = array_path(folder, "train", "labels_obs")
    if not path.exists():
        return None
    values = _read_labels(path, shape[0], tuple(_OBSERVED.values()))
    require(values.shape == shape, f"{path}: {values.shape[1]} classes, the true labels have {shape[1]}")
    codes = np.full(shape, UNKNOWN, dtype=np.int8)
    for code in (PRESENT, ABSENT):
        codes[values == _OBSERVED[code]] = code
    return LabelTable(codes)


def _require_apart(folder: Path, train: _Part, test: _Part) -> None:
    shared = set(train.ids) & set(test.ids)
    if shared:
        row = next(row for row, one in enumerate(test.ids) if one in shared)
        raise UserError(
            f"{array_path(folder, 'val', 'images')}, row {row}: image {test.ids[row][:80]} is for training too"
            f" (row {train.ids.index(test.ids[row])} of the training images; {len(shared)} such)"
        )


def _classes(folder: Path, width: int) -> tuple[str, ...]:
    """The C names of `classes.txt`, or made-up ones where there is no such file."""
    path = folder / "classes.txt"
    if not path.exists():
        digits = max(2, len(str(width - 1)))
        return tuple(f"class {label:0{digits}}" for label in range(width))
    lines: dict[str, int] = {}
    for line, name in read_lines(path, "it names the classes, one a line"):
        require(name not in lines, f"{path}, line {line}: class {name[:60]!r} is also in line {lines.get(name)}")
        lines[name] = line
    require(len(lines) == width, f"{path}: {len(lines)} class names for the {width} columns of labels beside it")
    return tuple(lines)


def _picture_folder(source: DatasetSource, form: Form) -> Path:
    """The folder that file names are relative to; any where pictures do not matter."""
    folders = [source.path_images / root for root in form.roots]
    found = next((folder for folder in folders if folder.is_dir()), None)
    if found is None and source.need_images:
        raise UserError(f"{folders[0]}: no such folder; the pictures of {form.name} belong there")
    return found or folders[0]


def _annotations(
    source: DatasetSource, root: Path, classes: tuple[str, ...], part: _Part, given: LabelTable | None
) -> Annotations:
    """The rows of one phase, ordered by id."""
    order = _by_id(part.ids)
    return Annotations(
        FileImages([f"{root}/{part.files[row]}" for row in order], source.cache),
        tuple(part.ids[row] for row in order),
        classes,
        LabelTable(part.truth[order]),
        given=None if given is None else given.take(order),
        places=order,
    )


def _by_id(ids: Sequence[str]) -> Index:
    """The rows ordered by id: by value where all of them are numbers, else as texts."""
    if not all(one.isascii() and one.isdigit() for one in ids):
        return np.array(sorted(range(len(ids)), key=ids.__getitem__), dtype=np.int64)

    def value(row: int) -> tuple[int, str, str]:  # a number of any length, without the cost of making it one
        digits = ids[row].lstrip("0")
        return len(digits), digits, ids[row]

    return np.array(sorted(range(len(ids)), key=value), dtype=np.int64)


def _require_writable(folder: Path, train: Annotations, *, overwrite: bool) -> None:
    """Refuse to replace what is there without being told to, and a list of other classes in any case."""
    require(
        not train.truth.stores_known_only,
        f"{folder}: formatted arrays hold every entry of a table, and this dataset knows too few of its labels",
    )
    paths = [array_path(folder, part, what) for part in _PARTS for what in ("images", "labels", "labels_obs")]
    there = next((path for path in paths if path.exists()), None)
    require(overwrite or there is None, f"{there}: exists already; name another folder, or add --overwrite")
    listed = folder / "classes.txt"
    names = [name for _, name in read_lines(listed, "it names the classes")] if listed.exists() else []
    require(not names or names == list(train.classes), f"{listed}: names other classes than these; name another folder")


def _names(annotations: Annotations, name_of: NameOf) -> NDArray[np.str_]:
    """(N,) the names of all pictures, checked to be distinct file names inside the dataset."""
    names = [
        relative_path(name_of(annotations, row), f"picture {annotations.images.name(row)}")
        for row in range(len(annotations))
    ]
    first: dict[str, int] = {}
    for row, name in enumerate(names):
        if first.setdefault(name, row) != row:
            raise UserError(
                f"picture {annotations.images.name(row)}: would be called {name}, as"
                f" {annotations.images.name(first[name])} is; formatted arrays need distinct names"
            )
    return np.array(names, dtype=np.str_)


def _prepare(folder: Path) -> None:
    """Make the folder, and make a set that will be replaced unreadable."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for part in _PARTS:
            array_path(folder, part, "images").unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written to ({error.strerror}); name another folder") from error


def _to_file_code(codes: Codes) -> NDArray[np.float64]:
    values = np.empty(codes.shape, dtype=np.float64)
    for code, number in _OBSERVED.items():
        values[codes == code] = number
    return values


def _write_text(path: Path, lines: Sequence[str]) -> None:
    content = "".join(f"{line}\n" for line in lines).encode()
    write_atomically(path, lambda file: file.write(content))


def _save(path: Path, array: NDArray[Any]) -> None:
    def write(file: BinaryIO) -> None:
        np.save(file, array, allow_pickle=False)

    write_atomically(path, write)
