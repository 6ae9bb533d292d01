"""What is unpacked; archives that hold what they should not are in `test_faults.py`."""

import io
import random
import re
import shutil
import tarfile
import zipfile

import pytest

from data.download.unpack import ArchiveError, safe_name, unpack
from tests.data.download.web import tar_of, tree_of, zip_of
from utils.checks import RunError


def packed(files):
    """A `.zip` whose files are packed in another way."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_BZIP2) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return held.getvalue()


FILES = {"a/b/1.txt": b"one", "a/2.txt": b"", "a/c/\u00e9.jpg": b"three"}


@pytest.mark.parametrize(("ending", "made"), [("tar", tar_of), ("zip", zip_of)])
def test_files_come_out_as_they_went_in(tmp_path, ending, made):
    (tmp_path / f"x.{ending}").write_bytes(made(FILES))
    sizes = unpack(tmp_path / f"x.{ending}", tmp_path / "whole", "", 8)
    assert tree_of(tmp_path / "whole") == FILES
    assert sizes == {name: len(content) for name, content in FILES.items()}
    below = {name.removeprefix("a/"): content for name, content in FILES.items()}
    assert unpack(tmp_path / f"x.{ending}", tmp_path / "below", "a", 8).keys() == below.keys()
    assert tree_of(tmp_path / "below") == below
    with pytest.raises(RunError, match=rf"x\.{ending}: unpacks to more than 7 bytes; nothing of it was put in place"):
        unpack(tmp_path / f"x.{ending}", tmp_path / "less", "", 7)


@pytest.mark.parametrize(("ending", "made"), [("tar", tar_of), ("zip", zip_of), ("zip", packed)])
def test_damage_anywhere_is_one_line(tmp_path, ending, made):
    """Bytes altered at random: the content as it was or another one, or a line that names the archive."""
    content, lines = made(FILES), []
    for seed in range(60):
        draw, altered = random.Random(seed), bytearray(content)
        for _ in range(draw.choice((1, 2, 8))):
            altered[draw.randrange(min(len(altered), 2000))] = draw.randrange(256)
        (tmp_path / f"x.{ending}").write_bytes(altered)
        try:
            unpack(tmp_path / f"x.{ending}", tmp_path / "out", "", 10_000)
        except RunError as error:
            lines.append(str(error))
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
    assert lines
    told = re.compile(rf"{tmp_path}/x\.{ending}: [^\n]+; nothing of it was put in place; [^\n]+")
    assert [line for line in lines if not told.fullmatch(line)] == []


def test_folders_are_passed_over(tmp_path):
    folder = tarfile.TarInfo("a/empty")
    folder.type = tarfile.DIRTYPE
    (tmp_path / "x.tar").write_bytes(tar_of(FILES, folder))
    assert unpack(tmp_path / "x.tar", tmp_path / "out", "", 8).keys() == FILES.keys()
    (tmp_path / "x.zip").write_bytes(zip_of(FILES, ("a/empty/", b"")))
    assert unpack(tmp_path / "x.zip", tmp_path / "zipped", "", 8).keys() == FILES.keys()


@pytest.mark.parametrize(
    ("name", "inside", "expected"),
    [("a/b.jpg", "", "a/b.jpg"), ("./a/b.jpg", "", "a/b.jpg"), ("a//b.jpg", "a", "b.jpg"), ("a/..b", "", "a/..b")],
)
def test_names(name, inside, expected):
    assert safe_name(name, inside) == expected


@pytest.mark.parametrize("name", ["", ".", "/a", "../a", "a/../b", "a\\b", "c:a", "a\nb", "a\x00b", "\ud800"])
def test_names_that_are_refused(name):
    with pytest.raises(ArchiveError, match=r"which is not below the folder$"):
        safe_name(name, "")


@pytest.mark.parametrize("name", ["b/x", "a", "ab/x", "/a/x"])
def test_names_that_are_not_inside(name):
    with pytest.raises(ArchiveError, match=r"which is not below a$"):
        safe_name(name, "a")
