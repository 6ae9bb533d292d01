"""A run may get more epochs only where its first ones would have been the same with these at once."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import losses
from engine.training.config import RunConfig
from engine.training.going_on import require_not_stopped, require_same_rules, require_same_schedule
from engine.training.loop import TrainState
from engine.training.optim import OptimConfig
from losses import CRITERIA
from losses.common.base import Criterion
from losses.common.candidate_memory import CandidateMemory
from tests.losses.fake_model import info_for, random_labels
from utils.checks import UserError
from utils.types import LabelTable

CONFIG = RunConfig(epochs=20)
CODES = random_labels(10, 6, seed=4, rate=0.2)
KNOWN = np.where(CODES < 0, 0, CODES).astype(np.int8)
LABELS = {"cap": np.where(np.arange(10)[:, None] < 6, KNOWN, -1).astype(np.int8), "transition": KNOWN}
NEEDED = {"cap": {"pseudo_weights": "uniform"}, "ndlp": {"prior": "candidate"}, "role": {"expected_num_pos": 1.5}}
REFUSED = (
    "--epochs 20: the rules of this method, as it is set, follow from the number of epochs, and the run began with 10; "
    "start anew with another --output, or train on from its weights with --weights and its best.pth"
)


def counts_epochs(name, config=CONFIG, **options):
    """True if a method with these options may not go on from 10 to 20 epochs."""
    method, info = CRITERIA[name], replace(info_for(LABELS.get(name, CODES)), epochs=config.epochs)
    options = {**NEEDED.get(name, {}), **options}
    info = replace(info, frozen_epochs=config.frozen_epochs, candidate_rates=np.full(6, 0.5))
    try:
        require_same_rules(10, config, method.criterion, method.config(**options), info)
    except UserError as error:
        return str(error) == REFUSED
    return False


@pytest.mark.parametrize("name", ["bce", "an", "role", "large_loss", "csl", "sarb", "hst", "plc", "cones"])
def test_most_methods_do_not_count_epochs(name):
    assert not counts_epochs(name)


COUNTING = {
    "cap": {"cap_warmup": 2},
    "imcl": {"collaborate_from": 2},
    "lac": {"lac_warmup": 2},
    "ndlp": {"ramp_epochs": 5},
    "cdcr": {"cdcr_warmup": 2},
    "transition": {"transition_warmup": 4},
}
"""Methods whose rules follow from the number of epochs, with options that make them follow from themselves."""


@pytest.mark.parametrize("name", COUNTING)
def test_methods_count_epochs_unless_they_are_told_theirs(name):
    assert counts_epochs(name)
    assert not counts_epochs(name, **COUNTING[name])


@pytest.mark.parametrize("name", ["gr", "em_apl"])
def test_lines_and_rounds_over_all_epochs_cannot_go_on(name):
    assert counts_epochs(name)


def test_a_line_between_thresholds_ends_with_the_run():
    assert counts_epochs("cdcr", cdcr_warmup=2, candidate_threshold=0.4, candidate_threshold_end=0.6)
    assert not counts_epochs("cdcr", cdcr_warmup=2, candidate_threshold=0.4, candidate_threshold_end=0.4)


def test_no_method_looks_at_the_number_of_epochs_after_it_is_built():
    for path in Path(losses.__file__).parent.rglob("*.py"):
        assert not re.search(r"self\.info\.(frozen_)?epochs", path.read_text()), path


class Keeps(Criterion):
    """A criterion that keeps what its config makes of the info."""

    label_memories = frozenset({"memory"})

    def __init__(self, config, info):
        super().__init__(config, info)
        self.register_buffer("memory", torch.full((3,), float(info.epochs)))
        self.register_buffer("drawn", torch.rand(3))
        self.kept = config(info)


class Plan:
    def __init__(self, value):
        self.value = value


@pytest.mark.parametrize(
    ("keeps", "same"),
    [
        (lambda info: 7, True),
        (lambda info: info.epochs, False),
        (lambda info: info.frozen_epochs, False),
        (lambda info: torch.tensor([1.0, 2.0]), True),
        (lambda info: torch.tensor([1.0, info.epochs]), False),
        (lambda info: torch.nn.Parameter(torch.tensor([info.epochs / 2])), False),
        (lambda info: np.array([1, 2]), True),
        (lambda info: np.array([1, info.epochs]), False),
        (lambda info: [{"a": (1, 2)}, LabelTable(np.ones((2, 2), np.int8))], True),
        (lambda info: [{"a": (1, info.epochs)}], False),
        (lambda info: {str(info.epochs): 1}, False),
        (lambda info: list(range(info.epochs)), False),
        (lambda info: 1 if info.epochs == 10 else 1.0, False),
        (lambda info: Plan(1), True),
        (lambda info: Plan(info.epochs), False),
        (lambda info: torch.nn.Linear(2, 2), True),
        (lambda info: torch.nn.Linear(2, info.epochs), False),
    ],
)
def test_whatever_a_method_holds_is_compared_but_for_its_memories(keeps, same):
    before = torch.get_rng_state()
    info = replace(info_for(CODES), epochs=20, frozen_epochs=20)
    config = RunConfig(epochs=20, train_mode="linear")
    if same:
        require_same_rules(10, config, Keeps, keeps, info)
    else:
        with pytest.raises(UserError, match="the run began with 10; start anew"):
            require_same_rules(10, config, Keeps, keeps, info)
    assert torch.equal(torch.get_rng_state(), before)


def test_candidate_memories_are_not_compared():
    class KeepsCandidates(Criterion):
        label_memories = frozenset({"kept"})

        def __init__(self, config, info):
            super().__init__(config, info)
            self.kept = CandidateMemory(info.observed)
            self.kept.values.fill_(info.epochs)

    info = replace(info_for(CODES), epochs=20)
    require_same_rules(10, RunConfig(epochs=20, train_mode="linear"), KeepsCandidates, None, info)


@pytest.mark.parametrize("scheduler", ["cosine", "one_cycle"])
def test_a_rate_that_has_run_down_does_not_go_on(scheduler):
    laid_out = OptimConfig(scheduler=scheduler, warmup_epoch=0, schedule_epochs=30)
    require_same_schedule(10, CONFIG, laid_out)
    with pytest.raises(UserError) as error:
        require_same_schedule(10, CONFIG, OptimConfig(scheduler=scheduler, warmup_epoch=0))
    assert str(error.value) == (
        f"--epochs 20: --scheduler {scheduler} was laid out for the 10 epochs that the run began with, and has run "
        "down; start anew with another --output, or train on from its weights with --weights and its best.pth "
        "(--schedule_epochs lays it out for more epochs than are trained at first)"
    )


@pytest.mark.parametrize("options", [{"scheduler": "constant"}, {"milestones": (5, 7)}, {"scheduler": "plateau"}, {}])
def test_rates_that_follow_the_epoch_or_the_scores_go_on(options):
    require_same_schedule(10, CONFIG, OptimConfig(**options))


def test_a_run_that_stopped_early_does_not_go_on():
    config = RunConfig(epochs=20, early_stop=3)
    require_not_stopped(config, TrainState(epoch=5))
    with pytest.raises(UserError) as error:
        require_not_stopped(config, TrainState(epoch=5, stopped=True))
    assert str(error.value) == (
        "--epochs 20: --early_stop 3 ended this run after epoch 4, and would have ended a longer one there; start anew "
        "with another --output, or train on from its weights with --weights and its best.pth, and --early_stop="
    )
