"""CUB-200-2011 whose files were cut short, edited or made to lead elsewhere."""

import numpy as np

from data.datasets.cub import load_cub
from tests.data.damage import Case
from tests.data.datasets.test_cub import ATTRIBUTES, NAMES, cub_tree
from tests.data.trees import source

IMAGES, SPLIT, NAMED = "images.txt", "train_test_split.txt", "attributes.txt"
LABELS = "attributes/image_attribute_labels.txt"


def loader(folder):
    return lambda: load_cub(source(folder, folder / "cache"))


def path_of(folder, name):
    return folder / name if name == NAMED else folder / "CUB_200_2011" / name


def line(name, number, text):
    """The tree with line `number` (from 1) of one file replaced; None takes the line out."""

    def make(folder):
        cub_tree(folder)
        path = path_of(folder, name)
        lines = path.read_text().splitlines()
        lines[number - 1 : number] = [] if text is None else [text]
        path.write_text("\n".join(lines), encoding="utf-8")
        return loader(folder)

    return make


def content(name, data):
    """The tree with one file replaced by bytes; None removes it."""

    def make(folder):
        cub_tree(folder)
        path_of(folder, name).unlink() if data is None else path_of(folder, name).write_bytes(data)
        return loader(folder)

    return make


def all_for(value):
    return lambda folder: (cub_tree(folder, train=[value] * len(NAMES)), loader(folder))[1]


def arrays(width):
    """Formatted arrays with labels of another width."""

    def make(folder):
        for phase, one in (("train", "a/1.jpg"), ("val", "b/2.jpg")):
            np.save(folder / f"formatted_{phase}_images.npy", np.array([one]))
            np.save(folder / f"formatted_{phase}_labels.npy", np.ones((1, width), dtype=np.int64))
        return loader(folder)

    return make


CASES = [
    Case("no images.txt", content(IMAGES, None), ("no CUB-200-2011 here", IMAGES)),
    Case("no split", content(SPLIT, None), (SPLIT, "cannot be read")),
    Case("no labels", content(LABELS, None), (LABELS, "cannot be read")),
    Case("no names", content(NAMED, None), (NAMED, "cannot be read")),
    Case("images empty", content(IMAGES, b""), (IMAGES, "lists no image")),
    Case("images utf-16", content(IMAGES, "1 a.jpg".encode("utf-16")), (IMAGES, "not UTF-8")),
    Case("images without a name", line(IMAGES, 2, "2"), (IMAGES, "line 2", "'2'")),
    Case("images number a word", line(IMAGES, 2, "two a.jpg"), (IMAGES, "line 2", "two a.jpg")),
    Case("images huge number", line(IMAGES, 2, "9" * 5000 + " a.jpg"), (IMAGES, "line 2")),
    Case("images number twice", line(IMAGES, 2, "1 other.jpg"), (IMAGES, "line 2", "twice")),
    Case("images name twice", line(IMAGES, 2, f"2 {NAMES[0]}"), (IMAGES, "line 2", "Crow_0001_9", "twice")),
    Case("images absolute", line(IMAGES, 3, "3 /etc/passwd"), (IMAGES, "line 3", "/etc/passwd")),
    Case("images lead out", line(IMAGES, 3, "3 a/../../b.jpg"), (IMAGES, "line 3", "a/../../b.jpg")),
    Case("images NUL", line(IMAGES, 3, "3 a\0b.jpg"), (IMAGES, "line 3")),
    Case("split unknown image", line(SPLIT, 2, "77 1"), (SPLIT, "line 2", "77")),
    Case("split twice", line(SPLIT, 2, "1 1"), (SPLIT, "line 2", "image 1", "twice")),
    Case("split of another value", line(SPLIT, 2, "2 2"), (SPLIT, "line 2", "'2'")),
    Case("split without a value", line(SPLIT, 2, "2"), (SPLIT, "line 2")),
    Case("split lacks an image", line(SPLIT, 4, None), (SPLIT, "image 4")),
    Case("split binary", content(SPLIT, b"\x80\x81"), (SPLIT, "not UTF-8")),
    Case("all for training", all_for(1), (SPLIT, "training and for test")),
    Case("all for test", all_for(0), (SPLIT, "training and for test")),
    Case("names cut short", line(NAMED, ATTRIBUTES, None), (NAMED, "311", "312 is missing")),
    Case("names one too many", line(NAMED, ATTRIBUTES, "312 a::b\n313 c::d"), (NAMED, "line 313", "313")),
    Case("names number 0", line(NAMED, 1, "0 a::b"), (NAMED, "line 1", "attribute 0")),
    Case("names name twice", line(NAMED, 9, "9 has_part::kind_3"), (NAMED, "line 9", "kind_3", "twice")),
    Case("names number twice", line(NAMED, 9, "3 other"), (NAMED, "line 9", "attribute 3", "twice")),
    Case("names without a name", line(NAMED, 9, "9"), (NAMED, "line 9")),
    Case("names with a bell", line(NAMED, 9, "9 a\ab"), (NAMED, "line 9")),
    Case("labels empty", content(LABELS, b""), (LABELS, "empty")),
    Case("labels blank", content(LABELS, b"\n \n\n"), (LABELS, "empty")),
    Case("labels binary", content(LABELS, b"\xff\xfe1 2 3"), (LABELS, "not UTF-8")),
    Case("labels of words", line(LABELS, 700, "3 76 yes 1"), (LABELS, "line 700", "3 76 yes 1")),
    Case("labels of two fields", line(LABELS, 700, "3 76"), (LABELS, "line 700", "3 76")),
    Case("labels with a fraction", line(LABELS, 700, "3 76 1.0 2"), (LABELS, "line 700", "1.0")),
    Case("labels with NaN", line(LABELS, 700, "3 76 nan 2"), (LABELS, "line 700", "nan")),
    Case("labels with commas", line(LABELS, 700, "3,76,1,2"), (LABELS, "line 700", "3,76,1,2")),
    Case("labels NUL", line(LABELS, 700, "3 76\0 1 2"), (LABELS, "line 700")),
    Case("labels huge number", line(LABELS, 700, f"3 {10**30} 1"), (LABELS, "line 700")),
    Case("labels of another value", line(LABELS, 700, "3 76 2 1"), (LABELS, "line 700", "1 (present) or 0")),
    Case("labels of another image", line(LABELS, 700, "33 76 1 1"), (LABELS, "line 700", "no such image")),
    Case("labels negative image", line(LABELS, 700, "-3 76 1 1"), (LABELS, "line 700", "no such image")),
    Case("labels attribute 313", line(LABELS, 700, "3 313 1 1"), (LABELS, "line 700", "1 to 312")),
    Case("labels attribute 0", line(LABELS, 700, "3 0 1 1"), (LABELS, "line 700", "1 to 312")),
    Case("labels pair twice", line(LABELS, 700, "3 75 1 1"), (LABELS, "line 700", "there already")),
    Case("labels lack a pair", line(LABELS, 700, None), (LABELS, "image 3", "attribute 76", "1 such")),
    Case("labels after blank lines", line(LABELS, 700, "\n\n3 0 1 1"), (LABELS, "line 702", "1 to 312")),
    Case("formatted of another width", arrays(100), ("formatted_train_labels.npy", "100", "312")),
]
