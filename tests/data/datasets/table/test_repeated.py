import numpy as np
import pytest

from data.datasets.table.repeated import SILENT, agreement, clash, combined, of_pairs
from utils.types import ABSENT, PRESENT, UNKNOWN

SAY = {1: PRESENT, 0: ABSENT, -1: UNKNOWN}


def slowly(codes, image, images, how):
    """Entry by entry."""
    found = np.full((images, codes.shape[1]), UNKNOWN)
    for one in range(images):
        for label in range(codes.shape[1]):
            votes = [codes[line, label] for line in range(len(image)) if image[line] == one]
            yes, no = votes.count(PRESENT), votes.count(ABSENT)
            found[one, label] = {
                "first": votes[0],
                "union": PRESENT if yes else ABSENT if no else UNKNOWN,
                "majority": PRESENT if yes > no else ABSENT if no > yes else UNKNOWN,
                "unknown": PRESENT if yes and not no else ABSENT if no and not yes else UNKNOWN,
            }[how]
    return found


@pytest.mark.parametrize("how", ["union", "majority", "unknown", "first"])
@pytest.mark.parametrize("seed", range(3))
def test_lines_of_annotators_are_taken_together(how, seed):
    rng = np.random.default_rng(seed)
    image = np.concatenate([np.arange(6), rng.integers(0, 6, 17)])
    codes = rng.integers(-1, 2, (len(image), 4)).astype(np.int8)
    np.testing.assert_array_equal(combined(codes, image, 6, how), slowly(codes, image, 6, how))


def test_agreement_counts_images_that_two_know():
    codes = np.array([[1, 1, -1], [1, 0, 1], [0, 0, -1], [0, 0, 0], [1, 1, 1]], dtype=np.int8)
    found = agreement(codes, np.array([0, 0, 1, 1, 2]), 3)
    np.testing.assert_array_equal(found, [1.0, 0.5, np.nan])


def test_a_line_per_image_and_class():
    quiet = SILENT
    lines = np.array([[1, quiet], [quiet, 1], [1, quiet], [quiet, quiet]], dtype=np.int8)
    image = np.array([0, 0, 1, 2])
    assert of_pairs(lines, image, 3).tolist() == [[1, 1], [1, 0], [0, 0]]
    lines[2, 0] = ABSENT
    assert of_pairs(lines, image, 3).tolist() == [[1, 1], [0, -1], [-1, -1]]
    lines[2, 0] = UNKNOWN
    assert of_pairs(lines, image, 3).tolist() == [[1, 1], [-1, 0], [0, 0]]


def test_two_values_of_one_pair_are_found_with_their_lines():
    quiet = SILENT
    lines = np.array([[1, quiet], [quiet, 0], [1, quiet], [quiet, 1]], dtype=np.int8)
    assert clash(lines, np.array([0, 0, 0, 1])) is None
    assert clash(lines, np.array([0, 0, 0, 0])) == (1, 3, 1)
    assert clash(lines[:0], np.array([], dtype=np.int64)) is None
