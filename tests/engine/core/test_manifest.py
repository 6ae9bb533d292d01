"""The manifest of released checkpoints: what is in it, what is refused, and which entry a file gets."""

import hashlib

import pytest
import yaml

from data.datasets import DATASETS
from engine.core.manifest import MANIFEST, Preparation, load_manifest
from models.released import FAMILIES
from utils.checks import UserError

ENTRY = {
    "name": "x-voc07",
    "family": "csra",
    "paper": "A paper",
    "dataset": "voc07",
    "split": "test",
    "img_size": 448,
    "normalize": "unit",
    "metrics": {"mAP": 94.7},
    "source": "its README",
    "file": "x.pth",
    "sha256": None,
    "network": {"lam": 0.1},
}


def content(**changes):
    families = yaml.safe_load(MANIFEST.read_text())["families"]
    return {"families": families, "checkpoints": [{**ENTRY, **changes}]}


def load(tmp_path, written):
    path = tmp_path / "released.yaml"
    path.write_text(written if isinstance(written, str) else yaml.safe_dump(written))
    load_manifest.cache_clear()
    return load_manifest(path)


def test_the_manifest_that_comes_with_the_code():
    manifest = load_manifest()
    assert set(manifest.families) == set(FAMILIES)
    assert len(manifest.checkpoints) > 90
    for entry in manifest.checkpoints.values():
        assert set(entry.metrics) <= {"mAP", "head", "middle", "tail"}
        assert entry.dataset in DATASETS
    assert manifest.checkpoints["cones-voc07-0.1"].metrics == {"mAP": 92.10}
    assert manifest.checkpoints["ll-r-pascal-end-to-end"].metrics == {"mAP": 89.2}
    tail = {"mAP": 59.51, "head": 59.54, "middle": 70.33, "tail": 51.38}
    assert manifest.checkpoints["ndlp-voc-lt-0.3"].metrics == tail
    assert manifest.checkpoints["asl-tresnet-xl-coco"].view == Preparation(640, "unit")


def test_a_family_may_see_images_of_one_dataset_in_another_way():
    cones = load_manifest().families["cones"]
    assert cones.view("voc07") == cones.view(None) == Preparation(448, "unit")
    assert cones.view("nuswide") == Preparation(448, "imagenet")


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"name": "A B"}, "a name is of small letters"),
        ({"family": "cnes"}, "family cnes: choose from cones"),
        ({"dataset": "voc70"}, "no dataset is called voc70"),
        ({"img_size": "448"}, "img_size: '448' is of the wrong type"),
        ({"img_size": 4}, "img_size 4: must be"),
        ({"normalize": "zero"}, "normalize zero: choose from unit"),
        ({"metrics": {}}, "at least one is needed"),
        ({"metrics": {"mAP": 947}}, "mAP 947: must be a percentage"),
        ({"metrics": {"mAP": True}}, "must be a percentage"),
        ({"sha256": "abc"}, "64 hexadecimal digits"),
        ({"network": {"lamb": 1, "zeta": 2, "alpha": 3, "beta": 4}}, "network: unknown: alpha, beta, lamb, zeta"),
        ({"name": 5}, "name: '5' is of the wrong type"),
        ({"colour": "red"}, "unknown: colour"),
        ({"source": 5}, "source: '5' is of the wrong type"),
    ],
)
def test_an_entry_that_cannot_be_is_refused_in_one_line(tmp_path, changes, words):
    with pytest.raises(UserError) as error:
        load(tmp_path, content(**changes))
    text = str(error.value)
    assert words in text
    assert "entry 1" in text
    assert "\n" not in text


@pytest.mark.parametrize("name", ["name", "metrics", "img_size"])
def test_an_entry_that_lacks_something_is_refused(tmp_path, name):
    written = content()
    del written["checkpoints"][0][name]
    with pytest.raises(UserError, match=f"entry 1.*missing: {name}"):
        load(tmp_path, written)


@pytest.mark.parametrize(
    "written, words",
    [
        ("- a\n- b\n", "must contain `families:`"),
        ("a: [", "not a readable YAML file"),
        ("families: {}\ncheckpoints: []\n", "missing; add how their images are prepared"),
        ({**content(), "checkpoints": [ENTRY, ENTRY]}, "the name x-voc07 is given twice"),
        ({**content(), "checkpoints": ["x"]}, "must be `key: value` pairs"),
        ({**content(), "families": {**content()["families"], "other": {}}}, "other: no such family"),
    ],
)
def test_a_manifest_of_another_shape_is_refused(tmp_path, written, words):
    with pytest.raises(UserError) as error:
        load(tmp_path, written)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_absent_is_refused(tmp_path):
    with pytest.raises(UserError, match="not a readable YAML file"):
        load_manifest(tmp_path / "nowhere.yaml")


def test_an_entry_is_found_by_hash_before_it_is_found_by_name(tmp_path):
    file = tmp_path / "renamed.pth"
    file.write_bytes(b"content")
    digest = hashlib.sha256(b"content").hexdigest()
    written = content()
    written["checkpoints"] += [
        {**ENTRY, "name": "by-hash", "sha256": digest},
        {**ENTRY, "name": "by-name", "dataset": "coco"},
    ]
    manifest = load(tmp_path, written)

    def names(path, family="csra", dataset=None):
        return [entry.name for entry in manifest.matching(path, family, dataset)]

    assert names(file) == ["by-hash"]
    assert names(file, "cones") == []
    (tmp_path / "x.pth").write_bytes(b"other")
    assert names(tmp_path / "x.pth") == ["x-voc07", "by-hash", "by-name"]
    assert names(tmp_path / "x.pth", dataset="coco") == ["by-name"]
    assert names(tmp_path / "x.pth", dataset="wider") == []


def test_an_unknown_name_is_refused_with_the_nearest(tmp_path):
    manifest = load(tmp_path, content())
    assert manifest.named("x-voc07").overrides.lam == 0.1
    with pytest.raises(UserError, match=r"--paper x-voc7: .* did you mean x-voc07"):
        manifest.named("x-voc7")
    with pytest.raises(UserError, match=r"--paper 12345: no published result has that name; released\.yaml lists them"):
        manifest.named("12345")


def with_family(**changes):
    """A manifest in which one family is described otherwise; a value of None leaves it out."""
    written = content()
    family = {**written["families"]["csra"], **changes}
    written["families"]["csra"] = {name: value for name, value in family.items() if value is not None}
    return written


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"img_size": 7}, "families: csra: img_size 7: must be a whole number, at least 8"),
        ({"img_size": True}, "families: csra: img_size: 'True' is of the wrong type"),
        ({"img_size": None}, "families: csra: missing: img_size"),
        ({"colour": "red", "age": "3"}, "families: csra: unknown: age, colour"),
        ({"normalize": "zero"}, "families: csra: normalize zero: choose from"),
        ({"order": ["voc07", "voc70", "x"]}, "families: csra: no dataset is called voc70, x"),
        ({"order": "voc07"}, "families: csra: order: 'voc07' is of the wrong type"),
        ({"differs": {"voc70": {"img_size": 448}}}, "families: csra: no dataset is called voc70"),
        ({"differs": {"coco": 3}}, "families: csra: differs: coco: only img_size, normalize, resize may differ"),
        ({"differs": {"coco": {"source": "x"}}}, "families: csra: differs: coco: only img_size, normalize, resize may"),
        ({"resize": "nearest"}, "families: csra: resize nearest: choose from antialias, cv2-like"),
        ({"differs": {"coco": {"img_size": 7}}}, "families: csra: differs: coco: img_size 7: must be"),
        ({"differs": {"coco": {"img_size": 8.0}}}, "families: csra: differs: coco: img_size 8.0: must be"),
        ({"differs": {"coco": {"normalize": "zero"}}}, "families: csra: differs: coco: normalize zero: choose from"),
    ],
    ids=str,
)
def test_a_family_that_cannot_be_is_refused_in_one_line(tmp_path, changes, words):
    with pytest.raises(UserError) as error:
        load(tmp_path, with_family(**changes))
    assert f"released.yaml: {words}" in str(error.value)
    assert "\n" not in str(error.value)


def test_the_least_and_the_largest_values_are_taken(tmp_path):
    every = {"img_size": 9, "normalize": "unit", "resize": "antialias"}
    manifest = load(tmp_path, with_family(img_size=8, order=["voc07"], differs={"coco": every, "cub": {}}))
    family = manifest.families["csra"]
    assert (family.order, family.img_size) == (("voc07",), 8)
    assert [family.view(name).img_size for name in ("coco", "cub", None)] == [9, 8, 8]
    metrics = {"mAP": 100, "head": 0, "tail": 0.5}
    published = load(tmp_path, content(metrics=metrics, img_size=8, sha256="0" * 64, name="0"))
    assert published.checkpoints["0"].metrics == metrics


@pytest.mark.parametrize("metrics", [{"mAP": -0.1}, {"mAP": 100.1}, {"mAP": "90"}, {"mAP": 90, "head": None}])
def test_figures_are_percentages(tmp_path, metrics):
    with pytest.raises(UserError, match="must be a percentage"):
        load(tmp_path, content(metrics=metrics))


@pytest.mark.parametrize("wrong", [{"families": []}, {"checkpoints": {}}, {"more": 1}])
def test_a_manifest_has_its_two_parts_and_no_others(tmp_path, wrong):
    with pytest.raises(UserError, match="must contain `families:`, by name, and `checkpoints:`, a list"):
        load(tmp_path, {**content(), **wrong})
