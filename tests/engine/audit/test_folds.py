import numpy as np
import pytest

from engine.audit.folds import joined_groups, least_outside, stratified_folds


def same(units):
    """Which images are in one unit, whatever the units are called."""
    return np.equal.outer(units, units).tolist()


def test_images_of_a_group_or_a_pair_are_one_unit():
    pairs = np.array([[0, 3], [4, 5]])
    assert same(joined_groups(None, pairs, 6)) == same(np.array([0, 1, 2, 0, 4, 4]))
    groups = np.array([7, 7, 2, 9, 9, 5])
    assert same(joined_groups(groups, pairs, 6)) == same(np.array([0, 0, 1, 0, 0, 0]))
    assert same(joined_groups(groups, pairs[:0], 6)) == same(groups)
    assert sorted(set(joined_groups(groups, pairs, 6))) == [0, 1]


def test_a_rare_class_is_in_every_fold_and_units_stay_whole():
    rng = np.random.default_rng(0)
    codes = (rng.random((200, 4)) < 0.3).astype(np.int8)
    codes[:, 3] = 0
    codes[rng.choice(200, 5, replace=False), 3] = 1
    folds = stratified_folds(codes, np.arange(200), 5, seed=0)
    assert [int((codes[folds == fold, 3] == 1).sum()) for fold in range(5)] == [1] * 5
    assert max(np.bincount(folds)) - min(np.bincount(folds)) <= 4
    np.testing.assert_array_equal(folds, stratified_folds(codes, np.arange(200), 5, seed=0))
    assert (folds != stratified_folds(codes, np.arange(200), 5, seed=1)).any()
    units = np.arange(200) // 4
    grouped = stratified_folds(codes, units, 5, seed=0)
    assert all(len(set(grouped[units == unit])) == 1 for unit in range(50))
    assert set(grouped) == set(range(5))


def test_as_many_folds_as_units_and_no_more():
    codes = np.array([[1], [0], [1]], dtype=np.int8)
    assert sorted(stratified_folds(codes, np.arange(3), 3, 0)) == [0, 1, 2]
    with pytest.raises(ValueError, match="3 units make no 4 folds"):
        stratified_folds(codes, np.arange(3), 4, 0)


def test_what_folds_leave_of_each_class_to_learn_from():
    codes = np.array([[1, 1], [1, 0], [0, 0], [0, -1]], dtype=np.int8)
    assert least_outside(codes, np.array([0, 1, 0, 1])).tolist() == [1, 0]
    assert least_outside(codes, np.array([0, 0, 1, 1])).tolist() == [0, 0]
