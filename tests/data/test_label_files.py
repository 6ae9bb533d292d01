import json
import os
import pickle
import tarfile

import numpy as np
import pytest

from data.datasets.voc import load_voc
from data.label_files import (
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
from data.observed import Regime, observe
from tests.data.trees import annotations, real_data, source
from utils.checks import UserError
from utils.types import PRESENT, LabelTable

CANDIDATE = Regime(name="candidate", partial_rate=0.2, seed=3)
DRAWN = [
    CANDIDATE,
    Regime(name="candidate", partial_rate=0.2, seed=3, rng="native"),
    Regime(name="dropped", drop_rate=0.5, seed=3),
    Regime(name="single", seed=3),
    Regime(name="observed", num_pos=-1, num_neg=2, seed=3),
]


def training_set(seed=0, rows=12, classes=5):
    return annotations(np.random.RandomState(seed).choice([1, 0, -1], (rows, classes), p=[0.3, 0.6, 0.1]))


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


@pytest.mark.parametrize("regime", DRAWN, ids=lambda regime: f"{regime.name}-{regime.rng}")
def test_labels_are_made_once_and_found_again(tmp_path, regime):
    held, folder = training_set(), tmp_path / "deep" / "labels"
    first = resolve_labels(held, "digits", regime, folder)
    second = resolve_labels(held, "digits", regime, folder)
    assert (first.made, second.made) == (True, False)
    assert first.path == second.path == native_path(folder, "digits", regime, held)
    assert first.label_hash == second.label_hash == first.table.hash() == second.table.hash()
    np.testing.assert_array_equal(second.table.dense(), observe(held, regime).dense())
    assert sorted(path.suffix for path in folder.iterdir()) == [".json", ".npy"]
    explicit = resolve_labels(held, "other", regime, tmp_path / "nowhere", first.path)
    assert (explicit.made, explicit.path, explicit.label_hash) == (False, first.path, first.label_hash)
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("name", ["full", "given"])
def test_labels_without_chance_need_no_file(tmp_path, name):
    found = resolve_labels(training_set(), "voc07", Regime(name=name), tmp_path)
    assert (found.path, found.made) == (None, False)
    assert found.label_hash == observe(training_set(), Regime(name=name)).hash()
    assert list(tmp_path.iterdir()) == []


def test_the_name_and_the_manifest_say_what_the_file_is(tmp_path):
    held = training_set()
    path = resolve_labels(held, "voc07", CANDIDATE, tmp_path).path
    assert path.name == f"voc07_candidate_0.2_s3_{held.row_hash()[:8]}.npy"
    codes = np.load(path, allow_pickle=False)
    assert (codes.dtype, codes.shape) == (np.int8, (12, 5))
    manifest = json.loads(manifest_path(path).read_text())
    assert manifest["dataset"] == "voc07"
    assert (manifest["regime"], manifest["rate"], manifest["seed"], manifest["rng"]) == (
        "candidate",
        0.2,
        3,
        "published",
    )
    assert manifest["row_hash"] == held.row_hash()
    assert manifest["label_hash"] == LabelTable(codes).hash()
    assert (manifest["shape"], manifest["classes"]) == ([12, 5], list(held.classes))
    assert manifest["counts"] == (codes == PRESENT).sum(axis=0).tolist()


def test_every_regime_seed_and_row_set_has_a_name_of_its_own(tmp_path):
    regimes = [*DRAWN, Regime(name="dropped", drop_rate=0.25, seed=3), Regime(name="single", seed=4)]
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
        (lambda p: edit(p, shape=[1, 2]), ["x.npy", "(12, 5)"]),
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


def test_labels_that_contradict_the_truth_are_refused_naming_the_entry(tmp_path):
    held, path = native(tmp_path)
    truth = held.truth.dense()
    row, column = first_place(path, 1, truth, 1)
    flip(path, row, column, 0)
    refused(
        lambda: read_native(path, held, CANDIDATE), held.classes[column], f"row {row}", held.ids[row], "no candidate"
    )
    regime = Regime(name="observed", num_pos=1, num_neg=1)
    for code, wanted, words in ((1, 0, "labelled present"), (0, 1, "labelled absent")):
        held, path = native(tmp_path, regime)
        row, column = first_place(path, -1, truth, wanted)
        flip(path, row, column, code)
        refused(lambda: read_native(path, held, regime), held.classes[column], f"row {row}", words)  # noqa: B023
    held, path = native(tmp_path)
    flip(path, *first_place(path, 0, truth, 0), -1)
    refused(lambda: read_native(path, held, CANDIDATE), "unknown")


def test_an_edit_that_fits_the_truth_is_still_noticed(tmp_path):
    held, path = native(tmp_path)
    flip(path, *first_place(path, 0, held.truth.dense(), 0), 1)
    refused(lambda: read_native(path, held, CANDIDATE), "damaged or edited")


def test_labels_of_another_regime_are_refused(tmp_path):
    held, path = native(tmp_path)
    for other in (Regime(name="candidate", partial_rate=0.4, seed=3), Regime(name="single"), Regime(name="full")):
        refused(lambda other=other: read_labels(path, held, other), "candidate labels, rate 0.2", other.name)
    read_labels(path, held, Regime(name="candidate", partial_rate=0.2, seed=77))  # a named file brings its own seed
    found = native_path(tmp_path, "voc07", Regime(name="candidate", partial_rate=0.2, seed=77), held)
    path.rename(found)
    manifest_path(path).rename(manifest_path(found))
    regime = Regime(name="candidate", partial_rate=0.2, seed=77)
    refused(lambda: resolve_labels(held, "voc07", regime, tmp_path), "seed 3", "seed 77")


def test_single_is_observed_with_one_positive(tmp_path):
    held, path = native(tmp_path, Regime(name="single", seed=3))
    table = read_labels(path, held, Regime(name="observed", num_pos=1, num_neg=0))
    assert table.hash() == observe(held, Regime(name="single", seed=3)).hash()


@pytest.mark.parametrize("shape", [(12, 5), (12, 1, 5)])
@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.float64, np.uint8, np.bool_])
def test_published_files_are_used_when_they_fit(tmp_path, shape, dtype):
    held = training_set()
    codes = observe(held, Regime(name="candidate", partial_rate=0.2, seed=99)).dense()
    path = tmp_path / "voc07_0.2.npy"
    save_pickled(path, {"partial_labels": codes.astype(dtype).reshape(shape)})
    found = resolve_labels(held, "voc07", CANDIDATE, tmp_path)
    assert (found.path, found.made) == (path, False)
    np.testing.assert_array_equal(found.table.dense(), codes)
    assert list(tmp_path.iterdir()) == [path]
    fresh = resolve_labels(held, "voc07", Regime(name="candidate", partial_rate=0.2, seed=3, rng="native"), tmp_path)
    assert fresh.made
    assert resolve_labels(held, "voc07", Regime(name="candidate", partial_rate=0.4), tmp_path).made


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
    refused(lambda: read_published(path, training_set(), Regime(name="single")), "candidate labels only")


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
    refused(lambda: write_published(path, table, held, "voc07", Regime(name="single")), "candidate")
    refused(
        lambda: write_published(path, LabelTable(np.zeros((12, 5), np.int8)), held, "voc07", CANDIDATE), "candidate"
    )


def test_published_names(tmp_path):
    held = training_set()
    names = {
        ("voc07", 0.1): "voc07_0.1.npy",
        ("coco", 0.05): "coco_0.05.npy",
        ("voc-lt", 0.3): "voc-lt_0.3_sd7.npy",
        ("nw-lt", 0.05): "nus-wide_0.05_sd7.npy",
    }
    for (dataset, rate), name in names.items():
        regime = Regime(name="candidate", partial_rate=rate, seed=7)
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
    found = resolve_labels(trainval, "voc07", Regime(name="candidate", partial_rate=rate), folder)
    assert (found.path, found.made) == (folder / f"voc07_{rate}.npy", False)
    codes, positive = found.table.dense(), trainval.truth.dense() == PRESENT
    assert (codes[positive] == PRESENT).all()
    assert codes[~positive].mean() == pytest.approx(flipped, abs=5e-5)
