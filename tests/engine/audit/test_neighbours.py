import numpy as np
import pytest

from engine.audit import neighbours
from engine.audit.neighbours import near_duplicates, nearest, neighbour_votes, unit_vectors


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(neighbours, "_BLOCK", 7)


def vectors(rows=25, seed=0):
    return unit_vectors(np.random.default_rng(seed).standard_normal((rows, 5)) + 3)


def test_vectors_have_length_one_around_the_mean():
    features = np.random.default_rng(1).standard_normal((9, 4)) + 5
    centred = features - features.mean(0)
    np.testing.assert_allclose(unit_vectors(features), centred / np.linalg.norm(centred, axis=1)[:, None], rtol=1e-5)
    assert unit_vectors(np.ones((3, 2))).tolist() == [[0, 0]] * 3


def test_pairs_are_found_once_from_their_cosine_on():
    found = vectors()
    found[20] = found[3]
    cosines = found @ found.T
    least = float(np.sort(cosines[np.triu_indices(25, 1)])[-6])
    expected = [[a, b] for a in range(25) for b in range(a + 1, 25) if cosines[a, b] >= least - 1e-6]
    pairs, values = near_duplicates(found, least - 1e-6)
    assert sorted(pairs.tolist()) == expected
    assert [3, 20] in expected
    np.testing.assert_allclose(values, [cosines[a, b] for a, b in pairs], rtol=1e-5)
    assert len(near_duplicates(found, 1.01)[0]) == 0


def test_neighbours_are_of_other_units_and_the_nearest_first():
    found, units = vectors(), np.arange(25) // 2
    result = nearest(found, units, 4)
    for row in range(25):
        others = [other for other in range(25) if units[other] != units[row]]
        cosines = found[row] @ found[others].T
        best = np.argsort(-cosines)[:4]
        assert result.rows[row].tolist() == [others[one] for one in best]
        np.testing.assert_allclose(result.cosine[row], cosines[best], rtol=1e-4, atol=1e-6)
    assert nearest(found[:3], np.arange(3), 30).rows.shape == (3, 2)
    assert nearest(found, np.zeros(25, dtype=int), 4).cosine.max() == -1


def test_votes_are_shares_by_weight_with_the_share_of_the_class_as_one_neighbour():
    rng = np.random.default_rng(2)
    found, codes = vectors(), rng.integers(-1, 2, (25, 3)).astype(np.int8)
    result = nearest(found, np.arange(25), 6)
    votes = neighbour_votes(result, codes)
    for row in range(25):
        weights = [np.exp(10 * float(cosine)) for cosine in result.cosine[row]]
        mean = sum(weights) / 6
        for label in range(3):
            given = [codes[other, label] for other in result.rows[row]]
            base = (codes[:, label] == 1).sum() / (codes[:, label] >= 0).sum()
            present = sum(w for w, code in zip(weights, given, strict=True) if code == 1)
            known = sum(w for w, code in zip(weights, given, strict=True) if code >= 0)
            share = (present + mean * base) / (known + mean)
            assert votes[row, label] == pytest.approx(np.log(share / (1 - share)))


def test_an_image_without_neighbours_gets_the_share_of_the_class():
    codes = np.array([[1], [0], [0], [0]], dtype=np.int8)
    votes = neighbour_votes(nearest(vectors(4), np.zeros(4, dtype=int), 3), codes)
    np.testing.assert_allclose(votes, np.log(1 / 3))
