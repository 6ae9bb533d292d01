"""Bytes of each image, against what the code keeps and what was measured."""

import re

import numpy as np
import pytest
from scipy.sparse import csr_array

from benchmarks.scaling.large import INT32, Dataset, id_bytes, label_bytes, memory_bytes
from benchmarks.scaling.scene import ROOT
from benchmarks.training_memory import id_bytes as bytes_of_ids
from losses import build_criterion
from utils.types import LabelTable

MEASURED = ROOT / "benchmarks" / "results" / "training_memory.md"
OPENIMAGES = Dataset(3_400_000, 5_000, 50, 5)


def candidates_of(rows, classes, each):
    """Labels of which so many of each image are candidates, the rest absent."""
    codes = np.zeros((rows, classes), dtype=np.int8)
    for row in codes:
        row[np.random.default_rng(0).permutation(classes)[:each]] = 1
    return LabelTable(codes)


def test_a_sparse_table_takes_so_many_bytes():
    rows, known, classes = 300, 7, 40
    classes_of, ends = (
        each.astype(np.int32) for each in (np.arange(rows * known) % known, np.arange(rows + 1) * known)
    )
    codes = csr_array((np.ones(rows * known, np.int8), classes_of, ends), shape=(rows, classes))
    held = LabelTable(codes, default=-1).codes
    size = held.data.nbytes + held.indices.nbytes + held.indptr.nbytes
    assert label_bytes(Dataset(rows, classes, known, 0)) == size - 4  # where the last one ends


def test_indices_are_wide_where_there_are_many_entries():
    few, many = (Dataset(INT32 // 50 + more, 5_000, 50, 5) for more in (0, 1))
    assert (label_bytes(few) / few.images, label_bytes(many) / many.images) == (254, 458)


def measured(method):
    """GiB of one row of the page of what was measured, by heading."""
    lines = [[cell.strip() for cell in line.split("|")] for line in MEASURED.read_text().splitlines()]
    headings = next(cells for cells in lines if "labels" in cells)
    row = next(cells for cells in lines if cells[1:3] == ["3,400,000", method])
    values = zip(headings, row, strict=True)
    return {name: float(re.match(r"[\d.]+", text).group()) for name, text in values if "GiB" in text}


def test_labels_and_ids_are_those_that_were_measured():
    found = measured("LL-Cp")
    assert label_bytes(OPENIMAGES) / 2**30 == pytest.approx(found["labels"], abs=0.02)
    assert id_bytes(OPENIMAGES) / 2**30 == pytest.approx(found["ids"], abs=0.01)
    assert memory_bytes(OPENIMAGES)["LL-Cp"] / 2**30 == pytest.approx(found["method's memory"], abs=0.01)
    ids = [f"{number:016x}" for number in range(1000)]
    assert bytes_of_ids(ids) / 1000 == pytest.approx(id_bytes(OPENIMAGES) / OPENIMAGES.images, abs=1)


@pytest.mark.parametrize(
    ("method", "name", "given"), [("cones", "CoNeS", {}), ("ndlp", "NDLP", {"prior": "candidate"})]
)
@pytest.mark.parametrize("classes", [40, 300])
def test_methods_plan_with_the_same_bytes(method, name, given, classes):
    observed = candidates_of(50, classes, 5)
    criterion = build_criterion(method, observed=observed.codes, feature_width=4, **given)
    needs = criterion.memory_needs(criterion.config, criterion.info)
    planned = next(need.size for need in needs if need.per_image)
    assert memory_bytes(Dataset(50, classes, 5, 5))[name] == pytest.approx(
        planned, abs=24
    )  # one entry and one row more
