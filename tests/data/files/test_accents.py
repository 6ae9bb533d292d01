import unicodedata

import pytest

from data.files.accents import alike_notes, by_composed, composed, match_files, match_name
from utils.checks import UserError

WORDS = ["caf\u00e9 0.png", "\u00c5ngstr\u00f6m.jpg", "\ud55c\uad6d.png", "\u304c\u304e.png", "Vi\u1ec7t.png"]


def nfd(text):
    return unicodedata.normalize("NFD", text)


def files(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return folder


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("written, there", [(str, nfd), (nfd, str)])
def test_a_file_is_found_however_its_accents_are_encoded(tmp_path, word, written, there):
    assert nfd(word) != word
    found = match_files(files(tmp_path, there(word)), [written(word), "a.png"])
    assert found.names == [there(word), "a.png"]
    assert len(found.notes) == 1
    assert f"1 images found under a name whose accents are encoded otherwise ({written(word)})" in found.notes[0]


def test_folders_of_a_path_count_too(tmp_path):
    summer, rest = "\u00e9t\u00e9", "plage \u00e0 midi/1.png"
    files(tmp_path, f"{nfd(summer)}/{rest}")
    found = match_files(tmp_path, [f"{summer}/{rest}", f"{summer}/gone.png"])
    assert found.names == [f"{nfd(summer)}/{rest}", f"{summer}/gone.png"]


def test_names_that_are_there_as_written_are_left_alone(tmp_path):
    names = ["\u7ea2.png", "\u00e9.png", "a.png"]
    assert match_files(files(tmp_path, *names), names) == (names, [])


def test_two_files_that_differ_only_so_stay_two(tmp_path):
    names = ["\u00e9.png", nfd("\u00e9.png")]
    found = match_files(files(tmp_path, *names), names)
    assert found.names == names
    said = f"{tmp_path}: 1 images there twice, with accents encoded in two ways ({min(names)}); both count"
    assert found.notes == [said]


def test_two_names_are_never_taken_for_one_file(tmp_path):
    names = ["\u00e9.png", nfd("\u00e9.png")]
    assert match_files(files(tmp_path, names[0]), names).names == names
    assert match_files(tmp_path, names[::-1]).names == names[::-1]


def test_several_files_that_are_meant_equally_are_refused(tmp_path):
    name = "\u1ec7.png"  # e with a circumflex and a dot below: three ways to write it
    others = [nfd(name), "\u1eb9\u0302.png"]
    assert len({composed(one) for one in (name, *others)}) == 1
    with pytest.raises(UserError, match=r"2 names differ from .* only in how accents are encoded; rename them"):
        match_files(files(tmp_path, *others), [name])


def test_a_folder_that_is_not_there_changes_nothing(tmp_path):
    assert match_files(tmp_path / "gone", ["\u00e9.png"]) == (["\u00e9.png"], [])


def test_ascii_needs_no_listing():
    assert match_name("a", {"b"}, {}, "here") is None
    assert match_name("b", {"b"}, {}, "here") == "b"
    assert by_composed(["a", "b"]) == {}
    assert alike_notes("here", ["a", "b"], "images") == []


@pytest.mark.parametrize("count, more", [(3, ""), (4, ", ...")])
def test_at_most_three_names_are_said(tmp_path, count, more):
    names = [f"\u00e9{k}.png" for k in range(count)]
    found = match_files(files(tmp_path, *map(nfd, names)), names)
    assert found.names == [nfd(name) for name in names]
    text = f"{tmp_path}: {count} images found under a name whose accents are encoded otherwise ("
    assert found.notes == [f"{text}{', '.join(names[:3])}{more})"]
