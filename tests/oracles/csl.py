"""CSL in slow loops, float64, from its formulas: losses (B, C), slopes, what is left out. Imports nothing of ours."""

import math

import numpy as np


def log_sigmoid(x):
    return -math.log1p(math.exp(-x)) if x >= 0 else x - math.log1p(math.exp(x))


def sigmoid(x):
    return math.exp(log_sigmoid(x))


def p_asl(logits, codes, gammas, alphas, clip):
    """Exponents and weights of present, absent and unknown labels; the focusing weight is a constant."""
    losses, slopes = np.zeros(logits.shape), np.zeros(logits.shape)
    for at in np.ndindex(*logits.shape):
        z, kind = logits[at], {1: 0, 0: 1, -1: 2}[int(codes[at])]
        p, missing = sigmoid(z), sigmoid(-z)
        if kind == 0:
            weight, log, slope = missing, log_sigmoid(z), missing
        else:
            x = min(1, missing + clip)
            weight = max(0, p - clip)
            log = math.log(x) if clip else log_sigmoid(-z)
            slope = 0 if missing + clip > 1 else -p * missing / x if clip else -p
        focus = weight ** gammas[kind] if gammas[kind] else 1
        losses[at], slopes[at] = (-alphas[kind] * focus * each for each in (log, slope))
    return losses, slopes


def selected(logits, codes, topk, frequent=()):
    """Unknown labels that are left out: the likeliest of the batch, topk per image, and those of frequent classes."""
    unknown = [at for at in np.ndindex(*logits.shape) if codes[at] == -1]
    ranked = sorted(unknown, key=lambda at: -logits[at])  # stable: of equal ones the first
    dropped = np.zeros(logits.shape, dtype=bool)
    for at in ranked[: topk * len(logits)]:
        dropped[at] = True
    for at in unknown:
        dropped[at] |= at[1] in frequent
    return dropped
