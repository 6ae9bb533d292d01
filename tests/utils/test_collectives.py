from unittest import mock

import pytest
import torch
from torch import distributed as dist

from tests.ranks import run_ranks
from utils import collectives


def talk(rank: int) -> dict[str, object]:
    own = torch.arange(6.0).reshape(3, 2) + 10 * rank
    before = own.clone()
    answers = {
        "rank": collectives.rank(),
        "world_size": collectives.world_size(),
        "sum": collectives.all_sum(own),
        "max": collectives.all_max(own * (1 - 2 * rank)),
        "broadcast": collectives.broadcast(own),
        "rows": collectives.gather_rows(own[: 3 - 2 * rank]),
        "none_on_0": collectives.gather_rows(own[:rank]),
        "none": collectives.gather_rows(own[:0]),
        "index": collectives.gather_rows(torch.full((rank + 1,), rank)),
        "flags": collectives.gather_rows(torch.tensor([rank == 1, True])),
        "half": collectives.gather_rows(own.half()),
        "strided": collectives.gather_rows(own.T),
        "dealt": [collectives.gather_dealt(torch.arange(5.0)[rank::2, None], 5), collectives.gather_dealt(own[:1], 1)],
        "exchanged": collectives.exchange_rows(own, [1, 2], [1, 1] if rank == 0 else [2, 2]),
        "sums": collectives.all_sums([own, torch.tensor([rank]), own[:, :1] + 1, torch.tensor(2.0)]),
        "no sums": collectives.all_sums([]),
        "hosts": [collectives.host_max([rank, -rank]), collectives.host_broadcast(own.T[:1])],
    }
    with mock.patch.object(dist, "get_backend_config", return_value="cuda:nccl"):  # has a group of the hosts made
        answers["hosts beside GPUs"] = [collectives.host_max([rank, -rank]), collectives.host_broadcast(own.T[:1])]
        answers["groups"] = len({id(collectives._hosts()) for _ in range(2)})
    collectives.forget_hosts()
    answers["groups"] += len(collectives._HOST_GROUPS)
    learned = own.clone().requires_grad_()
    functions = (collectives.all_sum, collectives.all_max, collectives.broadcast, collectives.gather_rows)
    answers["with gradient"] = [function.__name__ for function in functions if function(learned).requires_grad]
    collectives.barrier()
    return answers | {"unchanged": torch.equal(own, before)}


@pytest.fixture(scope="module")
def answers():
    return run_ranks(talk)


def test_ranks_know_themselves(answers):
    assert [(a["rank"], a["world_size"]) for a in answers] == [(0, 2), (1, 2)]


def test_no_answer_has_a_gradient(answers):
    assert [answer["with gradient"] for answer in answers] == [[], []]
    learned = torch.ones(2, requires_grad=True)
    for function in (collectives.all_sum, collectives.all_max, collectives.broadcast, collectives.gather_rows):
        assert not function(learned).requires_grad, "with one process too"


def test_sum_max_and_broadcast_are_the_same_everywhere(answers):
    own = torch.arange(6.0).reshape(3, 2)
    for answer in answers:
        assert torch.equal(answer["sum"], 2 * own + 10)
        assert torch.equal(answer["max"], own)
        assert torch.equal(answer["broadcast"], own)
        assert answer["unchanged"]


def test_rows_come_in_rank_order_though_ranks_hold_unequal_numbers(answers):
    own = torch.arange(6.0).reshape(3, 2)
    for answer in answers:
        assert torch.equal(answer["rows"], torch.cat([own, own[:1] + 10]))
        assert torch.equal(answer["none_on_0"], own[:1] + 10)
        assert answer["none"].shape == (0, 2)
        assert answer["index"].tolist() == [0, 1, 1]
        assert answer["flags"].tolist() == [False, True, True, True]
        assert answer["half"].dtype == torch.float16
        assert torch.equal(answer["strided"], torch.cat([own.T, own.T + 10]))


def test_rows_that_were_dealt_out_come_in_the_order_of_one_process(answers):
    for answer in answers:
        whole, padded = answer["dealt"]
        assert whole.flatten().tolist() == [0, 1, 2, 3, 4]
        assert padded.tolist() == [[0, 1]]  # of the first process: the second has the same row


def test_rows_go_to_the_rank_they_are_for(answers):
    assert answers[0]["exchanged"].tolist() == [[0, 1], [10, 11]]
    assert answers[1]["exchanged"].tolist() == [[2, 3], [4, 5], [12, 13], [14, 15]]


def test_several_tensors_are_added_up_like_each_of_them(answers):
    own = torch.arange(6.0).reshape(3, 2)
    for answer in answers:
        wanted = [2 * own + 10, torch.tensor([1]), 2 * own[:, :1] + 12, torch.tensor(4.0)]
        assert all(torch.equal(*pair) for pair in zip(answer["sums"], wanted, strict=True))
        assert [each.dtype for each in answer["sums"]] == [each.dtype for each in wanted]
        assert answer["no sums"] == []


def test_the_hosts_agree_whatever_sends_the_tensors_of_gpus(answers):
    for answer in answers:
        for largest, first in (answer["hosts"], answer["hosts beside GPUs"]):
            assert largest == [1, 0]
            assert first.tolist() == [[0, 2, 4]]
        assert answer["groups"] == 1


def test_alone_nothing_is_changed_and_no_gradient_is_carried():
    values = torch.randn(3, 2, requires_grad=True)
    assert (collectives.rank(), collectives.world_size()) == (0, 1)
    collectives.barrier()
    for same in (collectives.all_sum, collectives.all_max, collectives.broadcast, collectives.gather_rows):
        assert torch.equal(same(values), values)
        assert not same(values).requires_grad


@pytest.mark.parametrize(("size", "waits"), [(1, 0), (2, 1), (3, 1)])
def test_several_ranks_wait_for_each_other(size, waits, monkeypatch):
    calls = []
    monkeypatch.setattr(collectives, "world_size", lambda: size)
    monkeypatch.setattr(dist, "barrier", lambda: calls.append(1))
    collectives.barrier()
    assert len(calls) == waits


SENT = [
    ("cpu:gloo,cuda:nccl", "cpu", "cpu"),
    ("cpu:gloo,meta:gloo", "cpu", "cpu"),
    ("cpu:gloo,meta:nccl", "meta", "meta"),
    ("meta:nccl", "meta", "meta"),
    ("meta:nccl", "cpu", "meta"),
    ("cpu:mpi", "cpu", "cpu"),
]


@pytest.mark.parametrize(("backends", "kind", "sent"), SENT)
def test_tensors_are_sent_from_a_device_that_the_backend_sends_from(backends, kind, sent, monkeypatch):
    monkeypatch.setattr(dist, "get_backend_config", lambda: backends)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    values = torch.ones(2, 3, device=kind).T.requires_grad_()
    found = collectives._sendable(values)
    assert (found.device.type, found.is_contiguous(), found.requires_grad) == (sent, True, False)


def test_under_gloo_all_is_sent_from_the_cpu(monkeypatch):
    monkeypatch.setattr(dist, "get_backend_config", lambda: "cpu:gloo,meta:gloo")
    with pytest.raises(NotImplementedError, match="meta"):  # which has no values that could be moved to the CPU
        collectives._sendable(torch.ones(2, device="meta"))
