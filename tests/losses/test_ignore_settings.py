"""IGNORE: its settings, and the labels that it can be built for."""

import math

import numpy as np
import pytest
from scipy.sparse import csr_array

from losses import Ignore, IgnoreConfig
from losses.common.variants import variant_options
from losses.ignore import VARIANTS, IgnoreVariant
from tests.losses.fake_model import info_for
from utils.checks import UserError
from utils.types import CriterionInfo, LabelTable


@pytest.mark.parametrize(
    "bad",
    [
        {"spbc_weight": -0.1},
        {"ignore_weight": math.inf},
        {"reg_weight": math.nan},
        {"gap_lambda": 1.0},
        {"gap_lambda": -0.1},
        {"avg_lambda": math.nan},
        {"reject_after": -1},
        {"cam_map": "gradient"},
        {"cam_threshold": 1.0},
        {"cam_threshold": math.nan},
        {"masked_bn": "frozen"},
        {"several": "first"},
        {"variant": "paper"},
        {"cam_norm": "softmax"},
        {"unannotated": "dropped"},
        {"ignore_weight": 0.0, "spbc": False},
        {"ignore_weight": 0.0, "spbc_weight": 0.0},
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused_in_one_line(bad):
    with pytest.raises(UserError, match=next(iter(bad))) as refusal:
        IgnoreConfig(**bad)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("variant", VARIANTS)
def test_options_follow_the_variant_and_can_be_set_alone(variant):
    assert variant_options(IgnoreConfig(variant=variant), VARIANTS) == VARIANTS[variant]
    other = VARIANTS["reference" if variant == "fixed" else "fixed"]
    for name in IgnoreVariant._fields:
        config = IgnoreConfig(variant=variant, **{name: getattr(other, name)})
        assert variant_options(config, VARIANTS) == VARIANTS[variant]._replace(**{name: getattr(other, name)})


def sparse_info(codes):
    """The labels that are known of `codes`, stored sparsely."""
    rows, columns = (codes != -1).nonzero()
    table = csr_array((codes[rows, columns], (rows, columns)), shape=codes.shape)
    info = info_for(codes)
    return CriterionInfo(**{**vars(info), "observed": LabelTable(table, default=-1)})


@pytest.mark.parametrize("form", [info_for, sparse_info])
def test_labels_that_do_not_fit_are_refused_saying_what_does(form):
    two = np.array([[1, -1, 1], [-1, 1, 0], [1, 1, -1]], dtype=np.int8)
    with pytest.raises(UserError, match="2 images have several observed positives") as refusal:
        Ignore(IgnoreConfig(), form(two))
    assert "--several union" in str(refusal.value)
    Ignore(IgnoreConfig(several="union"), form(two))
    Ignore(IgnoreConfig(), form(two[1:2]))
    complete = np.array([[1, 0, 0], [0, 1, 0]], dtype=np.int8)
    with pytest.raises(UserError, match="no label is unknown") as refusal:
        Ignore(IgnoreConfig(), form(complete))
    assert "--labels single" in str(refusal.value)
    Ignore(IgnoreConfig(ignore=False), form(complete))
