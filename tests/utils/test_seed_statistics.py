import numpy as np
import pytest
from scipy import stats

from utils.seed_statistics import Difference, paired_difference, spread


def test_mean_and_deviation_are_those_of_numpy():
    values = [74.83, 76.89, 79.22, 63.52, 70.49]
    found = spread(values)
    assert found.seeds == 5
    np.testing.assert_allclose([found.mean, found.deviation], [np.mean(values), np.std(values, ddof=1)], rtol=1e-12)


def test_a_single_seed_has_no_deviation():
    assert spread([3.0]) == (1, 3.0, None)


@pytest.mark.parametrize("level", [0.9, 0.95])
def test_the_interval_is_that_of_a_paired_t_test(level):
    rng = np.random.default_rng(0)
    base = {seed: float(rng.normal(70, 5)) for seed in range(20, 26)}
    ours = {seed: value + float(rng.normal(2, 1)) for seed, value in base.items()}
    found = paired_difference(ours, base, level)
    oracle = stats.ttest_rel(list(ours.values()), list(base.values())).confidence_interval(level)
    np.testing.assert_allclose([found.low, found.high], [oracle.low, oracle.high], rtol=1e-10)
    assert found.seeds == 6
    assert found.is_clear == (oracle.low > 0 or oracle.high < 0)


def test_the_interval_is_at_95_percent_unless_said():
    ours, base = {1: 2.0, 2: 5.0, 3: 9.0}, {3: 4.0, 1: 1.0, 2: 1.0}
    assert paired_difference(ours, base) == paired_difference(ours, base, 0.95)


def test_only_shared_seeds_are_compared():
    assert paired_difference({1: 5.0, 2: 9.0}, {2: 4.0, 3: 1.0}) == Difference(1, 5.0, None, None)
    assert paired_difference({1: 5.0}, {2: 4.0}) is None
    assert paired_difference({}, {}) is None


def test_a_difference_is_clear_where_its_interval_leaves_out_zero():
    assert Difference(3, 1.0, 0.5, 1.5).is_clear
    assert Difference(3, -1.0, -1.5, -0.5).is_clear
    assert not Difference(3, 1.0, -0.5, 2.5).is_clear
    assert not Difference(3, 0.5, 0.0, 1.0).is_clear
    assert not Difference(1, 1.0, None, None).is_clear
