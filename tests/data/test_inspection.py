import itertools

import numpy as np
import pytest
from PIL import Image
from scipy.sparse import csr_array

from data import inspection
from data.images.cropped import CroppedImages
from data.images.files import ArrayImages, FileImages
from data.inspection import (
    StoredImage,
    box_stats,
    co_occurrence,
    digest,
    duplicates,
    examine,
    image_stats,
    joint_counts,
    label_stats,
    noise_stats,
    row_counts,
    shared_sizes,
    strongest_pairs,
)
from tests.data.trees import picture
from tests.oracles import inspection as oracle
from utils.checks import RunError
from utils.types import ABSENT, PRESENT, UNKNOWN, Boxes, LabelTable


def random_codes(seed, shape=(40, 7)):
    return np.random.default_rng(seed).choice([-1, 0, 1], size=shape, p=[0.2, 0.5, 0.3]).astype(np.int8)


def sparse(codes, default, extra=0.3, seed=0):
    """A sparse table of these codes that also stores some of the entries that equal its default."""
    stored = (codes != default) | (np.random.default_rng(seed).random(codes.shape) < extra)
    row, column = np.nonzero(stored)
    indptr = np.concatenate([[0], np.cumsum(stored.sum(axis=1))])
    return LabelTable(csr_array((codes[row, column], column, indptr), shape=codes.shape), default=default)


def tables(codes):
    yield LabelTable(codes.copy())
    yield from (sparse(codes, default) for default in (ABSENT, UNKNOWN, PRESENT))


@pytest.mark.parametrize("seed", range(3))
def test_label_statistics_agree_with_counting_one_by_one_however_labels_are_stored(seed):
    codes = random_codes(seed)
    codes[3], codes[4] = UNKNOWN, ABSENT
    codes[:, 5] = np.minimum(codes[:, 5], ABSENT)
    expected = oracle.label_figures(codes.tolist(), 7)
    for table in tables(codes):
        stats = label_stats(table)
        assert stats.rows == expected["images"]
        assert stats.per_row.tolist() == expected["images_by_labels"]
        assert stats.all_unknown == expected["images_all_unknown"] >= 1
        assert stats.cardinality == pytest.approx(expected["labels_an_image"])
        assert stats.density == pytest.approx(expected["label_density"])
        assert stats.imbalance == pytest.approx(expected["imbalance"])
        for code in (UNKNOWN, ABSENT, PRESENT):
            np.testing.assert_array_equal(stats.counts[code + 1], (codes == code).sum(axis=0))
            np.testing.assert_array_equal(row_counts(table, code), (codes == code).sum(axis=1))


def test_tables_without_positives_or_rows_have_statistics_too():
    stats = label_stats(LabelTable(np.zeros((3, 2), np.int8)))
    assert (stats.imbalance, stats.cardinality, stats.per_row.tolist()) == (None, 0.0, [3])
    stats = label_stats(LabelTable(np.zeros((0, 2), np.int8)))
    assert (stats.rows, stats.cardinality, stats.all_unknown) == (0, 0.0, 0)


@pytest.mark.parametrize("seed", range(3))
def test_pairs_of_codes_agree_for_every_way_of_storing_both_tables(seed):
    truth, observed = random_codes(seed), random_codes(seed + 100)
    expected = np.array(
        [[((truth == t) & (observed == o)).sum(axis=0) for o in (-1, 0, 1)] for t in (-1, 0, 1)], dtype=np.int64
    )
    for one, other in itertools.product(tables(truth), tables(observed)):
        np.testing.assert_array_equal(joint_counts(one, other), expected)


@pytest.mark.parametrize("seed", range(3))
def test_noise_agrees_with_counting_one_by_one(seed):
    truth, observed = random_codes(seed), random_codes(seed + 50)
    noise = noise_stats(LabelTable(truth), sparse(observed, UNKNOWN))
    expected = oracle.noise_figures(truth.tolist(), observed.tolist())
    for name in noise.__dataclass_fields__:
        assert int(getattr(noise, name).sum()) == expected[name], name
        for k in range(truth.shape[1]):
            column = oracle.noise_figures(truth[:, k : k + 1].tolist(), observed[:, k : k + 1].tolist())
            assert getattr(noise, name)[k] == column[name]


def test_the_truth_itself_has_no_noise():
    table = sparse(random_codes(4), UNKNOWN)
    noise = noise_stats(table, table)
    assert not (noise.wrong + noise.unlabelled + noise.denied).any()
    np.testing.assert_array_equal(noise.labelled, table.counts(PRESENT))


@pytest.mark.parametrize("at_most", [3, 7, 50])
def test_co_occurrence_agrees_with_counting_and_leaves_out_what_is_nowhere(at_most):
    codes = random_codes(1)
    codes[:, 2] = ABSENT
    expected = np.array(oracle.together(codes.tolist(), 7))
    for table in tables(codes):
        found = co_occurrence(table, at_most)
        assert len(found.classes) == min(at_most, 6)
        assert 2 not in found.classes
        np.testing.assert_array_equal(found.counts, expected[np.ix_(found.classes, found.classes)])
        frequent = np.diag(found.counts)
        assert (np.diff(frequent) <= 0).all()
        shares = found.conditional()
        assert (shares >= 0).all()
        assert (shares <= 1).all()
        np.testing.assert_allclose(np.diag(shares), 1)


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_co_occurrence_does_not_depend_on_the_size_of_blocks(monkeypatch, size):
    codes = random_codes(2)
    whole = [co_occurrence(table, 7) for table in tables(codes)]
    monkeypatch.setattr(inspection, "_ROWS", size)
    monkeypatch.setattr(inspection, "_BLOCK", 7 * size)
    for table, one in zip(tables(codes), whole, strict=True):
        found = co_occurrence(table, 7)
        np.testing.assert_array_equal(found.classes, one.classes)
        np.testing.assert_array_equal(found.counts, one.counts)


def test_nothing_occurs_together_where_nothing_is_present():
    found = co_occurrence(LabelTable(np.zeros((4, 3), np.int8)), 10)
    assert found.counts.shape == (0, 0)
    assert strongest_pairs(found, 5, 1) == []


def test_strongest_pairs_are_the_highest_shares_with_enough_rows():
    codes = np.array([[1, 1, 0], [1, 1, 0], [1, 0, 1], [1, 0, 0]], dtype=np.int8)
    found = co_occurrence(LabelTable(codes), 3)
    every = [(pair.given, pair.then, pair.share, pair.rows, pair.given_rows) for pair in strongest_pairs(found, 9, 1)]
    assert every == [(1, 0, 1.0, 2, 2), (2, 0, 1.0, 1, 1), (0, 1, 0.5, 2, 4), (0, 2, 0.25, 1, 4)]
    assert [pair[:2] for pair in strongest_pairs(found, 9, 2)] == [(1, 0), (0, 1)]
    assert len(strongest_pairs(found, 1, 1)) == 1


@pytest.mark.parametrize(
    "mode, name, form", [("L", "a.jpg", ".jpg JPEG"), ("CMYK", "b.jpg", ".jpg JPEG"), ("P", "c.PNG", ".png PNG")]
)
def test_an_image_says_how_it_is_stored(tmp_path, mode, name, form):
    path = picture(tmp_path / name, (31, 17), mode, 3 if mode != "CMYK" else (1, 2, 3, 4))
    found = examine(FileImages([path]), 0)
    assert found == StoredImage(None, (31, 17), mode, form, path.stat().st_size)


def test_sixteen_bits_and_wrong_endings_are_reported(tmp_path):
    Image.fromarray(np.full((4, 6), 40_000, dtype=np.uint16)).save(tmp_path / "deep.png")
    (tmp_path / "deep.png").rename(tmp_path / "deep.jpg")
    found = examine(FileImages([tmp_path / "deep.jpg"]), 0)
    assert found.mode == "I;16"
    assert found.form == ".jpg PNG"


def test_faults_are_kept_by_row_and_say_what_is_wrong(tmp_path):
    paths = [picture(tmp_path / f"{n}.jpg", (200, 100)) for n in range(4)]
    paths[1].write_bytes(b"")
    paths[3].write_bytes(paths[3].read_bytes()[:-40])
    images = FileImages(paths)
    stats = image_stats(5, ((row, examine(images, row)) for row in range(4)))
    assert set(stats.faults) == {1, 3}
    assert stats.faults[1] == "is empty"
    assert "damaged" in stats.faults[3]
    assert stats.sides.tolist() == [[200, 100], [0, 0], [200, 100], [0, 0], [0, 0]]
    assert (stats.sizes > 0).tolist() == [True, False, True, False, False]
    assert stats.modes.tolist() == ["RGB", "", "RGB", "", ""]


class Broken(ArrayImages):
    def open(self, row):
        raise RunError(f"image {row} cannot be read")


def test_images_in_memory_have_statistics_and_digests():
    pixels = np.random.default_rng(0).integers(0, 256, (3, 5, 8, 3), dtype=np.uint8)
    pixels[2] = pixels[0]
    images = ArrayImages(pixels, ["a", "b", "c"])
    assert examine(images, 1) == StoredImage(None, (8, 5), "RGB", "in memory", 120)
    values = [digest(images, row) for row in range(3)]
    assert values[0] == values[2] != values[1]
    assert digest(ArrayImages(pixels.reshape(3, 8, 5, 3), "abc"), 0) != values[0]  # the same bytes in another shape
    assert "cannot be read" in examine(Broken(pixels, ["a", "b", "c"]), 1).fault


@pytest.mark.parametrize("seed", range(4))
def test_equal_files_are_found_whatever_the_split_and_only_files_of_one_size_are_read(tmp_path, seed):
    rng = np.random.default_rng(seed)
    files = {name: [] for name in ("train", "validation", "test")}
    for name, count in zip(files, (9, 4, 6), strict=True):
        for row in range(count):
            path = tmp_path / f"{name}{row}"
            path.write_bytes(bytes(rng.integers(0, 2, rng.integers(0, 4), dtype=np.uint8)))
            files[name].append(path)
    sizes = {name: np.array([path.stat().st_size for path in paths]) for name, paths in files.items()}
    shared = shared_sizes(sizes)
    flat = np.concatenate(list(sizes.values()))
    for name, rows in shared.items():
        expected = [row for row, size in enumerate(sizes[name]) if size and (flat == size).sum() > 1]
        assert rows.tolist() == expected
    images = {name: FileImages(paths) for name, paths in files.items()}
    found = duplicates((name, row, digest(images[name], row)) for name, rows in shared.items() for row in rows.tolist())
    named = sorted(sorted(str(files[name][row]) for name, row in group) for group in found)
    assert named == oracle.same_content([path for paths in files.values() for path in paths])


def test_boxes_without_area_and_outside_are_found():
    corners = [
        (0, 0, 10, 10),  # fine
        (5, 5, 5, 9),  # no width
        (5, 9, 8, 5),  # upside down
        (0, 0, 20.9, 10),  # rounded over the edge
        (0, 0, 22, 10),  # beyond
        (-3, 0, 4, 4),
        (np.nan, 0, 4, 4),
        (0, 0, 900, 900),  # in an image of unknown size
    ]
    rows = np.array([0, 0, 0, 0, 0, 0, 0, 1])
    boxes = Boxes(rows, np.zeros(8, dtype=np.int64), np.array(corners, dtype=np.float32))
    stats = box_stats(boxes, np.array([[20, 10], [0, 0]]))
    assert stats.empty.tolist() == [1, 2, 6]
    assert stats.outside.tolist() == [4, 5]
    assert box_stats(boxes, None).outside.tolist() == []
    nothing = Boxes(rows[:0], rows[:0], np.zeros((0, 4), np.float32))
    assert box_stats(nothing, np.zeros((0, 2), np.int64)).empty.tolist() == []


@pytest.mark.parametrize(
    "corners, outside",
    [
        ((-1, -1, 21, 11), False),
        ((-1.5, 0, 10, 10), True),
        ((0, -1.5, 10, 10), True),
        ((0, 0, 21.5, 10), True),
        ((0, 0, 20, 11.5), True),
    ],
)
def test_a_box_may_reach_over_each_edge_by_a_pixel(corners, outside):
    row = np.array([1])
    boxes = Boxes(row, np.zeros(1, dtype=np.int64), np.array([corners], dtype=np.float32))
    assert box_stats(boxes, np.array([[500, 500], [20, 10]])).outside.tolist() == [0] * outside


@pytest.mark.parametrize("block", [1, 14, 15, 279, 280])
def test_pairs_of_codes_are_counted_in_blocks_of_any_size(monkeypatch, block):
    truth, observed = random_codes(1), random_codes(101)
    whole = joint_counts(LabelTable(truth), LabelTable(observed))
    monkeypatch.setattr("data.inspection._BLOCK", block)
    np.testing.assert_array_equal(joint_counts(LabelTable(truth), LabelTable(observed)), whole)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("least", [1, 3])
def test_strongest_pairs_are_those_of_a_list_of_all(seed, least):
    codes = (np.random.default_rng(seed).random((12, 6)) < 0.4).astype(np.int8)
    found = co_occurrence(LabelTable(codes), 6)
    classes = found.classes.tolist()
    every = []
    for j, k in itertools.permutations(range(len(classes)), 2):
        given, both = codes[:, classes[j]].sum(), (codes[:, classes[j]] & codes[:, classes[k]]).sum()
        if both >= least:
            every.append((-both / given, -both, j, k, given))
    expected = [(classes[j], classes[k], -share, -rows, given) for share, rows, j, k, given in sorted(every)]
    assert [tuple(pair) for pair in strongest_pairs(found, 99, least)] == expected
    assert strongest_pairs(found, 4, least) == strongest_pairs(found, 99, least)[:4]


def test_parts_of_files_and_files_without_an_ending_say_what_they_are(tmp_path):
    path = picture(tmp_path / "a.PNG", (30, 20))
    part = examine(CroppedImages(FileImages([path]), np.array([[1.0, 2, 11, 7]])), 0)
    assert part == StoredImage(None, (10, 5), "RGB", "part of .png", 150)
    path.rename(tmp_path / "a")
    assert examine(FileImages([tmp_path / "a"]), 0).form == "no ending PNG"


def test_a_table_without_classes_has_a_density():
    assert label_stats(LabelTable(np.zeros((2, 0), np.int8))).density == 0.0


def test_one_row_of_one_class_has_its_statistics():
    stats = label_stats(LabelTable(np.ones((1, 1), np.int8)))
    assert (stats.cardinality, stats.density, stats.imbalance) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("width, outside", [(0, []), (1, [0])])
def test_a_box_is_outside_of_an_image_of_one_pixel_and_of_none_of_unknown_size(width, outside):
    boxes = Boxes(np.zeros(1, np.int64), np.zeros(1, np.int64), np.array([[0, 0, 5, 5]], dtype=np.float32))
    assert box_stats(boxes, np.array([[width, width]])).outside.tolist() == outside
