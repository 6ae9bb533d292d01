import math

import numpy as np
import pytest

from data.datasets.table.seen import code_of
from data.datasets.table.soft import (
    SoftPolicy,
    cell_values,
    first_beside,
    number_in,
    numbers_of,
    refuse_value,
    soft_note,
    soft_policy,
    soft_value,
    targets_of,
)
from utils.checks import UserError
from utils.types import UNKNOWN

TEXTS = ("1", "0", "-1", "", "0.37", ".5", "1.5", "cat")


def codes_of(texts):
    return [code_of(text) for text in texts]


@pytest.mark.parametrize(
    "setting, policy",
    [
        ("refuse", None),
        ("keep", SoftPolicy(0.5, True)),
        ("threshold=0.3", SoftPolicy(0.3, False)),
        ("threshold=1", SoftPolicy(1.0, False)),
        ("threshold=.5", SoftPolicy(0.5, False)),
    ],
)
def test_what_can_be_asked_for(setting, policy):
    assert soft_policy(setting) == policy


@pytest.mark.parametrize("setting", ["", "threshold", "threshold=", "threshold=0", "threshold=1.1", "threshold=-.5"])
@pytest.mark.parametrize("more", ["", "x"])
def test_anything_else_is_refused(setting, more):
    with pytest.raises(UserError, match=r"^--soft_labels .*: must be refuse, keep, or threshold=T"):
        soft_policy(setting + more)


@pytest.mark.parametrize(
    "text, value",
    [("0.37", 0.37), (".5", 0.5), ("1e-3", 0.001), ("+0.25", 0.25), ("1.00", 1.0), ("-0.0", 0.0), ("1E0", 1.0)],
)
def test_values_between_0_and_1(text, value):
    assert soft_value(text) == value
    assert math.copysign(1, soft_value(text)) == 1


@pytest.mark.parametrize(
    "text", ["1", "0", "01", "1.01", "-0.1", "nan", "inf", "0,5", "", "1e5", "0.5.1", "1_0", "\u0660.\u0665"]
)
def test_what_is_no_such_value(text):
    assert soft_value(text) is None


def test_numbers():
    assert (number_in("-2.5"), number_in("7"), number_in("1e3"), number_in("cat"), number_in("")) == (
        *(-2.5, 7.0, 1000.0),
        *(None, None),
    )


def test_without_a_policy_values_are_no_codes():
    found = cell_values(TEXTS, codes_of(TEXTS), None)
    assert found.codes == [1, 0, -2, UNKNOWN, None, None, None, None]
    assert not found.has_soft


@pytest.mark.parametrize("threshold, low", [(0.5, 0), (0.37, 1), (0.3700001, 0)])
def test_a_value_is_present_from_the_threshold_on(threshold, low):
    found = cell_values(TEXTS, codes_of(TEXTS), SoftPolicy(threshold, keep=False))
    assert found.codes == [1, 0, -2, UNKNOWN, low, 1, None, None]
    np.testing.assert_array_equal(found.soft, [*[np.nan] * 4, 0.37, 0.5, np.nan, np.nan])
    assert found.has_soft


def test_targets_are_values_where_there_are_any_and_codes_elsewhere():
    codes = np.array([[1, 0, -1], [0, 1, 1]], dtype=np.int8)
    soft = np.array([[np.nan, np.nan, np.nan], [0.25, np.nan, 0.75]], dtype=np.float32)
    found = targets_of(codes, soft)
    assert found.dtype == np.float32
    assert found.tolist() == [[1, 0, -1], [0.25, 1, 0.75]]


def test_what_is_said():
    assert "t: 1,234 values between 0 and 1 (--soft_labels) are present from 0.3 on" in soft_note(
        "t", 1234, SoftPolicy(0.3, keep=False)
    )
    kept = soft_note("t", 2, SoftPolicy(0.5, keep=True))
    assert "are targets of the loss; metrics and statistics count them as present from 0.5 on" in kept
    assert "changes nothing" in soft_note("t", 0, SoftPolicy(0.5, keep=True))


def test_messages_of_single_cells():
    with pytest.raises(UserError, match=r"^here: column 'a' holds '0\.3', between .* --soft_labels threshold=0\.5 "):
        refuse_value("0.3", "here", "a", None)
    with pytest.raises(UserError, match=r"^here: column 'a' holds '2\.5'; values go from 0 to 1"):
        refuse_value("2.5", "here", "a", SoftPolicy(0.5, keep=True))
    refuse_value("2.5", "here", "a", None)
    refuse_value("cat", "here", "a", SoftPolicy(0.5, keep=True))


@pytest.mark.parametrize(
    "texts, first",
    [
        (["1.0", "0.25", "-0.0", "3"], ("0.25", "3")),
        (["-1", "1e0", "0"], (None, None)),
        ([".5", "-.5", "1e-3"], (".5", "-.5")),
        (["1e999", "0.9"], ("0.9", "1e999")),
        (["-2"], (None, "-2")),
    ],
)
def test_the_first_numbers_that_are_no_codes(texts, first):
    assert numbers_of(texts) is texts
    assert first_beside(texts) == first
    codes = [code_of(text) for text in texts]
    others = [text for text, code in zip(texts, codes, strict=True) if code is None]
    values = [soft_value(text) for text in others]
    assert first[0] == next((text for text, one in zip(others, values, strict=True) if one is not None), None)
    assert first[1] == next((text for text, one in zip(others, values, strict=True) if one is None), None)


@pytest.mark.parametrize("texts", [["1", "x"], ["1", ""], ["1\n2"], ["1_0"], ["nan"], ["٣"]])
def test_texts_that_are_not_all_numbers(texts):
    assert numbers_of(texts) is None
