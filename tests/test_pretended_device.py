"""The pretended GPU: what it says of operations is what torch and a card say of them."""

import numpy as np
import pytest
import torch
from torch import nn

from tests.pretended_device import DEVICE, DeviceMismatchError, PretendedDevice, holds

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a real GPU, which disturbs a pretended one")
HOST = torch.arange(12.0).reshape(3, 4)
ROWS = torch.tensor([2, 0])


def index_of(value):
    return torch.arange(2, device=value.device)


def assign(value, where, new):
    value[where(value)] = new(value)


WAITS = {
    "item": lambda x: x.sum().item(),
    "float": lambda x: float(x[0, 0]),
    "if": lambda x: 1 if x.sum() > 0 else 2,
    "list": lambda x: x.tolist(),
    "numpy": lambda x: x.numpy(),
    "cpu": lambda x: x.cpu(),
    "to the host": lambda x: x.to("cpu"),
    "to the host, of another type": lambda x: x.to(device="cpu", dtype=torch.float64),
    "to where a tensor of the host is": lambda x: x.to(HOST.double()),
    "into a tensor of the host": lambda x: HOST.clone().copy_(x),
    "nonzero": lambda x: x.nonzero(),
    "mask": lambda x: x[x > 0],
    "mask of rows": lambda x: x[:, x[0] > 0],
    "several values through a mask": lambda x: assign(x, lambda x: x > 0, lambda x: x.flatten()[1:].clone()),
    "unique": lambda x: x.unique(),
    "slice": lambda x: x[: x.argmax() - 10],
    "repeats": lambda x: x[:2].repeat_interleave(index_of(x), dim=0),
    "equal": lambda x: torch.equal(x, x),
    "tensor of a list": lambda x: torch.tensor([1, 2], device=x.device),
    "tensor of a number": lambda x: torch.tensor(0.5, device=DEVICE),
    "tensor of an array": lambda x: torch.as_tensor(np.ones(3), device=x.device),
    "new tensor": lambda x: x.new_tensor([1.0, 2.0]),
    "to the device": lambda x: HOST.to(DEVICE),
    "to the device, not pinned": lambda x: HOST.to(DEVICE, non_blocking=True),
    "to the device, blocking": lambda x: HOST.pin_memory().to(x.device),
    "cuda": lambda x: HOST.cuda(),
    "from the host": lambda x: x.copy_(HOST),
    "rows by a list": lambda x: x[[0, 1]],
    "rows by a tensor of the host": lambda x: x[ROWS],
    "a scalar of the host written": lambda x: assign(x, index_of, lambda x: torch.tensor(1.0)),
}
FREE = {
    "pinned": lambda x: HOST.pin_memory().to(DEVICE, non_blocking=True),
    "view of what is pinned": lambda x: HOST.pin_memory()[:2].to(x.device, non_blocking=True),
    "where it is": lambda x: x.to(x.device).to(torch.float64).to(x),
    "a number": lambda x: 2 * x + 1,
    "a scalar of the host": lambda x: x * torch.tensor(0.5),
    "a number through a mask": lambda x: assign(x, lambda x: x > 0, lambda x: 0.5),
    "numbers where": lambda x: torch.where(x > 0, 0.5, x),
    "a filled scalar": lambda x: torch.full((), 0.5, device=x.device) + x,
    "rows": lambda x: x[index_of(x)],
    "selected": lambda x: x[0, 1:],
    "sorted": lambda x: x.sort().values.topk(2, sorted=False).values,
    "repeats of known number": lambda x: x[:2].repeat_interleave(index_of(x) + 1, dim=0, output_size=3),
    "drawn": lambda x: torch.randperm(4, device=x.device) + torch.rand_like(x),
    "of its like": lambda x: x.new_zeros(3, 4) + torch.ones_like(x),
    "made there": lambda x: torch.zeros(4, device=x.device) + x,
}
MISMATCHES = {
    "sum": lambda x: x + HOST,
    "made on the host": lambda x: x * torch.arange(4),
    "product": lambda x: x @ HOST.T,
    "stack of scalars": lambda x: torch.stack([x[0, 0], HOST[0, 0]]),
    "where": lambda x: torch.where(x > 0, x, HOST),
    "in place": lambda x: HOST[0, 0].clone().add_(x[0, 0]),
    "index of a tensor of the host": lambda x: HOST[index_of(x)],
    "rows written": lambda x: x.index_put_((index_of(x),), HOST[:2]),
    "generator": lambda x: torch.rand(2, device=x.device, generator=torch.Generator()),
    "generator for what is there": lambda x: x.bernoulli_(0.5, generator=torch.Generator()),
    "joint norm": lambda x: nn.utils.clip_grad_norm_([with_gradient(x), with_gradient(HOST)], 1.0),
}


def with_gradient(values):
    parameter = nn.Parameter(values)
    parameter.grad = values.clone()
    return parameter


@pytest.fixture
def device():
    with PretendedDevice() as found:
        yield found


@pytest.fixture
def values(device):
    there = HOST.to(DEVICE)
    device.waits.clear()
    return there


@pytest.mark.parametrize("work", WAITS.values(), ids=WAITS)
def test_it_waits(work, device, values):
    work(values)
    assert len(device.waits) == 1
    assert device.waits[0].startswith("tests/test_pretended_device.py:")


@pytest.mark.parametrize("work", FREE.values(), ids=FREE)
def test_it_does_not_wait_and_gives_what_the_cpu_gives(work, device, values):
    torch.manual_seed(0)
    found = work(values)
    assert device.waits == []
    assert found is None or holds(found)


@pytest.mark.parametrize("work", MISMATCHES.values(), ids=MISMATCHES)
def test_it_mixes_host_and_device(work, device, values):
    with pytest.raises(DeviceMismatchError, match=r"tests/test_pretended_device\.py"):
        work(values)


def test_a_tensor_knows_where_it_is_and_so_do_its_views_and_gradient(device, values):
    weight = nn.Parameter(values.clone())
    (weight[1:, None] * values[0]).sum().backward()
    assert [each.device for each in (values, values[0], weight, weight.grad, values.cpu())] == [DEVICE] * 4 + [
        HOST.device
    ]
    assert (values.is_cuda, HOST.is_cuda, HOST.is_pinned(), HOST.pin_memory().is_pinned()) == (True, False, False, True)
    assert len(device.waits) == 1


def test_a_module_moves_and_learns_there(device):
    network = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).to(DEVICE)
    optimiser = torch.optim.Adam(network.parameters(), fused=True)
    images = HOST.to(DEVICE)
    device.waits.clear()
    for _ in range(2):
        network(images).square().sum().backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
    assert device.waits == []
    assert all(map(holds, [*network.parameters(), *network.buffers()]))


def test_a_mask_in_a_backward_pass_waits_too(device, values):
    weight = nn.Parameter(values.clone())
    loss = weight[values > 3].sum()
    device.waits.clear()
    loss.backward()
    assert len(device.waits) == 1
