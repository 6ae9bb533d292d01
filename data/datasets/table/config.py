"""Settings of a user's own data: the table of labels and its form."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data.datasets.table.soft import soft_policy
from utils.checks import require
from utils.options import option

FOUND_IN_TABLE = ("image_column", "label_column", "class_columns", "label_separator", "split_column")
"""Settings that are found in a table where nobody gives them."""
FOUND = (*FOUND_IN_TABLE, "table_columns")
"""What a run keeps of them: of one table the settings, of several those of each."""
PER_TABLE = (*FOUND_IN_TABLE, "value_column", "group_column", "ignore_columns", "encoding")
"""What may be said of each of several tables."""


@dataclass(frozen=True, kw_only=True)
class TableConfig:
    """Path and form of the labels of a user's own images. Raises: UserError for an invalid value."""

    table: tuple[Path, ...] | None = option(
        None,
        "own labels: a table (.csv, .tsv, .txt, .parquet, .xlsx, .jsonl), a COCO-style .json, a folder of VOC "
        "annotations or a YOLO export; several files are read as one table",
    )
    labels_from: Literal["table", "folders"] = option(
        "table", "folders: the names of all folders between --path_images and an image are its classes, without --table"
    )
    test_table: tuple[Path, ...] | None = option(
        None, "the same for the test images, if they are in a file or folder of their own"
    )
    image_column: str | None = option(
        None, "column of the image paths, or several as A,B (default: by title, else the one whose cells are files)"
    )
    image_pattern: str | None = option(
        None, "path of the image of an id, such as img/{}.png, or of one file per channel: {}_r.png,{}_g.png,{}_b.png"
    )
    label_column: str | None = option(
        None, "column of class names (default: by title, else a column per class, else the only one left)"
    )
    label_separator: str | None = option(None, "what stands between two class names of a cell (default: found)")
    class_columns: str | None = option(None, "columns of one class each, as A,B (default: all of 1, 0, -1 and blanks)")
    ignore_columns: str | None = option(None, "columns that are not read, as A,B")
    class_names: Path | None = option(
        None, ".csv with a title line and an id and a name per line: names of the classes, their order, all there are"
    )
    empty_names: str | None = option(None, "names that stand for none of the classes, as A,B: No Finding")
    blank: Literal["unknown", "absent"] | None = option(
        None, "blank cells of a column per class (default: unknown; absent where the only mark is x)"
    )
    uncertain: str = option(
        "unknown", "what -1 is: unknown, present, absent, or a .csv headed class,uncertain that says it for each class"
    )
    repeated: Literal["refuse", "union", "majority", "unknown", "first"] = option(
        "refuse",
        "images that stand in several tables, or lines that each have all labels (unknown: where they differ)",
    )
    soft_labels: str = option(
        "refuse",
        "values between 0 and 1: refuse, threshold=T (present from T on), or keep (as targets of bce, an, asl, ...)",
    )
    value_column: str | None = option(None, "a line per image and class: column of 1 (present) and 0 (absent)")
    split_column: str | None = option(
        None, "column of train, val or test (default: split, set, subset, phase, or is_train, is_valid, is_test)"
    )
    group_column: str | None = option(None, "column of what images have in common (patient, site): never split apart")
    table_columns: str | None = option(
        None,
        'of several tables, these settings for each as JSON: {"b.csv": {"label_column": "tags"}}; a run keeps them so',
    )
    encoding: str | None = option(None, "of a text file that is not UTF-8, such as cp1252 or gb18030")
    test_frac: float = option(0.2, "share of the images held out for the test if the table has no splits")

    def __post_init__(self) -> None:
        for name in ("table", "test_table"):
            if isinstance(alone := getattr(self, name), str | Path):  # one path, as code gives it
                object.__setattr__(self, name, (Path(alone),))
        require(0 < self.test_frac < 1, f"--test_frac {self.test_frac}: must be above 0 and below 1")
        soft_policy(self.soft_labels)
        separator = self.label_separator
        require(
            separator is None or (1 <= len(separator) <= 3 and not any(map(_in_names, separator))),
            f"--label_separator {separator!r}: must be one to three characters that are no letters, digits or quotes",
        )
        require(
            self.labels_from == "table" or self.table is None,
            f"--labels_from folders: takes the labels from names of folders, not from --table {named(self.table)}; "
            "give one",
        )
        require(
            self.test_table is None or self.table is not None,
            f"--test_table {named(self.test_table)}: give the training labels with --table",
        )
        for flag, paths in (("table", self.table), ("test_table", self.test_table)):
            twice = next((path for path in paths or () if (paths or ()).count(path) > 1), None)
            require(twice is None, f"--{flag} {twice}: is there twice; name each table once")
        self._check_table_columns()

    @property
    def has_several(self) -> bool:
        """True if the labels of one split come from several tables."""
        return max(len(self.table or ()), len(self.test_table or ())) > 1

    def _check_table_columns(self) -> None:
        """Raise UserError for settings of tables that are no JSON, of no table here, or of another kind."""
        names = [str(path) for path in (*(self.table or ()), *(self.test_table or ()))]
        for name, settings in settings_by_table(self.table_columns).items():
            tables = ", ".join(names) or "none"
            require(name in names, f"--table_columns: names {name}, but the tables are {tables}; name each as they do")
            wrong = next((key for key in settings if key not in PER_TABLE), None)
            require(wrong is None, f"--table_columns: {name}: {wrong}: must be one of {', '.join(PER_TABLE)}")


def named(paths: Sequence[Path] | None) -> str:
    """Tables in a sentence: `a.csv`, `a.csv and b.csv`."""
    *some, last = map(str, paths or ("none",))
    return f"{', '.join(some)} and {last}" if some else last


def found_in_both(config: TableConfig, found: Mapping[str, str], of_test: Mapping[str, str]) -> dict[str, str]:
    """What a run keeps of tables for training and for the test: what both have, or where there are several of each."""
    if not config.has_several:
        return {name: text for name, text in found.items() if of_test.get(name) == text}
    together = {**_by_table(config.table, found), **_by_table(config.test_table, of_test)}
    return {"table_columns": json.dumps(together, ensure_ascii=False)}


def _by_table(paths: Sequence[Path] | None, found: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """What was found in one table, or in several that were joined, by table."""
    text = found.get("table_columns")
    return settings_by_table(text) if text is not None else {str(path): dict(found) for path in paths or ()}


def settings_by_table(text: str | None) -> dict[str, dict[str, str]]:
    """The settings of each table by its path, from `--table_columns`. Raises: UserError for what is no such JSON."""
    try:
        content = json.loads(text or "{}")
    except (ValueError, RecursionError):
        content = None
    found: dict[str, dict[str, str]] = content if isinstance(content, dict) else {}
    texts = isinstance(content, dict) and all(
        isinstance(settings, dict) and all(isinstance(value, str) for value in settings.values())
        for settings in found.values()
    )
    require(texts, '--table_columns: must be JSON such as {"b.csv": {"label_column": "tags"}}')
    return found


def split_list(text: str | None) -> tuple[str, ...]:
    """The parts of a setting that is one CSV line."""
    return () if text is None else tuple(part.strip() for part in next(csv.reader([text], skipinitialspace=True), []))


def joined_list(names: Sequence[str]) -> str:
    """Names as one CSV line, which `split_list` takes apart."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(names)
    return line.getvalue()


def _in_names(character: str) -> bool:
    """True for what no separator may hold."""
    return character.isalnum() or character in "\"'\r\n\0"
