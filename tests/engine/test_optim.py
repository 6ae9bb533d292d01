import itertools
import math

import numpy as np
import pytest
import torch

from engine.optim import OptimConfig, build_optimizer, learning_rate_factor, set_learning_rate
from tests.golden_files import each_case
from utils.checks import UserError


@pytest.mark.parametrize("case, arrays", each_case("warmup_lr.npz"))
def test_golden_warmup_and_step_decay(case, arrays):
    config = OptimConfig(
        lr=case["base_lr"],
        head_lr_mult=10.0,
        step_size=case["step_size"],
        lr_gamma=case["gamma"],
        warmup_epoch=case["warmup_epochs"],
    )
    first, second = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    optimizer = build_optimizer(config, [{"params": [first]}, {"params": [second], "lr_mult": config.head_lr_mult}])
    rates = []
    for step in range(case["epochs"] * case["iters_per_epoch"]):
        factor = learning_rate_factor(step, case["iters_per_epoch"], case["epochs"], config)
        set_learning_rate(optimizer, factor)
        rates.append([group["lr"] for group in optimizer.param_groups])
    np.testing.assert_allclose(rates, arrays["lr"], rtol=1e-10)


def test_cosine_rises_to_one_and_falls_to_nothing():
    config = OptimConfig(scheduler="cosine", warmup_epoch=0.5)
    factors = [learning_rate_factor(step, 10, 4, config) for step in range(40)]
    assert factors[0] == 0
    assert max(factors) == pytest.approx(1.0)
    assert factors.index(max(factors)) == 5
    assert all(a > b for a, b in itertools.pairwise(factors[5:]))
    half = 5 + (40 - 5) / 2  # the middle of what remains after the warm-up
    between = (factors[int(half)] + factors[math.ceil(half)]) / 2
    assert between == pytest.approx(0.5, abs=1e-3)


def test_constant_without_warmup_is_one_throughout():
    config = OptimConfig(scheduler="constant", warmup_epoch=0)
    assert {learning_rate_factor(step, 3, 2, config) for step in range(6)} == {1.0}


@pytest.mark.parametrize(
    "bad",
    [
        {"warmup_epoch": 5, "step_size": 4},
        {"lr": 0},
        {"w_d": -1.0},
        {"momentum": 1.0},
        {"step_size": 0},
        {"head_lr_mult": 0},
    ],
)
def test_settings_that_make_no_sense_are_refused(bad):
    with pytest.raises(UserError, match=next(iter(bad))):
        OptimConfig(**bad)


@pytest.mark.parametrize("name, kind", [("sgd", "SGD"), ("adam", "Adam"), ("adamw", "AdamW")])
def test_each_optimizer_takes_a_step(name, kind):
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = build_optimizer(OptimConfig(optimizer=name, lr=0.1), [{"params": [weight]}])
    assert type(optimizer).__name__ == kind
    weight.sum().backward()
    optimizer.step()
    assert (weight < 1).all()
