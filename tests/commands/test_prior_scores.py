"""Runs with scores of the training images from outside: their hash stays with them, and what is wrong is refused."""

import re

import numpy as np
import pytest

from losses import CRITERIA
from losses.assume_negative import BCE
from tests.commands.scene import refusal, result, succeed

ROWS, CLASSES = 16, ("cat", "dog", "sofa")
IDS = [f"images/{row:03d}.jpg" for row in range(ROWS)]
SPLITS = ["train"] * 10 + ["test"] * 6
RUN = (
    *("--dataset", "table", "--table", "t.csv", "--features", "f.npz", "--batch_size", "4", "--threads", "1"),
    *("--warmup_epoch", "0", "--epochs", "1", "--optimizer", "adam", "--lr", "1e-2", "--w_d", "0", "--no-figures"),
)
SCORES = np.random.default_rng(0).random((ROWS, 4)).astype(np.float16)


def scores(path, values=SCORES, ids=IDS, classes=("sofa", "car", "cat", "dog"), kind="probability"):
    np.savez(path, scores=values, ids=ids, classes=classes, kind=kind)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A table, features in the place of its images, and scores of more images and classes than there are."""
    folder = tmp_path_factory.mktemp("prior")
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, (ROWS, len(CLASSES)))
    truth[0], truth[-1] = 1, 1
    lines = [",".join((IDS[row], *map(str, truth[row]), SPLITS[row])) for row in range(ROWS)]
    (folder / "t.csv").write_text("\n".join([f"image,{','.join(CLASSES)},split", *lines]))
    np.savez(folder / "f.npz", features=rng.standard_normal((ROWS, 5)).astype(np.float32), ids=IDS)
    scores(folder / "s.npz")
    return folder


@pytest.fixture
def reader(monkeypatch):
    """BCE as a method that reads prior scores; the scores that it was given."""
    seen = []
    begin = BCE.__init__
    monkeypatch.setattr(BCE, "needs", frozenset({"prior_scores"}))
    monkeypatch.setattr(
        BCE, "__init__", lambda self, config, info: (begin(self, config, info), seen.append(info.prior_scores))[0]
    )
    return seen


def test_scores_of_the_training_set_reach_the_method_and_their_hash_stays(folder, tmp_path, reader):
    succeed(folder, "main_BCE.py", *RUN, "--prior_scores", "s.npz", "--output", tmp_path / "a")
    assert re.fullmatch("[0-9a-f]{64}", result(tmp_path / "a")["data"]["prior_scores"])
    assert len(reader[0]) == 10
    np.testing.assert_array_equal(reader[0].rows(slice(None)), SCORES[:10, [2, 3, 0]].astype(np.float32))


def test_cosines_get_the_temperature(folder, tmp_path, reader):
    scores(tmp_path / "c.npz", kind="cosine")
    words = ("--prior_scores", tmp_path / "c.npz", "--prior_temperature", "0.5", "--output", tmp_path / "a")
    succeed(folder, "main_BCE.py", *RUN, *words)
    powers = np.exp(SCORES[:10, [2, 3, 0]].astype(np.float64) / 0.5)
    np.testing.assert_allclose(reader[0].rows(slice(None)), powers / powers.sum(axis=1, keepdims=True), rtol=1e-6)


def test_a_run_goes_on_with_a_file_that_was_moved_and_with_no_other(folder, tmp_path, reader):
    words = (*RUN, "--output", tmp_path / "run")
    succeed(folder, "main_BCE.py", *words, "--prior_scores", "s.npz")
    (tmp_path / "run" / "result.json").unlink()
    scores(tmp_path / "other.npz", SCORES / 2)
    line = refusal(folder, "main_BCE.py", *words, "--prior_scores", tmp_path / "other.npz", "--resume")
    said = r"run was trained on other prior scores \(hash [0-9a-f]{12}, now [0-9a-f]{12}\); give the --prior_scores it"
    assert re.search(said, line)
    (tmp_path / "moved.npz").write_bytes((folder / "s.npz").read_bytes())
    succeed(folder, "main_BCE.py", *words, "--prior_scores", tmp_path / "moved.npz", "--resume")


def test_ids_are_found_by_the_name_of_the_file_too_and_that_is_said(folder, tmp_path, reader):
    scores(tmp_path / "n.npz", ids=[f"{row:03d}" for row in range(ROWS)])
    words = ("--prior_scores", tmp_path / "n.npz", "--output", tmp_path / "a")
    assert "10 of 10 images found by the name of the file alone" in succeed(folder, "main_BCE.py", *RUN, *words)


def test_what_is_wrong_is_refused_in_one_line(folder, tmp_path, reader):
    def told(path, *words):
        return refusal(folder, "main_BCE.py", *RUN, "--prior_scores", path, "--output", tmp_path / "no", *words)

    assert "none.npz: cannot be read" in told("none.npz")
    scores(tmp_path / "few.npz", SCORES[1:], IDS[1:])
    assert "has no scores of 1 of 10 images of the dataset (images/000.jpg)" in told(tmp_path / "few.npz")
    scores(tmp_path / "names.npz", classes=("sofa", "car", "Cat", "dog"))
    assert "has no scores of 1 of 3 classes of the dataset (cat); it has 'Cat'" in told(tmp_path / "names.npz")
    scores(tmp_path / "wide.npz", SCORES * 2)
    assert "are not all between 0 and 1" in told(tmp_path / "wide.npz")
    assert "--prior_temperature 0.0: must be above 0" in told("s.npz", "--prior_temperature", "0")
    assert "bce: learns from scores of the training images" in refusal(folder, "main_BCE.py", *RUN)
    assert not (tmp_path / "no").exists() or not list((tmp_path / "no").glob("*.json"))


def test_a_method_that_reads_none_refuses_them(folder):
    line = refusal(folder, "main_BCE.py", *RUN, "--prior_scores", "s.npz")
    assert "--prior_scores: bce reads none; leave it out" in line
    takers = [name for name, method in CRITERIA.items() if "prior_scores" in method.criterion.needs]
    assert all(name in line for name in takers)
