import csv
import io

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from data.datasets.table.columns import IMAGE_COLUMNS, LABEL_COLUMNS, SPLIT_COLUMNS, read_spreadsheet
from data.datasets.table.config import TableConfig
from tests.data.datasets.table.test_reader import THREE, written
from utils.types import ABSENT, PRESENT, UNKNOWN


def as_text(header, rows, delimiter):
    buffer = io.StringIO()
    csv.writer(buffer, delimiter=delimiter).writerows([header, *rows])
    return buffer.getvalue()


def read(path, fixed=None, **more):
    return read_spreadsheet(path, TableConfig(table=path, **more), fixed)


def random_table(seed):
    rng = np.random.default_rng(seed)
    classes = tuple(f"class {k}, été {seed}" for k in range(int(rng.integers(1, 6))))
    codes = rng.integers(-1, 2, (int(rng.integers(2, 40)), len(classes))).astype(np.int8)
    ids = tuple(sorted(f"folder {row % 3}/image-{row}.png" for row in range(len(codes))))
    return ids, classes, codes, rng.permutation(len(ids))


def test_names_of_a_cell_are_present_and_the_others_absent(tmp_path):
    found = read(written(tmp_path / "labels.csv", THREE))
    assert found.ids == ("a.jpg", "b/a.jpg", "c.jpg")
    assert found.classes == ("cat", "dog")
    np.testing.assert_array_equal(found.codes, [[PRESENT, PRESENT], [ABSENT, ABSENT], [ABSENT, PRESENT]])
    assert found.codes.dtype == np.int8


@pytest.mark.parametrize(
    "code, texts",
    [
        (PRESENT, ["1", "1.0", "true", "True", "TRUE", " 1 "]),
        (ABSENT, ["0", "0.0", "false", "False"]),
        (UNKNOWN, ["-1", "-1.0", "", "  "]),
    ],
)
def test_ways_to_write_a_code(tmp_path, code, texts):
    rows = "".join(f"{n}.jpg,{text}\n" for n, text in enumerate(texts))
    found = read(written(tmp_path / "labels.csv", "image,cat\n" + rows))
    assert found.codes[:, 0].tolist() == [code] * len(texts)


@pytest.mark.parametrize("form", ["csv", "parquet"])
@pytest.mark.parametrize("separator", [";", "|", ",", " "])
def test_names_come_back_with_any_separator(tmp_path, form, separator):
    ids, _, codes, order = random_table(7)
    classes = tuple(f"été-{k}" for k in range(codes.shape[1]))
    cells = [separator.join(name for name, code in zip(classes, codes[row], strict=True) if code == 1) for row in order]
    names = [ids[row] for row in order]
    if form == "csv":
        rows = zip(names, cells, strict=True)
        path = written(tmp_path / "t.csv", as_text(["image", "tags"], rows, ","))
    else:
        path = tmp_path / "t.parquet"
        parquet.write_table(pa.table({"image": names, "tags": [cell or None for cell in cells]}), path)
    found = read(path, fixed=classes, label_separator=separator)
    assert (found.ids, found.classes) == (ids, classes)
    np.testing.assert_array_equal(found.codes, np.where(codes == PRESENT, PRESENT, ABSENT))


@pytest.mark.parametrize("name", [*IMAGE_COLUMNS, "Image", "FILE_NAME"])
def test_usual_names_of_the_path_column(tmp_path, name):
    found = read(written(tmp_path / "t.csv", f"cat,{name},dog\n1,a.jpg,0\n"))
    assert (found.ids, found.classes) == (("a.jpg",), ("cat", "dog"))


@pytest.mark.parametrize("name", [*LABEL_COLUMNS, "Tags"])
def test_usual_names_of_the_label_column(tmp_path, name):
    found = read(written(tmp_path / "t.csv", f"image,{name},photographer\na.jpg,cat,Ann\n"))
    assert found.classes == ("cat",)
    assert "not read: 'photographer'" in found.notes[0]


@pytest.mark.parametrize("name", LABEL_COLUMNS)
def test_a_column_of_codes_is_a_class_whatever_its_name(tmp_path, name):
    found = read(written(tmp_path / "t.csv", f"image,{name},dog\na.jpg,1,0\nb.jpg,,1.0\n"))
    assert found.classes == (name, "dog")
    np.testing.assert_array_equal(found.codes, [[PRESENT, ABSENT], [UNKNOWN, PRESENT]])


@pytest.mark.parametrize("name", [*SPLIT_COLUMNS, "Split"])
def test_usual_names_of_the_split_column(tmp_path, name):
    found = read(written(tmp_path / "t.csv", f"image,cat,{name}\na.jpg,1,train\nb.jpg,0,TEST\n"))
    assert found.classes == ("cat",)
    assert found.splits.tolist() == [0, 2]


def test_the_paths_are_brought_to_one_form_and_keep_their_ending(tmp_path):
    text = "image,labels\n./b.jpg,cat\nfolder\\c.jpg,cat\na.png,cat\na.jpg,cat\n"
    assert read(written(tmp_path / "t.csv", text)).ids == ("a.jpg", "a.png", "b.jpg", "folder/c.jpg")


def test_names_with_another_separator_raise_a_doubt(tmp_path):
    doubtful = written(tmp_path / "t.csv", 'image,labels\na.jpg,"cat,dog"\nb.jpg,cat\n')
    assert any("'cat,dog' counts as one class" in note for note in read(doubtful).notes)
    assert read(doubtful, fixed=("cat", "cat,dog")).notes == ()
    assert read(doubtful, label_separator=",").classes == ("cat", "dog")
    assert read(doubtful, label_separator=",").notes == ()
