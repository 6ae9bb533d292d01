"""PLC label by label, in plain Python on NumPy float64. Labels: 1, 0 absent, -1 unknown."""

import numpy as np

from tests.oracles.consistency import cost, probability


def labels(weak, codes, tau):
    """What the strong view learns: s = p + [present] - [known to be absent], kept where s >= tau or s < 1 - tau."""
    found = np.full(codes.shape, -1)
    for at in np.ndindex(codes.shape):
        s = probability(weak[at]) + {1: 1, 0: -1, -1: 0}[codes[at]]
        if s >= tau:
            found[at] = 1
        elif s < 1 - tau:
            found[at] = 0
    return found


def terms(weak, strong, codes, tau):
    """Assume negative and PLC, and their gradients by the weak and the strong logits."""
    learned, size = labels(weak, codes, tau), codes.size
    kept = max(int((learned != -1).sum()), 1)
    an = plc = 0.0
    by_weak, by_strong = np.zeros(codes.shape), np.zeros(codes.shape)
    for at in np.ndindex(codes.shape):
        present = int(codes[at] == 1)
        an += cost(weak[at], present) / size
        by_weak[at] = (probability(weak[at]) - present) / size
        if learned[at] != -1:
            plc += cost(strong[at], learned[at]) / kept
            by_strong[at] = (probability(strong[at]) - learned[at]) / kept
    return an, plc, by_weak, by_strong
