import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from engine.audit.heads import choose_strength, fit_heads, out_of_fold, principal


def data(rows=120, width=6, classes=3, unknown=0.0, seed=0):
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((rows, width)).astype(np.float32)
    logits = features @ rng.standard_normal((width, classes)) - 0.5
    codes = (rng.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(np.int8)
    codes[rng.random(codes.shape) < unknown] = -1
    return features, codes


@pytest.mark.parametrize("unknown", [0.0, 0.6])
def test_heads_are_those_of_a_library_that_sees_the_known_rows_alone(unknown):
    features, codes = data(unknown=unknown)
    heads = fit_heads(features, codes, 2.0, steps=400)
    for label in range(3):
        known = codes[:, label] >= 0
        other = LogisticRegression(C=0.5, tol=1e-8, max_iter=500).fit(features[known], codes[known, label])
        expected = features @ other.coef_[0] + other.intercept_[0]
        np.testing.assert_allclose(heads.logits(features)[:, label], expected, atol=2e-3)


def test_an_image_is_scored_by_heads_that_have_not_seen_its_fold():
    features, codes = data()
    folds = np.arange(120) % 3
    before = out_of_fold(features, codes, folds, 1.0)
    for fold in range(3):
        expected = fit_heads(features[folds != fold], codes[folds != fold], 1.0).logits(features[folds == fold])
        np.testing.assert_array_equal(before[folds == fold], expected)
    flipped = codes.copy()
    flipped[folds == 1] = 1 - flipped[folds == 1]
    after = out_of_fold(features, flipped, folds, 1.0)
    np.testing.assert_array_equal(after[folds == 1], before[folds == 1])
    assert not np.allclose(after[folds != 1], before[folds != 1])


def test_the_strength_is_the_highest_of_about_the_lowest_loss_on_the_first_fold():
    features, codes = data(rows=90, unknown=0.3, seed=3)
    folds = np.arange(90) % 3
    held, known = folds == 0, codes[folds == 0] >= 0
    losses = []
    for strength in (0.01, 1.0, 2.0, 1e4):
        logits = fit_heads(features[~held], codes[~held], strength).logits(features[held]).astype(float)
        likely = 1 / (1 + np.exp(-np.where(codes[held] == 1, logits, -logits)))
        losses.append(-np.log(likely)[known].mean())
    expected = max(s for s, loss in zip((0.01, 1.0, 2.0, 1e4), losses, strict=True) if loss <= 1.05 * min(losses))
    assert expected not in (0.01, 1e4)
    assert choose_strength(features, codes, folds, (0.01, 1.0, 2.0, 1e4)) == expected
    assert choose_strength(features, codes, folds, (1e4, 2.0, 1.0, 0.01)) == expected


def test_principal_directions_hold_all_distances_or_the_most_of_them():
    rng = np.random.default_rng(0)
    features = rng.standard_normal((40, 5)) @ rng.standard_normal((5, 5)) + 7
    features[:, 2] = 3.0  # never varies
    scaled = (features - features.mean(0)) / np.where(features.std(0) > 0, features.std(0), 1)
    whole = principal(features)
    assert whole.dtype == np.float32
    np.testing.assert_allclose(whole @ whole.T, scaled @ scaled.T, atol=1e-4)
    part = principal(features, 2)
    np.testing.assert_allclose(part, whole[:, :2], atol=1e-5)
    spectrum = np.linalg.svd(scaled, compute_uv=False)
    np.testing.assert_allclose(np.linalg.norm(part, axis=0), spectrum[:2], rtol=1e-4)
