"""Every form on `docs/own_data.md` is read as it says there, with the flags and on tables with the cells of the page.

Rows are taken from the page: a row without an example here, or an example without its row, is a failure.
"""

import json
import re
import shlex

import pyarrow as pa
import pytest
from pyarrow import parquet

from tests.commands.own_data_forms import (
    COMMAND,
    EXAMPLES,
    PAGE,
    SECTIONS,
    SEVERAL,
    codes,
    columns_in,
    files,
    read,
    table,
    truth,
)
from tests.commands.scene import SMALL, succeed
from tests.data.trees import picture, voc_xml
from utils.checks import UserError

VALUES = {"--label_column": "labels", "--class_columns": "boat,person", "--table": "it.json"}
"""What the page leaves to the reader: values of flags that it only names."""


def flags_of(cell):
    """Every set of flags that a cell of the page offers; "" where it says that nothing is needed."""
    found = [""] if cell.startswith(("nothing", "the same")) else []
    for text, others in re.findall(r"`(--[^`]*)`(?: \(or ([^)]*)\))?", cell):
        text = f"{text} {VALUES[text]}" if text in VALUES else text
        found.append(text)
        found += [f"{text.rsplit(' ', 1)[0]} {word}" for word in codes(others)]
    return found


def rows_of_page():
    """Section and both cells of every row of the page's tables."""
    for title, text in SECTIONS.items():
        lines = [line for line in text.splitlines() if line.startswith("| ")][1:]
        for line in lines:
            if not line.startswith("| ---"):
                first, second = (cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:3])
                yield title, first, second


ROWS = list(rows_of_page())
TRIALS = [(first, flags) for _, first, second in ROWS for flags in flags_of(second)]


def test_every_row_of_the_page_has_an_example_and_every_example_a_row():
    rows = [first for _, first, _ in ROWS]
    assert sorted(EXAMPLES) == sorted(rows), (
        "write an example in own_data_forms.py for each new row of docs/own_data.md"
    )
    assert {first for first, _ in TRIALS} == set(rows)  # each offers a command
    assert len(TRIALS) > 35


@pytest.mark.parametrize(("row", "flags"), TRIALS, ids=lambda part: part[:60])
def test_a_row_is_read_as_the_page_says(row, flags, tmp_path):
    examples = list(EXAMPLES[row](tmp_path, flags))
    assert examples
    for folder, right in examples:
        assert truth(read(folder, flags, base_of(row, flags))) == right


def base_of(row, flags):
    """What comes before the flags of a row: the page's first command, without a table where the row has none."""
    if "--dataset" in flags:
        return ""
    (section,) = {section for section, first, _ in ROWS if first == row}
    if section == "Several tables":
        return SEVERAL
    if section != "No table at all":
        return COMMAND
    return "--dataset table --path_images images" if "--table" in flags else codes(SECTIONS["No table at all"])[2]


# --- What stands in sentences


def test_a_folder_of_voc_annotations_is_read_too(tmp_path):
    holder = tmp_path / "mine" / "Annotations"
    holder.mkdir(parents=True)
    for n in range(9):
        (holder / f"{n}.xml").write_text(voc_xml([(("boat", "person")[n % 2], 0)]))
    files(tmp_path / "images", *(f"{n}.jpg" for n in range(9)))
    found = truth(read(tmp_path, "--table mine", "--dataset table --path_images images"))
    assert found == {str(n): {("boat", "person")[n % 2]} for n in range(9)}


SPELLINGS = {
    "Names without ending": ("1", "1.jpg"),
    "plain numbers": ("1", "1.jpg"),
    "endings in capitals": ("1.jpg", "1.JPG"),
    "folders that the table does not": ("1.jpg", "a/b/1.jpg"),
    "`/home/ann/data/images/1.jpg`": ("/home/ann/data/images/1.jpg", "1.jpg"),
    "`Xray-v1.0/train/1.jpg`": ("Xray-v1.0/train/1.jpg", "train/1.jpg"),
    "`C:\\data\\1.jpg`": ("C:\\data\\1.jpg", "1.jpg"),
    "a URL": ("https://example.org/data/1.jpg", "1.jpg"),
    "`3f2a91bc-1.jpg`": ("3f2a91bc-1.jpg", "1.jpg"),
    "have lost their zeros": ("1", "0001.jpg"),
    "`../input/images/1.jpg`": ("../input/images/1.jpg", "1.jpg"),
}
"""What the page says of names of images: what the table writes, and the file that it means."""


@pytest.mark.parametrize("words", SPELLINGS)
def test_names_of_images_are_found_as_the_page_says(words, tmp_path):
    assert words in SECTIONS["Names of images"]
    written, there = SPELLINGS[words]
    rows = [
        (written.replace("1.jpg", f"{n}.jpg") if "." in written else str(n), ("boat", "person")[n % 2])
        for n in range(1, 9)
    ]
    made = table(tmp_path / "t", ("image", "labels"), rows, images="elsewhere")
    files(made / "images", *(there.replace("1.", f"{n}.") for n in range(1, 9)))
    splits = read(made, "")
    assert len(splits.train) + len(splits.test) == 8
    one = splits.train
    assert [name.rsplit("/", 1)[-1] for name in map(one.images.name, range(len(one)))] == [
        there.replace("1.", f"{re.search('[0-9]+', image.split('-')[-1].rsplit('/', 1)[-1])[0]}.").rsplit("/", 1)[-1]
        for image in one.ids
    ]


def test_two_files_of_one_name_and_files_outside_are_refused(tmp_path):
    assert "two files for one name are" in SECTIONS["Names of images"]
    rows = [(f"{n}.jpg", "boat") for n in range(8)]
    made = table(tmp_path / "t", ("image", "labels"), rows, images="elsewhere")
    files(made / "images", *(f"{top}/{n}.jpg" for top in "ab" for n in range(8)))
    with pytest.raises(UserError, match=r"may be 'a/0\.jpg' or 'b/0\.jpg'"):
        read(made, "")
    outside = table(tmp_path / "u", ("image", "labels"), [(f"../elsewhere/{n}.jpg", "boat") for n in range(8)])
    with pytest.raises(UserError, match="is no file name inside the image folder"):
        read(outside, "")


def commas(path, text):
    path.write_text(text)


def semicolons(path, text):
    path.write_text(text.replace(",", ";"))


def tabs(path, text):
    path.write_text(text.replace(",", "\t"))


def blanks(path, text):
    path.write_text(text.replace(",", ", "))


def marked(path, text):
    path.write_bytes(text.encode("utf-16"))


def western(path, text):
    path.write_bytes(text.encode("cp1252"))


def columns_of(text):
    header, *rows = (line.split(",") for line in text.splitlines())
    return {title: [row[k] for row in rows] for k, title in enumerate(header)}


def columnar(path, text):
    parquet.write_table(pa.table(columns_of(text)), path)


def workbook(path, text):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    for line in text.splitlines():
        book.active.append(line.split(","))
    book.save(path)


def objects(path, text):
    held = columns_of(text)
    rows = [dict(zip(held, row, strict=True)) for row in zip(*held.values(), strict=True)]
    path.write_text("".join(json.dumps({**row, "labels": [row["labels"]]}) + "\n" for row in rows))


def list_of_objects(path, text):
    objects(path, text)
    path.write_text(f"[{','.join(path.read_text().splitlines())}]")


def bars(path, text):
    path.write_text(text.replace(",", "|"))


def hinted(path, text):
    path.write_text("sep=;\n" + text.replace(",", ";"))


FILES = {
    "`.csv` (commas": ("t.csv", commas, ""),
    "semicolons or tabs, as in its first line": ("t.csv", semicolons, ""),
    "tabs, as in its first line": ("t.csv", tabs, ""),
    "blanks behind them do not": ("t.csv", blanks, ""),
    "`.tsv`": ("t.tsv", tabs, ""),
    "`.parquet`": ("t.parquet", columnar, ""),
    "`.xlsx`": ("t.xlsx", workbook, ""),
    "`.jsonl` (an object per line; lists are lists of names)": ("t.jsonl", objects, ""),
    "`.txt` likewise": ("t.txt", tabs, ""),
    "`.json` (a list of such objects)": ("t.json", list_of_objects, ""),
    "Bars separate where nothing else does": ("t.csv", bars, ""),
    "a line `sep=;` at the top": ("t.csv", hinted, ""),
    "UTF-16 with its mark": ("t.csv", marked, ""),
    "`--encoding cp1252`": ("t.csv", western, "--encoding cp1252"),
}
"""What the page says of files, the name of one, what writes it, and the flags."""
MARKS = {"split": ("train", "test"), "is_train": ("1", "0"), "is_valid": ("0", "1"), "is_test": ("0", "1")}


@pytest.mark.parametrize("words", FILES)
def test_files_are_read_as_the_page_says(words, tmp_path):
    assert words in " ".join(SECTIONS["Files"].split())
    name, write, flags = FILES[words]
    rows = [(f"{n}.jpg", ("größe", "boat")[n % 2]) for n in range(8)]
    write(tmp_path / name, "image,labels\n" + "".join(f"{image},{names}\n" for image, names in rows))
    files(tmp_path / "images", *(image for image, _ in rows))
    base = COMMAND.replace("labels.csv", name)
    assert truth(read(tmp_path, flags, base)) == {image: {names} for image, names in rows}


@pytest.mark.parametrize("title", MARKS)
def test_columns_of_splits_are_read_as_the_page_says(title, tmp_path):
    assert f"`{title}`" in SECTIONS["Files"]
    rows = [(f"{n}.jpg", ("boat", "person")[n % 2], MARKS[title][n > 5]) for n in range(8)]
    splits = read(table(tmp_path, ("image", "labels", title), rows), "")
    assert sorted(splits.test.ids) == ["6.jpg", "7.jpg"]


def test_a_hierarchy_is_followed_as_the_page_says(tmp_path):
    text = SECTIONS["Classes that are kinds of others"]
    (flags,) = (code for code in codes(text) if code.startswith("--"))
    headed = next(code for code in codes(text) if "," in code)
    made, _ = columns_in(tmp_path, [("1", ""), ("", "0"), ("0", "1")], {"1": 1, "0": 0, "": "?"}, (), ("cat", "animal"))
    (made / "kinds.csv").write_text(f"{headed}\ncat,animal\n")
    right = [{"cat", "animal"}, set(), {"animal"}]
    assert truth(read(made, flags)) == {f"{n}.jpg": right[n % 3] for n in range(9)}


@pytest.mark.slow
def test_both_commands_of_the_page_run_and_the_inspection_shows_what_the_page_shows(tmp_path):
    shown = re.search(r"^column +is.*?(?=\n```)", PAGE, re.MULTILINE | re.DOTALL).group()
    rows = ["haze primary", "agriculture clear primary water", "clear primary", "cloudy", "clear road", "clear"] * 2
    lines = "".join(f"train_{n},{tags},p{n // 6}\n" for n, tags in enumerate(rows))
    (tmp_path / "labels.csv").write_text(f"image_name,tags,Patient\n{lines}")
    for n in range(len(rows)):
        picture(tmp_path / "images" / f"train_{n}.jpg", colour=(n * 20, 0, 0))
    said = succeed(tmp_path, "inspect_data.py", *shlex.split(COMMAND))
    printed = [" ".join(line.split()) for line in said.splitlines()]
    for expected in shown.splitlines():
        start, _, end = (" ".join(part.split()) for part in expected.partition("..."))
        assert any(start in line and end in line for line in printed), expected
    train = re.search(r"`python main_BCE\.py ([^`]*)`", PAGE).group(1)
    small = (*SMALL, "--epochs", "1", "--warmup_epoch", "0", "--num_workers", "0", "--output", "run")
    succeed(tmp_path, "main_BCE.py", *shlex.split(train), *small)
