"""Word vectors of class names, from a file or without one. C classes, E numbers per vector."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from utils.checks import UserError, require
from utils.safe_files import load_npy

_WRITTEN_APART = {
    "diningtable": ("dining", "table"),
    "pottedplant": ("potted", "plant"),
    "tvmonitor": ("tv", "monitor"),
    "longhair": ("long", "hair"),
    "tshirt": ("t", "shirt"),
    "longsleeve": ("long", "sleeve"),
    "longpants": ("long", "pants"),
    "facemask": ("face", "mask"),
}
"""Class names of VOC and WIDER that are two words, and that few word lists have as they are written."""

_LONGEST_LINE = 1 << 20
"""Bytes of a line of a text file; a word of 5000 numbers has a tenth of that."""


def class_vectors(source: str, classes: Sequence[str], width: int) -> Tensor:
    """A vector for each class.

    Args:
        source: "random": standard normal numbers from torch's generator; "one-hot": the unit vectors, C numbers each;
            else the path of a file.
        classes: C names.
        width: E; ignored for "one-hot".

    Returns:
        (C, E) float32.

    Raises: UserError when the file cannot be read or does not fit.
    """
    if source == "random":
        return torch.randn(len(classes), width)
    if source == "one-hot":
        return torch.eye(len(classes))
    path = Path(source).expanduser()
    vectors = _array(path, len(classes)) if path.suffix == ".npy" else read_words(path, classes)
    require(
        vectors.shape[1] == width,
        f"{path}: vectors of {vectors.shape[1]} numbers; give --word_width {vectors.shape[1]}",
    )
    largest = np.finfo(np.float32).max
    require(
        bool((np.abs(vectors) <= largest).all()),
        f"{path}: has numbers that are not finite in single precision; give another file",
    )
    return torch.from_numpy(vectors.astype(np.float32))


def vector_width(source: str, num_classes: int, width: int) -> int:
    """E of the vectors that `class_vectors` returns."""
    return num_classes if source == "one-hot" else width


def _array(path: Path, rows: int) -> NDArray[np.float64]:
    """The vectors of a `.npy` file, one row per class in the order of the dataset."""
    array = load_npy(path)
    require(
        array.ndim == 2 and array.dtype.kind == "f" and len(array) == rows and array.shape[1] > 0,
        f"{path}: {array.dtype} {array.shape} found; floats of shape ({rows}, numbers) are needed, one row per class",
    )
    return array.astype(np.float64)


def words_of(name: str) -> tuple[str, ...]:
    """The words of a class name, in lower case: `traffic light`, `has_bill_shape::dagger` and the like."""
    words = re.findall(r"[a-z]+|[0-9]+", name.lower())
    return tuple(part for word in words for part in _WRITTEN_APART.get(word, (word,)))


def read_words(path: Path, classes: Sequence[str]) -> NDArray[np.float64]:
    """Vectors of class names from a text file with a word and its numbers per line, the format of GloVe.

    A name of several words has the mean of those in the file. Only the lines of wanted words are parsed, and reading
    ends when all are found.

    Returns:
        (C, E).

    Raises: UserError naming the line that cannot be read, or the classes of which no word is in the file.
    """
    wanted = {word.encode() for name in classes for word in words_of(name)}
    known = _known_words(path, wanted)
    vectors = [[known[word.encode()] for word in words_of(name) if word.encode() in known] for name in classes]
    lost = [name for name, found in zip(classes, vectors, strict=True) if not found]
    require(
        not lost,
        f"{path}: has no word of {', '.join(lost[:4])} ({len(lost)} of {len(classes)} classes); give another text "
        "file with a word and its numbers per line, or a .npy file with one row per class",
    )
    return np.stack([np.mean(found, axis=0) for found in vectors])


def _known_words(path: Path, wanted: set[bytes]) -> dict[bytes, NDArray[np.float64]]:
    """Vectors of the wanted words in a text file, all of one length; the first line of a word counts."""
    known: dict[bytes, NDArray[np.float64]] = {}
    width = 0
    for number, line in _lines(path):
        word = line.split(b" ", 1)[0]
        if word not in wanted or word in known:
            continue
        known[word] = _numbers(line, f"{path}, line {number}")
        width = width or len(known[word])
        require(len(known[word]) == width, f"{path}, line {number}: {len(known[word])} numbers, not {width}")
        if len(known) == len(wanted):
            break
    return known


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a text file with their numbers from 1; one without an end is never read as a whole."""
    try:
        require(
            path.is_file() or not path.exists(), f"{path}: is no file; give --word_vectors PATH of a text or .npy file"
        )
        with path.open("rb") as file:
            number = 0
            while line := file.readline(_LONGEST_LINE):
                number += 1
                require(len(line) < _LONGEST_LINE, f"{path}, line {number}: too long; GloVe's text files are read")
                yield number, line
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give --word_vectors PATH") from error


def _numbers(line: bytes, where: str) -> NDArray[np.float64]:
    """The numbers behind the word of a line, at least one."""
    try:
        numbers = np.array([float(text) for text in line.split()[1:]])
    except ValueError:
        raise UserError(f"{where}: not a word and its numbers; GloVe's text files are read") from None
    require(len(numbers) > 0, f"{where}: a word without numbers; GloVe's text files are read")
    return numbers
