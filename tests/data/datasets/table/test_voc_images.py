import unicodedata
from pathlib import Path

import numpy as np
import pytest

from data.datasets.source import DatasetSource
from data.datasets.table.reader import load_table
from data.datasets.table.voc_images import voc_images
from data.files.cache import Cache
from tests.data.datasets.table.sheets import table_config
from tests.data.trees import picture, voc_xml
from utils.checks import UserError
from utils.types import PRESENT

CAFE = "caf\u00e9"
CAFE_APART = unicodedata.normalize("NFD", CAFE)


def folder(root, annotations, images, lists=None):
    """A folder of annotations (names with suffix) and images."""
    for number, name in enumerate(annotations):
        path = root / "Annotations" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(voc_xml([(("cat", "dog")[number % 2], 0)]), encoding="utf-8")
    for name in images:
        (root / "JPEGImages" / name).parent.mkdir(parents=True, exist_ok=True)
        picture(root / "JPEGImages" / "x.png").rename(root / "JPEGImages" / name)
    for name, ids in (lists or {}).items():
        path = root / "ImageSets" / "Main" / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(ids), encoding="utf-8")
    return root


def load(root, *, skip_missing=False, path_images=Path(), **more):
    cache = Cache(root.parent / "cache")
    config = table_config(root, **{"test_frac": 0.5, **more})
    splits = load_table(DatasetSource(path_images, Path(), 0, cache, True, config, skip_missing=skip_missing))
    parts = [part for part in (splits.train, splits.validation, splits.test) if part]
    return {one: Path(part.images.name(row)).name for part in parts for row, one in enumerate(part.ids)}


@pytest.mark.parametrize("suffix", [".XML", ".Xml", ".xML"])
def test_annotations_with_a_suffix_in_any_case_are_read(tmp_path, capsys, suffix):
    root = folder(tmp_path / "d", ["0.xml", f"1{suffix}", f"2{suffix}"], ["0.jpg", "1.jpg", "2.jpg"])
    assert load(root) == {"0": "0.jpg", "1": "1.jpg", "2": "2.jpg"}
    assert "left out" not in capsys.readouterr().out


def test_two_annotations_of_one_image_are_refused(tmp_path):
    root = folder(tmp_path / "d", ["0.xml", "0.XML", "1.xml"], ["0.jpg", "1.jpg"])
    with pytest.raises(UserError, match=r"0\.(xml|XML): there is 0\.(xml|XML) too; keep one annotation"):
        load(root)


def test_annotations_in_subfolders_are_refused_in_any_case(tmp_path):
    root = folder(tmp_path / "d", ["0.xml", "deep/1.XML"], ["0.jpg"])
    with pytest.raises(UserError, match=r"deep/1\.XML: is in a subfolder"):
        load(root)


@pytest.mark.parametrize("suffix", [".Jpg", ".jfif", ".JPE", ".Jpeg", ".TIFF", ".WebP", ".jif", ".PGM", ".JP2"])
def test_images_with_any_suffix_in_any_case_are_found(tmp_path, capsys, suffix):
    root = folder(tmp_path / "d", ["0.xml", "1.xml"], [f"0{suffix}", "1.jpg"])
    assert load(root) == {"0": f"0{suffix}", "1": "1.jpg"}
    assert "left out" not in capsys.readouterr().out


def test_images_without_an_annotation_are_counted(tmp_path, capsys):
    root = folder(tmp_path / "d", ["0.xml", "1.xml"], ["0.jpg", "1.jpg", "2.jpg", "3.JPE", "4.png", "notes.md"])
    assert len(load(root)) == 2
    assert "JPEGImages: left out 3 images without an annotation (2.jpg, " in capsys.readouterr().out


def test_images_beside_the_annotations_are_counted_too(tmp_path, capsys):
    root = folder(tmp_path / "d", ["0.xml", "1.xml"], []) / "Annotations"
    for name in "012":
        picture(root / f"{name}.jpg")
    picture(root / "figures" / "9.jpg")
    assert len(load(root)) == 2
    printed = capsys.readouterr().out
    assert "left out 1 images without an annotation (2.jpg)" in printed
    assert "subfolders" not in printed


def test_images_in_subfolders_are_counted(tmp_path, capsys):
    root = folder(tmp_path / "d", ["0.xml", "1.xml"], ["0.jpg", "1.jpg", "more/2.jpg", "more/3.jpg"])
    load(root)
    assert "left out 2 images in subfolders (more/2.jpg, more/3.jpg)" in capsys.readouterr().out


def test_what_a_mac_keeps_beside_a_file_is_no_annotation(tmp_path, capsys):
    root = folder(tmp_path / "d", ["0.xml", "1.xml", "._0.xml"], ["0.jpg", "1.jpg", "._0.jpg"])
    assert set(load(root)) == {"0", "1"}
    assert "left out 1 files ._*.xml, which are no annotations" in capsys.readouterr().out


@pytest.mark.parametrize(
    "images, used", [(["0.jpg", "0.png"], "0.jpg"), (["0.JPG", "0.jpg"], "0.jpg"), (["0.tif", "0.PNG"], "0.PNG")]
)
def test_of_two_images_of_one_name_one_is_used_and_the_other_named(tmp_path, capsys, images, used):
    root = folder(tmp_path / "d", ["0.xml", "1.xml"], [*images, "1.jpg"])
    assert load(root)["0"] == used
    other = next(name for name in images if name != used)
    printed = capsys.readouterr().out
    assert "left out 1 images, as another of the same name is used" in printed
    assert f"({used}, not {other})" in printed
    assert "without an annotation" not in printed


@pytest.mark.parametrize("named", ["0.png", "C:\\scans\\0.png", "/home/me/0.png"])
def test_the_annotation_says_which_of_two_images_is_meant(tmp_path, capsys, named):
    root = folder(tmp_path / "d", ["0.xml", "1.xml"], ["0.jpg", "0.png", "1.jpg"])
    path = root / "Annotations" / "0.xml"
    path.write_text(path.read_text().replace("<folder>", f"<filename>{named}</filename><folder>"))
    assert load(root)["0"] == "0.png"
    assert "(0.png, not 0.jpg)" in capsys.readouterr().out


@pytest.mark.parametrize("annotation, image", [(CAFE, CAFE_APART), (CAFE_APART, CAFE)])
def test_annotation_and_image_may_encode_accents_otherwise(tmp_path, capsys, annotation, image):
    root = folder(tmp_path / "d", [f"{annotation}.xml", "1.xml"], [f"{image}.jpg", "1.jpg"])
    assert load(root)[annotation] == f"{image}.jpg"
    printed = capsys.readouterr().out
    assert f"1 images found under a name whose accents are encoded otherwise ({annotation})" in printed
    assert "without an annotation" not in printed


def test_two_annotations_and_images_that_differ_only_so_stay_two(tmp_path, capsys):
    root = folder(tmp_path / "d", [f"{CAFE}.xml", f"{CAFE_APART}.xml"], [f"{CAFE}.jpg", f"{CAFE_APART}.jpg"])
    assert load(root) == {CAFE: f"{CAFE}.jpg", CAFE_APART: f"{CAFE_APART}.jpg"}
    assert "1 annotations there twice, with accents encoded in two ways" in capsys.readouterr().out


def test_two_annotations_never_share_an_image(tmp_path):
    root = folder(tmp_path / "d", [f"{CAFE}.xml", f"{CAFE_APART}.xml"], [f"{CAFE}.jpg"])
    assert load(root) == {CAFE: f"{CAFE}.jpg", CAFE_APART: f"{CAFE_APART}.jpg"}  # the second does not exist


def test_lists_may_encode_accents_otherwise(tmp_path, capsys):
    root = folder(
        tmp_path / "d",
        [f"{CAFE}.xml", "1.xml"],
        [f"{CAFE}.jpg", "1.jpg"],
        {"train": [CAFE_APART], "test": ["1"]},
    )
    assert set(load(root)) == {CAFE, "1"}
    assert f"1 annotations found under a name whose accents are encoded otherwise ({CAFE_APART})" in (
        capsys.readouterr().out
    )


def test_listed_images_without_an_annotation_are_an_error_or_left_out(tmp_path, capsys):
    lists = {"train": ["0", "gone", "2"], "test": ["1", "lost"]}
    root = folder(tmp_path / "d", ["0.xml", "1.xml", "2.XML"], ["0.jpg", "1.jpg", "2.jpg", "gone.jpg"], lists)
    with pytest.raises(UserError, match=r"train\.txt, line 2: 'gone': there is no annotation gone\.xml; .*skip"):
        load(root)
    assert set(load(root, skip_missing=True)) == {"0", "1", "2"}
    printed = capsys.readouterr().out
    assert "left out 2 of 5 listed rows: annotation missing (gone.xml, ...)" in printed
    assert "left out 1 images without an annotation (gone.jpg)" in printed


def test_lists_without_any_annotation_are_refused(tmp_path):
    root = folder(tmp_path / "d", ["0.xml", "1.xml"], [], {"train": ["7"], "test": ["8"]})
    with pytest.raises(UserError, match="has no annotation of any of the 2 listed images"):
        load(root, skip_missing=True)


def test_two_folders_of_annotations_may_share_their_images(tmp_path, capsys):
    one = folder(tmp_path / "one", ["0.xml", "1.xml"], [])
    other = folder(tmp_path / "other", ["2.xml", "3.xml"], ["0.jpg", "1.jpg", "2.jpg", "3.jpg"])
    load(one, test_table=other, path_images=other / "JPEGImages")
    assert "without an annotation" not in capsys.readouterr().out


@pytest.mark.parametrize("count, more", [(3, ""), (4, ", ...")])
def test_at_most_three_images_are_said(tmp_path, count, more):
    names = [f"{k}.jpg" for k in range(count)]
    for name in names:
        picture(tmp_path / "i" / name)
        picture(tmp_path / "i" / "deep" / name)
    notes = voc_images(tmp_path / "i", [], {}).notes
    assert notes == [
        f"{tmp_path}/i: left out {count} images without an annotation ({', '.join(names[:3])}{more})",
        f"{tmp_path}/i: left out {count} images in subfolders (deep/0.jpg, deep/1.jpg, deep/2.jpg{more})",
    ]


def test_images_left_out_for_another_of_their_name_are_counted_over_all_names(tmp_path):
    for name in ("a.jpg", "a.png", "a.bmp", "b.png", "b.gif", "c.jpg"):
        picture(tmp_path / name)
    found = voc_images(tmp_path, ["a", "b", "c"], {})
    assert found.names == [f"{tmp_path}/{name}" for name in ("a.jpg", "b.png", "c.jpg")]
    assert "left out 3 images, as another of the same name is used" in found.notes[0]
    assert found.notes[0].endswith("(a.jpg, not a.png, a.bmp, ...)")


def test_the_annotation_of_the_only_image_of_a_name_is_not_read(tmp_path):
    picture(tmp_path / "a.png")
    annotated = {"a": tmp_path / "gone.xml"}
    assert voc_images(tmp_path, ["a"], annotated) == ([f"{tmp_path}/a.png"], [])
    picture(tmp_path / "a.jpg")
    with pytest.raises(UserError, match=r"gone\.xml"):
        voc_images(tmp_path, ["a"], annotated)


def test_images_that_are_not_there_are_named_as_they_should_be(tmp_path):
    assert voc_images(tmp_path / "gone", ["a"], {}) == ([f"{tmp_path}/gone/a.jpg"], [])


@pytest.mark.parametrize("encoding", ["gbk", "euc-jp", "shift_jis", "utf-16", "gb18030", "iso-2022-jp"])
def test_class_names_in_declared_encodings_work(tmp_path, encoding):
    root = folder(tmp_path / "d", ["0.xml", "1.xml"], ["0.jpg", "1.jpg"], {"train": ["0"], "test": ["1"]})
    text = f'<?xml version="1.0" encoding="{encoding}"?>' + voc_xml([("\u732b", 0), ("\u9f20", 0)])
    (root / "Annotations" / "0.xml").write_bytes(text.encode(encoding))
    (root / "Annotations" / "1.xml").write_text(voc_xml([("\u732b", 0)]), encoding="utf-8")
    source = DatasetSource(Path(), Path(), 0, Cache(tmp_path / "cache"), True, table_config(root))
    splits = load_table(source)
    assert splits.train.classes == ("\u732b", "\u9f20")
    assert (splits.train.truth.rows(np.array([0]))[0] == PRESENT).all()
    assert load_table(source).train.classes == splits.train.classes  # from the cache
