"""Chances of wrong labels of a run: its file comes back bit for bit, and what is wrong with one is refused."""

from pathlib import Path

import numpy as np
import pytest

from data.labels.class_rates import read_noise_rates
from engine.training.noise_rates import RATES_FILE, rates_from_file, report_rates
from losses.common.class_priors import ClassPriorConfig
from losses.common.noise_rates import NoiseRateConfig
from utils.checks import UserError
from utils.class_facts import NoiseRates

CLASSES = ('a "b", c', "dog", " é")
VALUES = np.array([[1 / 3, 0.0], [1e-12, 0.5], [0.25, 0.125]])


def test_rates_are_told_and_estimated_ones_are_a_file_that_comes_back(tmp_path, capsys):
    assert report_rates(None, CLASSES, Path("nowhere")) == {}
    given = report_rates(NoiseRates(VALUES, ("given",) * 3), CLASSES, Path("nowhere"))
    assert given["noise_rates"]["dog"] == {"rho_neg": 1e-12, "rho_pos": 0.5, "origin": "given"}
    part = report_rates(NoiseRates(VALUES, ("pairs", "anchors", "none")), CLASSES, tmp_path)
    assert list(part["noise_rates"]) == list(CLASSES)
    assert [each["origin"] for each in part["noise_rates"].values()] == ["pairs", "anchors", "none"]
    assert capsys.readouterr().out.count("for --rates_file") == 1
    stripped = tuple(name.strip() for name in CLASSES)
    config = NoiseRateConfig(rates_file=tmp_path / RATES_FILE)
    np.testing.assert_array_equal(rates_from_file(config, stripped), VALUES)
    assert rates_from_file(NoiseRateConfig(), CLASSES) is None
    assert rates_from_file(ClassPriorConfig(), CLASSES) is None


@pytest.mark.parametrize(
    "text, line",
    [
        ("class,rho_neg\ncat,0.1\ndog,0.1\n", "no column 'rho_pos'"),
        ("class,rho_neg,rho_pos\ncat,0.1,0\n", "no line for class 'dog'"),
        ("class,rho_neg,rho_pos\ncat,0.1,0\ndog,x,0\n", "line 3: rho_neg of dog is 'x', must be a number"),
        ("class,rho_neg,rho_pos\ncat,0.1,0\ndog,0,2\n", "line 3: rho_pos of dog is 2, must be between 0 and 1"),
        ("class,rho_neg,rho_pos\ncat,0.5,0.5\ndog,0,0\n", "rho_neg and rho_pos of 'cat' add up to 1, must be below 1"),
        ("", "is empty; it gives each class its chances of wrong labels"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_in_a_line(tmp_path, text, line):
    path = tmp_path / "rates.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=line) as error:
        read_noise_rates(path, ("cat", "dog"))
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(str(path))


def test_a_file_that_is_not_there_is_refused_with_its_flag():
    with pytest.raises(UserError, match=r"^none\.csv: no such file; --rates_file names a CSV file"):
        read_noise_rates(Path("none.csv"), ("cat",))
