"""What images belong to, for criteria that need it: from annotations in a run, or given in a loop of your own."""

from dataclasses import replace

import numpy as np
import pytest

from engine.training.setup import image_groups
from losses import CRITERIA, build_criterion
from tests.data.trees import annotations
from utils.checks import UserError

NEEDS = frozenset({"groups"})
TRAIN = replace(annotations([[1], [0], [1], [0]]), groups=np.array([70, 5, 70, 12]))


def test_groups_of_a_run_are_numbered_from_0_in_their_order():
    found = image_groups("sample", NEEDS, TRAIN)
    assert (found.tolist(), found.dtype) == ([2, 0, 2, 1], np.int64)
    assert image_groups("sample", NEEDS, TRAIN.take(np.array([2, 3]))).tolist() == [1, 0]


def test_groups_that_nothing_reads_are_not_made_and_lacking_ones_are_refused():
    assert image_groups("sample", frozenset({"features"}), TRAIN) is None
    without = replace(TRAIN, groups=None)
    assert image_groups("sample", frozenset(), without) is None
    with pytest.raises(UserError, match=r"^sample: learns from what images belong to .* from --group_column$"):
        image_groups("sample", NEEDS, without)


def test_groups_in_a_loop_of_your_own_are_numbers_or_names(monkeypatch):
    codes = [[1, 0], [0, 1], [1, 1]]
    assert build_criterion("bce", observed=codes).info.groups is None
    for given in ([9, 2, 9], ["b", "a", "b"], np.array([1.0, -1.0, 1.0])):
        found = build_criterion("bce", observed=codes, groups=given).info.groups
        assert (found.tolist(), found.dtype) == ([1, 0, 1], np.int64)
    for wrong in ([1, 2], [[1], [2], [3]]):
        with pytest.raises(UserError, match=r"^groups: must be 3 numbers or names, one for each image, got \("):
            build_criterion("bce", observed=codes, groups=wrong)
    monkeypatch.setattr(CRITERIA["bce"].criterion, "needs", NEEDS)
    with pytest.raises(UserError, match=r"^bce: give groups, what each of the N images belongs to$"):
        build_criterion("bce", observed=codes)
