"""Writing files that are complete or absent."""

import os
import resource

import numpy as np
import pytest
import torch

from tests.utils.test_safe_files import one_line
from utils.checks import RunError, UserError
from utils.safe_files import make_folder, remove_unfinished, write_atomically, write_text


def test_write_replaces_the_whole_file_and_leaves_nothing_else(tmp_path):
    file = tmp_path / "best.pth"
    file.write_bytes(b"a much longer old content")
    write_atomically(file, lambda stream: stream.write(b"new") and None)
    assert file.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [file]


def test_the_old_file_is_readable_until_the_new_one_is_whole(tmp_path):
    file = tmp_path / "result.json"
    file.write_bytes(b"old")

    def write(stream):
        stream.write(b"half")
        stream.flush()
        assert file.read_bytes() == b"old"

    write_atomically(file, write)
    assert file.read_bytes() == b"half"


def test_all_bytes_are_on_the_disk_before_the_old_file_goes(tmp_path, monkeypatch):
    file, synced = tmp_path / "result.json", []
    file.write_bytes(b"something old")
    monkeypatch.setattr(os, "fsync", lambda number: synced.append((os.fstat(number).st_size, file.read_bytes())))
    write_atomically(file, lambda stream: stream.write(b"new"))
    assert synced == [(3, b"something old")]
    assert file.read_bytes() == b"new"


@pytest.mark.parametrize("raised", [ValueError("x"), RuntimeError("a fault of the writer"), KeyboardInterrupt()])
def test_a_failing_writer_leaves_the_old_file_and_its_own_error(tmp_path, raised):
    file = tmp_path / "best.pth"
    file.write_bytes(b"old")

    def write(stream):
        stream.write(b"half")
        raise raised

    with pytest.raises(type(raised)):
        write_atomically(file, write)
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize(
    "write",
    [
        lambda stream: torch.save({"w": torch.zeros(100_000)}, stream),
        lambda stream: np.save(stream, np.zeros(100_000)),
        lambda stream: stream.write(bytes(400_000)),
    ],
    ids=["torch", "numpy", "bytes"],
)
def test_a_file_that_does_not_fit_is_a_run_error(tmp_path, write):
    file = tmp_path / "best.pth"
    file.write_bytes(b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(RunError) as error:
            write_atomically(file, write)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    one_line(error, file)
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_folder_that_is_missing_or_no_folder_is_a_run_error(tmp_path):
    (tmp_path / "file").touch()
    for folder in ("absent", "file"):
        with pytest.raises(RunError) as error:
            write_atomically(tmp_path / folder / "a.pth", lambda stream: None)
        one_line(error, tmp_path / folder)


def test_text_is_written_as_utf_8_without_translating_line_ends(tmp_path):
    file = tmp_path / "report.txt"
    write_text(file, "a\u00e9\r\nb\n")
    assert file.read_bytes() == "a\u00e9\r\nb\n".encode()
    assert list(tmp_path.iterdir()) == [file]


def test_names_of_damaged_files_are_written_as_asked(tmp_path):
    file, name = tmp_path / "labels.csv", os.fsdecode(b"\xff.jpg")
    write_text(file, name, "surrogateescape")
    assert file.read_bytes() == b"\xff.jpg"
    write_text(file, name, "backslashreplace")
    assert file.read_bytes() == b"\\udcff.jpg"
    with pytest.raises(UnicodeEncodeError):
        write_text(file, name)
    assert file.read_bytes() == b"\\udcff.jpg"


def test_a_folder_is_made_with_those_above_it_or_left_as_it_is(tmp_path):
    folder = tmp_path / "a" / "b"
    make_folder(folder)
    (folder / "file").touch()
    make_folder(folder, "--output")
    assert [path.name for path in folder.iterdir()] == ["file"]


@pytest.mark.parametrize("flag, prefix", [("--output", "--output "), ("", "")])
@pytest.mark.parametrize("name", ["file", "file/below"])
def test_a_folder_that_cannot_be_made_is_a_user_error(tmp_path, flag, prefix, name):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="name another folder") as error:
        make_folder(tmp_path / name, flag)
    assert str(error.value).startswith(f"{prefix}{tmp_path / name}: cannot be made (")


def test_what_killed_writers_of_a_file_left_is_removed_and_nothing_else(tmp_path):
    file = tmp_path / "a[1].npy"
    others = {"a[1].npy", ".a1.npy.7.tmp", ".b.npy.7.tmp", "a[1].npy.7.tmp", ".a[1].npy.7"}
    for name in (*others, ".a[1].npy.7.tmp", ".a[1].npy.8.tmp"):
        (tmp_path / name).write_text("half")
    remove_unfinished(file, age=60)
    assert len(list(tmp_path.iterdir())) == len(others) + 2
    remove_unfinished(file)
    assert {path.name for path in tmp_path.iterdir()} == others
