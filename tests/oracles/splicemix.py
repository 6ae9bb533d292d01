"""SpliceMix in plain loops of NumPy: images and maps scaled between corners that are kept, and the loss of tiles."""

import itertools

import numpy as np


def corner_aligned(image, height, width):
    """(D, height, width) of (D, H, W), bilinear, corners kept."""
    found = np.zeros((len(image), height, width))
    for y, x in itertools.product(range(height), range(width)):
        row = y * (image.shape[1] - 1) / max(height - 1, 1)
        column = x * (image.shape[2] - 1) / max(width - 1, 1)
        top, left = int(row), int(column)
        for i, j in itertools.product((top, top + 1), (left, left + 1)):
            if i < image.shape[1] and j < image.shape[2]:
                found[:, y, x] += (1 - abs(row - i)) * (1 - abs(column - j)) * image[:, i, j]
    return found


def tiles(image, rows, columns):
    """The tiles of a map (D, h, w), row by row, which is scaled down first to one that its grid divides."""
    height, width = max(image.shape[1] // rows, 1), max(image.shape[2] // columns, 1)
    if image.shape[1:] != (rows * height, columns * width):
        image = corner_aligned(image, rows * height, columns * width)
    for y, x in itertools.product(range(rows), range(columns)):
        yield image[:, y * height : (y + 1) * height, x * width : (x + 1) * width]


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def bce(z, target):
    return np.log1p(np.exp(-abs(z))) + max(z, 0) - target * z


def tile_loss(maps, logits, layout, score):
    """Mean over the grids of the mean over tiles and classes; `score` gives the logits (C,) of a map."""
    rows, columns, images, shown = layout
    total = 0.0
    for each, (own, kept) in enumerate(zip(images, shown, strict=True)):
        for tile, image, seen in zip(tiles(maps[each], rows, columns), own, kept, strict=True):
            pairs = zip(score(tile), logits[image], strict=True)
            total += sum(bce(z, sigmoid(other)) for z, other in pairs) if seen else 0
    return total / (images.size * logits.shape[1])
