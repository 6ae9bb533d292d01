"""The rows of the global batch as one process would have them."""

from itertools import product

import numpy as np
import torch

from losses.common.global_batch import GlobalBatch, dealt, rows_of_all, share_of_all
from tests.losses.peers import dealt_out
from tests.ranks import run_ranks
from utils import collectives
from utils.types import Batch


def batch_at(index, everyone=None):
    index = torch.as_tensor(index)
    return Batch(torch.zeros(len(index), 3, 1, 1), torch.zeros(len(index), 1), index, global_index=everyone)


def test_alone_the_global_batch_is_the_batch():
    values, chosen = torch.randn(4, 3, requires_grad=True), torch.rand(4, 3) < 0.5
    whole = GlobalBatch(batch_at(torch.tensor([5, 2, 9, 0])))
    assert whole.size == 4
    assert torch.equal(whole.rows(values), values.detach())
    assert not whole.rows(values).requires_grad
    assert torch.equal(whole.own(chosen), chosen)
    alone = whole.rows_with_gradient(values)
    assert torch.equal(alone, values)
    assert torch.equal(torch.autograd.grad(alone.square().sum(), values)[0], 2 * values)
    total = whole.total(values, chosen)
    assert torch.equal(total, (values * chosen).sum())
    total.backward()
    assert torch.equal(values.grad, chosen.float())


def test_a_total_over_nothing_is_0_with_a_gradient_of_zeros():
    values = torch.tensor([[torch.inf, 1.0]], requires_grad=True)
    total = GlobalBatch(batch_at(torch.tensor([0]))).total(values, torch.zeros(1, 2, dtype=torch.bool))
    total.backward()
    assert float(total.detach()) == 0
    assert values.grad.tolist() == [[0, 0]]


ROWS, CLASSES = 11, 3
TABLE = torch.from_numpy(np.random.default_rng(0).normal(size=(ROWS, CLASSES)))


def share_epochs(rank, world_size, batch_sizes):
    """Of every batch, told and not: its rows in one process's order, the sum over chosen entries as in the engine."""
    found = []
    for batch_size, told in product(batch_sizes, (True, False)):
        for rows, share, everyone in dealt_out(rank, world_size, ROWS, batch_size, told=told):
            index = torch.tensor(rows)
            batch = batch_at(index, everyone if told else None)
            whole, values = GlobalBatch(batch), TABLE[index].requires_grad_()
            assert torch.equal(whole.index, everyone)
            assert rows_of_all(batch) == (len(everyone) if told else max(len(everyone), world_size))
            assert whole.share == share
            if told:
                assert share_of_all(batch) == share
            everyone = whole.rows(values)
            assert torch.equal(whole.own(everyone), TABLE[index])
            wanted = [torch.arange(len(everyone)).flip(0)[: each + 1] for each in range(world_size)]
            assert torch.equal(whole.fetch(TABLE[index], wanted), everyone[wanted[rank]])
            total = whole.total(values, everyone > 0.1) * share
            total.backward()
            gradient = torch.zeros_like(TABLE).index_add(0, index, values.grad)
            own = TABLE[index].requires_grad_()
            every = whole.rows_with_gradient(own)
            assert torch.equal(every, everyone)
            (share * every.logsumexp(dim=0).square().sum()).backward()
            coupled = torch.zeros_like(TABLE).index_add(0, index, own.grad)
            if told:
                made_beside(whole, share, rank)
            sums = [collectives.all_sum(each) for each in (total, gradient, coupled)]
            found.append((whole.size, everyone, *sums))
    return found


def made_beside(whole, share, rank):
    """Rows that are made beside the batch, shared out, have the values and gradients of one process."""
    for total in (1, 2, 3, 5):
        own = TABLE[:total][dealt(total, rank)].requires_grad_()
        every = whole.dealt_with_gradient(own, total)
        assert torch.equal(every, TABLE[:total])
        (share * every.logsumexp(dim=0).square().sum()).backward()
        gradient = torch.zeros_like(TABLE[:total]).index_add(0, torch.arange(total)[dealt(total, rank)], own.grad)
        alone = TABLE[:total].clone().requires_grad_()
        alone.logsumexp(dim=0).square().sum().backward()
        torch.testing.assert_close(collectives.all_sum(gradient), alone.grad)


def test_several_processes_have_the_batch_of_one():
    sizes = (2, 3, 4, 5)  # for three processes: smaller batches, even ones, uneven ones, and all of these at the end
    alone = share_epochs(0, 1, sizes)
    for found in run_ranks(share_epochs, 3, sizes, world_size=3):
        assert len(found) == len(alone)
        for ours, expected in zip(found, alone, strict=True):
            assert ours[0] == expected[0]
            assert torch.equal(ours[1], expected[1])
            torch.testing.assert_close(ours[2:], expected[2:])
