"""WIDER-Attribute whose files were cut short, edited or made to lead elsewhere."""

import copy

from data.datasets.wider import load_wider
from tests.data.damage import Case
from tests.data.datasets.test_wider import ATTRIBUTES, TEST, TRAINVAL, prepared, prepared_tree, wider_json, wider_tree
from tests.data.trees import source

TRAINVAL_FILE, TEST_FILE, LIST = "wider_attribute_trainval.json", "wider_attribute_test.json", "trainval_wider.json"


def loader(folder):
    return lambda: load_wider(source(folder, folder / "cache"))


def bytes_of(name, content):
    """The tree with one file replaced by `content`, or cut to a share of its length."""

    def make(folder):
        path = wider_tree(folder) / "Annotations" / name
        path.write_bytes(
            path.read_bytes()[: int(content * path.stat().st_size)] if isinstance(content, float) else content
        )
        return loader(folder)

    return make


def edited(change):
    """The tree with `change` made to the content of the trainval file."""

    def make(folder):
        doc = copy.deepcopy(wider_json(TRAINVAL))
        change(doc)
        return loader(wider_tree(folder, trainval=doc))

    return make


def person(**values):
    """The tree whose second person of the first image has other values."""
    return edited(lambda doc: doc["images"][0]["targets"][1].update(values))


def image(**values):
    return edited(lambda doc: doc["images"][1].update(values))


def names(change):
    return edited(lambda doc: doc.update(attribute_id_map=change))


def listed(change):
    """CSRA's lists, with `change` made to the entries of trainval."""

    def make(folder):
        doc = prepared(TRAINVAL, "trainval")
        return loader(prepared_tree(folder, trainval=change(doc) or doc))

    return make


def nested(depth):
    return [nested(depth - 1)] if depth else []


def without_test(folder):
    (wider_tree(folder) / "Annotations" / TEST_FILE).unlink()
    return loader(folder)


def other_names(folder):
    return loader(wider_tree(folder, test=wider_json(TEST, {**ATTRIBUTES, "3": "cap"})))


def nobody(folder):
    return loader(wider_tree(folder, test=wider_json([("test/x.jpg", [])])))


BOX = (TRAINVAL_FILE, "image 0", "1_b.jpg", "target 1", "bbox")
VALUES = (TRAINVAL_FILE, "image 0", "1_b.jpg", "target 1", "attribute")
SHORT = [1] * 13

CASES = [
    Case("no test file", without_test, (TEST_FILE, "cannot be read")),
    Case("cut short", bytes_of(TRAINVAL_FILE, 0.7), (TRAINVAL_FILE, "not a json file")),
    Case("empty", bytes_of(TEST_FILE, b""), (TEST_FILE, "not a json file")),
    Case("nested deeply", bytes_of(TEST_FILE, b"[" * 200_000), (TEST_FILE, "not a json file")),
    Case("utf-16", bytes_of(TEST_FILE, '{"images": []}'.encode("utf-16")), (TEST_FILE, "not UTF-8")),
    Case("NUL bytes", bytes_of(TEST_FILE, b'{"images"\0: []}'), (TEST_FILE, "not a json file")),
    Case("a list", bytes_of(TEST_FILE, b"[]"), (TEST_FILE, "'images'")),
    Case("no images", edited(lambda doc: doc.pop("images")), (TRAINVAL_FILE, "'images'")),
    Case("images an object", edited(lambda doc: doc.update(images={})), (TRAINVAL_FILE, "'images'")),
    Case("image a number", edited(lambda doc: doc["images"].append(7)), (TRAINVAL_FILE, "image 3", "int")),
    Case(
        "no file name", edited(lambda doc: doc["images"][1].pop("file_name")), (TRAINVAL_FILE, "image 1", "file_name")
    ),
    Case("file name a number", image(file_name=12), (TRAINVAL_FILE, "image 1", "12")),
    Case("file name leads out", image(file_name="../../etc/passwd"), (TRAINVAL_FILE, "image 1", "etc/passwd")),
    Case("absolute file name", image(file_name="/etc/passwd"), (TRAINVAL_FILE, "image 1", "etc/passwd")),
    Case("file name of a drive", image(file_name="C:\\secret.jpg"), (TRAINVAL_FILE, "image 1", "secret.jpg")),
    Case("file name of half a character", image(file_name="a\ud800.jpg"), (TRAINVAL_FILE, "image 1", "file_name")),
    Case("file name of two lines", image(file_name="a\nb.jpg"), (TRAINVAL_FILE, "image 1", "a\\nb.jpg")),
    Case("image twice", image(file_name=TRAINVAL[0][0]), (TRAINVAL_FILE, "image 1", "1_b.jpg", "twice")),
    Case("no targets", edited(lambda doc: doc["images"][1].pop("targets")), (TRAINVAL_FILE, "image 1", "'targets'")),
    Case("target a text", image(targets=["x"]), (TRAINVAL_FILE, "image 1", "target 0", "str")),
    Case("no box", edited(lambda doc: doc["images"][0]["targets"][1].pop("bbox")), BOX),
    Case("box of three", person(bbox=[1, 2, 3]), BOX),
    Case("box of texts", person(bbox=["1", "2", "3", "4"]), BOX),
    Case("box nested deeply", person(bbox=nested(300)), BOX),
    Case("box with NaN", person(bbox=[1, float("nan"), 3, 4]), (*BOX, "nan")),
    Case("box with infinity", person(bbox=[1, 1, float("inf"), 4]), (*BOX, "inf")),
    Case("huge box", person(bbox=[0, 0, 10**400, 10]), BOX),
    Case("box without area", person(bbox=[5, 5, 0, 9]), (*BOX, "no area")),
    Case("box less than a pixel", person(bbox=[5.1, 5, 0.2, 9]), (*BOX, "no area")),
    Case("negative width", person(bbox=[5, 5, -3, 9]), (*BOX, "no area")),
    Case("box left of the image", person(bbox=[-50, 5, 30, 9]), (*BOX, "no area")),
    Case("13 attributes", person(attribute=SHORT), (*VALUES[:-1], "14 attributes")),
    Case("attributes an object", person(attribute={}), (*VALUES[:-1], "14 attributes")),
    Case("attribute 99", person(attribute=[*SHORT, 99]), (*VALUES, "13", "is 99")),
    Case("attribute true", person(attribute=[True, *SHORT]), (*VALUES, "is True")),
    Case("attribute null", person(attribute=[None, *SHORT]), (*VALUES, "is None")),
    Case("no names", edited(lambda doc: doc.pop("attribute_id_map")), (TRAINVAL_FILE, "attribute_id_map")),
    Case("a name too few", names({"0": "male"}), (TRAINVAL_FILE, "attribute_id_map")),
    Case("a name twice", names({**ATTRIBUTES, "5": "attribute 4"}), (TRAINVAL_FILE, "attribute 4", "twice")),
    Case("a name a number", names({**ATTRIBUTES, "5": 5}), (TRAINVAL_FILE, "attribute 5", "no name")),
    Case("a name of two lines", names({**ATTRIBUTES, "5": "a\nb"}), (TRAINVAL_FILE, "attribute 5", "no name")),
    Case("other names in the test file", other_names, (TEST_FILE, TRAINVAL_FILE, "attribute_id_map")),
    Case("nobody", nobody, ("test file", "no person")),
    Case("prepared an object", listed(lambda doc: {"images": doc}), (LIST, "not a list")),
    Case("prepared entry a text", listed(lambda doc: doc.append("x")), (LIST, "entry 3", "str")),
    Case("prepared without path", listed(lambda doc: doc[1].pop("img_path") and None), (LIST, "entry 1", "img_path")),
    Case(
        "prepared path leads out",
        listed(lambda doc: doc[1].update(img_path="w/Image/../../x.jpg")),
        (LIST, "entry 1", "x.jpg"),
    ),
    Case("prepared path is the folder", listed(lambda doc: doc[1].update(img_path="w/Image")), (LIST, "entry 1")),
    Case("prepared -1", listed(lambda doc: doc[2].update(target=[*SHORT, -1])), (LIST, "entry 2", "attribute 13")),
    Case("prepared without box", listed(lambda doc: doc[2].pop("bbox") and None), (LIST, "entry 2", "bbox")),
]
