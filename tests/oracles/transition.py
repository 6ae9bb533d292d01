"""Slow reference of the transition matrices of label noise: loops over rows and pairs of classes, inverse of J."""

import numpy as np


def pair(noisy, clean, one, other):
    """E, J and pi of two classes: noisy labels (N, C) of 0 and 1, clean (N, C) of 0 and 1; None where J has none."""
    seen, chosen = np.zeros((2, 2)), np.zeros((2, 2))
    for row in range(len(noisy)):
        at = int(noisy[row][one]), int(noisy[row][other])
        seen[at] += 1
        if clean[row][one]:
            chosen[at] += 1
    seen /= len(noisy)
    given = chosen / chosen.sum(axis=1, keepdims=True)
    absent = seen[0, 0] + seen[1, 0]
    if given[1, 0] == given[0, 0]:
        return None
    prior = (absent - given[0, 0]) / (given[1, 0] - given[0, 0])
    return seen, np.diag([1 - prior, prior]) @ given, prior


def rates(noisy, clean, zero=None):
    """For each class (rho-, rho+) by the best partner, or None where none has any; `zero` is the column that is 0."""
    classes, found = len(noisy[0]), []
    for one in range(classes):
        partners = [pair(noisy, clean, one, other) for other in range(classes) if other != one]
        offered = []
        for seen, joint, prior in filter(None, partners):
            matrix = (seen @ np.linalg.inv(joint)).T
            both = [matrix[0, 1], matrix[1, 0]]
            if zero is not None:
                both[zero] = 0.0
            both = [0.0 if -0.3 / classes < rate < 0 else rate for rate in both]
            if 0 <= prior <= 1 and all(0 <= rate <= 1 for rate in both) and sum(both) < 1:
                offered.append(both)
        found.append(min(offered, key=lambda both: _miss(both, partners)) if offered else None)
    return found


def _miss(both, partners):
    total = 0.0
    for seen, joint, _ in filter(None, partners):
        scale = np.linalg.det(joint)
        total += abs(both[0] * scale + joint[1, 0] * seen[1, 1] - joint[1, 1] * seen[1, 0])
        total += abs(both[1] * scale - (joint[0, 0] * seen[0, 1] - joint[0, 1] * seen[0, 0]))
    return total


def dual(scores, noisy):
    """T (2, 2) of one class by Dual-T: scores (N,) of its presence, noisy labels (N,)."""
    low, high = min(scores), max(scores)
    counts = np.zeros((2, 2))
    for score, label in zip(scores, noisy, strict=True):
        counts[int(score > 0.5), int(label)] += 1
    return np.array([[1 - low, low], [1 - high, high]]) @ (counts / counts.sum(axis=1, keepdims=True))


def weight(logit, label, rho_neg, rho_pos):
    """p_y / n_y: the chance of the noisy label if it were true, by its chance as it is."""
    p = 1 / (1 + np.exp(-logit))
    seen = rho_neg * (1 - p) + (1 - rho_pos) * p
    return p / seen if label else (1 - p) / (1 - seen)
