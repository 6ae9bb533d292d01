"""Hill and SPLC in slow loops, float64, from their formulas: losses (B, C) and slopes. Imports nothing of ours."""

import math

import numpy as np


def sigmoid(x):
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def log_sigmoid(x):
    return -math.log1p(math.exp(-x)) if x >= 0 else x - math.log1p(math.exp(x))


def focal(x, gamma):
    """Loss and slope of a present label; of an absent one with -x, the sign of the slope turned."""
    p, missing = sigmoid(x), sigmoid(-x)
    weight = missing**gamma
    return -weight * log_sigmoid(x), weight * (gamma * p * log_sigmoid(x) - missing)


def hill(logits, targets, hill_lambda, margin, gamma):
    losses, slopes = np.zeros(logits.shape), np.zeros(logits.shape)
    for at in np.ndindex(*logits.shape):
        p, y = sigmoid(logits[at]), targets[at]
        loss, slope = focal(logits[at] - margin, gamma)
        losses[at] = y * loss + (1 - y) * (hill_lambda - p) * p**2
        slopes[at] = y * slope + (1 - y) * p**2 * (1 - p) * (2 * hill_lambda - 3 * p)
    return losses, slopes


def splc(logits, positive, correctable, tau, margin, gamma):
    """Also the corrected labels; `correctable` (B, C) is all False before corrections begin."""
    losses, slopes, corrected = np.zeros(logits.shape), np.zeros(logits.shape), np.zeros(logits.shape, dtype=bool)
    for at in np.ndindex(*logits.shape):
        x = logits[at]
        if positive[at]:
            losses[at], slopes[at] = focal(x - margin, gamma)
            continue
        corrected[at] = correctable[at] and sigmoid(x) > tau
        loss, slope = focal(x if corrected[at] else -x, gamma)
        losses[at], slopes[at] = loss, slope if corrected[at] else -slope
    return losses, slopes, corrected
