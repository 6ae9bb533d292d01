"""NDLP's formulas against recorded numbers of the published arithmetic."""

import math

import numpy as np
import pytest
import torch

from losses.common.candidate_memory import CandidateMemory
from losses.ndlp_confidence import (
    class_shares,
    class_thresholds,
    moved_confidence,
    one_per_image,
    predicted_confidence,
    pseudo_labels,
    refined_distribution,
    reliable_rows,
    rows_wanted,
    sharpened,
)
from tests import golden_files
from tests.losses.test_ndlp_confidence import totals_of
from utils.types import LabelTable

CLOSE = {"rtol": 1e-9, "atol": 1e-12}


def test_golden_confidences_over_steps():
    golden = golden_files.load("ndlp_confidence.npz")
    candidates = golden["candidates"] > 0
    confidence = CandidateMemory(LabelTable(candidates.astype(np.int8)), torch.float64).dense()
    logits = golden["logits"].astype(np.float64)
    for step in range(len(logits) + 1):
        np.testing.assert_allclose(confidence, golden["confidence"][step], **CLOSE)
        phi = np.where(np.isnan(golden["phi"][step]), np.inf, golden["phi"][step])  # a class that is no candidate
        np.testing.assert_allclose(class_thresholds(totals_of(confidence)), phi, **CLOSE)
        np.testing.assert_allclose(class_shares(confidence), golden["distribution"][step], **CLOSE)
        if step < len(logits):
            index = torch.from_numpy(golden["batch_index"][step])
            said = predicted_confidence(torch.from_numpy(logits[step]), torch.from_numpy(candidates)[index])
            np.testing.assert_allclose(said, golden["pred"][step], **CLOSE)
            said = one_per_image(said, index, "last")
            confidence[index] = moved_confidence(confidence[index], said, float(golden["mu"]))


def test_golden_pseudo_labels():
    golden = golden_files.load("ndlp_pseudo_labels.npz")
    confidence = torch.from_numpy(golden["confidence"])
    thresholds = class_thresholds(totals_of(confidence))
    np.testing.assert_allclose(thresholds, golden["phi_safe"], **CLOSE)
    defined = ~np.isnan(golden["phi_reference"])
    np.testing.assert_allclose(thresholds[defined], golden["phi_reference"][defined], **CLOSE)
    assert thresholds[int(golden["empty_class"])] == math.inf
    exponents = [name.removeprefix("sharp_g") for name in golden if name.startswith("sharp_g")]
    assert exponents
    for exponent in exponents:
        soft = sharpened(confidence[golden["index"]], float(exponent))
        np.testing.assert_allclose(soft, golden[f"sharp_g{exponent}"], **CLOSE)
        np.testing.assert_array_equal(pseudo_labels(soft, thresholds), golden[f"pseudo_g{exponent}"])


def selections():
    try:
        golden = golden_files.load("ndlp_selection.npz")
    except pytest.skip.Exception as absent:
        return [pytest.param(None, id="absent", marks=pytest.mark.skip(reason=str(absent)))]
    names = sorted(key.removesuffix("_chosen") for key in golden if key.endswith("_chosen"))
    return [pytest.param(golden_files.part(golden, f"{name}_"), id=name) for name in names]


@pytest.mark.parametrize("arrays", selections())
def test_golden_selection(arrays):
    losses, pseudo = torch.from_numpy(arrays["loss"]), torch.from_numpy(arrays["pseudo"]) > 0
    wanted = rows_wanted(torch.from_numpy(arrays["emp_dist"]), len(losses), float(arrays["alpha"]))
    np.testing.assert_allclose(wanted, arrays["nums"], **CLOSE)
    chosen = reliable_rows(losses.mean(dim=1), pseudo, wanted)
    np.testing.assert_array_equal(chosen.nonzero().squeeze(1), arrays["chosen"])


def test_golden_distribution_over_steps():
    golden = golden_files.load("ndlp_emp_dist.npz")
    log_distribution = torch.from_numpy(golden["emp_dist"][0]).log()
    for step, rows in enumerate(golden["conf_batch"]):
        shares = class_shares(torch.from_numpy(rows))
        np.testing.assert_allclose(shares, golden["epsilon_raw"][step], **CLOSE)
        used = torch.where(shares > 0, shares, log_distribution.exp())
        np.testing.assert_allclose(used, golden["epsilon"][step], **CLOSE)
        log_distribution = refined_distribution(log_distribution, shares)
        np.testing.assert_allclose(log_distribution.exp(), golden["emp_dist"][step + 1], **CLOSE)
