"""Visual Genome whose files were cut short, edited or made to run code."""

import json
import pickle

import numpy as np

from data.datasets.visual_genome import load_visual_genome
from tests.data.damage import Case
from tests.data.datasets.test_visual_genome import OBJECTS, PHRASES, entry, vg_tree
from tests.data.trees import source

WHERE = ("objects.json", "entry 5")


def loader(folder):
    return lambda: load_visual_genome(source(folder, folder / "cache"))


def bytes_of(name, content):
    """The tree with one file replaced by `content`, or cut to a share of its length."""

    def make(folder):
        path = vg_tree(folder) / name
        path.write_bytes(
            path.read_bytes()[: int(content * path.stat().st_size)] if isinstance(content, float) else content
        )
        return loader(folder)

    return make


def one_more(entry):
    """The tree with another entry behind those of `objects.json`."""
    return lambda folder: loader(vg_tree(folder, [*OBJECTS, entry]))


def categories(phrases):
    return lambda folder: loader(vg_tree(folder, phrases=phrases))


def without(name):
    def make(folder):
        (vg_tree(folder) / name).unlink()
        return loader(folder)

    return make


def with_array(name, values):
    """The tree with formatted arrays, one of which holds `values`."""

    def make(folder):
        for phase, one in (("train", 1), ("val", 2)):
            np.save(folder / f"formatted_{phase}_images.npy", np.array([f"VG_100K/{one}.jpg"]))
            np.save(folder / f"formatted_{phase}_labels.npy", np.ones((1, 256)))
        if isinstance(values, bytes):
            (folder / name).write_bytes(values)
        else:
            np.save(folder / name, values, allow_pickle=True)
        return loader(folder)

    return make


class Hostile:
    def __reduce__(self):
        return eval, ("__import__('os').abort()",)


CASES = [
    Case("no objects.json", without("objects.json"), ("no Visual Genome here", "objects.json")),
    Case("no vg256.json", without("vg256.json"), ("vg256.json", "does not exist")),
    Case("cut short in an entry", bytes_of("objects.json", 0.5), ("objects.json", "not a json file")),
    Case(
        "cut short behind an entry",
        bytes_of("objects.json", json.dumps(OBJECTS)[:-1].encode()),
        ("objects.json", "json"),
    ),
    Case("empty", bytes_of("objects.json", b""), ("objects.json", "not a json list")),
    Case("an object", bytes_of("objects.json", b'{"image_id": 1}'), ("objects.json", "not a json list")),
    Case("a comma too many", bytes_of("objects.json", b"[1,]"), ("objects.json", "entry 0")),
    Case(
        "no comma", bytes_of("objects.json", b'[{"image_id": 1, "objects": []} {}]'), ("objects.json", "character 32")
    ),
    Case("more behind the list", bytes_of("objects.json", b"[] []"), ("objects.json", "character 3")),
    Case("nested deeply", bytes_of("objects.json", b"[" * 200_000), ("objects.json", "not a json file")),
    Case("not UTF-8", bytes_of("objects.json", b'["\xff"]'), ("objects.json", "not UTF-8", "byte 2")),
    Case("NUL bytes", bytes_of("objects.json", b"[\0\0\0]"), ("objects.json", "not a json file")),
    Case("a number of 10,000 digits", bytes_of("objects.json", b"[" + b"9" * 10_000 + b"]"), ("objects.json", "json")),
    Case("entry a list", one_more([3]), (*WHERE, "list")),
    Case("no image_id", one_more({"objects": []}), (*WHERE, "image_id")),
    Case("image_id a text", one_more(entry("31", [])), (*WHERE, "'31'")),
    Case("image_id true", one_more(entry(True, [])), (*WHERE, "is True")),
    Case("image_id a path", one_more(entry("../../x", [])), (*WHERE, "../../x")),
    Case("negative image_id", one_more(entry(-4, [])), (*WHERE, "is -4")),
    Case("huge image_id", one_more(entry(10**300, [])), (*WHERE, "image_id")),
    Case("image_id NaN", one_more(entry(float("nan"), [])), (*WHERE, "nan")),
    Case("image twice", one_more(entry(9, [])), (*WHERE, "image_id 9", "twice")),
    Case("no objects", one_more({"image_id": 31}), (*WHERE, "image 31", "'objects'")),
    Case("objects null", one_more({"image_id": 31, "objects": None}), (*WHERE, "image 31", "'objects'")),
    Case("object a text", one_more({"image_id": 31, "objects": ["man"]}), (*WHERE, "object 0", "'names'")),
    Case("no names", one_more({"image_id": 31, "objects": [{}]}), (*WHERE, "image 31", "object 0", "'names'")),
    Case("names empty", one_more(entry(31, [["man"], []])), (*WHERE, "object 1", "'names'")),
    Case("names a text", one_more(entry(31, ["man"])), (*WHERE, "object 0", "'names'")),
    Case("name a number", one_more(entry(31, [[7]])), (*WHERE, "object 0", "'names'")),
    Case("vg256 a list", categories(["person"]), ("vg256.json", "object")),
    Case("vg256 empty", categories({}), ("vg256.json", "object")),
    Case("vg256 cut short", bytes_of("vg256.json", 0.5), ("vg256.json", "not a json file")),
    Case("phrases a text", categories({**PHRASES, "sky": "sky"}), ("vg256.json", "'sky'", "phrases")),
    Case("phrase a number", categories({**PHRASES, "sky": [1]}), ("vg256.json", "'sky'", "phrases")),
    Case("category without a name", categories({**PHRASES, " ": []}), ("vg256.json", "category 4")),
    Case("category of two lines", categories({**PHRASES, "a\nb": []}), ("vg256.json", "category 4")),
    Case("category of half a character", categories({**PHRASES, "\ud800": []}), ("vg256.json", "category 4")),
    Case("one image", lambda folder: loader(vg_tree(folder, OBJECTS[:1])), ("objects.json", "1 images")),
    Case(
        "labels of another width",
        with_array("formatted_train_labels.npy", np.ones((1, 80))),
        ("formatted_train_labels.npy", "80", "256"),
    ),
    Case(
        "labels that run code",
        with_array("formatted_val_labels.npy", np.array([[Hostile()]], dtype=object)),
        ("formatted_val_labels.npy", "pickled"),
    ),
    Case(
        "images that are a pickle",
        with_array("formatted_val_images.npy", pickle.dumps(Hostile())),
        ("formatted_val_images.npy",),
    ),
    Case(
        "images that lead out",
        with_array("formatted_val_images.npy", np.array(["../../../etc/2.jpg"])),
        ("formatted_val_images.npy", "etc/2.jpg"),
    ),
    Case(
        "images without a number",
        with_array("formatted_train_images.npy", np.array(["VG_100K/cat.jpg"])),
        ("formatted_train_images.npy", "row 0", "cat.jpg"),
    ),
]
