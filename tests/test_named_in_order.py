"""Messages name things in one order, whatever order a set of them has in this process."""

import re

import pytest
import torch
from torch import nn

from data.datasets.coco import load_coco
from data.datasets.openimages import load_openimages
from data.datasets.voc import load_voc
from data.subsets.overlap import check_disjoint
from engine.core.checkpoint import load_weights
from engine.core.manifest import MANIFEST, load_manifest
from engine.reproduction.sweep import sweep_command
from models import as_model
from models.released import FAMILIES
from tests.data.datasets.test_openimages import tree as openimages_tree
from tests.data.trees import annotations, coco_json, coco_tree, source
from utils.checks import UserError

MANY = [f"{letter}{number}" for letter in "kbxa" for number in (3, 1, 2)]
FIRST = "a1, a2, a3"


@pytest.mark.parametrize(("shared", "named"), [(2, "b1, k3"), (3, "b1, b3, k3"), (4, "b1, b2, b3, ...")])
def test_images_of_two_splits(shared, named):
    both = [["b1", "k3"], ["b3", "b1", "k3"], ["k3", "b2", "b1", "b3"]][shared - 2]
    few, many = annotations([[1]] * shared, both), annotations([[1]] * (shared + 1), [*reversed(both), "z"])
    with pytest.raises(UserError, match=rf"^{shared} images are in both few and many \({re.escape(named)};"):
        check_disjoint({"many": many, "few": few})


def test_images_of_both_lists_of_voc(tmp_path):
    lists = tmp_path / "VOC2007" / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    for name, ids in (("train", MANY), ("val", ["z"]), ("test", [*MANY, "y"])):
        (lists / f"{name}.txt").write_text("\n".join(ids) + "\n")
    with pytest.raises(UserError, match=r"image a1 is for training and for test \(12 such\)"):
        load_voc(source(tmp_path, tmp_path / "cache"), 2007)


def test_images_of_both_files_of_coco(tmp_path):
    numbers = [100, 20, 9, 77, 30, 41, 5000, 63]
    content = coco_json([(n, f"{n}.jpg") for n in numbers], [(n, 2, 0) for n in numbers], [2])
    coco_tree(tmp_path, 2017, content, content)
    with pytest.raises(UserError, match=r"image 9 is in train2017 and in val2017 \(8 such\)"):
        load_coco(source(tmp_path, tmp_path / "cache"), 2017)


def test_images_of_both_tables_of_openimages(tmp_path):
    rows = [(f"{number:x}f", "/m/a", 1) for number in (9, 3, 7, 5, 8, 2, 6, 4)]
    with pytest.raises(UserError, match=r"image 2f is in train and in test \(8 such\)"):
        load_openimages(source(openimages_tree(tmp_path / "oi", rows, rows), tmp_path / "cache"))


@pytest.mark.parametrize("wrong", ["missing", "unexpected"])
def test_tensors_of_a_checkpoint(tmp_path, wrong):
    model = nn.ModuleDict({name: nn.Linear(1, 1, bias=False) for name in ([*MANY] if wrong == "missing" else ["z"])})
    weights = {} if wrong == "missing" else {**model.state_dict(), **{name: torch.zeros(1) for name in MANY}}
    first = "no a1.weight; 12 keys missing, 0 une" if wrong == "missing" else "unexpected a1; 0 keys missing, 12 une"
    with pytest.raises(UserError, match=re.escape(f"({first}xpected, 0 of another shape)")):
        load_weights(model, weights, tmp_path / "best.pth")


def test_families_that_a_manifest_lacks(tmp_path):
    (tmp_path / "released.yaml").write_text("families: {}\ncheckpoints: []\n")
    load_manifest.cache_clear()
    with pytest.raises(UserError, match=f"families: {', '.join(sorted(FAMILIES))} missing"):
        load_manifest(tmp_path / "released.yaml")


def test_unknown_settings_of_a_network_in_a_manifest(tmp_path):
    families = MANIFEST.read_text().split("checkpoints:")[0]
    network = ", ".join(f"{name}: 1" for name in MANY)
    entry = "name: x, family: csra, paper: p, dataset: voc07, split: test, img_size: 448, normalize: unit, "
    entry += f"metrics: {{mAP: 94.7}}, source: s, file: f, sha256: null, network: {{{network}}}"
    (tmp_path / "released.yaml").write_text(f"{families}checkpoints:\n- {{{entry}}}\n")
    load_manifest.cache_clear()
    with pytest.raises(UserError, match=f"network: unknown: {', '.join(sorted(MANY))}$"):
        load_manifest(tmp_path / "released.yaml")


def test_outputs_that_a_wrapped_network_cannot_give():
    model = as_model(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)))
    with pytest.raises(ValueError, match=f"^as_model: {', '.join(sorted(MANY))} wanted"):
        model(torch.zeros(1, 3, 2, 2), frozenset(MANY))
    with pytest.raises(ValueError, match=r"^as_model: cam wanted"):
        model(torch.zeros(1, 3, 2, 2), frozenset({"features", "cam"}))


def test_flags_that_a_sweep_sets_itself():
    words = ["--setting", "lr", "--values", "1", "--", "main_BCE.py", "--resume", "--output", "o", "--print_config"]
    with pytest.raises(UserError, match="--resume stands behind the script"):
        sweep_command(words, scripts={"main_BCE.py": lambda: None})
