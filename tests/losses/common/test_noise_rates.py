"""Chances of wrong labels that are known before training: whose they are, and what cannot be."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from losses import build_criterion
from losses.common.noise_rates import NoiseRateConfig, given_rates
from tests.losses.fake_model import info_for, random_labels
from utils.checks import UserError

INFO = info_for(random_labels(6, 3))
GIVEN = np.array([[0.1, 0.2], [0.0, 0.5], [0.3, 0.0]])


def test_rates_come_from_a_setting_or_from_a_file():
    assert given_rates(NoiseRateConfig(), INFO) is None
    found = given_rates(NoiseRateConfig(known_rates=(0.25, 0.5)), INFO)
    np.testing.assert_array_equal(found, [[0.25, 0.5]] * 3)
    assert given_rates(NoiseRateConfig(rates_file=Path("r.csv")), replace(INFO, noise_rates=GIVEN)) is GIVEN
    assert given_rates(NoiseRateConfig(), replace(INFO, noise_rates=GIVEN)) is GIVEN


def test_rates_of_two_origins_and_of_a_file_that_nobody_read_are_refused():
    with pytest.raises(UserError, match=r"^--known_rates 0\.1,0\.2, --rates_file r\.csv: rates come from one of them"):
        NoiseRateConfig(known_rates=(0.1, 0.2), rates_file=Path("r.csv"))
    with pytest.raises(UserError, match=r"^--rates_file r\.csv: read by the training scripts"):
        given_rates(NoiseRateConfig(rates_file=Path("r.csv")), INFO)
    with pytest.raises(UserError, match=r"^noise rates are given: leave out --known_rates"):
        given_rates(NoiseRateConfig(known_rates=(0.1, 0.2)), replace(INFO, noise_rates=GIVEN))


def test_the_ends_of_what_can_be():
    assert NoiseRateConfig(known_rates=(0.0, 0.0)).known_rates == (0, 0)
    assert NoiseRateConfig(known_rates=(0.0, 0.99)).known_rates == (0, 0.99)
    with pytest.raises(UserError, match=r"^--known_rates 0\.0,1\.0: must be two numbers in \[0, 1\], of a sum below 1"):
        NoiseRateConfig(known_rates=(0.0, 1.0))


@pytest.mark.parametrize("rates", [GIVEN[:2], GIVEN.T, GIVEN + 0.5, GIVEN - 0.1, np.where(GIVEN > 0.4, np.nan, GIVEN)])
def test_rates_in_a_loop_of_your_own_are_two_for_each_class(rates):
    codes = np.abs(random_labels(6, 3))
    with pytest.raises(UserError, match=r"^noise_rates: must be 3 x 2 numbers between 0 and 1"):
        build_criterion("transition", observed=codes, noise_rates=rates)
    np.testing.assert_allclose(
        build_criterion("transition", observed=codes, noise_rates=GIVEN.tolist()).noise_rates().values, GIVEN, rtol=1e-6
    )
