"""Damaged and hostile label files, their manifests, and files of class rates."""

import io
import json
import os
import pickle
import struct
import zipfile
from dataclasses import replace

import numpy as np
from scipy.sparse import csr_array

from data.labels.files import manifest_path, native_path, published_path, resolve_labels, write_native, write_published
from data.labels.regime import Regime, observe
from tests.data.damage import Case
from tests.data.trees import annotations
from utils.types import UNKNOWN, LabelTable

CANDIDATE = Regime(labels="candidate", partial_rate=0.2, label_seed=3)
KNOWN = Regime(labels="known", known_rate=0.5, label_seed=3)


class Payload:
    """What runs a command when an ordinary unpickler loads it."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch '{self.marker}'",)


def training_set(rows=12, classes=5):
    return annotations(np.random.RandomState(0).choice([1, 0], (rows, classes), p=[0.4, 0.6]))


def known_only():
    """A truth of 60 entries, half of them stored, the others unknown."""
    codes = np.random.RandomState(0).choice([1, 0], (12, 5)).astype(np.int8)
    stored = np.random.RandomState(1).random_sample((12, 5)) < 0.5
    row, column = np.nonzero(stored)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=12))]).astype(np.int32)
    held = csr_array((codes[row, column], column.astype(np.int32), indptr), shape=codes.shape)
    return replace(training_set(), truth=LabelTable(held, default=UNKNOWN))


def loading(folder, held, regime):
    """The call that finds and reads the label file of a run, and is sure that no payload in it ran."""

    def load():
        try:
            resolve_labels(held, "voc07", regime, folder)
        finally:
            assert not (folder / "ran").exists(), "code in a label file was run"

    return load


def spoiled(name, spoil, *words, regime=CANDIDATE, held=training_set):
    """A file in our own form that `spoil(path)` damages after it was written."""

    def make(folder):
        path = native_path(folder, "voc07", regime, held())
        write_native(path, observe(held(), regime), held(), "voc07", regime)
        spoil(path)
        return loading(folder, held(), regime)

    return Case(name, make, (*words,))


def sparse(name, spoil, *words):
    return spoiled(f"sparse-{name}", spoil, ".npz", *words, regime=KNOWN, held=known_only)


def manifest(name, *words, **values):
    """A manifest with some values changed; a value that is Ellipsis is taken out."""

    def spoil(path):
        held = json.loads(manifest_path(path).read_text()) | values
        manifest_path(path).write_text(json.dumps({key: value for key, value in held.items() if value is not ...}))

    return spoiled(f"manifest-{name}", spoil, *words)


def arrays(name, *words, **values):
    """A sparse file with some arrays replaced by what is made of them; None takes one out."""

    def spoil(path):
        with np.load(path) as archive:
            held = {key: archive[key] for key in archive.files}
        made = {key: change(held.get(key)) for key, change in values.items()}
        np.savez(path, **{key: value for key, value in (held | made).items() if value is not None})

    return sparse(name, spoil, *words)


def published(name, held, *words):
    """A file in the published form that holds `held(marker)`."""

    def make(folder):
        path = published_path(folder, "voc07", CANDIDATE, training_set())
        np.save(path, np.array(held(folder / "ran"), dtype=object), allow_pickle=True)
        return loading(folder, training_set(), CANDIDATE)

    return Case(f"published-{name}", make, ("voc07_0.2.npy", *words))


def cut_published(name, keep, *words):
    def make(folder):
        path = published_path(folder, "voc07", CANDIDATE, training_set())
        write_published(path, observe(training_set(), CANDIDATE), training_set(), "voc07", CANDIDATE)
        path.write_bytes(keep(path.read_bytes()))
        return loading(folder, training_set(), CANDIDATE)

    return Case(f"published-{name}", make, ("voc07_0.2.npy", *words))


def rates(name, text, *words, setting="class_rates"):
    """A file of class rates, or a confusion, for the classes class0 to class4."""

    def make(folder):
        path = folder / f"{setting}.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return loading(folder, training_set(), Regime(labels="candidate", **{setting: path}))

    return Case(f"{setting}-{name}", make, (f"{setting}.csv", *words))


def rate_lines(**changed):
    held = {f"class{k}": "0.1" for k in range(5)} | changed
    return "class,rate\n" + "".join(f"{name},{rate}\n" for name, rate in held.items())


def confusion_lines(cell="0", header="true,class0,class1,class2,class3,class4", rows=5):
    lines = [f"class{j},{cell},0.1,0.1,0.1,0" for j in range(rows)]
    return "\n".join([header, *lines])


def npy(header, data=b"", version=(1, 0)):
    """An .npy file of any header."""
    size = struct.pack("<H" if version == (1, 0) else "<I", len(header))
    return b"\x93NUMPY" + bytes(version) + size + header + data


def header(descr="'|i1'", shape="(12, 5)"):
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()


def with_pickle(path):
    """Leave an array of objects, with a payload, where plain numbers should be."""
    np.save(path, np.array([[Payload(path.parent / "ran")] * 5] * 12, dtype=object), allow_pickle=True)


def pickled(path):
    path.write_bytes(pickle.dumps(Payload(path.parent / "ran")))


def rezipped(change, compression=zipfile.ZIP_STORED):
    """Write the members of a sparse file anew, as `change(name, bytes)` makes them."""

    def spoil(path):
        with zipfile.ZipFile(path) as archive:
            held = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w", compression) as archive:
            for name, content in held.items():
                archive.writestr(name, change(name, content))

    return spoil


def flipped_byte(path):
    content = bytearray(path.read_bytes())
    header = content.index(b"\x93NUMPY", content.index(b"codes.npy"))
    content[header + 128 + 2] ^= 0x01  # the third code
    path.write_bytes(bytes(content))


def with_object_member(path):
    """Leave an array of objects, with a payload, where the codes of a sparse file should be."""
    file = io.BytesIO()
    np.save(file, np.array([Payload(path.parent / "ran")], dtype=object), allow_pickle=True)
    replaced("codes.npy", file.getvalue())(path)


def replaced(member, content):
    return rezipped(lambda name, held: content if name == member else held)


def candidates(codes):
    return {"partial_labels": codes}


ONES = np.ones((12, 5), dtype=np.int64)


def mostly_ones(code):
    """Codes of which only the last is not 1."""
    codes = ONES.astype(np.int8)
    codes[-1, -1] = code
    return codes


CASES = [
    # the array of the dense form
    spoiled("empty", lambda p: p.write_bytes(b""), ".npy", "not an .npy file"),
    spoiled("cut-in-the-magic", lambda p: p.write_bytes(p.read_bytes()[:4]), ".npy"),
    spoiled("cut-in-the-header", lambda p: p.write_bytes(p.read_bytes()[:40]), ".npy"),
    spoiled("cut-in-the-data", lambda p: p.write_bytes(p.read_bytes()[:-1]), ".npy", "cut short"),
    spoiled("text", lambda p: p.write_text("0 1 0 1\n"), ".npy", "not an .npy file"),
    spoiled("floats", lambda p: np.save(p, ONES * 1.0), ".npy", "float64", "int8"),
    spoiled("wide-integers", lambda p: np.save(p, ONES), ".npy", "int64", "int8"),
    spoiled("transposed", lambda p: np.save(p, ONES.T.astype(np.int8)), ".npy", "(5, 12)", "(12, 5)"),
    spoiled("a-row-less", lambda p: np.save(p, ONES[1:].astype(np.int8)), ".npy", "(11, 5)"),
    spoiled("three-dimensions", lambda p: np.save(p, ONES[None].astype(np.int8)), ".npy", "(1, 12, 5)"),
    spoiled("other-codes", lambda p: np.save(p, np.full((12, 5), 99, np.int8)), ".npy", "other than 1, 0 and -1"),
    spoiled("a-code-above", lambda p: np.save(p, mostly_ones(2)), ".npy", "other than 1, 0 and -1"),
    spoiled("a-code-below", lambda p: np.save(p, mostly_ones(-2)), ".npy", "other than 1, 0 and -1"),
    spoiled("least-code", lambda p: np.save(p, np.full((12, 5), -128, np.int8)), ".npy", "other than 1, 0 and -1"),
    spoiled("all-ones", lambda p: np.save(p, ONES.astype(np.int8)), ".npy", "damaged or edited"),
    spoiled("all-zeros", lambda p: np.save(p, (0 * ONES).astype(np.int8)), ".npy", "no candidate"),
    spoiled("huge-shape", lambda p: p.write_bytes(npy(header(shape=f"({2**62}, 5)"), b"1" * 60)), ".npy"),
    spoiled("negative-shape", lambda p: p.write_bytes(npy(header(shape="(-12, 5)"), b"1" * 60)), ".npy"),
    spoiled("deep-header", lambda p: p.write_bytes(npy(b"(" * 9000 + b"\n")), ".npy", "not an .npy file"),
    spoiled("code-in-the-header", lambda p: p.write_bytes(npy(b"__import__('os').abort()\n")), ".npy"),
    spoiled("unknown-version", lambda p: p.write_bytes(npy(header(), b"1" * 60, (9, 0))), ".npy"),
    spoiled("structured", lambda p: np.save(p, np.zeros((12, 5), dtype=[("a", "i1")])), ".npy"),
    spoiled("pickled-objects", with_pickle, ".npy", "pickled Python objects"),
    spoiled("bare-pickle", pickled, ".npy", "not an .npy file"),
    # the manifest
    spoiled("no-manifest", lambda p: manifest_path(p).unlink(), ".npy", ".json", "no manifest"),
    spoiled("manifest-empty", lambda p: manifest_path(p).write_bytes(b""), ".json", "damaged manifest"),
    spoiled("manifest-cut", lambda p: manifest_path(p).write_bytes(manifest_path(p).read_bytes()[:99]), ".json"),
    spoiled("manifest-latin", lambda p: manifest_path(p).write_bytes(b'{"a": "\xe9"}'), ".json", "damaged manifest"),
    spoiled("manifest-list", lambda p: manifest_path(p).write_text("[1]"), ".json", "not an object"),
    spoiled("manifest-deep", lambda p: manifest_path(p).write_text("[" * 200_000), ".json", "damaged manifest"),
    spoiled("manifest-huge-number", lambda p: manifest_path(p).write_text('{"format": 1' + "0" * 9000 + "}"), ".json"),
    spoiled("manifest-folder", lambda p: (manifest_path(p).unlink(), manifest_path(p).mkdir()), ".json"),
    manifest("future", ".json", "format 3", format=3),
    manifest("no-format", ".json", "format null", format=...),
    manifest("text-format", ".json", 'format "2"', format="2"),
    manifest("no-regime", ".json", "'regime'", regime=...),
    manifest("no-parameters", ".json", "'parameters'", parameters=...),
    manifest("list-of-parameters", ".json", "'parameters'", parameters=[0.2]),
    manifest("text-seed", ".json", "'seed'", seed="3"),
    manifest("no-hash", ".json", "'row_hash'", row_hash=...),
    manifest("short-hash", ".json", "'label_hash'", label_hash="abc"),
    manifest("other-rows", ".npy", "other rows or classes", "00000000", row_hash="0" * 64),
    manifest("other-labels", ".npy", "damaged or edited", label_hash="0" * 64),
    manifest("other-shape", ".json", "(12, 5)", shape=[5, 12]),
    manifest("other-rate", ".npy", "partial_rate 0.3", "partial_rate 0.2", parameters={"partial_rate": 0.3}),
    manifest("text-rate", ".npy", "partial_rate 0.2", parameters={"partial_rate": "0.2\n"}),
    manifest("nan-rate", ".npy", "partial_rate NaN", parameters={"partial_rate": float("nan")}),
    manifest("other-regime", ".npy", "flip labels", "candidate labels", regime="flip"),
    manifest("other-seed", ".npy", "seed 4", "seed 3", seed=4),
    manifest("other-generator", ".npy", "native generator", "published generator", rng="native"),
    # the sparse form
    sparse("empty", lambda p: p.write_bytes(b""), "sparse labels"),
    sparse("cut", lambda p: p.write_bytes(p.read_bytes()[:-30]), "sparse labels"),
    sparse("half", lambda p: p.write_bytes(p.read_bytes()[: p.stat().st_size // 2]), "sparse labels"),
    sparse("no-zip", lambda p: p.write_text("codes"), "sparse labels"),
    sparse("a-byte-flipped", flipped_byte, "sparse labels", "CRC"),
    sparse("compressed", rezipped(lambda name, held: held, zipfile.ZIP_DEFLATED), "uncompressed"),
    sparse("objects", with_object_member, "sparse labels", "allow_pickle"),
    sparse("huge-shape", replaced("codes.npy", npy(header(shape=f"({2**60},)"))), "sparse labels"),
    sparse("overflowing-shape", replaced("codes.npy", npy(header(shape=f"({2**40}, {2**40})"))), "sparse labels"),
    sparse("member-without-data", replaced("indices.npy", npy(header("'<i4'", "(30,)"))), "sparse labels"),
    sparse("deep-header", replaced("indptr.npy", npy(b"(" * 9000 + b"\n")), "sparse labels"),
    arrays("no-codes", "sparse labels", "codes", codes=lambda held: None),
    arrays("another-member", "sparse labels", more=lambda held: ONES),
    arrays("default-of-two", "default", default=lambda held: np.array([0, 0], np.int8)),
    arrays("present-by-default", "default", default=lambda held: np.int8(1)),
    arrays("wide-default", "default", default=lambda held: np.int64(-1)),
    arrays("default-changed", "labelled absent", default=lambda held: np.int8(0)),
    arrays("other-shape", "shape", "[12, 5]", shape=lambda held: np.array([5, 12])),
    arrays("no-shape-at-all", "shape", shape=lambda held: np.array([], dtype=np.int64)),
    arrays("float-shape", "shape", shape=lambda held: held * 1.0),
    arrays("wide-codes", "codes", "int8", codes=lambda held: held.astype(np.int64)),
    arrays("square-codes", "codes", codes=lambda held: held[None]),
    arrays("other-codes", "other than 1, 0 and -1", codes=lambda held: held + np.int8(2)),
    arrays("a-code-less", "indptr", codes=lambda held: held[1:]),
    arrays("a-row-less", "indptr", "13", indptr=lambda held: held[1:]),
    arrays("float-starts", "indptr", indptr=lambda held: held * 1.0),
    arrays("starts-go-back", "indptr", "rise", indptr=lambda held: np.concatenate([held[:2], [10**6], held[3:]])),
    arrays("negative-start", "indptr", "rise", indptr=lambda held: np.concatenate([[-1], held[1:]])),
    arrays("end-beyond", "indptr", indptr=lambda held: np.concatenate([held[:-1], held[-1:] + 1])),
    arrays("a-class-less", "indices", indices=lambda held: held[1:]),
    arrays("class-beyond", "indices", "0 to 4", indices=lambda held: held + 1),
    arrays("negative-class", "indices", "0 to 4", indices=lambda held: held - 1),
    arrays("a-class-beyond", "indices", "0 to 4", indices=lambda held: np.append(held[:-1], held.dtype.type(5))),
    arrays("a-negative-class", "indices", "0 to 4", indices=lambda held: np.append(held.dtype.type(-1), held[1:])),
    arrays("class-twice", "indices", "ascend", indices=lambda held: held * 0),
    arrays("classes-descend", "indices", indices=lambda held: held[::-1]),
    arrays("unsigned-classes", "indices", indices=lambda held: held.astype(np.uint32)),
    arrays("other-labels", "row", codes=lambda held: (1 - held).astype(np.int8)),
    # the published form
    published("payload", Payload, "refused", "system"),
    published("payload-inside", lambda marker: candidates(Payload(marker)), "refused", "system"),
    published("payload-as-a-key", lambda marker: {Payload(marker): ONES}, "refused", "system"),
    published("no-such-array", lambda marker: {"labels": ONES}, "partial_labels"),
    published("list", lambda marker: candidates(ONES.tolist()), "partial_labels"),
    published("texts", lambda marker: candidates(ONES.astype(str)), "partial_labels"),
    published("complex", lambda marker: candidates(ONES * 1j), "partial_labels"),
    published("a-row-less", lambda marker: candidates(ONES[1:]), "(11, 5)", "(12, 5)"),
    published("too-wide", lambda marker: candidates(np.ones((12, 2, 5))), "(12, 2, 5)"),
    published("flat", lambda marker: candidates(ONES.ravel()), "(60,)"),
    published("twos", lambda marker: candidates(2 * ONES), "is 2 in row 0", "class0"),
    published("minus-ones", lambda marker: candidates(-ONES), "is -1 in row 0"),
    published("nan", lambda marker: candidates(ONES * np.nan), "is nan in row 0"),
    published("zeros", lambda marker: candidates(0 * ONES), "no candidate"),
    cut_published("cut", lambda content: content[:-60]),
    cut_published("cut-in-the-header", lambda content: content[:30]),
    # files of rates
    rates("empty", "", "is empty"),
    rates("utf-16", rate_lines().encode("utf-16"), "UTF-8"),
    rates("latin", b"class,rate\nclass\xe9,0.1\n", "UTF-8"),
    rates("nul", rate_lines() + "\0", "NUL"),
    rates("no-rate", "class,chance\nclass0,0.1\n", "'rate'"),
    rates("column-twice", "class,rate,rate\nclass0,0.1,0.1\n", "'rate'"),
    rates("cut", rate_lines()[:-14], "class4"),
    rates("unknown-class", rate_lines(unicorn="0.1"), "line 7", "unicorn"),
    rates("class-twice", rate_lines() + "class2,0.3\n", "line 7", "class2", "line 4"),
    rates("word", rate_lines(class1="often"), "line 3", "class1", "often"),
    rates("nan", rate_lines(class1="nan"), "line 3", "class1", "nan"),
    rates("percent", rate_lines(class1="10%"), "line 3", "class1", "10%"),
    rates("above-one", rate_lines(class4="1.5"), "line 6", "class4", "1.5"),
    rates("negative", rate_lines(class0="-0.1"), "line 2", "class0", "-0.1"),
    rates("blank", rate_lines(class0=""), "line 2", "class0"),
    rates("comma-for-point", rate_lines(class0="0,1"), "line 2", "3 fields"),
    rates("open-quote", 'class,rate\n"class0,0.1\n', "line"),
    rates("no-class", confusion_lines(header="true,class0,class1,class2,class3"), "line 2", setting="confusion"),
    rates("short", confusion_lines(rows=4), "class4", setting="confusion"),
    rates("class-again", confusion_lines(rows=5) + "\nclass1,0,0,0,0,0", "line 7", "class1", setting="confusion"),
    rates("other-class", confusion_lines(rows=6), "line 7", "class5", setting="confusion"),
    rates("beyond", confusion_lines("7"), "line 3", "class0 for class1", "7", setting="confusion"),
    rates("other-column", confusion_lines(header="true,class0,class1,x,class3,class4"), "'x'", setting="confusion"),
    rates("same-column", confusion_lines(header="t,class0,class1,class1,class3,class4"), "class1", setting="confusion"),
]
