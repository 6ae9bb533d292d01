"""Rows on their way from a pretended GPU to a memory on the host: written late, and never missed or lost."""

import numpy as np
import pytest
import torch

from losses import build_criterion
from losses.common.candidate_memory import CandidateMemory
from losses.common.memory import read_rows, settle, write_rows
from tests.pretended_device import DEVICE, PretendedDevice, holds
from utils.types import Batch, LabelTable

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a real GPU, which disturbs a pretended one")


@pytest.fixture
def device():
    with PretendedDevice() as found:
        yield found


def there(values):
    return torch.tensor(values).to(DEVICE)


def batch_on_device(index, *, known=True):
    far, nothing = index.to(DEVICE), torch.zeros(len(index), 1)
    return Batch(nothing, nothing, far, host_index=index if known else None)


def written(memory, rows, value, *, known=True):
    index = torch.tensor(rows)
    values = torch.full((len(rows), memory.shape[1]), float(value)).to(DEVICE)
    return write_rows(memory, batch_on_device(index, known=known), values)


@pytest.mark.parametrize("known", [True, False])
def test_rows_are_written_when_they_are_needed_without_a_wait_before(device, known):
    memory, index = torch.zeros(4, 2), torch.tensor([2, 0, 2])
    values = torch.arange(6.0).reshape(3, 2).to(DEVICE)
    batch = batch_on_device(index, known=known)
    device.waits.clear()
    kept = write_rows(memory, batch, values)
    assert device.waits == []
    assert holds(kept)
    assert kept.tolist() == [[0, 1], [2, 3], [0, 1]]
    assert not memory.any()
    settle(memory)
    assert memory.tolist() == [[2, 3], [0, 0], [0, 1], [0, 0]]
    memory.zero_()
    settle(memory)
    assert not memory.any()


def test_whoever_reads_finds_them(device):
    memory = torch.zeros(3, 2)
    written(memory, [1], 6)
    written(memory, [2, 1], 3)
    assert read_rows(memory, there([0, 1, 2]), torch.arange(3)).tolist() == [[0, 0], [3, 3], [3, 3]]


READERS = {
    "rows": lambda memory: memory.rows(there([0, 1, 2]), torch.arange(3)),
    "all": lambda memory: memory.dense(),
    "totals": lambda memory: memory.class_totals().sums,
}


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_whoever_reads_a_candidate_memory_finds_them(read, device):
    labels = LabelTable(np.array([[1, 1, 0], [0, 1, 1], [0, 0, 0]], dtype=np.int8))
    near, far = CandidateMemory(labels), CandidateMemory(labels)
    batch = batch_on_device(torch.tensor([1, 0, 1]))
    values = torch.arange(1.0, 10.0).reshape(3, 3)
    first, second = (each.to(DEVICE) for each in (values, 2 * values))
    device.waits.clear()
    kept = far.write(batch, first)
    assert torch.equal(far.values, near.values)  # of which nothing has arrived
    far.store(batch.index, second, batch.host_index)
    assert device.waits == []
    assert holds(kept)
    assert kept.tolist() == [[0, 2, 3], [4, 5, 0], [0, 2, 3]]
    near.store(torch.tensor([1, 0, 1]), 2 * values)
    assert read(far).tolist() == read(near).tolist()
    assert near.dense().tolist() == [[8, 10, 0], [0, 4, 6], [0, 0, 0]]


def test_a_second_write_comes_after_the_first(device):
    memory = torch.zeros(3, 1)
    written(memory, [0, 1], 1)
    written(memory, [1, 2], 2)
    settle(memory)
    assert memory.flatten().tolist() == [1, 2, 2]


def test_memories_are_told_apart(device):
    first, second = torch.zeros(2, 1), torch.zeros(2, 1)
    written(first, [0], 1)
    written(second, [1], 2)
    settle(second)
    assert (first.flatten().tolist(), second.flatten().tolist()) == ([0, 0], [0, 2])
    settle(first)
    assert first.flatten().tolist() == [1, 0]


def criterion():
    made = build_criterion("large_loss", observed=np.full((4, 3), -1, dtype=np.int8), mod_scheme="LL-Cp", delta_rel=10)
    return made.placed(DEVICE, memories_on_host=True)


def correct(made):
    rows = torch.tensor([[5]], dtype=torch.uint8).to(DEVICE)
    write_rows(made.corrected, batch_on_device(torch.tensor([1])), rows)
    assert not made.corrected.any()


def test_what_is_saved_and_what_is_exported_is_complete(device):
    for read in (lambda made: made.state_dict()["corrected"], lambda made: made.corrected_labels().dense() == 1):
        made = criterion()
        correct(made)
        assert read(made).any()
    outer = torch.nn.ModuleDict({"criterion": criterion()})
    correct(outer["criterion"])
    assert outer.state_dict()["criterion.corrected"].any()


def test_what_is_loaded_is_not_written_over_afterwards(device):
    outer = torch.nn.ModuleDict({"criterion": criterion()})
    state = {name: value.clone() if torch.is_tensor(value) else value for name, value in outer.state_dict().items()}
    correct(outer["criterion"])
    outer.load_state_dict(state)
    outer["criterion"].settle_memories()
    assert not outer["criterion"].corrected.any()
