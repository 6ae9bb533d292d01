"""Published figures stand beside measured ones of the same images, and are not compared with those of a handful."""

from types import SimpleNamespace

import pytest

from engine.evaluation.published import TEST_IMAGES, comparison

ENTRY = SimpleNamespace(name="x", paper="A paper", source="its page", metrics={"mAP": 89.2})


@pytest.mark.parametrize(
    ("images", "dataset", "said"),
    [
        (24, "pascal", "it is of 5,823 test images, these are 24 (0.4 %)"),
        (70, "voc07", "it is of 4,952 test images, these are 70 (1 %)"),
        (1, "coco", "it is of 40,137 test images, these are 1 (0.002 %)"),
        (500, "coco-lt", "these are 500 (10 %)"),
        (750, "coco-lt", "these are 750 (15 %)"),
        (4899, "coco-lt", "these are 4,899 (98 %)"),
        (2476, "voc07", "these are 2,476 (50 %)"),
        (4800, "voc12", "these are 4,800 (82 %)"),
        (5700, "voc12", "these are 5,700 (98 %)"),
        (999, "nuswide", "it is of the whole test set of nuswide, these are only 999 images"),
    ],
)
def test_a_part_of_the_test_set_is_not_compared(images, dataset, said):
    reported, lines = comparison(ENTRY, images, dataset)
    assert reported == {}
    assert said in lines[0]
    assert lines[0].startswith("  not compared with the published mAP 89.20: ")
    assert lines[1] == "  published: x, A paper (its page)"


@pytest.mark.parametrize(
    ("images", "dataset"), [(5823, "pascal"), (4900, "coco-lt"), (40504, "coco"), (1000, "nuswide")]
)
def test_the_whole_test_set_is_compared(images, dataset):
    assert comparison(ENTRY, images, dataset) == (ENTRY.metrics, ("  published: x, A paper (its page)",))


def test_nothing_is_said_where_nothing_is_published():
    assert comparison(None, 3, "voc07") == ({}, ())


def test_sizes_are_of_datasets_that_there_are():
    from data.datasets import DATASETS

    assert set(TEST_IMAGES) <= set(DATASETS)
