"""COMES-HL in slow loops, float64, from its formula: risk and slopes of a batch. Imports nothing of ours."""

import math

import numpy as np


def softplus(x):
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def sigmoid(x):
    return math.exp(-softplus(-x))


def risk(logits, codes, prior, corrected=True):
    """Risk of each class (of present, of absent labels), whether the first was below 0, and slopes of the sum."""
    rows, classes = logits.shape
    parts, turned, slopes = np.zeros((classes, 2)), np.zeros(classes, dtype=bool), np.zeros(logits.shape)
    for label in range(classes):
        negatives = [row for row in range(rows) if codes[row, label] == 0]
        if not negatives:
            continue
        rest = 1 - prior[label]
        every = sum(softplus(-logits[row, label]) for row in range(rows)) / rows
        wrong = sum(softplus(-logits[row, label]) for row in negatives) / len(negatives)
        right = sum(softplus(logits[row, label]) for row in negatives) / len(negatives)
        turned[label] = every < rest * wrong
        sign = -1 if turned[label] and corrected else 1
        parts[label] = sign * (every - rest * wrong) / classes, rest * right / classes
        for row in range(rows):
            p = sigmoid(logits[row, label])
            slope = sign * (p - 1) / rows
            if row in negatives:
                slope += (sign * rest * (1 - p) + rest * p) / len(negatives)
            slopes[row, label] = slope / classes
    return parts, turned, slopes


def ranking_risk(logits, codes, prior):
    """Sum over pairs of classes, as it is written for pairs."""
    total, classes = 0.0, logits.shape[1]
    without = [[row for row in range(len(logits)) if codes[row, label] == 0] for label in range(classes)]
    for one in range(classes):
        for other in range(one + 1, classes):
            for lower, upper in ((one, other), (other, one)):
                terms = [sigmoid(logits[row, lower] - logits[row, upper]) for row in without[lower]]
                total += (1 - prior[lower]) * sum(terms) / max(len(terms), 1)
    return total
