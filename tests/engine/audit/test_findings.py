"""Findings by hand, where `test_command` has them by files."""

import numpy as np
import pytest

from engine.audit.findings import find, listed
from engine.audit.neighbours import Neighbours
from engine.audit.ranking import thresholds
from engine.audit.scores import Scored
from tests.engine.audit.test_source import images, part

CODES = [[1, 0], [0, 0], [0, 1], [1, 0], [0, -1]]
CHANCES = np.array([[0.9, 0.1], [0.8, np.nan], [0.1, 0.5], [0.3, 0.3], [0.2, 0.6]])


@pytest.fixture
def found():
    chances = np.where(np.isnan(CHANCES), 0.4, CHANCES)
    audited = images(part("a", CODES))
    pairs, nothing = np.array([[0, 1]]), np.empty((5, 0), dtype=np.float32)
    rows = np.array([[1, 2, 4], [0, 2, 3], [0, 1, 3], [0, 1, 2], [0, 1, 2]])
    scored = Scored(
        chances,
        thresholds(chances, audited.codes),
        np.array([True, True]),
        pairs,
        np.array([0.99], dtype=np.float32),
        np.array([0, 0, 1, 2, 3]),
        nothing,
        chances.astype(np.float32),
        Neighbours(rows, np.ones((5, 3), dtype=np.float32)),
    )
    return find(audited, scored, 2)


def test_each_kind_is_listed_with_its_suggestion_and_reason(found):
    first = listed(found, "missing", 1)[0]
    assert (first.row, first.label, first.rank, first.rank_in_class, first.suggested) == (1, 0, 1, 1, 1)
    assert first.sure
    assert first.why == (
        "probability 0.80, on average 0.60 where labelled present and 0.37 where absent; labelled present on 2 of the "
        "3 most similar images; present on a0, which is nearly the same image"
    )
    wrong = listed(found, "wrong", 9)
    assert [(one.row, one.label, one.suggested) for one in wrong] == [(3, 0, 0), (2, 1, 0), (0, 0, 0)]
    assert wrong[2].why.endswith("; absent on a1, which is nearly the same image")
    (unknown,) = listed(found, "unknown", 9)
    assert (unknown.row, unknown.label, unknown.suggested, unknown.sure) == (4, 1, 1, True)


def test_classes_are_counted(found):
    cat, dog = found.classes
    assert (cat.name, cat.present, cat.absent, cat.unknown, cat.why_not) == ("x", 2, 3, 0, "")
    assert (dog.present, dog.absent, dog.unknown) == (1, 3, 1)
    assert cat.sure == {"missing": 1, "wrong": 1, "unknown": 0}
    assert dog.sure["unknown"] == 1


def test_a_class_that_is_not_ranked_says_why(found):
    scored = found.scored._replace(ranked=np.array([False, False]))
    assert [one.why_not for one in find(found.images, scored, 3).classes] == [
        "only 2 present of the 3 that are needed",
        "only 1 present of the 3 that are needed",
    ]
    few = find(found.images, scored, 4).classes[0]
    assert few.why_not == "only 2 present and 3 absent of the 4 that are needed"
    assert find(found.images, scored, 1).classes[0].why_not == "all its labels are of images in one group"
