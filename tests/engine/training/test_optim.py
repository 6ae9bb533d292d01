import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from engine.core.distributed import Runtime
from engine.core.setting_table import settings_of
from engine.training.optim import (
    BETTER,
    OptimConfig,
    Plateau,
    after_score,
    build_optimizer,
    learning_rate_factor,
    one_cycle,
    set_learning_rate,
    set_momentum,
)
from tests.commands.scene import same
from tests.engine.training.test_loop import Halted, copied, halting, make_loop
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
        {"warmup_epoch": 5, "milestones": (4, 7)},
        {"milestones": (7, 5)},
        {"milestones": (0, 5)},
        {"milestones": (5, 5)},
        {"milestones": ()},
        {"patience": -1},
        {"min_lr": -1.0},
        {"min_lr": 0.02, "scheduler": "plateau"},
        {"warmup_steps": -1},
        {"warmup_ratio": 1.0},
        {"clip_grad": 0.0},
        {"pct_start": 1.0},
        {"pct_start": -0.1},
        {"pct_start": math.nan},
        {"scheduler": "one_cycle"},
        {"warmup_steps": 3, "scheduler": "one_cycle"},
        {"warmup_ratio": 0.1, "scheduler": "one_cycle", "warmup_epoch": 0},
        {"schedule_epochs": 80},
        {"schedule_epochs": 80, "scheduler": "plateau"},
        {"schedule_epochs": 0, "scheduler": "cosine"},
        {"ema_start": "initial"},
    ],
)
def test_settings_that_make_no_sense_are_refused(bad):
    with pytest.raises(UserError, match=f"--{next(iter(bad))}"):
        OptimConfig(**bad)


def test_a_least_rate_above_the_rate_matters_to_the_plateau_alone():
    assert OptimConfig(lr=1e-8).min_lr == 1e-7


@pytest.mark.parametrize("text, epochs", [("5,7", (5, 7)), ("3", (3,)), ("1, 2 10", (1, 2, 10))])
def test_milestones_are_read(text, epochs):
    setting = settings_of(OptimConfig, "optimiser")["milestones"]
    assert OptimConfig(milestones=setting.convert(text), warmup_epoch=0).milestones == epochs


def test_milestones_decay_as_in_torch():
    config = OptimConfig(milestones=(2, 3, 6), lr_gamma=0.3, warmup_epoch=0)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 3, 6], gamma=0.3)
    for epoch in range(9):
        for step in (5 * epoch, 5 * epoch + 4):
            assert learning_rate_factor(step, 5, 9, config) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()


def test_warm_up_of_published_long_tail_settings():
    """500 steps from a third of the rate to all of it, and decays after epochs 5 and 7 (mmcv's `linear` and `step`)."""
    config = OptimConfig(warmup_steps=500, warmup_ratio=1 / 3, milestones=(5, 7))
    for step in range(121 * 8):
        missing = (1 - step / 500) * (1 - 1 / 3) if step < 500 else 0.0
        expected = (1 - missing) * 0.1 ** ((step >= 121 * 5) + (step >= 121 * 7))
        assert learning_rate_factor(step, 121, 8, config) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("patience, gamma, least", [(3, 0.1, 1e-7), (0, 0.5, 1e-3), (1, 0.1, 0.0), (2, 0.9, 0.02)])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("mode, sign", [("max", 1), ("min", -1)])
def test_the_plateau_decays_when_torchs_does(patience, gamma, least, seed, mode, sign):
    config = OptimConfig(lr=0.02, scheduler="plateau", patience=patience, lr_gamma=gamma, min_lr=least)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.02)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, mode=mode, factor=gamma, patience=patience, min_lr=least, eps=0.0
    )
    plateau, rates = Plateau(), set()
    rng = np.random.default_rng(seed)
    rise = np.minimum(np.arange(40) / 20, 1)
    for score in np.round(rise + rng.normal(scale=0.1, size=40), 2).clip(0):
        value = float(score) if mode == "max" else 2 - float(score)
        plateau = after_score(plateau, sign * value, config)
        schedule.step(value)
        rate = optimizer.param_groups[0]["lr"]
        rates.add(rate)
        assert config.lr * plateau.factor == pytest.approx(rate, rel=1e-9)
    assert len(rates) > 2 or least == config.lr


def test_a_hardly_better_score_is_no_better():
    config = OptimConfig(scheduler="plateau", patience=0)
    first = after_score(Plateau(), 0.5, config)
    assert first == (1.0, 0.5, 0)
    assert after_score(first, 0.5 * (1 + 0.9e-4), config).factor == config.lr_gamma
    assert after_score(first, 0.5 * (1 + 1.1e-4), config).factor == 1.0
    first = after_score(Plateau(), -0.5, config)  # a loss
    assert after_score(first, -0.5 * (1 - 0.9e-4), config).factor == config.lr_gamma
    assert after_score(first, -0.5 * (1 - 1.1e-4), config).factor == 1.0


@pytest.mark.parametrize("name, kind", [("sgd", "SGD"), ("adam", "Adam"), ("adamw", "AdamW")])
def test_each_optimizer_takes_a_step(name, kind):
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = build_optimizer(OptimConfig(optimizer=name, lr=0.1), [{"params": [weight]}])
    assert type(optimizer).__name__ == kind
    weight.sum().backward()
    optimizer.step()
    assert (weight < 1).all()


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize(
    "steps, epochs, pct_start", [(7, 5, 0.2), (1, 1, 0.5), (3, 1, 0.2), (9, 4, 0.0), (11, 3, 0.45)]
)
def test_one_cycle_sets_what_torchs_does(optimizer, steps, epochs, pct_start):
    config = OptimConfig(optimizer=optimizer, lr=0.3, scheduler="one_cycle", pct_start=pct_start, warmup_epoch=0)
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))]}, {"params": [torch.nn.Parameter(torch.zeros(1))]}]
    groups[1]["lr_mult"] = 10.0
    ours, theirs = build_optimizer(config, groups), build_optimizer(config, groups)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        theirs, max_lr=[0.3, 3.0], steps_per_epoch=steps, epochs=epochs, pct_start=pct_start
    )
    moving = "momentum" if optimizer == "sgd" else "betas"
    for step in range(steps * epochs):
        set_learning_rate(ours, learning_rate_factor(step, steps, epochs, config))
        set_momentum(ours, one_cycle(step, steps * epochs, pct_start).momentum)
        for one, other in zip(ours.param_groups, theirs.param_groups, strict=True):
            assert one["lr"] == pytest.approx(other["lr"], rel=1e-9)
            assert one[moving] == pytest.approx(other[moving], rel=1e-12)
        theirs.step()
        schedule.step()


def test_one_cycle_rises_and_falls_while_the_momentum_falls_and_rises():
    cycle = [one_cycle(step, 50, 0.2) for step in range(50)]
    factors, momenta = zip(*cycle, strict=True)
    assert factors[0] == pytest.approx(1 / 25)
    assert factors[-1] == pytest.approx(1 / 25 / 1e4)
    assert max(factors) == factors[9] == 1.0
    assert (momenta[0], momenta[9], momenta[-1]) == pytest.approx((0.95, 0.85, 0.95))
    for step, (one, other) in enumerate(itertools.pairwise(cycle)):
        assert (one.factor < other.factor) == (one.momentum > other.momentum) == (step < 9)


@pytest.mark.parametrize("total, pct_start", [(5, 0.2), (10, 0.1)])
def test_one_cycle_whose_rise_is_a_single_step_starts_at_the_top(total, pct_start):
    assert one_cycle(0, total, pct_start) == pytest.approx((1.0, 0.85))
    assert one_cycle(1, total, pct_start).factor < 1


CYCLE = OptimConfig(optimizer="adamw", lr=0.05, w_d=0.1, scheduler="one_cycle", pct_start=0.3, warmup_epoch=0)


@pytest.mark.parametrize("optim", [CYCLE, replace(CYCLE, optimizer="sgd", momentum=0.0)], ids=["adamw", "sgd"])
@pytest.mark.parametrize("stop", [1, 5, 8, 14])
def test_a_run_under_one_cycle_stopped_after_any_save_ends_in_the_same_state(optim, stop):
    whole, network = make_loop(Runtime("cpu", "fp32"), frozen=0, epochs=3, optim=optim)
    whole.run(lambda epoch, row: None)
    states = []
    halted, _ = make_loop(Runtime("cpu", "fp32"), frozen=0, epochs=3, optim=optim, save=halting(states, stop))
    with pytest.raises(Halted):
        halted.run(lambda epoch, row: None)
    again, resumed = make_loop(Runtime("cpu", "fp32"), frozen=0, epochs=3, optim=optim)
    again.load_state_dict(states[-1])
    again.run(lambda epoch, row: None)
    same(copied(network), copied(resumed))
    same(whole.learner.optimizer.state_dict(), again.learner.optimizer.state_dict())
    assert [row["lr"] for row in again.state.history] == [row["lr"] for row in whole.state.history]
    assert whole.learner.optimizer.param_groups[1]["lr"] == pytest.approx(3 * 0.05 / 25e4)
    group = whole.learner.optimizer.param_groups[0]
    assert (group["momentum"] if optim.optimizer == "sgd" else group["betas"][0]) == pytest.approx(0.95)


@pytest.mark.parametrize(
    ("warm", "fits"),
    [
        ({"warmup_epoch": 0}, True),
        ({"warmup_steps": 0}, True),
        ({}, False),
        ({"warmup_steps": 1, "warmup_epoch": 0}, False),
        ({"warmup_epoch": 0, "warmup_ratio": 0.5}, False),
    ],
)
def test_one_cycle_has_no_warm_up_of_any_kind(warm, fits):
    if fits:
        assert OptimConfig(scheduler="one_cycle", **warm).scheduler == "one_cycle"
    else:
        with pytest.raises(UserError, match="--scheduler one_cycle: rises by itself, with no warm-up before it"):
            OptimConfig(scheduler="one_cycle", **warm)


def test_a_score_that_is_better_by_no_more_than_rounding_is_waited_for():
    best = 0.5
    limit = best * (1 + BETTER)
    assert after_score(Plateau(best=best), limit, OptimConfig()) == Plateau(best=best, waited=1)
    above = math.nextafter(limit, 1)
    assert after_score(Plateau(best=best, waited=2), above, OptimConfig()) == Plateau(best=above)


def test_parameters_on_the_host_beside_others_are_updated_group_by_group():
    def group(device):
        return {"params": [torch.nn.Parameter(torch.ones(2, device=device)) for _ in range(2)]}

    mixed = build_optimizer(OptimConfig(), [group("cpu"), group("meta")])
    assert [each["fused"] for each in mixed.param_groups] == [True, None]
    assert mixed.defaults["fused"] is None
    alike = build_optimizer(OptimConfig(), [group("cpu"), group("cpu")])
    assert [each["fused"] for each in alike.param_groups] == [True, True]
    assert alike.defaults["fused"] is True


@pytest.mark.parametrize(("name", "momentum"), [("sgd", 0.9), ("sgd", 0.0), ("adam", 0.9)])
def test_a_parameter_whose_first_gradient_comes_later_is_updated_as_by_itself(name, momentum):
    def parameter():
        return torch.nn.Parameter(torch.ones(2))

    config = OptimConfig(optimizer=name, lr=0.1, momentum=momentum, w_d=0.01)
    early, late, alone = parameter(), parameter(), parameter()
    both, one = build_optimizer(config, [{"params": [early, late]}]), build_optimizer(config, [{"params": [alone]}])
    for step in range(1, 5):
        early.grad = torch.full((2,), float(step))
        if step > 1:
            late.grad = alone.grad = torch.tensor([step, -0.5])
            one.step()
        both.step()
    assert torch.equal(late, alone)
    kept = [optimizer.state[each] for optimizer, each in ((both, late), (one, alone))]
    assert all(torch.equal(kept[0][key], kept[1][key]) for key in kept[1])
