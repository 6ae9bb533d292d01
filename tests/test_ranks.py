"""The processes that stand for several GPUs: failures are told, and harm nothing that follows."""

import os
import time

import pytest
import torch
from torch import distributed as dist

from tests import ranks
from tests.ranks import run_ranks


def total(rank, value):
    held = torch.tensor([float(rank + value)])
    dist.all_reduce(held)
    return held, os.getpid(), torch.rand(1)


def fail_on_the_second(rank):
    if rank == 1:
        raise ValueError("no such label")
    total(rank, 0)


def leave(rank):
    os.environ["LEFT"] = "behind"
    torch.manual_seed(rank + 7)
    dist.destroy_process_group()


def sleep(rank):
    time.sleep(60 * rank)


def left(rank):
    return os.environ.get("LEFT"), total(rank, 0)[0]


def test_ranks_talk_and_stay():
    first, second = run_ranks(total, 3)
    assert first[0] == second[0] == 7
    again = run_ranks(total, 4)
    assert [one[0].item() for one in again] == [9, 9]
    assert [one[1] for one in again] == [first[1], second[1]]
    assert again[0][2] == first[2]


def test_a_rank_that_fails_is_told_and_the_next_work_is_done():
    with pytest.raises(AssertionError, match=r"(?s)rank 1:.*ValueError: no such label"):
        run_ranks(fail_on_the_second)
    assert run_ranks(total, 0)[0][0] == 1


def test_what_work_leaves_behind_is_gone():
    run_ranks(leave)
    assert run_ranks(left) == [(None, torch.tensor([1.0]))] * 2


def test_ranks_that_never_meet_are_given_up(monkeypatch):
    monkeypatch.setattr(ranks, "_SECONDS", 0.5)
    with pytest.raises(AssertionError, match=r"wait for each other after 0\.5 s"):
        run_ranks(sleep)
