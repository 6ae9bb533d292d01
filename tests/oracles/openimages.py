"""A table of verified labels by plain loops over its lines."""

import csv
import io

import numpy as np


def read_table(text, labels):
    """Sorted ids, dense codes (1, 0, -1), number of labels of other classes, number of contradictory entries."""
    verified, skipped, ids = {}, 0, set()
    for row in csv.DictReader(io.StringIO(text)):
        ids.add(row["ImageID"])
        if row["LabelName"] in labels:
            verified.setdefault((row["ImageID"], row["LabelName"]), set()).add(int(row["Confidence"]))
        else:
            skipped += 1
    order = sorted(ids)
    codes = np.full((len(order), len(labels)), -1)
    for (image, label), values in verified.items():
        codes[order.index(image), list(labels).index(label)] = max(values)
    return order, codes, skipped, sum(len(values) == 2 for values in verified.values())
