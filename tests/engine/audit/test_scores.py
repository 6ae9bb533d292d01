import numpy as np
import pytest

from engine.audit.ranking import KINDS, ranked
from engine.audit.scores import Plan, ranked_classes, score_features, score_given
from utils.checks import UserError

PLAN = Plan(folds=3, least=5, duplicates=0.999, seed=0)


def scene(rows=150, seed=0):
    """Features that tell three classes of four, and their true codes; the fourth class is rare."""
    rng = np.random.default_rng(seed)
    truth = (rng.random((rows, 4)) < 0.4).astype(np.int8)
    truth[:, 3] = 0
    truth[:4, 3] = 1
    features = truth @ rng.standard_normal((4, 8)) + 0.15 * rng.standard_normal((rows, 8))
    return features, truth


def test_wrong_labels_come_first_and_a_class_of_few_labels_is_not_ranked():
    features, truth = scene()
    given = truth.copy()
    hidden, invented = np.argwhere(truth[:, :3] == 1)[::20], np.argwhere(truth[:, :3] == 0)[::30]
    given[tuple(hidden.T)], given[tuple(invented.T)] = 0, 1
    given[5:40:3, 1] = -1
    found = score_features(features, given, None, PLAN)
    assert found.ranked.tolist() == [True, True, True, False]
    assert np.isnan(found.probabilities[:, 3]).all()
    assert np.isnan(found.limits.present[3])
    assert np.isfinite(found.probabilities[:, :3]).all()
    for kind in ("missing", "wrong"):
        ranking = ranked(kind, found.probabilities, given, found.limits)
        wrong = truth[ranking.image, ranking.label] != KINDS[kind]
        assert wrong[: wrong.sum()].mean() > 0.8
    unknown = ranked("unknown", found.probabilities, given, found.limits)
    present = truth[unknown.image, unknown.label] == 1
    assert unknown.score[present].min() > unknown.score[~present].max()


def test_copies_are_one_unit_and_do_not_vouch_for_each_other():
    features, truth = scene()
    features[10] = features[11]
    given = truth.copy()
    given[10], given[11] = given[12], given[12]
    found = score_features(features, given, None, PLAN)
    assert found.pairs.tolist() == [[10, 11]]
    assert found.units[10] == found.units[11]
    alone = score_features(features, given, np.arange(150) // 2, PLAN)
    assert len(set(alone.units.tolist())) == 75
    np.testing.assert_allclose(found.probabilities[10], found.probabilities[11], rtol=1e-4)


def test_scores_from_elsewhere_are_made_comparable():
    _, truth = scene()
    rng = np.random.default_rng(1)
    logits = 20 * (truth - 0.5) + rng.standard_normal(truth.shape)
    given = truth.copy()
    given[7, 0] = 1 - given[7, 0]
    found = score_given(logits, given, None, PLAN)
    kind = "missing" if given[7, 0] == 0 else "wrong"
    first = ranked(kind, found.probabilities, given, found.limits)
    assert (first.image[0], first.label[0]) == (7, 0)
    assert found.pairs.shape == (0, 2)
    assert np.isnan(found.logits[:, 3]).all()


def test_no_class_may_have_enough_labels():
    features, truth = scene(30)
    given = np.where(truth == 1, 1, -1).astype(np.int8)
    assert not ranked_classes(given, 1).any()
    assert np.isnan(score_features(features, given, None, PLAN).probabilities).all()
    assert np.isnan(score_given(features[:, :4], given, None, PLAN).probabilities).all()


def test_a_class_needs_as_many_labels_of_both_kinds_as_are_said():
    codes = np.array([[1, 1], [1, 0], [0, 0], [0, -1]], dtype=np.int8)
    assert ranked_classes(codes, 2).tolist() == [True, False]
    assert ranked_classes(codes, 1).tolist() == [True, True]
    assert ranked_classes(codes, 3).tolist() == [False, False]


def test_a_cosine_that_makes_nearly_all_images_one_is_refused():
    features, truth = scene()
    with pytest.raises(UserError, match=r"--duplicates 0.5: \d+ of 150 images are nearly the same as another of them"):
        score_features(features, truth, None, PLAN._replace(duplicates=0.5))
    one_group = np.repeat([0, 1, 2], [100, 25, 25])
    score_features(features, truth, one_group, PLAN)
