import numpy as np
import pytest
import sklearn.cluster
import torch

from losses.cones_prototypes import (
    PrototypeBank,
    Prototypes,
    class_centroids,
    class_prototypes,
    conditional,
    initial_correlation,
    mean_cosine,
    mirrored,
    refresh_correlation,
)
from tests import golden_files
from tests.losses.fake_model import random_labels
from tests.oracles import cones as oracle
from utils.cooccurrence import cooccurrence
from utils.types import LabelTable

KMEANS = {"rtol": 1e-5, "atol": 1e-7}
SINGLE = {"rtol": 1e-5, "atol": 1e-6}


def tensors(arrays, *names):
    return [torch.from_numpy(np.asarray(arrays[name])) for name in names]


def table_of(candidates):
    return LabelTable(np.asarray(candidates).astype(np.int8))


def counts_of(table):
    return torch.from_numpy(cooccurrence(table))


def random_maps(seed, batch=3, classes=4, width=5, size=(4, 3)):
    generator = torch.Generator().manual_seed(seed)
    heatmaps = torch.randn(batch, classes, *size, generator=generator)
    heatmaps[:, 1] = -heatmaps[:, 1].abs()  # never active
    return torch.randn(batch, width, *size, generator=generator), heatmaps


@pytest.mark.parametrize("case, arrays", golden_files.each_case("cones_prototypes.npz"))
def test_golden_prototypes(case, arrays):
    features, heatmaps, rows, active, ids, reversed_rows = tensors(
        arrays, "features", "heatmaps", "prototypes", "active", "reference_class_ids", "reference_rows"
    )
    tau = float(arrays["tau"])
    found = class_prototypes(features, heatmaps, tau, scale="all_pixels")
    torch.testing.assert_close(found.rows, rows, **SINGLE)
    assert torch.equal(found.active, active)
    torch.testing.assert_close(mirrored(found).rows[ids], reversed_rows, **SINGLE)
    masked = class_prototypes(features, heatmaps, tau)
    torch.testing.assert_close(masked.rows, torch.from_numpy(arrays["derived_prototypes_masked_mean"]), **SINGLE)


@pytest.mark.parametrize("case, arrays", golden_files.each_case("cones_prototypes.npz"))
def test_golden_mask_sizes(case, arrays):
    heatmaps, sizes = tensors(arrays, "heatmaps", "derived_mask_count")
    ones = torch.ones(len(heatmaps), 1, *heatmaps.shape[2:])
    share = class_prototypes(ones, heatmaps, float(arrays["tau"]), scale="all_pixels").rows[:, 0]
    torch.testing.assert_close(share * ones.numel(), sizes.float())


@pytest.mark.parametrize("order, prefix", [("correct", ""), ("reversed", "reference_")])
def test_golden_bank_keeps_the_newest_rows_newest_first(order, prefix):
    arrays = golden_files.part(golden_files.load("cones_prototypes.npz"), "mem_")
    expected, lengths = arrays[f"{prefix}bank"], arrays[f"{prefix}length"]
    bank = PrototypeBank(len(expected), int(arrays["capacity"]), expected.shape[2])
    for features, heatmaps in zip(arrays["features"], arrays["heatmaps"], strict=True):
        found = class_prototypes(
            torch.from_numpy(features), torch.from_numpy(heatmaps), float(arrays["tau"]), scale="all_pixels"
        )
        bank.push(mirrored(found) if order == "reversed" else found)
    for label, length in enumerate(lengths):
        kept = bank.newest_first(label)
        assert len(kept) == length
        torch.testing.assert_close(kept, torch.from_numpy(expected[label, :length]), **SINGLE)


@pytest.mark.parametrize("case, arrays", golden_files.each_case("cones_correlation_init.npz"))
def test_golden_initial_correlation_is_finite_where_the_published_code_is_not(case, arrays):
    counts = counts_of(table_of(arrays["candidates"]))
    np.testing.assert_allclose(conditional(counts), arrays["derived_conditional"], rtol=1e-10)
    np.testing.assert_allclose(initial_correlation(counts), arrays["derived_row_normalised"], rtol=1e-10)
    ours = initial_correlation(counts, axis="reference").numpy()
    assert np.isfinite(ours).all()
    if "correlation" in arrays:
        reference = arrays["correlation"]
        held = np.isfinite(reference)
        np.testing.assert_allclose(ours[held], reference[held], rtol=1e-10)
        assert not ours[~held & ~np.eye(len(ours), dtype=bool)].any()


@pytest.mark.parametrize("case, arrays", golden_files.each_case("cones_correlation_update.npz"))
def test_golden_refreshed_correlation(case, arrays):
    memory, before, after, twice, rows = tensors(
        arrays,
        "memory",
        "correlation_before",
        "correlation_after",
        "correlation_after_twice",
        "derived_after_row_normalised",
    )
    settings = {"clusters": int(arrays["clusters"]), "gamma": float(arrays["gamma"]), "mix": "raw"}
    start = initial_correlation(counts_of(table_of(arrays["candidates"])), axis="reference")
    torch.testing.assert_close(start, before, rtol=1e-10, atol=0)
    first = refresh_correlation(before, list(memory), axis="reference", **settings)
    second = refresh_correlation(first, list(memory), axis="reference", **settings)
    torch.testing.assert_close(first, after, **KMEANS)
    torch.testing.assert_close(second, twice, **KMEANS)
    torch.testing.assert_close(refresh_correlation(before, list(memory), **settings), rows, **KMEANS)


@pytest.mark.parametrize("case, arrays", golden_files.each_case("cones_correlation_update.npz"))
def test_golden_centroids_and_their_mean_cosine(case, arrays):
    fitted = np.stack([class_centroids(torch.from_numpy(rows), int(arrays["clusters"])) for rows in arrays["memory"]])
    np.testing.assert_allclose(fitted, arrays["centroids"], **KMEANS)
    ours = mean_cosine(torch.from_numpy(arrays["centroids"]))
    np.testing.assert_allclose(ours, arrays["mean_cosine"], rtol=1e-10)
    np.testing.assert_allclose(ours, oracle.mean_cosine(arrays["centroids"]), rtol=1e-10)


@pytest.mark.parametrize("seed", range(3))
def test_prototypes_match_loops(seed):
    features, heatmaps = random_maps(seed)
    found = class_prototypes(features.double(), heatmaps.double(), 0.3)
    expected = oracle.prototypes(features.double().numpy(), heatmaps.double().numpy(), 0.3)
    np.testing.assert_allclose(found.rows, expected, rtol=1e-10)
    assert found.active.tolist() == [True, False, True, True]


def test_prototypes_follow_a_permutation_of_classes_and_ignore_the_order_of_images():
    features, heatmaps = random_maps(0)
    classes, images = torch.tensor([2, 0, 3, 1]), torch.tensor([1, 2, 0])
    plain = class_prototypes(features, heatmaps, 0.2)
    moved = class_prototypes(features[images], heatmaps[images][:, classes], 0.2)
    torch.testing.assert_close(moved.rows, plain.rows[classes])
    assert torch.equal(moved.active, plain.active[classes])


def test_a_pixel_at_exactly_tau_is_left_out():
    heatmaps = torch.tensor([4.0, 1.0, 1.5, -8.0]).reshape(1, 1, 2, 2)
    features = torch.tensor([1.0, 100.0, 3.0, 100.0]).reshape(1, 1, 2, 2)
    assert class_prototypes(features, heatmaps, 0.25).rows.tolist() == [[2.0]]


def test_one_pixel_of_one_image_is_the_whole_prototype():
    heatmaps = torch.tensor([[-1.0, 2.0], [0.0, -3.0]]).reshape(1, 2, 2, 1)
    features = torch.tensor([[1.0, 5.0], [2.0, 7.0], [3.0, 9.0]]).reshape(1, 3, 2, 1)
    found = class_prototypes(features, heatmaps, 0.1)
    assert found.rows.tolist() == [[5.0, 7.0, 9.0], [0.0, 0.0, 0.0]]
    assert found.active.tolist() == [True, False]
    over_all = class_prototypes(features, heatmaps, 0.1, scale="all_pixels")
    assert over_all.rows.tolist() == [[2.5, 3.5, 4.5], [0.0, 0.0, 0.0]]


def test_candidate_images_alone_are_seen_when_asked_for():
    features, heatmaps = random_maps(1)
    candidates = torch.tensor([[1.0, 1, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0]])
    found = class_prototypes(features, heatmaps, 0.2, candidates=candidates)
    alone = class_prototypes(features[:1], heatmaps[:1], 0.2)
    rest = class_prototypes(features[1:], heatmaps[1:], 0.2)
    torch.testing.assert_close(found.rows[0], alone.rows[0])
    torch.testing.assert_close(found.rows[2], rest.rows[2])
    assert found.active.tolist() == [True, False, True, False]


def test_prototypes_carry_no_gradient_and_change_no_input():
    features, heatmaps = random_maps(2)
    kept = features.clone(), heatmaps.clone()
    found = class_prototypes(features.requires_grad_(), heatmaps, 0.2)
    assert not found.rows.requires_grad
    assert torch.equal(features, kept[0])
    assert torch.equal(heatmaps, kept[1])


def test_half_precision_maps_are_summed_in_single_precision():
    features = torch.full((2, 1, 40, 40), 60.0, dtype=torch.float16)  # the sum, 192000, is past half's range
    found = class_prototypes(features, torch.ones(2, 1, 40, 40, dtype=torch.float16), 0.1)
    assert found.rows.tolist() == [[60.0]]


def test_mirrored_hands_each_active_class_its_mirror_images_row():
    rows = torch.arange(5.0)[:, None]
    active = torch.tensor([True, False, True, True, False])
    assert mirrored(Prototypes(rows, active)).rows[:, 0].tolist() == [3, 0, 2, 0, 0]
    assert mirrored(Prototypes(rows + 1, ~active)).rows[:, 0].tolist() == [0, 5, 0, 0, 2]
    assert mirrored(Prototypes(rows + 1, active.new_zeros(5))).rows[:, 0].tolist() == [0] * 5
    assert mirrored(Prototypes(rows + 1, active.new_ones(5))).rows[:, 0].tolist() == [5, 4, 3, 2, 1]


def test_bank_leaves_inactive_classes_alone():
    bank = PrototypeBank(2, 3, 1)
    for step in range(5):
        bank.push(Prototypes(torch.full((2, 1), float(step)), torch.tensor([True, step == 1])))
    assert bank.newest_first(0)[:, 0].tolist() == [4, 3, 2]
    assert bank.newest_first(1)[:, 0].tolist() == [1]


@pytest.mark.parametrize("seed", range(3))
def test_initial_correlation_matches_loops(seed):
    codes = random_labels(30, 6, seed)
    codes[:, 4] = 0  # never a candidate
    codes[:, 5] = 0
    codes[7] = [0, 0, 0, 0, 0, 1]  # never in company
    ours = initial_correlation(counts_of(LabelTable(codes)))
    np.testing.assert_allclose(ours, oracle.initial_correlation(codes), atol=1e-12)


def test_a_class_of_one_image_is_as_sure_of_its_company_as_any_other():
    counts = torch.tensor([[1, 1, 0], [1, 4, 0], [0, 0, 0]])
    assert conditional(counts).tolist() == [[0, 1, 0], [0.25, 0, 0], [0, 0, 0]]


def groups(seed, classes=4, rows=12, width=6):
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(rows, width, generator=generator) + torch.eye(width)[label] for label in range(classes)]


def some_correlation(classes=4):
    return initial_correlation(counts_of(LabelTable(random_labels(30, classes, 5))))


def test_refreshed_correlation_matches_loops_and_its_rows_sum_to_one():
    memory, before = groups(0), some_correlation()
    ours = refresh_correlation(before, memory, clusters=3, gamma=0.7)
    cosine = oracle.mean_cosine([class_centroids(rows, 3).numpy() for rows in memory])
    np.testing.assert_allclose(ours, oracle.refresh_correlation(before.numpy(), cosine, 0.7), rtol=1e-10)
    np.testing.assert_allclose(ours.sum(dim=1), 2.0, rtol=1e-12)


def test_gamma_one_keeps_the_correlation_and_gamma_zero_forgets_it():
    memory = groups(1)
    torch.testing.assert_close(
        refresh_correlation(some_correlation(), memory, clusters=2, gamma=1.0), some_correlation()
    )
    fresh = [
        refresh_correlation(before, memory, clusters=2, gamma=0.0) for before in (some_correlation(), torch.eye(4))
    ]
    torch.testing.assert_close(*fresh)


@pytest.mark.parametrize("axis", ["row", "reference"])
@pytest.mark.parametrize("mix", ["normalised", "raw"])
def test_classes_with_too_few_prototypes_keep_row_and_column(axis, mix):
    memory, before = groups(2), some_correlation()
    memory[1] = memory[1][:2]
    after = refresh_correlation(before, memory, clusters=3, gamma=0.5, axis=axis, mix=mix)
    assert torch.equal(after[1], before[1])
    assert torch.equal(after[:, 1], before[:, 1])
    assert not torch.equal(after[0], before[0])
    assert torch.isfinite(after).all()
    if axis == "row":
        torch.testing.assert_close(after.sum(dim=1), before.sum(dim=1))


def test_nothing_is_refreshed_nor_fitted_without_two_known_classes(monkeypatch):
    memory, before = groups(3), some_correlation()
    memory[1:] = [rows[:0] for rows in memory[1:]]
    with monkeypatch.context() as patch:
        patch.setattr(sklearn.cluster, "KMeans", lambda *a, **k: pytest.fail("a fit for nothing"))
        after = refresh_correlation(before, memory, clusters=3, gamma=0.5)
    assert torch.equal(after, before)
    assert after is not before
    memory[2] = groups(3)[2]
    after = refresh_correlation(before, memory, clusters=3, gamma=0.5, mix="raw", axis="reference")
    assert (after != before).nonzero().tolist() == [[0, 2], [2, 0]]


def test_one_fit_per_class(monkeypatch):
    fits = []

    real = sklearn.cluster.KMeans
    monkeypatch.setattr(sklearn.cluster, "KMeans", lambda *a, **k: fits.append((*a, k)) or real(*a, **k))
    refresh_correlation(some_correlation(), groups(4), clusters=3, gamma=0.5)
    assert fits == [(3, {"random_state": 42, "n_init": "auto"})] * 4  # the seed is the published code's


def test_opposed_and_empty_prototypes_give_a_finite_correlation():
    memory = [rows.clone() for rows in groups(5)]
    memory[2] = -memory[2]
    memory[3] = torch.zeros_like(memory[3])
    memory[3][0] = 1e-3
    after = refresh_correlation(some_correlation(), memory, clusters=2, gamma=0.5)
    assert torch.isfinite(after).all()
    assert (after >= 0).all()


def test_refresh_changes_no_input():
    memory, before = groups(6), some_correlation()
    kept = before.clone(), [rows.clone() for rows in memory]
    refresh_correlation(before, memory, clusters=2, gamma=0.5)
    assert torch.equal(before, kept[0])
    assert all(torch.equal(a, b) for a, b in zip(memory, kept[1], strict=True))


@pytest.mark.parametrize("axis", ["row", "reference"])
@pytest.mark.parametrize("mix", ["normalised", "raw"])
def test_without_any_evidence_there_is_only_the_diagonal(axis, mix):
    """No class was seen with another, and the prototypes of no two classes are alike: nothing to divide by."""
    memory = [torch.eye(4)[[label] * 3] for label in range(4)]
    after = refresh_correlation(torch.eye(4), memory, clusters=1, gamma=0.5, axis=axis, mix=mix)
    assert after.tolist() == torch.eye(4).tolist()


def test_a_class_without_evidence_learns_its_row_from_the_prototypes_alone():
    """Class 2 was seen with no other: its whole row is spread over the classes that its prototype is like."""
    before = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=torch.float64)
    memory = [torch.tensor(row).repeat(2, 1) for row in ([1.0, 0.0], [0.0, 1.0], [0.6, 0.8])]
    after = refresh_correlation(before, memory, clusters=1, gamma=0.5)
    np.testing.assert_allclose(after[2], [0.6 / 1.4, 0.8 / 1.4, 1], rtol=1e-6)
    np.testing.assert_allclose(after[0], [1, 0.5, 0.5], rtol=1e-6)
    np.testing.assert_allclose(after[1], [0.5, 1, 0.5], rtol=1e-6)


def test_as_many_prototypes_as_clusters_are_enough_and_one_fewer_is_not():
    memory, before = groups(2), some_correlation()
    for kept, moves in ((3, True), (2, False)):
        cut = [rows[:kept] for rows in memory]
        assert torch.equal(refresh_correlation(before, cut, clusters=3, gamma=0.5), before) is not moves
