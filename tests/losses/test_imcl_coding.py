"""Sparse codes against matching pursuit in loops, and what must not change them."""

import numpy as np
import pytest
import torch

from losses.imcl_coding import LEAST, RIDGE, Codes, Space, combined, explained, fitted, sparse_codes
from tests.oracles import imcl as oracle

IMAGES, ATOMS = 5, 12


def drawn(seed, widths=(6, 9)):
    rng = np.random.default_rng(seed)
    targets = [rng.normal(size=(IMAGES, width)) for width in widths]
    atoms = [rng.normal(size=(ATOMS, width)) for width in widths]
    return targets, atoms, rng.random((IMAGES, ATOMS)) < 0.8


def coded(targets, atoms, weights, allowed, most):
    kinds = [
        Space(torch.as_tensor(own), torch.as_tensor(each), weight)
        for own, each, weight in zip(targets, atoms, weights, strict=True)
    ]
    return sparse_codes(kinds, torch.as_tensor(allowed), most)


def at_first(*spaces):
    """What each atom explains while nothing is taken."""
    lengths = [space.targets.norm(dim=1)[:, None] * space.atoms.norm(dim=1) for space in spaces]
    return explained(spaces, [space.targets for space in spaces], lengths)


def of_image(codes, image):
    """Atoms of an image, and its shares in each space."""
    taken = codes.taken[image]
    return codes.atoms[image][taken].tolist(), [shares[image][taken].numpy() for shares in codes.shares]


@pytest.mark.parametrize("most", [1, 3, 5])
@pytest.mark.parametrize("weights", [(0.5, 0.25), (1.0, 7.0), (2.0,)])
@pytest.mark.parametrize("seed", range(3))
def test_codes_are_matching_pursuit_in_loops(seed, weights, most):
    targets, atoms, allowed = drawn(seed, (6, 9)[: len(weights)])
    codes = coded(targets, atoms, weights, allowed, most)
    assert codes.atoms.shape == codes.taken.shape == codes.shares[0].shape == (IMAGES, most)
    numbers = set()
    for image in range(IMAGES):
        own = [each[image] for each in targets]
        chosen, shares = oracle.pursuit(own, atoms, weights, allowed[image], most)
        found, theirs = of_image(codes, image)
        assert found == chosen
        for one, other in zip(theirs, shares, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)
        numbers.add(len(chosen))
    assert most < 5 or len(numbers) > 1 or len(weights) == 1  # some images find fewer atoms than they may have


def test_a_combination_of_atoms_at_right_angles_is_found_again():
    atoms = torch.eye(6).double() * torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    target = torch.tensor([[0.0, 4.0, 0.0, 2.0, 0.0, 9.0]]).double()
    codes = sparse_codes([Space(target, atoms, 1.0)], torch.ones(1, 6, dtype=torch.bool), 4)
    assert of_image(codes, 0)[0] == [5, 1, 3]
    torch.testing.assert_close(codes.shares[0], torch.tensor([[1.5, 2.0, 0.5, 0.0]]).double(), rtol=5e-3, atol=0)
    torch.testing.assert_close(combined(codes.shares[0], atoms[codes.atoms]), target, rtol=5e-3, atol=0)
    assert codes.taken.tolist() == [[True, True, True, False]]


def test_residuals_are_at_right_angles_to_the_atoms_but_for_the_ridge():
    targets, atoms, allowed = drawn(5)
    codes = coded(targets, atoms, (1.0, 1.0), allowed, 3)
    for target, own, shares in zip(targets, atoms, codes.shares, strict=True):
        vectors = torch.as_tensor(own)[codes.atoms]
        left = torch.as_tensor(target) - combined(shares, vectors)
        products = (vectors * left[:, None]).sum(dim=2) * codes.taken
        squares = (vectors.square().sum(dim=2) * codes.taken).sum(dim=1) / codes.taken.sum(dim=1)
        torch.testing.assert_close(products, RIDGE * squares[:, None] * shares)


def test_units_of_a_space_and_the_order_of_atoms_do_not_matter():
    targets, atoms, allowed = drawn(1)
    codes = coded(targets, atoms, (0.5, 0.25), allowed, 3)
    scaled = coded([targets[0] * 7, targets[1] * 3], [atoms[0], atoms[1] * 50], (1.0, 0.5), allowed, 3)
    assert torch.equal(scaled.atoms, codes.atoms)
    torch.testing.assert_close(scaled.shares[0], codes.shares[0] * 7)
    torch.testing.assert_close(scaled.shares[1], codes.shares[1] * 3 / 50)
    order = np.random.default_rng(2).permutation(ATOMS)
    other = coded(targets, [each[order] for each in atoms], (0.5, 0.25), allowed[:, order], 3)
    same = torch.as_tensor(order)[other.atoms]
    assert torch.equal(same[other.taken], codes.atoms[codes.taken])
    torch.testing.assert_close(other.shares, codes.shares)


def test_images_are_coded_each_by_itself():
    targets, atoms, allowed = drawn(3)
    codes = coded(targets, atoms, (1.0, 1.0), allowed, 3)
    alone = coded([each[2:3] for each in targets], atoms, (1.0, 1.0), allowed[2:3], 3)
    assert torch.equal(alone.atoms[0], codes.atoms[2])
    torch.testing.assert_close([each[0] for each in alone.shares], [each[2] for each in codes.shares])


def explains(share):
    """Whether an atom that explains this share of an image is taken."""
    target, atom = torch.tensor([[1.0, 0.0]]).double(), torch.tensor([[share**0.5, (1 - share) ** 0.5]]).double()
    return bool(sparse_codes([Space(target, atom, 1.0)], torch.ones(1, 1, dtype=torch.bool), 1).taken[0, 0])


def test_what_explains_next_to_nothing_is_not_taken():
    assert (LEAST, RIDGE) == (1e-4, 1e-3)
    assert explains(1.01e-4)
    assert not explains(0.99e-4)


def test_after_an_atom_that_is_not_taken_there_is_none():
    target, atoms = torch.tensor([[1.0, 0.0]]).double(), torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 0.0]]).double()
    codes = sparse_codes([Space(target, atoms, 1.0)], torch.ones(1, 3, dtype=torch.bool), 3)
    assert codes.taken.tolist() == [[True, False, False]]
    assert codes.atoms[0, 0] == 0  # of atoms that explain alike the first
    torch.testing.assert_close(codes.shares[0], torch.tensor([[0.5 / 1.001, 0.0, 0.0]]).double())
    none = sparse_codes([Space(target, atoms, 1.0)], torch.zeros(1, 3, dtype=torch.bool), 2)
    assert not none.taken.any()
    assert none.shares[0].abs().sum() == 0


def test_more_atoms_than_there_are_cannot_be_taken():
    targets, atoms, _ = drawn(0)
    few = np.arange(ATOMS) < 2
    codes = coded(targets[:1], atoms[:1], (1.0,), np.tile(few, (IMAGES, 1)), 5)
    assert not codes.taken[:, 2:].any()
    assert (codes.atoms[codes.taken] < 2).all()


def test_an_atom_that_points_away_in_one_space_is_not_taken():
    one, other = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    spaces = [
        Space(one, torch.tensor([[3.0, 0.0], [1.0, 1.0]]), 0.9),
        Space(other, torch.tensor([[0, -1.0], [0, 0]]), 0.1),
    ]
    found = at_first(*spaces)
    torch.testing.assert_close(found, torch.tensor([[0.0, 0.45]]))  # of the second one knows nothing there
    assert of_image(sparse_codes(spaces, torch.ones(1, 2, dtype=torch.bool), 2), 0)[0] == [1]


def opposes(cosine):
    """Whether an atom is left out that explains one space whole and has this cosine in the other."""
    one, turned = torch.tensor([[1.0, 0.0]]).double(), torch.tensor([[cosine, (1 - cosine**2) ** 0.5]]).double()
    return float(at_first(Space(one, one, 0.5), Space(one, turned, 0.5))) == 0


def test_only_rounding_may_point_away():
    assert opposes(-1.01e-2)
    assert not opposes(-0.99e-2)
    one, turned = torch.tensor([[1.0, 0.0]]).double(), torch.tensor([[-0.9e-2, 1.0]]).double()
    assert float(at_first(Space(one, one, 0.5), Space(one, turned, 0.5))) == 0.5  # and counts nothing


def test_vectors_without_length_explain_nothing():
    zero, one = torch.zeros(1, 2), torch.ones(1, 2)
    assert at_first(Space(zero, one, 1.0)).tolist() == [[0.0]]
    assert at_first(Space(one, zero, 1.0)).tolist() == [[0.0]]


def test_equal_atoms_have_equal_shares():
    vectors = torch.tensor([[[1.0, 1.0], [1.0, 1.0], [5.0, 1.0]]])
    found = fitted(torch.tensor([[3.0, 3.0]]), vectors, torch.tensor([[True, True, False]]))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.tensor([[1.5, 1.5, 0.0]]) / (1 + RIDGE / 2))


def test_atoms_that_are_nearly_alike_have_small_shares():
    near = torch.tensor([[[1.0, 1.0, 0.0], [1.0, 1.0, 1e-5], [0.0, 0.3, 1.0]]]).double()
    found = fitted(torch.tensor([[1.0, -0.5, 1.0]]).double(), near, torch.ones(1, 3, dtype=torch.bool))
    assert found.abs().max() < 2  # 60,000 by least squares alone


@pytest.mark.parametrize("size", [1e-12, 1e12])
def test_a_fit_has_no_units(size):
    generator = torch.Generator().manual_seed(0)
    targets, vectors = (torch.randn(shape, generator=generator).double() for shape in ((2, 6), (2, 3, 6)))
    taken = torch.ones(2, 3, dtype=torch.bool)
    torch.testing.assert_close(fitted(targets * size, vectors * size, taken), fitted(targets, vectors, taken))


def test_codes_have_no_gradient():
    targets, atoms = torch.randn(2, 4, requires_grad=True), torch.randn(3, 4, requires_grad=True)
    codes = sparse_codes([Space(targets, atoms, 1.0)], torch.ones(2, 3, dtype=torch.bool), 2)
    assert isinstance(codes, Codes)
    assert not codes.shares[0].requires_grad
