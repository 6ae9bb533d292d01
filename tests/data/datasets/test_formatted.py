import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.sparse import csr_array

from data.datasets.coco import COCO_CLASSES, load_coco
from data.datasets.formatted import array_path, is_formatted, names_below, write_formatted
from data.images.files import FileImages
from data.labels.regime import Regime, observe
from tests import golden_files
from tests.data.damage import formatted as right
from tests.data.damage.formatted import LABELS, LAYOUT, OBSERVED, arrays, formatted_tree, values
from tests.data.trees import annotations, coco_json, coco_tree, picture, real_data, source
from utils.checks import RunError, UserError
from utils.safe_files import write_atomically
from utils.types import ABSENT, PRESENT, UNKNOWN, Annotations, LabelTable, Splits


def splits_in(folder, truth, test_truth=((1, 0, 0),), ids=None):
    """Splits whose images lie in `folder`; the columns are as many as `truth` has."""
    parts = []
    for table, names, prefix in ((truth, ids, "a"), (test_truth, None, "b")):
        rows = annotations(
            np.asarray(table)[:, : np.shape(truth)[1]], names or [f"{prefix}{row:05d}" for row in range(len(table))]
        )
        parts.append(replace(rows, images=FileImages([f"{folder}/pictures/{one}.jpg" for one in rows.ids])))
    return Splits(*parts)


def load(folder, layout=LAYOUT, **more):
    """Training and test set of the arrays in `folder`."""
    return right.load(folder, layout, **more)[:2]


def single(rows):
    return observe(rows, Regime(labels="single", label_seed=1200))


def write(folder, splits, place=None, **more):
    write_formatted(folder, splits, single(splits.train), single(splits.test), names_below(place or folder), **more)


def test_rows_are_ordered_by_number_with_truth_given_and_places(tmp_path):
    train, test, *_ = load(formatted_tree(tmp_path))
    assert train.ids == ("1", "3", "20")
    assert test.ids == ("5", "7")
    np.testing.assert_array_equal(train.truth.dense(), [[0, 1, 1], [1, 0, 0], [0, 0, 0]])
    np.testing.assert_array_equal(test.truth.dense(), [[1, 1, 0], [0, 0, 1]])
    np.testing.assert_array_equal(train.given.dense(), [[-1, -1, 1], [1, -1, -1], [0, -1, -1]])
    np.testing.assert_array_equal(train.places, [1, 0, 2])
    np.testing.assert_array_equal(test.places, [1, 0])
    np.testing.assert_array_equal(train.recipe_order(), [1, 0, 2])
    assert test.given is None
    assert train.classes == test.classes == ("class 00", "class 01", "class 02")
    assert [train.images.name(row) for row in range(3)] == [f"{tmp_path}/c/{one}.jpg" for one in (1, 3, 20)]


def test_ids_that_are_not_all_numbers_are_ordered_as_texts(tmp_path):
    train, _ = load(formatted_tree(tmp_path, train_images=np.array(["10.jpg", "9.jpg", "a.jpg"])))
    assert train.ids == ("10", "9", "a")


def test_equal_numbers_and_very_long_ones_have_an_order(tmp_path):
    long = "1" * 5000
    train, _ = load(formatted_tree(tmp_path, train_images=np.array([f"{long}.jpg", "01.jpg", "1.jpg"])))
    assert train.ids == ("01", "1", long)


@pytest.mark.parametrize("dtype", ["f8", ">f8", "f4", "f2", "i8", "i1", ">i2", "u1", "?"])
def test_labels_in_any_type_of_number(tmp_path, dtype):
    changed = {f"{part}_labels": np.array(LABELS[part]).astype(dtype) for part in LABELS}
    train, test, *_ = load(formatted_tree(tmp_path, **changed))
    for part, rows in (("train", train), ("val", test)):
        assert rows.truth.rows(rows.recipe_order()).tolist() == LABELS[part]
        assert rows.truth.rows(slice(0)).dtype == np.int8


def test_names_of_either_byte_order_and_columns_of_either_memory_order(tmp_path):
    right_arrays = arrays()
    swapped = right_arrays["formatted_train_images.npy"].astype(">U12")
    columns = np.asfortranarray(right_arrays["formatted_train_labels.npy"])
    train, _ = load(formatted_tree(tmp_path, train_images=swapped, train_labels=columns))
    expected, _ = load(formatted_tree(tmp_path / "other"))
    assert train.row_hash() == expected.row_hash()
    assert train.truth.hash() == expected.truth.hash()


def test_observed_labels_of_the_training_set_are_optional_and_those_of_the_test_set_are_not_read(tmp_path):
    train, test, *_ = load(formatted_tree(tmp_path, train_labels_obs=None, val_labels_obs=b"nonsense"))
    assert train.given is None
    assert test.given is None
    np.testing.assert_array_equal(observe(train, Regime(labels="given")).dense(), train.truth.dense())


def test_given_labels_become_the_regime_given(tmp_path):
    train, _ = load(formatted_tree(tmp_path))
    np.testing.assert_array_equal(observe(train, Regime(labels="given")).dense(), train.given.dense())


def test_class_names_come_from_the_form_then_from_the_file_beside_the_arrays(tmp_path):
    formatted_tree(tmp_path)
    (tmp_path / "classes.txt").write_bytes(b"\xef\xbb\xbfcat\r\n\r\ntraffic light \r\ndog")
    assert load(tmp_path)[0].classes == ("cat", "traffic light", "dog")
    assert load(tmp_path, LAYOUT._replace(classes=("x", "y", "z")))[1].classes == ("x", "y", "z")


def test_made_up_class_names_sort_as_the_columns_do(tmp_path):
    wide = {f"{part}_labels": np.zeros((len(LABELS[part]), 312)) for part in LABELS}
    layout = LAYOUT._replace(width=None)
    classes = load(formatted_tree(tmp_path, train_labels_obs=None, **wide), layout)[0].classes
    assert classes == tuple(sorted(classes))
    assert len(set(classes)) == 312


@pytest.mark.parametrize("width, first, last", [(1, "00", "00"), (100, "00", "99"), (101, "000", "100")])
def test_made_up_class_names_have_two_digits_or_as_many_as_needed(tmp_path, width, first, last):
    wide = {f"{part}_labels": np.zeros((len(LABELS[part]), width)) for part in LABELS}
    classes = load(formatted_tree(tmp_path, train_labels_obs=None, **wide), LAYOUT._replace(width=None))[0].classes
    assert (classes[0], classes[-1], len(classes)) == (f"class {first}", f"class {last}", width)


def test_the_first_folder_that_exists_has_the_images(tmp_path):
    formatted_tree(tmp_path)
    picture(tmp_path / "c" / "1.jpg")
    load(tmp_path, need_images=True)[0].images.open(0)
    picture(tmp_path / "pictures" / "c" / "1.jpg", size=(7, 8))
    assert load(tmp_path, need_images=True)[0].images.open(0).size == (7, 8)
    layout = LAYOUT._replace(roots=("Flickr",))
    assert load(tmp_path, layout)[0].images.name(0) == f"{tmp_path}/Flickr/c/1.jpg"


@pytest.mark.parametrize("name", sorted(arrays()))
def test_a_folder_is_formatted_from_the_first_array_on(tmp_path, name):
    assert not is_formatted(tmp_path)
    assert not is_formatted(tmp_path / "nowhere")
    np.save(tmp_path / name, arrays()[name])
    assert is_formatted(tmp_path) == (not name.endswith("_obs.npy"))


def test_golden_observed_labels_are_what_is_written(tmp_path):
    golden = golden_files.load("observed_labels.npz")
    truth = golden["labels"]
    for number, case in enumerate(golden["cases"].tolist()):
        seed, num_pos, num_neg = (int(text[1:].replace("m", "-")) for text in case.removeprefix("obs_").split("_"))
        regime = Regime(labels="observed", label_seed=seed, num_pos=num_pos, num_neg=num_neg)
        splits = splits_in(tmp_path / case, truth, truth)  # a test set of the same rows: its draw starts anew
        observed = [observe(part, regime) for part in splits[:2]]
        if number % 2:  # rows in another order are written in the order of the recipe all the same
            order = np.random.RandomState(number).permutation(len(truth))
            splits = Splits(*(replace(part.take(order), places=order) for part in splits[:2]))
            observed = [observe(part, regime) for part in splits[:2]]
        write_formatted(tmp_path / case, splits, *observed, names_below(tmp_path / case))
        for part in ("train", "val"):
            np.testing.assert_array_equal(np.load(array_path(tmp_path / case, part, "labels_obs")), golden[case])
            np.testing.assert_array_equal(np.load(array_path(tmp_path / case, part, "labels")), truth)


def test_golden_recipe_survives_the_way_through_files(tmp_path):
    golden = golden_files.load("observed_labels.npz")
    case = next((one for one in golden["cases"].tolist() if one.endswith("_p1_n0")), None)
    if case is None:
        pytest.skip("no case with one positive in observed_labels.npz")
    splits = splits_in(tmp_path, golden["labels"], golden["labels"][:2])
    write(tmp_path, splits)
    layout = LAYOUT._replace(width=None)
    train, test, *_ = load(tmp_path, layout)
    file_code = {PRESENT: 1, UNKNOWN: 0, ABSENT: -1}
    for codes in (train.given.dense(), single(train).dense()):
        np.testing.assert_array_equal(np.vectorize(file_code.get)(codes), golden[case])
    assert train.ids == splits.train.ids
    assert train.classes == splits.train.classes == test.classes
    assert train.truth.hash() == splits.train.truth.hash()
    assert test.truth.hash() == splits.test.truth.hash()


@pytest.mark.parametrize("seed", range(6))
def test_what_is_written_is_read_back(tmp_path, seed):
    rng = np.random.RandomState(seed)
    rows, columns = rng.randint(1, 40), rng.randint(1, 9)
    truth = (rng.random_sample((rows, columns)) < 0.3).astype(np.int8)
    numbers = rng.permutation(200)[:rows]
    numbers.sort()
    splits = splits_in(tmp_path, truth, truth[:1], [str(one) for one in numbers])
    observed = LabelTable(rng.randint(-1, 2, truth.shape).astype(np.int8))
    write_formatted(tmp_path / "out", splits, observed, single(splits.test), names_below(tmp_path))
    layout = LAYOUT._replace(width=columns, identify=lambda name: name.removeprefix("pictures/").removesuffix(".jpg"))
    train, test, *_ = load(tmp_path / "out", layout)
    assert train.row_hash() == splits.train.row_hash()
    assert test.row_hash() == splits.test.row_hash()
    assert train.truth.hash() == splits.train.truth.hash()
    assert train.given.hash() == observed.hash()
    np.testing.assert_array_equal(train.recipe_order(), splits.train.recipe_order())
    assert np.load(array_path(tmp_path / "out", "train", "images")).tolist() == sorted(
        np.load(array_path(tmp_path / "out", "train", "images")).tolist()
    )  # numbers as texts: the published order


def test_types_names_and_codes_are_the_published_ones(tmp_path):
    splits = splits_in(tmp_path, [[1, -1, 0], [0, 0, 1]])
    observed = LabelTable(np.array([[1, -1, 0], [-1, 0, 1]], dtype=np.int8))
    write_formatted(tmp_path / "a" / "b", splits, observed, single(splits.test), names_below(tmp_path / "pictures"))
    files = {path.name: path for path in (tmp_path / "a" / "b").iterdir()}
    assert sorted(files) == sorted([*arrays(), "classes.txt"])
    assert files["classes.txt"].read_bytes() == b"class0\nclass1\nclass2\n"
    kinds = ("images", "labels", "labels_obs")
    images, labels, seen = (np.load(files[f"formatted_train_{kind}.npy"]) for kind in kinds)
    assert images.dtype.kind == "U"
    assert images.tolist() == ["a00000.jpg", "a00001.jpg"]
    assert labels.dtype == seen.dtype == np.float64
    np.testing.assert_array_equal(labels, [[1, 0, 0], [0, 0, 1]])  # unknown counts as absent
    np.testing.assert_array_equal(seen, [[1, 0, -1], [0, -1, 1]])


@pytest.mark.parametrize(
    "path, name",
    [
        ("set/VOCdevkit/VOC2012/JPEGImages/2008_01.jpg", "2008_01.jpg"),
        ("set/images/train2014/COCO_train2014_000000000009.jpg", "train2014/COCO_train2014_000000000009.jpg"),
        ("set/train2014/COCO_train2014_000000000009.jpg", "train2014/COCO_train2014_000000000009.jpg"),
        ("set/CUB_200_2011/images/001.Albatross/a.jpg", "001.Albatross/a.jpg"),
        ("set/Flickr/actor/0001_2.jpg", "actor/0001_2.jpg"),
        ("set/VG_100K/1.jpg", "VG_100K/1.jpg"),
        ("set/images/JPEGImages/Flickr/a/1.jpg", "a/1.jpg"),
        ("set/images", "images"),
    ],
)
def test_names_are_relative_to_where_the_published_ones_are(tmp_path, path, name):
    for base in (tmp_path, tmp_path / "images" / "x"):  # folders above the dataset do not count
        rows = Annotations(FileImages([base / path]), ("a",), ("c",), LabelTable(np.zeros((1, 1), dtype=np.int8)))
        assert names_below(base / "set")(rows, 0) == name


def test_an_image_outside_of_the_dataset_has_no_name(tmp_path):
    with pytest.raises(UserError, match="lies outside of"):
        write(tmp_path, splits_in(tmp_path / "a", [[1, 0, 0]]), tmp_path / "b")


def test_two_images_of_one_name_are_refused(tmp_path):
    splits = splits_in(tmp_path, [[1, 0, 0], [0, 1, 0]])
    with pytest.raises(UserError, match=r"a00001\.jpg: would be called same\.jpg, as .*a00000\.jpg is"):
        write_formatted(tmp_path, splits, single(splits.train), single(splits.test), lambda rows, row: "same.jpg")
    with pytest.raises(UserError, match="no file name inside the dataset"):
        write_formatted(tmp_path, splits, single(splits.train), single(splits.test), lambda rows, row: f"../{row}")
    assert not is_formatted(tmp_path)


@pytest.mark.parametrize("name", sorted(arrays()))
def test_nothing_is_overwritten_without_being_told_to(tmp_path, name):
    splits = splits_in(tmp_path, [[1, 0, 0]])
    (tmp_path / name).write_text("precious")
    with pytest.raises(UserError, match=f"{name}: exists already"):
        write(tmp_path, splits)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "precious"
    write(tmp_path, splits, overwrite=True)
    assert load(tmp_path)[0].ids == ("a00000",)


def test_a_list_of_other_classes_is_never_overwritten(tmp_path):
    (tmp_path / "classes.txt").write_text("1 001.Black_footed_Albatross\n")
    with pytest.raises(UserError, match=r"classes\.txt: names other classes"):
        write(tmp_path, splits_in(tmp_path, [[1, 0, 0]]), overwrite=True)
    assert (tmp_path / "classes.txt").read_text() == "1 001.Black_footed_Albatross\n"


def test_a_set_of_which_only_a_part_was_replaced_cannot_be_read(tmp_path, monkeypatch):
    old = splits_in(tmp_path, [[1, 0, 0], [0, 0, 1]])
    write(tmp_path, old)
    saved = []

    def soon_full(path, write):
        saved.append(path.name)
        if len(saved) > 2:
            raise RunError(f"{path}: cannot be written: no space")
        write_atomically(path, write)

    monkeypatch.setattr("data.datasets.formatted.write_atomically", soon_full)
    with pytest.raises(RunError, match="no space"):
        write(tmp_path, splits_in(tmp_path, [[0, 1, 0], [0, 1, 1]]), overwrite=True)
    with pytest.raises(UserError, match=r"formatted_train_images\.npy: cannot be read"):
        load(tmp_path)


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written to"):
        write(tmp_path / "file" / "folder", splits_in(tmp_path, [[1, 0, 0]]), tmp_path)


def test_labels_of_other_rows_are_a_mistake_of_the_caller(tmp_path):
    splits = splits_in(tmp_path, [[1, 0, 0], [0, 1, 0]])
    with pytest.raises(ValueError, match="1 x 3 for 2"):
        write_formatted(tmp_path, splits, single(splits.test), single(splits.test), names_below(tmp_path))


def test_a_table_of_few_known_labels_is_not_written_out(tmp_path):
    splits = splits_in(tmp_path, [[1, 0, 0]])
    sparse = LabelTable(csr_array(np.array([[1, 0, 0]], dtype=np.int8)), default=UNKNOWN)
    few = Splits(replace(splits.train, truth=sparse), splits.test)
    with pytest.raises(UserError, match="stored sparsely"):
        write_formatted(tmp_path, few, sparse, single(splits.test), names_below(tmp_path))


@pytest.mark.parametrize("seed", range(40))
def test_bytes_changed_at_random_are_read_or_refused(tmp_path, seed):
    rng = np.random.RandomState(seed)
    formatted_tree(tmp_path)
    path = tmp_path / rng.choice(sorted(name for name in arrays() if "val_labels_obs" not in name))
    data = bytearray(path.read_bytes())
    for position in rng.randint(0, len(data), rng.randint(1, 6)):
        data[position] = rng.randint(256)
    path.write_bytes(data[: rng.choice([len(data), len(data), rng.randint(len(data))])])
    outcome = outcome_of(lambda: load(tmp_path))
    if isinstance(outcome, str):
        assert "\n" not in outcome
        assert "formatted_" in outcome
    else:  # what is read is right in itself
        train, test = outcome
        assert len(train) == len(set(train.ids)) == 3
        assert not set(train.ids) & set(test.ids)
        train.row_hash()


def outcome_of(call):
    """What a call returns, or the text of its refusal."""
    try:
        return call()
    except UserError as refusal:
        return str(refusal)


def test_the_arrays_that_were_read_are_left_alone(tmp_path):
    formatted_tree(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.glob("*.npy")}
    load(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.glob("*.npy")} == before


def test_messages_count_what_else_is_wrong(tmp_path):
    labels = values("train", 0, 0, 7)
    labels[2, 2] = 8
    with pytest.raises(UserError, match=r"row 0: class 0 is 7\.0; must be one of 1, 0 \(2 such entries\)"):
        load(formatted_tree(tmp_path, train_labels=labels))


def test_coco_2014_reads_formatted_arrays_with_the_ids_of_the_json(tmp_path):
    train = np.array([f"train2014/COCO_train2014_{one:012d}.jpg" for one in (100, 20, 9)])
    val = np.array([f"val2014/COCO_val2014_{one:012d}.jpg" for one in (7, 30)])
    labels = {"train_labels": np.eye(80)[:3], "val_labels": np.eye(80)[:2]}
    formatted_tree(tmp_path, train_images=train, val_images=val, train_labels_obs=np.eye(80)[:3], **labels)
    for folder in (tmp_path / "train2014", tmp_path / "images" / "train2014"):
        got = load_coco(source(tmp_path, tmp_path / "cache"), 2014)
        assert got.train.ids == ("9", "20", "100")
        assert got.test.ids == ("7", "30")
        assert got.train.classes == COCO_CLASSES
        np.testing.assert_array_equal(got.train.recipe_order(), [2, 1, 0])  # "100" before "20" before "9"
        assert got.train.images.name(0) == str(folder / "COCO_train2014_000000000009.jpg")
        (tmp_path / "images").mkdir(exist_ok=True)


def test_coco_2017_takes_no_formatted_arrays(tmp_path):
    formatted_tree(tmp_path)
    documents = coco_json([(1, "a.jpg")], [(1, 2, 0)], [2]), coco_json([(3, "c.jpg")], [(3, 2, 0)], [2])
    assert load_coco(source(coco_tree(tmp_path, 2017, *documents), tmp_path / "cache"), 2017).train.ids == ("1",)


def test_real_coco_is_the_same_from_its_json_and_from_arrays_made_of_it(tmp_path):
    root = real_data("coco_mini")
    direct = load_coco(source(root, tmp_path / "cache"), 2014)
    write(tmp_path / "arrays", direct, root)
    again = load_coco(source(tmp_path / "arrays", tmp_path / "cache"), 2014)
    assert direct.train.classes == COCO_CLASSES
    for one, other in zip(direct[:2], again[:2], strict=True):
        assert one.row_hash() == other.row_hash()
        assert one.truth.hash() == other.truth.hash()
        np.testing.assert_array_equal(one.recipe_order(), other.recipe_order())
    assert again.train.given.hash() == single(direct.train).hash() == single(again.train).hash()
    document = json.loads((root / "annotations" / "instances_train2014.json").read_text())
    files = {one["file_name"].rpartition("/")[2] for one in document["images"]}
    assert {name.rpartition("/")[2] for name in np.load(array_path(tmp_path / "arrays", "train", "images"))} <= files


def test_observed_codes_of_the_files_are_converted(tmp_path):
    train, _ = load(formatted_tree(tmp_path))
    code = {1: PRESENT, 0: UNKNOWN, -1: ABSENT}
    seen = train.given.rows(train.recipe_order())
    np.testing.assert_array_equal(seen, [[code[value] for value in row] for row in OBSERVED["train"]])


def test_file_names_may_hold_unusual_spaces(tmp_path):
    train, _ = load(formatted_tree(tmp_path, train_images=np.array(["1\u3000x.jpg", "2.jpg", "3.jpg"])))
    assert train.ids[0] == "1\u3000x"
