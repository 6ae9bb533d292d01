import unicodedata
from pathlib import Path

import pytest

from data.datasets.table.matching import ImageFolder, all_plain, image_id, image_patterns, match_images
from utils.checks import UserError


def folder_with(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


@pytest.mark.parametrize(
    "text, name",
    [
        ("a.jpg", "a.jpg"),
        ("./a//b.jpg", "a/b.jpg"),
        ("a\\b.jpg", "a/b.jpg"),
        ("/home/me/data/im/a/b.jpg", "a/b.jpg"),
        ("/home/me/other/a.jpg", "home/me/other/a.jpg"),
        ("C:\\data\\im\\a.jpg", "a.jpg"),
        ("D:a.jpg", "a.jpg"),
        ("D:im\\a.jpg", "a.jpg"),
        ("https://host.org/im/a.jpg", "a.jpg"),
        ("s3://bucket/x/a.jpg", "x/a.jpg"),
        ("/data/local-files/?d=im/a.jpg", "im/a.jpg"),
        ("/im/im/a.jpg", "a.jpg"),
        ("007", "007"),
        ("im/a.jpg", "im/a.jpg"),
        ("../input/im/x/a.jpg", "x/a.jpg"),
        ("../../im/a.jpg", "a.jpg"),
        ("..\\im\\a.jpg", "a.jpg"),
        ("https://host.org/im/a.jpg?raw=true", "a.jpg?raw=true"),
    ],
)
def test_the_id_of_an_image_is_its_path_with_slashes_below_the_folder(text, name):
    assert image_id(text, "t.csv, line 2", Path("/somewhere/im")) == name


def test_an_absolute_path_below_the_folder_itself(tmp_path):
    assert image_id(f"{tmp_path}/x/a.jpg", "", tmp_path) == "x/a.jpg"
    assert image_id(str(tmp_path), "", tmp_path) == str(tmp_path)[1:]  # the folder itself is no image in it
    assert image_id("/x/a.jpg", "", Path("/")) == "x/a.jpg"


@pytest.mark.parametrize(
    "text",
    [
        *("", ".", "/", "../a.jpg", "a/../../b.jpg", "/x/../a.jpg", "C:\\", "a\0.jpg", "a\\..\\b"),
        *("../other/a.jpg", "../im", "../im/../a.jpg", "../x/im/../../a.jpg", "/im/../a.jpg"),
    ],
)
def test_what_leads_out_of_the_folder_is_refused(text):
    with pytest.raises(UserError, match=r"t\.csv, line 2: .* is no file name inside the image folder"):
        image_id(text, "t.csv, line 2", Path("/im"))


@pytest.mark.parametrize(
    "files, ids, found, said",
    [
        (["a.jpg", "b.jpg"], ["a.jpg", "b.jpg"], ["a.jpg", "b.jpg"], []),
        (["a.jpg", "b.PNG"], ["a", "b.png"], ["a.jpg", "b.PNG"], ["2 of 2 images found with an ending added"]),
        (["1.jpg", "12.jpg"], ["1", "12"], ["1.jpg", "12.jpg"], ["2 of 2"]),
        (["a_jpg.rf.1.jpg"], ["a_jpg.rf.1"], ["a_jpg.rf.1.jpg"], ["ending"]),
        (["x/a.jpg", "y/z/b.jpg"], ["a.jpg", "b.jpg"], ["x/a.jpg", "y/z/b.jpg"], ["in other folders than the table"]),
        (
            ["train/p1/v.jpg", "train/p2/v.jpg"],
            ["old/train/p1/v.jpg", "p2/v.jpg"],
            ["train/p1/v.jpg", "train/p2/v.jpg"],
            ["2 of 2"],
        ),
        (["new/a.jpg"], ["old/a.jpg"], ["new/a.jpg"], ["by the name alone"]),
        (["a.jpg"], ["3f2a91bc-a.jpg"], ["a.jpg"], ["without the prefix of an upload"]),
        (["x/a.jpg"], ["upload/3/3f2a91bc-a.jpg"], ["x/a.jpg"], ["without the prefix"]),
        (["a.jpg"], ["a.png"], ["a.png"], []),
        (["a.jpg"], ["b"], ["b"], []),
        (["notes.txt"], ["notes"], ["notes"], []),
        (["a.jpg", "x/a.jpg"], ["a.jpg"], ["a.jpg"], []),
        (["a.jpg", "a.JPG"], ["a.JPG", "a.jpg"], ["a.JPG", "a.jpg"], []),
        (["a.jpg"], ["a.jpg", "a"], ["a.jpg", "a"], []),
        (["b/x.jpg", "a/b/x.jpg"], ["a/b/x"], ["a/b/x.jpg"], ["ending"]),
        (["x.jpg", "b/x.jpg"], ["a/b/x.jpg"], ["b/x.jpg"], ["other folders"]),
        (["im/a b.jpg"], ["host/im/a%20b.jpg?raw=true"], ["im/a b.jpg"], ["as the path in an address"]),
        (["a.jpg"], ["a.jpg?x=../../b"], ["a.jpg"], ["as the path in an address"]),
        (["007.png", "010.png"], ["7", "10.0"], ["007.png", "010.png"], ["2 of 2 images found by the number"]),
        (["007.png", "7.png"], ["7"], ["7.png"], ["ending"]),
        (["007.png"], ["7.jpg"], ["7.jpg"], []),
        (["000.png"], ["0"], ["000.png"], ["by the number"]),
        (["a.jpg"], ["gone", "a"], ["gone", "a.jpg"], ["1 of 2"]),
        (["x/a.jpg"], ["y/x/3f2a91bc-a.jpg"], ["x/a.jpg"], ["without the prefix"]),
        (["007.png"], ["x/7", "y/7"], ["x/7", "y/7"], []),
        (["0a.jpg"], ["a"], ["a"], []),
        (["x/a.jpg", "y/a.JPG"], ["a.JPG"], ["y/a.JPG"], ["in other folders"]),
        (["a b.jpg"], ["%2e%2e/a%20b.jpg"], ["%2e%2e/a%20b.jpg"], []),
    ],
)
def test_files_of_images(tmp_path, files, ids, found, said):
    matched = match_images(folder_with(tmp_path, *files), ids)
    assert matched.names == found
    assert len(matched.notes) == len(said)
    for note, words in zip(matched.notes, said, strict=True):
        assert words in note


def test_accents_encoded_otherwise_and_an_ending_added(tmp_path):
    apart = unicodedata.normalize("NFD", "été.jpg")
    folder_with(tmp_path, apart)
    assert match_images(tmp_path, ["été.jpg"]).names == [apart]
    assert match_images(tmp_path, ["été"]).names == [apart]


def test_two_files_for_one_name_are_refused_with_both(tmp_path):
    folder_with(tmp_path, "x/a.jpg", "y/a.jpg", "b.jpg", "b.png", "only/c.jpg", "p/d.jpg")
    with pytest.raises(UserError, match=r"'a\.jpg' may be 'x/a\.jpg' or 'y/a\.jpg'; write the path"):
        match_images(tmp_path, ["a.jpg"])
    with pytest.raises(UserError, match=r"'b' may be 'b\.jpg' or 'b\.png'"):
        match_images(tmp_path, ["b"])
    with pytest.raises(UserError, match=r"only/c\.jpg: is meant by 'c\.jpg' and by '3f2a91bc-c\.jpg'"):
        match_images(tmp_path, ["c.jpg", "3f2a91bc-c.jpg"])
    # The name alone decides only where one image has it.
    assert match_images(tmp_path, ["q/d.jpg", "r/d.jpg"]).names == ["q/d.jpg", "r/d.jpg"]


def test_nothing_outside_the_folder_is_found(tmp_path):
    folder_with(tmp_path, "out/a.jpg", "im/b.jpg")
    (tmp_path / "im" / "link").symlink_to(tmp_path / "out")
    assert match_images(tmp_path / "im", ["a.jpg"]).names == ["a.jpg"]
    assert match_images(tmp_path / "im", ["link/a.jpg"]).names == ["link/a.jpg"]  # that very path was written


def test_a_folder_that_is_not_there_leaves_names_as_they_are(tmp_path):
    assert match_images(tmp_path / "gone", ["a", "b.jpg"]).names == ["a", "b.jpg"]


def test_how_many_names_are_files(tmp_path):
    disk = ImageFolder(folder_with(tmp_path, "a.jpg", "x/b.png", ".hidden/c.jpg", "d.txt"))
    assert disk.files == ["a.jpg", "x/b.png"]
    assert disk.holds(["a", "b.png", "c", "d", "a.png"]) == 2
    names = [f"{n * 7 % 16:x}.png" for n in range(16)]
    assert ImageFolder(folder_with(tmp_path / "many", *names)).files == sorted(names)


def test_patterns():
    assert image_patterns(None) == ("{}",)
    assert image_patterns("im/{}.png") == ("im/{}.png",)
    assert image_patterns("{}_r.png, {}_g.png,{}_b.png") == ("{}_r.png", "{}_g.png", "{}_b.png")
    for wrong in ("a.png", "{}_r.png,{}_g.png", "{}_r.png,{}_g.png,b.png"):
        with pytest.raises(UserError, match="must be one path, or three for red, green and blue"):
            image_patterns(wrong)
    for wrong in ("../{}.png", "a/..\\{}.png", "{}_r.png,../{}_g.png,{}_b.png"):
        with pytest.raises(UserError, match="leads out of the image folder"):
            image_patterns(wrong)


@pytest.mark.parametrize(
    "texts, plain",
    [
        (["a.jpg", "x/b 1.jpg", "été", "(1)"], True),
        ([], True),
        (["a.jpg", ""], False),
        (["a.jpg", "./b"], False),
        (["a.jpg", "b\\c"], False),
        (["a\nb"], False),
        (["a", "/b"], False),
        (["a..b", "..", "c"], False),
        (["a\u2028b"], False),
    ],
)
def test_ids_that_are_in_their_only_form(texts, plain):
    assert all_plain(texts) is plain
    if plain:
        assert [image_id(text, "", Path("/im")) for text in texts] == texts


def test_two_files_of_one_number_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"'7' may be '007\.png' or '07\.png'"):
        match_images(folder_with(tmp_path, "007.png", "07.png"), ["7"])
