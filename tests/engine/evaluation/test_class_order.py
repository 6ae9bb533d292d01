"""Classes of a checkpoint and of a dataset: matched by name, refused where they differ, what is said of their order."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from engine.evaluation.class_order import InOrder, class_columns, class_order_note, in_order, require_same_classes
from models.peers import Peers
from utils.checks import UserError
from utils.types import ModelOutput

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
        saved("tvmonitor", "DOG", "cat", "owl"),
        saved("0", "1", "2", "3", family="csra"),
        saved("class 0", "class 1", "class 2", "class 3", family="asl"),
    ],
)
def test_classes_that_are_in_the_same_order_as_far_as_is_known(file):
    assert class_columns(file, TEST, "voc07") is None


@pytest.mark.parametrize("family", [None, "csra", "asl"])
@pytest.mark.parametrize(
    ("names", "columns"),
    [
        (("dog", "TV monitor", "cat", "owl"), [1, 0, 2, 3]),
        (("owl", "cat", "dog", "TV monitor"), [3, 2, 1, 0]),
        (("cat", "TV monitor", "owl", "dog"), [1, 3, 0, 2]),
        (("dog", "tvmonitor", "cat", "owl"), [1, 0, 2, 3]),
        (("OWL", "tv_monitor", "Cat", "dog "), [1, 3, 2, 0]),
    ],
)
def test_another_order_is_matched_by_name_and_said(names, columns, family):
    file = saved(*names, family=family)
    assert class_columns(file, TEST, "voc07") == columns
    note = class_order_note(file, TEST, "voc07")
    assert note == f"classes: matched by name; the checkpoint has them in another order ({', '.join(names[:3])}, ...)"


def test_numbers_of_a_table_are_names_where_both_have_them():
    assert class_columns(saved("1", "0", "2"), SimpleNamespace(classes=("0", "1", "2")), "table") == [1, 0, 2]
    file = saved("class 1", "class 0", number=2, family="asl")
    assert class_columns(file, SimpleNamespace(classes=("class 0", "class 1")), "table") == [1, 0]


def test_names_that_differ_by_signs_only_are_compared_as_they_are():
    languages = SimpleNamespace(classes=("c", "c++", "c#"))
    assert class_columns(saved("c#", "c", "c++", number=3), languages, "table") == [1, 2, 0]
    with pytest.raises(UserError, match="trained on 3 classes"):
        class_columns(saved("C#", "c", "c++", number=3), languages, "table")


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (saved(number=3), "trained on 3 classes, but voc07 has 4 (TV monitor, dog, cat, ...)"),
        (saved("a", "b", "c", "d", "e", number=5), "trained on 5 classes (a, b, c, ...), but voc07 has 4"),
        (saved("a", "b", "c", "d"), "; only the checkpoint has a, b, c, d; only voc07 has TV monitor, dog, cat, owl;"),
        (saved("a", "b", "c", "d", family="csra"), "; only the checkpoint has a, b, c, d; only voc07 has TV monitor"),
        (saved("tvmonitor", "dog", "cat", "emu"), "; only the checkpoint has emu; only voc07 has owl; give"),
        (saved("tvmonitor", "dog", "cat", number=3), "; only voc07 has owl; give"),
        (
            saved("owl", "dog", "cat", "TV monitor", "emu", number=5, family="asl"),
            "; only the checkpoint has emu; give",
        ),
        (
            saved("dog", "class 2", "cat", "owl", family="csra"),
            "; only the checkpoint has class 2; only voc07 has TV monitor; give",
        ),
        (saved("dog", "dog", "cat", "owl"), "; only voc07 has TV monitor; give"),
        (saved(number=5, family="csra"), "trained on 5 classes, but voc07 has 4"),
        (saved("0", "1", "2", "3"), "; only the checkpoint has 0, 1, 2, 3; only voc07"),
    ],
)
def test_other_classes_are_refused_in_one_line_that_names_them(file, words):
    with pytest.raises(UserError) as error:
        class_columns(file, TEST, "voc07")
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("number", "more"), [(7, ""), (8, ""), (9, " and 1 more"), (30, " and 22 more")])
def test_many_names_are_counted(number, more):
    file = saved(*(f"n{k}x" for k in range(number)), number=number)
    names = ", ".join(file.classes[:8])
    with pytest.raises(UserError, match=rf"only the checkpoint has {names}{more}; only voc07"):
        class_columns(file, TEST, "voc07")


class Fixed(torch.nn.Module):
    """A network of fixed scores and maps."""

    def __init__(self, scores):
        super().__init__()
        self.scores = torch.tensor([scores])

    def forward(self, images, want=frozenset()):
        return ModelOutput(self.scores, None, self.scores[:, :, None, None] if "cam" in want else None)


def test_scores_and_maps_are_put_in_order():
    network = in_order(Fixed([1.0, 2.0, 3.0]), [2, 0, 1])
    assert network(None).logits.tolist() == [[3, 1, 2]]
    assert network(None).cam is None
    assert network(None, frozenset({"cam"})).cam.flatten().tolist() == [3, 1, 2]
    assert "columns" not in network.state_dict()


def test_both_networks_of_a_pair_are_put_in_order():
    both = in_order(Peers(Fixed([1.0, 2.0]), Fixed([3.0, 4.0])), [1, 0])
    assert both.views(None)["f"].tolist() == [[2, 1]]
    assert both.views(None)["g"].tolist() == [[4, 3]]
    assert isinstance(both.f, InOrder)


def test_a_network_in_order_stays_as_it_is():
    network = Fixed([1.0])
    assert in_order(network, None) is network


@pytest.mark.parametrize(
    ("first", "second", "fits"),
    [
        (saved("a", "b", number=2), saved("b", "A", number=2), True),
        (saved("a", "b", number=2), saved(number=2), True),
        (saved(number=2), saved("b", "a", number=2), True),
        (saved("a", "b", number=2), saved("a", "c", number=2), False),
        (saved("a", "b", number=2), saved(number=3), False),
    ],
)
def test_two_checkpoints_have_the_same_classes(first, second, fits):
    if fits:
        require_same_classes(first, second, "--ensemble")
    else:
        with pytest.raises(UserError, match=r"--ensemble x\.pth: trained on other classes than x\.pth"):
            require_same_classes(first, second, "--ensemble")


@pytest.mark.parametrize(
    ("file", "dataset", "note"),
    [
        (saved(*TEST.classes), "voc07", ""),
        (saved("tvmonitor", "DOG", "cat", "owl", family="csra"), "voc07", ""),
        (saved("0", "1", "2", "3", family="csra"), "voc07", "in the order of voc07, as the published code numbers"),
        (saved(family="csra"), "voc07", "in the order of voc07, as the published code numbers"),
        (saved(family="csra"), "voc-lt", "the file does not give their order; that of voc-lt is assumed"),
        (saved(), "voc07", "the file does not give their order; that of voc07 is assumed"),
    ],
)
def test_what_is_said_of_the_order(file, dataset, note):
    said = class_order_note(file, TEST, dataset)
    assert (note in said) if note else (said == "")
    assert said.startswith("classes: ") or not said
