"""What counts as a difference between two runs."""

import numpy as np
import pytest
import torch

from tests.equality.scripts import apart

SAME = {"a": [1.0, torch.tensor([2.0, float("nan")])], "b": {"c": np.zeros(2), "d": "text"}, "e": True, "f": None}


@pytest.mark.parametrize(
    ("changed", "places"),
    [
        ({}, []),
        ({"a": [1.0 + 1e-8, torch.tensor([2.0, float("nan")])]}, []),
        ({"a": [1.00001, torch.tensor([2.0, 2.0])]}, ["/a/0", "/a/1"]),
        ({"a": [1.0]}, ["/a"]),
        ({"b": {"c": np.array([0.0, 1e-6]), "d": "other"}}, ["/b/c", "/b/d"]),
        ({"b": {"c": np.zeros(3), "d": "text"}}, ["/b/c"]),
        ({"b": {"d": "text"}}, ["/b"]),
        ({"f": 0.0}, ["/f"]),
    ],
)
def test_differences_beyond_rounding_are_named(changed, places):
    assert [line.split(":")[0] for line in apart(SAME | changed, SAME)] == places


def test_numbers_of_a_table_are_compared_as_numbers():
    assert list(apart({"loss": "0.50000000001"}, {"loss": "0.5"})) == []
    assert list(apart({"loss": "0.51"}, {"loss": "0.5"})) == ["/loss: 0.51 and 0.5"]
    assert list(apart({"best": ""}, {"best": ""})) == []
