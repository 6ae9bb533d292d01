"""Classes of a checkpoint and of a dataset: when they are the same, when not, and what is said of their order."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from engine.evaluation.class_order import check_classes, class_order_note
from utils.checks import UserError

TEST = SimpleNamespace(classes=("TV monitor", "dog", "cat", "owl"))


def saved(*classes, number=4, family=None):
    released = SimpleNamespace(family=family) if family else None
    return SimpleNamespace(path=Path("x.pth"), classes=classes, num_classes=number, released=released)


@pytest.mark.parametrize(
    "file",
    [
        saved(*TEST.classes),
        saved(),
        saved(family="csra"),
        saved("tvmonitor", "Dog", "c a t", "owl", family="csra"),
        saved("a", "b", "c", "d", family="csra"),
    ],
)
def test_classes_that_are_the_same_as_far_as_is_known(file):
    check_classes(file, TEST, "voc07")


@pytest.mark.parametrize("family", [None, "csra"])
def test_another_order_is_refused(family):
    with pytest.raises(UserError, match=r"the classes of voc07 in another order \(dog, tvmonitor, cat, \.\.\.\)"):
        check_classes(saved("dog", "tvmonitor", "cat", "owl", family=family), TEST, "voc07")


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (saved(number=3), "trained on 3 classes, but voc07 has 4 (TV monitor, dog, cat, ...)"),
        (saved("a", "b", "c", "d", "e", number=5), "trained on 5 classes (a, b, c, ...), but voc07 has 4"),
        (saved("a", "b", "c", "d"), "trained on 4 classes (a, b, c, ...), but voc07 has 4"),
        (saved("tvmonitor", "dog", "cat", "owl"), "trained on 4 classes (tvmonitor, dog, cat, ...)"),
        (saved(number=5, family="csra"), "trained on 5 classes, but voc07 has 4"),
    ],
)
def test_other_classes_are_refused(file, words):
    with pytest.raises(UserError) as error:
        check_classes(file, TEST, "voc07")
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("file", "dataset", "note"),
    [
        (saved(*TEST.classes), "voc07", ""),
        (saved("tvmonitor", "DOG", "cat", "owl", family="csra"), "voc07", ""),
        (saved("a", "b", "c", "d", family="csra"), "voc07", "in the order of voc07, as the published code numbers"),
        (saved(family="csra"), "voc07", "in the order of voc07, as the published code numbers"),
        (saved(family="csra"), "voc-lt", "the file does not give their order; that of voc-lt is assumed"),
        (saved(), "voc07", "the file does not give their order; that of voc07 is assumed"),
    ],
)
def test_what_is_said_of_the_order(file, dataset, note):
    said = class_order_note(file, TEST, dataset)
    assert (note in said) if note else (said == "")
    assert said.startswith("classes: ") or not said
