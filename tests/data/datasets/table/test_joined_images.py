import pytest

from data.datasets.table.joined_images import joined_images, naming
from tests.data.datasets.table.test_joined import labelled


def images(*tables):
    return joined_images([labelled(f"{k}.csv", ids, "x", [[1]] * len(ids)) for k, ids in enumerate(tables)])


def test_each_image_is_there_once_in_order():
    found = images(["b", "d"], ["a", "b", "c"])
    assert found.ids == ("a", "b", "c", "d")
    assert [rows.tolist() for rows in found.rows] == [[1, 3], [0, 1, 2]]
    assert found.shared.tolist() == [False, True, False, False]
    assert found.notes == ()


@pytest.mark.parametrize(
    "one, other",
    [
        ("im/1", "im/1.jpg"),
        ("im/1.png", "im/1"),
        ("1.JPG", "1.jpg"),
        ("1.jpg", "1.JPG"),
        ("caf\u00e9.jpg", "cafe\u0301.jpg"),
        ("caf\u00e9", "cafe\u0301.jpg"),
    ],
)
def test_an_image_that_another_table_calls_otherwise_is_one(one, other):
    found = images([one, "z.jpg"], [other, "y.jpg"])
    assert found.ids == tuple(sorted([one, "y.jpg", "z.jpg"]))
    assert found.shared.sum() == 1
    assert found.notes == (f"1.csv: 1 images have another ending in a table before ({other}: {one})",)


@pytest.mark.parametrize(
    "first, second",
    [
        (["1.jpg"], ["1.png"]),
        (["1.jpg"], ["a/1.jpg"]),
        (["1"], ["1.jpg", "1.png"]),
        (["1.jpg", "1.png"], ["1"]),
        (["1.txt"], ["1"]),
        (["A.jpg"], ["a.jpg"]),
        (["1.jpg", "2.jpg"], ["3.jpg"]),
    ],
)
def test_images_that_may_be_others_stay_others(first, second):
    found = images(first, second)
    assert found.ids == tuple(sorted({*first, *second}))
    assert not found.shared.any()


def test_names_of_one_file_are_one_image():
    asked = []

    def files(ids):
        asked.append(list(ids))
        return {one: one.rpartition("/")[2] for one in ids if one != "data/gone"}

    def several(*tables):
        labels = [labelled(f"{k}.csv", ids, "x", [[1]] * len(ids)) for k, ids in enumerate(tables)]
        return joined_images(labels, files)

    found = several(["1", "2", "3"], ["2", "data/1", "data/9", "data/gone"], ["9", "1"])
    assert found.ids == ("1", "2", "3", "data/9", "data/gone")
    assert [rows.tolist() for rows in found.rows] == [[0, 1, 2], [1, 0, 3, 4], [3, 0]]
    assert found.notes == (
        "1.csv: 1 images are called otherwise in a table before (data/1: 1)",
        "2.csv: 1 images are called otherwise in a table before (9: data/9)",
    )
    # Only names that tables do not share are looked for.
    assert asked == [["1", "3"], ["data/1", "data/9", "data/gone"], ["2", "3", "data/9", "data/gone"], ["9"]]
    asked.clear()
    assert several(["1", "2"], ["2", "1"], ["1"]).notes == ()
    assert asked == []


def test_an_image_that_is_there_as_it_is_is_no_other():
    found = images(["1", "1.jpg"], ["1.jpg"])
    assert found.ids == ("1", "1.jpg")
    assert found.shared.tolist() == [False, True]


def test_the_tables_that_name_an_image():
    tables = [labelled(f"{k}.csv", ids, "x", [[1]] * len(ids)) for k, ids in enumerate(["ab", "c", "bc"])]
    found = joined_images(tables)
    assert [(str(table.path), row, table.place(row)) for table, row in naming(tables, found, 1)] == [
        ("0.csv", 1, "0.csv, line 3"),
        ("2.csv", 0, "2.csv, line 2"),
    ]
