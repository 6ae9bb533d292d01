"""Numbers by class, from CSV files: how often a class is a wrong candidate, for which true classes, or in an image.

Each class of the dataset must be listed once by name; the order of lines and columns is free.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.files.text_files import read_csv
from utils.checks import UserError, require

ClassRates = NDArray[np.float64]

_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")  # float() takes 1_0, nan and more


def read_class_rates(path: Path, classes: Sequence[str]) -> ClassRates:
    """The rate of each class from a CSV file with the columns `class` and `rate`.

    Args:
        path: the file.
        classes: the C classes of the dataset.

    Returns:
        (C,) in [0, 1].

    Raises:
        UserError: the file is missing or malformed, leaves a class out or has one twice, names one that the dataset
            does not have, or a rate is no number in [0, 1]; the message names the line.
    """
    _require_file(path, "--class_rates")
    return _values_by_class(path, classes, ("class", "rate"), "it gives each class its rate")


def read_class_priors(path: Path, classes: Sequence[str]) -> ClassRates:
    """The prior of each class, the share of images that it is in, from a CSV file.

    Args:
        path: the file, with the columns `class` and `prior`, or `Classes` and `avg_pred` as in the published files.
        classes: the C classes of the dataset.

    Returns:
        (C,) in [0, 1].

    Raises:
        UserError: as `read_class_rates` does.
    """
    _require_file(path, "--prior_file")
    purpose = "it gives each class its prior"
    first = next(read_csv(path, (), purpose), (0, {}))[1]
    published = {"Classes", "avg_pred"} <= first.keys() and not {"class", "prior"} <= first.keys()
    return _values_by_class(path, classes, ("Classes", "avg_pred") if published else ("class", "prior"), purpose)


def read_noise_rates(path: Path, classes: Sequence[str]) -> ClassRates:
    """Chances of wrong labels from a CSV file with the columns `class`, `rho_neg` and `rho_pos`; more are fine.

    Args:
        path: the file.
        classes: the C classes of the dataset.

    Returns:
        (C, 2) in [0, 1]: of an absent label to be seen as present, and of a present one to be seen as absent.

    Raises:
        UserError: as `read_class_rates` does, and for a class whose two chances add up to 1 or more, since its labels
            then tell nothing.
    """
    _require_file(path, "--rates_file")
    purpose = "it gives each class its chances of wrong labels"
    columns = [_values_by_class(path, classes, ("class", name), purpose) for name in ("rho_neg", "rho_pos")]
    rates = np.stack(columns, axis=1)
    for name, both in zip(classes, rates, strict=True):
        require(both.sum() < 1, f"{path}: rho_neg and rho_pos of {name!r} add up to {both.sum():g}, must be below 1")
    return rates


def read_confusion(path: Path, classes: Sequence[str]) -> ClassRates:
    """Confusion rates from a CSV file: one line per true class, one column per wrong candidate.

    The first line names the columns; the first column names the true classes, and its own name is free. The diagonal
    is ignored.

    Args:
        path: the file.
        classes: the C classes of the dataset.

    Returns:
        (C, C) in [0, 1]; [j, k] is the probability that a true label j makes k a candidate; 0 on the diagonal.

    Raises:
        UserError: as `read_class_rates` does, for lines and columns.
    """
    _require_file(path, "--confusion")
    confusion = np.zeros((len(classes), len(classes)))
    seen = np.zeros(len(classes), dtype=np.bool_)
    column_of = _column_finder(path, classes)
    for line, fields in read_csv(path, (), "it says which class brings which as a candidate"):
        where, (corner, *columns) = f"{path}, line {line}", fields
        if not seen.any():
            _require_columns(path, columns, classes)
        true = fields[corner]
        column = column_of(true, where)
        seen[column] = True
        confusion[column] = [
            0.0 if name == true else _rate(fields[name], f"{where}: {name} for {true}") for name in classes
        ]
    _require_all(path, seen, classes, "no line for")
    return confusion


def content_hash(path: Path) -> str:
    """The first 8 hex digits of the SHA-256 of a file's bytes. Raises: UserError when it cannot be read."""
    _require_file(path, "--class_rates or --confusion")
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); it holds the rates of the classes") from error


def _values_by_class(path: Path, classes: Sequence[str], columns: tuple[str, str], purpose: str) -> ClassRates:
    """(C,) the values of a file with these columns, one of names and one of numbers in [0, 1]."""
    (name, value), values = columns, np.full(len(classes), np.nan)
    column_of = _column_finder(path, classes)
    for line, fields in read_csv(path, columns, purpose):
        where = f"{path}, line {line}"
        values[column_of(fields[name], where)] = _rate(fields[value], f"{where}: {value} of {fields[name]}")
    _require_all(path, ~np.isnan(values), classes, "no line for")
    return values


def _column_finder(path: Path, classes: Sequence[str]) -> Callable[[str, str], int]:
    """A function from a class name and its line to its column; it refuses unknown and repeated names."""
    columns, lines = {name: column for column, name in enumerate(classes)}, dict[str, str]()

    def column_of(name: str, where: str) -> int:
        """The column of a class. Raises: UserError when it is unknown or was asked for before."""
        known = name in columns
        require(known, f"{where}: {name[:80]!r} is no class of this dataset; write one of its {len(columns)} names")
        require(name not in lines, f"{where}: class {name!r} is there twice (first in {lines.get(name)})")
        lines[name] = where.removeprefix(f"{path}, ")
        return columns[name]

    return column_of


def _rate(text: str, what: str) -> float:
    require(_NUMBER.fullmatch(text) is not None, f"{what} is {text[:40]!r}, must be a number between 0 and 1")
    rate = float(text)
    require(0 <= rate <= 1, f"{what} is {text[:40]}, must be between 0 and 1")
    return rate


def _require_columns(path: Path, columns: Sequence[str], classes: Sequence[str]) -> None:
    """Each class must have its column; `read_csv` has refused repeated columns."""
    known = set(classes)
    foreign = [name for name in columns if name not in known]
    if foreign:
        raise UserError(f"{path}: column {foreign[0][:80]!r} is no class of this dataset; its first line names classes")
    _require_all(path, np.isin(classes, columns), classes, "no column for")


def _require_all(path: Path, given: NDArray[np.bool_], classes: Sequence[str], what: str) -> None:
    missing = np.flatnonzero(~given)
    if len(missing):
        more = f" and {len(missing) - 1} other classes" if len(missing) > 1 else ""
        raise UserError(f"{path}: {what} class {classes[missing[0]]!r}{more}; every class of the dataset needs one")


def _require_file(path: Path, flag: str) -> None:
    require(path.is_file(), f"{path}: no such file; {flag} names a CSV file with a number for each class")
