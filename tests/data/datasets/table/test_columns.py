import csv
import io

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from data.datasets.table.columns import labels_of, read_table, where_of
from data.datasets.table.config import TableConfig
from data.datasets.table.decided import IMAGE_TITLES, LABEL_TITLES, SPLIT_TITLES
from tests.data.datasets.table.test_reader import COLUMNS, THREE, written
from utils.checks import UserError
from utils.types import ABSENT, PRESENT, UNKNOWN


def as_text(header, rows, delimiter):
    buffer = io.StringIO()
    csv.writer(buffer, delimiter=delimiter).writerows([header, *rows])
    return buffer.getvalue()


def read(path, fixed=None, **more):
    config = TableConfig(table=(path,), **more)
    return labels_of(read_table(path, config, fixed, path.parent), config)


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


@pytest.mark.parametrize("name", [*IMAGE_TITLES, "Image", "FILE_NAME"])
def test_usual_names_of_the_path_column(tmp_path, name):
    found = read(written(tmp_path / "t.csv", f"cat,{name},dog\n1,a.jpg,0\n"))
    assert (found.ids, found.classes) == (("a.jpg",), ("cat", "dog"))


@pytest.mark.parametrize("name", [*LABEL_TITLES, "Tags"])
def test_usual_names_of_the_label_column(tmp_path, name):
    found = read(written(tmp_path / "t.csv", f"image,{name},photographer\na.jpg,cat,Ann\n"))
    assert found.classes == ("cat",)
    assert "not read: 'photographer' (holds other things)" in found.notes[-1]


@pytest.mark.parametrize("name", LABEL_TITLES)
def test_a_column_of_codes_is_a_class_whatever_its_name(tmp_path, name):
    found = read(written(tmp_path / "t.csv", f"image,{name},dog\na.jpg,1,0\nb.jpg,,1.0\n"))
    assert found.classes == (name, "dog")
    np.testing.assert_array_equal(found.codes, [[PRESENT, ABSENT], [UNKNOWN, PRESENT]])


@pytest.mark.parametrize("name", [*SPLIT_TITLES, "Split"])
def test_usual_names_of_the_split_column(tmp_path, name):
    found = read(written(tmp_path / "t.csv", f"image,cat,{name}\na.jpg,1,train\nb.jpg,0,TEST\n"))
    assert found.classes == ("cat",)
    assert found.splits.tolist() == [0, 2]


def test_the_paths_are_brought_to_one_form_and_keep_their_ending(tmp_path):
    text = "image,labels\n./b.jpg,cat\nfolder\\c.jpg,cat\na.png,cat\na.jpg,cat\n"
    assert read(written(tmp_path / "t.csv", text)).ids == ("a.jpg", "a.png", "b.jpg", "folder/c.jpg")


def test_a_separator_that_is_asked_for_is_obeyed(tmp_path):
    path = written(tmp_path / "t.csv", 'image,labels\na.jpg,"cat,dog"\nb.jpg,cat\n')
    assert read(path).classes == ("cat", "dog")
    whole = read(path, label_separator="|")
    assert whole.classes == ("cat", "cat,dog")
    assert any("'cat,dog' counts as one class" in note for note in whole.notes)
    assert not any("counts as one" in note for note in read(path, fixed=("cat", "dog")).notes)


def test_settings_that_contradict_each_other_or_mean_nothing_are_refused(tmp_path):
    path = written(tmp_path / "t.csv", COLUMNS)
    with pytest.raises(UserError, match=r"--label_column and --class_columns: .* give one of the two"):
        read(path, label_column="cat", class_columns="dog")
    with pytest.raises(UserError, match="--encoding klingon: Python knows no encoding of that name"):
        read(path, encoding="klingon")
    with pytest.raises(UserError, match="--uncertain perhaps: must be unknown, present, absent or a file"):
        read(path, uncertain="perhaps")
    with pytest.raises(UserError, match=r"--class_columns bird: no such column"):
        read(path, class_columns="dog, bird")


@pytest.mark.parametrize(
    "count, last", [(6, "'f' (holds other things)"), (7, "'f' (holds other things), ... (7 in all)")]
)
def test_at_most_six_columns_that_are_not_read_are_said(tmp_path, count, last):
    names = "abcdefg"[:count]
    path = written(tmp_path / "t.csv", f"image,label,{','.join(names)}\nx.jpg,cat,{','.join(['Ann'] * count)}\n")
    assert read(path).notes[-1].endswith(f"'e' (holds other things), {last}")


@pytest.mark.parametrize("count, shown", [(8, "'c6'"), (9, "'c6', ... (9 in all)")])
def test_at_most_eight_columns_are_said(tmp_path, count, shown):
    header = ",".join(["a", *(f"c{k}" for k in range(count - 1))])
    with pytest.raises(UserError) as caught:
        read(written(tmp_path / "t.csv", f"{header}\n1{',' * (count - 1)}\n"))
    assert f"it has 'a', 'c0', 'c1', 'c2', 'c3', 'c4', 'c5', {shown}: name it with" in str(caught.value)


@pytest.mark.parametrize("left, shown", [(3, "'[a', '[b', '[c'"), (4, "'[a', '[b', '[c', ...")])
def test_names_with_a_bracket_are_shown_up_to_three(tmp_path, left, shown):
    names = ";".join(f"[{letter}" for letter in "abcd"[:left])
    notes = read(written(tmp_path / "t.csv", f"image,labels\na.jpg,{names}\nb.jpg,x\n")).notes
    assert any(f"names with a bracket or quote at an end: {shown}; --label_separator?" in note for note in notes)


def test_what_nobody_has_said_the_meaning_of_is_counted(tmp_path):
    path = written(tmp_path / "t.csv", "image,cat,dog\na.jpg,1,-1\nb.jpg,-1,\nc.jpg,0,0\n")
    said = [f"{path}: 2 entries of -1 are unknown; --uncertain says otherwise"]
    blank = [f"{path}: 1 blank entries are unknown; --blank says otherwise"]

    def notes(**more):
        return [note for note in read(path, **more).notes if "entries" in note]

    assert notes() == said + blank
    assert notes(uncertain="absent") == blank
    assert notes(blank="unknown") == said
    lines = written(tmp_path / "l.csv", "image,label,value\na.jpg,cat,-1\na.jpg,dog,1\nb.jpg,dog,\n")
    found = read(lines, label_column="label", value_column="value")
    assert [note for note in found.notes if "entries" in note] == [
        f"{lines}: 1 entries of -1 are unknown; --uncertain says otherwise"
    ]


def test_a_number_that_nobody_needs_does_not_name_a_class(tmp_path):
    found = read(written(tmp_path / "t.csv", "Unnamed: 0,image,cat\n7,a.jpg,1\n0,b.jpg,0\n1,c.jpg,\n"))
    assert found.classes == ("cat",)


def test_cells_that_no_file_can_be_called_like_are_no_images(tmp_path):
    (tmp_path / "b.jpg").touch()
    path = written(tmp_path / "t.csv", f"id,scan,labels\n{'x' * 5000},b.jpg,cat\n{'y' * 300},c.jpg,cat\n")
    assert read(path).ids == ("b.jpg", "c.jpg")


@pytest.mark.parametrize("row, images", [(199, "scan"), (200, "id")])
def test_the_first_two_hundred_cells_are_looked_for_among_the_files(tmp_path, row, images):
    (tmp_path / "there.jpg").touch()
    rows = "".join(f"{n},{'there' if n == row else f'x{n}'},cat\n" for n in range(202))
    found = read(written(tmp_path / "t.csv", "id,scan,labels\n" + rows))
    assert found.found["image_column"] == images


def test_the_first_line_that_names_an_image_is_said(tmp_path):
    path = written(tmp_path / "t.csv", "image,cat\nb.jpg,1\na.jpg,1\nb.jpg,0\n")
    found = read_table(path, TableConfig(table=(path,), repeated="first"), None, tmp_path)
    assert where_of(found, "b.jpg") == f"{path}, line 2"


def test_where_the_same_labels_are_there_twice_columns_say_what_is_unknown(tmp_path):
    text = "image,{},cat,dog\na.jpg,cat,1,\nb.jpg,dog;cat,1,1\n"
    columns = read(written(tmp_path / "t.csv", text.format("Genre")))
    assert columns.codes.tolist() == [[PRESENT, UNKNOWN], [PRESENT, PRESENT]]
    names = read(written(tmp_path / "t.csv", text.format("tags")))
    assert names.codes.tolist() == [[PRESENT, ABSENT], [PRESENT, PRESENT]]


def test_the_first_disagreement_of_labels_that_are_there_twice_is_said(tmp_path):
    text = "image,Genre,cat,dog\na.jpg,cat;dog,1,1\nb.jpg,dog,0,0\nc.jpg,cat,0,1\n"
    with pytest.raises(UserError, match=r"line 3: column 'Genre' and column 'dog' disagree"):
        read(written(tmp_path / "t.csv", text))


def test_control_characters_in_a_path_are_refused_in_any_of_its_forms(tmp_path):
    for path in ("b\x1b.jpg", "./b\x1b.jpg"):
        with pytest.raises(UserError, match=r"line 3, column 'image': .*control characters"):
            read(written(tmp_path / "t.csv", f"image,labels\n./a.jpg,cat\n{path},cat\n"))
