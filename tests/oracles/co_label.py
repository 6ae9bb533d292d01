"""Co-label selection and the selection of samples by two networks, in slow loops, float64. Imports nothing of ours.

Labels: 1 present, 0 absent, -1 unknown (assumed negative).
"""

import math

import numpy as np


def softplus(x):
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def loss_of(logit, present):
    return softplus(-logit) if present else softplus(logit)


def sigmoid(x):
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def label_losses(logits, observed):
    return {
        (i, k): loss_of(float(logits[i][k]), observed[i][k] == 1) for i, k in np.ndindex(len(logits), len(logits[0]))
    }


def keep(losses, cells, rate, largest=False):
    """The floor(rate * n) cells of smallest (or largest) loss, those that come first among equals."""
    sign = -1 if largest else 1
    ranked = sorted(sorted(cells), key=lambda cell: sign * losses[cell])  # sorted is stable
    return set(ranked[: math.floor(rate * len(cells) + 1e-9)])


def select(own, peer, observed, rate_high, rate_low):
    """(removed for their high loss, removed for their low loss), sets of (image, class)."""
    negatives = {cell for cell in own if observed[cell[0]][cell[1]] == -1}
    credible = keep(peer, negatives, rate_high)
    informative = keep(own, credible, rate_low, largest=True)
    return negatives - credible, credible - informative


def label_selection(logits_f, logits_g, observed, rate_high, rate_low, ablation="none", reduction="sum_over_labels"):
    """For f and for g: (loss, gradient (B, C) by hand, removed for high loss, removed for low loss)."""
    rate_high = 1.0 if ablation == "CLS-H" else rate_high
    rate_low = 1.0 if ablation == "CLS-L" else rate_low
    losses = [label_losses(logits, observed) for logits in (logits_f, logits_g)]
    rows, classes = np.shape(logits_f)
    found = []
    for logits, own, peer in ((logits_f, *losses), (logits_g, *losses[::-1])):
        high, low = select(own, peer, observed, rate_high, rate_low)
        kept = [cell for cell in own if cell not in low and (ablation == "CLC" or cell not in high)]
        entries = {"sum_over_labels": rows, "mean_kept": max(len(kept), 1), "mean_all": rows * classes}[reduction]
        value, gradient = 0.0, np.zeros((rows, classes))
        for i, k in kept:
            present = observed[i][k] == 1 or (i, k) in high
            value += loss_of(float(logits[i][k]), present) / entries
            gradient[i, k] = (sigmoid(float(logits[i][k])) - present) / entries
        found.append((value, gradient, high, low))
    return found


def image_losses(logits, observed):
    losses = label_losses(logits, observed)
    return [sum(losses[i, k] for k in range(len(logits[0]))) for i in range(len(logits))]


def keep_images(losses, chosen, forgotten):
    chosen = set(chosen)
    kept = keep(dict(enumerate(losses)), chosen, 1 - forgotten)
    return kept or chosen


def disagreements(logits_f, logits_g):
    """Places (image, class) where one network says present and the other does not."""
    return [cell for cell in np.ndindex(np.shape(logits_f)) if (logits_f[cell] >= 0) != (logits_g[cell] >= 0)]


def mean(values, chosen):
    return sum(values[i] for i in chosen) / len(chosen) if chosen else 0.0


def co_teaching(logits_f, logits_g, observed, forgotten, chosen=None):
    """(loss of f, loss of g, the images f learns from, those g learns from)."""
    f, g = image_losses(logits_f, observed), image_losses(logits_g, observed)
    chosen = range(len(f)) if chosen is None else chosen
    by_f, by_g = keep_images(f, chosen, forgotten), keep_images(g, chosen, forgotten)
    return mean(f, by_g), mean(g, by_f), by_g, by_f


def co_teaching_plus(logits_f, logits_g, observed, forgotten):
    chosen = {i for i, _ in disagreements(logits_f, logits_g)}
    return co_teaching(logits_f, logits_g, observed, forgotten, chosen)


def decoupling(logits_f, logits_g, observed, by_label=False):
    """(loss of f, loss of g)."""
    cells = disagreements(logits_f, logits_g)
    images = {i for i, _ in cells}
    found = []
    for logits in (logits_f, logits_g):
        each = label_losses(logits, observed)
        counted = cells if by_label else [cell for cell in each if cell[0] in images]
        found.append(sum(each[cell] for cell in counted) / len(images) if images else 0.0)
    return tuple(found)


def divergence(p, q):
    """KL(p || q) + KL(q || p) of Bernoullis, from the definition."""
    return sum(a * math.log(a / b) + b * math.log(b / a) for a, b in ((p, q), (1 - p, 1 - q)))


def jocor(logits_f, logits_g, observed, forgotten, weight):
    """(loss, images that are kept)."""
    f, g = image_losses(logits_f, observed), image_losses(logits_g, observed)
    pairs = [list(zip(*rows, strict=True)) for rows in zip(logits_f, logits_g, strict=True)]
    apart = [sum(divergence(sigmoid(a), sigmoid(b)) for a, b in row) for row in pairs]
    joint = [(1 - weight) * (f[i] + g[i]) + weight * apart[i] for i in range(len(f))]
    kept = keep_images(joint, range(len(f)), forgotten)
    return mean(joint, kept), kept


def forgotten_share(rate, epoch, ramp, exponent):
    table = [*np.linspace(0, rate**exponent, ramp), *[rate] * max(epoch - ramp + 1, 0)]
    return float(table[epoch])
