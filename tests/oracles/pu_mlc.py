"""The variational loss of PU-MLC class by class, in NumPy float64, and that of mixtures. Imports nothing of ours."""

import math

import numpy as np


def scales(logits, factor, floor):
    """Divisor of each class: its deviation, by hand."""
    found = []
    for column in logits.T:
        mean = sum(column) / len(column)
        deviation = math.sqrt(sum((value - mean) ** 2 for value in column) / len(column))
        found.append(min(max(factor * deviation, floor), 1))
    return np.array(found)


def vpu(logits, positive, divisors, power):
    """Loss, and its gradient where neither the divisors nor the factor mean^power have one."""
    rows, classes = logits.shape
    loss, gradient = 0.0, np.zeros(logits.shape)
    for label in range(classes):
        scaled = logits[:, label] / divisors[label]
        logs = np.array([-np.logaddexp(0, -value) for value in scaled])
        q = np.exp(logs)
        total = np.logaddexp.reduce(logs)
        factor = math.exp(power * (total - math.log(rows)))
        loss += factor * (total - math.log(rows))
        gradient[:, label] = factor * np.exp(logs - total) * (1 - q) / divisors[label]
        own = np.flatnonzero(positive[:, label])
        for row in own:
            loss -= logs[row] / len(own)
            gradient[row, label] -= (1 - q[row]) / len(own) / divisors[label]
    return loss, gradient


def mixture(mixed, logits, positive, first, second, portion):
    """Loss of mixtures: the squared difference of two logarithms."""
    total = 0.0
    for number, (one, other) in enumerate(zip(first, second, strict=True)):
        for label in range(mixed.shape[1]):
            p = [1 if positive[row, label] else 1 / (1 + math.exp(-logits[row, label])) for row in (one, other)]
            target = portion * p[0] + (1 - portion) * p[1]
            total += (math.log(target) + math.log1p(math.exp(-mixed[number, label]))) ** 2 / len(mixed)
    return total
