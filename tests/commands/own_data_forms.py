"""The page `docs/own_data.md`, and for each of its rows the files that it speaks of, with what is true of them."""

import contextlib
import csv
import io
import json
import re
import shlex

import numpy as np
from PIL import Image

from data.build import DatasetConfig, load_splits
from engine.core.settings import parse_settings
from engine.inspection.command import INSPECT
from tests.commands.scene import ROOT
from tests.data.trees import coco_json
from utils.types import ABSENT, UNKNOWN

PAGE = (ROOT / "docs" / "own_data.md").read_text(encoding="utf-8")
COMMAND = re.search(r"^python inspect_data\.py (.*)$", PAGE, re.MULTILINE).group(1)
SECTIONS = {part.split("\n", 1)[0]: part for part in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]}
SEVERAL = re.search(r"^python inspect_data\.py (.*)$", SECTIONS["Several tables"], re.MULTILINE).group(1)
EXAMPLES = {}


def codes(text):
    """What stands between backticks."""
    return [code.replace("\\|", "|") for code in re.findall(r"`([^`]*)`", text)]


def example(row):
    """Register what writes examples of a row of the page: it yields folders with what is true of them."""

    def register(write):
        EXAMPLES[row] = write
        return write

    return register


def table(folder, header, rows, name="labels.csv", images="images"):
    """Write a table, and a file for each path in its first column."""
    folder.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    (folder / name).write_text(text.getvalue(), encoding="utf-8")
    files(folder / images, *(row[0] for row in rows))
    return folder


def files(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def numbered(cells, times=3):
    """Rows of an image and a cell, or several."""
    cells = [cell if isinstance(cell, tuple) else (cell,) for cell in cells * times]
    return [(f"{n}.jpg", *cell) for n, cell in enumerate(cells)]


def names_in(folder, cells, names, **more):
    """A table of cells with names, and what it says: the names of each cell."""
    rows = numbered(list(cells))
    held = {image: set(one) for (image, _), one in zip(rows, names * 3, strict=True)}
    return table(folder, ("image", "labels"), rows, **more), held


def read(folder, flags, base=COMMAND):
    """The splits that the page's command reads with these flags; every image is there."""
    with contextlib.chdir(folder):
        config = parse_settings(INSPECT, shlex.split(f"{base} {flags}")).of(DatasetConfig)
        splits = load_splits(config, 0, need_images=True)
        assert not any(len(part.images.missing()) for part in parts(splits))
        return splits


def parts(splits):
    return [part for part in (splits.train, splits.validation, splits.test) if part is not None]


def truth(splits):
    """The classes of each image, `?name` where unknown."""
    found = {}
    for part in parts(splits):
        for image, row in zip(part.ids, part.truth.dense().tolist(), strict=True):
            marks = {1: "", UNKNOWN: "?"}
            found[image] = {marks[code] + name for name, code in zip(part.classes, row, strict=True) if code != ABSENT}
    return found


# --- Class names in one column


@example("`boat;person`, `boat\\|person`, `boat, person`")
def names_with_a_separator(folder, flags):
    for n, cell in enumerate(("boat;person", "boat|person", "boat, person")):
        yield names_in(folder / str(n), [cell, "boat", "person"], [{"boat", "person"}, {"boat"}, {"person"}])


@example("`haze primary`, `16 0`, `scab frog_eye_leaf_spot`, `a+b`, `a/b`, `a#b`")
def names_with_a_separator_that_names_may_hold(folder, flags):
    for n, cell in enumerate(("haze primary", "16 0", "scab frog_eye_leaf_spot", "a+b", "a/b", "a#b")):
        a, b = re.split(r"[ +/#]", cell)
        between = cell[len(a)]
        if not flags:  # names recur in different company
            held = [{a, b}, {b}, {a}, {"1", a}, {b, "1", a}, {"1"}]
            yield names_in(folder / str(n), [between.join(sorted(one)) for one in held], held)
        elif between == " ":
            yield names_in(folder / str(n), [cell, "x y"], [{a, b}, {"x", "y"}])


@example("`traffic light` (names with blanks)")
def names_with_blanks(folder, flags):
    held = [{"traffic light"}, {"stop sign", "dog"}, {"dog"}, {"stop sign"}]
    if flags:  # as if the words stood for themselves
        held += [{"traffic"}, {"light"}, {"sign traffic"}]
    yield names_in(folder / "0", [";".join(sorted(one)) for one in held], held)


@example('`[\'Comedy\', \'Drama\']`, `["Comedy", "Drama"]`, `{"choices": ["Comedy"]}`')
def printed_lists(folder, flags):
    for n, write in enumerate((str, json.dumps, lambda names: json.dumps({"choices": names}))):
        held = [["Comedy", "Drama"], ["Comedy"], ["Drama"]]
        yield names_in(folder / str(n), map(write, held), list(map(set, held)))


@example("`['Comedy' 'Drama']`, `{Comedy,Drama}` (as NumPy and databases print)")
def printed_arrays(folder, flags):
    held = [["Comedy", "Drama"], ["Comedy"], ["Drama"], []]
    for n, write in enumerate((lambda one: f"[{' '.join(map(repr, one))}]", lambda one: f"{{{','.join(one)}}}")):
        yield names_in(folder / str(n), map(write, held), list(map(set, held)))


@example("`No Finding`, `none` for none of the classes")
def a_name_for_none(folder, flags):
    yield names_in(folder / "0", ["boat", "No Finding", "boat;person"], [{"boat"}, set(), {"boat", "person"}])


@example("numbers whose names are in another file")
def numbers_for_names(folder, flags):
    made, held = names_in(folder / "0", ["0", "0;7", "7"], [{"boat"}, {"boat", "person"}, {"person"}])
    (made / "names.csv").write_text("id,name\n0,boat\n7,person\n9,never\n")
    yield made, held


@example("under a title that says nothing")
def a_title_that_says_nothing(folder, flags):
    rows = numbered([("boat;person", "in the sun"), ("boat", "by night"), ("person", "by night")])
    held = {image: set(cell.split(";")) for image, cell, _ in rows}
    yield table(folder, ("image", "what is there", "when"), rows), held


# --- A column per class


def columns_in(folder, cells, meaning, extra=(), header=("boat", "person")):
    """A table of a column per class, and what each cell means: 1, 0 or "?"."""
    rows = numbered(cells)
    held = {
        image: {
            ("?" if meaning[cell] == "?" else "") + name
            for name, cell in zip(header, row, strict=False)
            if meaning[cell]
        }
        for image, *row in rows
    }
    return table(folder, ("image", *header, *extra), rows), held


@example("1/0, 1.0/0.0, True/False, yes/no; -1 or blank: unknown")
def codes_in_columns(folder, flags):
    for n, (yes, no) in enumerate((("1", "0"), ("1.0", "0.0"), ("True", "False"), ("yes", "no"))):
        meaning = {yes: 1, no: 0, "-1": "?", "": "?"}
        yield columns_in(folder / str(n), [(yes, no), (no, yes), ("-1", yes), (yes, ""), (no, no)], meaning)


@example("1.00/0.00, +1, 1e0; `NA`, `null` for a blank")
def numbers_and_words_for_blanks_in_columns(folder, flags):
    meaning = {"1.00": 1, "0.00": 0, "+1": 1, "1e0": 1, "NA": "?", "null": "?"}
    yield columns_in(
        folder, [("1.00", "NA"), ("0.00", "+1"), ("1e0", "0.00"), ("NA", "1.00"), ("null", "0.00")], meaning
    )


@example("a column for none of the classes (`No Finding`)")
def a_column_for_none(folder, flags):
    cells = [("", "", "1"), ("1", "0", ""), ("1", "", "1"), ("0", "1", "0")]
    made, held = columns_in(folder, cells, {"1": 1, "0": 0, "": "?"}, header=("boat", "person", "No Finding"))
    if flags:
        none = {image for image, names in held.items() if "No Finding" in names}
        held = {image: names - {"No Finding", "?No Finding"} for image, names in held.items()}
        held = {image: names - {"?boat", "?person"} if image in none else names for image, names in held.items()}
    yield made, held


@example("only `x` or `✓`; blank: absent")
def ticks_in_columns(folder, flags):
    for n, tick in enumerate("x✓"):
        yield columns_in(folder / str(n), [(tick, ""), ("", tick), (tick, tick)], {tick: 1, "": "?" if flags else 0})


@example("blank means absent")
def blanks_in_columns(folder, flags):
    yield columns_in(folder, [("1", ""), ("", "1"), ("1", "-1")], {"1": 1, "": 0, "-1": "?"})


@example("-1 means uncertain")
def uncertain_entries(folder, flags):
    cells = [("1", "-1"), ("-1", "0"), ("0", "1"), ("1", "")]
    meaning = {"present": 1, "absent": 0, "unknown": "?", "policy.csv": 1}[flags.split()[-1]]
    made, held = columns_in(folder, cells, {"1": 1, "0": 0, "": "?", "-1": meaning})
    if flags.endswith("policy.csv"):
        (made / "policy.csv").write_text("class,uncertain\nboat,present\nperson,present\n")
    yield made, held


@example("columns of 1, 0 and more that are no classes (grade, visit)")
def columns_of_codes_that_are_no_classes(folder, flags):
    cells = [("1", "0", "1", "0"), ("0", "1", "2", "1"), ("1", "1", "3", "1")]
    yield columns_in(folder, cells, {"1": 1, "0": 0}, ("grade", "visit"), ("cat", "dog"))


@example("the same labels as names and as columns")
def labels_twice(folder, flags):
    cells = [("1", "0", "boat"), ("0", "1", "person"), ("1", "1", "boat;person")]
    if flags:  # they disagree: what the flag names holds
        cells[0] = ("1", "0", "boat") if "class_columns" in flags else ("0", "0", "boat")
        cells[1] = ("0", "1", "person;boat") if "class_columns" in flags else ("0", "1", "person")
    rows = numbered(cells)
    held = {
        image: {name for name, cell in zip(("boat", "person"), cells, strict=False) if cell == "1"}
        for image, *cells in rows
    }
    if "label_column" in flags:
        held = {image: set(cell.split(";")) for image, _, _, cell in rows}
    yield table(folder, ("image", "boat", "person", "labels"), rows), held


# --- Values between 0 and 1


def values_in_columns(folder, start):
    """A table of values, which are present from `start` on."""
    cells = [("0.37", "1"), ("0", "0.29"), ("0.5", ""), ("-1", "0.81")]
    meaning = {cell: int(float(cell) >= start) for row in cells for cell in row if cell} | {"": "?", "-1": "?"}
    return columns_in(folder, cells, meaning)


@example("present from 0.3 on, else absent: any method, any label regime")
def values_that_are_codes(folder, flags):
    yield values_in_columns(folder, 0.3)


@example("train on the values themselves")
def values_that_are_kept(folder, flags):
    made, held = values_in_columns(folder, 0.5)
    kept = read(made, flags).train.truth.soft
    assert ((kept > 0) & (kept < 1)).any()
    yield made, held


# --- Several lines or images


@example("a line per image and class")
def a_line_per_pair(folder, flags):
    held = {f"{n}.jpg": {("boat", "person")[n % 2], *(("person",) if n % 3 == 0 else ())} for n in range(9)}
    yield (
        table(folder, ("image", "labels"), [(one, name) for one, names in held.items() for name in sorted(names)]),
        held,
    )


@example("the same with 1 and 0 (`ImageID,LabelName,Confidence`)")
def a_line_per_pair_with_a_value(folder, flags):
    rows = [
        (f"{n}.jpg", name, str((n + k) % 2))
        for n in range(9)
        for k, name in enumerate(("/m/a", "/m/b", "/m/c"))
        if k < 2 or n % 2
    ]
    held = {image: set() for image, _, _ in rows}
    for image, name, value in rows:
        held[image] |= {name} if value == "1" else set()
    for image in held:
        held[image] |= set() if (image, "/m/c") in {row[:2] for row in rows} else {"?/m/c"}
    yield table(folder, ("ImageID", "LabelName", "Confidence"), rows), held


@example("the same where the numbers mean something else")
def a_line_per_pair_with_another_number(folder, flags):
    (made, held) = next(a_line_per_pair(folder, ""))
    header, *lines = (made / "labels.csv").read_text().splitlines()
    rows = [f"{line},{n % 2}" for n, line in enumerate(lines)]
    (made / "labels.csv").write_text("\n".join([f"{header},Confidence", *rows]) + "\n")
    yield made, held


@example("a line per image and annotator")
def a_line_per_annotator(folder, flags):
    lines = [("boat;person", "boat", "boat"), ("person", "person", "boat")] * 3
    rows = [(f"{n}.jpg", cell, who) for n, cells in enumerate(lines) for who, cell in zip("ABC", cells, strict=True)]
    right = {
        "majority": ({"boat"}, {"person"}),
        "union": ({"boat", "person"}, {"boat", "person"}),
        "unknown": ({"boat", "?person"}, {"?boat", "?person"}),
        "first": ({"boat", "person"}, {"person"}),
    }[flags.split()[-1]]
    yield table(folder, ("image", "labels", "annotator"), rows), {f"{n}.jpg": right[n % 2] for n in range(6)}


@example("two images in a line (left, right)")
def two_images_in_a_line(folder, flags):
    rows = [(f"{n}_l.jpg", f"{n}_r.jpg", ("boat", "boat;person", "person")[n % 3]) for n in range(9)]
    made = table(folder, ("left", "right", "labels"), rows)
    files(made / "images", *(row[1] for row in rows))
    for part in parts(read(made, flags)):
        assert sorted(one[0] for one in part.ids if "_l" in one) == sorted(one[0] for one in part.ids if "_r" in one)
    yield made, {image: set(row[2].split(";")) for row in rows for image in row[:2]}


def ids_without_files(folder, names):
    rows = [(str(n), ("boat", "boat;person", "person")[n % 3]) for n in range(9)]
    made = table(folder, ("Id", "Target"), rows)
    for path in (made / "images").iterdir():
        path.unlink()
    files(made / "images", *(name.replace("{}", one) for one, _ in rows for name in names))
    return made, {one: set(cell.split(";")) for one, cell in rows}


@example("an id whose image is three files")
def an_image_in_three_files(folder, flags):
    yield ids_without_files(folder, ("{}_red.png", "{}_green.png", "{}_blue.png", "{}_yellow.png"))


@example("an id whose image has another name")
def an_image_of_another_name(folder, flags):
    yield ids_without_files(folder, ("scans/{}.png",))


@example("images of one patient, site or burst")
def images_of_a_patient(folder, flags):
    rows = [(f"{n}.jpg", ("boat", "boat;person", "person")[n % 3], f"p{n // 3}") for n in range(18)]
    made = table(folder, ("image", "labels", "patient"), rows)
    groups = [{int(one.split(".")[0]) // 3 for one in part.ids} for part in parts(read(made, flags))]
    assert not groups[0] & groups[1]
    yield made, {image: set(cell.split(";")) for image, cell, _ in rows}


# --- Pixels


def first_pixel(folder, flags):
    splits = read(folder, flags)
    with contextlib.chdir(folder):
        return splits.train.images.open(0).getpixel((0, 0))


@example("photographs by phones and cameras, held in any way")
def photographs_held_in_any_way(folder, flags):
    made, held = names_in(folder, ["boat", "person"], [{"boat"}, {"person"}])
    exif = Image.Exif()
    exif[0x0112] = 6
    for image in held:
        Image.new("RGB", (6, 4)).save(made / "images" / image, exif=exif)
    with contextlib.chdir(made):
        config = parse_settings(INSPECT, shlex.split(f"{COMMAND} {flags}")).of(DatasetConfig)
        image = load_splits(config, 0, need_images=True, new=True).train.images.open(0)
    assert image.size == ((6, 4) if "ignore" in flags else (4, 6))
    yield made, held


@example("12 or 16 bits whose values mean the same in every image (microscopes)")
def values_that_mean_the_same(folder, flags):
    rows = [(f"{n}.png", ("boat", "person")[n % 2]) for n in range(6)]
    made = table(folder, ("image", "labels"), rows)
    for image, _ in rows:
        Image.fromarray(np.full((2, 2), 1365, dtype=np.uint16)).save(made / "images" / image)
    assert first_pixel(made, flags) == (85, 85, 85)
    yield made, {image: {label} for image, label in rows}


@example("satellite bands, a file each")
def bands_in_files(folder, flags):
    made, held = ids_without_files(folder, ("{}_B4.tif", "{}_B3.tif", "{}_B2.tif", "{}_B1.tif"))
    for file in (made / "images").iterdir():
        level = 300 * int(file.stem[-1])
        Image.fromarray(np.full((2, 2), level, dtype=np.uint16)).save(file)
    assert first_pixel(made, flags) == (102, 76, 51)
    yield made, held


# --- Several tables

HUES = [(f"{n}.jpg", ("red", "red;blue", "blue")[n % 3]) for n in range(9)]
KINDS = [(f"{n}.jpg", str(n % 2), str((n + 1) % 2)) for n in range(10, 19)]


def two_tables(folder, colours, kinds=(("image", "boat", "person"), KINDS)):
    table(folder, *colours, name="colours.csv")
    return table(folder, *kinds, name="kinds.csv")


def hues_and_kinds(rows=HUES):
    """What is true of images of which one table knows colours and the other kinds."""
    held = {image: {*cell.split(";"), "?boat", "?person"} for image, cell, *_ in rows}
    return held | {image: {"?red", "?blue", "boat" if boat == "1" else "person"} for image, boat, _ in KINDS}


@example("other images in each")
def other_images_in_each(folder, flags):
    yield two_tables(folder, (("image", "labels"), HUES)), hues_and_kinds()


@example("an image that is called `7.jpg` in one and `C:\\data\\7.JPG` in another")
def one_image_by_two_names(folder, flags):
    made = table(folder, ("image", "labels"), HUES, name="colours.csv")
    kinds = [f"C:\\data\\{n}.JPG,{n % 2},{(n + 1) % 2}\n" for n in range(9)]
    (made / "kinds.csv").write_text("".join(["image,boat,person\n", *kinds]))
    kind = ("person", "boat")
    yield made, {image: {*cell.split(";"), kind[int(image[0]) % 2]} for image, cell in HUES}


@example("the same images in two")
def the_same_images_in_two(folder, flags):
    cells = [("boat", "1", "1"), ("person", "", "0"), ("boat;person", "1", "")] * 3
    right = {
        "union": ({"boat", "person"}, {"person"}),
        "majority": ({"boat", "?person"}, {"?person"}),
        "unknown": ({"boat", "?person"}, {"?person"}),
        "first": ({"boat"}, {"person"}),
    }[flags.split()[-1]]
    rows = numbered(cells, times=1)
    colours = (("image", "labels"), [row[:2] for row in rows])
    kinds = (("image", "boat", "person"), [(image, *codes) for image, _, *codes in rows])
    yield two_tables(folder, colours, kinds), {f"{n}.jpg": (*right, {"boat", "person"})[n % 3] for n in range(9)}


@example("names in cells, of people who knew all classes")
def names_of_people_who_knew_all(folder, flags):
    kinds = [(image, "boat" if boat == "1" else "person") for image, boat, _ in KINDS]
    made = two_tables(folder, (("image", "labels"), HUES), (("file", "tags"), kinds))
    (made / "names.csv").write_text("id,name\n1,red\n2,boat\n3,blue\n4,person\n")
    yield made, {image: set(cell.split(";")) for image, cell in (*HUES, *kinds)}


@example("a title that only some have")
def a_title_that_only_some_have(folder, flags):
    rows = [(image, cell, ("by night", "at noon")[n % 2]) for n, (image, cell) in enumerate(HUES)]
    yield two_tables(folder, (("image", "what is there", "when"), rows)), hues_and_kinds()


@example("two that need different flags")
def two_that_need_different_flags(folder, flags):
    cells = ["traffic light", "stop sign", "traffic", "light", "sign traffic"]
    kinds = [(f"{n}.jpg", cell) for n, cell in enumerate(cells, 10)]
    rows = [(image, cell, ("by night", "at noon")[n % 2]) for n, (image, cell) in enumerate(HUES)]
    held = {image: {*cell.split(";"), *(f"?{one}" for one in cells)} for image, cell in HUES}
    held |= {image: {"?red", "?blue", cell} for image, cell in kinds}
    yield two_tables(folder, (("image", "tint", "when"), rows), (("image", "labels"), kinds)), held


@example("a split in one of them")
def a_split_in_one(folder, flags):
    rows = [(image, cell, "test" if n > 5 else "train") for n, (image, cell) in enumerate(HUES)]
    made = two_tables(folder, (("image", "labels", "split"), rows))
    assert sorted(read(made, flags, SEVERAL).test.ids) == ["6.jpg", "7.jpg", "8.jpg"]
    yield made, hues_and_kinds()


@example("a group in some of them")
def a_group_in_some(folder, flags):
    hues = [(image, cell, f"p{n % 3}") for n, (image, cell) in enumerate(HUES)]
    kinds = [(*row, f"p{n % 4}") for n, row in enumerate(KINDS)]
    made = two_tables(folder, (("image", "labels", "patient"), hues), (("image", "boat", "person", "patient"), kinds))
    patient = {image: who for image, *_, who in (*hues, *kinds)}
    groups = [{patient[one] for one in part.ids} for part in parts(read(made, flags, SEVERAL))]
    assert not groups[0] & groups[1]
    yield made, hues_and_kinds()


@example("tables for the test")
def tables_for_the_test(folder, flags):
    made = two_tables(folder, (("image", "labels"), HUES))
    table(folder, ("image", "labels"), [("20.jpg", "red"), ("21.jpg", "blue;red"), ("22.jpg", "blue")], name="t1.csv")
    table(folder, ("image", "boat", "person"), [("30.jpg", "1", "0"), ("31.jpg", "0", "")], name="t2.csv")
    assert sorted(read(made, flags, SEVERAL).test.ids) == ["20.jpg", "21.jpg", "22.jpg", "30.jpg", "31.jpg"]
    tested = {"20.jpg": {"red"}, "21.jpg": {"red", "blue"}, "22.jpg": {"blue"}}
    tested = {image: held | {"?boat", "?person"} for image, held in tested.items()}
    tested |= {"30.jpg": {"?red", "?blue", "boat"}, "31.jpg": {"?red", "?blue", "?person"}}
    yield made, hues_and_kinds() | tested


# --- No table at all


@example("`images/cat/1.jpg`, `images/cat/black/2.jpg`")
def folders_as_labels(folder, flags):
    apart = "--label_separator" in flags
    held = {
        "cat/1.jpg": {"cat"},
        "cat/black/2.jpg": {"cat", "black"},
        "cat_dog/3.jpg": {"cat", "dog"} if apart else {"cat_dog"},
    }
    held |= {f"cat/{n}.jpg": {"cat"} for n in range(10, 18)}
    files(folder / "images", *held)
    yield folder, held


@example("the same below `train/`, `val/`, `test/`")
def folders_below_splits(folder, flags):
    names = {
        f"{split}/{one}": set(one.split("/")[:-1])
        for split in ("train", "val", "test")
        for one in ("cat/1.jpg", "cat/black/2.jpg", "dog/3.jpg")
    }
    files(folder / "images", *names)
    yield folder, names


@example("an export of YOLO: `images/`, `labels/`, `data.yaml`")
def an_export_of_yolo(folder, flags):
    files(folder / "the_export" / "images", *(f"{n}.jpg" for n in range(9)))
    (folder / "the_export" / "labels").mkdir()
    for n in range(9):
        (folder / "the_export" / "labels" / f"{n}.txt").write_text(f"{n % 2} .5 .5 .1 .1\n")
    (folder / "the_export" / "data.yaml").write_text("names: [boat, person]\n")
    yield folder, {f"images/{n}.jpg": {("boat", "person")[n % 2]} for n in range(9)}


@example("the same by splits (`train/images/`, `train/labels/`), or with `obj.names` and labels beside the images")
def other_exports_of_yolo(folder, flags):
    for name, parts in (("splits", ("train", "valid")), ("beside", ("obj_train_data", "obj_valid_data"))):
        export, held = folder / name / "the_export", {}
        for n in range(9):
            part = parts[n % 2]
            image, lines = (f"{part}/{kind}{n}" for kind in (("images/", "labels/") if name == "splits" else ("", "")))
            files(export, f"{image}.jpg", f"{lines}.txt")
            (export / f"{lines}.txt").write_text(f"{n % 3 // 2} .5 .5 .1 .1\n")
            held[f"{image}.jpg"] = {("boat", "person")[n % 3 // 2]}
        if name == "splits":
            (export / "data.yaml").write_text("names: [boat, person]\n")
        else:
            (export / "obj.names").write_text("boat\nperson\n")
        yield folder / name, held


@example("a COCO-style `.json`, or a folder of VOC annotations")
def formats_of_detection(folder, flags):
    names = [f"{n}.jpg" for n in range(9)]
    content = coco_json(list(enumerate(names)), [(n, 1 + n % 2, 0, [1, 2, 3, 4]) for n in range(9)], [1, 2])
    (folder / "it.json").write_text(json.dumps(content))
    called = {one["id"]: one["name"] for one in content["categories"]}
    files(folder / "images", *names)
    yield folder, {name: {called[1 + n % 2]} for n, name in enumerate(names)}
