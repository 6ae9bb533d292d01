"""Word vectors of class names, from a file or without one. C classes, E numbers a vector."""

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
"""Class names of VOC and WIDER that are two words, in few lists of words as they are written."""

_LONGEST_LINE = 1 << 20
"""Bytes of a line of a text file; a word of 5000 numbers has a tenth of that."""


def class_vectors(how: str, classes: Sequence[str], width: int) -> Tensor:
    """A vector for each class.

    Args:
        how: "random": standard normal numbers from torch's generator; "one-hot": the unit vectors, C numbers each;
            else the path of a file.
        classes: C names.
        width: E; not read for "one-hot".

    Returns:
        (C, E) float32.

    Raises: UserError when the file cannot be read or does not fit.
    """
    if how == "random":
        return torch.randn(len(classes), width)
    if how == "one-hot":
        return torch.eye(len(classes))
    path = Path(how).expanduser()
    found = _array(path, len(classes)) if path.suffix == ".npy" else read_words(path, classes)
    require(
        found.shape[1] == width,
        f"{path}: vectors of {found.shape[1]} numbers; give --word_width {found.shape[1]}",
    )
    largest = np.finfo(np.float32).max
    require(
        bool((np.abs(found) <= largest).all()),
        f"{path}: holds numbers that are not finite in single precision; give another file",
    )
    return torch.from_numpy(found.astype(np.float32))


def vector_width(how: str, num_classes: int, width: int) -> int:
    """E of what `class_vectors` gives."""
    return num_classes if how == "one-hot" else width


def _array(path: Path, rows: int) -> NDArray[np.float64]:
    """The vectors of a `.npy` file, a row a class in the order of the dataset."""
    held = load_npy(path)
    require(
        held.ndim == 2 and held.dtype.kind == "f" and len(held) == rows and held.shape[1] > 0,
        f"{path}: {held.dtype} {held.shape} found; floats of shape ({rows}, numbers) are needed, a row a class",
    )
    return held.astype(np.float64)


def words_of(name: str) -> tuple[str, ...]:
    """The words of a class name, in small letters: `traffic light`, `has_bill_shape::dagger` and the like."""
    words = re.findall(r"[a-z]+|[0-9]+", name.lower())
    return tuple(part for word in words for part in _WRITTEN_APART.get(word, (word,)))


def read_words(path: Path, classes: Sequence[str]) -> NDArray[np.float64]:
    """Vectors of class names from a text file of a word and its numbers a line, as GloVe comes.

    A name of several words has the mean of those that the file knows. Only the lines of wanted words are parsed, and
    reading ends when all are found.

    Returns:
        (C, E).

    Raises: UserError naming the line that cannot be read, or the classes of which no word is known.
    """
    wanted = {word.encode() for name in classes for word in words_of(name)}
    known = _known_words(path, wanted)
    vectors = [[known[word.encode()] for word in words_of(name) if word.encode() in known] for name in classes]
    lost = [name for name, held in zip(classes, vectors, strict=True) if not held]
    require(
        not lost,
        f"{path}: knows no word of {', '.join(lost[:4])} ({len(lost)} of {len(classes)} classes); give another text "
        "file of a word and its numbers a line, or a .npy file with a row a class",
    )
    return np.stack([np.mean(held, axis=0) for held in vectors])


def _known_words(path: Path, wanted: set[bytes]) -> dict[bytes, NDArray[np.float64]]:
    """The vectors of those wanted words that a text file has, all of one length; of a word's lines the first counts."""
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
    """The lines of a text file with their numbers from 1; one without an end is never held."""
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
        found = np.array([float(text) for text in line.split()[1:]])
    except ValueError:
        raise UserError(f"{where}: not a word and its numbers; GloVe's text files are read") from None
    require(len(found) > 0, f"{where}: a word without numbers; GloVe's text files are read")
    return found
