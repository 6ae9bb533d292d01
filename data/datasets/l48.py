"""L48, the Merlin L48 Spectrogram dataset: bird sounds of 100 species (NeurIPS 2025 datasets track, arXiv 2511.00252).

One row is one clip, a spectrogram of 3 seconds; clips of one recording are a group. Each recording has one target
species, which is the one label that a cheap annotation gives. Files as in visipedia/ml48s and, for the validation
recordings, cvl-umass/l48-benchmarking. Classes are in the order of `taxa.csv`, rows in that of the ids of clips.
Pictures and annotations are under terms that forbid to hand them on, whole or in part: docs/datasets/l48.md.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.datasets.source import DatasetSource
from data.datasets.unpacked import not_found
from data.files.cache import fingerprint, pack, unpack
from data.files.text_files import json_entries, read_csv, relative_path
from data.images.files import FileImages
from utils.checks import UserError, require
from utils.console import say
from utils.types import ABSENT, PRESENT, UNKNOWN, Annotations, Codes, Index, LabelTable, Splits

GivenLabels = Literal["full", "target", "geo", "checklist"]
Rows = Literal["labelled", "with_positive", "all"]

READER = "l48 1"
"""Part of the cache's fingerprint; another number whenever the same files would be read differently."""

TERMS = "https://github.com/visipedia/ml48s (TOU.pdf)"
RECORDINGS, FIRST_TEST, OF_SPECIES = 10_000, 8_000, (80, 20)
"""Of the dataset as released: its recordings, the first of them for testing, and those of a species for each use."""
SIZE = (750, 236)
"""Width and height of a spectrogram."""

_PURPOSE = "it is a part of L48"
_LISTS = {"present_species_codes": PRESENT, "unknown_species_codes": UNKNOWN, "absent_species_codes": ABSENT}
_NOT_SAID = -2

Mask = NDArray[np.bool_]


class Recordings(NamedTuple):
    """A recordings ordered by id, and what is said of all clips of each."""

    ids: Index
    test: Mask  # (A,)
    target: Index  # (A,) the class that the recording was made for
    possible: Mask  # (A, C) classes that live where and when it was made
    observed: Mask  # (A, C) classes that the recordist noted
    codes: Codes  # (A, C) of all clips together


class Clips(NamedTuple):
    """N clips ordered by id."""

    ids: Index
    files: tuple[str, ...]
    recording: Index  # (N,) place among the recordings
    codes: Codes  # (N, C)
    other_size: int  # clips that are not of `SIZE`


def load_l48(source: DatasetSource) -> Splits:
    """Read L48 in its own splits; `source.l48_labels` and `l48_rows` say what is given for training.

    Args:
        source: `path_images` has `taxa.csv`, `assets.json`, `clips.json`, the images, and `val_split.npy`, without
            which there is no validation split.

    Raises:
        UserError: a file or entry is missing or malformed, or the lists contradict each other.
    """
    root = _root(source.path_images)
    classes, recordings, clips = _read(source, root)
    held_out = _held_out(root / "val_split.npy", recordings)
    for note in (f"l48: used under the terms at {TERMS}", *_notes(recordings, clips)):
        say(note)
    images = FileImages([f"{root}/{file}" for file in clips.files], source.cache)
    given = None if source.l48_labels == "full" else given_codes(recordings, clips, source.l48_labels)
    everything = Annotations(
        images,
        tuple(map(str, clips.ids)),
        classes,
        LabelTable(clips.codes),
        given=None if given is None else LabelTable(given),
        groups=recordings.ids[clips.recording],
    )
    test, validates = recordings.test[clips.recording], held_out[clips.recording]
    kept = kept_rows(clips.codes if given is None else given, source.l48_rows) & ~test & ~validates
    say(_counted(source, kept, ~test & ~validates, clips.recording))
    require(bool(kept.any()), f"{root}: no clip is left to train on; --l48_rows all keeps those without a known label")
    require(bool(test.any()), f"{root}: no clip is of a recording for testing; get assets.json and clips.json anew")
    validation = everything.take(np.flatnonzero(validates)) if validates.any() else None
    return Splits(everything.take(np.flatnonzero(kept)), everything.take(np.flatnonzero(test)), validation=validation)


def given_codes(recordings: Recordings, clips: Clips, which: GivenLabels) -> Codes:
    """(N, C) labels of a cheap annotation: the target where it is heard, and species that a list leaves out as absent.

    The target is never absent, and neither is a species that is heard although a list leaves it out.

    Args:
        recordings: targets and lists.
        clips: true labels.
        which: "target" takes no list, "geo" that of species that live there and then, "checklist" the recordist's.
    """
    codes = np.full(clips.codes.shape, UNKNOWN, dtype=np.int8)
    if which != "target":
        listed = recordings.possible if which == "geo" else recordings.observed
        codes[~listed[clips.recording] & (clips.codes != PRESENT)] = ABSENT
    rows, target = np.arange(len(codes)), recordings.target[clips.recording]
    codes[rows, target] = np.where(clips.codes[rows, target] == PRESENT, PRESENT, UNKNOWN)
    return codes


def kept_rows(codes: Codes, which: Rows) -> Mask:
    """(N,) True for rows of labels (N, C) that train: with any known label, with a present one, or all."""
    if which == "all":
        return np.ones(len(codes), dtype=np.bool_)
    wanted = codes == PRESENT if which == "with_positive" else codes != UNKNOWN
    return np.asarray(wanted.any(axis=1))


def read_taxa(path: Path) -> tuple[str, ...]:
    """The species codes of `taxa.csv` in order. Raises: UserError for a missing, empty or repeated one."""
    lines: dict[str, int] = {}
    for line, fields in read_csv(path, ("species_code",), "it lists the species of L48"):
        code = fields["species_code"]
        require(bool(code), f"{path}, line {line}: no species_code")
        require(code not in lines, f"{path}, line {line}: {code} is listed twice (also in line {lines.get(code)})")
        lines[code] = line
    require(bool(lines), f"{path}: lists no species")
    return tuple(lines)


def read_recordings(path: Path, classes: Sequence[str]) -> Recordings:
    """Read `assets.json`. Raises: UserError naming the entry that is malformed or repeated."""
    column_of = {code: column for column, code in enumerate(classes)}
    found: dict[int, tuple[bool, int, Mask, Mask, Codes]] = {}
    for number, entry in json_entries(path, _PURPOSE):
        where = f"{path}, entry {number}"
        one = _number(entry, "id", where)
        require(one not in found, f"{where}: id {one} is listed twice")
        split, target = _text(entry, "split", where), _text(entry, "target_species_code", where)
        require(split in ("train", "test"), f"{where}: split {split[:40]!r}, must be train or test")
        require(target in column_of, f"{where}: target_species_code {target[:40]!r} is not in taxa.csv")
        lists = [_columns(entry, f"{name}_species_codes", where, column_of) for name in ("possible", "observed")]
        possible, observed = (np.isin(np.arange(len(classes)), columns) for columns in lists)
        codes = _codes(entry, where, column_of)
        found[one] = (split == "test", column_of[target], possible, observed, codes)
    require(bool(found), f"{path}: lists no recording")
    ids = sorted(found)
    columns = [np.array(each) for each in zip(*(found[one] for one in ids), strict=True)]
    return Recordings(np.array(ids, dtype=np.int64), columns[0], columns[1].astype(np.int64), *columns[2:])


def read_clips(path: Path, classes: Sequence[str], recordings: Recordings) -> Clips:
    """Read `clips.json`, one entry at a time. Raises: UserError naming the entry that is malformed or repeated."""
    column_of = {code: column for column, code in enumerate(classes)}
    place_of = {int(one): place for place, one in enumerate(recordings.ids)}
    found: dict[int, tuple[str, int, Codes]] = {}
    other_size = 0
    for number, entry in json_entries(path, _PURPOSE):
        where = f"{path}, entry {number}"
        one, asset = (_number(entry, key, where) for key in ("id", "asset_id"))
        require(one not in found, f"{where}: id {one} is listed twice")
        require(asset in place_of, f"{where}: asset_id {asset} is not in assets.json")
        file = relative_path(_text(entry, "file_path", where), where)
        found[one] = (file, place_of[asset], _codes(entry, where, column_of))
        other_size += tuple(_number(entry, key, where) for key in ("width", "height")) != SIZE
    require(bool(found), f"{path}: lists no clip")
    ids = sorted(found)
    files, places, codes = zip(*(found[one] for one in ids), strict=True)
    return Clips(np.array(ids, dtype=np.int64), files, np.array(places, dtype=np.int64), np.array(codes), other_size)


def _codes(entry: Mapping[str, Any], where: str, column_of: Mapping[str, int]) -> Codes:
    """(C,) the codes of an entry, whose three lists must have every species once between them. Raises: UserError."""
    codes = np.full(len(column_of), _NOT_SAID, dtype=np.int8)
    for key, code in _LISTS.items():
        columns = _columns(entry, key, where, column_of)
        twice = [column for column in columns if codes[column] != _NOT_SAID]
        if twice:
            name = next(name for name, column in column_of.items() if column == twice[0])
            raise UserError(f"{where}: {name} is in {key} and in another list; each species is in one")
        codes[columns] = code
    left = np.flatnonzero(codes == _NOT_SAID)
    if len(left):
        name = next(name for name, column in column_of.items() if column == left[0])
        raise UserError(f"{where}: {name} is neither present, unknown nor absent ({len(left)} such species)")
    return codes


def _columns(entry: Mapping[str, Any], key: str, where: str, column_of: Mapping[str, int]) -> list[int]:
    """The columns of the species in a list of an entry. Raises: UserError for no list, or others than those of taxa."""
    names = entry.get(key)
    if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise UserError(f"{where}: {key} is {reprlib.repr(names)}, must be a list of species codes")
    foreign = next((name for name in names if name not in column_of), None)
    require(foreign is None, f"{where}: {key} has {(foreign or '')[:40]!r}, which is not in taxa.csv")
    require(len(set(names)) == len(names), f"{where}: {key} has a species twice")
    return [column_of[name] for name in names]


def _number(entry: Any, key: str, where: str) -> int:
    require(isinstance(entry, dict), f"{where}: is a {type(entry).__name__}, not an object")
    value = entry.get(key)
    if type(value) is not int or not 0 <= value < 2**62:
        raise UserError(f"{where}: {key} is {reprlib.repr(value)}, must be a whole number")
    return value


def _text(entry: Mapping[str, Any], key: str, where: str) -> str:
    value = entry.get(key)
    if not (isinstance(value, str) and value.isprintable()):
        raise UserError(f"{where}: {key} is {reprlib.repr(value)}, must be a text")
    return value


def _held_out(path: Path, recordings: Recordings) -> Mask:
    """(A,) True for recordings of the validation split; none where the file is not there. Ids may be repeated."""
    if not path.is_file():
        say(f"{path} is not there, so there is no validation split; --val_frac 0.12 holds out whole recordings")
        return np.zeros(len(recordings.ids), dtype=np.bool_)
    try:
        ids = np.load(path, allow_pickle=False)
    except Exception as error:  # numpy raises nearly any on a damaged file
        raise UserError(f"{path}: not a NumPy array ({type(error).__name__}); get it anew") from error
    fits = isinstance(ids, np.ndarray) and ids.ndim == 1 and ids.dtype.kind in "iu" and len(ids) > 0
    require(fits, f"{path}: must be a list of ids of recordings; get it anew")
    foreign = ids[~np.isin(ids, recordings.ids[~recordings.test])]
    require(len(foreign) == 0, f"{path}: {next(iter(foreign), 0)} is no training recording ({len(foreign)} such)")
    return np.isin(recordings.ids, ids)


def _root(path: Path) -> Path:
    """Find `assets.json` in `path` or `path/ml48s`. Raises: UserError showing the expected tree."""
    for folder in (path, path / "ml48s"):
        if (folder / "assets.json").is_file():
            return folder
    raise not_found(
        path,
        f"{path}: no L48 here; give --path_images the folder that looks like this:\n"
        f"  taxa.csv, assets.json, clips.json, val_split.npy (of cvl-umass/l48-benchmarking)\n"
        f"  images/<recording>/<clip>.jpg\n"
        f"Read the terms before you get it: {TERMS}\n"
        f"(--dataset digits runs without any download)",
    )


def _read(source: DatasetSource, root: Path) -> tuple[tuple[str, ...], Recordings, Clips]:
    """Classes, recordings and clips, from the cache if no file has changed."""
    files = [root / name for name in ("taxa.csv", "assets.json", "clips.json")]
    key, names = fingerprint(READER, files), ("classes", "files", *_ARRAYS)
    cached = source.cache.load("l48", key, names)
    if cached is not None:
        kept = {name: cached[name] for name in _ARRAYS}
        recordings = Recordings(*(kept[f"recordings_{name}"] for name in Recordings._fields))
        parts = (kept["ids"], unpack(cached["files"]), kept["recording"], kept["codes"], int(kept["other_size"]))
        return unpack(cached["classes"]), recordings, Clips(*parts)
    classes = read_taxa(files[0])
    recordings = read_recordings(files[1], classes)
    clips = read_clips(files[2], classes, recordings)
    arrays = {f"recordings_{name}": value for name, value in recordings._asdict().items()}
    arrays |= {**clips._asdict(), "files": pack(clips.files), "classes": pack(classes)}
    source.cache.save("l48", key, arrays)
    return classes, recordings, clips


_ARRAYS = (*(f"recordings_{name}" for name in Recordings._fields), "ids", "recording", "codes", "other_size")


def _notes(recordings: Recordings, clips: Clips) -> Iterator[str]:
    """What is not as in the dataset as released, or contradicts itself, a line each."""
    count, (train, test) = len(recordings.ids), OF_SPECIES
    classes = recordings.possible.shape[1]
    if count != RECORDINGS:
        yield f"l48: {count:,} recordings, the dataset as released has {RECORDINGS:,}"
    else:
        per_species = [
            np.bincount(recordings.target[part], minlength=classes) for part in (~recordings.test, recordings.test)
        ]
        wrong = int(((per_species[0] != train) | (per_species[1] != test)).sum())
        if wrong:
            yield f"l48: {wrong} species do not have {train} + {test} recordings"
    rows = np.arange(count)
    counted = {
        f"clips are not of {SIZE[0]} x {SIZE[1]} pixels": clips.other_size,
        f"recordings of number {FIRST_TEST:,} or more are not for testing, or lower ones are": int(
            (recordings.test != (recordings.ids >= FIRST_TEST)).sum() if count == RECORDINGS else 0
        ),
        "recordings have a checklist with species that do not live there": int(
            (recordings.observed & ~recordings.possible).any(axis=1).sum()
        ),
        "recordings have lists without their target": int(
            (~(recordings.possible & recordings.observed)[rows, recordings.target]).sum()
        ),
        "labels are present although their recording's lists leave them out; they count as present": int(
            ((clips.codes == PRESENT) & ~(recordings.possible & recordings.observed)[clips.recording]).sum()
        ),
        "recordings have labels that are not those of their clips together": _inconsistent(recordings, clips),
    }
    yield from (f"l48: {number:,} {text}" for text, number in counted.items() if number)


def _inconsistent(recordings: Recordings, clips: Clips) -> int:
    """Recordings whose present labels are not all of their clips', or whose absent ones are not those of every clip."""
    order = np.argsort(clips.recording, kind="stable")
    places, starts = np.unique(clips.recording[order], return_index=True)
    codes = clips.codes[order]
    any_present = np.logical_or.reduceat(codes == PRESENT, starts)
    all_absent = np.logical_and.reduceat(codes == ABSENT, starts)
    said = recordings.codes[places]
    return int((((said == PRESENT) != any_present) | ((said == ABSENT) != all_absent)).any(axis=1).sum())


def _counted(source: DatasetSource, kept: Mask, possible: Mask, recording: Index) -> str:
    """How many clips train, and of how many recordings, as a line."""
    left, count = int(possible.sum() - kept.sum()), len(np.unique(recording[kept]))
    return (
        f"l48: --l48_labels {source.l48_labels} --l48_rows {source.l48_rows}: {int(kept.sum()):,} clips of {count:,} "
        f"recordings train, {left:,} are left out"
    )
