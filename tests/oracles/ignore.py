"""IGNORE in slow loops, float64, from its rules. Imports nothing of ours. Labels: 1 present, 0 absent, -1 unknown."""

import math

import numpy as np

FLOOR = 1e-5


def sigmoid(x):
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def cost(logit, present):
    q = sigmoid(logit)
    return -math.log((q if present else 1 - q) + FLOOR)


def slope(logit, present):
    """Derivative of `cost`."""
    q = sigmoid(logit)
    return -q * (1 - q) / (q + FLOOR) if present else q * (1 - q) / (1 - q + FLOOR)


def scaled(maps, how):
    """Maps (n, h, w) of observed positives, one an image."""
    maps = np.asarray(maps, dtype=np.float64)
    result = np.zeros_like(maps)
    for i, y, x in np.ndindex(*maps.shape):
        if how == "spatial":
            low, high = maps[i].min(), maps[i].max()
        else:
            low, high = maps[:, y, x].min(), maps[:, y, x].max()
        width = high if how == "release" else high - low
        result[i, y, x] = (maps[i, y, x] - low) / width if width else 0.0
    return result


def enlarged(grid, size):
    """(h, w) to (size, size), bilinear, pixel centres at halves, edges repeated."""
    height, width = grid.shape
    result = np.zeros((size, size))
    for y, x in np.ndindex(size, size):
        v = min(max((y + 0.5) * height / size - 0.5, 0), height - 1)
        u = min(max((x + 0.5) * width / size - 0.5, 0), width - 1)
        top, left = int(v), int(u)
        bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
        upper = grid[top, left] * (1 - (u - left)) + grid[top, right] * (u - left)
        lower = grid[bottom, left] * (1 - (u - left)) + grid[bottom, right] * (u - left)
        result[y, x] = upper * (1 - (v - top)) + lower * (v - top)
    return result


def move(old_gap, old_average, z, z_masked, observed, gap_lambda, avg_lambda):
    """Both thresholds after another batch."""
    gaps = [abs(z[i][k] - z_masked[i][k]) for i, k in np.ndindex(*np.shape(z)) if observed[i][k] == 1]
    gap = gap_lambda * old_gap + (1 - gap_lambda) * sum(gaps) / len(gaps) if gaps else old_gap
    means = [sum(row[k] for row in z) / len(z) for k in range(len(z[0]))]
    return gap, [avg_lambda * old + (1 - avg_lambda) * mean for old, mean in zip(old_average, means, strict=True)]


def reject(z, z_masked, observed, gap, average):
    """Rejected labels as a set of (image, class); `average` None leaves the second condition out."""
    return {
        (i, k)
        for i, k in np.ndindex(*np.shape(z))
        if observed[i][k] == -1
        and abs(z[i][k] - z_masked[i][k]) > gap
        and (average is None or z[i][k] > average[k])
        and 1 in observed[i]
    }


def total(z, z_strong, observed, gone, weights):
    """The loss, and its gradients for both views by hand. Weights: SPBC, assume-negative, agreement."""
    cells = list(np.ndindex(*np.shape(z)))
    positives = [(i, k) for i, k in cells if observed[i][k] == 1]
    kept = [cell for cell in cells if cell not in gone]
    value, weak, strong = 0.0, np.zeros(np.shape(z)), np.zeros(np.shape(z))
    for i, k in positives:
        value += weights[0] * cost(z[i][k], True) / len(positives)
        weak[i, k] += weights[0] * slope(z[i][k], True) / len(positives)
    for i, k in kept:
        present = observed[i][k] == 1
        value += weights[1] * cost(z_strong[i][k], present) / len(kept)
        strong[i, k] += weights[1] * slope(z_strong[i][k], present) / len(kept)
    for i, k in cells:
        apart = z_strong[i][k] - z[i][k]
        value += weights[2] * apart**2 / len(cells)
        strong[i, k] += weights[2] * 2 * apart / len(cells)
        weak[i, k] -= weights[2] * 2 * apart / len(cells)
    return value, weak, strong
