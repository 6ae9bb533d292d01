"""The head of a run gives its rows to a new one with other classes."""

import json

import pytest
import safetensors.torch
import torch

from models.build import Architecture, build_model
from models.heads import HEADS
from models.heads.base import LabelInfo
from models.peers import build_peers
from models.trained_head import class_axes, fits, reuse_head, trained_head
from tests.losses.fake_model import random_labels
from utils.checks import UserError
from utils.types import LabelTable

OLD, NEW = ("cat", "dog", "cow", "person"), ("dog", "horse", "cat", "bus", "tram")
SMALL = {"q2l": {"hidden_dim": 16, "nheads": 2}, "ctran": {"hidden_dim": 16, "nheads": 2}}
ROWS = {
    "linear": {"fc.weight": 0, "fc.bias": 0},
    "csra": {"weights.0": 0},
    "pfc": {"fc_cls.weight": 0, "fc_cls.bias": 0},
    "q2l": {"query_embed.weight": 0, "fc.W": 1, "fc.b": 1},
    "ctran": {"label_lt.weight": 0, "fc.weight": 0, "fc.bias": 0},
    "gcn": {},
}
"""Tensors with a row for each class, and the axis."""


def info(classes):
    return LabelInfo(list(classes), LabelTable(random_labels(30, len(classes))))


def built(kind, classes, weights="none", seed=1, build=build_model, **more):
    architecture = Architecture.of(model="scenenet", weights=str(weights), head=kind, **SMALL.get(kind, {}), **more)
    return build(architecture, len(classes), seed, label_info=info(classes))


def content_of(network, kind, classes=OLD, peers=False):
    settings = {"head": kind, "model": "scenenet"}
    return {"model": network.state_dict(), "classes": list(classes), "settings": settings, "peers": peers}


@pytest.fixture
def file(tmp_path):
    return tmp_path / "best.pth"


@pytest.mark.parametrize("kind", ROWS)
def test_rows_are_where_heads_of_more_classes_are_longer(kind):
    before = torch.get_rng_state()
    axes = class_axes(kind, HEADS[kind].config(**SMALL.get(kind, {})), 64)
    assert {name: axis for name, axis in axes.items() if axis is not None} == ROWS[kind]
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("kind", [kind for kind in ROWS if kind != "gcn"])
def test_rows_of_known_classes_and_shared_layers_are_taken_and_the_rest_is_as_it_would_be(kind, file, capsys):
    trained = built(kind, OLD, seed=5)
    torch.save(content_of(trained, kind), file)
    fresh, made = built(kind, NEW).head.state_dict(), built(kind, NEW, file)
    assert capsys.readouterr().out.splitlines()[-1] == (
        f"{file}: the head takes the rows of 2 of its 5 classes (dog, cat); 3 are new (horse, bus, tram)"
    )
    for name, value in made.head.state_dict().items():
        old, axis = trained.head.state_dict()[name], ROWS[kind].get(name)
        if axis is None:
            assert torch.equal(value, old), name
            continue
        value, old, new = (each.movedim(axis, 0) for each in (value, old, fresh[name]))
        assert torch.equal(value, torch.stack([old[1], new[1], old[0], new[3], new[4]])), name
    for name, value in made.backbone.state_dict().items():
        assert torch.equal(value, trained.backbone.state_dict()[name])


def test_all_classes_in_another_order(file, capsys):
    trained = built("linear", OLD, seed=5)
    torch.save(content_of(trained, "linear"), file)
    made = built("linear", OLD[::-1], file)
    assert "the head takes the rows of all its 4 classes" in capsys.readouterr().out
    assert torch.equal(made.head.fc.weight, trained.head.fc.weight.flip(0))


NEW_HEADS = [
    ("csra", "linear", OLD, "the head is new: the file's is csra, this one linear"),
    ("gcn", "gcn", OLD, "the head is new: in one of kind gcn classes are no rows that could be taken"),
    ("linear", "linear", ("a", "b"), "the head is new: the file knows none of its classes (a, b)"),
    ("linear", "linear", [str(one) for one in range(11)], "none of its classes (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ...)"),
]


@pytest.mark.parametrize(("before", "kind", "classes", "said"), NEW_HEADS)
def test_a_head_that_can_take_nothing_is_new(before, kind, classes, said, file, capsys):
    torch.save(content_of(built(before, OLD, seed=5), before), file)
    made = built(kind, classes, file)
    assert capsys.readouterr().out.splitlines()[-1].endswith(said)
    expected = built(kind, classes).head.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in made.head.state_dict().items())


def test_a_head_of_the_same_kind_and_other_sizes_is_new(file, capsys):
    trained = built("linear", OLD, seed=5)
    content = content_of(trained, "linear")
    for change in ({"head.fc.bias": None}, {"head.fc.weight": torch.ones(4, 7)}, {"head.fc.weight": torch.ones(3, 64)}):
        state = {name: value for name, value in {**content["model"], **change}.items() if value is not None}
        torch.save({**content, "model": state}, file)
        built("linear", OLD, file)
        assert "the file's has the kind linear too, but other sizes or layers" in capsys.readouterr().out


def test_on_request_the_head_is_new(file, capsys):
    torch.save(content_of(built("linear", OLD, seed=5), "linear"), file)
    made = built("linear", NEW, file, head_rows=False)
    assert "the head" not in capsys.readouterr().out
    assert torch.equal(made.head.fc.weight, built("linear", NEW).head.fc.weight)


def test_of_two_networks_the_first_gives_and_two_networks_begin_with_new_heads(file, capsys):
    pair = built("linear", OLD, seed=5, build=build_peers)
    torch.save(content_of(pair, "linear", peers=True), file)
    made = built("linear", OLD, file)
    assert torch.equal(made.head.fc.weight, pair.f.head.fc.weight)
    assert "the head takes" in capsys.readouterr().out
    made = built("linear", OLD, file, build=build_peers)
    assert "the head" not in capsys.readouterr().out
    assert torch.equal(made.f.head.fc.weight, built("linear", OLD).head.fc.weight)
    expected = pair.f.backbone.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in made.g.backbone.state_dict().items())


def test_safetensors_have_classes_beside_them(tmp_path):
    trained = built("linear", OLD, seed=5)
    content, file = content_of(trained, "linear"), tmp_path / "best.safetensors"
    metadata = {name: json.dumps(content[name]) for name in ("classes", "settings", "peers")}
    safetensors.torch.save_file(content["model"], file, {**metadata, "format": "no JSON"})
    made = built("linear", NEW, file)
    assert torch.equal(made.head.fc.weight[0], trained.head.fc.weight[1])
    safetensors.torch.save_file(content["model"], file)
    assert torch.equal(built("linear", NEW, file).head.fc.weight, built("linear", NEW).head.fc.weight)


def test_files_without_a_head_or_classes_say_nothing(file):
    content = content_of(built("linear", OLD), "linear")
    body = {name: value for name, value in content["model"].items() if name.startswith("backbone.")}
    changes = (
        {"classes": None},
        {"classes": []},
        {"classes": ["cat", 1]},
        {"settings": "linear"},
        {"model": body},
        {"model": {"head.fc.weight": 1}},
    )
    assert trained_head(content, file).state.keys() == {"fc.weight", "fc.bias"}
    for other in (content["model"], [content], *({**content, **change} for change in changes)):
        assert trained_head(other, file) is None


def test_numbers_that_are_not_finite_are_refused_before_anything_is_copied(file):
    content = content_of(built("linear", OLD), "linear")
    content["model"]["head.fc.bias"] = torch.tensor([1.0, 2.0, float("nan"), 0.0])
    head, axes = built("linear", NEW).head, ROWS["linear"]
    before = {name: value.clone() for name, value in head.state_dict().items()}
    trained = trained_head(content, file)
    assert fits(head, trained, axes)
    with pytest.raises(UserError, match=r"best\.pth: fc\.bias holds numbers that are not finite"):
        reuse_head(head, "linear", HEADS["linear"].config(), 64, trained, NEW)
    assert all(torch.equal(value, before[name]) for name, value in head.state_dict().items())
