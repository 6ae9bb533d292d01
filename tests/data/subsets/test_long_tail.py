"""Long-tailed subsets of any dataset."""

from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.stats import spearmanr

from data.datasets.long_tail import LAYOUTS
from data.images.files import FileImages
from data.subsets.long_tail import (
    LongTailConfig,
    choose_rows,
    class_targets,
    long_tailed_rows,
    subsample_long_tail,
    target_counts,
    write_lists,
)
from tests.data.damage.longtail import load
from tests.data.datasets.test_long_tail import load_real
from tests.data.trees import annotations
from tests.oracles import long_tail as oracle
from utils.checks import UserError
from utils.long_tail import class_groups
from utils.types import ABSENT, PRESENT, UNKNOWN, Annotations, LabelTable, Splits

NAMES = list(LAYOUTS)


def random_truth(seed, rows=600, classes=12):
    """Labels with a frequent class that goes with the others, and a class that nobody has."""
    rng = np.random.default_rng(seed)
    chances = np.array([0.6, *np.linspace(0.25, 0.03, classes - 2), 0.0])
    truth = (rng.random((rows, classes)) < chances).astype(np.int8)
    truth[rng.random((rows, classes)) < 0.02] = UNKNOWN
    truth[:, -1] = ABSENT
    return truth


def settings(**more):
    return LongTailConfig(**{"long_tail": "exponential", "imbalance": 20.0, **more})


@pytest.mark.parametrize("profile", ["exponential", "pareto"])
@pytest.mark.parametrize(
    "classes, largest, imbalance", [(2, 7, 3.0), (20, 775, 193.75), (80, 1128, 188.0), (81, 9e4, 1e4)]
)
def test_targets_match_the_formula(profile, classes, largest, imbalance):
    got = target_counts(profile, classes, largest, imbalance)
    np.testing.assert_allclose(got, getattr(oracle, profile)(classes, largest, imbalance), rtol=1e-9)
    assert got[0] == pytest.approx(largest)
    assert got[-1] == pytest.approx(largest / imbalance)
    assert (np.diff(got) < 0).all()
    np.testing.assert_array_equal(target_counts(profile, 1, largest, imbalance), [largest])


def test_targets_by_hand():
    np.testing.assert_allclose(target_counts("exponential", 3, 100, 100), [100, 10, 1])


@pytest.mark.parametrize("profile", ["exponential", "pareto"])
@pytest.mark.parametrize("order", ["frequency", "random"])
def test_targets_of_classes_keep_to_what_there_is(profile, order):
    counts = np.array([5, 0, 300, 40, 300, 2])
    config = settings(long_tail=profile, tail_order=order)
    for seed in range(5):
        got = class_targets(counts, config, np.random.default_rng(seed))
        assert (got <= counts).all()
        np.testing.assert_array_equal(got == 0, counts == 0)
    if order == "frequency":
        wanted = np.rint(target_counts(profile, 5, 300, 20.0))  # ranks: classes 2, 4, 3, 0, 5
        np.testing.assert_array_equal(got[[2, 4, 3, 0, 5]], np.clip(wanted, 1, [300, 300, 40, 5, 2]))


def test_a_random_order_ranks_classes_anew_for_each_seed():
    counts = np.full(8, 1000)
    firsts = {
        int(class_targets(counts, settings(tail_order="random"), np.random.default_rng(k)).argmax()) for k in range(30)
    }
    assert len(firsts) > 3


def test_the_rarest_class_may_keep_a_single_image():
    got = class_targets(np.array([90, 50, 60]), settings(imbalance=90), np.random.default_rng(0))
    assert got.tolist() == [90, 1, 9]


def test_tail_max_is_the_target_of_the_first_class():
    assert class_targets(np.array([50, 90, 60]), settings(tail_max=30), np.random.default_rng(0))[1] == 30


@pytest.mark.parametrize("order", ["frequency", "random"])
@pytest.mark.parametrize("profile", ["exponential", "pareto"])
@pytest.mark.parametrize("seed", range(3))
def test_chosen_rows_are_a_sound_subset(profile, order, seed):
    truth = random_truth(seed)
    table, config = LabelTable(truth), settings(long_tail=profile, tail_order=order)
    rows = long_tailed_rows(table, config, seed)
    assert rows.dtype == np.int64
    assert (np.diff(rows) > 0).all()
    assert (truth[rows] == PRESENT).any(axis=1).all()
    np.testing.assert_array_equal(table.take(rows).counts() > 0, table.counts() > 0)  # no class is lost
    np.testing.assert_array_equal(rows, long_tailed_rows(table, config, seed))
    assert rows.tolist() != long_tailed_rows(table, config, seed + 1).tolist()
    sparse = LabelTable(csr_array(truth))
    np.testing.assert_array_equal(rows, long_tailed_rows(sparse, config, seed))
    unknown_stored = csr_array((truth - UNKNOWN).astype(np.int8))  # entries that are not unknown
    unknown_stored.data += UNKNOWN
    np.testing.assert_array_equal(rows, long_tailed_rows(LabelTable(unknown_stored, default=UNKNOWN), config, seed))


@pytest.mark.parametrize("seed", range(3))
def test_no_row_can_be_dropped_for_the_better(seed):
    truth = random_truth(seed, rows=150)
    targets = class_targets(LabelTable(truth).counts(), settings(), np.random.default_rng(0))
    rows = choose_rows(LabelTable(truth), targets, np.random.default_rng(seed)).tolist()
    reached = oracle.deviation(truth, rows, targets)
    counts = (truth[rows] == PRESENT).sum(axis=0)
    for row in rows:
        rest = [one for one in rows if one != row]
        loses_a_class = (counts[truth[row] == PRESENT] == 1).any()
        assert loses_a_class or oracle.deviation(truth, rest, targets) >= reached - 1e-9


@pytest.mark.parametrize("seed", range(12))
def test_rows_are_chosen_as_by_measuring_every_deviation_anew(seed):
    rng = np.random.default_rng(seed)
    truth = (rng.random((40, 5)) < rng.uniform(0.05, 0.6, 5)).astype(np.int8)
    truth[:5] = np.eye(5)
    targets = rng.choice([1, 2, 4, 8], 5)  # shares of these add up without rounding
    expected = oracle.chosen(truth, targets, np.random.default_rng(seed))
    assert choose_rows(LabelTable(truth), targets, np.random.default_rng(seed)).tolist() == expected


@pytest.mark.parametrize("seed", range(6))
def test_a_class_that_no_row_helps_gets_the_row_that_harms_least(seed):
    truth = np.zeros((33, 3), dtype=np.int8)
    truth[:15, 0] = truth[15:30, 1] = 1  # alone
    truth[30:, [0, 2]] = truth[[30, 32], 1] = 1  # the frequent class comes with one rare class, or with both
    targets = np.array([1, 1, 8])
    got = choose_rows(LabelTable(truth), targets, np.random.default_rng(seed)).tolist()
    assert got == oracle.chosen(truth, targets, np.random.default_rng(seed))
    assert truth[got].any(axis=0).all()


def test_where_images_hold_one_label_each_targets_are_met_exactly():
    label = np.repeat(np.arange(6), [400, 300, 200, 200, 150, 100])
    table = LabelTable(np.eye(6, dtype=np.int8)[label])
    config = settings(tail_max=100)
    got = table.take(long_tailed_rows(table, config, 3)).counts()
    np.testing.assert_array_equal(got, class_targets(table.counts(), config, np.random.default_rng(0)))


def test_a_class_that_only_goes_with_a_rarer_one_keeps_an_image():
    truth = np.zeros((40, 3), dtype=np.int8)
    truth[:, 0] = truth[:4, 1] = truth[4:8, 2] = 1  # 0 is in every image
    targets = np.array([1, 2, 2])
    rows = choose_rows(LabelTable(truth), targets, np.random.default_rng(0))
    assert (truth[rows].sum(axis=0)[1:] >= 1).all()


def plain_choices(truth, targets, rng):
    """What people do without thinking of co-occurrence: for each class its target of rows, and all of them together."""
    rows = [rng.choice(np.flatnonzero(truth[:, k] == PRESENT), n, replace=False) for k, n in enumerate(targets)]
    return np.unique(np.concatenate(rows))


@pytest.mark.parametrize("name, largest", [("voc-lt", 500), ("coco-lt", 1000)])
@pytest.mark.parametrize("profile", ["exponential", "pareto"])
def test_real_labels_come_closer_to_the_targets_than_plain_choices(tmp_path, name, largest, profile):
    table = load_real(name, tmp_path).test.truth  # VOC 2007 test, COCO 2017 val
    config = settings(long_tail=profile, imbalance=100.0, tail_max=largest)
    targets = class_targets(table.counts(), config, np.random.default_rng(0))
    truth = table.dense()

    def distance(rows):
        got = (truth[rows] == PRESENT).sum(axis=0)
        return np.abs(np.log(np.maximum(got, 0.5) / targets)).mean()

    rows = long_tailed_rows(table, config, 0)
    rng = np.random.default_rng(1)
    assert distance(rows) < 0.5 * distance(plain_choices(truth, targets, rng))
    assert distance(rows) < 0.5 * distance(rng.choice(len(truth), len(rows), replace=False))
    assert spearmanr(table.take(rows).counts(), targets)[0] > 0.95


def test_thin_out_gives_a_subset_with_its_own_groups():
    train, test = annotations(random_truth(1)), annotations(random_truth(2)[:5], [f"test{k}" for k in range(5)])
    splits = Splits(train, test, {"special": np.array([0])})
    assert subsample_long_tail(splits, LongTailConfig(), 0) is splits
    got = subsample_long_tail(splits, settings(), 0)
    rows = long_tailed_rows(train.truth, settings(), 0)
    assert got.train.ids == tuple(train.ids[row] for row in rows)
    assert got.test is test
    expected = {"special": np.array([0]), **class_groups(got.train.truth.counts())}
    assert {name: group.tolist() for name, group in got.groups.items()} == {
        name: group.tolist() for name, group in expected.items()
    }


def test_tail_seed_stands_in_for_the_seed():
    table = LabelTable(random_truth(0))
    np.testing.assert_array_equal(
        long_tailed_rows(table, settings(tail_seed=5), 0), long_tailed_rows(table, settings(), 5)
    )


@pytest.mark.parametrize("name", NAMES)
def test_written_lists_read_back(tmp_path, name):
    layout, root = LAYOUTS[name], tmp_path / "images"
    stems = {
        "voc-lt": "VOCdevkit/VOC2012/JPEGImages/2008_{:06d}",
        "coco-lt": "train2017/{:012d}",
        "nw-lt": "images/{:03d}_a",
    }

    def part(first, truth):
        files = [stems[name].format(first + row) for row in range(len(truth))]
        ids = tuple(layout.image_id(Path(f"{file}.jpg")) for file in files)
        classes = tuple(f"class {k}" for k in range(truth.shape[1]))
        return Annotations(FileImages([root / f"{file}.jpg" for file in files]), ids, classes, LabelTable(truth))

    splits = Splits(part(0, random_truth(3, rows=30)), part(500, random_truth(4, rows=9)))
    write_lists(tmp_path / "appendix" / layout.lists, layout.prefix, splits, root)
    got = load(tmp_path, name)
    for read, made in zip(got[:2], splits[:2], strict=True):
        assert (read.ids, read.classes) == (made.ids, made.classes)
        assert [read.images.name(row) for row in range(len(read))] == [
            made.images.name(row) for row in range(len(made))
        ]
        np.testing.assert_array_equal(read.truth.dense(), made.truth.dense() == PRESENT)
        np.testing.assert_array_equal(read.places, np.arange(len(made)))


def test_lists_are_written_as_published_ones_look(tmp_path):
    splits = Splits(annotations([[1, 0, 1], [0, -1, 0]], ["p/a", "p/b"]), annotations([[0, 1, 0]], ["p/c"]))
    write_lists(tmp_path / "new" / "lists", "nw", splits, Path("p"))
    texts = {file.name: file.read_text() for file in (tmp_path / "new" / "lists").iterdir()}
    assert texts == {
        "nw_lt_train.txt": "a.jpg 0 2\nb.jpg\n",
        "nw_lt_test.txt": "c.jpg 1\n",
        "nw_labels.txt": "class0 0\nclass1 1\nclass2 2\n",
    }


@pytest.mark.parametrize("name", ["", " cat", "traffic  light", "a\nb"])
def test_class_names_that_no_line_can_hold_are_refused(tmp_path, name):
    part = annotations([[1]], ["a"])
    part = Annotations(part.images, part.ids, (name,), part.truth)
    with pytest.raises(UserError, match="class "):
        write_lists(tmp_path / "lists", "nw", Splits(part, part), Path())
    assert not (tmp_path / "lists").exists()


@pytest.mark.parametrize(
    "path, fault",
    [
        ("q/a", "not in p; lists name images by their path from one folder"),
        ("p/a b", "white space in its path would end it in a list; rename it"),
        ("p/b/a\tb", "white space in its path would end it in a list; rename it"),
    ],
)
def test_images_that_no_line_can_name_are_refused_before_anything_is_written(tmp_path, path, fault):
    with pytest.raises(UserError) as refusal:
        write_lists(tmp_path / "lists", "nw", Splits(*[annotations([[1]], [path])] * 2), Path("p"))
    assert str(refusal.value) == f"image {path}.jpg: {fault}"
    assert not (tmp_path / "lists").exists()


def test_lists_are_written_into_a_folder_that_is_there_and_replace_earlier_ones(tmp_path):
    (tmp_path / "other.txt").write_text("kept")
    for name in ("a", "b"):
        part = annotations([[1]], [f"p/{name}"])
        write_lists(tmp_path, "nw", Splits(part, part), Path("p"))
    assert (tmp_path / "nw_lt_train.txt").read_text() == "b.jpg 0\n"
    assert (tmp_path / "other.txt").read_text() == "kept"


@pytest.mark.parametrize("flag, taken, refused", [("imbalance", 1.0001, 1.0), ("tail_max", 1, 0), ("tail_seed", 0, -1)])
def test_settings_out_of_range_are_refused(flag, taken, refused):
    assert getattr(settings(**{flag: taken}), flag) == taken
    with pytest.raises(UserError, match=f"--{flag} {refused}: must be"):
        settings(**{flag: refused})


def test_the_first_class_may_keep_all_it_has_and_no_more():
    counts = np.array([50, 90, 60])
    assert class_targets(counts, settings(tail_max=90), np.random.default_rng(0))[1] == 90
    with pytest.raises(UserError, match="--tail_max 91: class 1, the most frequent of the long tail, has 90 positives"):
        class_targets(counts, settings(tail_max=91), np.random.default_rng(0))
    with pytest.raises(UserError, match="--long_tail exponential: no class has a positive in this training set"):
        class_targets(np.zeros(3, dtype=np.int64), settings(), np.random.default_rng(0))
