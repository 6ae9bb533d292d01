"""What the tests of analyses start from."""

from xml.etree import ElementTree

import numpy as np
import pytest

from tests.commands.scene import tiny_voc
from tests.engine.run_folders import SMALL


@pytest.fixture
def own_folder(tmp_path, monkeypatch):
    """Label files, and the cache of images, are in the test's own folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def voc_words(tmp_path):
    """The words of a run on a tiny VOC whose objects have boxes."""
    devkit, rng = tiny_voc(tmp_path), np.random.default_rng(5)
    for file in sorted((devkit / "VOC2007" / "Annotations").glob("*.xml")):
        tree = ElementTree.parse(file)
        for one in tree.iter("object"):
            box = ElementTree.SubElement(one, "bndbox")
            left, top = rng.integers(1, 25, 2).tolist()
            for side, value in (("xmin", left), ("ymin", top), ("xmax", left + 12), ("ymax", top + 9)):
                ElementTree.SubElement(box, side).text = str(value)
        tree.write(file)
    return ["--dataset", "voc07", "--path_images", devkit, "--labels", "single", "--seed", "3", *SMALL]
