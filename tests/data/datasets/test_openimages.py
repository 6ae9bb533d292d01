import numpy as np
import pytest

from data.datasets import openimages
from data.datasets.openimages import class_groups, load_openimages, read_classes, read_descriptions, read_verified
from data.files import csv_blocks
from tests.data.trees import picture, source
from tests.oracles.openimages import read_table
from utils.checks import UserError
from utils.types import ABSENT, PRESENT, UNKNOWN

HEADER = "ImageID,Source,LabelName,Confidence\n"
LABELS = ("/m/b", "/m/a", "/m/ccc", "/m/d")
TRAIN = [("0f", "/m/a", 1), ("0a", "/m/ccc", 0), ("0f", "/m/b", 0), ("0A", "/m/d", 1), ("00", "/m/other", 1)]
TEST = [("1b", "/m/a", 0), ("1a", "/m/a", 1)]


def table(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(HEADER + "".join(f"{image},verification,{label},{value}\n" for image, label, value in rows))
    return path


def tree(folder, train=TRAIN, test=TEST, labels=LABELS):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "classes-trainable.txt").write_text("".join(f"{label}\n" for label in labels))
    names = [*(f'{label},"Name of {label}, in words"\n' for label in reversed(labels)), "/m/other,Other\n"]
    (folder / "class-descriptions.csv").write_text("".join(names))
    table(folder / "train" / "annotations-human.csv", train)
    table(folder / "test" / "annotations-human.csv", test)
    return folder


def load(folder, tmp_path, **more):
    return load_openimages(source(folder, tmp_path / "cache", **more))


@pytest.mark.parametrize("pictures", ["images/train", "train"])
@pytest.mark.parametrize("inner", ["", "2017_11"])
def test_rows_classes_codes_and_files(tmp_path, pictures, inner):
    root = tree(tmp_path / "oi" / inner)
    picture(root / pictures / "0a.jpg")
    train, test, *_ = load(tmp_path / "oi", tmp_path, need_images=True)
    assert train.ids == ("00", "0A", "0a", "0f")  # an image stays when nothing of it is known
    assert test.ids == ("1a", "1b")
    assert train.classes == tuple(f"Name of {label}, in words" for label in LABELS)
    expected = np.full((4, 4), UNKNOWN)
    expected[1, 3] = expected[3, 1] = PRESENT
    expected[2, 2] = expected[3, 0] = ABSENT
    np.testing.assert_array_equal(train.truth.dense(), expected)
    np.testing.assert_array_equal(test.truth.dense(), [[-1, 1, -1, -1], [-1, 0, -1, -1]])
    assert train.truth.stores_known_only
    assert train.images.name(2) == str(root / pictures / "0a.jpg")
    assert train.images.open(2).size == (40, 30)


def random_table(seed, images=40, labels=12, rows=300):
    """Rows with repetitions and contradictions, and names of classes of which some are the start of others."""
    rng = np.random.default_rng(seed)
    names = [f"/m/{'0' * (k % 4)}{k}" for k in range(labels)] + ["/m/1", "/m"]
    ids = [f"{'f' * (k % 3)}{k:x}" for k in range(images)]
    chosen = zip(
        rng.integers(0, images, rows), rng.integers(0, len(names), rows), rng.integers(0, 2, rows), strict=True
    )
    return names[:labels], [(ids[i], names[k], int(value)) for i, k, value in chosen]


@pytest.mark.parametrize("size", [100, 333, 1 << 20])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("seed", range(3))
def test_any_blocks_and_line_ends_give_what_plain_loops_give(tmp_path, monkeypatch, seed, newline, size):
    monkeypatch.setattr(csv_blocks, "_SIZE", size)
    labels, rows = random_table(seed)
    path = table(tmp_path / "x.csv", rows)
    text = path.read_text().replace("\n", newline)
    path.write_bytes(f"\ufeff{text}{newline}{newline}".encode())  # with a mark of its encoding, and blank lines
    found = read_verified(path, labels)
    ids, codes, skipped, contradictory = read_table(path.read_text(encoding="utf-8-sig"), labels)
    assert (list(found.ids), found.skipped, found.contradictory) == (ids, skipped, contradictory)
    assert contradictory
    assert skipped
    np.testing.assert_array_equal(openimages.LabelTable(found.codes, default=UNKNOWN).dense(), codes)
    assert found.codes.has_canonical_format


def test_a_table_without_a_last_newline_and_with_other_columns(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("Confidence,LabelName,More,ImageID\n1,/m/a,,x\n0.0,/m/b,?,x\n1.0,/m/a,\u00e9,y")
    found = read_verified(path, ["/m/a", "/m/b"])
    assert found.ids == ("x", "y")
    np.testing.assert_array_equal(openimages.LabelTable(found.codes, default=UNKNOWN).dense(), [[1, 0], [1, -1]])


def test_order_of_the_rows_does_not_matter(tmp_path):
    labels, rows = random_table(5)
    one = read_verified(table(tmp_path / "one.csv", rows), labels)
    two = read_verified(table(tmp_path / "two.csv", rows[::-1]), labels)
    assert one.ids == two.ids
    assert (one.codes != two.codes).nnz == 0
    np.testing.assert_array_equal(one.codes.indices, two.codes.indices)


def test_what_is_left_out_or_contradictory_is_said_at_every_start(tmp_path, capsys):
    tree(tmp_path / "oi", train=[*TRAIN, ("0f", "/m/a", 0), ("0f", "/m/a", 1)])
    for _ in range(2):
        train = load(tmp_path / "oi", tmp_path).train
        assert train.truth.rows(np.array([3]))[0, 1] == PRESENT
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == 2
        assert "left out 1 labels" in lines[0]
        assert "1 entries are verified present and verified absent" in lines[1]


def test_nothing_is_said_where_nothing_is_wrong(tmp_path, capsys):
    load(tree(tmp_path / "oi", train=TRAIN[:4]), tmp_path)
    assert capsys.readouterr() == ("", "")


def test_the_second_start_parses_nothing_until_a_file_changes(tmp_path, monkeypatch):
    folder = tree(tmp_path / "oi")
    first = load(folder, tmp_path)
    parsed = []
    monkeypatch.setattr(
        openimages, "read_verified", lambda path, labels: parsed.append(path.parent.name) or read_verified(path, labels)
    )
    second = load(folder, tmp_path)
    assert parsed == []
    for one, two in zip(first[:2], second[:2], strict=True):
        assert (one.ids, one.classes) == (two.ids, two.classes)
        assert one.truth.hash() == two.truth.hash()
        assert two.truth.stores_known_only
        assert two.images.name(0) == one.images.name(0)
    table(folder / "test" / "annotations-human.csv", [("9", "/m/d", 1), ("8", "/m/d", 1), ("7", "/m/a", 0)])
    assert load(folder, tmp_path).test.ids == ("7", "8", "9")
    assert parsed == ["test"]
    (folder / "classes-trainable.txt").write_text("/m/d\n/m/a\n")
    assert load(folder, tmp_path).train.truth.num_classes == 2
    assert sorted(parsed[1:]) == ["test", "train"]


def test_names_of_classes_are_unique(tmp_path):
    (tmp_path / "classes-trainable.txt").write_text("/m/1\n\n/m/2\n /m/3\n/m/4\n")
    names = '/m/4,\n/m/3,"Jaguar"\n/m/1,Jaguar\n/m/2,"two  words\nand ""quotes"""\n/m/2,"two words and ""quotes"""\n'
    (tmp_path / "class-descriptions.csv").write_text(names)
    labels, classes = read_classes(tmp_path)
    assert labels == ("/m/1", "/m/2", "/m/3", "/m/4")
    assert classes == ("Jaguar (/m/1)", 'two words and "quotes"', "Jaguar (/m/3)", "/m/4")


def test_descriptions_with_a_mark_of_their_encoding(tmp_path):
    (tmp_path / "x.csv").write_bytes('\ufeff/m/1,Café\r\n"/m/2","a, b"\r\n'.encode())
    assert read_descriptions(tmp_path / "x.csv") == {"/m/1": "Café", "/m/2": "a, b"}


def test_the_own_validation_split_is_read_where_it_is(tmp_path):
    folder = tree(tmp_path / "oi")
    assert load(folder, tmp_path).validation is None
    table(folder / "validation" / "annotations-human.csv", [("5", "/m/a", 0), ("4", "/m/b", 1)])
    validation = load(folder, tmp_path).validation
    assert validation.ids == ("4", "5")
    np.testing.assert_array_equal(validation.truth.dense(), [[1, -1, -1, -1], [-1, 0, -1, -1]])


@pytest.mark.parametrize("one, other", [("train", "validation"), ("train", "test"), ("validation", "test")])
def test_no_image_may_be_in_two_splits(tmp_path, one, other):
    folder = tree(tmp_path / "oi")
    for split in (one, other):
        rows = [(image, "/m/a", 0) for image in ("77", "5", "6", split)]
        table(folder / split / "annotations-human.csv", rows)
    with pytest.raises(UserError, match=rf"image 5 is in {one} and in {other} \(3 such\); get both csv anew"):
        load(folder, tmp_path)


def test_groups_have_the_classes_that_are_known_least_first():
    known = np.array([5, 0, 7, 5, 1, 1, 9, 2, 5, 3])
    groups = class_groups(known)
    assert {name: part.tolist() for name, part in groups.items()} == {
        "G1": [1, 4],
        "G2": [5, 7],
        "G3": [9, 0],
        "G4": [3, 8],
        "G5": [2, 6],
    }
    for classes in (3, 7, 5000):
        parts = class_groups(np.random.default_rng(classes).integers(0, 9, classes)).values()
        assert sorted(np.concatenate(list(parts)).tolist()) == list(range(classes))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_groups_count_known_labels_of_training_images_of_either_code(tmp_path):
    rows = [("a", "/m/a", 0), ("b", "/m/a", 0), ("a", "/m/d", 1), ("b", "/m/d", 1), ("c", "/m/d", 0), ("c", "/m/b", 1)]
    groups = load(tree(tmp_path / "oi", train=rows), tmp_path).groups
    assert [part.tolist() for part in groups.values()] == [[2], [0], [1], [3], []]


def test_a_missing_folder_is_explained(tmp_path):
    with pytest.raises(UserError) as caught:
        load(tmp_path / "nowhere", tmp_path)
    for word in ("classes-trainable.txt", "annotations-human.csv", "--dataset digits"):
        assert word in str(caught.value)


def test_image_folders_are_not_required(tmp_path):
    train = load(tree(tmp_path / "oi"), tmp_path, need_images=True).train
    assert train.images.missing().tolist() == [0, 1, 2, 3]


def test_image_ids_have_up_to_64_letters(tmp_path):
    rows = [("a" * 64, "/m/a", 1), ("-_Z9", "/m/a", 0)]
    assert read_verified(table(tmp_path / "x.csv", rows), ["/m/a"]).ids == ("-_Z9", "a" * 64)
    with pytest.raises(UserError, match=r"line 3.*an image id has 1 to 64 letters"):
        read_verified(table(tmp_path / "x.csv", [rows[0], ("a" * 65, "/m/a", 1)]), ["/m/a"])


def test_labels_are_of_visible_letters_and_equal_to_a_class_from_end_to_end(tmp_path):
    classes = ["/m/~", "/m/!", "/m/abc"]
    rows = [("1", "/m/~", 1), ("2", "/m/!", 1), ("3", "/m/abcd", 1), ("3", "/m/ab", 1), ("3", "/m/zz", 1)]
    found = read_verified(table(tmp_path / "x.csv", rows), classes)
    assert (found.ids, found.skipped) == (("1", "2", "3"), 3)
    np.testing.assert_array_equal(found.codes.toarray(), [[1, 0, 0], [0, 1, 0], [0, 0, 0]])
    with pytest.raises(UserError, match=r"line 2.*expected a label such as"):
        read_verified(table(tmp_path / "x.csv", [("1", "/m/\x7f", 1)]), classes)


@pytest.mark.parametrize("value", ["1.00", "0.00", "1.01", "01"])
def test_a_confidence_is_written_in_one_of_four_ways(tmp_path, value):
    with pytest.raises(UserError, match=r"line 2.*Confidence must be 1 or 0"):
        read_verified(table(tmp_path / "x.csv", [("1", "/m/a", value)]), ["/m/a"])
