import pytest

from data.datasets.table.config import TableConfig
from data.datasets.table.decided import decide, has_label_word
from data.datasets.table.seen import look
from data.datasets.table.sheet import Column, Sheet
from tests.data.datasets.table.sheets import sheet_of
from utils.checks import UserError


def roles(columns, files=(), **config):
    """What is decided about columns of cells; `files` are titles whose cells are files."""
    return decide(look(sheet_of(columns)), TableConfig(**config), lambda title: 3 * (title in files))


NAMES = ["cat;dog", "dog", "cat"]
PATHS = ["a.jpg", "b.jpg", "c.jpg"]
OTHERS = ["u", "v", "w"]
CODES = ["1", "0", ""]


@pytest.mark.parametrize(
    "titles, chosen",
    [
        (("image", "id"), "image"),
        (("id", "path"), "path"),
        (("file", "image"), "file"),
        (("id", "image_name"), "image_name"),
        (("GalaxyID",), "GalaxyID"),
        (("Image Index",), "Image Index"),
        (("ImageID",), "ImageID"),
        (("Id",), "Id"),
        (("PATH",), "PATH"),
    ],
)
def test_titles_of_image_columns_the_usual_before_others(titles, chosen):
    found = roles({**dict.fromkeys(titles, PATHS), "labels": NAMES})
    assert found.images == (chosen,)
    assert found.read[list(titles).index(chosen)].why == "its title"


def test_without_a_title_the_column_of_files_is_that_of_the_images():
    found = roles({"scan": PATHS, "labels": NAMES, "x": OTHERS}, files={"scan"})
    assert found.images == ("scan",)
    assert found.read[0].why == "its cells are files of the image folder"
    with pytest.raises(UserError, match="the cells of 'left' and 'right' are files"):
        roles({"left": PATHS, "right": OTHERS, "labels": NAMES}, files={"left", "right"})
    with pytest.raises(UserError, match="the cells of 'a' and 'b' are files"):
        roles({**dict.fromkeys("abc", PATHS), "labels": NAMES}, files=set("abc"))
    with pytest.raises(UserError, match=r"no column of image paths .* it has 'scan', 'labels'"):
        roles({"scan": PATHS, "labels": NAMES})
    both = roles({"left": PATHS, "right": OTHERS, "labels": NAMES}, image_column="left,right")
    assert both.images == ("left", "right")


def test_a_title_such_as_id_gives_way_to_a_column_of_files_where_it_names_none():
    columns = {"ID": ["1", "2", "3"], "scan": PATHS, "labels": NAMES}
    assert roles(columns, files={"scan"}).images == ("scan",)
    assert roles(columns, files={"scan", "ID"}).images == ("ID",)
    assert roles(columns).images == ("ID",)
    assert roles(columns, files={"scan"}, image_pattern="{}.png").images == ("ID",)
    assert roles({**columns, "path": OTHERS}, files={"scan"}).images == ("path",)  # a usual title decides
    with pytest.raises(UserError, match="the cells of 'left' and 'right' are files"):
        roles({"ID": ["1", "2", "3"], "left": PATHS, "right": OTHERS, "labels": NAMES}, files={"left", "right"})


@pytest.mark.parametrize(
    "cells",
    [
        ["https://host.org/a", "https://host.org/b", ""],
        ["4.5", "3.5", "4.5"],
        ["2024-01-01", "2024-01-01T10:00:00Z", "2024-01-01"],
    ],
)
def test_addresses_fractions_and_dates_are_no_names_of_classes(cells):
    assert roles({"image": PATHS, "what": NAMES, "x": cells}).labels == "what"
    with pytest.raises(UserError, match="no column of labels"):
        roles({"image": PATHS, "x": cells})
    assert roles({"image": PATHS, "x": cells}, label_column="x").labels == "x"


@pytest.mark.parametrize("title", ["labels", "Classes", "TAGS", "label"])
def test_usual_titles_of_names(title):
    assert roles({"image": PATHS, title: NAMES, "species": NAMES}).labels == title


@pytest.mark.parametrize(
    "title, fits",
    [
        ("Finding Labels", True),
        ("LabelName", True),
        ("Genre", True),
        ("hashtags", True),
        ("image_tags", True),
        ("attributes", True),
        ("choice", True),
        ("stage", False),
        ("percentage", False),
        ("voltage", False),
        ("camera", False),
    ],
)
def test_words_in_titles_of_names(title, fits):
    assert has_label_word(title) == fits
    other = {"camera x": OTHERS}  # nothing recurs in it
    found = roles({"image": PATHS, title: NAMES, **other})
    assert found.labels == title
    assert found.read[1].why == ("a word in its title" if fits else "the only column left whose cells recur")


def test_columns_of_other_marks_are_refused_with_those_that_are_known():
    marks = {"image": PATHS, "cat": ["Y", "N", "Y"], "dog": ["N", "N", ""]}
    with pytest.raises(
        UserError, match=r"class names may be in .* if these are marks of classes, write 1 and 0, True and"
    ):
        roles(marks)
    with pytest.raises(UserError, match=r"class names may be in .* with --class_columns$"):
        roles({**marks, "cow": ["sun", "rain", "sun"]})
    with pytest.raises(UserError, match="if these are marks of classes"):
        roles({**marks, "dog": ["N", "?", "N"]})


def test_two_columns_that_may_hold_names_are_refused():
    with pytest.raises(UserError, match=r"class names may be in 'genre' .* and 'target' .*--label_column"):
        roles({"image": PATHS, "genre": NAMES, "target": NAMES})
    with pytest.raises(UserError, match=r"class names may be in 'a' .* and 'b'"):
        roles({"image": PATHS, "a": NAMES, "b": NAMES})
    assert roles({"image": PATHS, "genre": NAMES, "target": NAMES}, label_column="target").labels == "target"
    assert roles({"image": PATHS, "genre": NAMES, "target": NAMES}, ignore_columns="target").labels == "genre"


def test_columns_of_codes_are_classes_and_others_are_passed_over_and_said():
    found = roles(
        {"image": PATHS, "cat": CODES, "year": ["1990", "1991", "1992"], "dog": ["x", "", ""], "none": [""] * 3}
    )
    assert (found.labels, found.classes) == (None, ("cat", "dog", "none"))
    assert found.read[2] == ("year", "not read", "holds other things")


def test_columns_that_mix_codes_with_others_are_refused_all_at_once():
    mixed = {"image": PATHS, "cat": CODES, "a": ["1", "u", "v"], "b": ["0", "2", "1"]}
    with pytest.raises(UserError, match=r"2 columns .*'a' \('u' in line 3\), 'b' \('2' in line 3\)"):
        roles(mixed)
    with pytest.raises(UserError) as refusal:
        roles({"image": PATHS, **{f"m{n}": ["1", f"u{n}", "v"] for n in range(6)}})
    assert "6 columns" in str(refusal.value)
    assert "'m3' ('u3' in line 3)" in str(refusal.value)
    assert "'m4'" not in str(refusal.value)
    assert roles(mixed, ignore_columns="a,b").classes == ("cat",)
    assert roles(mixed, class_columns="cat").classes == ("cat",)
    assert roles(mixed, class_columns="cat").read[2].role == "not read"


def test_columns_without_a_title():
    counting = {"column 1": ["0", "1", "2"], "image": PATHS, "cat": CODES, "column 4": ["", "", ""]}
    found = roles(counting)
    assert found.classes == ("cat",)
    assert [role.why for role in found.read if role.role == "not read"] == ["the numbers of the rows", "empty"]
    assert roles({"image": PATHS, "labels": NAMES, "column 3": CODES}).labels == "labels"
    with pytest.raises(UserError, match="column 3 holds codes, but has no title"):
        roles({"image": PATHS, "cat": CODES, "column 3": CODES})


@pytest.mark.parametrize(
    "titles, split",
    [(("split",), ("split",)), (("is_valid",), ("is_valid",)), (("is_train", "is_test"), ("is_train", "is_test"))],
)
def test_columns_of_splits(titles, split):
    cells = ["train", "test", "test"] if titles == ("split",) else ["1", "0", "0"]
    found = roles({"image": PATHS, "cat": CODES, **dict.fromkeys(titles, cells)})
    assert (found.split, found.classes) == (split, ("cat",))


def test_a_fold_is_left_out_and_said():
    found = roles({"image": PATHS, "cat": CODES, "fold": ["0", "1", "1"]})
    assert (found.split, found.classes) == ((), ("cat",))
    assert found.read[2] == ("fold", "not read", "a fold; --split_column if it is the split")
    assert roles({"image": PATHS, "cat": CODES, "fold": ["train"] * 3}, split_column="fold").split == ("fold",)


def test_the_same_labels_as_names_and_columns():
    columns = {"image": PATHS, "cat": ["1", "0", "1"], "dog": ["1", "1", "0"]}
    found = roles({**columns, "Genre": NAMES})
    assert (found.labels, found.classes, found.twin) == (None, ("cat", "dog"), "Genre")
    found = roles({**columns, "tags": NAMES})
    assert (found.labels, found.classes, found.twin) == ("tags", ("cat", "dog"), "tags")
    found = roles({**columns, "Genre": ["u;v", "v", "u"]})
    assert (found.labels, found.classes, found.twin) == ("Genre", (), None)
    with pytest.raises(UserError, match=r"'Genre' names some of the columns of codes and others .'bird'."):
        roles({**columns, "Genre": ["cat;bird", "bird", "cat"]})
    assert roles({**columns, "tags": ["cat;bird", "bird", "cat"]}).twin is None


def test_a_title_with_commas_is_named_whole_or_in_quotes():
    columns = {"image": PATHS, "a, b": CODES, "c": CODES}
    assert roles(columns, class_columns="a, b").classes == ("a, b",)
    assert roles(columns, class_columns='c,"a, b"').classes == ("c", "a, b")
    with pytest.raises(UserError, match="--class_columns a: no such column; it has 'image', 'a, b', 'c'"):
        roles(columns, class_columns="c, a")
    with pytest.raises(UserError, match="--class_columns c,c: names a column twice"):
        roles(columns, class_columns="c,c")


def test_what_images_may_have_in_common_is_hinted_at():
    found = roles({"image": PATHS, "labels": NAMES, "Patient ID": ["7", "7", "8"]})
    assert "--group_column" in found.read[2].why
    for title in ("Patient Age", "PatientSex"):
        found = roles({"image": PATHS, "labels": NAMES, title: ["7", "7", "8"]})
        assert found.read[2].why == "holds other things"
    assert roles({"image": PATHS, "labels": NAMES, "Patient ID": ["7", "7", "8"]}, group_column="Patient ID").group


def test_sheets_keep_each_text_once():
    sheet = sheet_of({"a": ["x", "y", "x"]})
    assert isinstance(sheet, Sheet)
    assert isinstance(sheet.columns[0], Column)
    assert sheet.columns[0].texts == ("x", "y")
    assert sheet.columns[0].cells() == ["x", "y", "x"]
    assert sheet.columns[0].counts().tolist() == [2, 1]
    assert sheet.columns[0].row_of(1) == 1


VALUES = ["0.3", "1", "0.3"]
FRACTIONS = ["0.25", "0.3", "0.25"]


@pytest.mark.parametrize("title", ["cat", "label_a", "label", "Class1.1"])
@pytest.mark.parametrize("cells", [VALUES, FRACTIONS])
def test_columns_of_values_are_classes_only_where_that_is_asked_for(title, cells):
    with pytest.raises(
        UserError, match=rf"1 columns hold values between 0 and 1: '{title}' \('{cells[0]}' in line 2\)"
    ):
        roles({"image": PATHS, title: cells})
    for setting in ("keep", "threshold=0.4"):
        found = roles({"image": PATHS, title: cells, "dog": CODES}, soft_labels=setting)
        assert found.classes == (title, "dog")
        assert [role.why for role in found.read[1:]] == ["its cells are values from 0 to 1", "its cells are codes"]


def test_by_default_a_column_of_fractions_beside_classes_is_passed_over_and_said():
    found = roles({"image": PATHS, "cat": CODES, "confidence": FRACTIONS})
    assert found.classes == ("cat",)
    assert found.read[2].why == "values from 0 to 1; --class_columns and --soft_labels if it is a class"
    with pytest.raises(UserError, match=r"2 columns hold values between 0 and 1: 'dog' .*, 'confidence' "):
        roles({"image": PATHS, "cat": CODES, "dog": VALUES, "confidence": FRACTIONS})
    named = roles({"image": PATHS, "labels": NAMES, "confidence": FRACTIONS}, soft_labels="keep")
    assert (named.labels, named.classes) == ("labels", ())


def test_numbers_beyond_1_beside_values_are_refused_where_values_are_asked_for():
    held = {"image": PATHS, "cat": CODES, "size": ["0.5", "2.5", "1.75"]}
    assert roles(held).classes == ("cat",)
    with pytest.raises(
        UserError, match=r"1 columns hold values from 0 to 1 beside other values: 'size' \('2.5' in line 3"
    ):
        roles(held, soft_labels="keep")
    assert roles({**held, "year": ["1999", "2001", "1999"]}, soft_labels="keep", ignore_columns="size").classes == (
        "cat",
    )
    with pytest.raises(UserError, match=r"1 columns hold 1 or 0 beside other values: 'grade' \('2' in line 3"):
        roles({"image": PATHS, "cat": CODES, "dog": FRACTIONS, "grade": ["1", "2", "1"]})


def test_a_column_with_another_role_is_no_split():
    assert roles({"set": PATHS, "labels": NAMES}, image_column="set").split == ()
    assert roles({"image": PATHS, "labels": NAMES, "split": OTHERS}, ignore_columns="split").split == ()


def test_one_column_cannot_be_two_things():
    with pytest.raises(UserError, match="column 'labels' cannot be two of image, labels and split"):
        roles({"image": PATHS, "labels": NAMES}, split_column="labels", label_column="labels")


def test_a_date_among_names_and_an_empty_column_beside_them_leave_a_column_of_names():
    assert roles({"image": PATHS, "what": ["cat", "2024-01-01", "cat"]}).labels == "what"
    assert roles({"image": PATHS, "what": NAMES, "none": [""] * 3}).labels == "what"


def test_a_column_of_other_numbers_beside_one_of_values_is_what_is_refused():
    with pytest.raises(UserError, match=r"2 columns hold 1 or 0 beside other values: 'dog' .*, 'grade' \('2'"):
        roles({"image": PATHS, "dog": VALUES, "grade": ["1", "2", "1"]})


def test_four_columns_of_values_and_three_of_names_are_shown():
    with pytest.raises(UserError, match=r"5 columns hold values .* 'v3' \('0.3' in line 2\); --soft_labels"):
        roles({"image": PATHS, **{f"v{n}": VALUES for n in range(5)}})
    with pytest.raises(UserError, match=r"may be in 'a' \(.*\) and 'b' \(.*\) and 'c' \([^)]*\); name the column"):
        roles({"image": PATHS, **dict.fromkeys("abcd", NAMES)})


@pytest.mark.parametrize(
    "title, cells, why",
    [
        ("Confidence", CODES, "--value_column if it says whether the class of its line is present"),
        ("cat", CODES, "codes, but labels are read elsewhere"),
        ("cat", ["x", "", ""], "marks, but labels are read elsewhere"),
        ("score", OTHERS, "holds other things"),
        ("when", ["u", "u", "v"], "holds other things"),
        ("camera", OTHERS, "holds other things"),
    ],
)
def test_why_a_column_is_not_read(title, cells, why):
    assert roles({"image": PATHS, "labels": NAMES, title: cells}).read[2] == (title, "not read", why)
