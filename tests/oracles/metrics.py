"""Multi-label metrics by plain loops: one threshold, one class and one image at a time."""

import numpy as np


def average_precision(scores, truth):
    """Sum over distinct scores, from the highest, of (gain in recall) x (precision there); NaN without positives."""
    positives = sum(1 for t in truth if t == 1)
    if positives == 0:
        return float("nan")
    total, recall_before = 0.0, 0.0
    for level in sorted(set(scores), reverse=True):
        hits = sum(1 for s, t in zip(scores, truth, strict=True) if s >= level and t == 1)
        taken = sum(1 for s in scores if s >= level)
        recall = hits / positives
        total += (recall - recall_before) * hits / taken
        recall_before = recall
    return total


def known_average_precisions(scores, truth):
    """Average precision of each column over its entries that are not -1."""
    values = []
    for k in range(truth.shape[1]):
        rows = [i for i in range(truth.shape[0]) if truth[i, k] != -1]
        values.append(average_precision([scores[i, k] for i in rows], [truth[i, k] for i in rows]))
    return np.array(values)


def precision_recall(predicted, truth):
    """CP, CR, CF1, OP, OR, OF1 of a boolean prediction, entries of truth -1 left out."""
    precisions, recalls = [], []
    hits = chosen = positives = 0
    for k in range(truth.shape[1]):
        rows = [i for i in range(truth.shape[0]) if truth[i, k] != -1]
        tp = sum(1 for i in rows if predicted[i, k] and truth[i, k] == 1)
        pred = sum(1 for i in rows if predicted[i, k])
        pos = sum(1 for i in rows if truth[i, k] == 1)
        if rows:
            precisions.append(tp / pred if pred else 0.0)
        if pos:
            recalls.append(tp / pos)
        hits, chosen, positives = hits + tp, chosen + pred, positives + pos
    per_class = sum(precisions) / max(len(precisions), 1), sum(recalls) / max(len(recalls), 1)
    overall = hits / max(chosen, 1), hits / max(positives, 1)
    return (*per_class, harmonic(*per_class), *overall, harmonic(*overall))


def harmonic(a, b):
    """Harmonic mean, 0 when both are 0."""
    return 2 * a * b / (a + b) if a + b else 0.0


def top(scores, count):
    """The `count` best columns of each row; among equals the earlier column."""
    chosen = np.zeros(scores.shape, dtype=bool)
    for i, row in enumerate(scores):
        order = sorted(range(len(row)), key=lambda k: (-row[k], k))
        chosen[i, order[:count]] = True
    return chosen


def at_rank(scores, truth, k):
    """Recall, precision and share of images with a hit, at the first `k` columns; among equals the later column."""
    recalls, precisions, any_hit = [], [], []
    for row, codes in zip(scores.tolist(), truth.tolist(), strict=True):
        first = sorted(range(len(row)), key=lambda j: (row[j], j))[::-1][:k]
        hits = sum(1 for j in first if codes[j] == 1)
        known = k - sum(1 for j in first if codes[j] == -1)
        positives = codes.count(1)
        recalls.append(hits / positives if positives else 0.0)
        precisions.append(hits / known if known else 0.0)
        any_hit.append(1.0 if hits else 0.0)
    return tuple(sum(values) / len(values) for values in (recalls, precisions, any_hit))
