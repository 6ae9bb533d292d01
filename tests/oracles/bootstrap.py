"""Draws of images or groups by repeating rows, one draw and one class at a time; images of a group taken as one."""

import numpy as np

from tests.oracles.metrics import average_precision


def drawn_rows(unit, units, draws, seed):
    """For each draw the rows it has, each as often as its unit was drawn."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(draws):
        taken = rng.integers(0, units, units).tolist()
        found.append([row for chosen in taken for row in range(len(unit)) if unit[row] == chosen])
    return found


def drawn_precision(scores, truth, rows):
    """Average precision of each class over some rows, NaN without a known positive or a known negative."""
    values = []
    for k in range(truth.shape[1]):
        known = [row for row in rows if truth[row, k] != -1]
        codes = [int(truth[row, k]) for row in known]
        both = 0 in codes and 1 in codes
        values.append(average_precision([float(scores[row, k]) for row in known], codes) if both else float("nan"))
    return values


def quantile(values, share):
    """Linear interpolation between the two nearest of the sorted values that are not NaN; NaN of none."""
    ordered = sorted(value for value in values if value == value)
    if not ordered:
        return float("nan")
    at = share * (len(ordered) - 1)
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (at - low) * (ordered[high] - ordered[low])


def group_rows(scores, truth, groups, mean):
    """Scores and truth of each group, in the order of their numbers."""
    joined, codes = [], []
    for group in sorted(set(groups)):
        rows = [row for row in range(len(groups)) if groups[row] == group]
        columns = range(truth.shape[1])
        joined.append([(sum if mean else max)(float(scores[row, k]) for row in rows) for k in columns])
        joined[-1] = [value / len(rows) for value in joined[-1]] if mean else joined[-1]
        held = [[int(truth[row, k]) for row in rows] for k in columns]
        codes.append([1 if 1 in each else -1 if -1 in each else 0 for each in held])
    return joined, codes
