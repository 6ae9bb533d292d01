"""Large Loss Matters written out in slow loops, float64, from its rules. Imports nothing of ours.

Labels: 1 present, 0 absent, -1 unknown.
"""

import math
from fractions import Fraction

import numpy as np


def softplus(x):
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def loss_of(logit, target):
    return softplus(-logit) if target else softplus(logit)


def share_of(scheme, percent, epoch):
    """The modified share as an exact fraction of a decimal percentage."""
    if epoch == 1:
        return Fraction(0)
    share = Fraction(str(percent)) / 100
    return share if scheme == "LL-Cp" else min((epoch - 1) * share, Fraction(1))


def select(logits, observed, count):
    """(entries to modify, those strictly above the threshold) as lists of (row, class), out of the unknown ones."""
    unknown = [(i, j) for i in range(len(logits)) for j in range(len(logits[0])) if observed[i][j] == -1]
    losses = {cell: softplus(logits[cell[0]][cell[1]]) for cell in unknown}
    if not count or not unknown:
        return [], []
    threshold = sorted(losses.values(), reverse=True)[min(count, len(unknown)) - 1]
    return [at for at in unknown if losses[at] >= threshold], [at for at in unknown if losses[at] > threshold]


def total(logits, observed, modified, scheme):
    """The loss, and its gradient by hand: sigmoid minus target, divided by the number of entries."""
    value, gradient, entries = 0.0, np.zeros(np.shape(logits)), len(logits) * len(logits[0])
    for i, j in np.ndindex(*gradient.shape):
        target = observed[i][j] == 1
        if (i, j) in modified:
            if scheme == "LL-R":
                continue
            target = not target
        value += loss_of(logits[i][j], target) / entries
        gradient[i, j] = (1 / (1 + math.exp(-logits[i][j])) - target) / entries
    return value, gradient


def train(logits, observed, batches, scheme, percent, strict=False):
    """Epochs of fixed logits (T, N, C): the total of every step, and the labels after every epoch (T, N, C)."""
    observed = [list(row) for row in observed]
    totals, after = [], []
    for epoch, (scores, order) in enumerate(zip(logits, batches, strict=True), start=1):
        for rows in order:
            x, y = [list(map(float, scores[row])) for row in rows], [observed[row] for row in rows]
            count = math.ceil(len(rows) * len(x[0]) * share_of(scheme, percent, epoch))
            modified, above = select(x, y, count)
            totals.append(total(x, y, set(modified), scheme)[0])
            if scheme == "LL-Cp":
                for i, j in above if strict else modified:
                    observed[rows[i]][j] = 1
        after.append([list(row) for row in observed])
    return totals, np.array(after)
