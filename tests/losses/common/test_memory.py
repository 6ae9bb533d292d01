import os
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from losses import build_criterion
from losses.common.memory import (
    MemoryNeed,
    first_places,
    gib,
    index_beside,
    label_memory,
    put,
    read_rows,
    require_room,
    to_device,
    write_rows,
    zero_rows,
)
from tests.losses.common.test_global_batch import batch_at
from tests.ranks import run_ranks
from utils.checks import UserError
from utils.types import UNKNOWN, LabelTable


def test_rows_are_read_in_the_order_of_the_index_with_their_gradient():
    memory = torch.arange(8.0).reshape(4, 2).requires_grad_()
    rows = read_rows(memory, torch.tensor([3, 0, 3]))
    assert rows.tolist() == [[6, 7], [0, 1], [6, 7]]
    rows.sum().backward()
    assert memory.grad.tolist() == [[1, 1], [0, 0], [0, 0], [2, 2]]


def test_the_index_on_the_host_serves_where_the_memory_is_elsewhere_alone():
    memory, wrong = torch.arange(4.0)[:, None], torch.tensor([1])
    assert read_rows(memory, torch.tensor([2]), wrong).tolist() == [[2]]
    far = torch.empty(1, dtype=torch.int64, device="meta")
    assert index_beside(memory, far, wrong) is wrong
    assert index_beside(memory, wrong, None) is wrong


def test_only_the_named_rows_change_and_the_first_of_repeated_rows_counts():
    memory = torch.zeros(5, 2)
    kept = write_rows(memory, batch_at([3, 1, 3, 1]), torch.arange(8.0).reshape(4, 2))
    assert kept.tolist() == [[0, 1], [2, 3], [0, 1], [2, 3]]
    assert memory.tolist() == [[0, 0], [2, 3], [0, 0], [0, 1], [0, 0]]


def test_values_are_cast_and_gradients_stay_out():
    memory = torch.zeros(3, 2)
    write_rows(memory, batch_at([0]), torch.ones(1, 2, dtype=torch.float64, requires_grad=True))
    assert memory.dtype == torch.float32
    assert not memory.requires_grad
    assert memory[0].tolist() == [1, 1]


def write(rank: int) -> list[torch.Tensor]:
    found, index = [], [[2, 0, 4], [5, 2]][rank]  # row 2 on both, first in the order of one process on rank 0
    for everyone in (None, torch.tensor([2, 5, 0, 2, 4])):
        memory = torch.zeros(6, 2)
        kept = write_rows(memory, batch_at(index, everyone), torch.full((len(index), 2), float(rank + 1)))
        assert torch.equal(kept, memory[index])
        found.append(memory)
    return found


def test_ranks_end_with_the_same_memory():
    for found in run_ranks(write):
        assert [memory[:, 0].tolist() for memory in found] == [[1, 0, 1, 0, 1, 2]] * 2


def test_the_first_place_of_each_image_and_what_stays_where_it_is():
    assert first_places(torch.tensor([3, 1, 3, 1, 0])).tolist() == [0, 1, 0, 1, 4]
    memory, rows = torch.zeros(3), torch.ones(2)
    assert to_device(rows, rows.device) is rows
    put(memory, torch.tensor([[2, 0]]), torch.tensor([[5.0, 6.0]], requires_grad=True))
    assert memory.tolist() == [6, 0, 5]
    assert not memory.requires_grad


def test_a_need_is_an_entry_for_each_label():
    table = LabelTable(csr_array((3_400_000, 5_000), dtype=np.int8), default=UNKNOWN)
    assert label_memory("confidences", table, 4) == ("confidences", 68_000_000_000, True, False, "")


def test_what_has_no_room_is_refused_with_figures_and_advice():
    needs = [MemoryNeed("confidences", 3 << 30), MemoryNeed("prototypes", 1 << 29)]
    require_room("cones", needs, 7 << 29, "on the GPU", "give less")
    require_room("bce", [], 0, "on the GPU", "give less")
    with pytest.raises(UserError) as error:
        require_room("cones", needs, (7 << 29) - 1, "on the GPU", "give less")
    assert str(error.value) == (
        "cones keeps confidences of 3.00 GiB and prototypes of 0.50 GiB on the GPU, of which 3.50 GiB are free; "
        "give less"
    )


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0.00"), (1 << 30, "1.00"), (99 << 30, "99.00"), (100 << 30, "100"), (5000 << 30, "5,000")]
)
def test_sizes_are_in_gib(size, text):
    assert gib(size) == text


def test_a_criterion_that_memory_does_not_hold_is_refused_before_it_is_made(monkeypatch):
    made = {"observed": [[1, 1, -1], [1, 0, 1]], "feature_width": 4, "memory_per_class": 2, "clusters": 2}
    candidates = 5 * (4 + 1) + 3 * 8  # four numbers and one more with their classes, and where they begin
    monkeypatch.setattr("losses.usable_memory", lambda: candidates + 3 * 2 * 4 * 4)
    build_criterion("cones", **made)
    monkeypatch.setattr("losses.usable_memory", lambda: candidates + 3 * 2 * 4 * 4 - 1)
    monkeypatch.setattr("losses.cones.CoNeS.__init__", None)
    with pytest.raises(UserError, match=r"cones keeps confidences of 0\.00 GiB and prototypes of .* take fewer images"):
        build_criterion("cones", **made)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.int16, torch.bool])
def test_zeros_are_of_the_kind_that_is_asked_for(dtype):
    rows = zero_rows(5, 3, dtype)
    assert (rows.shape, rows.dtype, rows.device.type) == ((5, 3), dtype, "cpu")
    assert not rows.any()
    rows[2] = 1
    assert rows.sum() == 3
    assert zero_rows(0, 3, dtype).shape == (0, 3)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="this system does not tell what is in memory")
def test_zeros_take_memory_where_they_are_written_alone():
    before = _resident()
    rows = zero_rows(1 << 10, 1 << 20, torch.uint8)  # 1 GiB
    rows[7, 7] = 1
    assert _resident() - before < 1 << 28


def _resident():
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
