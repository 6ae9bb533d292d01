"""Averaged weights: the formula, that they are what a run scores and saves, resuming, and several processes."""

import io
import os
from unittest import mock

import pytest
import torch

from engine.core.checkpoint import read_model
from engine.core.distributed import Runtime
from engine.training.ema import EMA
from engine.training.loop import Loop
from engine.training.optim import OptimConfig
from models.build import Architecture, build_model
from models.peers import build_peers
from tests.commands.scene import SMALL, result, run, same, state, succeed, tiny_voc
from tests.engine.training.test_loop import BATCH, ROWS, copied, make_loop
from tests.ranks import run_ranks
from utils.checks import Interrupted, UserError

SCENENET = Architecture.of(model="scenenet", weights="none")
DECAY = 0.8


def nudge(network, seed):
    """Weights and statistics move as a step might move them."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in network.state_dict().values():
            noise = torch.randn(value.shape, generator=generator)
            value.add_(noise if value.is_floating_point() else 1)


@pytest.mark.parametrize("from_initial", [False, True])
@pytest.mark.parametrize("build", [build_model, build_peers])
def test_the_average_follows_the_formula(build, from_initial):
    network = build(SCENENET, 5, seed=0)
    averaging, expected = EMA(network, DECAY, from_initial=from_initial), copied(network) if from_initial else {}
    for step in range(4):
        nudge(network, step)
        averaging.update()
        for name, value in copied(network).items():
            if value.is_floating_point():
                before = expected.get(name, value)
                expected[name] = DECAY * before + (1 - DECAY) * value
    found, now = averaging.network.state_dict(), network.state_dict()
    moving = [name for name, value in now.items() if value.is_floating_point()]
    for name in moving:
        torch.testing.assert_close(found[name], expected[name], msg=name)
        assert not torch.equal(found[name], now[name])
    assert all(torch.equal(found[name], now[name]) for name in now.keys() - set(moving))


def test_what_never_moves_stays_bit_for_bit():
    network = build_model(Architecture.of(model="scenenet", weights="none", frozen_stages=0), 5, seed=0)
    before = copied(network)
    averaging = EMA(network, 0.3)
    for _ in range(3):
        averaging.update()
    same(dict(averaging.network.state_dict()), before)


def test_statistics_are_averaged_as_those_of_a_network_in_training_and_stages_freeze_with_the_source():
    averaging, told = EMA(build_model(SCENENET, 5, seed=0), DECAY), []
    averaging.network.eval()
    averaging.end_epoch(mock.Mock(average_buffers=lambda network: told.append((network, network.training))))
    assert told == [(averaging.network, True)]
    for frozen in (True, False):
        averaging.freeze_backbone(frozen)
        assert {one.requires_grad for one in averaging.network.backbone.parameters()} == {not frozen}


def test_before_the_first_step_it_is_the_network():
    network = build_model(SCENENET, 5, seed=0)
    same(dict(EMA(network, DECAY).network.state_dict()), copied(network))


def test_the_state_resumes_exactly():
    network = build_model(SCENENET, 5, seed=0)
    one = EMA(network, DECAY)
    for step in range(2):
        nudge(network, step)
        one.update()
    file = io.BytesIO()
    torch.save(one.state_dict(), file)
    file.seek(0)
    other = EMA(build_model(SCENENET, 5, seed=9), DECAY)
    other._source = network
    other.load_state_dict(torch.load(file, weights_only=True))
    nudge(network, 7)
    one.update()
    other.update()
    same(dict(one.network.state_dict()), dict(other.network.state_dict()))


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.5, float("nan")])
def test_other_decays_are_refused(decay):
    with pytest.raises(UserError, match="--ema"):
        OptimConfig(ema=decay)


def averaged_loop(rank, norm):
    """The weights after two epochs, and their average over the steps."""
    env = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    with mock.patch.dict(os.environ, env if torch.distributed.is_initialized() else {}):
        loop, network = make_loop(Runtime("cpu", "fp32"), frozen=0, epochs=2, norm=norm, averaged=DECAY)
        loop.run(lambda epoch, row: None)
        return copied(network), copied(loop.learner.ema.network)


def two_loops(rank):
    return {norm: averaged_loop(rank, norm) for norm in (False, True)}


def test_two_processes_average_what_one_averages():
    alone = averaged_loop(0, False)[1]
    first, second = run_ranks(two_loops)
    for found in (first, second):
        for name, value in alone.items():
            torch.testing.assert_close(found[False][1][name], value, rtol=1e-4, atol=1e-6, msg=name)
    same(dict(first[True][1]), dict(second[True][1]))
    assert not torch.equal(first[True][1]["backbone.norm.running_mean"], first[True][0]["backbone.norm.running_mean"])


def test_the_loop_averages_after_every_step():
    raw = []
    loop, network = make_loop(
        Runtime("cpu", "fp32"),
        frozen=0,
        epochs=1,
        averaged=DECAY,
        after_step=lambda epoch, batch, loss: raw.append(copied(network)["head.fc.weight"]),
    )
    loop.run(lambda epoch, row: None)
    assert len(raw) == -(-ROWS // BATCH)
    expected = raw[0]
    for value in raw[1:]:
        expected = DECAY * expected + (1 - DECAY) * value
    torch.testing.assert_close(loop.learner.ema.network.head.fc.weight.data, expected)


RUN = (
    "--dataset",
    "voc07",
    *SMALL,
    "--epochs",
    "2",
    "--warmup_epoch",
    "0",
    "--partial_rate",
    "0.3",
    "--ema",
    str(DECAY),
)
KINDS = {
    "main_BCE.py": (),
    "main_cls.py": ("--labels_left", "50", "--tau_h", "0.2", "--tau_l", "0.2", "--ramp_epochs", "2", "--lr", "0.01"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("averaging")
    tiny_voc(folder)
    return folder


@pytest.mark.parametrize("script", KINDS)
def test_a_run_scores_and_saves_the_average_and_resumes(folder, script):
    succeed(folder, script, *RUN, *KINDS[script], "--output", f"whole-{script}")
    whole = folder / f"whole-{script}"
    saved = state(whole)["loop"]
    averaged = {name: value for name, value in saved["averaging"].items() if name != "n_averaged"}
    average = {name.removeprefix("module."): value for name, value in averaged.items()}
    assert int(saved["averaging"]["n_averaged"]) == saved["position"]["images"] // 14 * 4
    same(dict(read_model(whole / "best.pth").weights), average)
    assert not all(torch.equal(average[name], saved["model"][name]) for name in average)
    json = folder / f"scored-{script}.json"
    succeed(folder, "evaluate.py", "--load_from", whole / "best.pth", "--json", json)
    assert f'"mAP": {result(whole)["test"]["mAP"]}' in json.read_text()


def test_linear_layers_on_fixed_features_are_averaged_too(folder):
    words = ("--train_mode", "linear_fixed_features", "--output", "fixed")
    succeed(folder, "main_BCE.py", *RUN, *words)
    json = folder / "fixed.json"
    succeed(folder, "evaluate.py", "--load_from", folder / "fixed" / "best.pth", "--json", json)
    assert f'"mAP": {result(folder / "fixed")["test"]["mAP"]:.6f}'[:-2] in json.read_text()


def test_a_run_that_is_stopped_goes_on_to_the_same_average(folder, monkeypatch):
    words = (*RUN, "--save_minutes", "0")
    succeed(folder, "main_BCE.py", *words, "--output", "steady")
    save = Loop.save

    def halting(loop):
        save(loop)
        if (loop.state.epoch, loop.state.step) == (2, 2):
            raise Interrupted(15)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "save", halting)
        assert run(folder, "main_BCE.py", *words, "--output", "halted").returncode == 128 + 15
    position = state(folder / "halted")["loop"]["position"]
    assert (position["epoch"], position["step"]) == (2, 2)
    succeed(folder, "main_BCE.py", *words, "--output", "halted", "--resume")
    one, other = (state(folder / name)["loop"] for name in ("steady", "halted"))
    for part in ("averaging", "model", "optimizer"):
        same(one[part], other[part])
