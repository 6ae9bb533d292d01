"""COMIC's losses label by label, in plain Python on NumPy float64. Labels: 1, 0 absent, -1 unknown."""

import math

import numpy as np


def class_weights(counts, power):
    return [(1 - math.log(n / max(counts))) ** power for n in counts]


def relations(present, together):
    """(B, C) how much each class goes with the observed ones of an image, of counts (C, C)."""
    shares = together / together.sum(axis=0)
    found = np.zeros(present.shape)
    for image, row in enumerate(present):
        if row.any():
            mean = shares[row == 1].mean(axis=0)
            found[image] = mean / mean.sum()
    return found


def losses(logits, present, weights, gamma, related=None, factor=1.0):
    found = np.zeros(logits.shape)
    for image, label in np.ndindex(logits.shape):
        p, w = 1 / (1 + math.exp(-logits[image, label])), weights[label]
        a = 0.0 if related is None else related[image, label]
        n = min(1, 1 - p + 0.05)
        n = min(1, n * factor) if a != 0 else n
        if present[image, label] == 1:
            found[image, label] = -w * math.log(p * (1 - a))
        else:
            found[image, label] = -w * (1 - n) ** (gamma + w) * math.log(n)
    return found


def corrected(logits, codes, tau):
    """Unknown labels above tau and above the mean of their class, of logits whose margin is taken off."""
    p = 1 / (1 + np.exp(-logits))
    found = np.zeros(codes.shape, dtype=bool)
    for image, label in np.ndindex(codes.shape):
        found[image, label] = codes[image, label] == -1 and p[image, label] > max(tau, p[:, label].mean())
    return found
