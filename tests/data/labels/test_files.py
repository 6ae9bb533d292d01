import json
import os
import pickle
import tarfile
import time
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from scipy.sparse import csr_array

from data.datasets.voc import load_voc
from data.labels import validation
from data.labels.files import (
    manifest_path,
    native_path,
    published_path,
    read_labels,
    read_native,
    read_published,
    resolve_labels,
    write_native,
    write_published,
)
from data.labels.regime import Regime, observe
from data.labels.validation import require_fit
from tests.data.trees import annotations, real_data, source
from utils.checks import UserError
from utils.types import ABSENT, PRESENT, UNKNOWN, LabelTable

CANDIDATE = Regime(labels="candidate", partial_rate=0.2, label_seed=3)
DRAWN = [
    CANDIDATE,
    Regime(labels="candidate", partial_rate=0.2, label_seed=3, label_rng="native"),
    Regime(labels="dropped", drop_rate=0.5, label_seed=3),
    Regime(labels="single", label_seed=3),
    Regime(labels="observed", num_pos=-1, num_neg=2, label_seed=3),
    Regime(labels="observed", num_pos=1, num_neg=-1, label_seed=3),
    Regime(labels="dropped", drop_rate=0.5, keep_one=True, label_seed=3),
    Regime(labels="known", known_rate=0.5, label_seed=3),
    Regime(labels="flip", rho_pos=0.3, rho_neg=0.2, label_seed=3),
    Regime(labels="semi", labelled_share=0.5, label_seed=3),
    Regime(labels="fpc", fpc_known=2, label_seed=3),
    Regime(labels="rps", rps_unknown=0.5, label_seed=3),
]
STORAGES = ("dense", "sparse", "known only")


def training_set(seed=0, rows=12, classes=5):
    return annotations(np.random.RandomState(seed).choice([1, 0, -1], (rows, classes), p=[0.3, 0.6, 0.1]))


def stored(held, storage):
    """The same annotations with their truth in another storage; "known only" forgets nothing but the storage of -1."""
    truth = held.truth.dense()
    if storage == "dense":
        return held
    if storage == "sparse":
        return replace(held, truth=LabelTable(csr_array(truth)))
    row, column = np.nonzero(truth != UNKNOWN)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=len(truth)))]).astype(np.int32)
    codes = csr_array((truth[row, column], column.astype(np.int32), indptr), shape=truth.shape)
    return replace(held, truth=LabelTable(codes, default=UNKNOWN))


def save_pickled(path, held):
    np.save(path, np.array(held, dtype=object), allow_pickle=True)


def refused(read, *words):
    with pytest.raises(UserError) as caught:
        read()
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


class Hostile:
    def __reduce__(self):
        return os.system, ("touch hostile_code_ran",)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("regime", DRAWN, ids=lambda regime: f"{regime.name}-{regime.rate_text}")
def test_labels_are_made_once_and_found_again(tmp_path, regime, storage):
    held, folder = stored(training_set(), storage), tmp_path / "deep" / "labels"
    first = resolve_labels(held, "digits", regime, folder)
    second = resolve_labels(held, "digits", regime, folder)
    assert (first.made, second.made) == (True, False)
    assert first.path == second.path == native_path(folder, "digits", regime, held)
    assert first.label_hash == second.label_hash == first.table.hash() == second.table.hash()
    np.testing.assert_array_equal(second.table.dense(), observe(held, regime).dense())
    suffix = ".npy" if storage == "dense" else ".npz"
    assert sorted(path.suffix for path in folder.iterdir()) == [".json", suffix]
    assert isinstance(second.table.codes, csr_array) == (suffix == ".npz")
    explicit = resolve_labels(held, "other", regime, tmp_path / "nowhere", first.path)
    assert (explicit.made, explicit.path, explicit.label_hash) == (False, first.path, first.label_hash)
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("name", ["full", "given"])
def test_labels_without_chance_need_no_file(tmp_path, name):
    found = resolve_labels(training_set(), "voc07", Regime(labels=name), tmp_path)
    assert (found.path, found.made) == (None, False)
    assert found.label_hash == observe(training_set(), Regime(labels=name)).hash()
    assert list(tmp_path.iterdir()) == []


def test_labels_that_a_dataset_gives_are_used_and_need_not_be_true(tmp_path):
    held = replace(training_set(), given=training_set(seed=1).truth)
    found = resolve_labels(held, "nuswide", Regime(labels="given"), tmp_path)
    assert found.table is held.given
    path = tmp_path / "given.npy"
    write_native(path, held.given, held, "nuswide", Regime(labels="given"))
    assert read_labels(path, held, Regime(labels="given")).hash() == held.given.hash()
    refused(lambda: read_labels(path, held, Regime(labels="full")), "holds given labels", "asked for are full labels")


def test_the_name_and_the_manifest_say_what_the_file_is(tmp_path):
    held = training_set()
    path = resolve_labels(held, "voc07", CANDIDATE, tmp_path).path
    assert path.name == f"voc07_candidate_0.2_s3_{held.row_hash()[:8]}.npy"
    codes = np.load(path, allow_pickle=False)
    assert (codes.dtype, codes.shape) == (np.int8, (12, 5))
    manifest = json.loads(manifest_path(path).read_text())
    assert manifest["dataset"] == "voc07"
    assert (manifest["format"], manifest["regime"], manifest["parameters"]) == (2, "candidate", {"partial_rate": 0.2})
    assert (manifest["seed"], manifest["rng"]) == (3, "published")
    assert manifest["row_hash"] == held.row_hash()
    assert manifest["label_hash"] == LabelTable(codes).hash()
    assert (manifest["shape"], manifest["classes"]) == ([12, 5], list(held.classes))
    assert manifest["counts"] == (codes == PRESENT).sum(axis=0).tolist()


def test_every_regime_seed_and_row_set_has_a_name_of_its_own(tmp_path):
    regimes = [*DRAWN, Regime(labels="dropped", drop_rate=0.25, label_seed=3), Regime(labels="single", label_seed=4)]
    names = [native_path(tmp_path, "coco", regime, training_set()).name for regime in regimes]
    names += [
        native_path(tmp_path, "coco", CANDIDATE, part).name for part in (training_set(rows=11), training_set(classes=4))
    ]
    assert len(set(names)) == len(names)


def native(tmp_path, regime=CANDIDATE):
    held = training_set()
    path = tmp_path / "x.npy"
    write_native(path, observe(held, regime), held, "voc07", regime)
    return held, path


def edit(path, **values):
    manifest = json.loads(manifest_path(path).read_text())
    manifest.update(values)
    manifest_path(path).write_text(json.dumps({key: value for key, value in manifest.items() if value != "gone"}))


def flip(path, row, column, code):
    codes = np.load(path)
    codes[row, column] = code
    np.save(path, codes)


def first_place(path, code, truth, wanted):
    return map(int, np.argwhere((np.load(path) == code) & (truth == wanted))[0])


@pytest.mark.parametrize(
    "spoil, words",
    [
        (lambda p: p.unlink(), ["x.npy", "no such label file"]),
        (lambda p: manifest_path(p).unlink(), ["x.json", "manifest"]),
        (lambda p: manifest_path(p).write_text("{"), ["x.json", "damaged manifest"]),
        (lambda p: manifest_path(p).write_bytes(b"\xff\xfe"), ["x.json", "damaged manifest"]),
        (lambda p: manifest_path(p).write_text("[]"), ["x.json", "damaged manifest"]),
        (lambda p: edit(p, row_hash="gone"), ["x.json", "row_hash"]),
        (lambda p: edit(p, seed="three"), ["x.json", "seed"]),
        (lambda p: edit(p, format=99), ["x.json", "99"]),
        (lambda p: edit(p, label_hash="0" * 64), ["x.npy", "00000000", "manifest"]),
        (lambda p: edit(p, format=True), ["x.json", "true"]),
        (lambda p: edit(p, parameters="gone"), ["x.json", "parameters"]),
        (lambda p: edit(p, parameters=[0.2]), ["x.json", "parameters"]),
        (lambda p: edit(p, parameters={}), ["x.npy", "candidate labels", "partial_rate 0.2"]),
        (lambda p: edit(p, parameters={"class_rates": "12345678"}), ["x.npy", "class_rates 12345678", "partial_rate"]),
        (lambda p: edit(p, regime="two\nlines"), ["x.npy", "two"]),
        (lambda p: edit(p, regime="x" * 41), ["x.npy", f"holds {'x' * 40} labels"]),
        (lambda p: edit(p, row_hash="x\ny"), ["x.json", "row_hash"]),
        (lambda p: edit(p, shape=[1, 2]), ["x.json", "(12, 5)"]),
        (lambda p: p.write_bytes(p.read_bytes()[:-7]), ["x.npy", "cut short"]),
        (lambda p: p.write_bytes(p.read_bytes()[:9]), ["x.npy"]),
        (lambda p: p.write_bytes(b""), ["x.npy"]),
        (lambda p: np.save(p, np.zeros((12, 5))), ["x.npy", "float64"]),
        (lambda p: np.save(p, np.zeros((5, 12), dtype=np.int8)), ["x.npy", "(5, 12)"]),
        (lambda p: np.save(p, np.full((12, 5), 7, dtype=np.int8)), ["x.npy", "other than 1, 0 and -1"]),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(tmp_path, spoil, words):
    held, path = native(tmp_path)
    spoil(path)
    refused(lambda: resolve_labels(held, "voc07", CANDIDATE, tmp_path, path), *words)


def test_labels_of_other_rows_are_refused_naming_both_hashes(tmp_path):
    held, path = native(tmp_path)
    for other in (training_set(rows=13), held.take(np.arange(12)[::-1].copy())):
        refused(lambda other=other: read_labels(path, other, CANDIDATE), held.row_hash()[:8], other.row_hash()[:8])


def entry(held, table, true, seen):
    """Row and class of the first entry with this true and this observed label."""
    return map(int, np.argwhere((held.truth.dense() == true) & (table.dense() == seen))[0])


CONTRADICTIONS = [
    (CANDIDATE, PRESENT, PRESENT, ABSENT, "is true and no candidate"),
    (CANDIDATE, PRESENT, PRESENT, UNKNOWN, "is true and no candidate"),
    (CANDIDATE, ABSENT, ABSENT, UNKNOWN, "is unknown, which candidate labels never are"),
    (Regime(labels="full"), ABSENT, ABSENT, PRESENT, "is labelled present and is not"),
    (Regime(labels="full"), PRESENT, PRESENT, ABSENT, "is labelled absent and is present"),
    (Regime(labels="full"), PRESENT, PRESENT, UNKNOWN, "is unknown, which full labels never are"),
]
for one in (
    Regime(labels="single"),
    Regime(labels="observed", num_pos=1, num_neg=1),
    Regime(labels="dropped"),
    Regime(labels="known"),
    Regime(labels="semi"),
    Regime(labels="fpc", fpc_known=3),
    Regime(labels="rps"),
):
    CONTRADICTIONS += [
        (one, ABSENT, UNKNOWN, PRESENT, "is labelled present and is not"),
        (one, PRESENT, UNKNOWN, ABSENT, "is labelled absent and is present"),
    ]
UNKNOWN_LABELLED = [(regime, UNKNOWN, UNKNOWN, code, "truth is unknown") for regime in DRAWN for code in (0, 1)]


def with_code(table, row, column, code):
    codes = table.dense()
    codes[row, column] = code
    if not isinstance(table.codes, csr_array):
        return LabelTable(codes)
    rows, columns = np.nonzero(codes != table.default)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(codes)))])
    held = csr_array((codes[rows, columns], columns, indptr), shape=codes.shape)
    return LabelTable(held, default=table.default)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("regime, true, seen, code, words", CONTRADICTIONS)
def test_labels_that_contradict_the_truth_are_refused_naming_the_entry(
    tmp_path, storage, regime, true, seen, code, words
):
    held = stored(training_set(rows=40), storage)
    table = observe(held, regime)
    row, column = entry(held, table, true, seen)
    path = tmp_path / f"x{'.npy' if storage == 'dense' else '.npz'}"
    write_native(path, with_code(table, row, column, code), held, "voc07", regime)
    place = (f"{held.classes[column]} {words} in row {row} ", held.ids[row], "1 such entries")
    refused(lambda: read_native(path, held, regime), *place)


@pytest.mark.parametrize("regime, true, seen, code, words", UNKNOWN_LABELLED)
def test_nothing_unknown_becomes_known_where_only_known_labels_are_stored(tmp_path, regime, true, seen, code, words):
    held = stored(training_set(rows=40), "known only")
    table = observe(held, regime)
    row, column = entry(held, table, true, seen)
    write_native(tmp_path / "x.npz", with_code(table, row, column, code), held, "openimages", regime)
    if regime.name == "flip":
        read_native(tmp_path / "x.npz", held, regime)
    else:
        place = (f"{held.classes[column]} is labelled and its {words} in row {row} ", held.ids[row])
        refused(lambda: read_native(tmp_path / "x.npz", held, regime), *place)


@pytest.mark.parametrize("truth", STORAGES)
@pytest.mark.parametrize("seen", STORAGES)
def test_wrong_entries_are_counted_alike_in_every_storage(tmp_path, truth, seen, monkeypatch):
    """Labels made for other rows, against a loop over all entries; also where what no table stores is wrong."""
    held, other = training_set(rows=40), training_set(seed=1, rows=40)
    held = replace(held, truth=LabelTable(np.maximum(held.truth.dense(), ABSENT)))
    other = replace(other, truth=LabelTable(np.maximum(other.truth.dense(), ABSENT)))
    known_only = truth == "known only"
    held, other = stored(held, truth), stored(other, seen)
    monkeypatch.setattr(validation, "_BLOCK", 17)
    for regime in (
        Regime(labels="candidate"),
        Regime(labels="dropped", drop_rate=0.2),
        Regime(labels="known", known_rate=0.7),
    ):
        table = observe(other, regime)
        pairs = np.stack([held.truth.dense(), table.dense()], axis=-1)
        if regime.name == "candidate":
            wrong = (pairs[..., 0] == PRESENT) & (pairs[..., 1] != PRESENT)
        else:
            wrong = (pairs[..., 0] != PRESENT) & (pairs[..., 1] == PRESENT)
        row, column = np.argwhere(wrong)[0]
        words = (f"{held.classes[column]} is", f"in row {row} ", f", {wrong.sum()} such entries")
        refused(lambda table=table, regime=regime: require_fit(tmp_path, table, held, regime), *words)
    empty = LabelTable(csr_array((40, 5), dtype=np.int8), default=UNKNOWN)
    if not known_only:
        nothing = replace(held, truth=LabelTable(csr_array((40, 5), dtype=np.int8)))
        refused(lambda: require_fit(tmp_path, empty, nothing, CANDIDATE), "class0 is unknown", "row 0 ", "200 such")
        odd = np.ones((40, 5), dtype=np.int8)
        odd[7, 3] = odd[9, 1] = ABSENT
        truth_of_odd = replace(held, truth=LabelTable(csr_array(odd)))
        few = LabelTable(csr_array((odd == 1).astype(np.int8)), default=UNKNOWN)
        refused(lambda: require_fit(tmp_path, few, truth_of_odd, CANDIDATE), "class3 is unknown", "row 7 ", "2 such")


def test_an_edit_that_fits_the_truth_is_still_noticed(tmp_path):
    held, path = native(tmp_path)
    flip(path, *first_place(path, 0, held.truth.dense(), 0), 1)
    refused(lambda: read_native(path, held, CANDIDATE), "damaged or edited")


def test_labels_of_another_regime_are_refused(tmp_path):
    held, path = native(tmp_path)
    for other in (
        Regime(labels="candidate", partial_rate=0.4, label_seed=3),
        Regime(labels="single"),
        Regime(labels="full"),
    ):
        refused(lambda other=other: read_labels(path, held, other), "candidate labels (partial_rate 0.2)", other.name)
    read_labels(
        path, held, Regime(labels="candidate", partial_rate=0.2, label_seed=77)
    )  # a named file brings its own seed
    found = native_path(tmp_path, "voc07", Regime(labels="candidate", partial_rate=0.2, label_seed=77), held)
    path.rename(found)
    manifest_path(path).rename(manifest_path(found))
    regime = Regime(labels="candidate", partial_rate=0.2, label_seed=77)
    refused(lambda: resolve_labels(held, "voc07", regime, tmp_path), "seed 3", "seed 77")


@pytest.mark.parametrize("regime", DRAWN, ids=lambda regime: f"{regime.name}-{regime.rate_text}")
def test_a_file_of_other_parameters_is_refused_naming_both(tmp_path, regime):
    held, path = native(tmp_path, regime)
    for key, value in regime.parameters().items() if regime.name != "single" else ():
        other = replace(regime, **{key: not value if isinstance(value, bool) else 1 if value == -1 else value / 2})
        if other.parameters() != regime.parameters():
            words = (f"{key} {json.dumps(value)}", f"{key} {json.dumps(other.parameters()[key])}")
            refused(lambda other=other: read_native(path, held, other), *words)
    assert read_native(path, held, replace(regime, label_seed=8)).hash() == observe(held, regime).hash()


def test_files_of_class_rates_are_told_by_their_content(tmp_path):
    held = training_set()
    regimes = []
    for number, rate in enumerate((0.1, 0.3)):
        rates = tmp_path / f"{number}.csv"
        rates.write_text("class,rate\n" + "".join(f"{name},{rate}\n" for name in held.classes))
        regimes.append(Regime(labels="candidate", class_rates=rates, label_seed=3))
    first, second = (resolve_labels(held, "voc07", regime, tmp_path / "labels") for regime in regimes)
    assert first.path != second.path
    assert resolve_labels(held, "voc07", regimes[0], tmp_path / "labels").made is False
    hashes = [regime.parameters()["class_rates"] for regime in regimes]
    refused(lambda: read_labels(first.path, held, regimes[1]), *(f"class_rates {one}" for one in hashes))
    refused(lambda: read_labels(first.path, held, CANDIDATE), f"class_rates {hashes[0]}", "partial_rate 0.2")
    published = published_path(tmp_path, "voc07", regimes[0], held)
    assert published.name == f"voc07_class_rates-{hashes[0]}.npy"


@pytest.mark.parametrize(
    "regime, told",
    [
        (CANDIDATE, {"rate": 0.2, "num_pos": None, "num_neg": None}),
        (Regime(labels="dropped", drop_rate=0.5, label_seed=3), {"rate": 0.5, "num_pos": None, "num_neg": None}),
        (Regime(labels="single", label_seed=3), {"rate": None, "num_pos": 1, "num_neg": 0}),
        (Regime(labels="observed", num_pos=-1, num_neg=2, label_seed=3), {"rate": None, "num_pos": -1, "num_neg": 2}),
        (Regime(labels="full"), {"rate": None, "num_pos": None, "num_neg": None}),
    ],
)
def test_manifests_of_the_first_format_are_read(tmp_path, regime, told):
    held, path = native(tmp_path, regime)
    edit(path, format=1, parameters="gone", **told)
    assert read_native(path, held, regime, same_draw=True).hash() == observe(held, regime).hash()
    for key, value in told.items():
        if value is not None:
            edit(path, **{key: value + 1})
            refused(lambda: read_native(path, held, regime), regime.name, json.dumps(value + 1))
            edit(path, **{key: value})
    keep_one = replace(regime, labels="dropped", drop_rate=0.5, keep_one=True)
    refused(lambda: read_native(path, held, keep_one), "keep_one true")
    edit(path, rate="much")
    refused(lambda: read_native(path, held, regime), "x.json", "rate")


def test_single_is_observed_with_one_positive(tmp_path):
    held, path = native(tmp_path, Regime(labels="single", label_seed=3))
    table = read_labels(path, held, Regime(labels="observed", num_pos=1, num_neg=0))
    assert table.hash() == observe(held, Regime(labels="single", label_seed=3)).hash()


@pytest.mark.parametrize("shape", [(12, 5), (12, 1, 5)])
@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.float64, np.uint8, np.bool_])
def test_published_files_are_used_when_they_fit(tmp_path, shape, dtype):
    held = training_set()
    codes = observe(held, Regime(labels="candidate", partial_rate=0.2, label_seed=99)).dense()
    path = tmp_path / "voc07_0.2.npy"
    save_pickled(path, {"partial_labels": codes.astype(dtype).reshape(shape)})
    found = resolve_labels(held, "voc07", CANDIDATE, tmp_path)
    assert (found.path, found.made) == (path, False)
    np.testing.assert_array_equal(found.table.dense(), codes)
    assert list(tmp_path.iterdir()) == [path]
    fresh = resolve_labels(
        held, "voc07", Regime(labels="candidate", partial_rate=0.2, label_seed=3, label_rng="native"), tmp_path
    )
    assert fresh.made
    assert resolve_labels(held, "voc07", Regime(labels="candidate", partial_rate=0.4), tmp_path).made


@pytest.mark.parametrize(
    "held, words",
    [
        ({"partial_labels": np.ones((11, 5), dtype=int)}, ["(11, 5)", "(12, 5)"]),
        ({"partial_labels": np.ones((12, 2, 5), dtype=int)}, ["(12, 2, 5)"]),
        ({"partial_labels": np.full((12, 5), 2)}, ["is 2 in row 0", "class0"]),
        ({"partial_labels": np.full((12, 5), np.nan)}, ["is nan in row 0"]),
        ({"partial_labels": np.zeros((12, 5), dtype=int)}, ["no candidate"]),
        ({"partial_labels": [[1] * 5] * 12}, ["partial_labels"]),
        ({"partial_labels": np.full((12, 5), "1")}, ["partial_labels"]),
        ({"labels": np.ones((12, 5), dtype=int)}, ["partial_labels"]),
        (Hostile(), ["system"]),
        ({"partial_labels": Hostile()}, ["system"]),
    ],
)
def test_a_published_file_that_does_not_fit_is_refused(tmp_path, monkeypatch, held, words):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "voc07_0.2.npy"
    save_pickled(path, held)
    refused(lambda: resolve_labels(training_set(), "voc07", CANDIDATE, tmp_path), "voc07_0.2.npy", *words)
    assert not (tmp_path / "hostile_code_ran").exists()


def test_a_damaged_published_file_is_refused(tmp_path):
    path = tmp_path / "voc07_0.2.npy"
    save_pickled(path, {"partial_labels": np.ones((12, 5), dtype=int)})
    path.write_bytes(path.read_bytes()[:-50])
    refused(lambda: resolve_labels(training_set(), "voc07", CANDIDATE, tmp_path), "voc07_0.2.npy")
    path.write_bytes(path.read_bytes()[:20])
    refused(lambda: resolve_labels(training_set(), "voc07", CANDIDATE, tmp_path), "voc07_0.2.npy")
    refused(lambda: read_published(path, training_set(), Regime(labels="single")), "candidate labels only")


def test_what_is_written_in_the_published_form_reads_as_published(tmp_path):
    held = training_set()
    path = published_path(tmp_path / "out", "voc07", CANDIDATE, held)
    table = observe(held, CANDIDATE)
    write_published(path, table, held, "voc07", CANDIDATE)
    with path.open("rb") as file:  # the way published code does, on a file of our own
        values = np.load(file, allow_pickle=True).item()["partial_labels"]
    np.testing.assert_array_equal(values, table.dense())
    assert values.dtype.kind == "i"
    assert resolve_labels(held, "voc07", CANDIDATE, tmp_path / "out").label_hash == table.hash()
    refused(lambda: write_published(path, table, held, "voc07", Regime(labels="single")), "candidate")
    refused(
        lambda: write_published(path, LabelTable(np.zeros((12, 5), np.int8)), held, "voc07", CANDIDATE), "candidate"
    )


@pytest.mark.parametrize("dtype", [np.float64, np.int32])
def test_published_files_of_listed_datasets_are_in_the_order_of_their_lists(tmp_path, dtype):
    places = np.random.RandomState(3).permutation(12)
    held = replace(training_set(), places=places)
    codes = observe(held, CANDIDATE).dense()
    in_list = np.empty_like(codes)
    for row, place in enumerate(places):
        in_list[place] = codes[row]
    assert (in_list != codes).any()
    path = tmp_path / "voc-lt_0.2_sd3.npy"
    save_pickled(path, {"partial_labels": in_list[:, None].astype(dtype)})
    found = resolve_labels(held, "voc-lt", CANDIDATE, tmp_path)
    assert found.path == path
    np.testing.assert_array_equal(found.table.dense(), codes)
    write_published(tmp_path / "again.npy", found.table, held, "voc-lt", CANDIDATE)
    values = np.load(tmp_path / "again.npy", allow_pickle=True).item()["partial_labels"]  # a file of our own
    assert (values.dtype, values.shape) == (np.float64, (12, 1, 5))
    np.testing.assert_array_equal(values[:, 0], in_list)
    unlisted = training_set(rows=12)
    save_pickled(path, {"partial_labels": codes})
    np.testing.assert_array_equal(read_published(path, unlisted, CANDIDATE).dense(), codes)


def test_a_published_file_of_a_larger_set_is_matched_by_id(tmp_path):
    whole = training_set()
    codes = observe(whole, CANDIDATE).dense()
    path = tmp_path / "voc07_0.2.npy"
    save_pickled(path, {"partial_labels": codes})
    rows = np.array([7, 2, 11])
    part = replace(whole, listed=whole.ids).take(rows)
    np.testing.assert_array_equal(read_published(path, part, CANDIDATE).dense(), codes[rows])
    np.testing.assert_array_equal(resolve_labels(part, "voc07", CANDIDATE, tmp_path).table.dense(), codes[rows])
    save_pickled(path, {"partial_labels": codes[rows]})  # a file of this set alone still is one
    np.testing.assert_array_equal(read_published(path, part, CANDIDATE).dense(), codes[rows])
    save_pickled(path, {"partial_labels": codes[:5]})
    refused(lambda: read_published(path, part, CANDIDATE), "(5, 5)", "has (3, 5) or, of the whole list, (12, 5)")
    save_pickled(path, {"partial_labels": codes[:5]})
    refused(lambda: read_published(path, whole.take(rows), CANDIDATE), "this training set has (3, 5)")


def test_sparse_labels_have_no_published_form_and_a_suffix_of_their_own(tmp_path):
    held = stored(training_set(), "sparse")
    table = observe(held, CANDIDATE)
    refused(lambda: write_published(tmp_path / "x.npy", table, held, "voc07", CANDIDATE), "x.npy", "sparse")
    refused(lambda: write_native(tmp_path / "x.npy", table, held, "voc07", CANDIDATE), "x.npy", "x.npz")
    dense = LabelTable(table.dense())
    refused(lambda: write_native(tmp_path / "x.npz", dense, held, "voc07", CANDIDATE), "x.npz", "x.npy")
    assert list(tmp_path.iterdir()) == []


def test_dense_and_sparse_files_serve_truth_of_either_storage(tmp_path):
    held = training_set()
    for regime in DRAWN:
        for storage, suffix in (("dense", ".npy"), ("sparse", ".npz")):
            path = tmp_path / f"{regime.name}-{regime.rate_text}{suffix}"
            write_native(path, observe(stored(held, storage), regime), held, "voc07", regime)
            for other in ("dense", "sparse"):
                assert read_labels(path, stored(held, other), regime).hash() == observe(held, regime).hash()


def test_a_sparse_file_holds_plain_arrays(tmp_path):
    held = stored(training_set(), "known only")
    path = resolve_labels(held, "openimages", Regime(labels="known", known_rate=0.5), tmp_path).path
    with np.load(path, allow_pickle=False) as arrays:
        assert sorted(arrays.files) == ["codes", "default", "indices", "indptr", "shape"]
        assert (arrays["codes"].dtype, arrays["default"].item(), arrays["shape"].tolist()) == (np.int8, -1, [12, 5])
        assert arrays["indices"].dtype == arrays["indptr"].dtype == np.int32
    with zipfile.ZipFile(path) as archive:
        assert {member.compress_type for member in archive.infolist()} == {zipfile.ZIP_STORED}


def test_an_empty_sparse_table_is_written_and_read(tmp_path):
    held = stored(annotations(np.zeros((4, 3))), "sparse")
    regime = Regime(labels="dropped")
    first, second = (resolve_labels(held, "x", regime, tmp_path) for _ in range(2))
    assert (second.made, second.table.codes.nnz) == (False, 0)
    assert first.label_hash == second.label_hash


def test_published_names(tmp_path):
    held = training_set()
    names = {
        ("voc07", 0.1): "voc07_0.1.npy",
        ("coco", 0.05): "coco_0.05.npy",
        ("voc-lt", 0.3): "voc-lt_0.3_sd7.npy",
        ("nw-lt", 0.05): "nus-wide_0.05_sd7.npy",
    }
    for (dataset, rate), name in names.items():
        regime = Regime(labels="candidate", partial_rate=rate, label_seed=7)
        assert published_path(tmp_path, dataset, regime, held).name == name


def test_an_interrupted_write_leaves_no_array_without_its_manifest(tmp_path, monkeypatch):
    held = training_set()
    monkeypatch.setattr(np, "save", lambda *args, **kwargs: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        resolve_labels(held, "voc07", CANDIDATE, tmp_path)
    monkeypatch.undo()
    assert [path.suffix for path in tmp_path.iterdir()] == [".json"]
    assert resolve_labels(held, "voc07", CANDIDATE, tmp_path).made
    assert not resolve_labels(held, "voc07", CANDIDATE, tmp_path).made


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("in the way")
    refused(lambda: resolve_labels(training_set(), "voc07", CANDIDATE, tmp_path / "file"), "cannot be made")


def test_truth_and_table_are_untouched(tmp_path):
    held = training_set()
    before = pickle.dumps(held.truth.dense())
    resolve_labels(held, "voc07", CANDIDATE, tmp_path)
    assert pickle.dumps(held.truth.dense()) == before


@pytest.fixture(scope="session")
def trainval(tmp_path_factory):
    folder = tmp_path_factory.mktemp("voc2007")
    with tarfile.open(real_data("voc2007_annotations.tar.xz")) as archive:
        archive.extractall(folder, members=[one for one in archive if "ImageSets" in one.name], filter="data")
    return load_voc(source(folder, folder / "cache"), 2007).train


@pytest.mark.parametrize("rate, flipped", [(0.1, 0.1001), (0.2, 0.2000), (0.4, 0.3988)])
def test_real_published_files_fit_the_real_labels(trainval, rate, flipped):
    folder = real_data("pre-processed-data")
    found = resolve_labels(trainval, "voc07", Regime(labels="candidate", partial_rate=rate), folder)
    assert (found.path, found.made) == (folder / f"voc07_{rate}.npy", False)
    codes, positive = found.table.dense(), trainval.truth.dense() == PRESENT
    assert (codes[positive] == PRESENT).all()
    assert codes[~positive].mean() == pytest.approx(flipped, abs=5e-5)


def other_truth(held):
    """The same rows, of which one label was taken back."""
    truth = held.truth.dense().copy()
    truth[tuple(np.argwhere(truth == PRESENT)[0])] = ABSENT
    return replace(held, truth=LabelTable(truth))


def test_labels_of_other_true_labels_stay_beside_those_of_these(tmp_path, capsys):
    held = training_set()
    first = resolve_labels(held, "voc07", CANDIDATE, tmp_path)
    assert capsys.readouterr().err == ""
    changed = other_truth(held)
    second = resolve_labels(changed, "voc07", CANDIDATE, tmp_path)
    assert second.path == first.path.with_stem(f"{first.path.stem}_{changed.truth.hash()[:8]}")
    assert (
        f"note: {first.path}: drawn when the true labels were others; {second.path.name} is for what they are now"
        in (capsys.readouterr().err)
    )
    assert [resolve_labels(one, "voc07", CANDIDATE, tmp_path).made for one in (held, changed)] == [False, False]
    second.path.unlink()
    edit(first.path, truth_hash="gone")  # as files of before
    assert resolve_labels(held, "voc07", CANDIDATE, tmp_path).path == first.path
    assert resolve_labels(changed, "voc07", CANDIDATE, tmp_path).path == second.path


def test_a_named_file_of_other_true_labels_is_used_and_that_is_said(tmp_path, capsys):
    held, path = native(tmp_path)
    resolve_labels(held, "voc07", CANDIDATE, tmp_path, path)
    assert capsys.readouterr().err == ""
    resolve_labels(other_truth(held), "voc07", CANDIDATE, tmp_path, path)
    assert f"note: {path}: made when the true labels were others; it is used as it is" in capsys.readouterr().err
    edit(path, truth_hash="gone")
    resolve_labels(other_truth(held), "voc07", CANDIDATE, tmp_path, path)
    save_pickled(path, {"partial_labels": np.ones((12, 5), dtype=int)})
    manifest_path(path).write_text("{}")  # of something else
    resolve_labels(held, "voc07", CANDIDATE, tmp_path, path)
    assert capsys.readouterr().err == ""


def test_the_manifest_is_text_for_people_and_abandoned_files_go(tmp_path):
    held = replace(training_set(), classes=("é", *"bcde"))
    path = tmp_path / "x.npy"
    for name, age in ((".x.npy.1.tmp", 4000), (".x.json.1.tmp", 4000), (".x.npy.2.tmp", 3000)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    write_native(path, observe(held, CANDIDATE), held, "voc07", CANDIDATE)
    assert sorted(one.name for one in tmp_path.iterdir()) == [".x.npy.2.tmp", "x.json", "x.npy"]
    text = manifest_path(path).read_text(encoding="utf-8")
    assert text == json.dumps(json.loads(text), indent=1, ensure_ascii=False) + "\n"
    assert "é" in text


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
def test_published_files_are_known_by_their_header_of_either_version(tmp_path, version):
    held, path = training_set(), tmp_path / "named.npy"
    codes = observe(held, CANDIDATE).dense()
    with path.open("wb") as file:
        np.lib.format.write_array(file, np.array({"partial_labels": codes}, dtype=object), version)
    assert read_labels(path, held, CANDIDATE).hash() == LabelTable(codes).hash()
