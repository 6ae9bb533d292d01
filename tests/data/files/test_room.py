"""Room for large files: what is removed for them, and what is not."""

import os
import shutil
from types import SimpleNamespace

import pytest

from data.files.room import room_for
from utils import safe_files
from utils.checks import UserError


def test_the_folder_is_made_and_its_free_bytes_are_told(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: asked.append(folder) or SimpleNamespace(free=123))
    assert room_for(tmp_path / "deep" / "folder" / "a.npy") == 123
    assert asked == [tmp_path / "deep" / "folder"]
    assert asked[0].is_dir()


def test_what_is_outdated_and_what_killed_processes_left_is_removed_and_nothing_else(tmp_path, monkeypatch):
    ages = {
        **{"a.npy": 0, ".a.npy.11.tmp": 3601},  # removed
        **{".a.npy.12.tmp": 3599, ".b.npy.11.tmp": 9000, "a.npy.11.tmp": 9000, "b.npy": 9000},
    }
    for name, age in ages.items():
        (tmp_path / name).write_bytes(b"half")
        os.utime(tmp_path / name, (10_000 - age, 10_000 - age))
    monkeypatch.setattr(safe_files, "time", SimpleNamespace(time=lambda: 10_000.0))
    room_for(tmp_path / "a.npy")
    assert {path.name for path in tmp_path.iterdir()} == ages.keys() - {"a.npy", ".a.npy.11.tmp"}


def test_a_folder_that_cannot_be_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"^--cache_dir .*/file/cache: cannot be used \(Not a directory\); name"):
        room_for(tmp_path / "file" / "cache" / "a.npy")
