"""Class priors as settings name them, and as known labels show them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array

from losses import IU, IUConfig, PartialBCE, PartialBCEConfig
from losses.assume_negative import BCE, BCEConfig
from losses.common.class_priors import ClassPriorConfig, chosen_priors, observed_priors
from tests.losses.fake_model import info_for, random_labels
from utils.checks import UserError
from utils.class_facts import ClassPriors
from utils.types import ABSENT, PRESENT, UNKNOWN, LabelTable

CODES = random_labels(9, 5, seed=2)
GIVEN = ClassPriors(np.array([0.1, 0.2, 0.3, 0.4, 0.5]), "given")


def test_observed_priors_are_shares_of_what_is_known_and_0_where_nothing_is():
    codes = CODES.copy()
    codes[:, 2] = UNKNOWN
    codes[:, 3] = PRESENT
    expected = []
    for column in codes.T.tolist():
        known = [code for code in column if code != UNKNOWN]
        expected.append(known.count(PRESENT) / len(known) if known else 0.0)
    sparse = LabelTable(csr_array(np.where(codes == UNKNOWN, 0, codes)), default=ABSENT)
    for table in (LabelTable(codes), sparse):
        found = observed_priors(table)
        assert found.origin == "observed"
        assert found.values.dtype == np.float64
        if table is not sparse:
            np.testing.assert_allclose(found.values, expected, rtol=1e-15)
    assert expected[2:4] == [0, 1]
    np.testing.assert_allclose(observed_priors(sparse).values, (codes == PRESENT).mean(axis=0))


def test_settings_choose_one_origin_or_none():
    info = replace(info_for(CODES), class_priors=GIVEN)
    assert chosen_priors(ClassPriorConfig(), info_for(CODES)) is None
    assert chosen_priors(ClassPriorConfig(prior_file=Path("x.csv")), info) is GIVEN
    assert chosen_priors(ClassPriorConfig(prior="observed"), info_for(CODES)).origin == "observed"


@pytest.mark.parametrize(
    "wrong, line",
    [
        ({"prior": "observed", "prior_file": Path("x.csv")}, r"^--prior observed, --prior_file x\.csv: .* one of them"),
        ({"prior": "true"}, r"^--prior true: must be one of none, observed$"),
    ],
)
def test_a_choice_that_cannot_be_is_refused(wrong, line):
    with pytest.raises(UserError, match=line):
        ClassPriorConfig(**wrong)


def test_a_method_that_learns_from_known_labels_alone_estimates_priors_and_others_do_not():
    codes = np.array([[1, 0, -1]], dtype=np.int8)
    assert IU(IUConfig(), info_for(codes)).estimates_priors
    assert PartialBCE(PartialBCEConfig(), info_for(codes)).estimates_priors
    other = BCE(BCEConfig(), info_for(codes))
    assert not other.estimates_priors
    assert other.class_priors() is None
