"""The dictionary of training images and the graph of labels."""

import numpy as np
import pytest
import torch

from losses.imcl_dictionary import Dictionary, LabelGraph, drawn_rows
from tests.losses.fake_model import random_labels
from tests.losses.steps import WAITING, Recorder
from tests.oracles import imcl as oracle
from utils.cooccurrence import cooccurrence
from utils.types import LabelTable

ROWS, CLASSES = 9, 6
CODES = random_labels(ROWS, CLASSES, seed=2)


def dictionary(size, seed=0):
    return Dictionary(LabelTable(CODES), size, 3, seed)


def test_rows_are_drawn_by_the_seed_and_in_order():
    rows = drawn_rows(100, 20, 3)
    assert rows.dtype == np.int64
    assert len(set(rows.tolist())) == 20
    assert (np.diff(rows) > 0).all()
    assert not np.array_equal(rows, drawn_rows(100, 20, 4))
    assert rows.max() > 50  # of all of them


@pytest.mark.parametrize("size", [ROWS, ROWS + 1, 10_000])
def test_all_images_are_atoms_where_there_are_no_more(size):
    assert drawn_rows(ROWS, size, 0).tolist() == list(range(ROWS))
    assert len(drawn_rows(ROWS, ROWS - 1, 0)) == ROWS - 1


def test_at_the_start_nothing_has_been_seen_and_labels_are_those_observed():
    found = dictionary(4)
    np.testing.assert_array_equal(found.codes, CODES[found.rows.numpy()])
    assert found.features.shape == (4, 3)
    assert not found.seen.any()
    assert list(found.state_dict()) == ["features", "seen"]  # the rest follows from seed and labels


def test_features_of_atoms_are_taken_up_and_those_of_others_are_not():
    found = dictionary(4)
    atoms = found.rows.tolist()
    others = [row for row in range(ROWS) if row not in atoms]
    index = torch.tensor([others[0], atoms[2], others[-1], atoms[0]])
    features = torch.arange(12.0).view(4, 3)
    found.refresh(index, features)
    assert found.seen.tolist() == [True, False, True, False]
    torch.testing.assert_close(found.features[[0, 2]], features[[3, 1]])
    assert found.features[[1, 3]].abs().sum() == 0
    found.refresh(torch.tensor(others), torch.ones(len(others), 3))
    torch.testing.assert_close(found.features[[0, 2]], features[[3, 1]])


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 0, 2]])
def test_a_batch_with_every_row_leaves_each_atom_its_own_features(order):
    """Also where a row that is no atom would stand at an atom's place."""
    found = dictionary(5)
    index = torch.cat([torch.arange(ROWS)[part::3] for part in order])
    found.refresh(index, index[:, None] * torch.ones(3))
    assert found.seen.all()
    torch.testing.assert_close(found.features, found.rows[:, None] * torch.ones(3))


def test_of_an_image_that_comes_twice_the_first_features_count():
    found = dictionary(ROWS)
    found.refresh(torch.tensor([4, 1, 4]), torch.tensor([[1.0], [2.0], [3.0]]).expand(3, 3))
    assert found.features[4].tolist() == [1.0] * 3
    found.refresh(torch.tensor([4]), torch.full((1, 3), 9.0))
    assert found.features[4].tolist() == [9.0] * 3


def test_features_are_kept_without_gradient_in_the_type_of_the_dictionary():
    found = dictionary(ROWS)
    found.refresh(torch.tensor([0]), torch.ones(1, 3, dtype=torch.float64, requires_grad=True))
    assert (found.features.dtype, found.features.requires_grad) == (torch.float32, False)


def test_an_image_may_take_all_that_has_been_seen_but_itself():
    found = dictionary(ROWS)
    found.refresh(torch.tensor([1, 5, 7]), torch.ones(3, 3))
    allowed = found.others(torch.tensor([5, 2]))
    assert [row.nonzero().flatten().tolist() for row in allowed] == [[1, 7], [1, 5, 7]]


def test_nothing_waits_for_a_gpu():
    found = dictionary(4)
    index, features = torch.tensor([3, 1]), torch.ones(2, 3)
    with Recorder() as seen:
        found.refresh(index, features)
        found.others(index)
    assert not seen.names & WAITING


def of_classes(graph):
    """(C, C) weight of each class (column) in what completes a class (row)."""
    found = graph(torch.eye(len(graph.strengths)).to(graph.strengths.dtype)).detach().T
    torch.testing.assert_close(graph.weights().detach(), found.gather(1, graph.sources))
    return found


@pytest.mark.parametrize("neighbours", [0, 1, 3, 5, 9])
def test_the_weights_of_the_graph_are_alike_at_the_start(neighbours):
    graph = LabelGraph(cooccurrence(LabelTable(CODES)), neighbours)
    np.testing.assert_allclose(of_classes(graph), oracle.graph_weights(CODES, neighbours), rtol=1e-6)
    scores = torch.randn(4, CLASSES)
    expected = scores.numpy() @ oracle.graph_weights(CODES, neighbours).T
    np.testing.assert_allclose(graph(scores).detach(), expected, rtol=1e-5, atol=1e-6)


def test_of_classes_that_are_as_often_present_with_another_the_first_are_taken():
    counts = np.array([[9, 2, 2, 3], [2, 9, 0, 0], [2, 0, 9, 0], [3, 0, 0, 1]])
    graph = LabelGraph(counts, 2)
    assert graph.sources[0].tolist() == [0, 3, 1]
    assert graph.linked.tolist() == [[True] * 3, [True, True, False], [True, True, False], [True, True, False]]


def test_classes_that_are_never_present_together_keep_their_own_scores():
    graph = LabelGraph(np.diag([4, 2, 0]), 2)
    scores = torch.randn(2, 3)
    torch.testing.assert_close(graph(scores), scores)


def test_learned_weights_stay_shares_of_the_same_sources():
    graph = LabelGraph(cooccurrence(LabelTable(CODES)), 2).double()
    before = of_classes(graph) > 0
    with torch.no_grad():
        graph.strengths.normal_(std=30, generator=torch.Generator().manual_seed(0))
    weights = of_classes(graph)
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(CLASSES).double())
    assert (weights >= 0).all()
    assert not weights[~before].any()
    scores = torch.randn(3, CLASSES, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():
        graph.strengths /= 30
    assert torch.autograd.gradcheck(
        lambda scores, strengths: torch.func.functional_call(graph, {"strengths": strengths}, (scores,)),
        (scores, graph.strengths),
    )


def test_a_graph_of_classes_alone_has_nothing_to_learn():
    counts = cooccurrence(LabelTable(CODES))
    assert not LabelGraph(counts, 0).strengths.requires_grad
    assert LabelGraph(counts, 1).strengths.requires_grad
    assert list(LabelGraph(counts, 1).state_dict()) == ["strengths"]
