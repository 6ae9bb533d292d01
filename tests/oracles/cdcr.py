"""CDCR in slow loops, float64, from its formulas: losses (B, C), slopes, chosen candidates. Imports nothing of ours."""

import math

import numpy as np


def log_sigmoid(x):
    return -math.log1p(math.exp(-x)) if x >= 0 else x - math.log1p(math.exp(x))


def losses(logits, codes, dropped):
    """BCE of every entry and its slope by the logit; 0 where dropped or unknown (-1)."""
    found, slopes = np.zeros(logits.shape), np.zeros(logits.shape)
    for at in np.ndindex(*logits.shape):
        if dropped[at] or codes[at] == -1:
            continue
        sign = 1 if codes[at] == 1 else -1
        found[at] = -log_sigmoid(sign * logits[at])
        slopes[at] = -sign * math.exp(log_sigmoid(-sign * logits[at]))
    return found, slopes


def chosen(confidence, candidates, alpha, difficulty=False):
    """Candidates that pass, by their probability or by what is usual for their class."""
    found = np.zeros(candidates.shape, dtype=bool)
    every = [confidence[at] for at in np.ndindex(*candidates.shape) if candidates[at]]
    for label in range(candidates.shape[1]):
        own = [confidence[row, label] for row in range(len(candidates)) if candidates[row, label]]
        shift = sum(own) / len(own) - sum(every) / len(every) if own and difficulty else 0.0
        for row in range(len(candidates)):
            found[row, label] = bool(candidates[row, label]) and confidence[row, label] - shift >= alpha
    return found
