"""CoNeS written out in slow NumPy loops, float64, from its formulas. Imports nothing of ours."""

import math

import numpy as np


def softplus(x):
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def bce(logit, target):
    return softplus(logit) - logit * target


def negative_weights(logits, candidates, r):
    weights = np.zeros(logits.shape)
    for i, (row, taken) in enumerate(zip(logits, candidates, strict=True)):
        negatives = [j for j in range(len(row)) if not taken[j]]
        powers = {j: (1 / (r * softplus(row[j]))) ** (1 / (r - 1)) for j in negatives}
        for j in negatives:
            weights[i, j] = powers[j] / sum(powers.values()) / len(negatives)
    return weights


def pseudo_labels(confidence, candidates, threshold=1.0):
    labels = np.zeros(candidates.shape)
    for i, taken in enumerate(candidates):
        size = int(taken.sum())
        for j in range(len(taken)):
            if taken[j] and (size == 1 or confidence[i, j] > threshold / size):
                labels[i, j] = 1
    return labels


def loss(logits, candidates, confidence, r, beta, threshold=1.0):
    """(total, bce, pml)"""
    weights = negative_weights(logits, candidates, r) + candidates
    targets = pseudo_labels(confidence, candidates, threshold)
    plain, pseudo = 0.0, 0.0
    for i, j in np.ndindex(*logits.shape):
        plain += bce(logits[i, j], candidates[i, j]) / logits.size
        pseudo += weights[i, j] * bce(logits[i, j], targets[i, j]) / logits.size
    return plain + beta * pseudo, plain, pseudo


def initial_confidence(candidates):
    return np.array([row / row.sum() if row.any() else np.zeros(len(row)) for row in candidates.astype(float)])


def update_confidence(confidence, logits, candidates, correlation, mu):
    result = np.array(confidence, dtype=np.float64)
    for i, row in enumerate(logits):
        p = [1 / (1 + math.exp(-z)) for z in row]
        support = [candidates[i, j] * sum(p[k] * correlation[k, j] for k in range(len(p))) for j in range(len(p))]
        if sum(support) > 0:
            for j in range(len(p)):
                result[i, j] = mu * result[i, j] + (1 - mu) * support[j] / sum(support)
    return result


def initial_correlation(candidates):
    classes = candidates.shape[1]
    result = np.zeros((classes, classes))
    for i in range(classes):
        mine = candidates[candidates[:, i] == 1]
        together = [0 if j == i else int((mine[:, j] == 1).sum()) for j in range(classes)]
        for j in range(classes):
            result[i, j] = together[j] / sum(together) if sum(together) else 0
        result[i, i] = 1
    return result


def prototypes(features, heatmaps, tau):
    """Mean over the mask, with the classes in their own order; rows of classes without a mask are 0."""
    batch, width, height, breadth = features.shape
    classes = heatmaps.shape[1]
    result = np.zeros((classes, width))
    for k in range(classes):
        peak = max(0.0, float(heatmaps[:, k].max()))
        chosen = [
            features[n, :, y, x]
            for n in range(batch)
            for y in range(height)
            for x in range(breadth)
            if peak > 0 and max(0.0, heatmaps[n, k, y, x]) / peak > tau
        ]
        if chosen:
            result[k] = np.mean(chosen, axis=0)
    return result


def mean_cosine(centroids):
    classes = len(centroids)
    result = np.zeros((classes, classes))
    for k, j in np.ndindex(classes, classes):
        pairs = [
            a @ b / math.sqrt(a @ a) / math.sqrt(b @ b)
            for a in centroids[k].astype(np.float64)
            for b in centroids[j].astype(np.float64)
        ]
        result[k, j] = sum(pairs) / len(pairs)
    return result


def refresh_correlation(correlation, cosine, gamma):
    """All classes known, cosines not negative."""
    classes = len(correlation)
    result = np.zeros((classes, classes))
    for k in range(classes):
        others = [j for j in range(classes) if j != k]
        total = sum(cosine[k, j] for j in others)
        for j in others:
            result[k, j] = gamma * correlation[k, j] + (1 - gamma) * cosine[k, j] / total
        result[k] /= result[k].sum()
        result[k, k] = 1
    return result
