"""Partial BCE and consistency label by label, in plain Python on NumPy float64. Labels: 1, 0 absent, -1 unknown."""

import math

import numpy as np


def probability(z):
    return 1 / (1 + math.exp(-z)) if z >= 0 else math.exp(z) / (1 + math.exp(z))


def cost(z, label):
    """-log p of a present label, -log(1 - p) of an absent one, exact for any logit."""
    signed = -z if label == 1 else z
    return max(signed, 0.0) + math.log1p(math.exp(-abs(signed)))


def pseudo_labels(weak, codes, tau):
    """Labels of unknown entries by the weak view, where [p >= tau] - [1 - p >= tau] is not 0; -1 elsewhere."""
    found = np.full(codes.shape, -1)
    for at in np.ndindex(codes.shape):
        if codes[at] == -1:
            p = probability(weak[at])
            vote = int(p >= tau) - int(1 - p >= tau)
            found[at] = {1: 1, -1: 0, 0: -1}[vote]
    return found


def weights(codes, over):
    """(B, C) what the cost of each entry is multiplied by in the mean over the entries that have a label."""
    has = codes != -1
    if over == "batch":
        return has / max(int(has.sum()), 1)
    return np.array([row / max(int(row.sum()), 1) / len(codes) for row in has])


def mean_cost(logits, codes, over):
    """The mean, and its gradient by the logits."""
    weight, total, gradient = weights(codes, over), 0.0, np.zeros(codes.shape)
    for at in np.ndindex(codes.shape):
        if codes[at] != -1:
            total += weight[at] * cost(logits[at], codes[at])
            gradient[at] = weight[at] * (probability(logits[at]) - codes[at])
    return total, gradient


def consistency(weak, strong, codes, tau, over, view):
    """Known term, pseudo term, and the gradients of their sum by both views."""
    (of_weak, by_weak), (of_strong, by_strong) = (mean_cost(z, codes, over) for z in (weak, strong))
    share = {"both": 0.5, "weak": 1.0, "strong": 0.0}[view]
    pseudo, by_pseudo = mean_cost(strong, pseudo_labels(weak, codes, tau), over)
    known = share * of_weak + (1 - share) * of_strong
    return known, pseudo, share * by_weak, (1 - share) * by_strong + by_pseudo
