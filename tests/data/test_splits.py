import numpy as np
import pytest

from data.splits import validation_split
from utils.checks import UserError


def test_the_published_recipe():
    order = np.random.RandomState(1200).permutation(14)
    train, held_out = validation_split(14, 0.2, 1200)
    assert held_out.tolist() == sorted(order[-3:])
    assert train.tolist() == sorted(order[:-3])


@pytest.mark.parametrize("rows, fraction, size", [(10, 0.25, 2), (10, 0.35, 4), (14, 0.25, 4), (3000, 0.2, 600)])
def test_rounding_is_half_to_even(rows, fraction, size):
    train, held_out = validation_split(rows, fraction, 0)
    assert len(held_out) == size
    assert sorted([*train, *held_out]) == list(range(rows))


def test_no_fraction_leaves_everything_for_training():
    train, held_out = validation_split(5, 0.0, 3)
    assert train.tolist() == [0, 1, 2, 3, 4]
    assert held_out.size == 0


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 0.99])
def test_fractions_that_leave_nothing_are_refused(fraction):
    with pytest.raises(UserError, match="--val_frac"):
        validation_split(5, fraction, 0)
