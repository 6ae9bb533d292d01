"""What an optimiser takes of a saved state, and what it refuses."""

import math

import pytest
import torch

from engine.training.optim import OptimConfig, build_optimizer, load_optimizer


def optimizer(name):
    """One over two parameters, of which each was updated once."""
    weights = [torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(2, 2))]
    made = build_optimizer(OptimConfig(optimizer=name, lr=0.1), [{"params": weights}])
    sum(weight.square().sum() for weight in weights).backward()
    made.step()
    return made


def loaded(name, of_state=None, of_group=None):
    """The state after one with these changes was loaded, to what was kept of the second parameter and to the group."""
    one, other = optimizer(name), optimizer(name)
    state = one.state_dict()
    state["state"][1] = {**state["state"][1], **(of_state or {})}
    state["param_groups"][0] |= of_group or {}
    load_optimizer(other, state)
    return other.state_dict()


@pytest.mark.parametrize(
    ("name", "of_state", "of_group"),
    [
        ("sgd", {"momentum_buffer": -torch.ones(2, 2)}, {"lr": 0, "momentum": 0.0}),
        ("sgd", {}, {"lr": 0.5, "momentum": 0.25}),
        ("adam", {"exp_avg": -torch.ones(2, 2), "exp_avg_sq": torch.tensor([[0.0, 0.5], [2.0, 0.0]])}, {}),
        ("adamw", {"step": torch.tensor(0.0)}, {"lr": 2.0, "betas": (0.5, 0)}),
    ],
)
def test_what_can_be_is_taken(name, of_state, of_group):
    found = loaded(name, of_state, of_group)
    for key, value in of_state.items():
        assert torch.equal(found["state"][1][key], value)
    assert {key: found["param_groups"][0][key] for key in of_group} == of_group


def test_constants_stay_those_of_the_settings():
    found = loaded("sgd", of_group={"weight_decay": 7.0, "base_lr": 7.0})
    assert found["param_groups"] == loaded("sgd")["param_groups"]


@pytest.mark.parametrize(
    ("name", "of_state", "told"),
    [
        ("sgd", {"more": torch.ones(1), "a": 1}, "the optimiser kept a, momentum_buffer, more"),
        ("adam", {"z" * 100: 1}, rf"the optimiser kept exp_avg, exp_avg_sq, step, {'z' * 53}$"),
        ("sgd", {"momentum_buffer": torch.ones(4)}, r"momentum_buffer of the optimiser .* of shape \(2, 2\)"),
        ("sgd", {"momentum_buffer": torch.ones(2, 2, dtype=torch.int64)}, "momentum_buffer of the optimiser"),
        ("adam", {"exp_avg_sq": torch.tensor([[1.0, 1.0], [-1.0, 1.0]])}, "exp_avg_sq of the optimiser"),
        ("adam", {"exp_avg": torch.ones(2, 3)}, "exp_avg of the optimiser"),
        ("adam", {"step": torch.ones(1)}, r"step of the optimiser is not what there is of shape \(\)"),
        ("adam", {"step": torch.tensor(-1.0)}, "step of the optimiser"),
        ("sgd", {"momentum_buffer": None}, "momentum_buffer of the optimiser is missing"),
        ("adam", {"exp_avg": None}, "exp_avg of the optimiser is missing"),
    ],
)
def test_what_it_cannot_go_on_with_is_named(name, of_state, told):
    with pytest.raises(ValueError, match=f"^{told}"):
        loaded(name, of_state)


@pytest.mark.parametrize(
    ("name", "of_group"),
    [
        *(("sgd", {"lr": value}) for value in (-1.0, math.inf, math.nan, "0.1", True, None)),
        *(("sgd", {"momentum": value}) for value in (-0.5, math.inf, None)),
        *(("adam", {"betas": value}) for value in ((0.9,), (0.9, 0.99, 0.9), (0.9, math.inf), (-1.0, 0.9))),
    ],
)
def test_rates_and_momenta_that_cannot_be_are_refused(name, of_group):
    with pytest.raises(ValueError, match=r"^a learning rate or momentum that cannot be$"):
        loaded(name, of_group=of_group)
