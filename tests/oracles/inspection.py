"""Figures of a dataset, counted one entry at a time. Truth and labels are lists of rows of 1, 0, -1."""

import hashlib


def label_figures(rows, num_classes):
    per_row = [sum(code == 1 for code in row) for row in rows]
    counts = [sum(row[k] == 1 for row in rows) for k in range(num_classes)]
    there = [count for count in counts if count]
    histogram = [per_row.count(n) for n in range(max(per_row) + 1)]
    entries = [code for row in rows for code in row]
    return {
        "images": len(rows),
        "labels_an_image": sum(per_row) / len(rows),
        "label_density": sum(per_row) / len(rows) / num_classes,
        "images_by_labels": histogram,
        "images_without_positive": per_row.count(0),
        "images_all_unknown": sum(all(code == -1 for code in row) for row in rows),
        "present": entries.count(1),
        "absent": entries.count(0),
        "unknown": entries.count(-1),
        "imbalance": max(there) / min(there) if there else None,
    }


def noise_figures(truth, observed):
    pairs = [(t, o) for true, seen in zip(truth, observed, strict=True) for t, o in zip(true, seen, strict=True)]
    figures = {
        "labelled": sum(o == 1 for _, o in pairs),
        "judged": sum(o == 1 and t != -1 for t, o in pairs),
        "wrong": sum(o == 1 and t == 0 for t, o in pairs),
        "unlabelled": sum(t == 1 and o == -1 for t, o in pairs),
        "denied": sum(t == 1 and o == 0 for t, o in pairs),
        "unknown": sum(o == -1 for _, o in pairs),
        "hiding": sum(o == -1 and t != -1 for t, o in pairs),
    }
    true = sum(t == 1 for t, _ in pairs)
    lost = figures["unlabelled"] + figures["denied"]
    return {
        **figures,
        "compared": True,
        "wrong_share": figures["wrong"] / figures["judged"] if figures["judged"] else None,
        "lost_share": lost / true if true else None,
        "present_among_unknown": figures["unlabelled"] / figures["hiding"] if figures["hiding"] else None,
    }


def together(rows, num_classes):
    return [[sum(row[j] == 1 and row[k] == 1 for row in rows) for k in range(num_classes)] for j in range(num_classes)]


def same_content(files):
    """Groups of file names (sorted) of equal bytes, each group of two or more."""
    by_content = {}
    for file in files:
        if file.exists() and file.stat().st_size:
            by_content.setdefault(hashlib.md5(file.read_bytes()).hexdigest(), []).append(str(file))
    return sorted(sorted(group) for group in by_content.values() if len(group) > 1)
