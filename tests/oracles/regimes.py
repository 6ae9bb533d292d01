"""Label regimes, entry by entry and with plain lists. Codes: 1 present, 0 absent, -1 unknown.

`stored` (N, C) says which entries a table of known labels holds: only they are drawn for, the others stay unknown.
"""

import math

import numpy as np


def entries(truth, stored):
    """Row, class and label of each entry that takes part, row after row."""
    for i, row in enumerate(truth):
        for k, entry in enumerate(row):
            if stored is None or stored[i][k]:
                yield i, k, entry


def unknown(truth):
    return [[-1] * len(row) for row in truth]


def settled(seen, truth, stored):
    """What is stored as unknown in a table of known labels stays so."""
    if stored is not None:
        seen = [
            [-1 if entry == -1 else code for entry, code in zip(*rows, strict=True)]
            for rows in zip(truth, seen, strict=True)
        ]
    return np.array(seen, dtype=np.int8).reshape(np.shape(truth))


def candidates(truth, seed, rate, stored=None):
    """One draw per entry, row after row: candidate when true or the draw is below the rate (one, or one a class)."""
    rng, seen = np.random.RandomState(seed), unknown(truth)
    rates = [rate] * len(truth[0]) if np.ndim(rate) == 0 else list(rate)
    for i, k, entry in entries(truth, stored):
        seen[i][k] = 1 if rng.random_sample() < rates[k] or entry == 1 else 0
    return settled(seen, truth, stored)


def confused(truth, seed, confusion, stored=None):
    """The same, the rate of an entry being the chance that at least one true label of its row brings its class."""
    rng, seen = np.random.RandomState(seed), unknown(truth)
    for i, k, entry in entries(truth, stored):
        spared = math.prod(1 - confusion[j][k] for j, other in enumerate(truth[i]) if other == 1 and j != k)
        seen[i][k] = 1 if rng.random_sample() < 1 - spared or entry == 1 else 0
    return settled(seen, truth, stored)


def dropped(truth, seed, rate, keep_one=False):
    """One draw per positive, row after row: unlabelled when the draw is below the rate."""
    rng, seen = np.random.RandomState(seed), unknown(truth)
    for i, row in enumerate(truth):
        draws = {k: rng.random_sample() for k, entry in enumerate(row) if entry == 1}
        for k, draw in draws.items():
            seen[i][k] = 1 if draw >= rate else -1
        if keep_one and draws and 1 not in seen[i]:
            seen[i][max(draws, key=draws.get)] = 1
    return settled(seen, truth, None)


def observed(truth, seed, num_pos, num_neg, stored=None):
    """Shuffle each row's positives and keep the first, then the same with its negatives."""
    rng, seen = np.random.RandomState(seed), unknown(truth)
    for i, row in enumerate(truth):
        positives = [k for k, entry in enumerate(row) if entry == 1]
        negatives = [
            k for k, entry in enumerate(row) if (entry != 1 if stored is None else stored[i][k] and entry == 0)
        ]
        rng.shuffle(positives)
        rng.shuffle(negatives)
        for k in positives if num_pos == -1 else positives[:num_pos]:
            seen[i][k] = 1
        for k in negatives if num_neg == -1 else negatives[:num_neg]:
            seen[i][k] = 0
    return settled(seen, truth, None)


def known(truth, seed, rate, stored=None):
    """One draw per entry, row after row: known when the draw is below the rate."""
    rng, seen = np.random.RandomState(seed), unknown(truth)
    for i, k, entry in entries(truth, stored):
        if rng.random_sample() < rate:
            seen[i][k] = 1 if entry == 1 else 0
    return settled(seen, truth, stored)


def flipped(truth, seed, rho_pos, rho_neg, stored=None):
    """One draw per entry, row after row: the other label when the draw is below the rate of the true one."""
    rng, seen = np.random.RandomState(seed), unknown(truth)
    for i, k, entry in entries(truth, stored):
        present = entry == 1
        if rng.random_sample() < (rho_pos if present else rho_neg):
            present = not present
        seen[i][k] = 1 if present else 0
    return settled(seen, truth, stored)


def semi(truth, seed, share, stored=None):
    """One permutation of the rows; the first of it are labelled in full."""
    rng, seen = np.random.RandomState(seed), unknown(truth)
    labelled = rng.permutation(len(truth)).tolist()[: round(share * len(truth))]
    for i, k, entry in entries(truth, stored):
        if i in labelled:
            seen[i][k] = 1 if entry == 1 else 0
    return settled(seen, truth, stored)


def rps(truth, seed, rate, stored=None):
    """One draw per entry, row after row: unknown when the draw is below the rate."""
    rng, seen = np.random.RandomState(seed), unknown(truth)
    for i, k, entry in entries(truth, stored):
        if rng.random_sample() >= rate:
            seen[i][k] = 1 if entry == 1 else 0
    return settled(seen, truth, stored)


def fpc(truth, seed, number, stored=None):
    """Class by class the first of a permutation of its positives, then the first of one of its negatives."""
    rng, seen = np.random.RandomState(seed), unknown(truth)
    for k in range(len(truth[0])):
        column = [(i, row[k]) for i, row in enumerate(truth)]
        positives = [i for i, entry in column if entry == 1]
        negatives = [i for i, entry in column if (entry != 1 if stored is None else stored[i][k] and entry == 0)]
        for code, rows in ((1, positives), (0, negatives)):
            for i in rng.permutation(rows).astype(int).tolist()[:number]:
                seen[i][k] = code
    return settled(seen, truth, None)
