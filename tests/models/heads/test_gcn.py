"""ML-GCN's graph and head against published values, against plain loops, and on labels that are few or none."""

import numpy as np
import pytest
import torch

from models.heads.base import LabelInfo
from models.heads.gcn import GCNConfig, GCNHead, LabelGraph, adjacency, build_gcn, label_graph, normalised
from tests.golden_files import load
from tests.losses.fake_model import random_labels
from tests.models.heads.test_transformer import noise
from tests.oracles import label_graph as oracle
from utils.checks import UserError
from utils.cooccurrence import cooccurrence
from utils.types import UNKNOWN, LabelTable

P = 0.2  # 0.25 of the published code is p / (1 - p)


def table(present):
    return LabelTable(np.asarray(present, dtype=np.int8))


def head(width=6, classes=5, vectors=4, hidden=3, seed=0):
    torch.manual_seed(seed)
    graph = LabelGraph(noise(classes, vectors, seed=seed), noise(classes, classes, seed=seed + 1))
    return GCNHead(width, graph, hidden).double()


def test_golden_counts_and_adjacency():
    golden = load("gcn_adj.npz")
    counted = cooccurrence(table(golden["labels"]))
    together, alone = golden["counts"], golden["nums"]
    np.testing.assert_array_equal(counted, together + np.diag(alone))
    for threshold, matrix, norm in zip(golden["t"], golden["A"], golden["adj_norm"], strict=True):
        found = adjacency(together, alone, float(threshold), P)
        np.testing.assert_allclose(found, matrix, atol=1e-6)
        np.testing.assert_allclose(normalised(found), norm, atol=1e-6)
        graph = label_graph(table(golden["labels"]), float(threshold), P)
        np.testing.assert_allclose(graph.numpy(), norm, atol=1e-6)


@pytest.mark.parametrize(
    ("threshold", "goes_with"), [(0.5, [[0, 1, 0], [1, 0, 0], [1, 0, 0]]), (0.6, [[0, 0, 0], [1, 0, 0], [1, 0, 0]])]
)
def test_a_label_goes_with_another_from_the_threshold_on(threshold, goes_with):
    """Shares P(j|i) are 1/2 and 1/4 of the first class, 1 of both others, of which one was seen once."""
    together, alone = np.array([[0, 2, 1], [2, 0, 0], [1, 0, 0]]), np.array([4, 2, 1])
    weights = np.array(goes_with) * 0.25 / (np.sum(goes_with, axis=0) + 1e-6)
    np.testing.assert_allclose(adjacency(together, alone, threshold, P), np.eye(3) + weights, rtol=1e-12)


def test_golden_adjacency_of_published_counts():
    golden = load("gcn_adj.npz")
    if "voc_counts" not in golden:
        pytest.skip("no published counts in this golden file")
    found = adjacency(golden["voc_counts"], golden["voc_nums"], 0.4, P)
    np.testing.assert_allclose(found, golden["voc_A"], atol=1e-6)
    np.testing.assert_allclose(normalised(found), golden["voc_adj_norm"], atol=1e-6)


def test_golden_head():
    golden = load("gcn_head.npz")
    vectors, graph = (torch.from_numpy(golden[name]).double() for name in ("word_emb", "adj_norm"))
    built = GCNHead(golden["W2"].shape[1], LabelGraph(vectors, graph), golden["W2"].shape[0]).double()
    with torch.no_grad():
        built.gc1.weight.copy_(torch.from_numpy(golden["W1"]))
        built.gc2.weight.copy_(torch.from_numpy(golden["W2"]))
    features = torch.from_numpy(golden["feat_map"]).double()
    exact = {"rtol": 1e-10, "atol": 1e-10}
    hidden = built.gc1(vectors, graph).detach().numpy()
    np.testing.assert_allclose(hidden, golden["hidden"], **exact)
    np.testing.assert_allclose(built.classifiers().detach().numpy(), golden["classifiers"], **exact)
    np.testing.assert_allclose(features.amax(dim=(2, 3)).numpy(), golden["pooled"], rtol=1e-6)
    pooled = torch.from_numpy(golden["pooled"]).double()[:, :, None, None]  # the map itself is of single precision
    np.testing.assert_allclose(built(pooled).detach().numpy(), golden["logits"], **exact)
    np.testing.assert_allclose(built(features).detach().numpy(), golden["logits"], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("threshold", [0.1, 0.4, 1.0])
def test_the_graph_equals_the_loops(seed, threshold):
    codes = random_labels(40, 6, seed)
    codes[:, 3] = UNKNOWN  # a class that nobody observed
    together, alone = oracle.counts(codes == 1)
    expected = oracle.normalised(oracle.adjacency(together, alone, threshold, 0.3))
    np.testing.assert_allclose(label_graph(LabelTable(codes), threshold, 0.3).numpy(), expected, atol=1e-6)


def test_one_label_per_image_makes_the_identity():
    codes = np.full((30, 6), UNKNOWN, dtype=np.int8)
    codes[np.arange(30), np.arange(30) % 5] = 1  # the last class is never observed
    assert (cooccurrence(LabelTable(codes)) == np.diag([6, 6, 6, 6, 6, 0])).all()
    assert torch.equal(label_graph(LabelTable(codes), 0.4, P), torch.eye(6))


def test_labels_that_nobody_observed_leave_a_finite_graph():
    nothing = np.full((4, 3), UNKNOWN, dtype=np.int8)
    assert torch.equal(label_graph(LabelTable(nothing), 0.4, P), torch.eye(3))


def test_a_weight_of_zero_leaves_each_label_alone():
    assert torch.equal(label_graph(LabelTable(random_labels(40, 6)), 0.1, 0.0), torch.eye(6))


def test_permuted_classes_permute_the_graph():
    codes, order = random_labels(60, 6, 1), np.array([2, 0, 5, 1, 4, 3])
    graph = label_graph(LabelTable(codes), 0.3, P).numpy()
    np.testing.assert_allclose(
        label_graph(LabelTable(codes[:, order]), 0.3, P).numpy(), graph[np.ix_(order, order)], rtol=1e-6
    )


@torch.no_grad()
def test_logits_equal_the_loops_on_maps_of_any_size():
    built = head()
    for shape in ((3, 6, 4, 5), (2, 6, 1, 1)):
        features = noise(*shape, seed=7)
        expected = oracle.logits(
            features.numpy(),
            built.graph.vectors.numpy(),
            built.gc1.weight.numpy(),
            built.gc2.weight.numpy(),
            built.graph.adjacency.numpy(),
        )
        np.testing.assert_allclose(built(features).numpy(), expected, rtol=1e-10, atol=1e-12)


@torch.no_grad()
def test_the_map_of_one_position_is_the_logit():
    built, features = head(), noise(2, 6, 1, 1)
    torch.testing.assert_close(built.cam(features)[:, :, 0, 0], built(features))
    several = noise(2, 6, 3, 4)
    expected = torch.einsum("bdhw,kd->bkhw", several, built.classifiers())
    torch.testing.assert_close(built.with_cam(several)[1], expected)


def test_gradients_are_those_of_its_values_and_the_graph_has_none():
    built = head()
    assert torch.autograd.gradcheck(built, (noise(2, 6, 2, 2).requires_grad_(),))
    assert set(dict(built.named_parameters())) == {"gc1.weight", "gc2.weight"}
    built(noise(2, 6, 2, 2)).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in built.parameters())


def test_vectors_and_graph_are_in_the_state_and_stay_in_evaluation():
    assert not head().graph.training
    built = head().train()
    assert {"graph.vectors", "graph.adjacency"} <= set(built.state_dict())
    assert built.training
    assert not built.graph.training


def test_it_starts_as_published():
    torch.manual_seed(0)
    built = GCNHead(64, LabelGraph(torch.zeros(5, 30), torch.eye(5)), 100)
    for weight, bound in ((built.gc1.weight, 1 / 10), (built.gc2.weight, 1 / 8)):
        assert weight.abs().max() <= bound
        assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)


def test_settings_and_label_info_reach_the_head(tmp_path):
    vectors = np.random.default_rng(0).random((6, 12)).astype(np.float32)
    np.save(tmp_path / "vectors.npy", vectors)
    info = LabelInfo([f"class {label}" for label in range(6)], LabelTable(random_labels(40, 6)))
    config = GCNConfig(
        word_vectors=str(tmp_path / "vectors.npy"), word_width=12, gcn_width=9, gcn_threshold=0.2, gcn_p=0.5
    )
    built = build_gcn(16, 6, config, info)
    np.testing.assert_array_equal(built.graph.vectors.numpy(), vectors)
    assert torch.equal(built.graph.adjacency, label_graph(info.observed, 0.2, 0.5))
    assert (built.gc1.weight.shape, built.gc2.weight.shape) == ((12, 9), (9, 16))
    assert build_gcn(16, 6, GCNConfig(word_vectors="one-hot"), None).gc1.weight.shape == (6, 1024)


@pytest.mark.parametrize(
    "settings, part",
    [
        ({"word_vectors": ""}, "--word_vectors"),
        ({"word_width": 0}, "--word_width"),
        ({"gcn_width": 0}, "--gcn_width"),
        ({"gcn_threshold": 0.0}, "--gcn_threshold"),
        ({"gcn_threshold": 1.1}, "--gcn_threshold"),
        ({"gcn_p": 1.0}, "--gcn_p"),
    ],
)
def test_wrong_settings_are_refused(settings, part):
    with pytest.raises(UserError, match=part):
        GCNConfig(**settings)
