"""NDLP written out in slow loops, float64, from its rules. Imports nothing of ours. Candidates are 0/1."""

import math

import numpy as np


def softplus(x):
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def initial_confidence(candidates):
    confidence = np.zeros(np.shape(candidates))
    for i, row in enumerate(candidates):
        for j, candidate in enumerate(row):
            if candidate:
                confidence[i, j] = 1 / sum(row)
    return confidence


def thresholds(confidence):
    found = []
    for column in np.transpose(confidence):
        values = [value for value in column if value != 0]
        found.append(sum(values) / len(values) if values else math.inf)
    return np.array(found)


def sharpened(rows, gamma):
    result = np.zeros(np.shape(rows))
    for i, row in enumerate(rows):
        total = sum(value**gamma for value in row)
        for j, value in enumerate(row):
            result[i, j] = value**gamma / total if total else 0.0
    return result


def sharpened_each(rows, gamma):
    result = np.zeros(np.shape(rows))
    for i, j in np.ndindex(*result.shape):
        here, gone = rows[i][j] ** gamma, (1 - rows[i][j]) ** gamma
        result[i, j] = here / (here + gone)
    return result


def pseudo(soft, confidence):
    return (soft > thresholds(confidence)).astype(int)


def predicted(logits, candidates):
    """Softmax over all classes, cut to the candidates and renormalised."""
    result = np.zeros(np.shape(logits))
    for i, row in enumerate(logits):
        powers = [math.exp(value - max(row)) for value in row]
        kept = [power * bool(candidate) for power, candidate in zip(powers, candidates[i], strict=True)]
        result[i] = [value / sum(kept) if any(candidates[i]) else 0.0 for value in kept]
    return result


def predicted_each(logits, candidates):
    """The sigmoid of each candidate's logit."""
    result = np.zeros(np.shape(logits))
    for i, j in np.ndindex(*result.shape):
        result[i, j] = candidates[i][j] / (1 + math.exp(-logits[i][j]))
    return result


def update(confidence, index, prediction, mu, repeats):
    """The confidence (N, C) after a batch."""
    moved = confidence.copy()
    for image in set(index):
        positions = [at for at, row in enumerate(index) if row == image]
        rows = [prediction[at] for at in positions]
        predicted = rows[-1] if repeats == "last" else sum(rows) / len(rows)
        if predicted.sum() > 0:
            moved[image] = (1 - mu) * confidence[image] + mu * predicted
    return moved


def chosen(losses, labels, wanted):
    """Row positions, in order."""
    found = set()
    for j in range(len(labels[0])):
        having = sorted((losses[i], i) for i in range(len(losses)) if labels[i][j])
        take = max(1, min(math.ceil(wanted[j]), len(having)))
        found |= {i for _, i in having[:take]}
    return sorted(found)


def shares(rows):
    total = np.sum(rows)
    return np.array([sum(column) / total if total else 0.0 for column in np.transpose(rows)])


def refined(d, eps):
    divided = [d[j] / ((eps[j] if eps[j] != 0 else d[j]) + 1e-8) for j in range(len(d))]
    return np.array(divided) / sum(divided)


def bounded(d, eps, mu, limit):
    if not any(eps):
        return np.array(d)
    powers = []
    for j in range(len(d)):
        wish = limit if eps[j] == 0 else min(max(1 / (len(d) * eps[j]), 1 / limit), limit)
        powers.append(d[j] ** (1 - mu) * wish**mu)
    return np.array(powers) / sum(powers)


def bias(counts, images, config):
    return np.array([-math.log(images / n - 1) * config.init_bias / config.neg_scale for n in counts])


def balanced(logits, targets, counts, images, config):
    """The distribution-balanced loss of every entry, rebalanced, shifted and focal, for counts within 0 and N."""
    result, v = np.zeros(np.shape(logits)), bias(counts, images, config)
    for i, j in np.ndindex(*result.shape):
        y, k = float(targets[i][j]), config.neg_scale
        sampled = sum(targets[i][c] / counts[c] for c in range(len(counts)))
        share = 1 / counts[j] / sampled if sampled else math.inf
        slope = config.map_beta * (share - config.map_gamma)
        weight = (config.map_alpha + math.exp(-softplus(-slope))) * ((1 - y) / k + y)
        z = (logits[i][j] + v[j]) * ((1 - y) * k + y)
        ce = softplus(z) - y * z
        result[i, j] = config.focal_balance * (1 - math.exp(-ce)) ** config.focal_gamma * weight * ce
    return result
