"""Parts of images with their share of each class."""

import numpy as np
import pytest
from scipy.sparse import csr_array

from data.subsets.stratification import stratified_parts


def drawn(seed):
    """Labels (N, C), of which some classes are rare and some images have none."""
    rng = np.random.default_rng(seed)
    images, classes = rng.integers(6, 90), rng.integers(2, 12)
    return rng.random((images, classes)) < rng.choice([0.03, 0.2, 0.5, 0.9], classes)


@pytest.mark.parametrize("seed", range(12))
def test_the_draws_are_those_of_the_package(seed):
    package = pytest.importorskip("iterstrat.ml_stratifiers")
    present = drawn(seed)
    split = package.MultilabelStratifiedShuffleSplit(n_splits=1, test_size=0.23, random_state=seed)
    test = int(np.ceil(0.23 * len(present)))
    parts = stratified_parts(csr_array(present), np.array([len(present) - test, test]) / len(present), seed)
    np.testing.assert_array_equal(np.flatnonzero(parts == 1), next(split.split(present, present))[1])
    folds = package.MultilabelStratifiedKFold(3, shuffle=True, random_state=2**32 - 1 - seed)
    parts = stratified_parts(csr_array(present), 3 * [1 / 3], 2**32 - 1 - seed)
    for fold, (_, held_out) in enumerate(folds.split(present, present)):
        np.testing.assert_array_equal(np.flatnonzero(parts == fold), held_out)


def test_every_class_and_the_images_have_their_shares():
    rng = np.random.default_rng(0)
    present = np.zeros((400, 6), dtype=bool)
    for label, positives in enumerate([4, 8, 40, 100, 200, 400]):
        present[rng.choice(400, positives, replace=False), label] = True
    parts = stratified_parts(csr_array(present), [0.5, 0.25, 0.25], 7)
    assert [present[parts == part, 0].sum() for part in range(3)] == [2, 1, 1]
    shares = np.array([present[parts == part].sum(axis=0) for part in range(3)]) / present.sum(axis=0)
    np.testing.assert_allclose(shares, np.array([[0.5], [0.25], [0.25]]).repeat(6, axis=1), atol=0.05)


def test_images_without_any_class_are_dealt_out():
    parts = stratified_parts(csr_array(np.zeros((10, 3), dtype=bool)), [0.8, 0.2], 0)
    assert np.bincount(parts).tolist() == [8, 2]
    assert len(stratified_parts(csr_array((0, 3), dtype=bool), [0.8, 0.2], 0)) == 0


def test_the_order_in_which_entries_are_stored_does_not_matter():
    present = csr_array(drawn(3))
    backwards = present.copy()
    for first, end in zip(backwards.indptr[:-1], backwards.indptr[1:], strict=True):
        backwards.indices[first:end] = backwards.indices[first:end][::-1].copy()
    backwards.has_sorted_indices = False
    one, other = (stratified_parts(each, [0.5, 0.5], 5) for each in (present, backwards))
    np.testing.assert_array_equal(one, other)


def test_many_classes_take_no_longer_than_their_positives():
    """200,000 images of 20,000 classes as a dense table would be 4 GB; class by class, hours."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 20_000, 5_000)
    present = csr_array((np.ones(5_000, dtype=bool), (np.arange(5_000) * 40, labels)), shape=(200_000, 20_000))
    parts = stratified_parts(present, [0.9, 0.1], 1)
    assert np.bincount(parts).tolist() == [180_000, 20_000]
