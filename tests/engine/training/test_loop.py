"""The epoch loop by itself: frozen parts, hooks and early ends, on one process and on two."""

import io
import os
from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn

from data.loading.samplers import OrderedBatches, ShuffledBatches
from engine.core.distributed import Runtime
from engine.training.ema import EMA
from engine.training.loaders import FeatureLoader
from engine.training.loop import Freezing, Hooks, Learner, Loop
from engine.training.optim import OptimConfig, build_optimizer
from losses.assume_negative import BCE, BCEConfig
from models.backbones.build import Backbone
from models.classifier import Classifier
from models.heads.linear import LinearHead
from tests.ranks import run_ranks
from utils.checks import RunError
from utils.class_facts import ClassCounts
from utils.types import Batch, CriterionInfo, LabelTable

ROWS, CLASSES, BATCH = 14, 3, 4
OPTIM = OptimConfig(optimizer="adam", lr=0.01, w_d=0.1, scheduler="constant", warmup_epoch=0)


class Small(Backbone):
    """A convolution; BatchNorm where its statistics are watched, none where processes are compared."""

    def __init__(self, norm):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3)
        self.norm = nn.BatchNorm2d(5) if norm else nn.Identity()
        self.width, self.stride = 5, 1

    def stages(self):
        return [(self.conv, self.norm)]

    def forward(self, images):
        return torch.tanh(self.norm(self.conv(images)))


class ArrayLoader(FeatureLoader):
    """Batches of an array of images, which stands where features would."""

    def to_batch(self, raw, device):
        return Batch(raw.features.to(device), raw.observed.to(device), raw.index.to(device), truth=raw.truth)


def tables():
    rng = np.random.default_rng(0)
    images = rng.normal(size=(ROWS, 3, 6, 6)).astype(np.float32)
    return images, LabelTable(rng.integers(0, 2, (ROWS, CLASSES)).astype(np.int8))


def make_loop(
    runtime, *, frozen, epochs, norm=True, save=lambda state: None, build=None, optim=OPTIM, averaged=None, **hooks
):
    """A loop over random images, and its network: what `build` makes, of feature width 5, or a small one."""
    torch.manual_seed(0)
    network = build() if build else Classifier(Small(norm), LinearHead(5, CLASSES))
    images, labels = tables()
    batches = ShuffledBatches(ROWS, BATCH, seed=1, rank=runtime.rank, world_size=runtime.world_size)
    info = CriterionInfo(
        observed=labels,
        classes=tuple("abc"),
        epochs=epochs,
        steps_per_epoch=len(batches),
        feature_width=5,
        class_counts=ClassCounts(labels.counts(), "observed"),
        seed=0,
    )
    groups = [{"params": network.backbone_parameters()}, {"params": network.head_parameters(), "lr_mult": 3.0}]
    averaging = EMA(network, averaged) if averaged else None
    model = runtime.wrap(network)
    optimizer = runtime.wrap_optimizer(build_optimizer(optim, groups))
    loop = Loop(
        runtime,
        Learner(model, BCE(BCEConfig(), info), optimizer, optim, averaging),
        ArrayLoader([[images]], labels, labels, batches),
        batches,
        epochs=epochs,
        seed=0,
        save_minutes=0,
        save_epochs=1,
        print_freq=100,
        save=save,
        freezing=Freezing(frozen, network.freeze_backbone),
        hooks=Hooks(**hooks),
    )
    return loop, network


def copied(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def trained(rank, frozen, epochs):
    """The weights after training, on as many processes as there are."""
    env = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    with mock.patch.dict(os.environ, env if torch.distributed.is_initialized() else {}):
        loop, network = make_loop(Runtime("cpu", "fp32"), frozen=frozen, epochs=epochs, norm=False)
        loop.run(lambda epoch, row: None)
        return loop.runtime.world_size, copied(network)


MODES = {"end_to_end": (0, 2), "linear": (2, 2), "linear_init": (1, 3)}


def trained_in_each_mode(rank):
    return {mode: trained(rank, *epochs) for mode, epochs in MODES.items()}


@pytest.fixture(scope="module")
def two_processes():
    return run_ranks(trained_in_each_mode)


@pytest.mark.parametrize("mode", MODES)
def test_two_processes_learn_what_one_learns(two_processes, mode):
    alone, expected = trained(0, *MODES[mode])
    assert alone == 1
    for found in two_processes:
        processes, weights = found[mode]
        assert processes == 2
        for name, value in expected.items():
            torch.testing.assert_close(weights[name], value, rtol=1e-4, atol=1e-6, msg=name)


def test_a_frozen_backbone_stays_bit_for_bit_and_then_learns():
    loop, network = make_loop(Runtime("cpu", "fp32"), frozen=2, epochs=3)
    seen = [copied(network)]
    loop.run(lambda epoch, row: seen.append(copied(network)))
    for name in seen[0]:
        kept = [torch.equal(one[name], seen[0][name]) for one in seen[1:]]
        assert kept == ([False] * 3 if name.startswith("head.") else [True, True, False]), name
    assert network.backbone.training


def test_the_optimizer_has_nothing_of_what_was_frozen():
    loop, network = make_loop(Runtime("cpu", "fp32"), frozen=2, epochs=2)
    loop.run(lambda epoch, row: None)
    assert len(loop.learner.optimizer.state_dict()["state"]) == len(list(network.head.parameters()))


@pytest.mark.parametrize("stop", range(1, 15))
def test_a_run_stopped_after_any_save_ends_in_the_same_state(stop):
    """Saves come after each of 4 steps and after each of 3 epochs, the first of which is frozen."""
    calls = []

    def scores(who):
        return lambda epoch: calls.append((who, current[0].state.epoch, current[0].state.step))

    whole, network = make_loop(Runtime("cpu", "fp32"), frozen=1, epochs=3)
    whole.run(lambda epoch, row: None)
    states = []
    current = list(make_loop(Runtime("cpu", "fp32"), frozen=1, epochs=3, save=halting(states, stop)))
    current[0].hooks = Hooks(train_scores=scores("first"))
    with pytest.raises(Halted):
        current[0].run(lambda epoch, row: None)
    current = list(make_loop(Runtime("cpu", "fp32"), frozen=1, epochs=3, train_scores=scores("second")))
    current[0].load_state_dict(states[-1])
    current[0].run(lambda epoch, row: None)
    assert [epoch for _, epoch, _ in calls] == [1, 2, 3], "scored once before each epoch, whoever trains it"
    assert all(step == 0 for _, _, step in calls)
    for name, value in network.state_dict().items():
        assert torch.equal(value, current[1].state_dict()[name]), name


class Halted(Exception):  # noqa: N818
    pass


def halting(states, count):
    """A save that keeps copies of the states, and ends the run at the `count`-th."""

    def save(state):
        states.append(torch.load(as_file(state), weights_only=True))
        if len(states) == count:
            raise Halted

    return save


def as_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return file


def test_hooks_come_at_their_moments():
    seen = []

    def after_step(epoch, batch, loss):
        assert torch.isfinite(loss.total)
        seen.append((epoch, *batch.index.tolist()))
        assert batch.truth.shape == (len(batch.index), CLASSES)

    rows = []
    loop, _ = make_loop(
        Runtime("cpu", "fp32"),
        frozen=0,
        epochs=2,
        after_step=after_step,
        epoch_columns=lambda epoch: {"extra": 10.0 * epoch, "steps": float(len(seen))},
    )
    loop.run(lambda epoch, row: rows.append(dict(row)))
    for epoch in (1, 2):
        assert sorted(row for step in seen if step[0] == epoch for row in step[1:]) == list(range(ROWS))
    assert [(row["extra"], row["steps"]) for row in rows] == [(10.0, 4.0), (20.0, 8.0)]
    assert [row["extra"] for row in loop.state.history] == [10.0, 20.0]


def test_what_scoring_returns_reaches_the_criterion():
    loop, network = make_loop(Runtime("cpu", "fp32"), frozen=0, epochs=2)
    calls = []
    loop.hooks = Hooks(train_scores=lambda epoch: network.head.fc.weight.detach().clone())
    loop.learner.criterion.on_epoch_start = lambda epoch, scores: calls.append((epoch, scores))
    before = network.head.fc.weight.detach().clone()
    loop.run(lambda epoch, row: None)
    assert [epoch for epoch, _ in calls] == [1, 2]
    assert torch.equal(calls[0][1], before)
    assert not torch.equal(calls[1][1], before)


def test_a_stopped_loop_trains_no_more_and_says_so_in_its_state():
    states = []
    loop, _ = make_loop(Runtime("cpu", "fp32"), frozen=0, epochs=5, save=states.append)

    def after_epoch(epoch, row):
        loop.state.stopped = epoch == 2

    loop.run(after_epoch)
    assert loop.state.trained == len(loop.state.history) == 2
    again, _ = make_loop(Runtime("cpu", "fp32"), frozen=0, epochs=5)
    again.load_state_dict(states[-1])
    again.run(lambda epoch, row: pytest.fail("trained on"))
    assert again.state.trained == 2


def test_a_state_of_before_there_was_early_stopping_is_read():
    states = []
    loop, _ = make_loop(Runtime("cpu", "fp32"), frozen=0, epochs=1, save=states.append)
    loop.run(lambda epoch, row: None)
    states[-1]["position"].pop("stopped")
    loop.load_state_dict(states[-1])
    assert not loop.state.stopped


def test_features_stand_in_for_images_row_by_row():
    images, labels = tables()
    features = images[:, :, 0, 0]
    observed = LabelTable(np.where(labels.dense() == 1, 1, -1).astype(np.int8))
    loader = FeatureLoader([[features]], observed, labels, OrderedBatches(ROWS, BATCH))
    assert loader.num_classes == CLASSES
    batches = [loader.to_batch(batch, torch.device("cpu")) for batch in loader]
    assert [len(batch.index) for batch in batches] == [4, 4, 4, 2]
    np.testing.assert_array_equal(torch.cat([batch.images for batch in batches]), features[:, :, None, None])
    np.testing.assert_array_equal(torch.cat([batch.observed for batch in batches]), observed.dense())
    np.testing.assert_array_equal(torch.cat([batch.truth for batch in batches]), labels.dense())


@pytest.mark.parametrize(
    ("memories", "on_host", "remedies"),
    [
        ({"confidence"}, False, "a smaller --batch_size or --precision bf16 or --label_memory host"),
        ({"confidence"}, True, "a smaller --batch_size or --precision bf16"),
        ((), False, "a smaller --batch_size or --precision bf16"),
    ],
)
@pytest.mark.parametrize("place", ["forward", "backward", "after_step"])
def test_a_gpu_without_memory_for_a_step_is_told_with_the_flags_that_help(memories, on_host, remedies, place):
    def full(*args, **named):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    hooks = {"after_step": full} if place == "after_step" else {}
    loop, _ = make_loop(Runtime("cpu", "fp32"), frozen=0, epochs=1, **hooks)
    criterion = loop.learner.criterion
    criterion.label_memories, criterion.memories_on_host = frozenset(memories), on_host
    if place == "forward":
        criterion.forward = full
    if place == "backward":
        loop.runtime.backward = full
    with pytest.raises(RunError) as told:
        loop.run(lambda epoch, row: None)
    assert str(told.value) == f"the GPU has no memory left for training; give {remedies}"
