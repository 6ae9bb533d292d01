"""The row of each image: by the very id first, then by what is unique of it."""

from pathlib import Path

import numpy as np
import pytest

from data.features.matching import ImageName, find_rows, name_alone, passed_over, without_ending
from utils.checks import UserError

FILE = Path("f.npz")


def images(*names):
    """Images of these ids; a pair is an id and a file."""
    return [ImageName(*name) if isinstance(name, tuple) else ImageName(name, f"root/{name}") for name in names]


@pytest.mark.parametrize(
    ("name", "stem", "alone"),
    [
        ("a/b.jpg", "a/b", "b"),
        ("a/b.JPG", "a/b", "b"),
        ("a/b.c", "a/b.c", "b.c"),
        ("patient.001", "patient.001", "patient.001"),
        (".jpg", ".jpg", ".jpg"),
        ("a\\b.png", "a\\b", "b"),
        ("u\u0308.png", "ü", "ü"),
        ("", "", ""),
    ],
)
def test_names_without_ending_and_alone(name, stem, alone):
    assert (without_ending(name), name_alone(name)) == (stem, alone)


def test_the_very_ids_are_found_in_any_order_and_nothing_is_said():
    found = find_rows(FILE, ["x", "c.jpg", "a.jpg", "b"], images("a.jpg", "b", "c.jpg"))
    assert found.rows.tolist() == [2, 3, 1]
    assert found.rows.dtype == np.int64
    assert found.notes == []


def test_the_very_id_wins_over_one_without_ending():
    found = find_rows(FILE, ["a", "a.jpg", "a.png"], images("a.jpg", "a"))
    assert found.rows.tolist() == [1, 0]


@pytest.mark.parametrize("row", ["b/2", "b/2.png", "b/2.JPG"])
def test_an_id_without_ending_is_enough_where_it_is_unique(row):
    found = find_rows(FILE, ["a/1.jpg", row], images("a/1.jpg", "b/2.jpg"))
    assert found.rows.tolist() == [0, 1]
    assert found.notes == [f"f.npz: 1 of 2 images found by their id without ending (b/2.jpg: {row})"]


def test_the_name_of_the_file_is_enough_where_it_is_unique():
    coco = images(("139", "coco/val2017/000000000139.jpg"), ("7", "coco/val2017/000000000007.jpg"))
    found = find_rows(FILE, ["/home/me/000000000007.jpg", "000000000139"], coco)
    assert found.rows.tolist() == [1, 0]
    assert found.notes == [
        "f.npz: 2 of 2 images found by the name of the file alone (7: /home/me/000000000007.jpg)",
    ]


@pytest.mark.parametrize(
    ("ids", "wanted"),
    [
        (["1.jpg"], ["a/1.jpg", "b/1.jpg"]),  # which of the images?
        (["a/1.jpg", "b/1.jpg"], ["c/1.jpg"]),  # which of the rows?
        (["a/1.jpg"], ["a/1.jpg", "b/1.jpg"]),  # that of another image
        (["patient.001"], ["patient.003"]),
    ],
)
def test_what_is_not_unique_is_not_found(ids, wanted):
    with pytest.raises(UserError, match=r"^f\.npz: has no features of "):
        find_rows(FILE, ids, images(*wanted))


def test_a_name_that_another_image_of_the_dataset_has_is_not_unique():
    assert find_rows(FILE, ["a/1.jpg"], images("b/1.jpg")).rows.tolist() == [0]
    with pytest.raises(UserError, match=r"has no features of 1 of 1 images"):
        find_rows(FILE, ["a/1.jpg"], images("b/1.jpg"), images("a/1.jpg"))
    assert find_rows(FILE, ["2", "a/1.jpg"], images("2.jpg"), images("a/1.jpg")).rows.tolist() == [0]


def test_images_without_features_are_counted_and_the_first_three_named():
    wanted = images(*(f"{n}.jpg" for n in range(1200)))
    with pytest.raises(UserError) as told:
        find_rows(FILE, ["7.jpg", "z"], wanted)
    assert "no features of 1,199 of 1,200 images of the dataset (0.jpg, 1.jpg, 2.jpg, ...)" in str(told.value)
    assert "its ids are like '7.jpg'" in str(told.value)


def test_rows_of_no_image_are_counted():
    assert passed_over(FILE, ["a", "b"], np.array([1, 0])) == []
    assert passed_over(FILE, ["a", "b", "c"], np.array([1])) == [
        "f.npz: 2 of 3 rows are of no image of a split, and passed over (a, c)"
    ]
    line = passed_over(FILE, list("abcdef"), np.array([1]))[0]
    assert line.endswith("(a, c, d, ...)")


def test_long_ids_are_cut():
    assert passed_over(FILE, ["a", "b" * 81], np.array([0]))[0].endswith(f"({'b' * 80})")
