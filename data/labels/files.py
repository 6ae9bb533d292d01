"""Files of observed labels: our own form, the published ones, and finding the right one for a run.

Our form is an array (`x.npy`; of a sparse table `x.npz`) beside a manifest `x.json` that ties it to its rows, classes
and regime. The published form (CoNeS, published code, utils/pml_data.py; NDLP likewise) is a pickled dictionary without
such metadata, so it is checked against the true labels before use.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from data.labels.arrays import DENSE, SPARSE, read_table, suffix_of, write_table
from data.labels.lists import SUFFIX, read_list
from data.labels.regime import Regime, observe, require_drawable
from data.labels.validation import require_fit
from utils.checks import UserError, require
from utils.console import note
from utils.safe_files import (
    ABANDONED,
    load_pickled_npy,
    make_folder,
    remove_unfinished,
    write_atomically,
    write_text,
)
from utils.types import PRESENT, Annotations, Codes, Index, LabelTable

FORMAT = 2

_PUBLISHED_KEY = "partial_labels"
_PUBLISHED_NAMES = {"nw-lt": "nus-wide"}  # datasets with another name in published files
_HASH = re.compile("[0-9a-f]{64}")
_SAME: dict[str, tuple[type, ...]] = {
    "format": (int,),
    "regime": (str,),
    "seed": (int,),
    "rng": (str,),
    "row_hash": (str,),
    "label_hash": (str,),
    "shape": (list,),
}
_NUMBERS: dict[str, tuple[type, ...]] = {
    "rate": (int, float, type(None)),
    "num_pos": (int, type(None)),
    "num_neg": (int, type(None)),
}
_MANIFEST_TYPES = {1: _SAME | _NUMBERS, 2: _SAME | {"parameters": (dict,)}}


class ResolvedLabels(NamedTuple):
    """The observed labels of a training set and their source."""

    table: LabelTable  # of the rows that are kept of the set
    path: Path | None  # None: they follow from the truth without randomness, and are in no file
    made: bool  # True if this call drew and wrote them
    label_hash: str  # of the whole set


def resolve_labels(
    annotations: Annotations, dataset: str, regime: Regime, folder: Path, label_file: Path | None = None
) -> ResolvedLabels:
    """The observed labels of `annotations`, from the first of these that exists.

    1. `label_file`; 2. the published file of this dataset and rate in `folder`; 3. our own file of this dataset,
    regime, seed and rows in `folder`; 4. a new draw, written there.

    Raises:
        UserError: a file exists but is damaged, or does not fit the rows, classes, true labels or regime; or the true
            labels are soft, and others are asked for.
    """
    require_drawable(annotations.truth, regime)
    if label_file is not None:
        table = read_labels(label_file, annotations, regime)
        _note_other_truth(label_file, annotations)
        return ResolvedLabels(table, label_file, False, table.hash())
    if not regime.is_drawn:
        table = observe(annotations, regime)
        return ResolvedLabels(table, None, False, table.hash())
    if regime.name == "candidate" and regime.rng == "published":
        published = published_path(folder, dataset, regime, annotations)
        if published.is_file():
            table = read_labels(published, annotations, regime)
            return ResolvedLabels(table, published, False, table.hash())
    path = own_path(folder, dataset, regime, annotations)
    if path.is_file():
        table = read_native(path, annotations, regime, same_draw=True)
        return ResolvedLabels(table, path, False, table.hash())
    table = observe(annotations, regime)
    write_native(path, table, annotations, dataset, regime)
    before = native_path(folder, dataset, regime, annotations)
    if path != before:
        note(f"{before}: drawn when the true labels were others; {path.name} is for what they are now")
    return ResolvedLabels(table, path, True, table.hash())


def native_path(folder: Path, dataset: str, regime: Regime, annotations: Annotations) -> Path:
    """`<dataset>_<regime>_<rate>_s<label seed>_<first 8 hex of the row hash>.npy` in `folder`; `.npz` if sparse.

    Raises: UserError when a file of rates that `regime` names cannot be read.
    """
    rows, sparse = annotations.row_hash()[:8], isinstance(annotations.truth.codes, csr_array)
    suffix = SPARSE if sparse else DENSE
    return folder / f"{dataset}_{regime.name}_{regime.rate_text}_s{regime.seed}_{rows}{suffix}"


def own_path(folder: Path, dataset: str, regime: Regime, annotations: Annotations) -> Path:
    """`native_path`, or another name where that file was drawn when the true labels were others.

    Raises: UserError when the file there is damaged, or is for other rows or another regime.
    """
    path = native_path(folder, dataset, regime, annotations)
    if not path.is_file():
        return path
    manifest = _checked_manifest(path, annotations, regime, same_draw=True)
    made_for, truth = manifest.get("truth_hash"), annotations.truth.hash()
    # Files of before have no such hash; the same draw from the same labels gives the same result.
    if made_for == truth or (made_for is None and manifest["label_hash"] == observe(annotations, regime).hash()):
        return path
    return path.with_stem(f"{path.stem}_{truth[:8]}")


def _note_other_truth(path: Path, annotations: Annotations) -> None:
    """Say so when the labels of a file that was named were made from other true labels than there are now."""
    if path.suffix == SUFFIX or not manifest_path(path).is_file() or _has_pickle(path):
        return
    made_for = _read_manifest(path).get("truth_hash")
    if made_for not in (None, annotations.truth.hash()):
        note(f"{path}: made when the true labels were others; it is used as it is")


def published_path(folder: Path, dataset: str, regime: Regime, annotations: Annotations) -> Path:
    """The path that published code gives the file: `voc07_0.1.npy`, or `voc-lt_0.3_sd0.npy` for long-tailed sets.

    `annotations` is not used: the argument makes the signature equal to that of `native_path`.
    """
    _require_candidate(regime)
    seed = f"_sd{regime.seed}" if dataset.endswith("-lt") else ""
    return folder / f"{_PUBLISHED_NAMES.get(dataset, dataset)}_{regime.draw_text}{seed}.npy"


def write_native(path: Path, table: LabelTable, annotations: Annotations, dataset: str, regime: Regime) -> None:
    """Write `table` to `path` and its manifest beside it, each whole or not at all.

    The manifest is written first, so that no array is without one; an interrupted replacement is detected by the hash.
    Raises: UserError when `path` has not the suffix for the table (`.npy`, sparse `.npz`) or the folder cannot be made,
    RunError when the system refuses to write.
    """
    suffix = suffix_of(table)
    require(
        path.suffix == suffix, f"{path}: labels of this dataset are written as {suffix}; name it {path.stem}{suffix}"
    )
    manifest = {
        "format": FORMAT,
        "dataset": dataset,
        "regime": regime.name,
        "parameters": regime.parameters(),
        "seed": regime.seed,
        "rng": regime.rng,
        "shape": [len(table), table.num_classes],
        "row_hash": annotations.row_hash(),
        "truth_hash": annotations.truth.hash(),
        "label_hash": table.hash(),
        "classes": list(annotations.classes),
        "counts": table.counts().tolist(),
    }
    text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
    make_folder(path.parent)
    for file in (manifest_path(path), path):
        remove_unfinished(file, age=ABANDONED)
    write_text(manifest_path(path), text)
    write_atomically(path, lambda file: write_table(file, table))


def write_published(path: Path, table: LabelTable, annotations: Annotations, dataset: str, regime: Regime) -> None:
    """Write candidate labels as published code reads them: a pickled dictionary with the array `partial_labels`.

    It is (N, C) int32 of 0 and 1, rows as they are. If the lists of a dataset have an order of their own (long-tailed
    sets), it is (N, 1, C) float64 in that order. Raises: UserError when the labels are sparse, or no candidate labels
    of `annotations`, or the folder cannot be made.
    """
    _require_candidate(regime)
    sparse = isinstance(table.codes, csr_array)
    require(not sparse, f"{path}: sparse labels have no published form; leave --published out")
    require_fit(path, table, annotations, regime)
    values: NDArray[Any] = (table.dense() == PRESENT).astype(np.int32)
    order = _list_order(annotations)
    if order is not None:
        values = values[order][:, None].astype(np.float64)
    pickled = np.array({_PUBLISHED_KEY: values}, dtype=object)
    make_folder(path.parent)
    write_atomically(path, lambda file: np.save(file, pickled, allow_pickle=True))


def manifest_path(path: Path) -> Path:
    """The path of the manifest of the label file `path`."""
    return path.with_suffix(".json")


def read_labels(path: Path, annotations: Annotations, regime: Regime) -> LabelTable:
    """A label file of any form. Raises: UserError as `read_native`, `read_published` and `read_list` do."""
    if path.suffix == SUFFIX:
        return read_list(path, annotations, regime)
    read = read_published if _has_pickle(path) else read_native
    return read(path, annotations, regime)


def read_native(path: Path, annotations: Annotations, regime: Regime, *, same_draw: bool = False) -> LabelTable:
    """The labels of a file in our own form.

    Args:
        path: the `.npy` or `.npz` file; its manifest lies beside it.
        annotations: the rows, classes and true labels that it must have been made for.
        regime: the regime it must have been made for.
        same_draw: True if seed and generator must be those of `regime` too.

    Raises:
        UserError: array or manifest is missing or damaged, or is for other data or another regime.
    """
    manifest = _checked_manifest(path, annotations, regime, same_draw=same_draw)
    table = read_table(path, (len(annotations), len(annotations.classes)))
    require_fit(path, table, annotations, regime)
    if table.hash() != manifest["label_hash"]:
        raise UserError(
            f"{path}: its labels (hash {table.hash()[:8]}) are not those of its manifest"
            f" ({manifest['label_hash'][:8]}): damaged or edited; delete both files and make them anew"
        )
    return table


def read_published(path: Path, annotations: Annotations, regime: Regime) -> LabelTable:
    """The candidate labels of a published file, (N, C) or (N, 1, C) of 0 and 1 in any number type; runs no code.

    Its rows are in the order of the dataset's lists if those have an order of their own (`Annotations.places`), else in
    ours; where the file is of a larger set (`Annotations.listed`), rows are taken by id.

    Raises:
        UserError: the file is missing, damaged or asks to run code, or does not fit rows, classes or true labels.
    """
    _require_candidate(regime)
    content = load_pickled_npy(path)
    values = content.get(_PUBLISHED_KEY) if isinstance(content, dict) else None
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "biuf":
        raise UserError(f"{path}: not a published label file: no array of numbers named {_PUBLISHED_KEY!r} in it")
    if values.ndim == 3 and values.shape[1] == 1:
        values = values[:, 0]
    values = values[_rows_of(path, values.shape, annotations)]
    table = LabelTable(_from_binary(path, values, annotations))
    require_fit(path, table, annotations, regime)
    return table


def _rows_of(path: Path, shape: tuple[int, ...], annotations: Annotations) -> Index:
    """(N,) rows of a published file of some shape that are ours. Raises: UserError when it is for another set."""
    wanted, listed = (len(annotations), len(annotations.classes)), annotations.listed
    if shape == wanted:
        order = _list_order(annotations)
        return np.arange(len(annotations)) if order is None else np.argsort(order)
    larger = f" or, of the whole list, {(len(listed), wanted[1])}" if len(listed) > len(annotations) else ""
    if not larger or shape != (len(listed), wanted[1]):
        raise UserError(f"{path}: does not fit: it has shape {shape}, this training set has {wanted}{larger}")
    row_of = {image: row for row, image in enumerate(listed)}
    return np.array([row_of[image] for image in annotations.ids], dtype=np.int64)


def _list_order(annotations: Annotations) -> Index | None:
    """(N,) the rows in the order of the published lists; None if rows are in the order of the published files."""
    return None if annotations.places is None else annotations.recipe_order()


def _from_binary(path: Path, values: NDArray[Any], annotations: Annotations) -> Codes:
    """0 and 1 of any number type as ABSENT and PRESENT."""
    wrong = (values != 0) & (values != 1)
    if wrong.any():
        row, label = np.argwhere(wrong)[0]
        raise UserError(
            f"{path}: {annotations.classes[label]} is {values[row, label]} in row {row} (image {annotations.ids[row]}),"
            f" candidate labels are 0 or 1"
        )
    codes: Codes = values.astype(np.int8)
    return codes


def _has_pickle(path: Path) -> bool:
    """True if the header of an `.npy` file announces pickled objects; only the header is read."""
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            _, _, dtype = readers[np.lib.format.read_magic(file)](file)
    except Exception:  # the reader of our own form reports what is wrong
        return False
    return bool(dtype.hasobject)


def _read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a label file; every key used of it is present and of the right type. Raises: UserError."""
    file = manifest_path(path)
    require(path.is_file(), f"{path}: no such label file; make one with generate_labels.py")
    require(path.suffix in (DENSE, SPARSE), f"{path}: not a label file; they end in {DENSE} or {SPARSE}")
    require(
        file.is_file(),
        f"{path}: not of the published form, and no manifest {file.name} beside it; get it anew, or make both anew",
    )
    try:
        manifest = json.loads(file.read_bytes())
    except OSError as error:
        raise UserError(f"{file}: the manifest of {path.name} cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}: damaged manifest, not json; delete it and {path.name} and make both anew") from error
    if not isinstance(manifest, dict):
        raise UserError(f"{file}: damaged manifest, not an object; delete it and {path.name} and make both anew")
    form = manifest.get("format")
    known = type(form) is int and form in _MANIFEST_TYPES
    require(known, f"{file}: format {json.dumps(form)[:40]}, this version reads 1 to {FORMAT}; make both files anew")
    for key, types in _MANIFEST_TYPES[manifest["format"]].items():
        if key not in manifest or not isinstance(manifest[key], types):
            raise UserError(f"{file}: damaged manifest: {key!r} is missing or wrong; make both files anew")
    for key in ("row_hash", "label_hash"):
        require(_HASH.fullmatch(manifest[key]) is not None, f"{file}: damaged manifest: {key!r} is no SHA-256")
    return manifest


def _checked_manifest(path: Path, annotations: Annotations, regime: Regime, *, same_draw: bool) -> dict[str, Any]:
    """The manifest of a label file for these rows and this regime. Raises: UserError as `read_native` does."""
    manifest = _read_manifest(path)
    _require_regime(path, manifest, regime, same_draw=same_draw)
    here = annotations.row_hash()
    if manifest["row_hash"] != here:
        raise UserError(
            f"{path}: made for other rows or classes (their hash is {manifest['row_hash'][:8]}, here it is {here[:8]});"
            f" make one for these with generate_labels.py"
        )
    shape = (len(annotations), len(annotations.classes))
    if manifest["shape"] != list(shape):
        raise UserError(f"{manifest_path(path)}: damaged manifest: shape must be {shape}; make both files anew")
    return manifest


def _parameters(manifest: dict[str, Any]) -> dict[str, Any]:
    """The parameters of the regime in a manifest; the first format had one rate and two numbers."""
    if manifest["format"] != 1:
        parameters: dict[str, Any] = manifest["parameters"]
        return parameters
    if manifest["regime"] in ("single", "observed"):
        return {name: manifest[name] for name in ("num_pos", "num_neg")}
    return {
        "candidate": {"partial_rate": manifest["rate"]},
        "dropped": {"drop_rate": manifest["rate"], "keep_one": False},
    }.get(manifest["regime"], {})


def _require_regime(path: Path, manifest: dict[str, Any], regime: Regime, *, same_draw: bool) -> None:
    """Refuse labels of another regime than asked for; "single" equals "observed" with one positive and no negative."""
    found, asked = (manifest["regime"], _parameters(manifest)), (regime.name, regime.parameters())
    draw = (manifest["seed"], manifest["rng"])
    if _unified(*found) == _unified(*asked) and (not same_draw or draw == (regime.seed, regime.rng)):
        return
    raise UserError(
        f"{path}: holds {_in_words(*found)}, seed {draw[0]}, {_one_line(draw[1])} generator; asked for are"
        f" {_in_words(*asked)}, seed {regime.seed}, {regime.rng} generator: set --labels and its numbers to those of"
        f" the file, or name another"
    )


def _unified(name: str, parameters: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    return "observed" if name == "single" else name, parameters


def _in_words(name: str, parameters: dict[str, Any]) -> str:
    """A regime and its parameters as part of a line, even if the manifest is damaged."""
    values = ", ".join(f"{_one_line(key)} {_one_line(value)}" for key, value in parameters.items())
    return f"{_one_line(name)} labels" + (f" ({values[:200]})" if values else "")


def _one_line(value: Any) -> str:
    """A value of a manifest without line breaks, at most 40 characters."""
    return json.dumps(value).strip('"')[:40]


def _require_candidate(regime: Regime) -> None:
    require(regime.name == "candidate", f"the published form holds candidate labels only, not {regime.name} labels")
