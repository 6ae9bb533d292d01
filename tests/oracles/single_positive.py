"""The single-positive losses in slow loops, float64, from their formulas. Imports nothing of ours.

Labels: 1 present, 0 absent, -1 unknown.
"""

import math

import numpy as np


def sigmoid(x):
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def cost(x, target, guard=0.0):
    """-log of the probability of a target; with a guard added to it first."""
    if guard:
        return -math.log((sigmoid(x) if target else 1 - sigmoid(x)) + guard)
    signed = -x if target else x
    return max(signed, 0.0) + math.log1p(math.exp(-abs(signed)))


def assume_negative(logits, observed, smoothing=0.0, weight=1.0, guard=0.0):
    total = 0.0
    for at in np.ndindex(*logits.shape):
        target = observed[at] == 1
        own, other = cost(logits[at], target, guard), cost(logits[at], not target, guard)
        total += ((1 - smoothing) * own + smoothing * other) * (1.0 if target else weight)
    return total / logits.size


def known(logits, observed, guard=0.0):
    total = 0.0
    for at in np.ndindex(*logits.shape):
        if observed[at] != -1:
            total += cost(logits[at], observed[at] == 1, guard)
    return total / logits.size


def penalty(logits, expected):
    count = sum(sigmoid(x) for x in logits.flat) / len(logits)
    return ((count - expected) / logits.shape[1]) ** 2


def positive(logits, observed, guard=0.0):
    return known(logits, np.where(observed == 1, 1, -1), guard)


def ranking(logits, observed):
    total = 0.0
    for row, codes in zip(logits, observed, strict=True):
        for i in np.flatnonzero(codes == 1):
            for j in np.flatnonzero(codes != 1):
                total += max(0.0, 1 - sigmoid(row[i]) + sigmoid(row[j]))
    return total / logits.size


def role(logits, estimates, observed, expected, guard=0.0):
    agreement = 0.0
    for at in np.ndindex(*logits.shape):
        x, y = logits[at], estimates[at]
        p, q = sigmoid(x), sigmoid(y)
        agreement += q * cost(x, True, guard) + (1 - q) * cost(x, False, guard)
        agreement += p * cost(y, True, guard) + (1 - p) * cost(y, False, guard)
    both = positive(logits, observed, guard) + positive(estimates, observed, guard)
    return 0.5 * (both + agreement / logits.size + penalty(logits, expected) + penalty(estimates, expected))


def partial_bce(logits, labels, slope, bias, power):
    total = 0.0
    for row, codes in zip(logits, labels, strict=True):
        share = sum(code != -1 for code in codes) / len(codes)
        row_loss = sum(cost(x, code == 1) for x, code in zip(row, codes, strict=True) if code != -1)
        total += (slope * share**power + bias) * row_loss / len(codes)
    return total / len(logits)


def asymmetric(logits, targets, gamma_neg, gamma_pos, clip, eps):
    """Summed over all entries."""
    total = 0.0
    for at in np.ndindex(*logits.shape):
        p = sigmoid(logits[at])
        shifted = max(p - clip, 0.0)
        if targets[at]:
            total -= (1 - p) ** gamma_pos * math.log(max(p, eps))
        else:
            total -= shifted**gamma_neg * math.log(max(1 - shifted, eps))
    return total


def gr_numbers(ends, epoch, epochs, frozen, late):
    """A number of the GR loss in an epoch, on its line from start to end; `late` epochs after the first full one."""
    start, end = ends
    return start + (end - start) * max(epoch - frozen - late, 0) / (epochs - frozen)


def gr_pseudo(p, slope, bias):
    return sigmoid(slope * p + bias)


def gr_weight(p, mean, std):
    return math.exp(-((p - mean) ** 2) / (2 * std**2))


def gr_entry(x, code, k, v, present_power, absent_power, guard=0.0):
    if code == 1:
        return cost(x, True, guard)
    if code == 0:
        return cost(x, False)
    as_present, as_absent = (
        (1 - math.exp(-power * cost(x, target))) / power if power else cost(x, target)
        for target, power in ((True, present_power), (False, absent_power))
    )
    return v * (k * as_present + (1 - k) * as_absent)


def gr_gradient(x, code, k, v, present_power, absent_power):
    """Of one entry, by the logit."""
    p = sigmoid(x)
    if code != -1:
        return p - code
    return v * (-k * p**present_power * (1 - p) + (1 - k) * (1 - p) ** absent_power * p)
