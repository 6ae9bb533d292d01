"""Sparse codes of images by orthogonal matching pursuit, in several spaces together (IMCL).

B images, n atoms of a dictionary, k atoms of a code, D numbers of a vector in a space. Differences from the published
code: docs/methods/imcl.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

LEAST = 1e-4
"""An atom that explains no more than this share of an image is not taken; nor does its opposite count by less."""

RIDGE = 1e-3
"""What a fit adds to the squares of its atoms, of their mean: shares of atoms that are nearly alike stay small."""


class Space(NamedTuple):
    """Vectors that are coded, and those of the atoms that they are coded by."""

    targets: Tensor  # (B, D)
    atoms: Tensor  # (n, D)
    weight: float  # above 0: how much it counts what is explained here


class Codes(NamedTuple):
    """The atoms of each image, and how much of each it takes in every space."""

    atoms: Tensor  # (B, k) long
    taken: Tensor  # (B, k) bool: False where there are fewer than k, whatever the atom is
    shares: list[Tensor]  # of each space (B, k), of any sign, 0 where not taken


@torch.no_grad()
def sparse_codes(spaces: Sequence[Space], allowed: Tensor, most: int) -> Codes:
    """Combinations of at most `most` atoms for each image: the same atoms in all spaces, with shares of their own.

    Atoms are taken one by one, always the one that explains most of what is left (`explained`), until it is no more
    than `LEAST`. After each the shares of all are fitted anew, in every space by itself.

    Args:
        spaces: one or more, of the same B images and n atoms.
        allowed: (B, n) bool, atoms that an image may take.
        most: k, at least 1.
    """
    atoms = torch.empty(len(allowed), 0, dtype=torch.int64, device=allowed.device)
    taken = torch.empty(len(allowed), 0, dtype=torch.bool, device=allowed.device)
    residuals, shares = [space.targets for space in spaces], list[Tensor]()
    lengths = [space.targets.norm(dim=1)[:, None] * space.atoms.norm(dim=1) for space in spaces]
    for step in range(most):
        best, atom = explained(spaces, residuals, lengths).where(allowed, 0).max(dim=1, keepdim=True)
        goes_on = best > LEAST if step == 0 else (best > LEAST) & taken[:, -1:]
        atoms, taken = torch.cat([atoms, atom], dim=1), torch.cat([taken, goes_on], dim=1)
        allowed = allowed.scatter(1, atom, False)
        vectors = [space.atoms[atoms] for space in spaces]
        shares = [fitted(space.targets, own, taken) for space, own in zip(spaces, vectors, strict=True)]
        residuals = [space.targets - combined(*parts) for space, *parts in zip(spaces, shares, vectors, strict=True)]
    return Codes(atoms, taken, shares)


def explained(spaces: Sequence[Space], residuals: Sequence[Tensor], lengths: Sequence[Tensor]) -> Tensor:
    """(B, n) share of an image that each atom alone would explain of what is left, the weighted mean over spaces.

    Of a target t of which r is left, atom d explains (r.d / (|t| |d|))^2, of its square length by the best multiple of
    d; nothing where a vector has no length. It is 0 for an atom that points away from what is left in some space: its
    opposite would explain `LEAST` or more there. Less than that is rounding, as of atoms like one that is taken.

    Args:
        spaces: see `sparse_codes`.
        residuals: (B, D) of each space.
        lengths: (B, n) of each space, |t| |d|.
    """
    total = sum(space.weight for space in spaces)
    shares, towards = [], []
    for space, residual, length in zip(spaces, residuals, lengths, strict=True):
        cosines = torch.where(length > 0, residual @ space.atoms.T / length, 0)
        shares.append(space.weight / total * cosines.clamp(min=0).square())
        towards.append(cosines > -math.sqrt(LEAST))
    return torch.stack(shares).sum(dim=0).where(torch.stack(towards).all(dim=0), 0)


def fitted(targets: Tensor, vectors: Tensor, taken: Tensor) -> Tensor:
    """(B, k) shares of the vectors (B, k, D) in their fit to the targets (B, D), 0 where not taken.

    They minimise |t - sum a v|^2 + `RIDGE` m |a|^2, m the mean of |v|^2 over those taken. Equal vectors have
    equal shares. Solved in float64; nothing waits for the device.
    """
    own = vectors.double() * taken[:, :, None]
    gram = own @ own.transpose(1, 2)
    scale = gram.diagonal(dim1=1, dim2=2).sum(dim=1) / taken.sum(dim=1).clamp(min=1)
    ridge = torch.where(scale > 0, RIDGE * scale, 1)
    identity = torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
    right = own @ targets.double()[:, :, None]
    solved: Tensor = torch.linalg.solve_ex(gram + ridge[:, None, None] * identity, right)[0]
    return solved.squeeze(2).to(targets.dtype)


def combined(shares: Tensor, vectors: Tensor) -> Tensor:
    """(B, D) sums of the vectors (B, k, D), each times its share (B, k)."""
    return (shares[:, :, None] * vectors).sum(dim=1)
