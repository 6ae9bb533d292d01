"""Candidate memories against plain tables of all labels (N, C), which are filled entry by entry."""

from collections import Counter

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from torch.utils._python_dispatch import TorchDispatchMode

from losses import build_criterion
from losses.common import candidate_memory as module
from losses.common.candidate_memory import CandidateMemory, candidate_need, column_type
from losses.common.memory import MemoryNeed
from tests.equality.turns import Turns
from tests.losses.common.test_base import OPTIONS, labels_of
from tests.losses.common.test_global_batch import batch_at
from tests.losses.fake_model import random_labels
from tests.losses.steps import WAITING
from tests.oracles import ndlp as oracle
from utils.types import ABSENT, PRESENT, UNKNOWN, LabelTable

SHAPES = [(12, 5), (1, 4), (9, 1), (7, 300), (5, 3)]


def labels(rows, classes, seed=0):
    """Random ones; where there are several images one has no candidate, and one nothing else."""
    codes = random_labels(rows, classes, seed)
    if rows > 4:
        codes[2], codes[4] = -1, 1
    return codes


def sparse(codes, default):
    """The table that stores all labels but `default`, classes in no order."""
    stored = csr_array(np.where(codes == default, 0, codes + 2).astype(np.int8))
    stored.data -= 2
    for start, end in zip(stored.indptr, stored.indptr[1:], strict=False):
        stored.indices[start:end], stored.data[start:end] = (
            part[start:end][::-1].copy() for part in (stored.indices, stored.data)
        )
    stored.has_sorted_indices = False
    return LabelTable(stored, default=default)


@pytest.mark.parametrize("block", [3, 1 << 22])
@pytest.mark.parametrize("shape", SHAPES)
def test_candidates_share_one_at_the_start_however_labels_are_stored(shape, block, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", block)
    codes = labels(*shape)
    expected = oracle.initial_confidence(codes == 1)
    for table in (LabelTable(codes), sparse(codes, ABSENT), sparse(codes, UNKNOWN), sparse(codes, PRESENT)):
        memory = CandidateMemory(table, torch.float64)
        np.testing.assert_array_equal(memory.dense(), expected)
        assert len(memory) == shape[0]
        assert memory.widest == (codes == 1).sum(axis=1).max()
        assert memory.columns[:-1].tolist() == np.nonzero(codes == 1)[1].tolist()
        assert list(memory.state_dict()) == ["values"]
    assert CandidateMemory(LabelTable(codes)).values.dtype == torch.float32
    np.testing.assert_array_equal(CandidateMemory(LabelTable(codes)).dense(), expected.astype(np.float32))


def test_no_image_and_no_candidate_are_possible():
    for codes in (np.zeros((0, 3), np.int8), np.zeros((2, 3), np.int8)):
        memory = CandidateMemory(LabelTable(codes))
        assert memory.widest == 0
        assert memory.dense().tolist() == codes.tolist()
    assert memory.write(batch_at([1, 0]), torch.ones(2, 3)).tolist() == [[0, 0, 0]] * 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_rows_are_those_of_a_table_of_all_labels_bit_for_bit(shape, dtype):
    rng, codes = np.random.default_rng(1), labels(*shape)
    memory = CandidateMemory(LabelTable(codes), dtype)
    expected = memory.dense().numpy()
    for step in range(6):
        index = rng.integers(0, shape[0], 4)
        values = rng.random((4, shape[1]))
        for place in reversed(range(4)):  # of an image that comes twice the first row counts
            expected[index[place]] = np.where(codes[index[place]] == 1, values[place], 0)
        if step % 2:
            kept = memory.write(batch_at(index.tolist()), torch.from_numpy(values).requires_grad_())
            assert not kept.requires_grad
            np.testing.assert_array_equal(kept, expected[index])
        else:
            memory.store(torch.from_numpy(index), torch.from_numpy(values).to(dtype).requires_grad_())
        found = memory.rows(torch.from_numpy(index))
        assert found.is_contiguous()
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, expected[index])
        np.testing.assert_array_equal(memory.dense(), expected)
    assert not memory.values.requires_grad
    assert memory.values[-1] == 0


def test_the_index_on_the_host_serves_where_the_memory_is_elsewhere_alone():
    memory = CandidateMemory(LabelTable(np.eye(3, dtype=np.int8)))
    assert memory.rows(torch.tensor([2]), torch.tensor([0])).tolist() == [[0, 0, 1]]
    memory.store(torch.tensor([2]), torch.full((1, 3), 5.0), torch.tensor([0]))
    assert memory.dense().diagonal().tolist() == [1, 1, 5]


@pytest.mark.parametrize("block", [2, 1 << 22])
@pytest.mark.parametrize("shape", SHAPES)
def test_totals_are_those_of_all_rows(shape, block, monkeypatch):
    codes = labels(*shape)
    memory = CandidateMemory(LabelTable(codes))
    values = np.random.default_rng(2).random(shape) * (np.arange(shape[1]) != 1)
    memory.store(torch.arange(shape[0]), torch.from_numpy(values).float())
    monkeypatch.setattr(module, "BLOCK", block)
    dense = memory.dense().double().numpy()
    sums, counts = memory.class_totals()
    assert (sums.dtype, counts.dtype) == (torch.float64, torch.int64)
    np.testing.assert_allclose(sums, dense.sum(axis=0), rtol=1e-12)
    np.testing.assert_array_equal(counts, (dense != 0).sum(axis=0))
    others = memory.class_totals(torch.ones_like(memory.values))
    assert others.sums.tolist() == others.counts.tolist() == (codes == 1).sum(axis=0).tolist()


@pytest.mark.parametrize(
    ("classes", "expected"),
    [(1, torch.uint8), (255, torch.uint8), (256, torch.int16), (32_767, torch.int16), (32_768, torch.int32)],
)
def test_classes_are_as_small_as_they_can_be(classes, expected):
    assert column_type(classes) == expected
    codes = np.zeros((2, classes), dtype=np.int8)
    codes[1, -1] = 1
    memory = CandidateMemory(LabelTable(codes))
    assert memory.columns.dtype == expected
    assert memory.columns.tolist() == [classes - 1, classes]
    assert memory.dense().nonzero().tolist() == [[1, classes - 1]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_need_is_what_is_kept(shape, dtype):
    table = LabelTable(labels(*shape))
    need = candidate_need("confidences", table, dtype)
    assert need == MemoryNeed("confidences", sum(each.nbytes for each in CandidateMemory(table, dtype).buffers()))
    assert need.per_image


def test_a_large_table_is_planned_without_being_made_dense():
    """3.4 million images, 5,000 classes and a candidate: 63 GiB as a matrix, nearly nothing but 8 bytes an image."""
    stored = csr_array((np.ones(1, np.int8), ([7], [4_000])), shape=(3_400_000, 5_000))
    assert candidate_need("confidences", LabelTable(stored), torch.float32).size == 2 * (4 + 2) + 3_400_001 * 8


class Sizes(TorchDispatchMode):
    """Number of elements of the largest result of each operation."""

    def __init__(self):
        super().__init__()
        self.largest = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result, name = func(*args, **kwargs or {}), func.overloadpacket.__name__
        self.largest[name] = max(self.largest[name], result.numel())
        return result


def test_a_step_waits_for_nothing_and_touches_no_more_than_its_batch():
    memory = CandidateMemory(LabelTable(random_labels(2000, 6)))
    index = torch.arange(0, 2000, 200)
    batch = batch_at(index.tolist())
    with Sizes() as seen:
        rows = memory.rows(index)
        memory.write(batch, rows)
        memory.store(index, rows)
    assert not seen.largest.keys() & WAITING
    assert {name for name, size in seen.largest.items() if size > 10 * 10} == {"index_put_"}  # which is in place


def write_as(rank):
    found, index = [], [[2, 0, 4], [5, 2]][rank]  # row 2 on both, first in the order of one process on rank 0
    for everyone in (None, torch.tensor([2, 5, 0, 2, 4])):
        memory = CandidateMemory(LabelTable(labels(6, 3)))
        kept = memory.write(batch_at(index, everyone), torch.full((len(index), 3), float(rank + 1)))
        assert torch.equal(kept, memory.rows(torch.tensor(index)))
        found.append(memory.dense())
    return found


def test_ranks_end_with_the_same_memory():
    codes = labels(6, 3)
    expected = oracle.initial_confidence(codes == 1).astype(np.float32)
    for row, value in {0: 1, 2: 1, 4: 1, 5: 2}.items():
        expected[row] = value * (codes[row] == 1)
    for found in Turns(2).run(write_as):
        for memory in found:
            np.testing.assert_array_equal(memory, expected)


# --- states of earlier versions


def earlier_state(name):
    """A criterion whose confidences have moved, and its state as earlier versions kept it, in which they are dense."""
    criterion = build_criterion(name, observed=labels_of(name), **OPTIONS[name])
    memory = criterion.confidence
    memory.store(torch.arange(len(memory)), torch.rand(len(memory), memory.classes, dtype=memory.values.dtype))
    memory.values[0] = 0  # a candidate without any confidence
    state = {"confidence": memory.dense(), **criterion.state_dict()}
    for key in ("confidence.values", "sums", "counts"):
        state.pop(key, None)
    return criterion, state


@pytest.mark.parametrize("outer", [False, True])
@pytest.mark.parametrize("name", ["cones", "ndlp"])
def test_a_state_with_a_number_for_each_label_is_taken(name, outer):
    criterion, state = earlier_state(name)
    fresh = build_criterion(name, observed=labels_of(name), **OPTIONS[name])
    before = {key: value.clone() if torch.is_tensor(value) else value for key, value in state.items()}
    if outer:
        nested = {f"criterion.{key}": value for key, value in state.items()}
        torch.nn.ModuleDict({"criterion": fresh}).load_state_dict(nested)
    else:
        fresh.load_state_dict(state)
    assert state.keys() == before.keys()
    assert torch.equal(fresh.confidence.values, criterion.confidence.values)
    if name == "ndlp":
        dense = state["confidence"]
        torch.testing.assert_close(fresh.sums, dense.sum(dim=0), rtol=1e-12, atol=0)
        assert torch.equal(fresh.counts, (dense != 0).sum(dim=0))


@pytest.mark.parametrize("name", ["cones", "ndlp"])
@pytest.mark.parametrize("damage", [lambda dense: dense[1:], lambda dense: dense[:, 1:], lambda dense: 7])
def test_one_of_another_shape_is_not(name, damage):
    criterion, state = earlier_state(name)
    with pytest.raises(RuntimeError, match="confidence"):
        criterion.load_state_dict(state | {"confidence": damage(state["confidence"])})


@pytest.mark.parametrize(("name", "kept"), [("cones", torch.float32), ("ndlp", torch.float64)])
def test_in_float64_confidences_are_of_the_type_that_is_published(name, kept):
    criterion = build_criterion(name, observed=labels_of(name), **OPTIONS[name])
    names = list(criterion.state_dict())
    assert criterion.in_float64().confidence.values.dtype == kept
    assert list(criterion.state_dict()) == names
    assert criterion.confidence.starts.dtype == torch.int64
