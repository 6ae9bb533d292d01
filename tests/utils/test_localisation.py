import math
import warnings

import numpy as np
import pytest

from tests.golden_files import load
from tests.oracles import localisation as oracle
from tests.ranks import run_ranks
from utils.localisation import PointingGame, by_image, hits, peaks
from utils.types import ABSENT, PRESENT, UNKNOWN, Boxes


def boxes_of(entries):
    """Boxes from rows (row, class, x1, y1, x2, y2)."""
    table = np.array(entries, dtype=np.float64).reshape(-1, 6)
    return Boxes(table[:, 0].astype(np.int64), table[:, 1].astype(np.int64), table[:, 2:].astype(np.float32))


def spike(y, x, shape=(1, 5, 5)):
    maps = np.zeros(shape)
    maps[..., y, x] = 1.0
    return maps


def test_golden_pointing_game():
    golden = load("pointing_game.npz")
    maps, sizes = golden["cams"], golden["sizes_hw"]
    assert golden["boxes_columns"].tolist() == ["image", "class", "x1", "y1", "x2", "y2"]
    game = PointingGame(maps.shape[1])
    found = np.zeros_like(golden["hit"])
    for image, boxes in enumerate(by_image(boxes_of(golden["boxes"]), len(maps))):
        size = tuple(map(int, sizes[image]))
        np.testing.assert_array_equal(peaks(maps[image], *size), golden["points_xy"][image])
        truth = golden["labels"][image].astype(np.int8)
        label, hit = hits(maps[image], truth, boxes, size)
        found[image, label] = hit
        game.add(maps[image], truth, boxes, size)
    np.testing.assert_array_equal(found, golden["hit"])
    result = game.result()
    np.testing.assert_array_equal(result.cases, golden["total_per_class"])
    np.testing.assert_allclose(100 * result.per_class, golden["per_class"], rtol=1e-12)
    np.testing.assert_allclose(100 * result.mean, golden["score"], rtol=1e-12)


@pytest.mark.parametrize("shape, size", [((7, 7), (40, 68)), ((3, 5), (17, 11)), ((14, 14), (9, 31)), ((1, 1), (4, 3))])
@pytest.mark.parametrize("seed", range(3))
def test_peaks_equal_those_of_all_pixels(shape, size, seed):
    maps = np.random.default_rng(seed).normal(size=(3, *shape))
    assert peaks(maps, *size).tolist() == [list(oracle.peak(cells, *size)) for cells in maps.tolist()]


@pytest.mark.parametrize("seed", range(20))
def test_of_equal_pixels_the_first_by_rows_is_the_peak(seed):
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 5, 2))
    height, width = rng.integers(1, 20, 2).tolist()
    maps = rng.integers(0, 2, (4, *shape)).astype(float)
    assert peaks(maps, height, width).tolist() == [list(oracle.peak(cells, height, width)) for cells in maps.tolist()]


def test_the_peak_of_a_flat_map_is_the_first_pixel():
    assert peaks(np.full((2, 7, 7), -3.7), 375, 500).tolist() == [[0, 0], [0, 0]]


def test_a_map_of_the_images_own_size_is_taken_as_it_is():
    maps = np.random.default_rng(0).normal(size=(5, 6, 9))
    expected = [divmod(int(one.argmax()), 9)[::-1] for one in maps]
    assert peaks(maps, 6, 9).tolist() == [list(point) for point in expected]


def test_no_maps_give_no_peaks():
    assert peaks(np.zeros((0, 7, 7)), 10, 20).shape == (0, 2)


def test_the_rim_of_a_box_belongs_to_it():
    maps, truth = spike(2, 3), np.array([PRESENT], dtype=np.int8)  # the peak is at pixel x 3, y 2
    for corners, expected in [
        ((3, 2, 3, 2), True),
        ((3, 2, 4, 4), True),
        ((0, 0, 3, 2), True),
        ((0, 0, 2.9, 4), False),
        ((0, 2.1, 4, 4), False),
        ((4, 0, 4, 4), False),
    ]:
        assert hits(maps, truth, boxes_of([(0, 0, *corners)]), (5, 5)).hit.tolist() == [expected], corners


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("tolerance", [0.0, 2.0, 3.6])
def test_hits_equal_the_oracle(seed, tolerance):
    rng = np.random.default_rng(seed)
    classes, size = 4, (23, 17)
    maps = rng.normal(size=(classes, 5, 5))
    truth = rng.integers(-1, 2, classes).astype(np.int8)
    low = rng.integers(0, 12, (6, 2))
    entries = np.column_stack([np.zeros(6), rng.integers(0, classes, 6), low, low + rng.integers(0, 5, (6, 2))])
    expected = {}
    for label in range(classes):
        mine = [tuple(row[2:]) for row in entries if row[1] == label]
        if truth[label] == PRESENT and mine:
            expected[label] = oracle.is_hit(oracle.peak(maps[label].tolist(), *size), mine, tolerance)
    found = hits(maps, truth, boxes_of(entries), size, tolerance)
    assert dict(zip(found.label.tolist(), found.hit.tolist(), strict=True)) == expected


def test_tolerance_is_a_distance_and_not_a_square():
    maps, truth, box = spike(0, 0), np.array([PRESENT], dtype=np.int8), boxes_of([(0, 0, 3, 4, 4, 4)])
    assert hits(maps, truth, box, (5, 5), tolerance=5.0).hit.tolist() == [True]
    assert hits(maps, truth, box, (5, 5), tolerance=4.99).hit.tolist() == [False]


def test_only_present_classes_with_a_box_are_cases():
    truth = np.array([PRESENT, UNKNOWN, ABSENT, PRESENT], dtype=np.int8)
    boxes = boxes_of([(0, label, 0, 0, 4, 4) for label in (0, 0, 1, 2)])
    found = hits(np.zeros((4, 3, 3)), truth, boxes, (5, 5))
    assert (found.label.tolist(), found.hit.tolist()) == ([0], [True])


def test_figures_are_means_over_classes_with_cases():
    game = PointingGame(3)
    present = np.array([PRESENT, PRESENT, ABSENT], dtype=np.int8)
    for spot in (0, 4, 4, 4):
        maps = np.concatenate([spike(spot, spot), spike(0, 0), spike(0, 0)])
        game.add(maps, present, boxes_of([(0, 0, 3, 3, 4, 4), (0, 1, 0, 0, 1, 1)]), (5, 5))
    result = game.result()
    assert result.per_class[:2].tolist() == [0.75, 1.0]
    assert math.isnan(result.per_class[2])
    assert (result.mean, result.cases.tolist()) == (0.875, [4, 4, 0])


def test_classes_of_one_image_count_and_a_point_beside_a_box_is_no_hit_without_tolerance():
    game, truth = PointingGame(3), np.array([PRESENT, PRESENT, ABSENT], dtype=np.int8)
    maps = np.concatenate([spike(2, 3)] * 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        game.add(maps, truth, boxes_of([(0, 0, 0, 0, 2.9, 4), (0, 1, 3, 2, 3, 2)]), (5, 5))
        result = game.result()
    assert game.tolerance == 0
    assert (result.mean, result.per_class[:2].tolist(), result.cases.tolist()) == (0.5, [0, 1], [1, 1, 0])


def test_without_a_case_there_is_no_figure():
    result = PointingGame(2).result()
    assert math.isnan(result.mean)
    assert np.isnan(result.per_class).all()


@pytest.mark.parametrize("tolerance", [-1.0, math.nan, math.inf])
def test_a_tolerance_that_is_no_distance_is_refused(tolerance):
    with pytest.raises(ValueError, match="tolerance"):
        PointingGame(2, tolerance)


def test_boxes_come_apart_by_image_in_their_order():
    boxes = boxes_of([(2, 0, 0, 0, 1, 1), (0, 1, 0, 0, 2, 2), (2, 3, 0, 0, 3, 3), (0, 2, 0, 0, 4, 4)])
    parts = by_image(boxes, 4)
    assert [part.label.tolist() for part in parts] == [[1, 2], [], [0, 3], []]
    assert parts[2].corners.tolist() == [[0, 0, 1, 1], [0, 0, 3, 3]]
    assert [len(part.row) for part in by_image(boxes_of([]), 2)] == [0, 0]


def share_of_images(rank):
    game = PointingGame(2)
    for image in range(5)[rank::2]:
        game.add(spike(image, image, (2, 5, 5)), np.ones(2, dtype=np.int8), boxes_of([(0, 0, 3, 3, 4, 4)]), (5, 5))
    result = game.result()
    return result.mean, result.per_class.tolist()[0], result.cases.tolist()


def test_processes_count_together():
    assert run_ranks(share_of_images) == [(0.4, 0.4, [5, 0])] * 2
