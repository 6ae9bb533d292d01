"""The published long-tailed lists, and the subsets made by ourselves."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.stats import spearmanr

from data.cache import Cache
from data.datasets.longtail import LAYOUTS, load_longtail, read_classes, read_list
from data.datasets.longtail_pickles import check_groups, check_ids, check_pickles
from data.datasets.source import Source
from data.images import FileImages
from data.longtail import (
    LongTailConfig,
    choose_rows,
    class_targets,
    long_tailed_rows,
    target_counts,
    thin_out,
    write_lists,
)
from tests import golden_files
from tests.data.damage.longtail import IDS, TEST, TRAIN, groups, load, longtail_tree
from tests.data.trees import annotations, picture
from tests.oracles import long_tail as oracle
from utils.checks import UserError
from utils.long_tail import class_groups
from utils.types import ABSENT, PRESENT, UNKNOWN, Annotations, LabelTable, Splits

NAMES = list(LAYOUTS)


def real_lists():
    """The folder of the published lists; skips the calling test where it is absent."""
    folder = Path(os.environ.get("LONGTAIL_DATA", Path(__file__).parents[3] / "shared" / "data" / "longtail"))
    if not folder.is_dir():
        pytest.skip(f"no long-tailed lists: {folder}")
    return folder


def load_real(name, tmp_path):
    lists = real_lists()
    if not any((lists / LAYOUTS[name].lists).glob("*_lt_train.txt")):
        pytest.skip(f"no lists of {name} in {lists}")
    return load_longtail(Source(tmp_path / "images", lists, 0, Cache(tmp_path / "cache"), False), name)


# Published lists


@pytest.mark.parametrize(
    "name, ids, files",
    [
        (
            "voc-lt",
            ("2008_01", "2008_09"),
            ["VOCdevkit/VOC2012/JPEGImages/2008_01.jpg", "VOCdevkit/VOC2012/JPEGImages/2008_09.jpg"],
        ),
        ("coco-lt", ("9", "100"), ["train2017/000000000009.jpg", "train2017/000000000100.jpg"]),  # by number
        ("nw-lt", ("images/a_2", "images/b_1"), ["images/a_2.jpg", "images/b_1.jpg"]),
    ],
)
@pytest.mark.parametrize("ending", ["\n", "\r\n", " \r\n"])
def test_rows_by_id_with_their_places_in_the_list(tmp_path, name, ids, files, ending):
    lists = {"lt_train": "".join(line + ending for line in TRAIN[name]), "lt_test": TEST[name][0] + ending}
    splits = load(longtail_tree(tmp_path, name, lists=lists), name)
    assert splits.train.ids == ids
    assert [splits.train.images.name(row) for row in range(2)] == [f"{tmp_path}/images/{file}" for file in files]
    np.testing.assert_array_equal(splits.train.truth.dense(), [[0, 1, 0], [1, 0, 1]])
    np.testing.assert_array_equal(splits.train.places, [1, 0])
    np.testing.assert_array_equal(splits.train.recipe_order(), [1, 0])  # the list again
    assert len(splits.test) == 1
    assert splits.train.classes == splits.test.classes == ("cat", "traffic light", "dog")
    assert {group: members.tolist() for group, members in splits.groups.items()} == {
        "head": [],
        "middle": [],
        "tail": [0, 1, 2],
    }


def test_a_picture_without_a_label_and_one_with_a_label_twice_stay(tmp_path):
    lists = {"lt_test": "val2017/000000000007.jpg\nval2017/000000000003.jpg 2 2\n"}
    test = load(longtail_tree(tmp_path, "coco-lt", lists=lists), "coco-lt").test
    assert test.ids == ("3", "7")
    np.testing.assert_array_equal(test.truth.dense(), [[0, 0, 1], [0, 0, 0]])


def test_names_of_coco_2014_have_the_same_numbers(tmp_path):
    lists = {"lt_train": "images/train2014/COCO_train2014_000000000009.jpg 0\n"}
    assert load(longtail_tree(tmp_path, "coco-lt", lists=lists), "coco-lt").train.ids == ("9",)


@pytest.mark.parametrize(
    "name, made, given, expected",
    [
        ("voc-lt", "VOCdevkit/{}", ".", "VOCdevkit/{}"),
        ("voc-lt", "VOCdevkit/{}", "VOCdevkit", "{}"),
        ("coco-lt", "{}", ".", "{}"),
        ("coco-lt", "images/{}", ".", "images/{}"),
        ("nw-lt", "{}", ".", "{}"),
    ],
)
def test_pictures_are_found_where_people_keep_them(tmp_path, name, made, given, expected):
    longtail_tree(tmp_path, name)
    listed = [line.split()[0].removeprefix("VOCdevkit/") for line in (*TRAIN[name], *TEST[name])]
    for path in listed:
        picture(tmp_path / "p" / made.format(path))
    root = tmp_path / "p" / given
    splits = load_longtail(Source(root, tmp_path / "appendix", 0, Cache(tmp_path / "cache"), True), name)
    found = [part.images.name(row) for part in splits[:2] for row in range(len(part))]
    assert sorted(found) == sorted(f"{root}/{expected.format(path)}" for path in listed)
    for part in splits[:2]:
        part.images.check()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("place", ["appendix/{}", "appendix", "images/{}", "images"])
def test_lists_are_found_beside_the_pictures_too(tmp_path, name, place):
    longtail_tree(tmp_path / "made", name, checks=LAYOUTS[name].checks is not None)
    (tmp_path / "images").mkdir()
    target = tmp_path / place.format(LAYOUTS[name].lists)
    target.parent.mkdir(exist_ok=True)
    made = tmp_path / "made" / "appendix" / LAYOUTS[name].lists
    if target.exists():
        target.rmdir()
    made.rename(target)
    assert len(load(tmp_path, name).train) == 2


def test_a_missing_folder_shows_the_tree(tmp_path):
    for name in NAMES:
        with pytest.raises(UserError) as caught:
            load(tmp_path, name)
        layout = LAYOUTS[name]
        for word in (layout.lists, f"{layout.prefix}_lt_train.txt", f"{layout.prefix}_labels.txt", "--path_lists"):
            assert word in str(caught.value)


def test_missing_pictures_matter_only_where_they_are_needed(tmp_path):
    longtail_tree(tmp_path, "voc-lt")
    load(tmp_path, "voc-lt")
    with pytest.raises(UserError, match=r"2008_09\.jpg: not there, nor is its folder") as caught:
        load(tmp_path, "voc-lt", need_images=True)
    assert "VOCdevkit/VOC2012/JPEGImages" in str(caught.value)
    picture(tmp_path / "images" / TRAIN["voc-lt"][0].split()[0])
    with pytest.raises(UserError, match=r"VOC2007/JPEGImages/000007\.jpg"):
        load(tmp_path, "voc-lt", need_images=True)
    (tmp_path / "images" / "VOCdevkit" / "VOC2007" / "JPEGImages").mkdir(parents=True)
    load(tmp_path, "voc-lt", need_images=True)  # single pictures are looked for later


def test_classes_stand_in_the_order_of_their_numbers(tmp_path):
    file = tmp_path / "labels.txt"
    file.write_text("dog 2\n\ncat 0\r\n traffic  light\t 1 \r\n")
    assert read_classes(file) == ("cat", "traffic light", "dog")


# What lies beside the lists


@pytest.mark.parametrize("name", list(IDS))
def test_true_pickles_pass(tmp_path, name):
    assert load(longtail_tree(tmp_path, name, checks=True), name).train.ids == tuple(
        sorted(IDS[name], key=lambda one: one.zfill(9))
    )


def test_without_an_id_list_the_rows_of_a_pickle_are_not_compared(tmp_path):
    longtail_tree(tmp_path, "coco-lt", checks=True)
    folder = tmp_path / "appendix" / "coco" / "longtail2017"
    (folder / "img_id.txt").unlink()
    load(tmp_path, "coco-lt")
    (folder / "img_id.pkl").write_text("100\n9\n")  # now the rows are in the wrong order
    with pytest.raises(UserError, match="gt_labels of image 100"):
        load(tmp_path, "coco-lt")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_groups_are_read_from_every_kind_of_pickle(tmp_path, protocol):
    file = tmp_path / "class_split.pkl"
    file.write_bytes(pickle.dumps(groups(), protocol))
    check_groups(file, ("a", "b", "c"), class_groups(np.array([1, 2, 3])))
    with pytest.raises(UserError, match="class 1 \\('b'\\)"):
        check_groups(file, ("a", "b", "c"), class_groups(np.array([1, 20, 3])))


# The published lists themselves


@pytest.fixture(params=NAMES)
def golden_split(request, tmp_path):
    held = golden_files.load_json("longtail_facts.json")
    facts = held.get(request.param, held.get("nus-wide" if request.param == "nw-lt" else ""))
    if facts is None or not facts.get("available", True):
        pytest.skip(f"no facts about {request.param} in longtail_facts.json")
    return facts, load_real(request.param, tmp_path)


def test_golden_facts_of_the_published_lists(golden_split):
    facts, splits = golden_split
    assert list(splits.train.classes) == facts["class_names"]
    assert len(splits.train.classes) == facts["num_classes"]
    for split, part in (("train", splits.train), ("test", splits.test)):
        truth = part.truth.dense()
        per_image = (truth == PRESENT).sum(axis=1)
        assert len(part) == len(set(part.ids)) == facts[f"num_{split}"]
        np.testing.assert_array_equal(part.truth.counts(), facts[f"{split}_counts"])
        assert per_image.sum() == facts[f"{split}_labels_total"]
        assert per_image.mean() == pytest.approx(facts[f"{split}_cardinality"], rel=1e-12)
        assert (per_image == 0).sum() == facts[f"{split}_images_without_label"]
        assert set(np.unique(truth)) <= {PRESENT, ABSENT}
        assert sorted(part.places.tolist()) == list(range(len(part)))
    assert (splits.train.truth.dense() == PRESENT).sum(axis=1).max() == facts["max_labels_per_train_image"]
    counts = splits.train.truth.counts()
    assert (counts.max(), counts.argmax()) == (facts["max_count"], facts["max_class"])
    assert counts.min() == facts["min_count"]
    assert np.flatnonzero(counts == counts.min()).tolist() == facts["min_classes"]
    assert counts.max() / counts.min() == pytest.approx(facts["imbalance_ratio"])


def test_golden_groups_of_the_published_lists(golden_split):
    facts, splits = golden_split
    assert list(splits.groups) == ["head", "middle", "tail"]
    for name, members in splits.groups.items():
        assert members.tolist() == facts[name]


def test_golden_id_list_and_pickles_beside_the_lists(golden_split):
    facts, splits = golden_split
    ids = real_lists() / facts["id_list"]["file"]
    if not ids.exists():
        pytest.skip(f"no id list {ids}")
    order = check_ids(ids, splits.train)
    agreeing = int((splits.train.places[order] == np.arange(len(order))).sum())
    assert len(order) == facts["id_list"]["num"]
    assert agreeing == facts["id_list"]["positions_agreeing"]
    assert (agreeing == len(order)) == facts["id_list"]["same_order_as_train_list"]
    assert all(facts["class_split_pkl"]["equals_rule"].values())
    check_pickles(ids.parent, splits.train, splits.groups)
    other = dict(splits.groups) | {"tail": splits.groups["tail"][1:], "middle": splits.groups["middle"]}
    with pytest.raises(UserError, match=r"class_split\.pkl"):
        check_pickles(ids.parent, splits.train, other)


def test_rows_in_list_order_are_the_list_itself(tmp_path):
    splits = load_real("coco-lt", tmp_path)
    path = real_lists() / "coco" / "coco_lt_train.txt"
    listed = read_list(path, 80, LAYOUTS["coco-lt"].image_id)
    assert tuple(splits.train.ids[row] for row in splits.train.recipe_order()) == listed.ids
    first = path.read_text().split("\n")[0].split()
    row = splits.train.ids.index(str(int(Path(first[0]).stem)))
    assert splits.train.places[row] == 0
    positive = np.flatnonzero(splits.train.truth.rows(np.array([row]))[0] == PRESENT)
    assert positive.tolist() == sorted(int(one) for one in first[1:])
    assert splits.train.ids == tuple(sorted(splits.train.ids, key=int))


# Subsets of our own


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


def test_where_pictures_hold_one_label_each_targets_are_met_exactly():
    label = np.repeat(np.arange(6), [400, 300, 200, 200, 150, 100])
    table = LabelTable(np.eye(6, dtype=np.int8)[label])
    config = settings(tail_max=100)
    got = table.take(long_tailed_rows(table, config, 3)).counts()
    np.testing.assert_array_equal(got, class_targets(table.counts(), config, np.random.default_rng(0)))


def test_a_class_that_only_goes_with_a_rarer_one_keeps_a_picture():
    truth = np.zeros((40, 3), dtype=np.int8)
    truth[:, 0] = truth[:4, 1] = truth[4:8, 2] = 1  # 0 is in every picture
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
    assert thin_out(splits, LongTailConfig(), 0) is splits
    got = thin_out(splits, settings(), 0)
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
