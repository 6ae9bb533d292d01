import numpy as np
import pytest

from data.images.cropped import CroppedImages
from data.images.files import ArrayImages, FileImages
from data.subsets.overlap import check_disjoint, without_bad, without_missing
from tests.data.trees import annotations, picture
from utils.checks import UserError
from utils.types import Annotations, LabelTable


def on_disk(folder, names, there):
    for name in there:
        picture(folder / name)
    truth = LabelTable(np.zeros((len(names), 2), dtype=np.int8))
    return Annotations(FileImages([folder / name for name in names]), tuple(names), ("a", "b"), truth)


def test_rows_without_an_image_are_left_out_and_counted(tmp_path, capsys):
    part = on_disk(tmp_path, ["x/1.jpg", "x/2.jpg", "y/3.jpg", "gone/4.jpg"], ["x/2.jpg", "y/3.jpg"])
    assert without_missing(part, "training").tolist() == [1, 2]
    printed = capsys.readouterr()
    assert "left out 2 of 4 training rows" in printed.out + printed.err
    assert "1.jpg" in printed.out + printed.err


def test_nothing_is_said_where_every_image_is_there(tmp_path, capsys):
    part = on_disk(tmp_path, ["1.jpg", "2.jpg"], ["1.jpg", "2.jpg"])
    assert without_missing(part, "test").tolist() == [0, 1]
    printed = capsys.readouterr()
    assert printed.out + printed.err == ""


def test_no_image_at_all_is_a_wrong_folder(tmp_path):
    part = on_disk(tmp_path, ["1.jpg", "2.jpg"], [])
    with pytest.raises(UserError, match=r"1\.jpg.*any other of the 2 test images; check --path_images"):
        without_missing(part, "test")


def test_a_folder_in_place_of_an_image_is_found_later_by_the_check(tmp_path):
    (tmp_path / "1.jpg").mkdir()
    part = on_disk(tmp_path, ["1.jpg"], [])
    assert without_missing(part, "test").tolist() == [0]
    with pytest.raises(UserError, match=r"1\.jpg"):
        part.images.check()


def test_images_in_memory_are_never_missing():
    assert ArrayImages(np.zeros((2, 4, 4, 3), dtype=np.uint8), ["a", "b"]).missing().tolist() == []


def test_splits_may_not_share_an_id(tmp_path):
    one, other = annotations([[1], [0]], ["7", "8"]), annotations([[1], [0]], ["8", "9"])
    with pytest.raises(UserError, match=r"1 images are in both training and test \(8;") as refusal:
        check_disjoint({"training": one, "validation": None, "test": other})
    assert len(str(refusal.value).splitlines()) == 1


def test_splits_may_not_share_a_file_under_two_ids(tmp_path):
    truth = LabelTable(np.zeros((1, 1), dtype=np.int8))
    one, other = (Annotations(FileImages([tmp_path / "same.jpg"]), (name,), ("a",), truth) for name in "xy")
    with pytest.raises(UserError, match=r"both validation and test.*same\.jpg"):
        check_disjoint({"training": None, "validation": one, "test": other})


@pytest.mark.parametrize("count, named", [(3, "1, 2, 3;"), (4, "1, 2, 3, ...;")])
def test_at_most_three_shared_images_are_named_and_the_smaller_split_first(count, named):
    shared = [str(one) for one in range(count, 0, -1)]
    many = annotations(np.zeros((count + 2, 1)), [*shared, "8", "9"])
    few = annotations(np.zeros((count + 1, 1)), [*shared, "7"])
    with pytest.raises(UserError) as caught:
        check_disjoint({"training": many, "test": few})
    text = f"{count} images are in both test and training ({named} an image of the latter is {count}.jpg)"
    assert str(caught.value).startswith(text)


def test_every_pair_of_splits_is_compared():
    one, two, three = (annotations([[1]], [name]) for name in ("7", "8", "9"))
    check_disjoint({"training": one, "validation": two, "test": three})
    for pair in ({"training": three}, {"validation": three}):
        with pytest.raises(UserError, match="1 images are in both"):
            check_disjoint({"training": one, "validation": two, "test": three, **pair})


def test_splits_of_different_images_pass():
    check_disjoint({"training": annotations([[1]], ["7"]), "test": annotations([[1]], ["8"])})


def test_rows_whose_image_cannot_be_read_are_left_out_counted_and_listed(tmp_path, capsys):
    part = on_disk(tmp_path, ["1.jpg", "2.jpg", "3.png", "4.jpg"], ["1.jpg", "2.jpg", "4.jpg"])
    (tmp_path / "2.jpg").write_bytes(b"nothing")
    (tmp_path / "4.jpg").write_bytes(b"")
    assert without_bad(part, "training").tolist() == [0, 2]  # one that is missing is none of them
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "left out 2 of 4 training rows: image cannot be read"
    assert lines[1].startswith(f"  image {tmp_path / '2.jpg'} (row 1) is damaged (")
    assert lines[2] == f"  image {tmp_path / '4.jpg'} (row 3) is empty"
    assert len(lines) == 3


def test_a_file_of_two_rows_is_left_out_of_both(tmp_path, capsys):
    part = on_disk(tmp_path, ["1.jpg", "2.jpg", "1.jpg"], ["1.jpg", "2.jpg"])
    (tmp_path / "1.jpg").write_bytes(b"nothing")
    assert without_bad(part, "test").tolist() == [1]
    assert "left out 2 of 3 test rows" in capsys.readouterr().out


def test_at_most_twenty_bad_images_are_listed(tmp_path, capsys):
    names = [f"{n:02}.jpg" for n in range(26)]
    part = on_disk(tmp_path, names, names)
    for name in names[1:]:
        (tmp_path / name).write_bytes(b"")
    assert without_bad(part, "test").tolist() == [0]
    lines = capsys.readouterr().out.splitlines()
    assert (len(lines), lines[-1]) == (22, "  ... and 5 more")
    assert without_bad(part.take(np.arange(21)), "test").tolist() == [0]
    lines = capsys.readouterr().out.splitlines()
    assert (len(lines), lines[-1]) == (21, f"  image {tmp_path / '20.jpg'} (row 20) is empty")


def test_nothing_is_said_where_every_image_can_be_read(tmp_path, capsys):
    assert without_bad(on_disk(tmp_path, ["1.jpg", "2.jpg"], ["1.jpg", "2.jpg"]), "test").tolist() == [0, 1]
    assert capsys.readouterr().out == ""


def test_no_image_that_can_be_read_is_a_wrong_folder(tmp_path):
    part = on_disk(tmp_path, ["1.jpg", "2.jpg"], ["1.jpg", "2.jpg"])
    for name in ("1.jpg", "2.jpg"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(
        UserError, match=r"1\.jpg \(row 0\) is empty, nor can any other of the 2 test images be read; check"
    ):
        without_bad(part, "test")


def test_images_in_memory_are_never_bad():
    assert ArrayImages(np.zeros((2, 4, 4, 3), dtype=np.uint8), ["a", "b"]).faults() == []


def test_a_box_outside_its_image_is_a_bad_row(tmp_path):
    picture(tmp_path / "a.png", size=(40, 30))
    (tmp_path / "b.png").write_bytes(b"")
    files = FileImages([tmp_path / "a.png", tmp_path / "b.png", tmp_path / "a.png"])
    boxes = np.array([[50, 50, 60, 60], [0, 0, 5, 5], [0, 0, 5, 5]], dtype=np.float64)
    faults = CroppedImages(files, boxes).faults()
    assert [row for row, _ in faults] == [0, 1]
    assert faults[0][1] == "box (50, 50, 60, 60) lies outside its 40 x 30 pixels"
