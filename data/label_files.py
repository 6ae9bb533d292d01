"""Files of observed labels: our own form, the published form, and finding the right one for a run.

Our form is a plain int8 array `x.npy` beside a manifest `x.json` that ties it to its rows, classes and regime. The
published form (CoNeS, published code, utils/pml_data.py; NDLP likewise) is a pickled dictionary with nothing that
says what it was made for, so it is held against the true labels before anyone uses it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.observed import Regime, observe
from utils.checks import UserError, require
from utils.safe_files import load_npy, load_pickled_npy, write_atomically
from utils.types import ABSENT, PRESENT, UNKNOWN, Annotations, Codes, LabelTable

FORMAT = 1

_PUBLISHED_KEY = "partial_labels"
_PUBLISHED_NAMES = {"nw-lt": "nus-wide"}  # datasets that published files call otherwise
_MANIFEST_TYPES: dict[str, tuple[type, ...]] = {
    "format": (int,),
    "regime": (str,),
    "rate": (int, float, type(None)),
    "num_pos": (int, type(None)),
    "num_neg": (int, type(None)),
    "seed": (int,),
    "rng": (str,),
    "row_hash": (str,),
    "label_hash": (str,),
    "shape": (list,),
}


class ResolvedLabels(NamedTuple):
    """The observed labels of a training set and where they come from."""

    table: LabelTable
    path: Path | None  # None: they follow from the truth without chance, and no file holds them
    made: bool  # whether this call drew and wrote them
    label_hash: str


def resolve_labels(
    annotations: Annotations, dataset: str, regime: Regime, folder: Path, label_file: Path | None = None
) -> ResolvedLabels:
    """The observed labels of `annotations`, from the first of these that there is.

    1. `label_file`; 2. the published file of this dataset and rate in `folder`; 3. our own file of this dataset,
    regime, seed and rows in `folder`; 4. a new draw, written there.

    Raises:
        UserError: a file is there but is damaged, or does not fit the rows, classes, true labels or regime.
    """
    if label_file is not None:
        table = read_labels(label_file, annotations, regime)
        return ResolvedLabels(table, label_file, False, table.hash())
    if not regime.is_drawn:
        table = observe(annotations, regime)
        return ResolvedLabels(table, None, False, table.hash())
    if regime.name == "candidate" and regime.rng == "published":
        published = published_path(folder, dataset, regime, annotations)
        if published.is_file():
            table = read_labels(published, annotations, regime)
            return ResolvedLabels(table, published, False, table.hash())
    path = native_path(folder, dataset, regime, annotations)
    if path.is_file():
        table = read_native(path, annotations, regime, same_draw=True)
        return ResolvedLabels(table, path, False, table.hash())
    table = observe(annotations, regime)
    write_native(path, table, annotations, dataset, regime)
    return ResolvedLabels(table, path, True, table.hash())


def native_path(folder: Path, dataset: str, regime: Regime, annotations: Annotations) -> Path:
    """`<dataset>_<regime>_<rate>_s<label seed>_<first 8 hex of the row hash>.npy` in `folder`."""
    rows = annotations.row_hash()[:8]
    return folder / f"{dataset}_{regime.name}_{regime.rate_text}_s{regime.seed}_{rows}.npy"


def published_path(folder: Path, dataset: str, regime: Regime, annotations: Annotations) -> Path:
    """The name that published code gives the file: `voc07_0.1.npy`, or `voc-lt_0.3_sd0.npy` for long-tailed sets.

    `annotations` has no part in it: the argument is there so that both forms are named by the same call.
    """
    _require_candidate(regime)
    seed = f"_sd{regime.seed}" if dataset.endswith("-lt") else ""
    return folder / f"{_PUBLISHED_NAMES.get(dataset, dataset)}_{float(regime.partial_rate)!r}{seed}.npy"


def write_native(path: Path, table: LabelTable, annotations: Annotations, dataset: str, regime: Regime) -> None:
    """Write `table` to `path` and its manifest beside it, each whole or not at all.

    The manifest goes first: where the array is, its manifest is too, and an interrupted replacement is told by the
    hash. Raises: UserError when the folder cannot be made, RunError when the system refuses to write.
    """
    known = regime.known or (None, None)
    manifest = {
        "format": FORMAT,
        "dataset": dataset,
        "regime": regime.name,
        "rate": regime.rate,
        "num_pos": known[0],
        "num_neg": known[1],
        "seed": regime.seed,
        "rng": regime.rng,
        "shape": [len(table), table.num_classes],
        "row_hash": annotations.row_hash(),
        "label_hash": table.hash(),
        "classes": list(annotations.classes),
        "counts": table.counts().tolist(),
    }
    text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
    _make_folder(path)
    write_atomically(manifest_path(path), lambda file: _write_bytes(file, text.encode()))
    write_atomically(path, lambda file: np.save(file, table.dense(), allow_pickle=False))


def write_published(path: Path, table: LabelTable, annotations: Annotations, dataset: str, regime: Regime) -> None:
    """Write candidate labels as published code reads them: a pickled `{"partial_labels": (N, C) int32 of 0 and 1}`.

    Raises: UserError when the labels are not candidate labels of `annotations` or the folder cannot be made.
    """
    _require_candidate(regime)
    require_fit(path, table.dense(), annotations, regime)
    held = np.array({_PUBLISHED_KEY: (table.dense() == PRESENT).astype(np.int32)}, dtype=object)
    _make_folder(path)
    write_atomically(path, lambda file: np.save(file, held, allow_pickle=True))


def manifest_path(path: Path) -> Path:
    """Where the manifest of the label file `path` is."""
    return path.with_suffix(".json")


def read_labels(path: Path, annotations: Annotations, regime: Regime) -> LabelTable:
    """A label file of either form. Raises: UserError as `read_native` and `read_published` do."""
    read = read_published if _holds_a_pickle(path) else read_native
    return read(path, annotations, regime)


def read_native(path: Path, annotations: Annotations, regime: Regime, *, same_draw: bool = False) -> LabelTable:
    """The labels of a file in our own form.

    Args:
        path: the `.npy` file; its manifest lies beside it.
        annotations: the rows, classes and true labels that it must have been made for.
        regime: what it must hold.
        same_draw: whether seed and generator must be those of `regime` too.

    Raises:
        UserError: array or manifest is missing or damaged, or is of other data or another regime.
    """
    manifest = _read_manifest(path)
    _require_regime(path, manifest, regime, same_draw=same_draw)
    here = annotations.row_hash()
    if manifest["row_hash"] != here:
        raise UserError(
            f"{path}: made for other rows or classes (their hash is {manifest['row_hash'][:8]}, here it is {here[:8]});"
            f" make one for these with generate_labels.py"
        )
    codes = load_npy(path)
    shape = [len(annotations), len(annotations.classes)]
    if codes.dtype != np.int8 or list(codes.shape) != shape or manifest["shape"] != shape:
        raise UserError(f"{path}: holds {codes.dtype} {codes.shape}, must be int8 {tuple(shape)}")
    require_fit(path, codes, annotations, regime)
    table = LabelTable(codes)
    if table.hash() != manifest["label_hash"]:
        raise UserError(
            f"{path}: its labels (hash {table.hash()[:8]}) are not those of its manifest"
            f" ({manifest['label_hash'][:8]}): damaged or edited; delete both files and make them anew"
        )
    return table


def read_published(path: Path, annotations: Annotations, regime: Regime) -> LabelTable:
    """The candidate labels of a published file, (N, C) or (N, 1, C) of 0 and 1 in any number type; runs no code.

    Raises:
        UserError: the file is missing, damaged or asks to run code, or does not fit rows, classes or true labels.
    """
    _require_candidate(regime)
    held = load_pickled_npy(path)
    values = held.get(_PUBLISHED_KEY) if isinstance(held, dict) else None
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "biuf":
        raise UserError(f"{path}: not a published label file: no array of numbers named {_PUBLISHED_KEY!r} in it")
    if values.ndim == 3 and values.shape[1] == 1:
        values = values[:, 0]
    shape = (len(annotations), len(annotations.classes))
    if values.shape != shape:
        raise UserError(f"{path}: does not fit: it has shape {values.shape}, this training set has {shape}")
    codes = _from_binary(path, values, annotations)
    require_fit(path, codes, annotations, regime)
    return LabelTable(codes)


def require_fit(path: Path, codes: Codes, annotations: Annotations, regime: Regime) -> None:
    """Hold labels (N, C) against the truth.

    Candidates must include every true label; in the other regimes what is known must be true. Labels that were
    "given" owe the truth nothing. Raises: UserError naming the first row and class that do not fit.
    """
    require(bool(np.isin(codes, (PRESENT, ABSENT, UNKNOWN)).all()), f"{path}: holds values other than 1, 0 and -1")
    if regime.name == "given":
        return
    positive = annotations.truth.dense() == PRESENT
    if regime.name == "candidate":
        _refuse(path, positive & (codes != PRESENT), annotations, "is true and no candidate")
    else:
        _refuse(path, ~positive & (codes == PRESENT), annotations, "is labelled present and is not")
        _refuse(path, positive & (codes == ABSENT), annotations, "is labelled absent and is present")
    if regime.name in ("candidate", "full"):
        _refuse(path, codes == UNKNOWN, annotations, f"is unknown, which {regime.name} labels never are")


def _refuse(path: Path, wrong: NDArray[np.bool_], annotations: Annotations, what: str) -> None:
    """Raise for the first entry of `wrong` (N, C) that is set."""
    if wrong.any():
        row, label = np.argwhere(wrong)[0]
        raise UserError(
            f"{path}: does not fit the true labels: {annotations.classes[label]} {what} in row {row} (image"
            f" {annotations.ids[row]}), {int(wrong.sum())} such entries; use labels made for this dataset"
        )


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


def _holds_a_pickle(path: Path) -> bool:
    """Whether the header of an `.npy` file announces pickled objects; nothing behind the header is read."""
    try:
        with path.open("rb") as file:
            readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            _, _, dtype = readers[np.lib.format.read_magic(file)](file)
    except (OSError, ValueError, KeyError):  # the reader of our own form says what is wrong
        return False
    return bool(dtype.hasobject)


def _read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a label file, with every key that is read of it present and of the right type."""
    place = manifest_path(path)
    require(path.is_file(), f"{path}: no such label file; make one with generate_labels.py")
    try:
        manifest = json.loads(place.read_bytes())
    except OSError as error:
        raise UserError(
            f"{place}: the manifest of {path.name} cannot be read ({error.strerror}); it must lie beside it"
        ) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place}: damaged manifest, not json; delete it and {path.name} and make both anew") from error
    if not isinstance(manifest, dict):
        raise UserError(f"{place}: damaged manifest, not an object; delete it and {path.name} and make both anew")
    for key, types in _MANIFEST_TYPES.items():
        if key not in manifest or not isinstance(manifest[key], types):
            raise UserError(f"{place}: damaged manifest: {key!r} is missing or wrong; make both files anew")
    require(manifest["format"] == FORMAT, f"{place}: format {manifest['format']}, this version reads {FORMAT}")
    return manifest


def _require_regime(path: Path, manifest: dict[str, Any], regime: Regime, *, same_draw: bool) -> None:
    """Refuse labels of another regime than asked for; "single" is "observed" with one positive and no negative."""
    known = (manifest["num_pos"], manifest["num_neg"])
    held = [manifest["regime"], manifest["rate"], known]
    asked = [regime.name, regime.rate, regime.known or (None, None)]
    for side in (held, asked):
        side[0] = "observed" if side[0] == "single" else side[0]
    draw = (manifest["seed"], manifest["rng"])
    if held == asked and (not same_draw or draw == (regime.seed, regime.rng)):
        return
    text = f"{manifest['regime']} labels, rate {manifest['rate']}, num_pos {known[0]}, num_neg {known[1]}"
    raise UserError(
        f"{path}: holds {text}, seed {draw[0]}, {draw[1]} generator; asked for are {regime.describe()},"
        f" seed {regime.seed}: set --labels and its numbers to those of the file, or name another"
    )


def _require_candidate(regime: Regime) -> None:
    require(regime.name == "candidate", f"the published form holds candidate labels only, not {regime.name} labels")


def _make_folder(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path.parent}: this folder cannot be made ({error.strerror}); name another place") from error


def _write_bytes(file: BinaryIO, content: bytes) -> None:
    file.write(content)
