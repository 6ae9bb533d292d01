"""Folders of any size, gone through in order without holding them."""

import os
from pathlib import Path

import pytest

from engine.prediction import walking
from engine.prediction.walking import SortedNames, files_below, line_of, name_of
from utils.checks import UserError


@pytest.mark.parametrize("held", [1, 2, 3, 100])
def test_names_come_out_in_order_however_many_are_held(monkeypatch, held):
    monkeypatch.setattr(walking, "_HELD", held)
    names = ["b", "a\nb", "", "a", "é", "\\n", "a\\", os.fsdecode(b"\xff"), "b", "B"]
    found = SortedNames()
    for name in names:
        found.add(name)
    assert len(found._runs) == len(names) // held
    assert len(found._held) == len(names) % held
    assert list(found) == sorted(names)
    assert all(run.closed for run in found._runs)


def test_files_are_those_of_os_walk_without_hidden_folders(tmp_path):
    for name in ("z.png", "a/2", "a/1", ".h/3", "b/c/4", "b/.5", "b/c.d/6"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "away").symlink_to(tmp_path / "a")
    (tmp_path / "round").symlink_to(tmp_path / "round")
    expected = []
    for parent, folders, files in os.walk(tmp_path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        expected += [str(Path(parent, name)) for name in sorted(files)]
    assert list(files_below(str(tmp_path))) == expected
    assert [path.removeprefix(f"{tmp_path}/") for path in expected] == [
        *("round", "z.png", "a/1", "a/2", "b/.5", "b/c/4", "b/c.d/6")
    ]


def test_a_folder_that_cannot_be_read_is_named_where_it_lies(tmp_path, monkeypatch):
    (tmp_path / "a\n").mkdir()
    scandir = os.scandir

    def refusing(folder):
        if str(folder).endswith("\n"):
            raise PermissionError(13, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(UserError) as error:
        list(files_below(str(tmp_path)))
    assert str(error.value) == f"{tmp_path}/a\\n: cannot be read (Permission denied)"


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("a b.png", b"a b.png\n"),
        ("a\nb\\n\r", b"a\\nb\\\\n\\r\n"),
        ("\\\\n", b"\\\\\\\\n\n"),
        (os.fsdecode(b"\xff\xc3\xa9"), b"\xff\xc3\xa9\n"),
    ],
)
def test_a_path_is_one_line_and_comes_back(name, line):
    assert line_of(name) == line
    assert name_of(line) == name
    assert name_of(line[:-1]) == name
