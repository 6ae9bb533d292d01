import numpy as np
import pytest

from data.datasets.table.repeated import (
    Pairs,
    agreement,
    clash,
    combined,
    first_known,
    first_lines,
    of_pairs,
    pair_targets,
)
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


def pairs(image, label, codes, soft=None):
    values = None if soft is None else np.array(soft, dtype=np.float32)
    return Pairs(np.array(image, dtype=np.int64), np.array(label, dtype=np.int64), np.array(codes, np.int8), values)


def test_a_line_per_image_and_class():
    image, label = [0, 0, 1], [0, 1, 0]
    assert of_pairs(pairs(image, label, [1, 1, 1]), 3, 2).tolist() == [[1, 1], [1, 0], [0, 0]]
    assert of_pairs(pairs(image, label, [1, 1, ABSENT]), 3, 2).tolist() == [[1, 1], [0, -1], [-1, -1]]
    assert of_pairs(pairs(image, label, [1, 1, UNKNOWN]), 3, 2).tolist() == [[1, 1], [-1, 0], [0, 0]]
    assert of_pairs(pairs([], [], []), 2, 1).tolist() == [[0], [0]]


def test_two_values_of_one_pair_are_found_with_their_lines():
    label, codes = [0, 1, 0, 1], [1, 0, 1, 1]
    assert clash(pairs([0, 0, 0, 1], label, codes)) is None
    assert clash(pairs([0, 0, 0, 0], label, codes)) == (1, 3)
    assert clash(pairs([], [], [])) is None


def test_targets_of_pairs_are_the_values_of_their_lines():
    told = pairs([0, 0, 1], [0, 1, 0], [PRESENT, ABSENT, ABSENT], [0.75, np.nan, 0.25])
    assert pair_targets(told, of_pairs(told, 2, 2)).tolist() == [[0.75, ABSENT], [0.25, UNKNOWN]]


def test_two_values_of_a_pair_clash_if_they_differ_though_their_codes_agree():
    image, label, codes = [1, 0, 1], [0, 0, 0], 3 * [PRESENT]
    assert clash(pairs(image, label, codes)) is None
    assert clash(pairs(image, label, codes, [np.nan, 0.5, 1.0])) is None
    assert clash(pairs(image, label, codes, [0.75, 0.5, 0.7])) == (0, 2)
    assert clash(pairs(image, label, codes, [np.nan, 0.5, 0.9])) == (0, 2)


def test_first_lines():
    assert first_lines(np.array([2, 0, 2, 1, 0]), 3).tolist() == [1, 3, 0]


def test_the_first_line_that_knows_an_entry_says_it():
    codes = np.array([[UNKNOWN, PRESENT], [ABSENT, ABSENT], [PRESENT, ABSENT], [UNKNOWN, UNKNOWN]], dtype=np.int8)
    found = first_known(codes, np.array([2, 0, 2, 1]), 3)
    assert found.tolist() == [[ABSENT, ABSENT], [UNKNOWN, UNKNOWN], [PRESENT, PRESENT]]
    assert found.dtype == np.int8
