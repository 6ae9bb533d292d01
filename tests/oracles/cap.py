"""CAP in slow loops, float64, from its formulas. Imports nothing of ours.

Labels: 1 present, 0 absent, -1 none.
"""

import math

import numpy as np


def pseudo_labels(scores, shares, kept_present, kept_absent):
    """Labels of each image and class: class by class the rows are sorted, the first of equal ones on top."""
    rows, classes = scores.shape
    found = np.full((rows, classes), -1)
    for label in range(classes):
        ranked = sorted(range(rows), key=lambda row: (-scores[row, label], row))
        share = shares[label]
        present, absent = (
            math.floor(kept_present * share * rows + 1e-9),
            math.floor(kept_absent * (1 - share) * rows + 1e-9),
        )
        for row in ranked[:present]:
            found[row, label] = 1
        for row in ranked[rows - absent :]:
            found[row, label] = 0
    return found


def loss(logits, targets, gamma_pos, gamma_neg, clip):
    """Weighted ASL of every entry, and its derivative where no gradient goes through the focusing weight.

    The sign of a target says present or absent, its size is the weight.
    """
    losses, gradient = np.zeros(logits.shape), np.zeros(logits.shape)
    for at in np.ndindex(*logits.shape):
        p, t = 1 / (1 + math.exp(-logits[at])), targets[at]
        if t > 0:
            losses[at] = -t * (1 - p) ** gamma_pos * math.log(p)
            gradient[at] = -t * (1 - p) ** gamma_pos * (1 - p)
        elif t < 0:
            n = min(1 - p + clip, 1)
            losses[at] = t * (1 - n) ** gamma_neg * math.log(n)
            gradient[at] = -t * (1 - n) ** gamma_neg * (p * (1 - p) / n if n < 1 else 0)
    return losses, gradient


def rates(probabilities, truth, bins):
    """Share of present ones in each bin, NaN where it is empty."""
    held = [[] for _ in range(bins)]
    for p, label in zip(probabilities.ravel(), truth.ravel(), strict=True):
        held[min(int(p * bins), bins - 1)].append(label)
    return [np.mean(each) if each else math.nan for each in held]


def weight(p, rates):
    """The rate at p, on straight lines between the centres of bins that are all filled."""
    bins = len(rates)
    centres = [(k + 0.5) / bins for k in range(bins)]
    if p <= centres[0]:
        return rates[0]
    for k in range(bins - 1):
        if p <= centres[k + 1]:
            part = (p - centres[k]) * bins
            return rates[k] + part * (rates[k + 1] - rates[k])
    return rates[-1]
