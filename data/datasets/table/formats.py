"""Labels of a user's own images in any format: from one file or folder, or from several files as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from data.datasets.source import DatasetSource
from data.datasets.table.annotations import annotation_files, list_files, read_coco_style, read_voc_style
from data.datasets.table.codes import read_name_list
from data.datasets.table.columns import TableRead, group_texts, labels_of, read_lines, where_of
from data.datasets.table.config import TableConfig
from data.datasets.table.described import See, report_of, report_of_joined
from data.datasets.table.each import check_titles, own_sheet
from data.datasets.table.folders import is_yolo, read_yolo
from data.datasets.table.joined import joined
from data.datasets.table.joined_images import Files, TableLabels
from data.datasets.table.labelled import TRAIN, USUAL_SEPARATOR, OwnLabels, cached_labels, read_class_file
from data.datasets.table.matching import files_there
from data.datasets.table.sheet import SUFFIXES, is_sheet
from data.files.cache import fingerprint
from utils.checks import UserError, require

READER = "table 2"
"""Part of the cache's fingerprint; another number whenever the same files would be read differently."""


def read_tables(source: DatasetSource, paths: Sequence[Path], see: See, rest: int = TRAIN) -> OwnLabels:
    """Read one table, or several as one; annotations of objects come from the cache if no file has changed.

    Args:
        source: settings and folders.
        paths: the files, or one folder.
        see: may look at what was read of each table.
        rest: split of the images of several tables of which none names it, where some name splits.

    Raises:
        UserError: a file is missing or damaged, or tables do not fit together.
    """
    for path in paths:
        require(path.is_dir() or path.is_file(), f"{path}: no such file or folder; check --table and --test_table")
    if len(paths) > 1:
        return _read_several(source, paths, see, rest)
    path, fixed = paths[0], class_names_beside(source.table, paths[0])
    if not is_sheet(path):
        return _read_objects(source, path, fixed)
    sheet, config = own_sheet(path, source.table, several=False)
    read = read_lines(sheet, config, fixed, image_folder(source.path_images, path))
    see(partial(report_of, read))
    return labels_of(read, config)


def image_folder(path_images: Path, table: Path) -> Path:
    """Return the folder that the paths of `table` start from; "." counts as not given."""
    if path_images != Path():
        return path_images
    if not table.is_dir():
        return table.parent
    return table / "JPEGImages" if (table / "JPEGImages").is_dir() and not is_yolo(table) else table


def _read_several(source: DatasetSource, paths: Sequence[Path], see: See, rest: int) -> OwnLabels:
    """Read files one by one, and join them. Raises: UserError as `read_tables` does."""
    folder = _common_folder(source.path_images, paths)
    opened = {path: own_sheet(path, source.table, several=True) for path in paths if is_sheet(path)}
    check_titles(source.table, [sheet for sheet, _ in opened.values()])
    lines = {
        path: read_lines(sheet, config, class_names_beside(source.table, path), folder)
        for path, (sheet, config) in opened.items()
    }
    objects = {path: _read_objects(source, path, None) for path in paths if path not in lines}
    classes = [name for read in lines.values() for name in read.lines.classes]
    classes += [name for labels in objects.values() for name in labels.classes]
    tables = [
        _table_labels(lines[path], opened[path][1], classes) if path in lines else _without_lines(path, objects[path])
        for path in paths
    ]
    for read in lines.values():
        see(partial(report_of, read))
    files = files_by_name(folder, source.table)
    found = joined(tables, source.table.repeated, _class_order(source.table, paths[0]), rest, files)
    see(partial(report_of_joined, found))
    return found.labels


def files_by_name(folder: Path, config: TableConfig) -> Files:
    """What finds the files of images by their names in tables; nothing does beside `--image_pattern`."""
    return partial(files_there, folder) if config.image_pattern is None else lambda ids: {}


def _table_labels(read: TableRead, config: TableConfig, classes: Sequence[str]) -> TableLabels:
    """One of several tables.

    `--repeated` is about images in two of them: where each line names one class, lines of an image are no annotators.
    """
    own = replace(config, repeated="refuse") if read.lines.one_each else config
    return TableLabels(read.sheet.path, labels_of(read, own, classes), partial(where_of, read), group_texts(read))


def _without_lines(path: Path, labels: OwnLabels) -> TableLabels:
    """One of several files whose lines mean nothing to people."""
    return TableLabels(path, labels, lambda _: str(path))


def _common_folder(path_images: Path, paths: Sequence[Path]) -> Path:
    """The folder that the paths of all tables start from. Raises: UserError for a folder, or several of images."""
    for path in paths:
        require(
            not path.is_dir(),
            f"--table {path}: a folder of annotations is read alone; name one, or give files only",
        )
        own, first = image_folder(path_images, path), image_folder(path_images, paths[0])
        require(
            own == first,
            f"{path}: is in another folder than {paths[0]}; give --path_images the folder that the paths in both start "
            "from",
        )
    return image_folder(path_images, paths[0])


def _class_order(config: TableConfig, table: Path) -> tuple[str, ...]:
    """The order of classes that `--class_names` says, or else `classes.txt` beside the first table."""
    if config.class_names is not None:
        return read_name_list(config.class_names, config.label_separator).names
    return class_names_beside(config, table) or ()


def class_names_beside(config: TableConfig, table: Path) -> tuple[str, ...] | None:
    """The names in `classes.txt` beside a table; of one for the test beside the first for training."""
    first = (config.table or (table,))[0]
    return read_class_file(table if table in (config.table or ()) else first, _separator(config))


def _read_objects(source: DatasetSource, path: Path, fixed: tuple[str, ...] | None) -> OwnLabels:
    """Read annotations of objects: COCO-style, VOC or YOLO. Raises: UserError as their readers do."""
    if path.is_dir() and is_yolo(path):
        return read_yolo(path)
    files = [*annotation_files(path), *list_files(path)] if path.is_dir() else [path]
    key = fingerprint(f"{READER} {_separator(source.table)} {fixed} {source.skip_missing}", files)
    return cached_labels(source.cache, key, lambda: _parse(path, source, fixed))


def _separator(config: TableConfig) -> str:
    """What no class name of a file other than a table may hold."""
    return config.label_separator or USUAL_SEPARATOR


def _parse(path: Path, source: DatasetSource, fixed: tuple[str, ...] | None) -> OwnLabels:
    separator = _separator(source.table)
    if path.is_dir():
        return read_voc_style(path, fixed, separator, skip_missing=source.skip_missing)
    if path.suffix.lower() == ".json":
        return read_coco_style(path, separator)
    known = ", ".join((*SUFFIXES, ".json"))
    raise UserError(f"{path}: not one of {known} or a folder of VOC annotations; save a spreadsheet as CSV (UTF-8)")
