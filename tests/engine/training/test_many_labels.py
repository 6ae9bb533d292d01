"""Methods whose labels are too many for a matrix: neither they nor what is kept or scored ever becomes one."""

import numpy as np
import pytest
from scipy.sparse import csr_array

from benchmarks.training_memory import METHODS
from data.datasets import DATASETS
from data.images.files import ArrayImages
from engine.training import label_memory
from tests.commands.scene import run
from utils import types
from utils.types import UNKNOWN, Annotations, LabelTable, Splits

ROWS, CLASSES, BATCH = 24, 40, 8


def part(first, rows):
    """A split of which two labels of each image are known."""
    rng = np.random.default_rng(first)
    known = np.sort(np.stack([rng.choice(CLASSES, 2, replace=False) for _ in range(rows)]), axis=1)
    codes = rng.integers(0, 2, known.shape).astype(np.int8)
    codes[:, 0] = 1
    table = csr_array((codes.ravel(), known.ravel(), np.arange(0, 2 * rows + 1, 2)), shape=(rows, CLASSES))
    ids = tuple(f"{row:04d}" for row in range(first, first + rows))
    images = ArrayImages(rng.integers(0, 256, (rows, 16, 16, 3), dtype=np.uint8), ids)
    return Annotations(images, ids, tuple(f"c{k}" for k in range(CLASSES)), LabelTable(table, default=UNKNOWN))


@pytest.fixture
def words(monkeypatch):
    """Settings of a short run on them, in which nobody may ask for more rows than a batch has."""
    splits = Splits(part(0, ROWS), part(100, 12), validation=part(200, 10))
    monkeypatch.setitem(DATASETS, "openimages", lambda source: splits)
    monkeypatch.setattr(types, "_BLOCK", CLASSES)
    look_up = LabelTable.rows

    def few_rows(table, index):
        rows = look_up(table, index)
        assert len(rows) <= 12, "rows of more than a batch as a matrix"
        return rows

    monkeypatch.setattr(LabelTable, "rows", few_rows)
    model = ("--model", "scenenet", "--weights", "none", "--img_size", "16", "--augment", "none", "--threads", "1")
    return "--dataset", "openimages", *model, "--batch_size", BATCH, "--epochs", 2, "--device", "cpu"


@pytest.mark.parametrize("name", METHODS)
def test_a_run_of_a_method_never_makes_a_matrix_of_its_labels(name, words, tmp_path):
    script, *flags = METHODS[name]
    done = run(tmp_path, script, *flags, *words, "--output", "run")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "result.json").exists()


def test_corrections_that_memory_does_not_hold_are_refused_in_a_line(words, tmp_path, monkeypatch):
    monkeypatch.setattr(label_memory, "usable_memory", lambda: 24 * 5 - 1 + 0 * CLASSES)
    monkeypatch.setattr("engine.training.setup.require_room_to_score", lambda *given: None)
    done = run(tmp_path, "main_llm.py", "--mod_scheme", "LL-Cp", *words, "--output", "run")
    assert (done.returncode, list((tmp_path / "run").glob("*"))) == (2, [])
    assert "large_loss keeps corrections of 0.00 GiB in memory" in done.stderr
    assert "give fewer images by --ss_frac_train" in done.stderr


@pytest.mark.parametrize(
    ("free", "told"),
    [
        (879, "validation: the scores of 20 known labels"),
        (880, "test: the scores of 24 known labels"),
        (1055, "test: the scores of 24 known labels"),
        (1056, ""),
    ],
)
def test_scores_that_memory_does_not_hold_are_refused_before_training(words, tmp_path, monkeypatch, free, told):
    monkeypatch.setattr(label_memory, "usable_memory", lambda: free)
    done = run(tmp_path, "main_BCE.py", "--loss", "an", *words, "--epochs", 1, "--output", "run")
    assert told in done.stderr
    assert done.returncode == (2 if told else 0)
    flag = {"v": "--ss_frac_val", "t": "--test_table"}.get(told[:1], "")
    assert flag in done.stderr
