"""A table of images with a few wrong labels, and features that tell its classes."""

import csv

import numpy as np
from PIL import Image

CLASSES = ("cat", "dog", "cow", "yak")
FLAGS = ("--dataset", "table", "--table", "labels.csv", "--features", "features.npz", "--folds", "3", "--device", "cpu")


def write_table(folder, rows=120, seed=0, unknown=0, images=0):
    """Write table and features; returns the true codes and those that are given, (N, C). The yak is too rare."""
    rng = np.random.default_rng(seed)
    truth = (rng.random((rows, 4)) < 0.4).astype(np.int8)
    truth[:, 3] = 0
    truth[3:6, 3] = 1
    given = truth.copy()
    given[10, 0], given[20, 1], given[30, 2] = 1 - truth[10, 0], 1 - truth[20, 1], 1 - truth[30, 2]
    for row in range(40, 40 + unknown):
        given[row, row % 3] = -1
    ids = [f"{row:03}.jpg" for row in range(rows)]
    write_cells(folder / "labels.csv", ids, given)
    features = truth @ rng.standard_normal((4, 8)) + 0.1 * rng.standard_normal((rows, 8))
    np.savez(folder / "features.npz", features=features.astype(np.float32), ids=ids)
    for row in range(images):
        Image.new("RGB", (60, 40), (row, 100, 200)).save(folder / ids[row])
    return truth, given


def write_cells(path, ids, codes, group=None):
    """Write a table with a column per class, and perhaps one of groups."""
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", *CLASSES, *([] if group is None else ["patient"])])
        for row, one in enumerate(ids):
            cells = ["" if code < 0 else int(code) for code in codes[row]]
            table.writerow([one, *cells, *([] if group is None else [group[row]])])


def read_rows(path):
    """The rows of a CSV file by column."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
