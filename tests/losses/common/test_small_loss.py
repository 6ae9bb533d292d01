"""Choosing small losses."""

import numpy as np
import pytest
import torch

from losses.common.small_loss import share_count, smallest


@pytest.mark.parametrize("seed", range(4))
def test_smallest_chooses_as_a_stable_sort_does(seed):
    rng = np.random.default_rng(seed)
    losses, members = rng.integers(0, 5, (6, 7)).astype(float), rng.random((6, 7)) < 0.7
    places = [place for place in np.ndindex(losses.shape) if members[place]]
    places.sort(key=lambda place: losses[place])
    for count in (0, 1, 10, len(places)):
        chosen = smallest(torch.tensor(losses), torch.tensor(members), torch.tensor(count))
        assert set(map(tuple, chosen.nonzero().tolist())) == set(places[:count])


def test_entries_that_are_no_members_are_never_chosen():
    losses = torch.tensor([1.0, torch.inf, 0.0, torch.inf])
    members = torch.tensor([True, False, False, True])
    assert smallest(losses, members, torch.tensor(2)).tolist()[1:3] == [False, False]
    assert not smallest(losses, torch.zeros(4, dtype=torch.bool), torch.tensor(0)).any()
    assert smallest(torch.zeros(0), torch.zeros(0, dtype=torch.bool), torch.tensor(0)).shape == (0,)


@pytest.mark.parametrize(
    "size, rate, count",
    [(50, 0.94, 47), (2150, 0.94, 2021), (90, 1 - 0.3, 63), (6, 0.8, 4), (7, 1.0, 7), (7, 0.0, 0), (9, 0.999, 8)],
)
def test_a_share_is_rounded_down_but_not_by_floating_point(size, rate, count):
    assert int(share_count(torch.tensor(size), rate)) == count
    assert int(share_count(torch.tensor(size, dtype=torch.int32), rate)) == count
