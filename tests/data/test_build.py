"""Which labels train and which validate: the true ones, or those that the regime lets be seen."""

import contextlib

import numpy as np
import pytest

from data import build
from data.build import DatasetConfig, build_data, load_splits
from data.images.files import ArrayImages
from data.labels.regime import Regime
from data.subsets.splits import TrainingSplitConfig
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


def built(labels="single", label_file=None, seed=0, **split):
    regime = Regime(labels=labels, label_file=label_file)
    return build_data(DatasetConfig(dataset="digits"), regime, TrainingSplitConfig(**split), seed)


def test_by_default_observed_labels_train_and_true_ones_validate():
    data = built(val_frac=0.25)
    assert (len(data.train), len(data.validation)) == (30, 10)
    assert data.observed.counts().sum() == 30
    truth = part(40, "train").truth.dense()
    rows = [int(one.removeprefix("train")) for one in data.validation.ids]
    np.testing.assert_array_equal(data.validation.truth.dense(), truth[rows])


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
    with pytest.raises(UserError, match=r"--val_set_variant observed.*--val_frac"):
        built(val_set_variant="observed")


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
