"""Damaged data through the command line: one line with file and line number, exit code 2, nothing left behind."""

import json
import pickle

import numpy as np
import pytest
from PIL import Image

from tests.commands.scene import SMALL, refusal, run_process, tiny_voc
from tests.data.datasets.test_openimages import tree as openimages_tree

ONE = (*SMALL, "--epochs", "1", "--warmup_epoch", "0", "--output", "run")


def own(folder, text, encoding="utf-8"):
    """A table of these lines and the arguments that read it; images a.jpg to d.jpg are there."""
    for name in "abcd":
        Image.new("RGB", (40, 40), name_colour(name)).save(folder / f"{name}.jpg")
    (folder / "labels.csv").write_bytes(text.encode(encoding))
    return ("--dataset", "table", "--table", "labels.csv", "--path_images", ".")


def name_colour(name):
    return {"a": "red", "b": "green", "c": "blue", "d": "white"}[name]


def coco(folder):
    (folder / "annotations").mkdir()
    for split in ("train", "val"):
        content = {"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": [], "categories": []}
        (folder / "annotations" / f"instances_{split}2014.json").write_text(json.dumps(content)[:-20])
    return ("--dataset", "coco", "--path_images", ".")


def openimages(folder):
    openimages_tree(folder / "oi", train=[("0a", "/m/a", 1), ("0b", "/m/b", 0.5)])
    return ("--dataset", "openimages", "--path_images", "oi")


def nuswide(folder):
    (folder / "nus_wid_data.csv").write_text("filepath,label,split_name\na.jpg,['sky'],train\nb.jpg,['sun',,val\n")
    return ("--dataset", "nuswide", "--path_images", ".")


class Touching:
    """Pickles as a call that makes a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


def hostile_labels(folder):
    tiny_voc(folder)
    (folder / "pre-processed-data").mkdir()
    content = np.empty((), dtype=object)
    content[()] = {"partial_labels": Touching(folder / "marker")}
    np.save(folder / "pre-processed-data" / "voc07_0.1.npy", content, allow_pickle=True)
    return ("--dataset", "voc07")


def hostile_frequencies(folder):
    lists = folder / "appendix" / "VOCdevkit"
    (lists / "longtail2012").mkdir(parents=True)
    for year in (2007, 2012):
        (folder / "VOCdevkit" / f"VOC{year}" / "JPEGImages").mkdir(parents=True)
    (lists / "voc_labels.txt").write_text("cat 0\r\ndog 1\r\n")
    (lists / "voc_lt_train.txt").write_text("VOCdevkit/VOC2012/JPEGImages/2008_000023.jpg 0\n")
    (lists / "voc_lt_test.txt").write_text("VOCdevkit/VOC2007/JPEGImages/000001.jpg 1\n")
    (lists / "longtail2012" / "class_freq.pkl").write_bytes(pickle.dumps(Touching(folder / "marker")))
    return ("--dataset", "voc-lt", "--path_images", ".")


CASES = {
    "another encoding": (lambda f: own(f, "image,labels\na.jpg,café\nb.jpg,x\n", "latin-1"), ["labels.csv", "UTF-8"]),
    "absent column": (lambda f: own(f, "name,labels\nq.jpg,x\n"), ["labels.csv", "name"]),
    "not a number": (lambda f: own(f, "image,x,y\na.jpg,1,0\nb.jpg,nan,1\n"), ["labels.csv", "line 3", "nan"]),
    "twice": (lambda f: own(f, "image,labels\na.jpg,x;y\nb.jpg,y\na.jpg,y\n"), ["line 4", "a.jpg"]),
    "leads out": (lambda f: own(f, "image,labels\n../../a.jpg,x\nb.jpg,y\n"), ["line 2", "../../a.jpg"]),
    "open quote": (lambda f: own(f, 'image,labels\na.jpg,"x\nb.jpg,y\n'), ["labels.csv", "line"]),
    "cut json": (coco, ["instances_train2014.json", "not a json file"]),
    "half sure": (openimages, ["annotations-human.csv", "line 3", "0.5"]),
    "unfinished list": (nuswide, ["nus_wid_data.csv", "line 3"]),
    "hostile labels": (hostile_labels, ["voc07_0.1.npy", "refused", "open"]),
    "hostile frequencies": (hostile_frequencies, ["class_freq.pkl", "refused", "open"]),
}


@pytest.mark.parametrize("name", CASES)
def test_damage_ends_in_one_line_with_file_and_line(tmp_path, name):
    make, words = CASES[name]
    line = refusal(tmp_path, "main_BCE.py", *make(tmp_path), *ONE)
    for word in words:
        assert word in line, (word, line)
    assert not (tmp_path / "marker").exists()
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_so_is_it_in_a_process_of_its_own(tmp_path):
    arguments = (*own(tmp_path, "image,labels,split\na.jpg,x,train\nb.jpg,y,nowhere\n"), *ONE)
    line = refusal(tmp_path, "main_BCE.py", *arguments, run=run_process)
    assert "line 3" in line
    assert "nowhere" in line
