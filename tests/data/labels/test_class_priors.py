"""Files of class priors: matched by the names of classes, in our form and in the published one; what is refused."""

import numpy as np
import pytest

from data.labels.class_rates import read_class_priors
from utils.checks import UserError

CLASSES = ("cat", "dog, small", "bus")


def written(folder, text):
    path = folder / "priors.csv"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "text",
    [
        'class,prior\nbus,0.05\n"dog, small",1\ncat,0.25\n',
        'Classes,avg_pred\n"dog, small",1\ncat,0.25\nbus,5e-2\n',
        ',Classes,avg_pred\n0,cat,0.25\n1,bus,0.05\n2,"dog, small",1.0\n',
        'prior,class,Classes,avg_pred\n0.25,cat,x,9\n0.05,bus,y,9\n1,"dog, small",z,9\n',
    ],
)
def test_priors_are_matched_by_name_whatever_the_order_of_lines(tmp_path, text):
    np.testing.assert_array_equal(read_class_priors(written(tmp_path, text), CLASSES), [0.25, 1, 0.05])


@pytest.mark.parametrize(
    "text, line",
    [
        ("", "is empty; it gives each class its prior"),
        ("Classes,prior\ncat,0.1\n", "no column 'class'"),
        ("class,prior\n", "no line for class 'cat' and 2 other classes"),
        ('class,prior\ncat,0.1\n"dog, small",0.1\n', "no line for class 'bus'"),
        ("class,prior\ncat,0.1\ncat,0.2\n", "line 3: class 'cat' is there twice .first in line 2"),
        ("Classes,avg_pred\ncow,0.1\n", "line 2: 'cow' is no class of this dataset"),
        ("class,prior\ncat,1.1\n", "line 2: prior of cat is 1.1, must be between 0 and 1"),
        ("class,prior\ncat,nan\n", "line 2: prior of cat is 'nan', must be"),
        ("Classes,avg_pred\ncat,\n", "line 2: avg_pred of cat is '', must be"),
        ("class,prior\ncat\n", "line 2: 1 fields"),
        ("class,prior\n\x00\n", "holds NUL bytes"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_in_a_line(tmp_path, text, line):
    path = written(tmp_path, text)
    with pytest.raises(UserError, match=line) as error:
        read_class_priors(path, CLASSES)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"none\.csv: no such file; --prior_file names"):
        read_class_priors(tmp_path / "none.csv", CLASSES)
