"""Damaged formatted arrays, and a small set of valid ones."""

import pickle
import struct

import numpy as np

from data.datasets.coco import load_coco
from data.datasets.formatted import FormattedLayout, load_formatted
from data.datasets.source import DatasetSource
from data.files.cache import Cache
from tests.data.damage import Case

NAMES = {"train": ["c/3.jpg", "c/1.jpg", "c/20.jpg"], "val": ["c/7.jpg", "c/5.jpg"]}
LABELS = {"train": [[1, 0, 0], [0, 1, 1], [0, 0, 0]], "val": [[0, 0, 1], [1, 1, 0]]}
OBSERVED = {"train": [[1, 0, 0], [0, 0, 1], [-1, 0, 0]], "val": [[0, 0, 1], [0, 1, 0]]}


def stem(name):
    return name.rpartition("/")[2].rpartition(".")[0]


LAYOUT = FormattedLayout("threes", ("pictures", "."), stem, None, 3)


def arrays():
    """The arrays of a right set by their file names."""
    content = {}
    for part in ("train", "val"):
        content[f"formatted_{part}_images.npy"] = np.array(NAMES[part])
        content[f"formatted_{part}_labels.npy"] = np.array(LABELS[part], dtype=np.float64)
        content[f"formatted_{part}_labels_obs.npy"] = np.array(OBSERVED[part], dtype=np.float64)
    return content


def formatted_tree(folder, **changes):
    """The arrays in `folder`; `changes` maps "train_images" and the like to another array, bytes, or None for none."""
    folder.mkdir(exist_ok=True)
    files = arrays() | {f"formatted_{name}.npy": content for name, content in changes.items()}
    for name, content in files.items():
        if isinstance(content, bytes):
            (folder / name).write_bytes(content)
        elif content is not None:
            np.save(folder / name, content, allow_pickle=True)
    return folder


def load(folder, layout=LAYOUT, *, need_images=False):
    """The splits of `formatted_tree`."""
    return load_formatted(DatasetSource(folder, folder, 0, Cache(folder / "cache"), need_images), layout)


def npy(descr, shape, data=b"", version=b"\1\0"):
    """An `.npy` file whose header says anything."""
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY" + version + struct.pack("<H", len(header)) + header + data


def texts(*names):
    """Training names with others at the beginning."""
    return np.array([*names, *NAMES["train"][len(names) :]])


def values(part, row, label, value, table=LABELS):
    """Labels with another value in one cell."""
    labels = np.array(table[part], dtype=np.float64)
    labels[row, label] = value
    return labels


def changed(name, file, content, *words, layout=LAYOUT):
    """A case with another content of one array; its file name must be in the message."""

    def make(folder):
        formatted_tree(folder, **{file: content})
        return lambda: load(folder, layout)

    return Case(name, make, (f"formatted_{file}.npy", *words))


def cut(name, file, count):
    """A case whose file ends `count` bytes too early."""

    def make(folder):
        formatted_tree(folder)
        path = folder / f"formatted_{file}.npy"
        path.write_bytes(path.read_bytes()[:-count])
        return lambda: load(folder)

    return Case(name, make, (f"formatted_{file}.npy", "cut short"))


class Call:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def hostile(name, file):
    """A case whose array is a pickle that would make a file if it were obeyed."""

    def make(folder):
        marker = folder / "marker"
        calls = np.empty((3, 3), dtype=object)
        calls[:] = Call(open, str(marker), "w")
        formatted_tree(folder)
        data = pickle.dumps(calls)
        (folder / f"formatted_{file}.npy").write_bytes(npy("|O", "(3, 3)", data))

        def refuse():
            try:
                load(folder)
            finally:
                assert not marker.exists()

        return refuse

    return Case(name, make, (f"formatted_{file}.npy", "pickled"))


def named(name, content, *words):
    """A case with a file `classes.txt`."""

    def make(folder):
        formatted_tree(folder)
        (folder / "classes.txt").write_bytes(content)
        return lambda: load(folder)

    return Case(name, make, ("classes.txt", *words))


def a_folder(folder):
    formatted_tree(folder, val_labels=None)
    (folder / "formatted_val_labels.npy").mkdir()
    return lambda: load(folder)


def coco_name_without_number(folder):
    formatted_tree(folder, train_images=texts("train2014/COCO_train2014_a.jpg"))
    return lambda: load_coco(DatasetSource(folder, folder, 0, Cache(folder / "cache"), False), 2014)


def no_image_folder(folder):
    formatted_tree(folder)
    return lambda: load(folder, LAYOUT._replace(roots=("Flickr", "pictures")), need_images=True)


def structured():
    return np.zeros(3, dtype=[("name", "U5"), ("row", "i4")])


CASES = [
    changed("no training names", "train_images", None, "cannot be read"),
    changed("no training labels", "train_labels", None, "cannot be read"),
    changed("no test names", "val_images", None, "cannot be read"),
    changed("no test labels", "val_labels", None, "cannot be read"),
    Case("a folder for a file", a_folder, ("formatted_val_labels.npy", "cannot be read")),
    changed("an empty file", "train_images", b"", "not an .npy file"),
    changed("a text file", "train_labels", b"1 0 0\n0 1 1\n0 0 0\n", "not an .npy file"),
    changed("an archive", "val_labels", b"PK\3\4" + b"\0" * 60, "not an .npy file"),
    changed("a damaged header", "val_labels", npy("<f8", "(2, 3"), "not an .npy file"),
    changed("another version", "val_labels", npy("<f8", "(2, 3)", b"\0" * 48, b"\x09\x09"), "not supported"),
    cut("labels cut short", "train_labels", 1),
    cut("names cut short", "val_images", 30),
    cut("observed labels cut short", "train_labels_obs", 8),
    changed("names as objects", "train_images", np.array(NAMES["train"], dtype=object), "pickled"),
    hostile("names that call", "train_images"),
    hostile("labels that call", "val_labels"),
    hostile("observed labels that call", "train_labels_obs"),
    changed("names as bytes", "train_images", np.array(NAMES["train"], dtype="S"), "|S8", "texts"),
    changed("names as numbers", "train_images", np.arange(3), "int64", "texts"),
    changed("names in a table", "train_images", np.array([NAMES["train"]]), "(1, 3)"),
    changed("one name", "train_images", np.array("a.jpg"), "()"),
    changed("no name at all", "val_images", np.array([], dtype="U5"), "(0,)"),
    changed("names with fields", "train_images", structured(), "texts"),
    changed("a million million empty names", "train_images", npy("<U0", "(1000000000000,)"), "no array has shape"),
    changed("a shape without end", "train_labels", npy("<f8", f"(0, {10**30})"), "no array has shape"),
    changed("a huge shape", "train_labels", npy("<f8", f"({10**12}, {10**12})"), "cut short"),
    changed("a negative shape", "train_labels", npy("<f8", "(-2, -3)", b"\0" * 48), "no array has shape"),
    changed("a shape of truth values", "train_labels", npy("<f8", "(True, True)", b"\0" * 8), "formatted"),
    changed("beyond Unicode", "train_images", npy("<U1", "(2,)", struct.pack("<II", 97, 0x110005)), "text 1"),
    changed("beyond Unicode, big-endian", "val_images", npy(">U1", "(1,)", struct.pack(">I", 0x7FFFFFFF)), "text 0"),
    changed("half a character", "train_images", npy("<U1", "(1,)", struct.pack("<I", 0xD800)), "text 0"),
    changed("a line break in a name", "train_images", texts("a.jpg", "b\nc.jpg"), "row 1", "control"),
    changed("a NUL in a name", "train_images", texts("a\0b.jpg"), "row 0", "control"),
    changed("an absolute name", "train_images", texts("c/3.jpg", "/etc/passwd"), "row 1", "/etc/passwd"),
    changed("a name that leads out", "val_images", np.array(["c/7.jpg", "c/../../5.jpg"]), "row 1", ".."),
    changed("a name on a drive", "train_images", texts("C:\\a.jpg"), "row 0"),
    changed("an empty name", "train_images", texts("c/3.jpg", ""), "row 1"),
    changed("a name twice", "train_images", texts("c/20.jpg"), "row 2", "image 20", "row 0"),
    changed("an image twice", "train_images", texts("d/1.png"), "row 1", "image 1 ", "row 0"),
    changed("an image in both sets", "val_images", np.array(["c/7.jpg", "c/1.jpg"]), "row 1", "image 1 "),
    changed(
        "a name without an id", "train_images", texts("c/.jpg"), "row 0", layout=LAYOUT._replace(identify=lambda _: "")
    ),
    Case(
        "a coco name without number", coco_name_without_number, ("train_images.npy, row 0", "COCO_train2014_a", "coco")
    ),
    changed("labels in a list", "train_labels", np.zeros(3), "(3,)"),
    changed("labels in a cube", "train_labels", np.zeros((3, 3, 1)), "(3, 3, 1)"),
    changed("labels of other rows", "train_labels", np.zeros((4, 3)), "(4, 3)", "3 names"),
    changed("labels without classes", "train_labels", np.zeros((3, 0)), "(3, 0)"),
    changed("labels of other classes", "val_labels", np.zeros((2, 4)), "4 classes", "threes has 3"),
    changed(
        "unequal widths", "val_labels", np.zeros((2, 4)), "4 classes", "have 3", layout=LAYOUT._replace(width=None)
    ),
    changed(
        "other names than columns",
        "train_labels",
        np.zeros((3, 3)),
        "3 classes",
        layout=LAYOUT._replace(classes=("a",)),
    ),
    changed("a label of 2", "train_labels", values("train", 2, 1, 2), "row 2", "class 1", "2.0"),
    changed("a label of -1", "val_labels", values("val", 1, 0, -1), "row 1", "class 0", "-1.0"),
    changed("half a label", "train_labels", values("train", 0, 2, 0.5), "row 0", "class 2", "0.5"),
    changed("a label that is no number", "train_labels", values("train", 1, 1, np.nan), "row 1", "class 1", "nan"),
    changed("an infinite label", "val_labels", values("val", 0, 0, np.inf), "row 0", "class 0", "inf"),
    changed("labels as texts", "train_labels", np.array(LABELS["train"]).astype("U1"), "<U1"),
    changed("complex labels", "train_labels", np.array(LABELS["train"]) * 1j, "complex128"),
    changed("labels as times", "train_labels", np.array(LABELS["train"]).astype("m8[s]"), "timedelta64"),
    changed("observed labels of other rows", "train_labels_obs", np.zeros((2, 3)), "(2, 3)"),
    changed("observed labels of other classes", "train_labels_obs", np.zeros((3, 2)), "2 classes", "have 3"),
    changed(
        "an observed label of 2", "train_labels_obs", values("train", 1, 2, 2, OBSERVED), "row 1", "class 2", "2.0"
    ),
    changed("an observed label of 99", "train_labels_obs", np.full((3, 3), 99, np.uint8), "row 0", "class 0", "99"),
    changed(
        "no observed number", "train_labels_obs", values("train", 2, 0, np.nan, OBSERVED), "row 2", "class 0", "nan"
    ),
    named("too few class names", b"a\nb\n", "2 class names", "3 columns"),
    named("a class name twice", b"a\nb\na\n", "line 3", "'a'", "line 1"),
    named("class names in another encoding", "a\nb\nc\u00e9\n".encode("latin-1"), "UTF-8"),
    Case("no image folder", no_image_folder, ("Flickr", "no such folder", "threes")),
]
