"""Which images a command line names, and what the files made of them are called."""

import os
from pathlib import Path

import pytest

from data.images.suffixes import SUFFIXES
from engine.prediction.sources import find_images
from engine.prediction.walking import shown
from utils.checks import UserError


def files(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


def found(*paths):
    result = find_images([Path(path) for path in paths])
    return [str(source.name) for source in result.sources], result.skipped


def test_images_of_a_folder_are_sorted_folder_by_folder_without_hidden_ones(tmp_path):
    files(
        tmp_path,
        "b/1.png",
        "b/0.JPG",
        "a.jpeg",
        "z.png",
        "a/2.png",
        ".hidden/3.png",
        ".4.png",
        "notes.txt",
        "b/more.csv",
    )
    assert found(tmp_path) == (["a", "z", "a/2", "b/0", "b/1"], 3)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_whatever_a_dataset_takes_for_an_image_is_one_here(tmp_path, suffix):
    files(tmp_path, f"a{suffix.upper()}", f"b{suffix}", f"c{suffix}x")
    assert found(tmp_path) == (["a", "b"], 1)


def test_a_file_that_is_named_counts_whatever_its_ending_and_each_once(tmp_path):
    files(tmp_path, "a/1.dat", "a/2.png")
    assert found(tmp_path / "a/1.dat", tmp_path / "a", tmp_path / "a/2.png") == (["1", "2"], 1)


def test_equal_names_get_a_number(tmp_path):
    files(tmp_path, "a/1.png", "b/1.png", "c/1.png", "d/1-2.png")
    assert found(*(tmp_path / name for name in "abc"), tmp_path / "d") == (["1", "1-2", "1-3", "1-2-2"], 0)


def test_long_names_are_cut_between_characters(tmp_path):
    files(tmp_path, "x" * 101 + ".png", "é" * 60 + ".png", "y" * 100 + ".png")
    assert found(tmp_path)[0] == ["x" * 100, "y" * 100, "é" * 50]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_folders_without_images_are_told_with_the_number_of_other_files(tmp_path, count):
    folders = [files(tmp_path / f"f{number}") for number in range(4)]
    for folder in folders:
        folder.mkdir()
    files(folders[0], *(f"{number}.txt" for number in range(count)))
    with pytest.raises(UserError, match=rf"but {count} other files$") as error:
        found(*folders)
    assert ("f2" in str(error.value), "f3" in str(error.value)) == (True, False)


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"gone\.png: no such file or folder"):
        found(tmp_path / "gone.png")


def test_a_link_that_leads_nowhere_counts_as_an_image_to_be_reported(tmp_path):
    (tmp_path / "link.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "folder.png").mkdir()
    assert found(tmp_path) == (["link"], 0)


def test_a_path_is_one_printable_line():
    assert shown("a\nb\x07é") == "a\\nb\\x07é"


def test_files_and_folders_are_in_order_whatever_the_disk_says(tmp_path):
    places = [f"{folder}/{name}.png" for folder in "aebgdhcf" for name in "4172630589"]
    files(tmp_path, *places)
    assert found(tmp_path)[0] == sorted(place.removesuffix(".png") for place in places)


def test_a_short_name_keeps_bytes_that_are_no_letters(tmp_path):
    names = [os.fsdecode(b"\xff" + b"x" * length) for length in (99, 100)]
    files(tmp_path, *(f"{name}.png" for name in names))
    assert found(tmp_path) == ([names[0], "x" * 99], 0)


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    def scandir(folder):
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(UserError) as error:
        found(tmp_path)
    assert str(error.value) == f"{tmp_path}: cannot be read (Permission denied)"
