"""What each process has of its own, saved of all and taken up again; means over the processes."""

import pytest
import torch
from torch import nn

from engine.training.rank_buffers import buffers_of_ranks, mean_over_ranks, of_process, of_ranks, take_buffers
from tests.ranks import run_ranks


def network(value):
    made = nn.Sequential(nn.BatchNorm2d(2), nn.BatchNorm1d(3).double())
    made[0].running_mean.fill_(value / 3)
    made[1].running_var.fill_(value / 7)
    made[0].register_buffer("scratch", torch.zeros(1), persistent=False)
    return made


def gathered(rank):
    return buffers_of_ranks(network(rank + 1.0))


@pytest.fixture(scope="module")
def ranks():
    one, other = run_ranks(gathered)
    assert [list(each) for each in one] == [list(each) for each in other]
    return one


def test_each_buffer_of_each_process_is_saved_as_it_is(ranks):
    for rank, found in enumerate(ranks):
        wanted = {name: value for name, value in network(rank + 1.0).state_dict().items() if value.is_floating_point()}
        own = {name: value for name, value in wanted.items() if "running" in name}
        assert list(found) == list(own)
        assert all(found[name].dtype == own[name].dtype and torch.equal(found[name], own[name]) for name in own)


def taken(rank, ranks):
    made = network(9.0)
    return take_buffers(made, ranks, rank), made.state_dict()


def test_as_many_processes_take_their_own(ranks):
    for rank, (averaged, found) in enumerate(run_ranks(taken, ranks)):
        assert not averaged
        assert all(torch.equal(found[name], value) for name, value in network(rank + 1.0).state_dict().items())


def test_another_number_takes_the_mean(ranks):
    averaged, found = taken(0, ranks)
    assert averaged
    assert found["0.running_mean"].tolist() == pytest.approx([1.5 / 3] * 2)
    assert found["1.running_var"].tolist() == pytest.approx([1.5 / 7] * 3)
    for order in ((0, 0, 1), (0, 1, 0), (0, 1, 1)):
        assert taken(0, [ranks[one] for one in order])[0]
    averaged, found = taken(0, [ranks[1]] * 3)
    assert not averaged
    assert torch.equal(found["0.running_mean"], ranks[1]["0.running_mean"])


def test_one_process_saves_nothing_beside_its_state_and_leaves_it_as_it_is():
    assert buffers_of_ranks(network(1.0)) == []
    averaged, found = taken(0, [])
    assert not averaged
    assert torch.equal(found["0.running_mean"], network(9.0)[0].running_mean)


def sums_of(rank):
    own = {"loss": torch.tensor(rank + 0.5).double(), "part": torch.tensor(2.0 * rank).double()}
    return of_ranks(own), mean_over_ranks(own), mean_over_ranks({}), of_ranks({})


def test_sums_are_saved_of_each_process_and_logged_as_their_mean():
    for saved, mean, *nothing in run_ranks(sums_of):
        assert saved == [{"loss": 0.5, "part": 0.0}, {"loss": 1.5, "part": 2.0}]
        assert mean == {"loss": 1.0, "part": 1.0}
        assert nothing == [{}, [{}, {}]]
        assert of_process(saved, 0) == {"loss": 1.0, "part": 1.0}
    assert sums_of(3) == ([], {"loss": 3.5, "part": 6.0}, {}, [])
    assert of_process([], 0) == of_process((), 1) == {}
