"""Focal, class-balanced and distribution-balanced losses in slow loops, float64, from their rules.

Imports nothing of ours. `counts` are images a class is in, `images` how many there are. A count below one half is one
half, and for the shift of logits one that is nearer than that to `images` is kept away from it.
"""

import math

import numpy as np


def softplus(x):
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def cross_entropy(logit, target):
    return target * softplus(-logit) + (1 - target) * softplus(logit)


def focal(logit, target, gamma, balance, weight=1.0):
    loss = cross_entropy(logit, target)
    return balance * (1 - math.exp(-loss)) ** gamma * weight * loss


def guarded(counts):
    return [max(float(count), 0.5) for count in counts]


def rebalance(targets, counts, alpha, beta, gamma):
    """(B, C): alpha + 1 / (1 + exp(-beta (share - gamma))), the share infinite for a row without labels."""
    counts, weights = guarded(counts), np.zeros(np.shape(targets))
    for i, row in enumerate(targets):
        rate = sum(value / count for value, count in zip(row, counts, strict=True))
        for j, count in enumerate(counts):
            inner = beta * (1 / count / rate - gamma) if rate else math.inf
            weights[i, j] = alpha + 1 / (1 + math.exp(-inner))
    return weights


def effective(count, beta):
    """One over the sum of beta^0 .. beta^(count - 1), for a whole count by that very sum."""
    if count == math.inf:
        return 1 - beta
    if count == int(count):
        return 1 / sum(beta**power for power in range(int(count)))
    return (1 - beta) / (1 - beta**count)


def class_balanced(targets, counts, beta, mode):
    """(B, C) weights; a row without labels weighs like an infinitely frequent class."""
    counts, weights = guarded(counts), np.zeros(np.shape(targets))
    for i, row in enumerate(targets):
        total, pairs = sum(row), list(zip(row, counts, strict=True))
        for j, count in enumerate(counts):
            if mode == "by_class":
                weights[i, j] = effective(count, beta)
            elif not total:
                weights[i, j] = 1 - beta
            elif mode == "average_n":
                weights[i, j] = effective(sum(y * n for y, n in pairs) / total, beta)
            elif mode == "average_w":
                weights[i, j] = sum(y * effective(n, beta) for y, n in pairs) / total
            else:
                weights[i, j] = effective(min(n for y, n in pairs if y > 0), beta)
    return weights


def bias(counts, images, init_bias, neg_scale):
    """What is added to the logits of each class."""
    kept = [min(max(float(count), 0.5), images - 0.5) for count in counts]
    return [-math.log(images / count - 1) * init_bias / neg_scale for count in kept]


def weights_of(targets, counts, images, settings):
    """(B, C) weights before any normalisation, `settings` the settings by name."""
    if settings["reweight"] == "rebalance":
        return rebalance(targets, counts, settings["map_alpha"], settings["map_beta"], settings["map_gamma"])
    if settings["reweight"] == "class_balanced":
        return class_balanced(targets, counts, settings["cb_beta"], settings["cb_mode"])
    power = {"inverse": 1, "sqrt_inverse": 0.5, "none": 0}[settings["reweight"]]
    return np.array([[(images / count) ** power for count in guarded(counts)] for _ in targets])


def losses(logits, targets, counts, images, settings):
    """(B, C), the distribution-balanced loss of every label."""
    weights, out = weights_of(targets, counts, images, settings), np.zeros(np.shape(targets))
    if settings["weight_norm"] == "by_instance":
        weights = np.array([[weight / max(row) for weight in row] for row in weights.tolist()])
    if settings["weight_norm"] == "by_batch":
        weights = weights / max(max(row) for row in weights.tolist())
    shift, scale = bias(counts, images, settings["init_bias"], settings["neg_scale"]), settings["neg_scale"]
    for i, j in np.ndindex(*out.shape):
        y = targets[i][j]
        logit = (logits[i][j] + shift[j]) * ((1 - y) * scale + y)
        weight = weights[i][j] * ((1 - y) / scale + y)
        out[i, j] = focal(logit, y, settings["focal_gamma"], settings["focal_balance"], weight)
    return out
