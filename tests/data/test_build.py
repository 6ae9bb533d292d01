"""Which labels train and which validate: the true ones, or those that the regime lets be seen."""

import contextlib

import numpy as np
import pytest

from data import build
from data.build import DatasetConfig, build_data, load_splits
from data.images.files import ArrayImages
from data.labels.regime import Regime
from data.subsets.splits import TrainingSplitConfig
from tests.data.datasets.test_openimages import tree
from utils.checks import UserError
from utils.types import ABSENT, PRESENT, UNKNOWN, Annotations, LabelTable, Splits

CLASSES = ("a", "b", "c", "d")


def part(rows, prefix, given=None):
    rng = np.random.default_rng(rows)
    codes = rng.choice(np.array([0, 0, 1, -1], dtype=np.int8), size=(rows, len(CLASSES)))
    codes[:, 0] = PRESENT
    ids = tuple(f"{prefix}{row:03d}" for row in range(rows))
    images = ArrayImages(np.zeros((rows, 4, 4, 3), np.uint8), ids)
    return Annotations(images, ids, CLASSES, LabelTable(codes), given=given)


@pytest.fixture(autouse=True)
def dataset(monkeypatch, tmp_path):
    """A data set of random labels under the name `digits`; `own` gives it a validation split."""
    splits = {"now": Splits(part(40, "train"), part(8, "test"))}
    monkeypatch.setitem(build.DATASETS, "digits", lambda source: splits["now"])

    def own():
        splits["now"] = splits["now"]._replace(validation=part(9, "val"))

    with contextlib.chdir(tmp_path):
        yield own


def built(labels="single", label_file=None, seed=0, regime=None, **split):
    regime = Regime(labels=labels, label_file=label_file, **(regime or {}))
    return build_data(DatasetConfig(dataset="digits"), regime, TrainingSplitConfig(**split), seed)


def test_by_default_observed_labels_train_and_true_ones_validate():
    data = built(val_frac=0.25)
    assert (len(data.train), len(data.validation)) == (30, 10)
    assert data.observed.counts().sum() == 30
    truth = part(40, "train").truth.dense()
    rows = [int(one.removeprefix("train")) for one in data.validation.ids]
    np.testing.assert_array_equal(data.validation.truth.dense(), truth[rows])
    assert data.undivided.ids == part(40, "train").ids
    assert built().undivided is None


@pytest.mark.parametrize("labels", ["single", "dropped", "candidate", "given"])
def test_clean_training_labels_are_those_of_the_full_regime(labels, tmp_path):
    clean, full = built(labels, train_set_variant="clean", val_frac=0.25), built("full", val_frac=0.25)
    np.testing.assert_array_equal(clean.observed.dense(), full.observed.dense())
    assert clean.labels.label_hash == full.labels.label_hash
    assert clean.regime.name == "full"
    assert clean.train.ids == full.train.ids
    assert not list(tmp_path.rglob("*.npy")), "labels were drawn that nobody needs"


@pytest.mark.parametrize("train", ["observed", "clean"])
@pytest.mark.parametrize("labels", ["single", "dropped", "candidate", "flip", "known"])
def test_observed_validation_labels_are_the_regimes_with_unknown_read_as_absent(labels, train):
    split = {"val_frac": 0.25, "val_set_variant": "observed", "train_set_variant": train}
    data, whole = built(labels, **split), built(labels)
    rows = [whole.train.ids.index(one) for one in data.validation.ids]
    expected = whole.observed.dense()[rows]
    expected[expected == UNKNOWN] = ABSENT
    np.testing.assert_array_equal(data.validation.truth.dense(), expected)
    assert data.regime.name == ("full" if train == "clean" else labels)
    assert data.test.truth.dense().tolist() == part(8, "test").truth.dense().tolist(), "the test set stays as it is"


@pytest.mark.parametrize(
    ("labels", "regime"),
    [
        ("known", {}),
        ("observed", {"num_neg": 1}),
        ("semi", {"labelled_share": 0.5}),
        ("candidate", {}),
        ("flip", {}),
        ("full", {}),
    ],
)
def test_known_validation_labels_are_the_regimes_with_unknown_left_unknown(labels, regime):
    data, whole = built(labels, regime=regime, val_frac=0.25, val_set_variant="known"), built(labels, regime=regime)
    rows = [whole.train.ids.index(one) for one in data.validation.ids]
    np.testing.assert_array_equal(data.validation.truth.dense(), whole.observed.dense()[rows])
    assert data.test.truth.dense().tolist() == part(8, "test").truth.dense().tolist(), "the test set stays as it is"


@pytest.mark.parametrize("own", [{}, {"split_seed": 3}])
def test_labelled_images_of_semi_are_drawn_apart_from_those_that_validate(own):
    shares = []
    for seed in range(8):
        data = built("semi", seed=seed, regime={"labelled_share": 0.5}, val_frac=0.25, val_set_variant="known", **own)
        labelled = (data.validation.truth.dense() != UNKNOWN).any(axis=1).sum()
        assert labelled + (data.observed.dense() != UNKNOWN).any(axis=1).sum() == 20
        shares.append(labelled)
    assert len(set(shares)) > 1
    assert 3 < np.mean(shares) < 7  # half of the ten


def test_known_labels_of_a_validation_split_of_the_dataset_are_those_of_the_same_regime(dataset):
    dataset()
    codes = built("known", val_set_variant="known").validation.truth.dense()
    present = part(9, "val").truth.dense() == PRESENT
    assert (codes == UNKNOWN).any()
    np.testing.assert_array_equal(codes[codes != UNKNOWN] == PRESENT, present[codes != UNKNOWN])


@pytest.mark.parametrize("labels", ["single", "dropped"])
def test_validation_on_known_labels_needs_some_that_are_known_to_be_absent(labels):
    with pytest.raises(UserError, match=rf"--val_set_variant known: --labels {labels}.*observed.*clean"):
        built(labels, val_frac=0.25, val_set_variant="known")


def test_a_validation_split_of_the_dataset_is_observed_by_the_same_regime(dataset):
    dataset()
    data = built("single", val_set_variant="observed")
    codes = data.validation.truth.dense()
    assert set(np.unique(codes)) == {ABSENT, PRESENT}
    assert (codes.sum(axis=1) == 1).all()
    assert ((codes == PRESENT) <= (part(9, "val").truth.dense() == PRESENT)).all()
    np.testing.assert_array_equal(codes, built("single", val_set_variant="observed").validation.truth.dense())


def test_a_label_file_may_serve_validation_alone():
    first = built("single", val_frac=0.25)
    split = {"train_set_variant": "clean", "val_frac": 0.25}
    data = built("single", label_file=first.labels.path, val_set_variant="observed", **split)
    assert (data.validation.truth.counts().sum(), data.regime.name) == (10, "full")
    with pytest.raises(UserError, match=r"--train_set_variant clean.*--label_file"):
        built("single", label_file=first.labels.path, **split)


def test_observed_validation_needs_a_validation_split():
    for variant in ("observed", "known"):
        with pytest.raises(UserError, match=rf"--val_set_variant {variant}.*--val_frac"):
            built(val_set_variant=variant)


def test_a_share_for_validation_is_refused_where_there_is_a_validation_split(dataset):
    dataset()
    with pytest.raises(UserError, match=r"--val_frac 0\.2"):
        built(val_frac=0.2)


@pytest.mark.parametrize(
    "wrong", [{"test_frac": 1.0}, {"label_separator": "ab"}, {"imbalance": 1.0}, {"tail_max": 0}, {"dataset": "none"}]
)
def test_settings_of_tables_and_of_long_tails_are_checked_with_those_of_the_dataset(wrong):
    with pytest.raises(UserError, match=f"--{next(iter(wrong))}"):
        DatasetConfig(**wrong)


def test_the_number_of_classes_is_compared_with_the_dataset():
    assert len(load_splits(DatasetConfig(num_cls=4), 0, need_images=False).train.classes) == 4
    for number in (0, 3, 5):
        with pytest.raises(UserError, match=f"--num_cls {number}: digits has 4 classes; leave the flag out"):
            load_splits(DatasetConfig(num_cls=number), 0, need_images=False)


@pytest.mark.parametrize("name", ["red\x1b[31m", "bell\x07", "c1\x9b", "half\ud83d", "two\nlines"])
def test_class_names_that_no_terminal_or_file_should_get_are_refused(monkeypatch, name):
    rows = annotations_named(("cat", name))
    monkeypatch.setitem(build.DATASETS, "digits", lambda source: Splits(rows, rows))
    with pytest.raises(UserError, match="holds control characters or half a character; correct it") as caught:
        load_splits(DatasetConfig(dataset="digits"), 0, need_images=False)
    assert repr(name) in str(caught.value)


def annotations_named(classes):
    return Annotations(["x"], ("x",), classes, LabelTable(np.zeros((1, len(classes)), dtype=np.int8)))


HIERARCHY = '{"LabelName": "all", "Subcategory": [{"LabelName": "%s", "Subcategory": [{"LabelName": "%s"}]}]}'


def written(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_hierarchy_completes_all_three_splits_and_says_how_much(dataset, tmp_path, capsys):
    dataset()
    before = load_splits(DatasetConfig(dataset="digits"), 0, need_images=False)
    config = DatasetConfig(dataset="digits", hierarchy=written(tmp_path / "h.json", HIERARCHY % ("b", "c")))
    after = load_splits(config, 0, need_images=False)
    present = absent = overruled = 0
    for one, other in zip(before[:2] + before[3:4], after[:2] + after[3:4], strict=True):
        codes, found = one.truth.dense(), other.truth.dense()
        expected = codes.copy()
        expected[codes[:, 2] == PRESENT, 1] = PRESENT
        expected[(expected[:, 1] == ABSENT) & (codes[:, 2] == UNKNOWN), 2] = ABSENT
        np.testing.assert_array_equal(found, expected)
        assert one.content_hash() != other.content_hash()
        present += ((found == PRESENT) & (codes != PRESENT)).sum()
        absent += ((found == ABSENT) & (codes != ABSENT)).sum()
        overruled += ((found == PRESENT) & (codes == ABSENT)).sum()
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"{config.hierarchy}: 1 of its 3 names are no class here ('all')"
    assert f"{present} labels became present, as a class below them is; {overruled} of these were absent" in second
    assert f"{absent} became absent, as a class above them is" in second


def test_labels_of_a_dataset_that_gives_some_are_completed_too(dataset, tmp_path, monkeypatch):
    given = LabelTable(np.array([[-1, -1, 1, 1]] * 40, dtype=np.int8))
    monkeypatch.setitem(build.DATASETS, "digits", lambda source: Splits(part(40, "train", given), part(8, "test")))
    config = DatasetConfig(dataset="digits", hierarchy=written(tmp_path / "h.csv", "class,parent\nc,b\n"))
    data = build_data(config, Regime(labels="given"), TrainingSplitConfig(), 0)
    assert data.observed.dense().tolist() == [[-1, 1, 1, 1]] * 40


def test_openimages_is_completed_by_codes_and_by_names_and_stays_sparse(tmp_path):
    tree(tmp_path / "oi", train=[("a", "/m/a", 1), ("b", "/m/b", 0)], test=[("c", "/m/a", 1), ("c", "/m/b", 0)])
    for above, below in (("/m/b", "/m/a"), ("Name of /m/b, in words", "name of /m/a, in words")):
        file = written(tmp_path / "h.json", HIERARCHY % (above, below))
        config = DatasetConfig(
            dataset="openimages", path_images=tmp_path / "oi", hierarchy=file, cache_dir=tmp_path / "c"
        )
        splits = load_splits(config, 0, need_images=False)
        assert splits.train.truth.stores_known_only
        assert splits.train.truth.dense()[:, :2].tolist() == [[1, 1], [0, 0]]
        assert splits.test.truth.dense()[:, :2].tolist() == [[1, 1]]


def test_an_own_table_of_codes_is_completed_under_the_names_that_a_file_gives_them(tmp_path):
    table = written(
        tmp_path / "t.csv", "image,labels,split\n1.jpg,/m/1,train\n2.jpg,/m/2;/m/1,train\n3.jpg,/m/2,test\n"
    )
    names = written(tmp_path / "names.csv", "id,name\n/m/1,Cat\n/m/2,Animal\n/m/3,Plant\n")
    config = DatasetConfig(
        dataset="table",
        table=(table,),
        label_separator=";",
        class_names=names,
        hierarchy=written(tmp_path / "h.json", HIERARCHY % ("/m/2", "/m/1")),
    )
    splits = load_splits(config, 0, need_images=False)
    assert splits.train.classes == ("Cat", "Animal", "Plant")
    assert splits.train.truth.dense().tolist() == [[1, 1, 0], [1, 1, 0]]
    assert splits.test.truth.dense().tolist() == [[0, 1, 0]]


def test_the_split_without_a_test_kit_is_for_voc_alone(monkeypatch):
    asked = []
    monkeypatch.setitem(build.DATASETS, "voc07", lambda source: asked.append(source.train_val) or digits())
    for split in ("published", "train-val"):
        build.load_splits(DatasetConfig(dataset="voc07", split=split), 0, need_images=False)
    assert asked == [False, True]
    DatasetConfig(dataset="voc12", split="train-val")
    with pytest.raises(UserError, match=r"^--split train-val: is for voc07 \(voc12 has no other\), not for coco; "):
        DatasetConfig(dataset="coco", split="train-val")


def digits():
    return Splits(part(4, "train"), part(2, "test"))


@pytest.mark.parametrize("own", [False, True])
def test_images_that_are_left_out_are_in_no_part(dataset, monkeypatch, own):
    def even(part, split):
        return np.flatnonzero([int(one[-3:]) % 2 == 0 for one in part.ids])

    if own:
        dataset()
    whole = built()
    monkeypatch.setattr(build, "without_missing", even)
    config = DatasetConfig(dataset="digits", missing_images="skip")
    data = build_data(config, Regime(labels="single"), TrainingSplitConfig(val_frac=0.0 if own else 0.25), 0)
    train = tuple(f"train{row:03d}" for row in range(0, 40, 2))
    assert data.test.ids == tuple(f"test{row:03d}" for row in range(0, 8, 2))
    if own:
        assert (data.train.ids, data.undivided) == (train, None)
        assert data.validation.ids == tuple(f"val{row:03d}" for row in range(0, 9, 2))
    else:
        assert tuple(sorted(data.train.ids + data.validation.ids)) == data.undivided.ids == train
    rows = np.array([whole.train.ids.index(one) for one in data.train.ids])
    np.testing.assert_array_equal(data.observed.dense(), whole.observed.dense()[rows])


def test_labels_that_are_the_truth_are_in_memory_once(dataset, monkeypatch):
    dataset()
    monkeypatch.setattr(build, "without_missing", lambda part, split: np.arange(1, len(part)))
    for missing in ("error", "skip"):
        config = DatasetConfig(dataset="digits", missing_images=missing)
        data = build_data(config, Regime(labels="given"), TrainingSplitConfig(), 0)
        assert data.observed is data.train.truth is data.labels.table
        assert len(data.observed) == len(data.train) == (40 if missing == "error" else 39)


def test_drawn_labels_are_kept_of_the_rows_that_train_alone():
    data = built(val_frac=0.25)
    assert data.labels.table is data.observed is not data.train.truth
    assert (len(data.observed), len(data.labels.label_hash)) == (30, 64)
    assert data.labels.label_hash == built().labels.label_hash != data.observed.hash()
