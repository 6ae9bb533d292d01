"""Memorisation, mean losses and precision of modification, label by label, from everything that ever happened.

`losses[t][n][c]` and `modified[t][n][c]` are of epoch t + 1; codes: 1 present, 0 absent, -1 unknown.
"""

import math


def warmup_share(losses, observed, truth, seen_as, true_as):
    """Of the labels with these two codes, the share whose highest loss came first in the first epoch."""
    first = every = 0
    for n, row in enumerate(observed):
        for c, code in enumerate(row):
            if code == seen_as and truth[n][c] == true_as:
                curve = [losses[t][n][c] for t in range(len(losses))]
                every += 1
                first += curve.index(max(curve)) == 0
    return first / every if every else math.nan


def precision(modified, truth):
    """Truly present labels among the modified (N, C) whose truth is known."""
    right = wrong = 0
    for n, row in enumerate(modified):
        for c, changed in enumerate(row):
            right += bool(changed) and truth[n][c] == 1
            wrong += bool(changed) and truth[n][c] == 0
    return right / (right + wrong) if right + wrong else math.nan


def found(modified, observed, truth):
    """Share of the unknown labels that are truly present, the false negatives, that are among the modified (N, C)."""
    false = hit = 0
    for n, row in enumerate(modified):
        for c, changed in enumerate(row):
            if observed[n][c] == -1 and truth[n][c] == 1:
                false += 1
                hit += bool(changed)
    return hit / false if false else math.nan


def mean_loss(losses, observed, truth, seen_as, true_as):
    """Mean of the losses (N, C) of one epoch over the labels with these two codes."""
    found = [
        losses[n][c]
        for n, row in enumerate(observed)
        for c, code in enumerate(row)
        if code == seen_as and truth[n][c] == true_as
    ]
    return math.fsum(found) / len(found) if found else math.nan


def first_modified(modified):
    """(N, C) the epoch in which each label was modified first, 0 for never."""
    table = []
    for n in range(len(modified[0])):
        row = []
        for c in range(len(modified[0][n])):
            epochs = [t + 1 for t in range(len(modified)) if modified[t][n][c]]
            row.append(min(epochs, default=0))
        table.append(row)
    return table
