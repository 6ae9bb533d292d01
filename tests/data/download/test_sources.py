import re

import pytest
import yaml
from torchvision.datasets.voc import DATASET_YEAR_DICT

from data.datasets import DATASETS
from data.download.sources import SOURCES
from tests.data.download.web import tar_of
from tests.test_methods_complete import CONFIGS

BYTES = {"voc07": 911_052_800, "voc12": 1_999_639_040, "coco": 20_408_459_804, "coco17": 20_405_354_669}


def test_datasets_are_known_and_have_a_folder():
    assert list(SOURCES) == ["voc07", "voc12", "coco", "coco17"]
    assert SOURCES.keys() <= DATASETS.keys()
    for name in SOURCES:
        assert "path_images" in yaml.safe_load((CONFIGS / "datasets" / f"{name}.yaml").read_text())


@pytest.mark.parametrize(("name", "years"), [("voc07", ["2007", "2007-test"]), ("voc12", ["2012"])])
def test_voc_is_as_torchvision_knows_it(name, years):
    found = [(archive.name, archive.md5) for archive in SOURCES[name].archives]  # older versions name another host
    known = [DATASET_YEAR_DICT[year] for year in years]
    assert found == [(one["url"].split("/")[-1], one["md5"]) for one in known]
    assert {f"{SOURCES[name].inside}/{part.split('/')[0]}" for part in SOURCES[name].parts} == {
        DATASET_YEAR_DICT[year]["base_dir"] for year in years
    }


@pytest.mark.parametrize("name", SOURCES)
def test_every_line_is_whole(name):
    source = SOURCES[name]
    assert sum(archive.size for archive in source.archives) == BYTES[name]
    for archive in source.archives:
        assert re.fullmatch(r"https?://[\w./~-]+\.(tar|zip)", archive.address)
        assert re.fullmatch(r"[0-9a-f]{32}", archive.md5)
        assert archive.size < archive.unpacked < 4 * archive.size
        assert archive.name == archive.address.split("/")[-1]
        if archive.name.endswith(".tar"):
            assert archive.size % 512 == len(tar_of({})) % 512 == 0
    assert len({archive.md5 for source in SOURCES.values() for archive in source.archives}) == 9
    assert "https://" in source.terms or "http://" in source.terms
