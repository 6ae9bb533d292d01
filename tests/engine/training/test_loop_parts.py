"""What the loop counts, seeds and saves, and how it ends on a signal."""

import itertools
import math
import signal
from types import SimpleNamespace

import pytest
import torch

from engine.core.distributed import Runtime
from engine.training import loop as room
from engine.training.finite import step_of
from engine.training.loop import Hooks, Loop, TrainState
from tests.engine.training.test_loop import BATCH, ROWS, make_loop
from utils.checks import Interrupted, RunError
from utils.seeding import derive_seed

STEPS = -(-ROWS // BATCH)


def test_images_and_seconds_are_counted_over_the_whole_run(monkeypatch):
    clock = itertools.count(1000.0, 0.5)
    monkeypatch.setattr(room.time, "perf_counter", lambda: next(clock))
    rows = []
    loop, _ = make_loop(Runtime("cpu", "fp32"), frozen=0, epochs=2)
    loop.run(lambda epoch, row: rows.append(dict(row)))
    assert (loop.state.images, loop.state.seconds) == (2 * ROWS, 2 * STEPS * 0.5)
    assert [row["images_per_second"] for row in rows] == [ROWS / (STEPS * 0.5)] * 2
    assert [row["epoch"] for row in rows] == [1, 2]


def test_losses_of_an_epoch_are_means_over_its_steps():
    seen, rows = [], []
    loop, _ = make_loop(
        Runtime("cpu", "fp32"),
        frozen=0,
        epochs=2,
        after_step=lambda epoch, batch, loss: seen.append(loss.total.item()),
    )
    loop.run(lambda epoch, row: rows.append(dict(row)))
    for number, row in enumerate(rows):
        own = seen[number * STEPS : (number + 1) * STEPS]
        assert row["loss"] == pytest.approx(sum(own) / STEPS)


def test_losses_that_are_summed_up_carry_no_gradient(monkeypatch):
    held, losses_of_step = [], Loop._losses_of_step
    monkeypatch.setattr(
        Loop, "_losses_of_step", lambda loop, *batch: held.append(losses_of_step(loop, *batch)) or held[-1]
    )
    totals = []
    loop, _ = make_loop(
        Runtime("cpu", "fp32"), frozen=0, epochs=1, after_step=lambda epoch, batch, loss: totals.append(loss.total)
    )
    loop.run(lambda epoch, row: None)
    assert all(total.requires_grad for total in totals)
    assert held
    assert not any(value.requires_grad for losses in held for value in losses.values())


def test_every_step_draws_from_a_seed_of_its_own():
    seeds = []
    loop, _ = make_loop(
        Runtime("cpu", "fp32"), frozen=0, epochs=2, after_step=lambda *_: seeds.append(torch.initial_seed())
    )
    loop.run(lambda epoch, row: None)
    assert seeds == [derive_seed(0, "step", number, 0) for number in range(2 * STEPS)]
    assert len(set(seeds)) == 2 * STEPS


def test_network_and_criterion_train_again_after_they_were_scored():
    modes = []
    loop, network = make_loop(
        Runtime("cpu", "fp32"),
        frozen=0,
        epochs=3,
        after_step=lambda *_: modes.append((network.training, loop.learner.criterion.training)),
    )

    def score(epoch, row):
        loop.learner.model.eval()
        loop.learner.criterion.eval()

    loop.run(score)
    assert modes == [(True, True)] * 3 * STEPS


def test_saves_within_an_epoch_are_so_many_minutes_apart(monkeypatch):
    now, steps = [0.0], []
    monkeypatch.setattr(room.time, "monotonic", lambda: now[0])
    loop, _ = make_loop(
        Runtime("cpu", "fp32"),
        frozen=0,
        epochs=1,
        save=lambda state: steps.append((state["position"]["epoch"], state["position"]["step"])),
        after_step=lambda *_: now.__setitem__(0, now[0] + 60.0),
    )
    loop.save_seconds = 120.0
    loop.run(lambda epoch, row: None)
    assert steps == [(1, 2), (1, 4), (2, 0)]


@pytest.mark.parametrize(
    ("every", "epochs", "stopped", "saved"), [(1, 3, None, [1, 2, 3]), (2, 5, None, [2, 4, 5]), (9, 9, 4, [4])]
)
def test_saves_at_the_end_of_epochs_are_so_many_epochs_apart_and_the_last_is_kept(every, epochs, stopped, saved):
    found = []
    loop, _ = make_loop(
        Runtime("cpu", "fp32"), frozen=0, epochs=epochs, save=lambda state: found.append(state["position"]["epoch"] - 1)
    )
    loop.save_seconds, loop.save_epochs = 1e9, every

    def after(epoch, row):
        loop.state.stopped = epoch == stopped

    loop.run(after)
    assert found == saved


@pytest.mark.parametrize("minutes", [0.0, 2.5])
def test_minutes_are_of_sixty_seconds(minutes):
    given = {"epochs": 1, "seed": 0, "print_freq": 1, "save": None, "freezing": None, "hooks": None}
    assert Loop(None, None, None, None, save_minutes=minutes, save_epochs=1, **given).save_seconds == 60 * minutes


@pytest.mark.parametrize(
    ("number", "elsewhere", "told"), [(0, False, None), (signal.SIGINT, False, 2), (0, True, 15), (15, True, 15)]
)
def test_a_signal_to_any_process_ends_all_after_a_save(number, elsewhere, told):
    saved = []
    loop = Loop.__new__(Loop)
    loop.runtime = SimpleNamespace(agree_each=lambda due, stopped: (due, stopped or elsewhere))
    loop.stop, loop.save = SimpleNamespace(number=number), lambda: saved.append("saved")
    if told is None:
        Loop.check_stop(loop)
        assert saved == []
    else:
        with pytest.raises(Interrupted) as stopped:
            Loop.check_stop(loop)
        assert (stopped.value.number, saved) == (told, ["saved"])


EMPTY = {"model": {}, "criterion": {}, "averaging": {}, "optimizer": {}}


@pytest.mark.parametrize("main", [True, False])
def test_the_main_process_saves(monkeypatch, main):
    monkeypatch.setattr(room.time, "monotonic", lambda: 77.0)
    saved = []
    loop = Loop.__new__(Loop)
    loop.runtime, loop._save, loop.state_dict = SimpleNamespace(is_main=main), saved.append, lambda: EMPTY
    loop._of_ranks = lambda: "ranks"
    Loop.save(loop)
    assert (saved, loop._saved_at) == ([{**EMPTY, "ranks": "ranks"}] if main else [], 77.0)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_the_run_where_it_is(value):
    loop = looking_at([0.5, value, 1.0], {"loss": torch.tensor(value)})
    words = rf"^the loss is {value} at epoch 3, step 2 \(term that is not finite: part; images: b\); try a lower --lr"
    with pytest.raises(RunError, match=words):
        Loop._checked_loss(loop)
    loop = looking_at([], {"loss": torch.tensor(value)})
    with pytest.raises(RunError, match=rf"^the loss is {value} at epoch 3, step 3; try a lower --lr"):
        Loop._checked_loss(loop)
    loop = looking_at([0.5, 1.0], {"loss": torch.tensor(4.5)})
    assert Loop._checked_loss(loop) == "loss 1.5000"
    assert [step.number for step in loop._recent] == [2]


def looking_at(losses, sums):
    """A loop whose steps had these losses, each of them the part of one image."""
    loop = Loop.__new__(Loop)
    loop.state, loop._sums, loop.hooks = TrainState(epoch=3, step=3), sums, Hooks(image_ids=("a", "b", "c"))
    values = [torch.tensor(value) for value in losses]
    loop._recent = [
        step_of(n + 1, torch.tensor([n]), value.view(1, 1), {"loss": value, "part": value, "kept": torch.tensor(1.0)})
        for n, value in enumerate(values)
    ]
    return loop


def test_a_state_that_is_not_finite_is_not_saved(monkeypatch):
    saved = []
    loop = looking_at([0.5, 1.0], {})
    loop.runtime, loop._save = SimpleNamespace(is_main=True), saved.append
    loop._of_ranks = dict
    loop.state_dict = lambda: {**EMPTY, "model": {"w": torch.tensor([1.0, math.nan])}}
    words = r"model\.w is not finite at epoch 3, step 2 .*: none: the gradient or the update; images: b\)"
    with pytest.raises(RunError, match=words):
        Loop.save(loop)
    assert saved == []


def test_a_row_of_the_log_has_the_rate_of_the_backbone_and_a_speed_before_any_time_has_passed():
    groups = [{"lr": 0.25}, {"lr": 0.75}]
    loop = SimpleNamespace(
        state=TrainState(epoch=3, step=4, images=10, seconds=0.0),
        _sums={"loss": torch.tensor(2.0), "part": torch.tensor(6.0)},
        learner=SimpleNamespace(optimizer=SimpleNamespace(param_groups=groups)),
        hooks=SimpleNamespace(epoch_columns=lambda epoch: {"of": epoch}),
        _checked_loss=lambda: None,
    )
    row = Loop._epoch_row(loop)
    assert row == {"epoch": 3, "loss": 0.5, "part": 1.5, "of": 3, "lr": 0.25, "images_per_second": 0.0}
    loop.state.seconds = 4.0
    assert Loop._epoch_row(loop)["images_per_second"] == 2.5


def test_the_bar_of_a_resumed_epoch_begins_where_it_was(monkeypatch):
    begun, progress = [], room.Progress
    monkeypatch.setattr(room, "Progress", lambda *args, **named: begun.append(named) or progress(*args, **named))
    loop, _ = make_loop(Runtime("cpu", "fp32"), frozen=0, epochs=1)
    loop.state.step = 2
    loop.state.sums = {"loss": 1.0}
    loop.run(lambda epoch, row: None)
    assert begun == [{"total": ROWS, "done": 2 * BATCH, "label": "epoch 1/1", "unit": "img", "shown": True}]


@pytest.mark.parametrize("average", [True, False])
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("clip", [None, 0.5])
def test_gradients_are_averaged_and_clipped_before_the_weights_move_and_their_average_follows(average, processes, clip):
    told = []
    runtime = SimpleNamespace(
        world_size=processes,
        average_gradients=lambda model: told.append(model),
        average_criterion_gradients=lambda criterion, batch: told.append((criterion, batch)),
        clip_gradients=lambda optimizer, norm: told.append(norm),
    )
    moving = SimpleNamespace(step=lambda: told.append("step")), SimpleNamespace(update=lambda: told.append("average"))
    learner = ("model", "criterion", moving[0], SimpleNamespace(clip_grad=clip), moving[1])
    Loop._update(SimpleNamespace(runtime=runtime, learner=learner), "batch", average=average)
    before = [
        *(["model"] if average else []),
        *([("criterion", "batch")] if processes > 1 else []),
        *([clip] if clip else []),
    ]
    assert told == [*before, "step", "average"]
    told.clear()
    Loop._update(SimpleNamespace(runtime=runtime, learner=(*learner[:4], None)), "batch", average=average)
    assert told == [*before, "step"]


@pytest.mark.parametrize(("main", "saved", "said"), [(True, 3, True), (False, 3, False), (True, 1, False)])
def test_another_number_of_processes_is_told_once_where_it_changes_anything(capsys, main, saved, said):
    network = torch.nn.BatchNorm1d(1)
    loop = Loop.__new__(Loop)
    loop.state = TrainState(sums={"loss": 7.0, "part": 1.0})
    loop.runtime = SimpleNamespace(is_main=main, rank=0, world_size=1, unwrap=lambda model: model)
    loop.learner = SimpleNamespace(model=network, ema=SimpleNamespace(network=torch.nn.BatchNorm1d(1)))
    of_rank = [{"running_mean": torch.tensor([float(n)]), "running_var": torch.ones(1)} for n in range(3)]
    sums = [{"loss": torch.tensor(float(n)).double()} for n in range(3)]
    loop._take_own({"model": of_rank[:saved], "averaging": of_rank[:saved], "sums": sums[:saved]})
    assert loop.state.sums == {"loss": 1.0 if saved == 3 else 0.0, "part": 1.0}
    assert network.running_mean.item() == loop.learner.ema.network.running_mean.item() == (1.0 if saved == 3 else 0.0)
    words = "saved by 3 processes, now there are 1: BatchNorm takes their mean\n"
    assert capsys.readouterr().out == (words if said else "")
    loop._take_own({})
