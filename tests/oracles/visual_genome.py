"""VG-256 done slowly, word by word and image by image."""

import numpy as np

COLOURS = ["white", "black", "blue", "green", "red", "brown", "yellow", "silver", "orange", "gray", "grey", "pink"]
ADJECTIVES = [*COLOURS, "small", "large", "wooden", "metal", "tall", "long", "dark"]


def cleaned(name):
    while name and name[0].isspace():
        name = name[1:]
    while name and name[-1].isspace():
        name = name[:-1]
    name = name.lower()
    if name and name[-1] == ".":
        name = name[:-1]
        while name and name[-1].isspace():
            name = name[:-1]
    words = name.split()
    for word in words[:-1]:
        if word not in ADJECTIVES:
            return name
    return words[-1] if len(words) > 1 else name


def images(objects, categories):
    """[(image number, set of columns)] of the images with a category, by number."""
    rows = []
    for entry in objects:
        columns = set()
        for one in entry["objects"]:
            last = None
            for position, phrases in enumerate(categories.values()):
                if cleaned(one["names"][0]) in phrases:
                    last = position
            if last is not None:
                columns.add(last)
        if columns:
            rows.append((entry["image_id"], columns))
    return sorted(rows)


def split(rows):
    """Training rows and test rows: the last 30 % of a shuffle of the rows are for the test."""
    shuffled = np.random.RandomState(1).permutation(len(rows)).tolist()
    held_out = set(shuffled[len(rows) - round(0.3 * len(rows)) :])
    train = [row for position, row in enumerate(rows) if position not in held_out]
    return train, [row for position, row in enumerate(rows) if position in held_out]
