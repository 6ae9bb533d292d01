import pytest

from data.datasets.table.split_cells import line_splits
from tests.data.datasets.table.sheets import sheet_of
from utils.checks import UserError

TRAIN, VALIDATION, TEST, NONE = 0, 1, 2, -1


def splits(**columns):
    return line_splits(sheet_of(columns), tuple(columns)).tolist()


def test_names_of_splits_in_any_case():
    names = ["train", "Training", "VAL", "valid", "validation", "test", "Testing"]
    assert splits(split=names) == [0, 0, 1, 1, 1, 2, 2]
    with pytest.raises(UserError, match=r"t\.csv, line 3: 'dev' in column 'split' must be train, val or test"):
        splits(split=["train", "dev"])


def test_without_a_column_no_line_has_a_split():
    assert line_splits(sheet_of({"a": ["x", "y"]}), ()).tolist() == [NONE, NONE]


@pytest.mark.parametrize(
    "columns, found",
    [
        ({"is_valid": ["True", "False", ""]}, [VALIDATION, TRAIN, TRAIN]),
        ({"is_val": ["1", "0", "0"]}, [VALIDATION, TRAIN, TRAIN]),
        ({"Is_Test": ["1", "0", "0"]}, [TEST, TRAIN, TRAIN]),
        ({"is_train": ["1", "0", "1"]}, [TRAIN, TEST, TRAIN]),
        ({"is_train": ["1", "0", "0"], "is_valid": ["0", "1", "0"]}, [TRAIN, VALIDATION, TEST]),
        ({"is_train": ["1", "0", "0"], "is_test": ["0", "1", "0"]}, [TRAIN, TEST, VALIDATION]),
        ({"is_valid": ["1", "0", "0"], "is_test": ["0", "1", "0"]}, [VALIDATION, TEST, TRAIN]),
        (
            {"is_train": ["1", "0", "0"], "is_valid": ["0", "1", "0"], "is_test": ["0", "0", "1"]},
            [TRAIN, VALIDATION, TEST],
        ),
    ],
)
def test_columns_that_mark_a_split(columns, found):
    assert splits(**columns) == found


def test_marks_that_contradict_each_other_or_say_nothing():
    with pytest.raises(UserError, match=r"line 3: is marked for two splits in 'is_train', 'is_test'"):
        splits(is_train=["1", "1"], is_test=["0", "1"])
    with pytest.raises(UserError, match="line 3: is marked for no split"):
        splits(is_train=["1", "0"], is_valid=["0", "0"], is_test=["0", "0"])
    with pytest.raises(UserError, match="line 2: 'maybe' in column 'is_test' must be 1 or 0"):
        splits(is_test=["maybe", "0"])
