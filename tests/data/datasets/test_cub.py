import numpy as np
import pytest

from data.datasets import cub
from data.datasets.cub import ATTRIBUTES, load_cub, read_codes
from data.labels.regime import observed_labels
from data.subsets.splits import SplitConfig, split_rows
from tests.data.trees import picture, source
from utils.checks import UserError
from utils.types import ABSENT, PRESENT

NAMES = (
    "002.Crow/Crow_0001_9.jpg",
    "001.Tern/Tern_0002_31.jpg",
    "001.Tern/Tern_0001_7.jpg",
    "010.Wren/Wren_0003_1.jpg",
    "002.Crow/Crow_0002_2.jpg",
)
TRAIN = (1, 0, 1, 1, 0)


def truth_of(images, seed=0):
    return (np.random.default_rng(seed).random((images, ATTRIBUTES)) < 0.1).astype(int)


def label_lines(truth, numbers=None):
    """`image_attribute_labels.txt`, image by image; certainty and seconds are made up."""
    numbers = numbers or range(1, len(truth) + 1)
    return [
        f"{number} {column + 1} {value} {1 + column % 4} {column * 0.3:.3f}"
        for number, row in zip(numbers, truth, strict=True)
        for column, value in enumerate(row)
    ]


def write(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def cub_tree(folder, *, names=NAMES, train=TRAIN, truth=None, attributes="attributes.txt"):
    """`CUB_200_2011` in `folder`, with `attributes.txt` at a path of one's choice below `folder`."""
    root = folder / "CUB_200_2011"
    write(root / "images.txt", [f"{n} {name}" for n, name in enumerate(names, 1)])
    write(root / "train_test_split.txt", [f"{n} {value}" for n, value in enumerate(train, 1)])
    write(
        root / "attributes" / "image_attribute_labels.txt",
        label_lines(truth_of(len(names)) if truth is None else truth),
    )
    write(folder / attributes, [f"{n} has_part::kind_{n}" for n in range(1, ATTRIBUTES + 1)])
    return root


def load(path, cache, **more):
    return load_cub(source(path, cache / "cache", **more))


def slow_truth(root):
    """{image number: {attribute number: value}}, line by line."""
    found = {}
    for line in (root / "attributes" / "image_attribute_labels.txt").read_text().split("\n"):
        if line.strip():
            number, attribute, value = [int(part) for part in line.split()[:3]]
            found.setdefault(number, {})[attribute] = value
    return found


@pytest.mark.parametrize("given", ["parent", "itself"])
@pytest.mark.parametrize(
    "attributes", ["attributes.txt", "CUB_200_2011/attributes/attributes.txt", "CUB_200_2011/attributes.txt"]
)
def test_rows_classes_codes_places_and_files(tmp_path, given, attributes):
    root = cub_tree(tmp_path, attributes=attributes)
    for name in NAMES:
        picture(root / "images" / name)
    splits = load(tmp_path if given == "parent" else root, tmp_path, need_images=True)
    assert splits.train.ids == ("001.Tern/Tern_0001_7", "002.Crow/Crow_0001_9", "010.Wren/Wren_0003_1")
    assert splits.test.ids == ("001.Tern/Tern_0002_31", "002.Crow/Crow_0002_2")
    assert splits.train.classes == splits.test.classes == tuple(f"has_part::kind_{n}" for n in range(1, 313))
    slow = slow_truth(root)
    for part in splits[:2]:
        numbers = [NAMES.index(f"{one}.jpg") + 1 for one in part.ids]
        assert part.places.tolist() == numbers
        expected = [[PRESENT if slow[n][k] else ABSENT for k in range(1, 313)] for n in numbers]
        np.testing.assert_array_equal(part.truth.dense(), expected)
        assert [part.images.name(row) for row in range(len(part))] == [f"{root}/images/{one}.jpg" for one in part.ids]
        assert part.boxes is None
        part.images.check()


def test_lines_with_fields_too_many_and_in_any_order_are_read(tmp_path):
    truth = truth_of(3, 1)
    lines = label_lines(truth)
    lines[400] = " ".join([*lines[400].split()[:3], "0", "3", "0.0"])
    lines[401] = " ".join(lines[401].split()[:3])
    lines[402] = "  " + lines[402].replace(" ", "\t") + "  extra words"
    shuffled = [lines[index] for index in np.random.default_rng(2).permutation(len(lines))]
    path = write(tmp_path / "labels.txt", ["", *shuffled[:100], "", *shuffled[100:]])
    np.testing.assert_array_equal(read_codes(path, np.array([1, 2, 3])), truth)


@pytest.mark.parametrize("seed", range(4))
def test_image_numbers_need_not_be_consecutive(tmp_path, seed):
    rng = np.random.default_rng(seed)
    numbers = rng.permutation(10_000)[:4]
    truth = truth_of(4, seed)
    path = write(tmp_path / "labels.txt", label_lines(truth, numbers.tolist()))
    np.testing.assert_array_equal(read_codes(path, numbers), truth)


def test_recipes_draw_in_the_order_of_images_txt(tmp_path):
    """Labels and validation split are those that the published recipe gives to arrays in the order of images.txt."""
    names = tuple(f"{k % 7:03d}.Bird/Bird_{997 * k % 101:04d}_{k}.jpg" for k in range(40))
    truth = truth_of(40, 5)
    splits = load(cub_tree(tmp_path, names=names, train=[int(k % 4 > 0) for k in range(40)], truth=truth), tmp_path)
    published = [k for k in range(40) if k % 4 > 0]
    order = splits.train.recipe_order()
    assert [splits.train.ids[row] for row in order] == [names[k].removesuffix(".jpg") for k in published]
    drawn = observed_labels(splits.train.truth.dense()[order], np.random.RandomState(1200), 1, 0)
    in_file_order = observed_labels(truth[published].astype(np.int8), np.random.RandomState(1200), 1, 0)
    np.testing.assert_array_equal(drawn, in_file_order)
    shuffled = np.random.RandomState(1200).permutation(30)
    kept, held_out = split_rows(splits.train, SplitConfig(val_frac=0.2, split_seed=1200), 0)
    assert {splits.train.ids[row] + ".jpg" for row in held_out} == {names[published[k]] for k in shuffled[24:]}
    assert len(kept) == 24


def test_formatted_arrays_give_the_same_labels(tmp_path):
    (cub_tree(tmp_path) / "images").mkdir()
    splits = load(tmp_path, tmp_path)
    for phase, part in zip(("train", "val"), splits[:2], strict=True):
        order = part.recipe_order()
        np.save(tmp_path / f"formatted_{phase}_images.npy", np.array([f"{part.ids[row]}.jpg" for row in order]))
        np.save(tmp_path / f"formatted_{phase}_labels.npy", part.truth.dense()[order].astype(np.int64))
    read = load(tmp_path, tmp_path)
    for one, two in zip(splits[:2], read[:2], strict=True):
        assert one.row_hash() == two.row_hash()
        assert one.truth.hash() == two.truth.hash()
        np.testing.assert_array_equal(one.recipe_order(), two.recipe_order())
        assert [one.images.name(row) for row in range(len(one))] == [two.images.name(row) for row in range(len(two))]


def test_the_second_start_parses_nothing_until_the_file_changes(tmp_path, monkeypatch):
    root = cub_tree(tmp_path)
    first = load(tmp_path, tmp_path)
    parsed = []
    monkeypatch.setattr(cub, "read_codes", lambda path, *rest: parsed.append(path.name) or read_codes(path, *rest))
    second = load(tmp_path, tmp_path)
    assert parsed == []
    assert [part.truth.hash() for part in first[:2]] == [part.truth.hash() for part in second[:2]]
    write(root / "attributes" / "image_attribute_labels.txt", [*label_lines(truth_of(5, 9)), ""])
    third = load(tmp_path, tmp_path)
    assert parsed == ["image_attribute_labels.txt"]
    assert first.train.truth.hash() != third.train.truth.hash()


def test_missing_folders_are_explained(tmp_path):
    with pytest.raises(UserError) as caught:
        load(tmp_path / "nowhere", tmp_path)
    for word in ("images.txt", "attributes.txt", "image_attribute_labels.txt", "--dataset digits"):
        assert word in str(caught.value)
    cub_tree(tmp_path)
    load(tmp_path, tmp_path)
    with pytest.raises(UserError, match=r"CUB_200_2011/images: no such folder"):
        load(tmp_path, tmp_path, need_images=True)
