from pathlib import Path

import pytest

from data.datasets.table.config import TableConfig
from utils.checks import UserError


@pytest.mark.parametrize(
    "values, word",
    [
        ({"test_frac": 0.0}, "--test_frac 0.0"),
        ({"test_frac": 1.0}, "--test_frac 1.0"),
        ({"test_frac": float("nan")}, "--test_frac nan"),
        ({"label_separator": ""}, "--label_separator"),
        ({"label_separator": "::::"}, "--label_separator"),
        ({"label_separator": ", a"}, "--label_separator"),
        ({"label_separator": "a"}, "--label_separator"),
        ({"label_separator": "\n"}, "--label_separator"),
        ({"test_table": (Path("val.csv"),)}, "--test_table"),
    ],
)
def test_settings_are_checked_at_birth(values, word):
    with pytest.raises(UserError, match=word):
        TableConfig(**values)


@pytest.mark.parametrize("separator", [";", ",", "|", " ", "\t", "/", "+", "_", "-", "::", " - "])
def test_separators_that_can_stand_between_names(separator):
    assert TableConfig(label_separator=separator).label_separator == separator
