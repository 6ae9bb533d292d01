"""People's own tables, jsons and annotation folders, damaged or written as nobody should."""

import json
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from data.datasets.source import DatasetSource
from data.datasets.table.reader import load_table
from data.files.cache import Cache
from tests.data.damage import Case
from tests.data.datasets.table.sheets import table_config

NAMES = "image,labels\na.jpg,cat;dog\nb.jpg,dog\nc.jpg,cat\n"
COLUMNS = "image,cat,dog\na.jpg,1,0\nb.jpg,0,1\nc.jpg,1,1\n"


def load(path, **more):
    source = DatasetSource(Path(), Path(), 0, Cache(path.parent / "cache"), False, table_config(path, **more))
    return lambda: load_table(source)


def file(content, *, name="t.csv", beside=None, **more):
    """A table with this text or these bytes; `beside` are other files by name."""

    def make(folder):
        for file, text in {name: content, **(beside or {})}.items():
            (folder / file).write_bytes(text if isinstance(text, bytes) else text.encode())
        return load(folder / name, **more)

    return make


def text(name, content, *words, **more):
    return Case(name, file(content, **more), ("t.csv", *words))


def columns(name, table, *words):
    """A parquet file with these columns."""

    def make(folder):
        parquet.write_table(table, folder / "t.parquet")
        return load(folder / "t.parquet")

    return Case(name, make, ("t.parquet", *words))


def cut_parquet(change):
    def make(folder):
        path = folder / "t.parquet"
        parquet.write_table(pa.table({"image": ["a.jpg", "b.jpg"] * 500, "labels": ["cat", "dog"] * 500}), path)
        path.write_bytes(change(path.read_bytes()))
        return load(path)

    return make


def instances(**more):
    return {
        "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]},
            {"id": 2, "image_id": 2, "category_id": 2, "bbox": [1, 2, 3, 4]},
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        **more,
    }


def entry(section, number, **values):
    document = instances()
    document[section][number].update(values)
    return document


def without(section, number, key):
    document = instances()
    del document[section][number][key]
    return document


def coco(name, document, *words):
    content = document if isinstance(document, bytes) else json.dumps(document)
    return Case(f"json-{name}", file(content, name="t.json"), ("t.json", *words))


def boxed(*sides):
    return [{"id": 1, "image_id": 1, "category_id": 1, "bbox": list(sides)}]


def xml(*, name="cat", box=("1", "1", "5", "5"), difficult="0"):
    sides = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    inner = "".join(f"<{side}>{value}</{side}>" for side, value in sides)
    return (
        f"<annotation><object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{inner}</bndbox>"
        "</object></annotation>"
    )


def folder_of(files):
    """A folder `own` of these files, on top of two good annotations."""

    def make(folder):
        root = folder / "own"
        for name, text in {"Annotations/a.xml": xml(), "Annotations/b.xml": xml(name="dog"), **files}.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load(root)

    return make


def voc(name, files, *words):
    return Case(f"voc-{name}", folder_of(files), words)


def lists(name, files, *words):
    return voc(name, {f"ImageSets/Main/{one}.txt": text for one, text in files.items()}, *words)


def nothing(folder):
    (folder / "own").mkdir()
    return load(folder / "own")


def two(train, test, *words, name):
    def make(folder):
        (folder / "train.csv").write_text(train)
        (folder / "val.csv").write_text(test)
        return load(folder / "train.csv", test_table=folder / "val.csv")

    return Case(f"two-{name}", make, words)


ENTITIES = """<!DOCTYPE a [<!ENTITY x "lol"><!ENTITY y "&x;&x;&x;&x;">]>
<annotation><object><name>&y;</name></object></annotation>"""

CASES = [
    # The file as a whole.
    Case("absent", lambda folder: load(folder / "no.csv"), ("no.csv", "no such file")),
    Case("absent-nul", lambda folder: load(folder / "a\0b.csv"), ("no such file",)),
    Case("other-ending", file(NAMES, name="t.xlsx"), ("t.xlsx", "not a readable workbook")),
    Case("yet-another-ending", file(NAMES, name="t.ods"), ("t.ods", ".csv", "save a spreadsheet as CSV")),
    Case("no-ending", file(NAMES, name="labels"), ("labels: not one of", ".parquet")),
    text("empty-file", "", "is empty"),
    text("blank-lines-only", "\n\n   \n", "is empty"),
    text("header-only", "image,labels\n", "no row"),
    text("empty-rows-only", "image,labels\n,\n,\n", "no row"),
    text("latin-1", NAMES.replace("dog", "d\xf6g").encode("latin-1"), "not UTF-8"),
    text("utf-16-without-mark", NAMES.encode("utf-16-le"), "line 1", "NUL"),
    text("utf-16-cut-short", NAMES.encode("utf-16")[:-1], "not utf-16 text", "--encoding"),
    text("nul", NAMES.replace("b.jpg", "b\0.jpg"), "line 3", "NUL"),
    text("image-instead", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(range(256)), "not UTF-8"),
    text("unclosed-quote", 'image,labels\na.jpg,"cat\nb.jpg,dog\n', "line 3", "not a table"),
    text("text-after-quote", 'image,labels\na.jpg,"cat"dog\n', "line 2", "not a table"),
    text("absurdly-long-field", "image,labels\na.jpg," + "x" * (1 << 22) + "x\n", "line 2", "not a table"),
    text("short-row", "image,cat,dog\na.jpg,1,0\nb.jpg,1\n", "line 3", "2 fields", "3 columns"),
    text("long-row", "image,labels\na.jpg,cat,dog\n", "line 2", "3 fields"),
    text("cut-in-the-middle", COLUMNS[:-5], "line 4", "1 fields" if COLUMNS[:-5].endswith("c.jpg") else "2 fields"),
    # Columns.
    text("no-header", "a.jpg,cat\nb.jpg,dog\n", "no column of image paths", "'a.jpg'", "--image_column"),
    text("no-path-column", "scan,cat\n1.jpg,1\n", "no column of image paths", "'scan'", "--image_column"),
    text("only-paths", "image\na.jpg\n", "no column of labels", "'image'"),
    text("only-paths-and-split", "image,split\na.jpg,train\n", "no column of labels"),
    text("repeated-column", "image,cat,cat\na.jpg,1,1\n", "column 'cat'", "2 times"),
    text("repeated-but-for-case", "image,cat,Cat\na.jpg,1,1\n", "column 3", "'Cat'", "'cat'"),
    text("repeated-but-for-encoding", "image,\u00e9,e\u0301\na.jpg,1,1\n", "column 3", "write each class once"),
    text("untitled-class", "image,\na.jpg,1\nb.jpg,0\nc.jpg,\n", "column 2", "has no title"),
    text("wanted-path-column", NAMES, "--image_column key", "'image'", image_column="key"),
    text("wanted-label-column", NAMES, "--label_column what", "'labels'", label_column="what"),
    text("wanted-split-column", NAMES, "--split_column fold", "'labels'", split_column="fold"),
    text("one-column-two-roles", NAMES, "'labels'", "two of", label_column="labels", split_column="labels"),
    text("column-name-with-separator", "image,cat;dog\na.jpg,1\n", "column 2", "separator"),
    text("column-name-with-line-break", 'image,"cat\ndog"\na.jpg,1\n', "column 2", "line breaks"),
    # Cells of class columns.
    text("two", COLUMNS.replace("b.jpg,0", "b.jpg,2"), "line 3", "'cat'", "'2'"),
    text("half", COLUMNS.replace("b.jpg,0", "b.jpg,0.5"), "line 3", "'cat'", "'0.5'"),
    text("nan", COLUMNS.replace("c.jpg,1,1", "c.jpg,1,NaN"), "line 4", "'dog'", "'NaN'"),
    text(
        "word",
        COLUMNS.replace("c.jpg,1,1", "c.jpg,1,maybe"),
        "line 4",
        "'dog'",
        "'maybe'",
        "--label_column",
        "--class_columns",
    ),
    text("code-99", COLUMNS.replace("c.jpg,1,1", "c.jpg,99,1"), "line 4", "'99'"),
    text(
        "two-mixed-columns",
        "image,width,cat,age\na.jpg,640,1,1\nb.jpg,1,0,20\n",
        "2 columns",
        "'width' ('640' in line 2)",
        "'age' ('20' in line 3)",
        "--ignore_columns",
    ),
    text("named-column-mixed", "image,cat\na.jpg,1\nb.jpg,no idea\n", "line 3", "'no idea'", class_columns="cat"),
    text("nothing-known", "image,cat\na.jpg,\nb.jpg,-1\nc.jpg,\nd.jpg,\ne.jpg,\n", "nothing to learn"),
    # Cells of class names.
    text("empty-name", NAMES.replace("cat;dog", "cat;;dog"), "line 2", "'cat;;dog'", "empty name"),
    text("trailing-separator", NAMES.replace("cat;dog", "cat;"), "line 2", "empty name"),
    text("name-twice", NAMES.replace("cat;dog", "cat;cat"), "line 2", "names a class twice"),
    text("name-in-other-case", NAMES.replace("b.jpg,dog", "b.jpg,Dog"), "line 3", "'Dog'", "'dog'", "line 2"),
    text("name-nan", NAMES.replace("b.jpg,dog", "b.jpg,nan"), "line 3", "'nan'", "missing value"),
    text("name-too-long", NAMES.replace("b.jpg,dog", "b.jpg," + "cat " * 60), "line 3", "characters"),
    text("name-with-line-break", NAMES.replace("b.jpg,dog", 'b.jpg,"dog\ncat"'), "line 4", "line breaks"),
    text("name-with-escape", NAMES.replace("b.jpg,dog", "b.jpg,\x1b[31mdog"), "line 3", "control characters"),
    text("names-all-empty", "image,labels,cat\na.jpg,,maybe\n", "names no class", label_column="labels"),
    # Pictures.
    text("path-leads-out", NAMES.replace("b.jpg", "../b.jpg"), "line 3", "'../b.jpg'"),
    text("path-leads-out-windows", NAMES.replace("b.jpg", "x\\..\\..\\b.jpg"), "line 3", "inside the image folder"),
    text("path-absolute-leads-out", NAMES.replace("b.jpg", "/a/../etc/passwd"), "line 3", "'/a/../etc/passwd'"),
    text("path-of-a-drive-alone", NAMES.replace("b.jpg", "C:\\"), "line 3", "inside the image folder"),
    text("path-empty", NAMES.replace("b.jpg", ""), "line 3", "''"),
    text("path-dot", NAMES.replace("b.jpg", "."), "line 3", "'.'"),
    text("path-with-escape", NAMES.replace("b.jpg", "b\x1b.jpg"), "line 3", "control characters"),
    text("image-twice", NAMES.replace("c.jpg", "a.jpg"), "line 4", "'a.jpg'", "line 2"),
    text("image-twice-in-disguise", NAMES.replace("c.jpg", ".//a.jpg"), "line 4", "'a.jpg'", "line 2"),
    text("two-lines-of-all", "image,labels\na.jpg,cat;dog\na.jpg,dog\n", "line 3", "'a.jpg'", "line 2", "--repeated"),
    text(
        "two-values",
        "image,label,value\na.jpg,cat,1\nb.jpg,cat,1\na.jpg,cat,0\n",
        "line 4",
        "line 2",
        "'cat'",
        value_column="value",
    ),
    text("value-of-words", "image,label,value\na.jpg,cat,high\n", "line 2", "'high'", value_column="value"),
    text("no-value-column", NAMES, "--value_column v", "'labels'", value_column="v"),
    text("no-group-column", NAMES, "--group_column g", "'labels'", group_column="g"),
    text("one-column-for-two", NAMES, "two of image", label_column="labels", group_column="labels"),
    # Splits.
    text("split-unknown", "image,cat,split\na.jpg,1,train\nb.jpg,1,dev2\n", "line 3", "'dev2'", "train, val or test"),
    text("split-empty", "image,cat,split\na.jpg,1,train\nb.jpg,1,\n", "line 3", "''", "'split'"),
    text("split-numbers", "image,cat,set\na.jpg,1,0\nb.jpg,1,1\n", "line 2", "'0'", "--split_column"),
    text("in-two-splits", "image,cat,split\na.jpg,1,train\na.jpg,1,test\n", "line 3", "'a.jpg'", "line 2"),
    text("train-only", "image,cat,split\na.jpg,1,train\nb.jpg,0,train\n", "for the test"),
    text("test-only", "image,cat,split\na.jpg,1,test\nb.jpg,0,test\n", "for training"),
    text("val-and-test-only", "image,cat,split\na.jpg,1,val\nb.jpg,0,test\n", "for training"),
    text("one-image", "image,cat\na.jpg,1\n", "1 images", "--test_frac"),
    two(NAMES, NAMES, "val.csv", "'a.jpg'", "train.csv", name="the-same"),
    two(COLUMNS, "image,cat\nz.jpg,1\n", "val.csv", "'dog'", name="fewer-columns"),
    two(NAMES, "image,labels\nz.jpg,cat;\n", "val.csv", "line 2", name="second-damaged"),
    # classes.txt
    text(
        "classes-of-other-accents",
        "image,labels\na.jpg,cafe\u0301\nb.jpg,caf\u00e9\n",
        "line 2",
        "not in classes.txt with its accents encoded like this",
        beside={"classes.txt": "caf\u00e9\n"},
    ),
    *(
        Case(f"classes-{name}", file(NAMES, beside={"classes.txt": content}), words)
        for name, content, words in [
            ("lacks-one", "cat\n", ("t.csv", "line 2", "'dog'", "classes.txt")),
            ("empty", "\n", ("classes.txt", "names no class")),
            ("twice", "cat\ndog\ncat\n", ("classes.txt", "line 3", "'cat'", "line 1")),
            ("twice-but-for-case", "cat\ndog\nDOG\n", ("classes.txt", "line 3", "'DOG'", "line 2")),
            ("separator", "cat;dog\n", ("classes.txt", "line 1", "separator")),
            ("latin-1", "cat\nd\xf6g\n".encode("latin-1"), ("classes.txt", "not UTF-8")),
            ("control", "cat\ndog\x07\n", ("classes.txt", "line 2", "control characters")),
        ]
    ),
    # Parquet.
    Case("parquet-empty-file", cut_parquet(lambda data: b""), ("t.parquet", "not a readable parquet file")),
    Case("parquet-cut", cut_parquet(lambda data: data[: len(data) // 2]), ("t.parquet", "not a readable")),
    Case("parquet-head-gone", cut_parquet(lambda data: data[8:]), ("t.parquet", "not a readable")),
    Case("parquet-is-csv", file(NAMES, name="t.parquet"), ("t.parquet", "not a readable parquet file")),
    columns("parquet-list-twice", pa.table({"image": ["a.jpg"], "labels": [["cat", "cat"]]}), "row 1", "twice"),
    columns(
        "parquet-bytes", pa.table({"image": [{"bytes": b"x"}], "labels": ["cat"]}), "'image'", "row 1", "not a path"
    ),
    columns(
        "parquet-no-rows", pa.table({"image": pa.array([], pa.string()), "cat": pa.array([], pa.int8())}), "no row"
    ),
    columns("parquet-no-columns", pa.table({}), "no row"),
    columns("parquet-half", pa.table({"image": ["a.jpg", "b.jpg"], "cat": [1.0, 0.5]}), "row 2", "'cat'", "'0.5'"),
    columns("parquet-null-path", pa.table({"image": ["a.jpg", None], "cat": [1, 0]}), "row 2", "''"),
    columns("parquet-number-path", pa.table({"image": [1, 1], "cat": [1, 0]}), "row 2", "'1'", "row 1"),
    columns(
        "parquet-twice",
        pa.Table.from_arrays([pa.array(["a.jpg"]), pa.array([1]), pa.array([1])], names=["image", "cat", " cat"]),
        "'cat'",
        "2 times",
    ),
    columns("parquet-path-leads-out", pa.table({"image": ["a.jpg", "../../b"], "cat": [1, 0]}), "row 2", "'../../b'"),
    # COCO-style json.
    coco("empty", b"", "not a json file"),
    coco("cut", json.dumps(instances()).encode()[:-30], "not a json file"),
    coco("nested-without-end", b"[" * 100_000, "not a json file"),
    coco("list", [1, 2], "list"),
    coco(
        "no-categories", {key: entries for key, entries in instances().items() if key != "categories"}, "'categories'"
    ),
    coco("images-no-list", instances(images={"1": "a.jpg"}), "'images'"),
    coco("no-file-name", without("images", 1, "file_name"), "entry 1", "'file_name'"),
    coco("no-annotation-id", without("annotations", 1, "id"), "entry 1", "'annotations'", "'id'"),
    coco("unknown-category", entry("annotations", 1, category_id=7), "annotation 1", "category_id 7"),
    coco("unknown-image", entry("annotations", 1, image_id=7), "annotation 1", "image_id 7"),
    coco("text-id", entry("images", 0, id="1"), "entry 0", "'id'"),
    coco("negative-width", instances(annotations=boxed(1, 2, -3, 4)), "entry 0", "negative width or height"),
    coco("negative-height", instances(annotations=boxed(1, 2, 3, -4)), "entry 0", "negative width or height"),
    coco("nan-box", instances(annotations=boxed(float("nan"), 2, 3, 4)), "entry 0", "bbox"),
    coco("infinite-box", instances(annotations=boxed(1, 2, float("inf"), 4)), "entry 0", "bbox"),
    coco("huge-box", instances(annotations=boxed(1, 2, 10**400, 4)), "entry 0", "bbox"),
    coco("no-annotations", instances(annotations=[]), "no image has an annotation"),
    coco("empty-category", entry("categories", 1, name=""), "category 2", "has no name"),
    coco("same-category", entry("categories", 1, name="Cat"), "category 2", "'Cat'", "category 1"),
    coco("category-with-separator", entry("categories", 1, name="cat;dog"), "category 2", "separator"),
    coco("category-with-nul", entry("categories", 1, name="do\0g"), "entry 1", "'name'", "control characters"),
    coco("category-half-a-character", entry("categories", 1, name="\ud800"), "entry 1", "control characters"),
    coco("same-file", entry("images", 1, file_name="./a.jpg"), "image 2", "'a.jpg'", "image 1"),
    coco("file-leads-out", entry("images", 1, file_name="../b.jpg"), "image 2", "'../b.jpg'"),
    coco("file-leads-out-windows", entry("images", 1, file_name="..\\b.jpg"), "image 2", "inside the dataset"),
    coco("file-nameless", entry("images", 1, file_name=""), "image 2", "inside the dataset"),
    # A folder of VOC annotations.
    Case("voc-no-annotation", nothing, ("own: no annotation", "Annotations/<name>.xml")),
    voc("empty-xml", {"Annotations/a.xml": ""}, "a.xml", "not a VOC annotation"),
    voc("cut-xml", {"Annotations/a.xml": xml()[:-20]}, "a.xml", "not a VOC annotation"),
    voc("other-root", {"Annotations/a.xml": "<html></html>"}, "a.xml", "<html>"),
    voc("entities", {"Annotations/a.xml": ENTITIES}, "a.xml", "document type"),
    voc("binary", {"Annotations/a.xml": bytes(range(256))}, "a.xml", "not a VOC annotation"),
    voc("nameless", {"Annotations/a.xml": xml(name="")}, "a.xml", "has no name"),
    voc("name-in-other-case", {"Annotations/b.xml": xml(name="CAT")}, "b.xml", "'CAT'", "'cat'", "a.xml"),
    voc("name-with-separator", {"Annotations/b.xml": xml(name="cat;dog")}, "b.xml", "separator"),
    voc("difficult", {"Annotations/a.xml": xml(difficult="maybe")}, "a.xml", "difficult", "maybe"),
    voc("box-no-number", {"Annotations/a.xml": xml(box=("1", "1", "x", "5"))}, "a.xml", "xmax", "'x'"),
    voc("box-nan", {"Annotations/a.xml": xml(box=("1", "1", "nan", "5"))}, "a.xml", "xmax"),
    voc("box-reversed", {"Annotations/a.xml": xml(box=("9", "1", "5", "5"))}, "a.xml", "wrong order"),
    voc("box-huge", {"Annotations/a.xml": xml(box=("1", "1", "1e300", "5"))}, "a.xml", "far outside"),
    voc("folder-below", {"Annotations/more/c.xml": xml()}, "c.xml", "subfolder"),
    voc("no-object", {f"Annotations/{one}.xml": "<annotation/>" for one in "ab"}, "own", "has an object"),
    voc("class-file", {"classes.txt": "cat\n"}, "b.xml", "'dog'", "classes.txt"),
    voc("name-with-escape", {"Annotations/a\x1b.xml": xml()}, "control characters"),
    lists("list-alone", {"train": "a\nb\n"}, "train.txt", "stands alone"),
    lists("test-list-alone", {"test": "a\nb\n"}, "test.txt", "stands alone"),
    lists("unknown-image", {"train": "a\n", "test": "b\nz\n"}, "test.txt", "line 2", "'z'", "z.xml"),
    lists("with-ending", {"train": "a.jpg\n", "test": "b\n"}, "train.txt", "line 1", "'a.jpg'"),
    lists("in-two-lists", {"train": "a\n", "test": "b\na\n"}, "test.txt", "line 2", "'a'", "train.txt"),
    lists("twice-in-a-list", {"train": "a\na\n", "test": "b\n"}, "train.txt", "line 2", "line 1"),
    lists("empty-list", {"train": "a\nb\n", "test": "\n"}, "own", "for the test"),
    lists("latin-1-list", {"train": b"a\n\xf6\n", "test": "b\n"}, "train.txt", "not UTF-8"),
]
