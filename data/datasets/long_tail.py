"""The long-tailed splits of VOC, COCO and NUS-WIDE: `voc-lt`, `coco-lt` and `nw-lt`.

VOC-MLT and COCO-MLT are due to Wu et al. (ECCV 2020; published code wutong16/DistributionBalancedLoss, appendix), their
lists in the form read here to published code richard-peng-xia/LMPT, data, NW-MLT to zhongjingyu1/NDLP, appendix.

A list has a line for each picture, `<relative path> <class> <class> ...`, classes counted from 0; a line without a
class is a picture without labels and stays. A labels file has a line for each class, `<name> <class>`. Rows are
ordered by image id; `Annotations.places` keeps the order of the list, which published label files have.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from data.datasets.long_tail_pickles import check_pickles
from data.datasets.source import DatasetSource
from data.files.text_files import read_lines, relative_path
from data.images.files import FileImages
from utils.checks import UserError, require
from utils.long_tail import class_groups
from utils.types import ABSENT, PRESENT, Annotations, Codes, LabelTable, Splits

_NUMBER = re.compile(r"[0-9]{1,6}")


class Layout(NamedTuple):
    """Where the parts of one long-tailed split lie, and what its image ids are."""

    lists: str
    """Folder of the lists inside `--path_lists`."""
    prefix: str
    """What the names of the lists begin with."""
    checks: str | None
    """Folder of the pickles, seen from that of the lists; None where nobody has seen lists and pickles together."""
    image_id: Callable[[PurePosixPath], str | None]
    """The id of a listed picture; None where its name has none."""
    places: Callable[[str], tuple[str, ...]]
    """Where a listed picture may be, seen from `--path_images`; the first that is there counts."""
    tree: str
    """What `--path_images` looks like, for the message."""


def _stem(path: PurePosixPath) -> str:
    return path.stem


def _number(path: PurePosixPath) -> str | None:
    """`000000554625` and `COCO_train2014_000000554625` are image 554625."""
    found = re.fullmatch(r"(?:.*[^0-9])?([0-9]{1,18})", path.stem)
    return str(int(found[1])) if found else None


def _whole(path: PurePosixPath) -> str:
    return str(path.with_suffix(""))


LAYOUTS = {
    "voc-lt": Layout(
        "VOCdevkit",
        "voc",
        "longtail2012",
        _stem,
        lambda path: (path, path.removeprefix("VOCdevkit/")),
        "VOCdevkit/VOC2012/JPEGImages/*.jpg and VOCdevkit/VOC2007/JPEGImages/*.jpg, or the folder VOCdevkit itself",
    ),
    "coco-lt": Layout(
        "coco",
        "coco",
        "longtail2017",
        _number,
        lambda path: (path, f"images/{path}"),
        "train2017/*.jpg and val2017/*.jpg, or images/train2017/*.jpg and images/val2017/*.jpg",
    ),
    "nw-lt": Layout(
        "nuswide", "nw", None, _whole, lambda path: (path,), "the pictures where the lists say: images/*.jpg"
    ),
}
"""The splits by the name `--dataset` takes."""


class ListedPart(NamedTuple):
    """What one list says of its N pictures, in its own order."""

    ids: tuple[str, ...]
    files: tuple[str, ...]
    codes: Codes  # (N, C)
    lines: tuple[int, ...]  # where each stands in the file, from 1


def load_longtail(source: DatasetSource, name: str) -> Splits:
    """The training and the test list of one long-tailed split, with its head, middle and tail as groups of classes.

    An image id is the file's stem for VOC, its number without leading zeros for COCO (rows are ordered by that
    number), and the listed path without its extension for NUS-WIDE.

    Args:
        source: `path_lists` holds `VOCdevkit/voc_lt_train.txt`, `voc_lt_test.txt` and `voc_labels.txt`, or `coco/` with
            `coco_...`, or `nuswide/` with `nw_...`; the lists may also lie in `path_lists` or `path_images` directly.
            `path_images` is the folder that the listed paths start from, or VOCdevkit itself.
        name: `voc-lt`, `coco-lt` or `nw-lt`.

    Raises:
        UserError: a folder or file is missing, a line is malformed, an image is listed twice or in both lists, or a
            pickle beside the lists says something else than they do.
    """
    layout = LAYOUTS[name]
    folder = find_lists(source, layout)
    classes = read_classes(folder / f"{layout.prefix}_labels.txt")
    train_file, test_file = (folder / f"{layout.prefix}_lt_{split}.txt" for split in ("train", "test"))
    train, test = (read_list(path, len(classes), layout.image_id) for path in (train_file, test_file))
    _require_apart(train_file, train, test_file, test)
    annotations, tested = (_annotations(source, layout, classes, part) for part in (train, test))
    groups = class_groups(annotations.truth.counts())
    if layout.checks is not None:
        check_pickles(folder / layout.checks, annotations, groups)
    return Splits(annotations, tested, groups)


def find_lists(source: DatasetSource, layout: Layout) -> Path:
    """The folder that holds the lists. Raises: UserError showing the expected tree."""
    names = [f"{layout.prefix}_{rest}.txt" for rest in ("lt_train", "lt_test", "labels")]
    for root in (source.path_lists, source.path_images):
        for folder in (root / layout.lists, root):
            if any((folder / name).is_file() for name in names):
                return folder
    raise UserError(
        f"{source.path_lists}: no {names[0]} here, nor in {layout.lists}/; give --path_lists the folder like this:\n"
        f"  {layout.lists}/{names[0]}, {names[1]}, {names[2]}\n"
        f"(docs/data.md says where the lists come from)"
    )


def read_classes(path: Path) -> tuple[str, ...]:
    """The C names of a labels file in the order of their numbers; names may hold spaces.

    Raises:
        UserError: the file is missing or empty, a line is no name and number, a name or number is there twice, or the
            numbers are not 0 .. C - 1.
    """
    found: dict[int, tuple[str, int]] = {}
    for line, text in read_lines(path, "it names the classes"):
        where = f"{path}, line {line}"
        name, _, number = text.rpartition(" ")
        if not name.strip() or not _NUMBER.fullmatch(number):
            raise UserError(f"{where}: expected a class name and its number, found {text[:60]!r}")
        if int(number) in found:
            raise UserError(
                f"{where}: number {int(number)} is also in line {found[int(number)][1]}; each is for one class"
            )
        found[int(number)] = (" ".join(name.split()), line)
    require(bool(found), f"{path}: names no class; expected lines such as 'aeroplane 0'")
    gap = next((number for number in range(len(found)) if number not in found), None)
    if gap is not None:
        raise UserError(f"{path}: {len(found)} classes, but none has number {gap}; they count from 0 without gaps")
    return _distinct(path, [found[number] for number in range(len(found))])


def read_list(path: Path, num_classes: int, image_id: Callable[[PurePosixPath], str | None]) -> ListedPart:
    """The pictures of one list and their (N, C) codes.

    Args:
        path: the list.
        num_classes: C.
        image_id: the id of a listed picture.

    Raises:
        UserError: the list is missing or empty, a path leads out of the dataset or has no id, a class is no number
            below C, or an image is listed twice.
    """
    first: dict[str, int] = {}
    files: list[str] = []
    codes: list[Codes] = []
    for line, text in read_lines(path, "it lists the pictures and their classes"):
        where = f"{path}, line {line}"
        listed, *numbers = text.split()
        file = relative_path(listed, where)
        one = image_id(PurePosixPath(file))
        if one is None:
            raise UserError(f"{where}: {listed[:80]!r} has no image number in its name")
        if one in first:
            raise UserError(f"{where}: image {one[:80]} is listed twice (also in line {first[one]})")
        first[one] = line
        files.append(file)
        codes.append(_codes(where, numbers, num_classes))
    require(bool(first), f"{path}: lists no picture; expected lines such as '<path> 14 4 19'")
    return ListedPart(tuple(first), tuple(files), np.stack(codes), tuple(first.values()))


def _distinct(path: Path, found: Sequence[tuple[str, int]]) -> tuple[str, ...]:
    """The names. Raises: UserError for one that two classes have."""
    lines: dict[str, int] = {}
    for name, line in found:
        if name in lines:
            raise UserError(
                f"{path}, line {line}: class {name[:60]!r} is also in line {lines[name]}; correct one of them"
            )
        lines[name] = line
    return tuple(lines)


def _codes(where: str, numbers: Sequence[str], num_classes: int) -> Codes:
    """(C,) the codes of one line."""
    codes = np.full(num_classes, ABSENT, dtype=np.int8)
    for number in numbers:
        if not _NUMBER.fullmatch(number) or int(number) >= num_classes:
            raise UserError(f"{where}: {number[:40]!r} is no class; the labels file has 0 to {num_classes - 1}")
        codes[int(number)] = PRESENT
    return codes


def _require_apart(train_file: Path, train: ListedPart, test_file: Path, test: ListedPart) -> None:
    lines = dict(zip(train.ids, train.lines, strict=True))
    for one, line in zip(test.ids, test.lines, strict=True):
        if one in lines:
            raise UserError(
                f"{test_file}, line {line}: image {one[:80]} is for training too ({train_file.name}, line {lines[one]})"
            )


def _annotations(source: DatasetSource, layout: Layout, classes: tuple[str, ...], part: ListedPart) -> Annotations:
    """The rows of a list ordered by image id; ids that are numbers by their value."""
    numbers = layout.image_id is _number
    order = sorted(range(len(part.ids)), key=lambda place: int(part.ids[place]) if numbers else part.ids[place])
    files = _files(source, layout, part.files)
    places = np.array(order, dtype=np.int64)
    return Annotations(
        FileImages([files[place] for place in order], source.cache),
        tuple(part.ids[place] for place in order),
        classes,
        LabelTable(part.codes[places]),
        places=places,
    )


def _files(source: DatasetSource, layout: Layout, listed: Sequence[str]) -> list[str]:
    """The listed pictures in the first place of which a folder is there."""
    root = source.path_images
    choices = list(zip(*(layout.places(path) for path in listed), strict=True))
    there = (
        paths for paths in choices if any((root / folder).is_dir() for folder in {_folder(path) for path in paths})
    )
    paths = next(there, None)
    if paths is None and source.need_images:
        raise UserError(
            f"{root / listed[0]}: not there, nor is its folder; give --path_images the folder that holds\n"
            f"  {layout.tree}"
        )
    return [f"{root}/{path}" for path in paths or listed]


def _folder(path: str) -> str:
    return path.rpartition("/")[0]
