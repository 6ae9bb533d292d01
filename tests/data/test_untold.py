"""Classes whose absence is known of no image: they are named, and get no average precision."""

import numpy as np
import pytest
from scipy.sparse import csr_array

from data.inspection import untold_classes
from tests.commands.scene import SMALL, result, run, succeed
from tests.commands.test_changed_data import folder, write  # noqa: F401 - a fixture
from utils.long_tail import group_figures
from utils.metrics import evaluate_known, evaluate_scores, group_map, known_scores
from utils.types import UNKNOWN, Annotations, LabelTable

SCORES = np.random.default_rng(0).normal(size=(6, 4))


def annotations(codes, default=None):
    codes = np.array(codes, dtype=np.int8)
    table = LabelTable(codes) if default is None else LabelTable(csr_array(codes), default=default)
    ids = tuple(str(row) for row in range(len(codes)))
    return Annotations(None or list(ids), ids, tuple("abcdefgh"[: codes.shape[1]]), table)


ALL = "no test image is known to be without any class: its average precision means nothing and counts as 0"
LINES = [
    ([[1, 0], [0, 1]], ""),
    ([[1, -1], [-1, 1]], ALL),
    ([[1, 1], [1, 1]], ALL),
    ([[1, 1], [1, 0]], "no test image is known to be without 1 of 2 classes (a): they have no average precision"),
    ([[-1, -1], [-1, -1]], ""),
    ([[-1, 0], [0, -1]], ""),
    ([[1, -1, 1], [-1, -1, 0]], "no test image is known to be without 1 of 3 classes (a)"),
    ([[1] * 5 + [0], [1] * 6], "no test image is known to be without 5 of 6 classes (a, b, c, d, e): they have"),
    ([[1] * 7 + [0], [1] * 8], "no test image is known to be without 7 of 8 classes (a, b, c, d, e, ...)"),
]


@pytest.mark.parametrize(("codes", "line"), LINES)
def test_the_line_names_the_classes(codes, line):
    found = untold_classes("test", annotations(codes))
    assert found.startswith(line)
    assert bool(found) == bool(line)
    assert not found or found.endswith("absence must be labelled too (0 in a table)")


def test_labels_of_presence_alone_in_a_sparse_table():
    assert untold_classes("test", annotations([[1, 0], [0, 1]], default=UNKNOWN)).startswith(ALL)
    assert untold_classes("test", annotations([[1, 0], [0, 1]], default=0)) == ""


TRUTH = np.array([[1, 1, 0, -1], [-1, 0, 0, 1], [1, 1, 0, -1], [1, 0, -1, 1], [-1, 1, 0, -1], [1, 0, 0, 1]], np.int8)
"""Class a has no known negative, c no positive, d neither but presence."""


@pytest.mark.parametrize("way", ["scores", "known"])
def test_a_class_without_negatives_has_no_average_precision(way):
    found = evaluate_scores(SCORES, TRUTH) if way == "scores" else evaluate_known(known_scores(SCORES, TRUTH))
    assert found.classes_without_negatives == (0, 3)
    assert found.classes_without_positives == (2,)
    assert np.isnan(found.per_class).tolist() == [True, False, True, True]
    assert found.mAP == found.per_class[1]
    assert found.mAP_all == pytest.approx(found.per_class[1] / 2)  # b, and c as 0
    assert found.known.tolist() == [False, True, True, False]
    assert found.at_threshold.CR > 0  # recall needs no negatives
    groups = {"head": np.array([0, 1]), "tail": np.array([3]), "rest": np.array([2])}
    means = group_map(found.per_class, found.known, groups)
    assert (means["head"], np.isnan(means["tail"]), means["rest"]) == (found.per_class[1], True, 0.0)
    figures = group_figures(found.per_class, found.tally, groups)
    assert figures["head"].mAP == found.per_class[1]
    assert np.isnan(figures["tail"].mAP)


def test_any_scores_get_the_same_of_labels_of_presence_alone():
    presence = np.where(TRUTH == 1, 1, -1).astype(np.int8)
    found = [evaluate_scores(scores, presence) for scores in (SCORES, -SCORES)]
    assert [one.mAP for one in found] == [0.0, 0.0]
    assert found[0].classes_without_negatives == (0, 1, 3)


def test_training_inspection_and_evaluation_say_so(folder):  # noqa: F811
    codes = np.random.default_rng(1).integers(0, 2, (18, 3))
    write(folder, np.where(codes == 1, 1, -1))
    words = ("--dataset", "table", "--table", "labels.csv")
    line = "no test image is known to be without any class"
    done = run(folder, "main_BCE.py", *words, *SMALL, "--epochs", "1", "--loss", "an", "--output", "run")
    assert f"note: {line}" in done.stderr
    assert "classes that no test image is known to be without: a, b, c (left out of mAP)" in done.stdout
    found = result(folder / "run")
    assert (found["test"]["mAP"], found["extra"]["classes_without_negatives"]) == (0.0, ["a", "b", "c"])
    assert line in succeed(folder, "inspect_data.py", *words, "--samples", "0")
    assert line in succeed(folder, "evaluate.py", "--load_from", "run/best.pth")
