"""The long-tailed splits of VOC, COCO and NUS-WIDE: `voc-lt`, `coco-lt` and `nw-lt`.

VOC-MLT and COCO-MLT are by Wu et al. (ECCV 2020; published code wutong16/DistributionBalancedLoss, appendix), their
lists in the format read here are from richard-peng-xia/LMPT, data; NW-MLT is from zhongjingyu1/NDLP, appendix.

A list has a line per image, `<relative path> <class> <class> ...`, classes counted from 0; a line without a
class is an image without labels and stays. A labels file has a line per class, `<name> <class>`. Rows are
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
from data.datasets.unpacked import Unpacked
from data.files.text_files import read_lines, relative_path
from data.images.files import FileImages
from utils.checks import UserError, require
from utils.long_tail import class_groups
from utils.types import ABSENT, PRESENT, Annotations, Codes, LabelTable, Splits

_NUMBER = re.compile(r"[0-9]{1,6}")


class LongTailLayout(NamedTuple):
    """Paths of the files of one long-tailed dataset, and its image ids."""

    lists: str
    """Folder of the lists inside `--path_lists`."""
    prefix: str
    """Beginning of the names of the lists."""
    checks: str | None
    """Folder of the pickles, relative to that of the lists; None if no pickles are known for these lists."""
    image_id: Callable[[PurePosixPath], str | None]
    """Maps a listed path to the image id, None where the name has none."""
    paths: Callable[[str], tuple[str, ...]]
    """Maps a listed path to the possible paths below `--path_images`; the first whose folder exists counts."""
    tree: str
    """Expected content of `--path_images`, for the message."""


def _stem(path: PurePosixPath) -> str:
    return path.stem


def _number(path: PurePosixPath) -> str | None:
    """Return the image number: "554625" for `000000554625` and for `COCO_train2014_000000554625`."""
    match = re.fullmatch(r"(?:.*[^0-9])?([0-9]{1,18})", path.stem)
    return str(int(match[1])) if match else None


def _whole(path: PurePosixPath) -> str:
    return str(path.with_suffix(""))


LAYOUTS = {
    "voc-lt": LongTailLayout(
        "VOCdevkit",
        "voc",
        "longtail2012",
        _stem,
        lambda path: (path, path.removeprefix("VOCdevkit/")),
        "VOCdevkit/VOC2012/JPEGImages/*.jpg and VOCdevkit/VOC2007/JPEGImages/*.jpg, or the folder VOCdevkit itself",
    ),
    "coco-lt": LongTailLayout(
        "coco",
        "coco",
        "longtail2017",
        _number,
        lambda path: (path, f"images/{path}"),
        "train2017/*.jpg and val2017/*.jpg, or images/train2017/*.jpg and images/val2017/*.jpg",
    ),
    "nw-lt": LongTailLayout(
        "nuswide", "nw", None, _whole, lambda path: (path,), "the images at the listed paths: images/*.jpg"
    ),
}
"""The long-tailed datasets by their names for `--dataset`."""


class ListedSplit(NamedTuple):
    """Content of one list of N images, in its own order."""

    ids: tuple[str, ...]
    files: tuple[str, ...]
    codes: Codes  # (N, C)
    lines: tuple[int, ...]  # line number of each image, from 1


def load_longtail(source: DatasetSource, name: str) -> Splits:
    """Read the training and the test list of one long-tailed dataset, with head, middle and tail as groups of classes.

    An image id is the file's stem for VOC, its number without leading zeros for COCO (rows are ordered by that
    number), and the listed path without its extension for NUS-WIDE.

    Args:
        source: `path_lists` holds `VOCdevkit/voc_lt_train.txt`, `voc_lt_test.txt` and `voc_labels.txt`, or `coco/` with
            `coco_...`, or `nuswide/` with `nw_...`; the lists may also lie in `path_lists` or `path_images` directly.
            `path_images` is the folder that the listed paths start from, or VOCdevkit itself.
        name: `voc-lt`, `coco-lt` or `nw-lt`.

    Raises:
        UserError: a folder or file is missing, a line is malformed, an image is listed twice or in both lists, or a
            pickle beside the lists disagrees with them.
    """
    layout = LAYOUTS[name]
    folder = find_lists(source, layout)
    classes = read_classes(folder / f"{layout.prefix}_labels.txt")
    train_file, test_file = (folder / f"{layout.prefix}_lt_{split}.txt" for split in ("train", "test"))
    train, test = (read_list(path, len(classes), layout.image_id) for path in (train_file, test_file))
    _check_disjoint(train_file, train, test_file, test)
    annotations, tested = (_annotations(source, layout, classes, listed) for listed in (train, test))
    groups = class_groups(annotations.truth.counts())
    if layout.checks is not None:
        check_pickles(folder / layout.checks, annotations, groups)
    return Splits(annotations, tested, groups)


def find_lists(source: DatasetSource, layout: LongTailLayout) -> Path:
    """Return the folder of the lists. Raises: UserError showing the expected tree."""
    names = [f"{layout.prefix}_{rest}.txt" for rest in ("lt_train", "lt_test", "labels")]
    for root in (source.path_lists, source.path_images):
        for folder in (root / layout.lists, root):
            if any((folder / name).is_file() for name in names):
                return folder
    raise UserError(
        f"{source.path_lists}: no {names[0]} here, nor in {layout.lists}/;"
        f" give --path_lists the folder that looks like this:\n"
        f"  {layout.lists}/{names[0]}, {names[1]}, {names[2]}\n"
        f"(docs/datasets/long_tail_lists.md says where the lists come from)"
    )


def read_classes(path: Path) -> tuple[str, ...]:
    """Read the C names of a labels file in the order of their numbers; names may have spaces.

    Raises:
        UserError: the file is missing or empty, a line is no name and number, a name or number occurs twice, or the
            numbers are not 0 .. C - 1.
    """
    name_of: dict[int, tuple[str, int]] = {}  # number: name and line
    for line, text in read_lines(path, "it names the classes"):
        where = f"{path}, line {line}"
        name, _, number = text.rpartition(" ")
        if not name.strip() or not _NUMBER.fullmatch(number):
            raise UserError(f"{where}: expected a class name and its number, found {text[:60]!r}")
        if int(number) in name_of:
            raise UserError(
                f"{where}: number {int(number)} is also in line {name_of[int(number)][1]}; each is for one class"
            )
        name_of[int(number)] = (" ".join(name.split()), line)
    require(bool(name_of), f"{path}: names no class; expected lines such as 'aeroplane 0'")
    gap = next((number for number in range(len(name_of)) if number not in name_of), None)
    if gap is not None:
        raise UserError(f"{path}: {len(name_of)} classes, but none has number {gap}; they count from 0 without gaps")
    return _distinct(path, [name_of[number] for number in range(len(name_of))])


def read_list(path: Path, num_classes: int, image_id: Callable[[PurePosixPath], str | None]) -> ListedSplit:
    """Read the images of one list and their (N, C) codes.

    Args:
        path: the list.
        num_classes: C.
        image_id: maps a listed path to the image id.

    Raises:
        UserError: the list is missing or empty, a path leads out of the dataset or has no id, a class is no number
            below C, or an image is listed twice.
    """
    first: dict[str, int] = {}
    files: list[str] = []
    codes: list[Codes] = []
    for line, text in read_lines(path, "it lists the images and their classes"):
        where = f"{path}, line {line}"
        listed, *numbers = text.split()
        file = relative_path(listed, where)
        image = image_id(PurePosixPath(file))
        if image is None:
            raise UserError(f"{where}: {listed[:80]!r} has no image number in its name")
        if image in first:
            raise UserError(f"{where}: image {image[:80]} is listed twice (also in line {first[image]})")
        first[image] = line
        files.append(file)
        codes.append(_codes(where, numbers, num_classes))
    require(bool(first), f"{path}: lists no image; expected lines such as '<path> 14 4 19'")
    return ListedSplit(tuple(first), tuple(files), np.stack(codes), tuple(first.values()))


def _distinct(path: Path, names: Sequence[tuple[str, int]]) -> tuple[str, ...]:
    """Return the names of (name, line) pairs. Raises: UserError for one that two classes have."""
    lines: dict[str, int] = {}
    for name, line in names:
        if name in lines:
            raise UserError(
                f"{path}, line {line}: class {name[:60]!r} is also in line {lines[name]}; correct one of them"
            )
        lines[name] = line
    return tuple(lines)


def _codes(where: str, numbers: Sequence[str], num_classes: int) -> Codes:
    """Codes (C,) of one line."""
    codes = np.full(num_classes, ABSENT, dtype=np.int8)
    for number in numbers:
        if not _NUMBER.fullmatch(number) or int(number) >= num_classes:
            raise UserError(f"{where}: {number[:40]!r} is no class; the labels file has 0 to {num_classes - 1}")
        codes[int(number)] = PRESENT
    return codes


def _check_disjoint(train_file: Path, train: ListedSplit, test_file: Path, test: ListedSplit) -> None:
    lines = dict(zip(train.ids, train.lines, strict=True))
    for image, line in zip(test.ids, test.lines, strict=True):
        if image in lines:
            raise UserError(
                f"{test_file}, line {line}: image {image[:80]} is in the training list too"
                f" ({train_file.name}, line {lines[image]})"
            )


def _annotations(
    source: DatasetSource, layout: LongTailLayout, classes: tuple[str, ...], listed: ListedSplit
) -> Annotations:
    """Annotations of a list, ordered by image id; ids that are numbers by their value."""
    numbers = layout.image_id is _number
    keys = [int(image) for image in listed.ids] if numbers else listed.ids
    order = np.array(sorted(range(len(keys)), key=keys.__getitem__), dtype=np.int64)
    files = _files(source, layout, listed.files)
    return Annotations(
        FileImages([files[row] for row in order], source.cache),
        tuple(listed.ids[row] for row in order),
        classes,
        LabelTable(listed.codes[order]),
        places=order,
    )


def _files(source: DatasetSource, layout: LongTailLayout, listed: Sequence[str]) -> list[str]:
    """Return the paths of the listed images, those of the first layout of which a folder exists."""
    root = source.path_images
    choices = list(zip(*(layout.paths(path) for path in listed), strict=True))
    for at in Unpacked(root).starts():
        for paths in choices:
            if any((at / folder).is_dir() for folder in {_folder(path) for path in paths}):
                return [f"{at}/{path}" for path in paths]
    if source.need_images:
        raise UserError(
            f"{root / listed[0]}: does not exist, nor its folder; give --path_images the folder with\n  {layout.tree}"
        )
    return [f"{root}/{path}" for path in listed]


def _folder(path: str) -> str:
    return path.rpartition("/")[0]
