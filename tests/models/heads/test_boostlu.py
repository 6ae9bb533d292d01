"""BoostLU's formula and setting; its heads are tested in test_linear.py and test_csra.py."""

import pytest
import torch

from models.heads.boostlu import BoostLUConfig, boosted
from utils.checks import UserError


def test_the_slope_of_the_boost_at_zero_is_one():
    scores = torch.tensor([-1.0, 0.0, 2.0], requires_grad=True)
    values = boosted(scores, 5.0)
    values.sum().backward()
    assert values.tolist() == [-1.0, 0.0, 10.0]
    assert scores.grad.tolist() == [1.0, 1.0, 5.0]


@pytest.mark.parametrize("value", [0.0, -5.0, float("inf"), float("nan")])
def test_a_boost_is_a_finite_number_above_zero(value):
    BoostLUConfig(boostlu=5.0)
    with pytest.raises(UserError, match=r"^--boostlu [^\n]*: a number above 0 is needed"):
        BoostLUConfig(boostlu=value)
