"""Device and precision that go together, and gradients of processes with unequal shares of a batch."""

import os

import pytest
import torch
from torch import nn

from engine.core.distributed import Runtime
from tests.ranks import run_ranks
from utils.checks import UserError

ROWS = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
TARGETS = torch.randn(5, generator=torch.Generator().manual_seed(1))
SHARES = (slice(0, 4), slice(4, 5))
"""What each of two processes holds of the batch: four rows, and one."""


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


def test_cuda_needs_a_cuda_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="--device cuda: no CUDA device here"):
        Runtime("cuda", "fp32")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_auto_without_cuda_is_the_cpu(precision, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    runtime = Runtime("auto", precision)
    assert (runtime.device.type, runtime.precision, runtime.world_size) == ("cpu", precision, 1)
