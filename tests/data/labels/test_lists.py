"""Published lists of labels: rows by name, what is not listed, and everything that a list may have wrong."""

import tarfile
from dataclasses import replace

import numpy as np
import pytest
from scipy.sparse import csr_array

from data.datasets.coco import load_coco
from data.labels.files import read_labels, resolve_labels
from data.labels.lists import read_list
from data.labels.regime import Regime
from tests.data.trees import annotations, real_data, source
from utils.checks import UserError
from utils.types import ABSENT, PRESENT, UNKNOWN, LabelTable

TRUTH = [[1, 1, 0, 0], [0, 1, 1, 1], [0, 0, 0, 1], [1, 0, 1, 0]]
IDS = ("9", "25", "30", "480023")
NAMES = [f"COCO_train2014_{int(one):012d}.jpg" for one in IDS]
SINGLE = Regime(labels="single")
ONE = "".join(f"{name},{label}\n" for name, label in zip(NAMES, (1, 2, 3, 0), strict=True))


def written(folder, text, name="train.txt"):
    path = folder / name
    path.write_text(text)
    return path


def dropped(rate):
    return Regime(labels="dropped", drop_rate=rate)


def refused(path, regime, *words, held=None):
    with pytest.raises(UserError) as caught:
        read_list(path, held or annotations(TRUTH, IDS), regime)
    line = str(caught.value)
    assert line.startswith(str(path))
    assert "\n" not in line
    for word in words:
        assert word in line


@pytest.mark.parametrize("name, other", [("single", UNKNOWN), ("given", UNKNOWN)])
def test_what_is_not_listed_is_unknown(tmp_path, name, other):
    found = read_labels(written(tmp_path, ONE), annotations(TRUTH, IDS), Regime(labels=name)).dense()
    expected = np.full((4, 4), other)
    expected[[0, 1, 2, 3], [1, 2, 3, 0]] = PRESENT
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("regime", ["full", "candidate"])
def test_beside_complete_labels_it_is_absent(tmp_path, regime):
    """The lists have a blank before the first of several labels, and come in any order."""
    lines = [
        f"{name},{' ' * (len(labels) > 1)}{' '.join(labels)}\n" for name, labels in zip(NAMES, complete(), strict=True)
    ]
    found = read_list(written(tmp_path, "".join(lines[::-1])), annotations(TRUTH, IDS), Regime(labels=regime))
    np.testing.assert_array_equal(found.dense(), TRUTH)
    assert ABSENT in found.dense()


def complete():
    return [[str(label) for label in np.flatnonzero(row)] for row in TRUTH]


def test_a_share_of_the_labels_is_held_to_the_rate(tmp_path):
    """Of 400 labels 300: a tenth and five deviations at 0.09 are 0.17, at 0.47 they are 0.22."""
    held = annotations(np.ones((100, 4)))
    path = written(tmp_path, "".join(f"{one}.jpg,0 1 2\n" for one in held.ids))
    found = read_list(path, held, dropped(0.25)).dense()
    assert ((found == PRESENT).sum(), (found == UNKNOWN).sum()) == (300, 100)
    for rate in (0.09, 0.47):
        read_list(path, held, dropped(rate))
    for rate in (0.08, 0.48):
        refused(path, dropped(rate), "75% of the 400 true labels", f"--drop_rate {rate} leaves", held=held)
    refused(path, dropped(0.75), "leaves 25%; give --drop_rate 0.25", held=held)


@pytest.mark.parametrize(
    "ids, names",
    [
        (IDS, [f"{int(one):012d}.jpg" for one in IDS]),
        (IDS, [f"train2014/{name}" for name in NAMES]),
        (("000009", "000025", "000030", "000031"), ["000009.jpg", "000025.jpg", "000030.png", "000031"]),
        (("a/b,c.jpg", "d.jpg", "e.jpg", "f_1.jpg"), ["a/b,c.jpg", "d.jpg", "x/e.jpg", "f_1.jpg"]),
        (("31_9_m", "4_9_m", "5_9_m", "6_9_m"), ["31_9_m.jpg", "4_9_m.jpg", "5_9_m.jpg", "6_9_m.jpg"]),
    ],
)
def test_images_are_found_by_their_names(tmp_path, ids, names):
    text = "".join(f"{name},{label}\r\n" for name, label in zip(names, (1, 2, 3, 0), strict=True))
    found = read_list(written(tmp_path, "\n" + text), annotations(TRUTH, ids), SINGLE).dense()
    assert found.argmax(axis=1).tolist() == [1, 2, 3, 0]


def test_images_of_the_whole_published_set_are_passed_over(tmp_path):
    held = replace(annotations(TRUTH[:2], IDS[:2]), listed=IDS)
    path = written(tmp_path, ONE)
    assert read_list(path, held, SINGLE).dense().argmax(axis=1).tolist() == [1, 2]
    many = annotations(np.ones((300, 2)))
    path = written(tmp_path, "".join(f"{one}.jpg,{'0' if row < 200 else '0 1'}\n" for row, one in enumerate(many.ids)))
    half = replace(many.take(np.arange(200)), listed=many.ids)
    assert (read_list(path, half, dropped(0.5)).dense() == PRESENT).sum() == 200
    refused(path, dropped(0.1), "50% of the 400 true labels", held=half)
    path = written(tmp_path, ONE)
    refused(path, SINGLE, "line 3", f"'{NAMES[2]}' is none of the 2 training images", held=replace(held, listed=()))


def test_labels_are_stored_as_the_truth_is(tmp_path):
    path, dense = written(tmp_path, ONE), annotations(TRUTH, IDS)
    sparse = replace(dense, truth=LabelTable(csr_array(np.array(TRUTH, dtype=np.int8))))
    for regime in (SINGLE, Regime(labels="given")):
        found = read_list(path, sparse, regime)
        assert isinstance(found.codes, csr_array)
        assert found.hash() == read_list(path, dense, regime).hash()


@pytest.mark.parametrize(
    "line", ["COCO_train20", "COCO_train2014_000000480023.jpg,", ",3", "a.jpg,x", "a.jpg,1,2x", "a.jpg,-1", "a.jpg,1.0"]
)
def test_a_line_that_is_cut_off_is_named(tmp_path, line):
    refused(written(tmp_path, ONE + line), SINGLE, "line 5", f"'{line}' is not of the form", "cut off", "get it anew")


def test_control_characters_of_a_list_reach_no_terminal(tmp_path):
    refused(written(tmp_path, ONE + "\x1b[31m"), SINGLE, r"'\x1b[31m'")


@pytest.mark.parametrize(
    "text, regime, words",
    [
        (ONE.rsplit("\n", 2)[0], SINGLE, ("1 of 4 training images are not in it (image 480023)", "cut off")),
        ("", SINGLE, ("4 of 4 training images",)),
        (ONE + "COCO_train2014_000000000031.jpg,1\n", SINGLE, ("line 5", "is none of the 4 training images")),
        (ONE + ONE, SINGLE, ("line 5", "image 9 is in line 1 too")),
        (ONE.replace(",3", ",4"), SINGLE, ("line 3", "class 4, there are 0 to 3")),
        (ONE.replace(",3", ",3 4"), dropped(0.5), ("line 3", "class 4, there are 0 to 3")),
        (ONE.replace(",1", ",1 1"), dropped(0.5), ("line 1", "names a class twice")),
        (ONE.replace(",1", ", 0 1"), SINGLE, ("line 1: 2 labels", "--labels dropped")),
        (ONE.replace(",3", ",2"), SINGLE, ("class2 is labelled present and is not", "image 30")),
        (ONE, Regime(labels="full"), ("class0 is labelled absent and is present", "image 9")),
        (ONE, Regime(labels="candidate"), ("is true and no candidate",)),
        *(
            (ONE, Regime(labels=name), (f"present labels alone, which {name} labels are not", "take --labels single"))
            for name in ("known", "observed", "flip", "semi", "fpc", "rps")
        ),
    ],
)
def test_a_list_that_does_not_fit_is_refused_in_a_line(tmp_path, text, regime, words):
    refused(written(tmp_path, text), regime, *words)


def test_a_list_that_is_not_there(tmp_path):
    refused(tmp_path / "none.txt", SINGLE, "cannot be read", "--label_file names it")


def test_a_run_takes_the_list_that_is_named_whatever_lies_beside_it(tmp_path):
    (tmp_path / "train.json").write_text("{}")  # no manifest of it
    path = written(tmp_path, ONE)
    found = resolve_labels(annotations(TRUTH, IDS), "coco", SINGLE, tmp_path / "own", path)
    assert (found.path, found.made) == (path, False)
    assert found.table.counts().tolist() == [1, 1, 1, 1]
    assert not (tmp_path / "own").exists()


def test_real_lists_agree_with_real_annotations(tmp_path):
    train, counts = load_coco(source(real_data("coco_mini"), tmp_path), 2014).train, []
    with tarfile.open(real_data("../photos/lists/published_lists.tar.xz")) as archive:
        for name, regime in (("singlelabel", SINGLE), ("0.75left", dropped(0.25)), ("0.4left", dropped(0.6))):
            lines = archive.extractfile(f"./coco_train_{name}.txt").read().decode().splitlines(keepends=True)
            assert len(lines) == 82081
            listed = {str(int(line[15:27])): line for line in lines}
            held = train.take(np.array([row for row, one in enumerate(train.ids) if one in listed]))
            path = written(tmp_path, "".join(listed[one] for one in held.ids))
            counts.append(int(read_list(path, held, regime).counts().sum()) / len(held))
    assert len(held) > 50
    assert counts[0] == 1
    assert counts[1] > counts[2] >= 1
