"""Random multi-label truths, written as people and annotation tools write them."""

import csv
import io
import json
import random
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from utils.types import ABSENT, PRESENT, UNKNOWN

IMAGE_TITLES = ("image", "file_name", "Path", "image_name", "Image Index", "ImageID", "Id", "photo", "scan nr")
LABEL_TITLES = ("labels", "tags", "Finding Labels", "Genre", "species", "Target", "LabelName", "what is there")
WORDS = (
    ("cat", "dog", "bird", "fish", "horse", "cow", "sheep", "goat"),
    (
        "traffic light",
        "stop sign",
        "dining table",
        "potted plant",
        "hot dog",
        "tennis racket",
        "teddy bear",
        "cell phone",
    ),
    ("frog_eye_leaf_spot", "scab", "complex", "rust", "powdery-mildew", "healthy_leaf", "blight", "wilt"),
    ("0", "7", "16", "25", "3", "11", "102", "8"),
    ("été", "naïve", "größe", "señal", "œuvre", "façade", "crème", "ångström"),
    ("猫", "犬", "鳥", "魚", "馬", "牛", "羊", "山羊"),
    ("/m/01", "/m/0bt", "/m/0cat", "/m/0dog", "/m/9x", "/m/7", "/m/8y", "/m/6"),
)
WEAK = (" ", "/", "#", "+")
CODES = (("1", "0"), ("1.0", "0.0"), ("1.00", "0.00"), ("True", "False"), ("yes", "no"), ("TRUE", "FALSE"))


class Form(NamedTuple):
    """A table, and what is true of it."""

    path: Path
    flags: dict[str, str]
    """Settings that a person has to give, since the table does not tell."""
    truth: dict[str, dict[str, int]]
    """Code by image and class."""
    told: str
    """How it was written, for the message of a test that fails."""


def random_form(folder: Path, seed: int) -> Form:
    """Write a random truth in a random form, with the images beside it if that decides anything."""
    rng = random.Random(seed)
    names = rng.choice(WORDS)[: rng.randint(3, 8)]
    images = _image_names(rng, rng.randint(24, 60))
    present = {image: [name for name in names if rng.random() < rng.choice((0.2, 0.35))] for image in images}
    for name in names:  # no class without a positive: a name that never occurs is no class
        present[rng.choice(images)].append(name)
    present = {image: list(dict.fromkeys(held)) for image, held in present.items()}
    return written_form(folder, rng, images, names, present)


def written_form(folder, rng, images, names, present) -> Form:
    """Write the classes that are present in images in a random form."""
    writer = rng.choice((_in_a_column, _in_a_column, _in_columns, _in_lines))
    return writer(folder, rng, images, names, present)


def _image_names(rng: random.Random, count: int) -> list[str]:
    style = rng.choice(("{:04d}.jpg", "train_{}.png", "a/b{}.JPG", "deep/er/{:03d}.jpeg", "été {}.tif", "{}"))
    return [style.format(10 + 3 * n) for n in range(count)]


def _in_a_column(folder, rng, images, names, present):
    """All names of an image in one cell."""
    style = rng.choice((";", "; ", "|", ",", ", ", *WEAK, "python", "json", "choices", "bare", "numpy", "braces"))
    weak = style in WEAK
    if weak and any(one in name for name in names for one in WEAK if one != "/" or style == "/"):
        style, weak = ";", False
    if style in ("bare", "braces") and any(" " in name for name in names):
        style = "json"
    cells = [_cell(rng.sample(present[image], len(present[image])), style) for image in images]
    title = rng.choice(LABEL_TITLES)
    flags = {"label_column": title} if title == "what is there" else {}
    truth = {i: {name: PRESENT if name in present[i] else ABSENT for name in names} for i in images}
    return _written(folder, rng, images, {title: cells}, flags, truth, f"cells joined by {style!r}")


def _cell(held, style):
    if style == "python":
        return str(held)
    if style == "json":
        return json.dumps(held, ensure_ascii=False)
    if style == "choices":
        return json.dumps({"choices": held}, ensure_ascii=False) if len(held) > 1 else "".join(held)
    if style == "numpy":
        return f"[{' '.join(map(repr, held))}]"
    if style == "braces":
        return f"{{{','.join(held)}}}"
    if style == "bare":
        return f"[{', '.join(held)}]"
    return style.join(held)


def _in_columns(folder, rng, images, names, present):
    """A column for each class."""
    truth = {i: {name: PRESENT if name in present[i] else ABSENT for name in names} for i in images}
    yes, no = rng.choice(CODES)
    style = rng.choice(("all", "unknown as -1", "unknown as blank", "unknown as NA", "ticks"))
    if style.startswith("unknown"):
        for held in truth.values():
            held.update({name: UNKNOWN for name in names if held[name] == ABSENT and rng.random() < 0.3})
    words = {PRESENT: yes, ABSENT: no, UNKNOWN: {"unknown as -1": "-1", "unknown as NA": "NA"}.get(style, "")}
    if style == "ticks":
        words = {PRESENT: rng.choice("xX✓"), ABSENT: ""}
    titles = [name if not name.isdigit() else f"class {name}" for name in names]
    columns = {t: [words[truth[i][name]] for i in images] for t, name in zip(titles, names, strict=True)}
    renamed = {i: {t: truth[i][name] for t, name in zip(titles, names, strict=True)} for i in images}
    return _written(folder, rng, images, columns, {}, renamed, f"columns, {style}, {yes}/{no}")


def _in_lines(folder, rng, images, names, present):
    """A line for each image and class, with a value or without."""
    title, valued = rng.choice(("label", "LabelName", "class", "Species")), rng.random() < 0.5
    told = {(i, name): 1 for i in images for name in present[i]}
    if valued:
        told |= {(i, name): 0 for i in images for name in names if name not in present[i] and rng.random() < 0.5}
    seen = {image for image, _ in told}
    images = [image for image in images if image in seen]
    lines = list(told.items())
    rng.shuffle(lines)
    base = UNKNOWN if valued and 0 in told.values() else ABSENT
    truth = {i: {name: told.get((i, name), base) for name in names} for i in images}
    columns = {title: [name for (_, name), _ in lines]}
    flags = {}
    if valued:
        columns["Confidence"] = [str(value) for _, value in lines]
        flags = {"value_column": "Confidence", "label_column": title}
    return _written(folder, rng, [i for (i, _), _ in lines], columns, flags, truth, f"lines, value {valued}")


def _written(folder, rng, images, columns, flags, truth, told):
    """Write the table as a file of some kind, with other columns around."""
    title = rng.choice(IMAGE_TITLES)
    if title == "scan nr":
        flags = {**flags, "image_column": title}
    table = {title: images, **columns}
    if rng.random() < 0.3 and all(len(column) == len(set(images)) for column in table.values()):
        table = {"": [str(n) for n in range(len(images))], **table}
    if rng.random() < 0.3:
        table["year"] = [str(1990 + n % 20) for n in range(len(images))]
    if rng.random() < 0.2:
        table["url"] = [f"https://example.org/{n}" for n in range(len(images))]
    kind = rng.choice(("csv", "csv", "csv", "semicolons", "tabs", "tsv", "bars", "utf-16", "bom", *_ENDINGS))
    path = folder / f"t.{kind if kind in ('tsv', *_ENDINGS) else 'csv'}"
    _KINDS.get(kind, _as_text)(path, table, kind)
    return Form(path, flags, truth, f"{told}, {kind}, {title!r}")


def _as_text(path, table, kind):
    delimiter = {"semicolons": ";", "bars": "|", **dict.fromkeys(("tabs", "tsv", "txt", "utf-16"), "\t")}.get(kind, ",")
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows([list(table), *zip(*table.values(), strict=True)])
    path.write_bytes(text.getvalue().encode({"utf-16": "utf-16", "bom": "utf-8-sig"}.get(kind, "utf-8")))


def _as_lines(path, table, kind):
    rows = (dict(zip(table, cells, strict=True)) for cells in zip(*table.values(), strict=True))
    path.write_text("".join(json.dumps({k: v for k, v in row.items() if k}) + "\n" for row in rows))


def _as_parquet(path, table, kind):
    parquet.write_table(pa.table({name: column for name, column in table.items() if name}), path)


def _as_workbook(path, table, kind):
    import openpyxl

    book = openpyxl.Workbook()
    for row in [list(table), *zip(*table.values(), strict=True)]:
        book.active.append(list(row))
    book.save(path)


def _as_list(path, table, kind):
    _as_lines(path, table, kind)
    path.write_text(f"[{','.join(path.read_text().splitlines())}]")


_KINDS = {"jsonl": _as_lines, "json": _as_list, "parquet": _as_parquet, "xlsx": _as_workbook}
_ENDINGS = ("txt", *_KINDS)


def codes_of(labels) -> dict[str, dict[str, int]]:
    """What was read, by image and class."""
    return {
        image: dict(zip(labels.classes, map(int, np.asarray(row)), strict=True))
        for image, row in zip(labels.ids, labels.codes, strict=True)
    }
