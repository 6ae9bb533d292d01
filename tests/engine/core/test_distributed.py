"""Device and precision that go together, and gradients of processes with unequal shares of a batch."""

import os
import time
import warnings

import pytest
import torch
from torch import nn

from engine.core import distributed as room
from engine.core.distributed import Runtime
from models.peers import Peers
from tests.ranks import run_ranks
from utils import collectives
from utils.checks import UserError
from utils.types import Batch

ROWS = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
TARGETS = torch.randn(5, generator=torch.Generator().manual_seed(1))
SHARES = (slice(0, 4), slice(4, 5))
"""What each of two processes holds of the batch: four rows, and one."""


def test_draws_are_those_of_the_seed():
    Runtime("cpu", "fp32").seed_draws(2**62 + 5)
    found = torch.rand(9)
    torch.manual_seed(2**62 + 5)
    assert torch.equal(found, torch.rand(9))


def network():
    torch.manual_seed(2)
    return nn.Linear(3, 1)


def mean_loss(model, rows):
    return (model(ROWS[rows])[:, 0] - TARGETS[rows]).square().mean()


def backward_on_a_part(rank, shares):
    launched = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ.update(launched, ACCELERATE_USE_CPU="true", MASTER_ADDR="127.0.0.1", MASTER_PORT="29511")
    runtime = Runtime("cpu", "fp32")
    assert (runtime.rank, runtime.world_size) == (rank, 2)
    model = runtime.wrap(network())
    runtime.backward(mean_loss(model, SHARES[rank]), shares[rank])
    return [parameter.grad for parameter in runtime.unwrap(model).parameters()]


def test_uneven_shares_give_the_gradient_of_the_whole_batch():
    model = network()
    mean_loss(model, slice(None)).backward()
    first, second = run_ranks(backward_on_a_part, (4 / 5, 1 / 5))
    for parameter, one, other in zip(model.parameters(), first, second, strict=True):
        torch.testing.assert_close(one, parameter.grad)
        torch.testing.assert_close(other, parameter.grad)


def wrapped_alone(rank):
    launched = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ.update(launched, ACCELERATE_USE_CPU="true", MASTER_ADDR="127.0.0.1", MASTER_PORT="29511")
    torch.manual_seed(rank)
    runtime = Runtime("cpu", "fp32")
    with warnings.catch_warnings():  # nobody who trains can do anything about them
        warnings.simplefilter("error", FutureWarning)
        model = runtime.wrap(nn.Conv2d(3, 2, 1, bias=False))
    return runtime.unwrap(model).weight.detach()


def test_a_network_of_one_tensor_starts_alike_on_all_processes():
    """A head on features, say: one 1x1 convolution without bias."""
    first, second = run_ranks(wrapped_alone)
    torch.manual_seed(0)
    assert torch.equal(first, nn.Conv2d(3, 2, 1, bias=False).weight)
    assert torch.equal(first, second)


def test_one_process_has_the_gradient_of_its_loss():
    model, alone = network(), network()
    mean_loss(model, slice(None)).backward()
    Runtime("cpu", "fp32").backward(mean_loss(alone, slice(None)), 1.0)
    for parameter, same in zip(model.parameters(), alone.parameters(), strict=True):
        assert torch.equal(parameter.grad, same.grad)


@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_fp16_needs_a_cuda_device(device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="--precision fp16: needs a CUDA device"):
        Runtime(device, "fp16")


@pytest.mark.parametrize("device", ["cuda", "auto"])
def test_fp64_is_refused_on_a_cuda_device(device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(UserError, match="--precision fp64: computes on a CPU only; give --device cpu"):
        Runtime(device, "fp64")


def test_in_fp64_networks_are_float64_in_plain_memory():
    images = torch.rand(2, 3, 8, 8, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    for precision, dtype, plain in (("fp64", torch.float64, True), ("fp32", torch.float32, False)):
        runtime = Runtime("cpu", precision)
        assert runtime.dtype == dtype
        for prepared in (runtime.wrap, runtime.to_device):
            network = prepared(torch.nn.Conv2d(3, 4, 3))
            assert network(images.to(dtype)).dtype == dtype
            assert network.weight.is_contiguous() == plain


def test_cuda_needs_a_cuda_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="--device cuda: no CUDA device here"):
        Runtime("cuda", "fp32")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_auto_without_cuda_is_the_cpu(precision, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    runtime = Runtime("auto", precision)
    assert (runtime.device.type, runtime.precision, runtime.world_size) == ("cpu", precision, 1)


def with_loss_scale(scale):
    """A runtime with the loss scale of half precision, which there is on a GPU alone, here on a CPU."""
    runtime = Runtime("cpu", "fp32")
    runtime._accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    return runtime


def test_the_loss_scale_of_a_run_goes_on():
    state, again = with_loss_scale(8.0).state_dict(), with_loss_scale(2.0)
    assert state["scaler"]["scale"] == 8.0
    again.load_state_dict(state)
    assert again.state_dict() == state
    plain = Runtime("cpu", "fp32")
    assert plain.state_dict() == {}
    plain.load_state_dict({})


@pytest.mark.parametrize("scaled", [True, False])
def test_a_run_goes_on_in_its_own_precision_alone(scaled):
    one, other = with_loss_scale(8.0), Runtime("cpu", "fp32")
    with pytest.raises(UserError, match="the checkpoint was made with another --precision"):
        (one if scaled else other).load_state_dict((other if scaled else one).state_dict())


@pytest.mark.parametrize(("given", "processes"), [(None, 1), ("4", 4)])
def test_the_processes_of_this_machine_are_as_many_as_the_launcher_says_or_all(monkeypatch, given, processes):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if given:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", given)
    assert Runtime("cpu", "fp32").local_world_size == processes


def test_one_process_is_the_main_one_and_agrees_with_itself():
    runtime = Runtime("cpu", "fp32")
    assert (runtime.rank, runtime.is_main) == (0, True)
    assert [runtime.agree(flag) for flag in (True, False)] == [True, False]
    assert runtime.same_text("a text") == "a text"


def test_one_process_asks_nobody(monkeypatch):
    for name in ("all_sum", "all_sums", "all_max"):
        monkeypatch.setattr(f"engine.core.distributed.collectives.{name}", lambda values: pytest.fail("asked"))
    runtime, model = Runtime("cpu", "fp32"), nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    model(ROWS).sum().backward()
    runtime.average_gradients(model)
    runtime.average_buffers(model)
    assert runtime.agree(True)


def test_what_is_a_share_of_a_larger_batch_counts_so_many_times():
    model, twice = network(), network()
    runtime = Runtime("cpu", "fp32")
    runtime.backward(mean_loss(model, slice(None)), 1.0)
    runtime.backward(mean_loss(twice, slice(None)), 2.0)
    for parameter, other in zip(model.parameters(), twice.parameters(), strict=True):
        torch.testing.assert_close(2 * parameter.grad, other.grad)


def test_what_accelerate_is_asked_for(monkeypatch):
    runtime, asked = Runtime("cpu", "fp32"), []
    assert runtime._accelerator.ddp_handler.broadcast_buffers is False
    for name in ("prepare_model", "prepare_optimizer"):
        monkeypatch.setattr(runtime._accelerator, name, lambda one, **named: asked.append(named) or one)
    runtime.wrap(network())
    runtime.to_device(network())
    runtime.wrap_optimizer("optimizer")
    runtime.precision = "fp16"
    assert runtime.wrap_optimizer("optimizer") == "optimizer"
    assert asked == [{}, {"evaluation_mode": True}, {"device_placement": False}]


def test_a_network_is_wrapped_to_train_and_moved_to_be_used():
    runtime = Runtime("cpu", "fp32")
    alone = runtime.wrap(nn.Conv2d(3, 4, 3, bias=False))
    assert alone.weight.is_contiguous(memory_format=torch.channels_last)
    assert all(parameter.requires_grad for parameter in runtime.wrap(network()).parameters())
    images = nn.Conv2d(3, 4, 3)
    for placed in (runtime.wrap(images), runtime.to_device(images)):
        assert placed.weight.is_contiguous(memory_format=torch.channels_last)
        assert runtime.unwrap(placed) is images


def test_both_networks_of_a_pair_are_wrapped_moved_and_taken_out_one_by_one():
    runtime, pair = Runtime("cpu", "bf16"), Peers(network(), network())
    for place in (runtime.wrap, runtime.to_device):
        placed = place(pair)
        assert isinstance(placed, Peers)
        assert placed.f(ROWS).dtype == placed.g(ROWS).dtype == torch.float32
        bare = runtime.unwrap(placed)
        assert isinstance(bare, Peers)
    with runtime.unsynchronised(pair):
        pair.f(ROWS).sum().backward()
    assert pair.f.weight.grad is not None


def test_at_the_end_networks_are_let_go_and_the_group_is_left(monkeypatch):
    runtime, told = Runtime("cpu", "fp32"), []
    runtime.wrap(network())
    assert len(runtime._accelerator._models) == 1
    monkeypatch.setattr(runtime._accelerator, "end_training", lambda: told.append(len(runtime._accelerator._models)))
    monkeypatch.setattr(collectives, "forget_hosts", lambda: told.append("hosts"))
    runtime.close()
    assert told == ["hosts", 0]


@pytest.mark.parametrize(("rank", "order"), [(0, ["work", "waits"]), (1, ["waits", "work"])])
def test_processes_wait_for_each_other_where_they_are_told_to(monkeypatch, rank, order):
    runtime, told = Runtime("cpu", "fp32"), []
    runtime.barrier()
    monkeypatch.setattr(room.dist, "barrier", lambda group: told.append("waits"))
    monkeypatch.setattr(Runtime, "rank", rank)
    with runtime.main_first():
        told.append("work")
    assert told == ["work"], "a run of one process waits for nobody"
    runtime._waiting, told[:] = "a group", []
    with runtime.main_first():
        told.append("work")
    assert told == order


def waiting(rank):
    launched = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ.update(launched, ACCELERATE_USE_CPU="true", MASTER_ADDR="127.0.0.1", MASTER_PORT="29511")
    runtime = Runtime("cpu", "fp32")
    runtime.barrier()
    with runtime.main_first():
        began = time.monotonic()
        time.sleep(0.05)
    return began, room.dist.get_world_size(runtime._waiting), runtime.agree_each(rank == 1, rank == 0, False)


def test_the_main_process_goes_first_through_a_group_that_is_patient():
    (first, *main), (second, *other) = run_ranks(waiting)
    assert second - first >= 0.05
    assert main == other == [2, (True, True, False)]


class Learning(nn.Module):
    """A criterion with a bias, a scale that gets no gradient, and an estimate for each of six images."""

    label_memories = frozenset({"estimates"})

    def __init__(self):
        super().__init__()
        self.bias, self.scale, self.estimates = (nn.Parameter(torch.zeros(6, 1)) for _ in range(3))


def criterion_gradients(runtime):
    """Gradients of a criterion's parameters after those of batches of five, of three and of one image."""
    found = []
    for everyone in ([4, 0, 3, 0, 0], [2, 1, 5], [3]):
        criterion, size = Learning(), len(everyone)
        index = everyone[runtime.rank :: 2] if size > 1 else everyone
        criterion.bias.grad = torch.full((6, 1), 2.0 + runtime.rank)
        ((criterion.estimates[index] + 1) * torch.tensor([[row + runtime.rank] for row in index])).sum().backward()
        batch = Batch(torch.zeros(1), torch.zeros(1), torch.tensor(index), global_index=torch.tensor(everyone))
        dense = collectives.all_sum(criterion.estimates.grad) / 2
        runtime.average_criterion_gradients(criterion, batch)
        assert torch.equal(criterion.estimates.grad, dense)
        found.append((criterion.bias.grad.unique().tolist(), criterion.scale.grad, dense.flatten().tolist()))
    return found


def statistics_of_each(rank):
    """The buffers and the gradients of a network whose processes have seen other rows, after they are averaged."""
    launched = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ.update(launched, ACCELERATE_USE_CPU="true", MASTER_ADDR="127.0.0.1", MASTER_PORT="29511")
    runtime = Runtime("cpu", "fp32")
    model = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3))
    with torch.no_grad():
        for layer in model:
            layer.running_mean.fill_(rank + 1.0)
            layer.num_batches_tracked.fill_(rank)
    model[1].eval()
    runtime.average_buffers(model)
    held = [(layer.running_mean.tolist(), int(layer.num_batches_tracked)) for layer in model]
    bare = network()
    bare.weight.grad = torch.full((1, 3), 4.0 * rank)
    runtime.average_gradients(bare)
    gradients = bare.weight.grad.tolist(), bare.bias.grad, *criterion_gradients(runtime)
    agreed = [runtime.agree(rank == number) for number in (0, 1, 2)]
    return held, gradients, agreed, runtime.same_text(f"text {rank}"), runtime.is_main


def test_processes_average_what_they_have_learned_and_agree():
    for rank, (held, gradients, agreed, text, main) in enumerate(run_ranks(statistics_of_each)):
        assert held == [([1.5] * 3, rank), ([rank + 1.0] * 3, rank)]
        assert gradients[:2] == ([[2.0] * 3], None)
        assert [each[:2] for each in gradients[2:]] == [([2.5], None)] * 3
        assert [each[2] for each in gradients[2:]] == [
            [1.0, 0, 0, 1.5, 2.0, 0],  # image 0: once on the first process, twice on the second
            [0, 1.0, 1.0, 0, 0, 2.5],
            [0, 0, 0, 3.5, 0, 0],  # on both processes
        ]
        assert (agreed, text, main) == ([True, True, False], "text 0", rank == 0)
