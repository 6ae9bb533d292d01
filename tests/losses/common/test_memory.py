from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from losses.common.memory import check_memory, write_rows
from losses.cones import CoNeS, CoNeSConfig
from tests.losses.fake_model import info_for
from tests.ranks import run_ranks
from utils.checks import UserError
from utils.types import UNKNOWN, LabelTable


def test_only_the_named_rows_change_and_the_first_of_repeated_rows_counts():
    memory = torch.zeros(5, 2)
    write_rows(memory, torch.tensor([3, 1, 3, 1]), torch.arange(8.0).reshape(4, 2))
    assert memory.tolist() == [[0, 0], [2, 3], [0, 0], [0, 1], [0, 0]]


def test_values_are_cast_and_gradients_stay_out():
    memory = torch.zeros(3, 2)
    write_rows(memory, torch.tensor([0]), torch.ones(1, 2, dtype=torch.float64, requires_grad=True))
    assert memory.dtype == torch.float32
    assert not memory.requires_grad
    assert memory[0].tolist() == [1, 1]


def write(rank: int) -> torch.Tensor:
    memory = torch.zeros(6, 2)
    index = torch.tensor([[4, 0, 2], [2, 5]][rank])  # row 2 on both: rank 0 owns it
    write_rows(memory, index, torch.full((len(index), 2), float(rank + 1)))
    return memory


def test_ranks_end_with_the_same_memory():
    first, second = run_ranks(write)
    assert torch.equal(first, second)
    assert first[:, 0].tolist() == [1, 0, 1, 0, 1, 2]


def test_state_that_no_machine_has_room_for_is_refused_before_it_is_made():
    empty = csr_array((3_400_000, 5_000), dtype=np.int8)
    with pytest.raises(UserError, match=r"CoNeS keeps a confidence for each of 3,400,000 images.*63 GiB"):
        CoNeS(CoNeSConfig(), replace(info_for(np.eye(2, dtype=np.int8)), observed=LabelTable(empty, default=UNKNOWN)))
    check_memory(LabelTable(np.zeros((82_081, 80), dtype=np.int8)), 4, "anything")


def test_state_of_16_gib_is_kept_and_more_is_refused():
    def table(classes):
        return LabelTable(csr_array((16, classes), dtype=np.int8), default=UNKNOWN)

    check_memory(table(2**28), 4, "anything")
    with pytest.raises(UserError, match="anything for each of 16 images and 268,435,457 classes, 16 GiB"):
        check_memory(table(2**28 + 1), 4, "anything")
