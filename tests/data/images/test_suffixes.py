"""Which files are images by their names."""

import pytest

from data.images.suffixes import SUFFIXES, is_image_name


@pytest.mark.parametrize("name", ["a.jpg", "a.JPG", "a.Jpeg", "b.c.JFIF", "x.tif", "x.TIFF", "x.webp", "\u00e9.png"])
def test_images(name):
    assert is_image_name(name)


@pytest.mark.parametrize("name", [".jpg", "._a.jpg", ".a.png", "a", "jpg", "a.jpg.txt", "a.xml", "a.jpgx", ""])
def test_no_images(name):
    assert not is_image_name(name)


def test_the_suffix_that_most_data_sets_have_comes_first():
    assert SUFFIXES[:2] == (".jpg", ".jpeg")
    assert len(set(SUFFIXES)) == len(SUFFIXES)
    assert all(one == one.lower() and one.startswith(".") for one in SUFFIXES)
