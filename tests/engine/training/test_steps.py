"""What the loop does within a step besides the loss: frozen stages, clipped gradients, a rate that follows scores."""

import os
from dataclasses import replace
from unittest import mock

import pytest
import torch
from torch import nn

from engine.core.distributed import Runtime
from models.backbones.build import Backbone
from models.classifier import Classifier
from models.heads.linear import LinearHead
from models.heads.pfc import PFCHead
from tests.engine.training.test_loop import CLASSES, OPTIM, Halted, copied, halting, make_loop
from tests.ranks import run_ranks

SGD = replace(OPTIM, optimizer="sgd", lr=0.5, w_d=0.01)
CLIPPED = replace(SGD, clip_grad=0.01)
PLATEAU = replace(SGD, scheduler="plateau", patience=1)
SCORES = (0.5, 0.4, 0.45, 0.6, 0.1, 0.2, 0.3)
FACTORS = (1.0, 1.0, 1.0, 0.1, 0.1, 0.1, 0.01)
"""Of the rate in each of these epochs."""


class TwoStages(Backbone):
    """A convolution, its BatchNorm, and another convolution."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.last = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 5, 1)
        self.width, self.stride = 5, 1

    def stages(self):
        return [(self.conv, self.norm), (self.last,)]

    def forward(self, images):
        return torch.tanh(self.last(self.norm(self.conv(images))))


def first_frozen():
    """The first stage stays; nothing in it depends on how a batch is shared out."""
    return Classifier(TwoStages(), LinearHead(5, CLASSES), frozen_stages=0)


def with_neck():
    return Classifier(TwoStages(), PFCHead(5, CLASSES, 6, 0.5), frozen_stages=0, norm_eval=True)


def trained(rank, build, optim, frozen=0):
    env = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    with mock.patch.dict(os.environ, env if torch.distributed.is_initialized() else {}):
        loop, network = make_loop(Runtime("cpu", "fp32"), frozen=frozen, epochs=2, build=build, optim=optim)
        loop.run(lambda epoch, row: None)
        return loop.runtime.world_size, copied(network)


def trained_each_way(rank):
    plain = trained(rank, first_frozen, SGD)
    return (
        plain,
        trained(rank, first_frozen, CLIPPED),
        trained(rank, with_neck, SGD),
        trained(rank, with_neck, SGD, frozen=2),
    )


@pytest.fixture(scope="module")
def two_processes():
    return run_ranks(trained_each_way)


@pytest.mark.parametrize("way, optim", list(enumerate([SGD, CLIPPED])))
def test_two_processes_learn_behind_frozen_stages_what_one_learns(two_processes, way, optim):
    alone, expected = trained(0, first_frozen, optim)
    assert alone == 1
    for found in two_processes:
        processes, weights = found[way]
        assert processes == 2
        for name, value in expected.items():
            torch.testing.assert_close(weights[name], value, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("way", [2, 3], ids=["learning", "frozen"])
def test_statistics_of_the_neck_are_the_same_on_all_processes_whether_the_backbone_learns_or_not(two_processes, way):
    (_, first), (_, second) = (found[way] for found in two_processes)
    for name in ("head.bn.running_mean", "head.bn.running_var"):
        assert torch.equal(first[name], second[name]), name
    assert first["head.bn.running_var"].sub(1).abs().max() > 0


@pytest.mark.parametrize("build", [first_frozen, with_neck])
def test_the_frozen_stage_stays_bit_for_bit_and_the_rest_learns(build):
    loop, network = make_loop(Runtime("cpu", "fp32"), frozen=1, epochs=3, build=build, optim=SGD)
    before = copied(network)
    loop.run(lambda epoch, row: None)
    for name, value in copied(network).items():
        still = name.startswith(("backbone.conv", "backbone.norm"))
        assert torch.equal(value, before[name]) == still, name


def test_clipping_shortens_the_gradient_of_all_parameters_together():
    norms, steps = [], []
    for optim in (SGD, CLIPPED, replace(SGD, clip_grad=1e6)):
        loop, network = make_loop(Runtime("cpu", "fp32"), frozen=0, epochs=1, build=first_frozen, optim=optim)
        loop.hooks = loop.hooks._replace(after_step=lambda *_, network=network: norms.append(norm(network)))
        loop.run(lambda epoch, row: None)
        steps.append([norms.pop(0) for _ in range(4)])
    free, clipped, barely = steps
    assert min(free) > 0.02
    assert clipped == pytest.approx([0.01] * 4, rel=1e-3)
    assert barely == free


def norm(network):
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    return torch.cat([gradient.flatten() for gradient in gradients]).norm().item()


def follow(loop):
    return lambda epoch, row: loop.follow(SCORES[epoch - 1])


def test_the_rate_follows_the_scores_of_the_epochs_before():
    loop, _ = make_loop(Runtime("cpu", "fp32"), frozen=0, epochs=7, optim=PLATEAU)
    loop.run(follow(loop))
    assert [row["lr"] for row in loop.state.history] == pytest.approx([PLATEAU.lr * factor for factor in FACTORS])


@pytest.mark.parametrize("stop", range(2, 36, 4))
def test_a_run_on_a_plateau_stopped_after_any_save_ends_in_the_same_state(stop):
    whole, network = make_loop(Runtime("cpu", "fp32"), frozen=0, epochs=7, build=with_neck, optim=PLATEAU)
    whole.run(follow(whole))
    states = []
    halted, _ = make_loop(
        Runtime("cpu", "fp32"), frozen=0, epochs=7, build=with_neck, optim=PLATEAU, save=halting(states, stop)
    )
    with pytest.raises(Halted):
        halted.run(follow(halted))
    again, resumed = make_loop(Runtime("cpu", "fp32"), frozen=0, epochs=7, build=with_neck, optim=PLATEAU)
    again.load_state_dict(states[-1])
    again.run(follow(again))
    assert again.state.plateau == whole.state.plateau
    for name, value in network.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_a_state_of_before_rates_followed_scores_is_read():
    states = []
    loop, _ = make_loop(Runtime("cpu", "fp32"), frozen=0, epochs=1, save=states.append)
    loop.run(lambda epoch, row: None)
    states[-1]["position"].pop("plateau")
    loop.load_state_dict(states[-1])
    assert loop.state.plateau == {}
