"""HST in plain loops of NumPy: pairs of classes, similarities, pseudo labels. Labels: 1, 0 absent, -1 unknown."""

import itertools
import math

import numpy as np

from tests.oracles.sarb import cosine


def sigmoid(z):
    return 1 / (1 + math.exp(-z))


def pair_matrix(scores, classes):
    """(C, C) probabilities of the scores (P,) of pairs; of a class with itself 1."""
    matrix = np.eye(classes)
    for (i, j), z in zip(itertools.combinations(range(classes), 2), scores, strict=True):
        matrix[i, j] = matrix[j, i] = sigmoid(z)
    return matrix


def intra(scores, codes):
    """(B, C) mean probability with the present classes."""
    found = np.zeros(codes.shape)
    for image, label in np.ndindex(codes.shape):
        others = np.flatnonzero(codes[image] == 1)
        matrix = pair_matrix(scores[image], codes.shape[1])
        found[image, label] = sum(matrix[label, other] for other in others) / max(len(others), 1)
    return found


def inter(vectors, centres):
    """(B, C) mean cosine with the centres (C, K, D) of the class."""
    found = np.zeros(vectors.shape[:2])
    for image, label in np.ndindex(*vectors.shape[:2]):
        found[image, label] = np.mean([cosine(vectors[image, label], centre) for centre in centres[label]])
    return found


def pair_loss(scores, codes):
    """The asymmetric loss of pairs, exponents 2 and 1, margin .05, mean over all."""
    total = 0.0
    for image, row in enumerate(scores):
        for (i, j), z in zip(itertools.combinations(range(codes.shape[1]), 2), row, strict=True):
            p = sigmoid(z)
            n = min(1 - p + 0.05, 1)
            both = codes[image, i] == codes[image, j] == 1
            total += -(1 - p) * math.log(p) if both else -((1 - n) ** 2) * math.log(n)
    return total / scores.size


def pseudo(similarity, margin, codes):
    """(B, C) codes with unknown labels above the margin as present."""
    return np.where((codes == -1) & (similarity > margin), 1, codes)


def prototype_contrast(similarity, codes):
    return np.mean([1 - s * {1: 1, 0: -1, -1: 0}[int(y)] for s, y in zip(similarity.flat, codes.flat, strict=True)])
