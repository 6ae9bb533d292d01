"""What reports show, as plain values."""

import base64

import numpy as np
import pytest

from engine.report import content
from engine.report.content import Bin, confidence, percent, picture, ranked_classes, shown_classes, worst_classes


def rows(*values):
    return [{"class": f"c{k}", "AP": value} for k, value in enumerate(values)]


def names(found):
    return [row["class"] for row in found]


def test_classes_are_ranked_and_those_without_a_figure_come_last():
    assert names(ranked_classes(rows(0.2, None, 0.9, 0.2, None))) == ["c2", "c0", "c3", "c1", "c4"]


@pytest.mark.parametrize(
    ("count", "most", "left", "shown"),
    [(4, 4, 0, "0123"), (5, 4, 1, "0134"), (7, 4, 3, "0156"), (6, 5, 2, "0145")],
)
def test_of_many_classes_the_best_and_the_worst_are_shown(monkeypatch, count, most, left, shown):
    monkeypatch.setattr(content, "MOST_CLASSES", most)
    found, out = shown_classes(rows(*(1 - k / 10 for k in range(count))))
    assert (names(found), out) == ([f"c{k}" for k in shown], left)


def test_the_worst_classes_are_named_where_there_are_enough():
    values = [k / 100 for k in range(10)]
    assert worst_classes(rows(*values, None)) == ["c0 0.00", "c1 1.00", "c2 2.00", "c3 3.00", "c4 4.00"]
    assert worst_classes(rows(*values[:9], None)) == []


def test_probabilities_are_counted_apart_for_present_and_absent_labels():
    logits = np.array([[0.0, 100.0], [-100.0, -1.0], [3.0, 50.0]])
    codes = np.array([[1, 1], [0, 0], [1, -1]], dtype=np.int8)
    found = confidence(logits, codes)
    assert [(one.low, round(one.high, 9)) for one in found] == [
        (pytest.approx(k / 10), (k + 1) / 10) for k in range(10)
    ]
    assert [round(3 * one.present) for one in found] == [0, 0, 0, 0, 0, 1, 0, 0, 0, 2]
    assert [one.absent for one in found] == [0.5, 0, 0.5, 0, 0, 0, 0, 0, 0, 0]
    assert isinstance(found[0], Bin)


@pytest.mark.parametrize("codes", [None, [[1, 1]], [[0, -1]], [[-1, -1]]])
def test_without_labels_of_both_kinds_there_is_nothing_to_count(codes):
    codes = None if codes is None else np.array(codes, dtype=np.int8)
    assert confidence(np.zeros((1, 2)), codes) == []
    assert confidence(None, np.array([[0, 1]], dtype=np.int8)) == []


def test_a_picture_that_was_not_drawn_is_left_out(tmp_path):
    assert picture(tmp_path / "a.png", "A", "a") is None
    (tmp_path / "a.png").write_bytes(b"pixels")
    assert picture(tmp_path / "a.png", "A", "a") == ("A", "a", base64.b64encode(b"pixels").decode())


def test_fractions_are_percentages():
    assert [percent(value) for value in (0.12345, 1, 0, None)] == ["12.35", "100.00", "0.00", "-"]
