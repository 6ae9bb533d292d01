"""Mixtures: what they are, that every rank draws the same, and that BatchNorm's statistics can be kept out of them."""

import pytest
import torch
from torch import nn

from losses.common.mixup import Mixture, draw_mixture, running_statistics_kept
from tests.ranks import run_ranks


def test_a_mixture_is_a_convex_combination_of_partners():
    values = torch.tensor([[1.0, 0.0], [0.0, 4.0], [2.0, 2.0]])
    mixture = Mixture(torch.tensor(0.75, dtype=torch.float64), torch.tensor([1, 2, 0]))
    partners = values[mixture.partners]
    assert mixture.of(values, partners).tolist() == [[0.75, 1.0], [0.5, 3.5], [1.75, 1.5]]
    assert mixture.of(values, partners).dtype == torch.float32
    assert torch.equal(mixture._replace(portion=torch.tensor(1.0)).of(values, partners), values)


@pytest.mark.parametrize("beta", [0.2, 4.0])
def test_draws_are_at_least_a_half_permute_and_follow_the_seed(beta):
    portions = []
    for seed in range(200):
        torch.manual_seed(seed)
        mixture = draw_mixture(7, beta, torch.device("cpu"))
        assert 0.5 <= mixture.portion <= 1
        assert sorted(mixture.partners.tolist()) == list(range(7))
        portions.append(float(mixture.portion))
        torch.manual_seed(seed)
        again = draw_mixture(7, beta, torch.device("cpu"))
        assert float(again.portion) == portions[-1]
        assert torch.equal(again.partners, mixture.partners)
    # mean of max(p, 1 - p): 1/2 plus the mean distance of a Beta(b, b) from 1/2
    a = torch.tensor(beta, dtype=torch.float64)
    draws = torch.distributions.Beta(a, a).sample((20_000,))
    assert sum(portions) / len(portions) == pytest.approx(float(torch.maximum(draws, 1 - draws).mean()), abs=0.03)


def drawn_on(rank):
    torch.manual_seed(10 + rank)
    return draw_mixture(9, 4.0, torch.device("cpu"))


def test_every_rank_has_the_draw_of_the_first():
    first, second = run_ranks(drawn_on)
    alone = drawn_on(0)
    for found in (first, second):
        assert torch.equal(found.portion, alone.portion)
        assert torch.equal(found.partners, alone.partners)


def network():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2), nn.BatchNorm1d(2).eval())


def test_kept_statistics_stay_and_the_output_is_the_same():
    plain, kept, x = network(), network(), torch.randn(6, 3)
    kept.load_state_dict(plain.state_dict())
    before = {name: value.clone() for name, value in kept.state_dict().items()}
    with running_statistics_kept(kept):
        found = kept(x)
    torch.testing.assert_close(found, plain(x))
    assert all(torch.equal(value, before[name]) for name, value in kept.state_dict().items())
    assert not torch.equal(plain[1].running_mean, before["1.running_mean"])
    kept(x)
    torch.testing.assert_close(kept.state_dict(), plain.state_dict())  # it learns again afterwards


def test_statistics_learn_again_after_an_error():
    model = network()
    with pytest.raises(RuntimeError), running_statistics_kept(model):
        model(torch.randn(6, 5))
    assert model[1].track_running_stats
    with running_statistics_kept(lambda images: images):  # a model that is no module has none
        pass
