"""The published spelling `--labels_left`."""

import pytest

from data.labels.regime import labels_left


@pytest.mark.parametrize(
    ("text", "rate"), [("25", "0.75"), ("50", "0.5"), ("100", "0"), ("0", "1"), ("12.5", "0.875"), ("99.99", "0.0001")]
)
def test_a_percentage_of_the_positives_is_left(text, rate):
    found = labels_left(text)
    assert (found["labels"], float(found["drop_rate"])) == ("dropped", float(rate))
    assert set(found) == {"labels", "drop_rate"}


def test_a_single_positive_is_left():
    assert labels_left("single") == {"labels": "single"}


@pytest.mark.parametrize("text", ["-1", "-0.001", "100.001", "101", "nan", "inf", "", "half", "Single"])
def test_anything_else_is_refused(text):
    with pytest.raises(ValueError, match="must be single, or a percentage such as 75, 50 or 25"):
        labels_left(text)
