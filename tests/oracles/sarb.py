"""Blended class vectors and their contrast, label by label on NumPy float64. Labels: 1, 0 absent, -1 unknown."""

import numpy as np


def blended(vectors, codes, share):
    """Vectors (B, C, D) and targets (B, C), -1 where nothing is known, of each image and the one at the other end."""
    mixed, targets = vectors.copy(), codes.astype(float)
    for image, label in np.ndindex(codes.shape):
        partner = len(codes) - 1 - image
        if codes[image, label] == -1 and codes[partner, label] == 1:
            mixed[image, label] = share * vectors[image, label] + (1 - share) * vectors[partner, label]
            targets[image, label] = 1 - share if share < 1 else -1
    return mixed, targets


def blended_with_centres(vectors, codes, centres, held, draws, share):
    """Vectors and targets of images of which one unknown label has taken up a centre (C, D), and which (B, C) bool."""
    mixed, targets, taken = vectors.copy(), codes.astype(float), np.zeros(codes.shape, bool)
    for image in range(len(codes)):
        free = [label for label in range(codes.shape[1]) if codes[image, label] == -1 and held[label]]
        if free:
            label = max(free, key=lambda label: draws[image, label])
            mixed[image, label] = share * vectors[image, label] + (1 - share) * centres[label]
            targets[image, label] = 1 - share if share < 1 else -1
            taken[image, label] = True
    return mixed, targets, taken


def cosine(one, other):
    return one @ other / max(np.linalg.norm(one) * np.linalg.norm(other), 1e-9)


def contrast(vectors, codes, draws):
    """The mean of what counts, `draws` (P, C) deciding which pairs come first by lot."""
    images, classes = codes.shape
    pairs = [(i, j) for i in range(images) for j in range(i + 1, images)]
    both, others = [], {"either": [], "neither": []}
    for number, (i, j) in enumerate(pairs):
        for label in range(classes):
            kinds = sorted((codes[i, label], codes[j, label]))
            d = cosine(vectors[i, label], vectors[j, label])
            if kinds == [1, 1]:
                both.append(1 - d)
            elif kinds[0] >= 0:
                others["neither" if kinds[1] == 0 else "either"].append((draws[number, label], 1 + d))
    counted = list(both)
    for found in others.values():
        if not both:
            counted += [cost for _, cost in found]
            continue
        counted += [cost for _, cost in sorted(found)[: 2 * len(both)]]
        counted += sorted((cost for _, cost in found), reverse=True)[: len(both)]
    return float(np.mean(counted)) if counted else 0.0
