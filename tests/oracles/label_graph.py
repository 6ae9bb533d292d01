"""ML-GCN's graph of labels and its classifiers, entry by entry."""

import numpy as np


def counts(present):
    """Images (N, K) 0/1 to co-occurrence (K, K) with zero diagonal, and images a class."""
    rows, classes = present.shape
    together, alone = np.zeros((classes, classes)), np.zeros(classes)
    for n in range(rows):
        for i in range(classes):
            alone[i] += present[n, i]
            for j in range(classes):
                together[i, j] += present[n, i] * present[n, j] * (i != j)
    return together, alone


def adjacency(together, alone, threshold, p):
    classes = len(alone)
    binary = np.zeros((classes, classes))
    for i in range(classes):
        for j in range(classes):
            binary[i, j] = alone[i] > 0 and together[i, j] / alone[i] >= threshold
    matrix = np.eye(classes)
    for i in range(classes):
        for j in range(classes):
            matrix[i, j] += p / (1 - p) * binary[i, j] / (sum(binary[k, j] for k in range(classes)) + 1e-6)
    return matrix


def normalised(matrix):
    classes = len(matrix)
    return np.array(
        [[matrix[j, i] / np.sqrt(matrix[i].sum() * matrix[j].sum()) for j in range(classes)] for i in range(classes)]
    )


def logits(features, vectors, first, second, graph):
    """(B, K) of feature maps (B, D, h, w)."""
    hidden = graph @ vectors @ first
    hidden = np.where(hidden > 0, hidden, 0.2 * hidden)
    return features.max(axis=(2, 3)) @ (graph @ hidden @ second).T
