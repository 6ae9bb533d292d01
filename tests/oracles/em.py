"""EM and APL in slow loops, float64, from their formulas. Imports nothing of ours.

Labels: 1 present, 0 absent, -1 unknown. A soft label of 0 is none.
"""

import numpy as np

from tests.oracles.single_positive import cost, sigmoid


def losses(logits, observed, soft, alpha, beta, guard=0.0):
    """Loss of every entry."""
    found = np.zeros(logits.shape)
    for at in np.ndindex(*logits.shape):
        x, p = logits[at], sigmoid(logits[at])
        present, absent = cost(x, True, guard), cost(x, False, guard)
        if soft[at] > 0:
            found[at] = beta * (soft[at] * present + (1 - soft[at]) * absent)
        elif observed[at] == -1:
            found[at] = -alpha * (p * present + sigmoid(-x) * absent)
        else:
            found[at] = present if observed[at] == 1 else absent
    return found


def gradient(logits, observed, soft, alpha, beta):
    """Derivative of the mean loss by every logit, in closed form."""
    found = np.zeros(logits.shape)
    for at in np.ndindex(*logits.shape):
        p, q = sigmoid(logits[at]), sigmoid(-logits[at])
        if soft[at] > 0:
            found[at] = beta * (p - soft[at])
        elif observed[at] == -1:
            found[at] = alpha * p * q * logits[at]  # logits are ln(p / q)
        else:
            found[at] = -q if observed[at] == 1 else p
    return found / logits.size


def one_round(soft, scores, observed, share, rounds):
    """Soft labels after one more round: of each class the lowest open scores, of equal ones the first row."""
    found = soft.copy()
    for label in range(scores.shape[1]):
        unknown = [row for row in range(len(scores)) if observed[row, label] == -1]
        candidates = sorted((row for row in unknown if soft[row, label] == 0), key=lambda row: scores[row, label])
        for row in candidates[: int(share * len(unknown) / rounds)]:
            found[row, label] = sigmoid(scores[row, label])
    return found
