"""Damaged long-tailed lists, labels files and the pickles beside them."""

import os
import pickle

import numpy as np

from data.datasets.long_tail import LAYOUTS, load_longtail
from data.datasets.source import DatasetSource
from data.files.cache import Cache
from data.subsets.long_tail import LongTailConfig, long_tailed_rows, write_lists
from tests.data.damage import Case
from tests.data.trees import annotations
from utils.types import Splits

CLASSES = "cat 0\r\ntraffic light 1 \r\ndog 2\r\n"
TRAIN = {
    "voc-lt": ["VOCdevkit/VOC2012/JPEGImages/2008_09.jpg 2 0", "VOCdevkit/VOC2012/JPEGImages/2008_01.jpg 1"],
    "coco-lt": ["train2017/000000000100.jpg 2 0 ", "train2017/000000000009.jpg 1"],
    "nw-lt": ["images/b_1.jpg 2 0", "images/a_2.jpg 1"],
}
TEST = {
    "voc-lt": ["VOCdevkit/VOC2007/JPEGImages/000007.jpg 0"],
    "coco-lt": ["val2017/000000000007.jpg 0"],
    "nw-lt": ["images/c_3.jpg 0"],
}
IDS = {"voc-lt": ["2008_09", "2008_01"], "coco-lt": ["9", "100"]}  # COCO's in another order than the list
ROWS = {"voc-lt": [[1, 0, 1], [0, 1, 0]], "coco-lt": [[0, 1, 0], [1, 0, 1]]}


def frequencies(name, **changed):
    """The content of a true `class_freq.pkl` of the lists above, with parts changed."""
    return {
        "gt_labels": [np.array(row) for row in ROWS[name]],
        "class_freq": np.array([1, 1, 1]),
        "neg_class_freq": np.array([1, 1, 1]),
        "condition_prob": np.array([[1.0, 0, 1], [0, 1, 0], [1, 0, 1]]),
        **changed,
    }


def groups(**changed):
    """The content of a true `class_split.pkl`, with groups changed."""
    return {"head": set(), "middle": set(), "tail": {np.int64(k) for k in range(3)}, **changed}


def longtail_tree(folder, name, *, lists=None, checks=False):
    """`appendix/` with the lists of one split, and the pickles beside them; what `lists` names is written instead."""
    layout = LAYOUTS[name]
    target = folder / "appendix" / layout.lists
    target.mkdir(parents=True)
    contents = {"lt_train": "\n".join(TRAIN[name]), "lt_test": "\n".join(TEST[name]), "labels": CLASSES} | (lists or {})
    for part, content in contents.items():
        if content is not None:
            data = content if isinstance(content, bytes) else content.encode()
            (target / f"{layout.prefix}_{part}.txt").write_bytes(data)
    if checks:
        beside = target / layout.checks
        beside.mkdir()
        (beside / "img_id.txt").write_text("\n".join(IDS[name]))
        (beside / "class_freq.pkl").write_bytes(pickle.dumps(frequencies(name), 2))
        (beside / "class_split.pkl").write_bytes(pickle.dumps(groups(), 2))
    return folder


def load(folder, name, *, need_images=False):
    """The splits of `longtail_tree`."""
    source = DatasetSource(folder / "images", folder / "appendix", 0, Cache(folder / "cache"), need_images)
    return load_longtail(source, name)


def listed(case, name, part, content, *words):
    """A case with another content of one list; the file's name must be in the message."""

    def make(folder):
        longtail_tree(folder, name, lists={part: content})
        return lambda: load(folder, name)

    return Case(case, make, (f"{LAYOUTS[name].prefix}_{part}.txt", *words))


def beside(case, name, file, content, *words):
    """A case with another file beside the lists: bytes, or something that is pickled as Python 2 did."""

    def make(folder):
        longtail_tree(folder, name, checks=True)
        data = content if isinstance(content, bytes) else pickle.dumps(content, 2)
        (folder / "appendix" / LAYOUTS[name].lists / LAYOUTS[name].checks / file).write_bytes(data)
        return lambda: load(folder, name)

    return Case(case, make, (file, *words))


class Call:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def hostile(case, file, content):
    """A case whose pickle, built by `content(marker)`, would make the file `marker` if it were obeyed."""

    def make(folder):
        longtail_tree(folder, "coco-lt", checks=True)
        marker = folder / "marker"
        beside = folder / "appendix" / "coco" / "longtail2017" / file
        beside.write_bytes(pickle.dumps(content(marker), 2))

        def refuse():
            try:
                load(folder, "coco-lt")
            finally:
                assert not marker.exists()

        return refuse

    return Case(case, make, (file, "refused"))


def laughs():
    """A few hundred bytes that unfold to 2^60 numbers."""
    nested = [1]
    for _ in range(60):
        nested = [nested, nested]
    return nested


def no_lists(folder):
    (folder / "appendix").mkdir()
    return lambda: load(folder, "voc-lt")


def no_image_folder(folder):
    longtail_tree(folder, "coco-lt")
    return lambda: load(folder, "coco-lt", need_images=True)


def both(folder):
    train = "train2017/1.jpg 0\ntrain2017/000007.jpg 1\n"
    longtail_tree(folder, "coco-lt", lists={"lt_train": train})
    return lambda: load(folder, "coco-lt")


def thinned(**settings):
    def make(folder):
        truth = annotations([[1, 0], [1, -1]]).truth
        return lambda: long_tailed_rows(truth, LongTailConfig(long_tail="exponential", **settings), 0)

    return make


def thinned_without_positives(folder):
    truth = annotations([[0, 0], [0, -1]]).truth
    return lambda: long_tailed_rows(truth, LongTailConfig(long_tail="pareto"), 0)


def written(path):
    def make(folder):
        train, test = annotations([[1, 0]], [str(folder / path)]), annotations([[0, 1]], [str(folder / "root" / "b")])
        return lambda: write_lists(folder / "new", "voc", Splits(train, test), folder / "root")

    return make


FREQ, SPLIT = "class_freq.pkl", "class_split.pkl"
VOC = TRAIN["voc-lt"]

CASES = [
    Case("no lists", no_lists, ("appendix", "no voc_lt_train.txt", "VOCdevkit/")),
    Case("no image folder", no_image_folder, ("train2017/000000000100.jpg", "images/train2017", "--path_images")),
    Case("an image for training and test", both, ("coco_lt_test.txt, line 1", "image 7", "coco_lt_train.txt, line 2")),
    listed("no training list", "voc-lt", "lt_train", None, "cannot be read"),
    listed("no test list", "coco-lt", "lt_test", None, "cannot be read"),
    listed("no labels file", "nw-lt", "labels", None, "cannot be read"),
    listed("an empty training list", "voc-lt", "lt_train", b"", "lists no image"),
    listed("a test list of blank lines", "nw-lt", "lt_test", b"\r\n  \r\n", "lists no image"),
    listed("an empty labels file", "coco-lt", "labels", b"", "names no class"),
    listed("a list that is no text", "voc-lt", "lt_train", b"\xff\xfe\x00", "not UTF-8"),
    listed("labels in Latin-1", "nw-lt", "labels", b"caf\xe9 0\n", "not UTF-8"),
    listed("a class that is no number", "voc-lt", "lt_train", f"{VOC[0]}\n{VOC[1]} cat", "line 2", "'cat'"),
    listed("a class that is a fraction", "voc-lt", "lt_train", f"{VOC[0]}.0", "line 1", "'0.0'"),
    listed("a negative class", "coco-lt", "lt_test", "val2017/000000000007.jpg -1", "line 1", "'-1'"),
    listed("a class too many", "coco-lt", "lt_test", "val2017/000000000007.jpg 0 3", "line 1", "'3'", "0 to 2"),
    listed("a huge class", "nw-lt", "lt_train", "images/a.jpg " + "9" * 5000, "line 1", "0 to 2"),
    listed("classes that count in other digits", "nw-lt", "lt_train", "images/a.jpg \u0661", "line 1", "\u0661"),
    listed("classes with commas", "nw-lt", "lt_train", "images/a.jpg 0,1", "line 1", "'0,1'"),
    listed("NaN as a class", "nw-lt", "lt_train", "images/a.jpg nan", "line 1", "'nan'"),
    listed("a path with a space", "nw-lt", "lt_train", "images/a b.jpg 0", "line 1", "'b.jpg'"),
    listed("a path out of the dataset", "voc-lt", "lt_train", f"{VOC[0]}\n../../etc/passwd 0", "line 2", "passwd"),
    listed("an absolute path", "nw-lt", "lt_train", "/etc/passwd 0", "line 1", "/etc/passwd"),
    listed("a path on a drive", "nw-lt", "lt_train", "C:\\pictures\\a.jpg 0", "line 1", "pictures"),
    listed("a NUL byte in a path", "nw-lt", "lt_train", b"images/a\x00.jpg 0", "line 1"),
    listed("a path that is a dot", "nw-lt", "lt_train", ". 0", "line 1"),
    listed("an image listed twice", "voc-lt", "lt_train", "\n".join([*VOC, VOC[0]]), "line 3", "2008_09", "line 1"),
    listed("one image under two paths", "coco-lt", "lt_train", "train2017/9.jpg 0\ntrain2017/09.jpg 1", "line 2", "9"),
    listed("a COCO image without a number", "coco-lt", "lt_train", "train2017/cat.jpg 0", "line 1", "cat.jpg"),
    listed("a COCO number without end", "coco-lt", "lt_train", f"train2017/{'1' * 5000}.jpg 0", "line 1", "number"),
    listed("a class without a number", "voc-lt", "labels", "cat 0\ndog\n", "line 2", "'dog'"),
    listed("a number without a class", "voc-lt", "labels", "cat 0\n 1\n", "line 2", "'1'"),
    listed("a class with two numbers", "voc-lt", "labels", "cat 0\ndog 1\ncat 2", "line 3", "'cat'", "line 1"),
    listed("a number with two classes", "voc-lt", "labels", "cat 0\ndog 0", "line 2", "line 1"),
    listed("classes counted from 1", "coco-lt", "labels", "cat 1\ntraffic light 2\ndog 3", "3 classes", "number 0"),
    listed("classes with a gap", "coco-lt", "labels", "cat 0\ntraffic light 1\ndog 3", "number 2"),
    listed("a labels file with numbers first", "coco-lt", "labels", "0 cat\n1 dog", "line 1", "'0 cat'"),
    listed("a labels file of commas", "coco-lt", "labels", "cat,0\ndog,1", "line 1", "'cat,0'"),
    listed("a huge class number", "coco-lt", "labels", "cat " + "9" * 5000, "line 1"),
    beside("an id that is not in the list", "voc-lt", "img_id.txt", b"2008_09\n2008_77", "line 2", "'2008_77'"),
    beside("an id twice", "coco-lt", "img_id.txt", b"9\n100\n9", "line 3", "'9'", "line 1"),
    beside("an id too few", "voc-lt", "img_id.txt", b"2008_01\n", "2008_09"),
    beside("a real pickle of ids", "coco-lt", "img_id.pkl", ["9", "100"], "not UTF-8"),
    beside("an empty pickle", "voc-lt", FREQ, b"", "not a readable pickle"),
    beside("a pickle cut short", "voc-lt", SPLIT, pickle.dumps(groups(), 2)[:-20], "not a readable pickle"),
    beside("a pickle of frequencies that is a list", "coco-lt", FREQ, [1, 2], "list"),
    beside("frequencies without a key", "coco-lt", FREQ, {"class_freq": np.ones(3)}, "'gt_labels'"),
    beside("other frequencies", "voc-lt", FREQ, frequencies("voc-lt", class_freq=np.array([1, 7, 1])),
           "class_freq", "'traffic light'", "7"),
    beside("frequencies of other classes", "voc-lt", FREQ, frequencies("voc-lt", class_freq=np.ones(4)),
           "class_freq", "(4,)", "(3,)"),
    beside("frequencies as words", "voc-lt", FREQ, frequencies("voc-lt", neg_class_freq=np.array(["1", "1", "1"])),
           "neg_class_freq", "<U1"),
    beside("frequencies that are NaN", "coco-lt", FREQ,
           frequencies("coco-lt", condition_prob=np.full((3, 3), np.nan)), "condition_prob", "'cat'", "nan"),
    beside("frequencies without end", "coco-lt", FREQ, frequencies("coco-lt", class_freq=laughs()), "list"),
    beside("labels without end", "coco-lt", FREQ, frequencies("coco-lt", gt_labels=laughs()), "gt_labels[0]"),
    beside("labels of other images", "voc-lt", FREQ,
           frequencies("voc-lt", gt_labels=[np.array([1, 1, 1]), np.array([0, 1, 0])]), "2008_09", "'traffic light'"),
    beside("labels in the order of the list", "coco-lt", FREQ,
           frequencies("coco-lt", gt_labels=frequencies("voc-lt")["gt_labels"]), "gt_labels", "image 9"),
    beside("labels of too few images", "voc-lt", FREQ,
           frequencies("voc-lt", gt_labels=[np.array([1, 0, 1])]), "1 rows", "2"),
    beside("labels of uneven rows", "voc-lt", FREQ,
           frequencies("voc-lt", gt_labels=[np.array([1, 0, 1]), np.array([0, 1])]), "gt_labels[1]"),
    beside("labels that are a number", "voc-lt", FREQ, frequencies("voc-lt", gt_labels=3), "gt_labels", "int"),
    beside("groups without the tail", "voc-lt", SPLIT, {"head": set(), "middle": set()}, "'tail'"),
    beside("a class in another group", "coco-lt", SPLIT, groups(middle={1}), "'traffic light'", "'middle'"),
    beside("a class in no group", "coco-lt", SPLIT, groups(tail={0, 1}), "'dog'", "'tail'"),
    beside("a class that does not exist", "coco-lt", SPLIT, groups(tail={0, 1, 2, 10**5000}), "'tail'", "0 .. 2"),
    beside("a negative class in a group", "coco-lt", SPLIT, groups(head={-1}), "'head'", "0 .. 2"),
    beside("a number at the end of its range", "voc-lt", FREQ,
           frequencies("voc-lt", class_freq=np.array([np.iinfo(np.int64).min + 1, 1, 1])), "class_freq", "'cat'"),
    beside("groups of names", "voc-lt", SPLIT, groups(tail={"cat"}), "'tail'", "str"),
    beside("a group that is a number", "voc-lt", SPLIT, groups(head=3), "'head'", "int"),
    hostile("frequencies that run a command", FREQ, lambda marker: Call(os.system, f"touch {marker}")),
    hostile("groups that run code", SPLIT, lambda marker: {"head": Call(exec, f"open({str(marker)!r}, 'w')")}),
    hostile("a class that opens a file", SPLIT, lambda marker: {"tail": {Call(open, str(marker), "w")}}),
    hostile("labels that save a file", FREQ, lambda marker: {"gt_labels": [Call(np.savetxt, str(marker), [1.0])]}),
    hostile("a key that evaluates", FREQ, lambda marker: {Call(eval, f"open({str(marker)!r}, 'w')"): 1}),
    Case("no positive to thin out", thinned_without_positives, ("--long_tail pareto", "no class has a positive")),
    Case("more positives asked than there are", thinned(tail_max=3), ("--tail_max 3", "class 0", "2 positives")),
    Case("an imbalance of one", thinned(imbalance=1.0), ("--imbalance 1.0", "above 1")),
    Case("a tail of nothing", thinned(tail_max=0), ("--tail_max 0", "at least 1")),
    Case("a negative seed", thinned(tail_seed=-1), ("--tail_seed -1", "at least 0")),
    Case("an image outside", written("elsewhere/a"), ("elsewhere/a.jpg", "not in")),
    Case("an image with a space in its path", written("root/a b"), ("root/a b.jpg", "white space")),
]  # fmt: skip
