"""Prototypes of SARB and HST: what is kept of a step, centres of few and many vectors, their likeness, processes."""

import numpy as np
import pytest
import torch

from losses.sarb_prototypes import (
    ClassCentres,
    centre_need,
    centres_of,
    mean_cosines,
    present_means,
    refresh_due,
    require_prototypes,
)
from tests.losses.fake_model import info_for, random_labels
from tests.oracles import hst as oracle
from utils.checks import UserError

CLASSES, WIDTH = 5, 4
CODES = random_labels(6, CLASSES, seed=1, rate=0.3)
CODES[:, 3] = np.minimum(CODES[:, 3], 0)  # never present


def drawn(seed=0, rows=6, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, CLASSES, WIDTH, generator=generator, dtype=dtype)


def test_of_each_class_the_mean_over_images_that_have_it_is_kept():
    vectors = drawn()
    found = present_means(vectors, torch.tensor(CODES))
    for label in range(CLASSES):
        own = vectors[CODES[:, label] == 1, label]
        assert bool(found.active[label]) == (len(own) > 0)
        torch.testing.assert_close(found.rows[label], own.sum(dim=0) / max(len(own), 1))
    assert not found.active[3]
    assert present_means(vectors.bfloat16(), torch.tensor(CODES)).rows.dtype == torch.float32


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_fewer_vectors_than_centres_are_centres_themselves_again_and_again(rows):
    vectors = drawn(1, 4)[:rows, 0]
    found = centres_of(vectors, 4)
    assert torch.equal(found, vectors[[number % rows for number in range(4)]])


def test_as_many_vectors_as_centres_are_these_in_some_order():
    vectors = drawn(2)[:4, 0]
    found = centres_of(vectors, 4)
    assert {tuple(row) for row in np.round(found.numpy(), 6)} == {tuple(row) for row in np.round(vectors.numpy(), 6)}
    two = torch.cat([vectors[:1] + 1e-3 * drawn(3)[:, 0], vectors[1:2] + 1e-3 * drawn(4)[:, 0]])
    close = centres_of(two, 2)
    assert (torch.cdist(close, vectors[:2]).amin(dim=0) < 0.01).all()


def centres(kept=3, number=2):
    return ClassCentres.of("sarb", number, kept, info_for(CODES, WIDTH))


def test_centres_are_found_of_the_newest_vectors_and_only_when_refreshed():
    found, steps = centres(), [drawn(seed, dtype=torch.float32) for seed in range(5)]
    for vectors in steps:
        found.remember(vectors, torch.tensor(CODES))
    assert not found.held.any()
    assert (found.similarity(steps[0]) == 0).all()
    found.refresh()
    assert torch.equal(found.held, torch.tensor((CODES == 1).any(axis=0)))
    assert (found.centres[3] == 0).all()
    label = int(found.held.nonzero()[0])
    kept = torch.stack([present_means(vectors, torch.tensor(CODES)).rows[label] for vectors in steps[:1:-1]])
    torch.testing.assert_close(found.bank.newest_first(label), kept)
    torch.testing.assert_close(found.centres[label], centres_of(kept, 2).float())
    assert (found.similarity(steps[0])[:, 3] == 0).all()
    other = centres()
    other.load_state_dict(found.state_dict())
    assert torch.equal(other.centres, found.centres)
    assert torch.equal(other.held, found.held)


def test_rank_0_finds_the_centres_of_all(monkeypatch):
    found = centres()
    found.remember(drawn(dtype=torch.float32), torch.tensor(CODES))
    sent = torch.ones_like(found.centres)
    monkeypatch.setattr("losses.sarb_prototypes.rank", lambda: 1)
    monkeypatch.setattr("losses.sarb_prototypes.broadcast", lambda values: sent if not values.any() else None)
    found.refresh()
    assert torch.equal(found.centres, sent)


def test_mean_cosines_are_those_of_loops_and_have_their_gradient():
    vectors, some = drawn().requires_grad_(), drawn(1, 3).transpose(0, 1).contiguous()
    found = mean_cosines(vectors, some)
    np.testing.assert_allclose(found.detach(), oracle.inter(vectors.detach().numpy(), some.numpy()), atol=1e-12)
    assert torch.autograd.gradcheck(mean_cosines, (vectors, some))
    none = mean_cosines(torch.zeros_like(vectors).requires_grad_(), some)
    none.sum().backward()
    assert (none == 0).all()


@pytest.mark.parametrize(
    ("epochs", "first", "every"), [([6, 11, 16], 6, 5), ([3, 4, 5, 6], 3, 1), ([1, 8, 15], 1, 7), ([2, 102], 2, 100)]
)
def test_centres_are_due_at_the_first_epoch_and_each_so_many_later(epochs, first, every):
    assert [epoch for epoch in range(1, epochs[-1] + 1) if refresh_due(epoch, first, every)] == epochs


def test_what_cannot_work_is_refused_and_what_is_kept_is_told():
    require_prototypes(10, 1, 10)
    require_prototypes(0, 5, 1)
    with pytest.raises(UserError, match=r"^--prototype_every 0: must be at least 1 epoch; the published value is 5$"):
        require_prototypes(10, 0, 100)
    with pytest.raises(
        UserError, match=r"^--prototype_memory 9: must be at least 1, and not below --prototypes \(10\)$"
    ):
        require_prototypes(10, 5, 9)
    with pytest.raises(
        UserError, match=r"^--prototype_memory 0: must be at least 1, and not below --prototypes \(0\)$"
    ):
        require_prototypes(0, 5, 0)
    with pytest.raises(UserError, match=r"^hst: give class_vector_width, how many numbers the vector of a class has"):
        ClassCentres.of("hst", 2, 3, info_for(CODES, 0))
    need = centre_need(2, 3, info_for(CODES, WIDTH))
    assert (need.size, need.per_image, need.learned) == (4 * CLASSES * 5 * WIDTH, False, False)
    held = centres()
    assert need.size == 4 * (held.bank.rows.numel() + held.centres.numel())
