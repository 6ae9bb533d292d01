"""Label regimes, entry by entry and with plain lists. Codes: 1 present, 0 absent, -1 unknown."""

import numpy as np


def candidates(truth, seed, rate):
    """One draw per entry, row after row: candidate when true or the draw is below the rate."""
    rng = np.random.RandomState(seed)
    return np.array([[1 if rng.random_sample() < rate or entry == 1 else 0 for entry in row] for row in truth])


def dropped(truth, seed, rate):
    """One draw per positive, row after row: unlabelled when the draw is below the rate."""
    rng = np.random.RandomState(seed)
    return np.array([[1 if entry == 1 and rng.random_sample() >= rate else -1 for entry in row] for row in truth])


def observed(truth, seed, num_pos, num_neg):
    """Shuffle each row's positives and keep the first, then the same with its negatives."""
    rng = np.random.RandomState(seed)
    known = [[-1] * len(row) for row in truth]
    for row, entries in enumerate(truth):
        positives = [k for k, entry in enumerate(entries) if entry == 1]
        negatives = [k for k, entry in enumerate(entries) if entry != 1]
        rng.shuffle(positives)
        rng.shuffle(negatives)
        for k in positives if num_pos == -1 else positives[:num_pos]:
            known[row][k] = 1
        for k in negatives if num_neg == -1 else negatives[:num_neg]:
            known[row][k] = 0
    return np.array(known)
