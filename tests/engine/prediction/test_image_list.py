"""The list of images of a folder of shards."""

import hashlib
import os

import pytest

from engine.prediction.image_list import ListMark, mark_of, read_list, write_list
from utils.checks import UserError

NAMES = ["a.png", "b\n.png", os.fsdecode(b"\xff.png"), "a.png"]
BYTES = b"a.png\nb\\n.png\n\xff.png\na.png\n"


def test_a_list_is_written_known_and_read_again(tmp_path):
    mark = write_list(tmp_path / "images.txt", iter(NAMES))
    assert (tmp_path / "images.txt").read_bytes() == BYTES
    assert mark == ListMark(4, hashlib.sha256(BYTES).hexdigest()) == mark_of(NAMES)
    assert list(read_list(tmp_path / "images.txt")) == NAMES


@pytest.mark.parametrize("others", [NAMES[:3], [*NAMES, "c"], NAMES[::-1], ["a.pngb", "\n.png", *NAMES[2:]]])
def test_another_list_has_another_mark(others):
    assert mark_of(others).sha256 != mark_of(NAMES).sha256


def test_names_that_cannot_be_had_leave_no_list(tmp_path):
    def names():
        yield "a"
        raise UserError("gone: cannot be read")

    with pytest.raises(UserError, match="gone"):
        write_list(tmp_path / "images.txt", names())
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match=r"images\.txt: cannot be read"):
        list(read_list(tmp_path / "images.txt"))
