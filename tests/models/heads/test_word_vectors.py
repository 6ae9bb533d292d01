"""Vectors of class names: without a file, from GloVe's text, from an array, and files that do not fit."""

import os

import numpy as np
import pytest
import torch

from data.datasets.coco import COCO_CLASSES
from data.datasets.generated.digits import CLASSES as DIGIT_CLASSES
from data.datasets.generated.letters import LETTERS
from data.datasets.nuswide import NUSWIDE_CLASSES
from data.datasets.voc import VOC_CLASSES
from data.datasets.wider import WIDER_CLASSES
from models.heads.word_vectors import class_vectors, read_words, vector_width, words_of
from utils.checks import UserError

CLASSES = ("cat", "traffic light", "diningtable")
GLOVE = {"the": [9, 9], "cat": [1, 2], "light": [3, 5], "traffic": [5, 7], "table": [4, 0], "dining": [0, 2]}


def glove(path, words=GLOVE):
    path.write_text("".join(f"{word} {' '.join(map(str, numbers))}\n" for word, numbers in words.items()))
    return str(path)


def refused(source, classes=CLASSES, width=2):
    with pytest.raises(UserError) as caught:
        class_vectors(str(source), classes, width)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_random_vectors_follow_the_generator():
    torch.manual_seed(3)
    one = class_vectors("random", CLASSES, 500)
    torch.manual_seed(3)
    assert torch.equal(class_vectors("random", CLASSES, 500), one)
    assert one.shape == (3, 500)
    assert one.std() == pytest.approx(1, rel=0.1)


def test_one_hot_vectors_are_as_wide_as_there_are_classes():
    assert torch.equal(class_vectors("one-hot", CLASSES, 300), torch.eye(3))
    assert (vector_width("one-hot", 3, 300), vector_width("random", 3, 300)) == (3, 300)


def test_a_text_file_gives_the_mean_over_the_words_of_a_name(tmp_path):
    found = class_vectors(glove(tmp_path / "glove.txt"), CLASSES, 2)
    assert found.dtype == torch.float32
    assert found.tolist() == [[1, 2], [4, 6], [2, 1]]


def test_words_the_file_lacks_are_left_out_of_the_mean(tmp_path):
    known = {word: numbers for word, numbers in GLOVE.items() if word != "traffic"}
    assert class_vectors(glove(tmp_path / "glove.txt", known), CLASSES, 2).tolist() == [[1, 2], [3, 5], [2, 1]]


def test_only_lines_of_wanted_words_are_read(tmp_path):
    file = tmp_path / "glove.txt"
    file.write_bytes(b"\xff\xfe no number\ncat 1 2\nlight 3 5\ntraffic 5 7\ndining 0 2\ntable 4 0\ncat broken\n")
    assert class_vectors(str(file), CLASSES, 2).tolist() == [[1, 2], [4, 6], [2, 1]]


def test_an_array_has_one_row_per_class(tmp_path):
    rows = np.random.default_rng(0).random((3, 4))
    np.save(tmp_path / "vectors.npy", rows)
    found = class_vectors(str(tmp_path / "vectors.npy"), CLASSES, 4)
    np.testing.assert_array_equal(found.numpy(), rows.astype(np.float32))


@pytest.mark.parametrize(
    "name, words",
    [
        ("Traffic Light", ("traffic", "light")),
        ("has_bill_shape::curved_(up or down)", ("has", "bill", "shape", "curved", "up", "or", "down")),
        ("tvmonitor", ("tv", "monitor")),
        ("longsleeve", ("long", "sleeve")),
        ("7", ("7",)),
    ],
)
def test_words_of_a_name(name, words):
    assert words_of(name) == words


@pytest.mark.parametrize(
    "classes", [VOC_CLASSES, COCO_CLASSES, NUSWIDE_CLASSES, WIDER_CLASSES, DIGIT_CLASSES, tuple(LETTERS)]
)
def test_every_class_of_every_dataset_has_words_and_a_vector(tmp_path, classes):
    words = {word: [at, 1] for at, word in enumerate(sorted({word for name in classes for word in words_of(name)}))}
    found = class_vectors(glove(tmp_path / "glove.txt", words), classes, 2)
    for name, vector in zip(classes, found.tolist(), strict=True):
        assert vector[0] == pytest.approx(np.mean([words[word][0] for word in words_of(name)])), name
    assert not {"diningtable", "longsleeve", "traffic light"} & words.keys()


def test_files_that_do_not_fit_are_refused_in_one_line(tmp_path):
    file = tmp_path / "glove.txt"
    assert "--word_width 2" in refused(glove(file), width=300)
    assert "has no word of cat (1 of 3 classes)" in refused(
        glove(file, {word: GLOVE[word] for word in ("traffic", "light", "table")})
    )
    assert "line 2" in refused(glove(file, {"the": [1, 2], "cat": [1, "x"]}))
    assert "line 3: 1 numbers, not 2" in refused(glove(file, {"the": [1], "cat": [1, 2], "light": [1]}))
    assert "line 2: a word without numbers" in refused(glove(file, {"the": [1], "cat": []}))
    for number in ("nan", "inf", "1e39", "-1e39"):
        assert "not finite in single precision" in refused(glove(file, GLOVE | {"cat": [number, 1]}))
    assert "--word_vectors PATH" in refused(tmp_path / "absent.txt")


def test_what_is_no_file_of_words_is_refused_in_one_line(tmp_path):
    assert "is no file" in refused(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert "is no file" in refused(tmp_path / "pipe")
    binary = tmp_path / "vectors.bin"
    binary.write_bytes(np.random.default_rng(0).bytes(5000))
    assert "has no word" in refused(binary)
    binary.write_bytes(b"")
    assert "has no word" in refused(binary)
    with binary.open("wb") as file:
        file.truncate(1 << 34)  # 16 GB without a line's end, none of them on the disk
    assert "line 1: too long" in refused(binary)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'shape': (3, 4)}"])
def test_a_damaged_array_is_refused_in_one_line(tmp_path, content):
    (tmp_path / "vectors.npy").write_bytes(content)
    assert "vectors.npy" in refused(tmp_path / "vectors.npy")


@pytest.mark.parametrize("array", [np.zeros((2, 4)), np.zeros(3), np.zeros((3, 2), dtype=int), np.zeros((3, 0))])
def test_arrays_that_do_not_fit_are_refused_in_one_line(tmp_path, array):
    np.save(tmp_path / "vectors.npy", array)
    assert "(3, numbers)" in refused(tmp_path / "vectors.npy")


def test_an_array_that_asks_to_run_something_is_refused(tmp_path):
    np.save(tmp_path / "vectors.npy", np.array([{"a": 1}], dtype=object))
    assert "vectors.npy" in refused(tmp_path / "vectors.npy")


def test_reading_ends_when_all_words_are_found(tmp_path):
    lines = b"cat 1 2\ndog 3 4\ncat 9 9\n" + b"x" * (1 << 21) + b"\n"
    (tmp_path / "words.txt").write_bytes(lines)
    assert read_words(tmp_path / "words.txt", ["dog", "cat"]).tolist() == [[3, 4], [1, 2]]
    with pytest.raises(UserError, match="line 4: too long"):
        read_words(tmp_path / "words.txt", ["dog", "owl"])


def test_the_largest_numbers_of_single_precision_are_taken(tmp_path):
    largest = float(np.finfo(np.float32).max)
    found = class_vectors(glove(tmp_path / "glove.txt", GLOVE | {"cat": [largest, -largest]}), CLASSES, 2)
    assert found[0].tolist() == [largest, -largest]


@pytest.mark.parametrize("spare", [1, 0])
def test_a_line_is_shorter_than_a_mebibyte(tmp_path, spare):
    line = b"the 1" + b" " * ((1 << 20) - 6 - spare) + b"\n"
    (tmp_path / "words.txt").write_bytes(line + b"cat 1 2\n")
    if spare:
        assert read_words(tmp_path / "words.txt", ["cat"]).tolist() == [[1, 2]]
    else:
        with pytest.raises(UserError, match=r"words\.txt, line 1: too long"):
            read_words(tmp_path / "words.txt", ["cat"])
