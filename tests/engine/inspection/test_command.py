import dataclasses
import json

import numpy as np
import pytest
from scipy.sparse import csr_array

from data.images.cropped import CroppedImages
from data.images.files import ArrayImages, FileImages
from data.labels.regime import Regime
from engine.inspection.command import InspectionConfig, contact_sheet, draw, inspect_dataset
from engine.inspection.report import DataRead, report
from engine.inspection.text import as_text
from tests.data.trees import picture
from utils.types import UNKNOWN, Annotations, LabelTable


def part(codes, name, *, sparse=False, images=None):
    """Annotations of random codes in memory."""
    rows, count = codes.shape
    ids = tuple(f"{name}{row}" for row in range(rows))
    pixels = np.random.default_rng(rows).integers(0, 256, (rows, 4, 6, 3), dtype=np.uint8)
    known = csr_array((codes + 1).astype(np.int8))
    table = LabelTable(csr_array((known.data - 1, known.indices, known.indptr), shape=codes.shape), default=UNKNOWN)
    truth = table if sparse else LabelTable(codes.copy())
    return Annotations(images or ArrayImages(pixels, ids), ids, tuple(f"class {k}" for k in range(count)), truth)


def data(*, sparse=False, columns=12, **changes):
    rng = np.random.default_rng(3)
    codes = [rng.choice([-1, 0, 1], (rows, columns), p=[0.5, 0.2, 0.3]).astype(np.int8) for rows in (50, 20)]
    parts = {name: part(each, name, sparse=sparse) for name, each in zip(("train", "test"), codes, strict=True)}
    read = DataRead("invented", parts, parts["train"].truth, Regime(labels="given"), None, {})
    return read._replace(**changes)


def test_a_sparse_table_gives_the_report_of_a_dense_one(tmp_path):
    reports = [report(inspect_dataset(data(sparse=sparse), True), skip_missing=False) for sparse in (False, True)]
    assert reports[0] == reports[1]
    assert reports[0]["observed"]["wrong"] == 0
    draw(inspect_dataset(data(sparse=True), True), InspectionConfig(samples=3), tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".png"}


def test_only_the_most_frequent_classes_of_a_sparse_table_are_compared_with_each_other():
    for sparse, columns, kept in ((True, 90, 60), (False, 90, 80), (True, 12, 12)):
        found = report(inspect_dataset(data(sparse=sparse, columns=columns), False), skip_missing=False)
        assert len(found["co_occurrence"]["classes"]) == kept
        assert np.shape(found["co_occurrence"]["together"]) == (kept, kept)


@pytest.mark.parametrize("columns, top, lines", [(12, 6, 12), (12, 5, 11), (40, 3, 7)])
def test_the_text_names_the_most_and_the_least_frequent_classes(columns, top, lines):
    found = report(inspect_dataset(data(columns=columns), False), skip_missing=False)
    text = as_text(found, top).split("classes by training images: truth")[1].split("\n\n")[0].splitlines()[2:]
    assert len(text) == lines
    ranked = sorted(found["classes"], key=lambda one: -one["train"]["present"])
    assert text[0].startswith(ranked[0]["name"])
    assert text[-1].startswith(ranked[-1]["name"])
    assert len({len(line) for line in text if not line.startswith("(")}) == 1  # columns are aligned


def test_groups_of_the_dataset_are_named_beside_ours():
    found = report(
        inspect_dataset(data(groups={"G1": np.array([0, 2]), "G2": np.array([1])}), False), skip_missing=False
    )
    assert found["splits"]["train"]["dataset_groups"] == {"G1": ["class 0", "class 2"], "G2": ["class 1"]}
    counts = {one["name"]: one["train"]["present"] for one in found["classes"]}
    groups = found["splits"]["train"]["class_groups"]
    assert sorted(name for group in groups.values() for name in group) == sorted(counts)
    assert all(counts[name] < 20 for name in groups["tail"])
    assert all(20 <= counts[name] < 100 for name in groups["middle"])
    assert "own groups: G1 2, G2 1" in as_text(found, 3)


def test_equal_images_in_memory_are_found_across_splits():
    read = data()
    train, test = read.parts["train"], read.parts["test"]
    pixels = np.random.default_rng(0).integers(0, 256, (20, 4, 6, 3), dtype=np.uint8)
    pixels[7] = np.asarray(train.images.open(5))
    changed = dataclasses.replace(test, images=ArrayImages(pixels, test.ids))
    found = report(inspect_dataset(read._replace(parts={"train": train, "test": changed}), True), skip_missing=False)
    assert found["duplicates"]["pictures"] == [
        [{"split": "train", "file": "train5"}, {"split": "test", "file": "test7"}]
    ]
    assert not found["usable"]


def test_parts_of_files_have_their_own_sizes_and_faults(tmp_path):
    paths = [picture(tmp_path / f"{row // 2}.png", (40, 30), colour=(row // 2, 0, 0)) for row in range(50)]
    boxes = np.array([(0, 0, 10, 5 + row % 2) for row in range(50)], dtype=np.float64)
    boxes[9] = (100, 100, 120, 120)
    read = data()
    train = dataclasses.replace(read.parts["train"], images=CroppedImages(FileImages(paths), boxes))
    found = report(inspect_dataset(read._replace(parts={**read.parts, "train": train}), True), skip_missing=False)
    images = found["splits"]["train"]["pictures"]
    assert images["files"] == {"part of .png": 49}
    assert images["height"] == {"min": 5, "median": 5.0, "max": 6}
    assert images["broken"] == 1
    assert "lies outside" in images["broken_files"][0]["fault"]
    assert found["duplicates"]["within_split"] == {}


def test_an_empty_split_is_reported_too(tmp_path):
    read = data()
    empty = read.parts["test"].take(np.array([], dtype=np.int64))
    findings = inspect_dataset(read._replace(parts={**read.parts, "test": empty}), True)
    found = report(findings, skip_missing=False)
    json.dumps(found, allow_nan=False)
    assert found["splits"]["test"]["images"] == 0
    assert "-" in as_text(found, 3)
    draw(findings, InspectionConfig(samples=0), tmp_path)


def test_a_contact_sheet_tells_right_hidden_wrong_and_unknown_apart():
    truth = np.array([[1, 1, 0, -1, 0]], dtype=np.int8)
    seen = np.array([[1, -1, 1, -1, 0]], dtype=np.int8)
    train = part(truth, "train")
    read = data()._replace(parts={"train": train, "test": train}, observed=LabelTable(seen))
    (card,) = contact_sheet(inspect_dataset(read, False), 9, 0)
    names = {kind: [name for name, each in card.labels if each == kind] for kind in dict(card.labels).values()}
    expected = {"right": ["class 0"], "hidden": ["class 1"], "wrong": ["class 2"], "unknown": ["class 3"]}
    assert {kind: [name for name, each in card.labels if each == kind] for kind in expected} == expected
    assert set(names) == set(expected)


def test_many_unknown_classes_are_not_written_beside_an_image():
    train = part(np.full((1, 30), UNKNOWN, dtype=np.int8), "train")
    read = data()._replace(parts={"train": train, "test": train}, observed=train.truth)
    (card,) = contact_sheet(inspect_dataset(read, False), 9, 0)
    assert card.labels == []
