"""Soft labels: every criterion that takes them against a slow oracle, and the refusal of all others."""

import math

import numpy as np
import pytest
import torch

from losses import CRITERIA, build_criterion, require_takes
from tests.losses.fake_model import FakeModel, batch_of
from utils.checks import UserError
from utils.types import LabelTable

TAKERS = [name for name, method in CRITERIA.items() if method.criterion.takes_soft]
OPTIONS = {
    "an_ls": {"ls_coef": 0.2},
    "bce_ls": {"ls_coef": 0.2},
    "asl": {"gamma_neg": 3.0, "gamma_pos": 0.5, "reduction": "query2label"},
    "focal": {"focal_gamma": 1.5, "focal_balance": 3.0},
    "hill": {"focal_gamma": 1.5, "margin": 0.5, "hill_lambda": 1.25, "reduction": "mean"},
}
ROWS, CLASSES = 9, 4


def soft_table(known_only=False, hard=False):
    """A table of values, some 0, some 1, some unknown."""
    rng = np.random.default_rng(5)
    soft = rng.random((ROWS, CLASSES)).astype(np.float32)
    soft[rng.random(soft.shape) < 0.3] = 1
    soft[rng.random(soft.shape) < 0.3] = 0
    if hard:
        soft = np.where(soft >= 0.5, 1, 0).astype(np.float32)
    if not known_only:
        soft[rng.random(soft.shape) < 0.2] = -1
    return LabelTable(np.where(soft < 0, -1, soft >= 0.5).astype(np.int8), soft=soft)


def entry_costs(name, p, classes):
    """Loss of one entry of probability p if its label is present, and if it is absent."""
    present, absent = -math.log(p), -math.log(1 - p)
    if name == "wan":
        absent /= classes - 1
    if name in ("an_ls", "bce_ls"):
        present, absent = 0.8 * present + 0.2 * absent, 0.8 * absent + 0.2 * present
    if name == "asl":
        n = min(1 - p + 0.05, 1)
        return 1000 * (1 - p) ** 0.5 * -math.log(p), 1000 * (1 - n) ** 3 * -math.log(n)
    if name == "focal":
        return 3 * (1 - p) ** 1.5 * present, 3 * p**1.5 * absent
    if name == "hill":
        q = p / (p + (1 - p) * math.exp(0.5))
        return (1 - q) ** 1.5 * -math.log(q), (1.25 - p) * p**2
    return present, absent


def slowly(name, logits, soft):
    total = 0.0
    for at in np.ndindex(*logits.shape):
        if soft[at] < 0 and name in ("iu", "iun"):
            continue
        y, p = max(float(soft[at]), 0.0), 1 / (1 + math.exp(-logits[at]))
        present, absent = entry_costs(name, p, logits.shape[1])
        total += y * present + (1 - y) * absent
    return total / logits.size


def step(name, table, index=(4, 0, 7, 2, 8), soft=True):
    criterion = build_criterion(name, observed=table if soft else table.hard(), **OPTIONS.get(name, {}))
    batch, model = batch_of(table.dense(), list(index)), FakeModel(table.num_classes)
    if soft:
        batch = batch._replace(soft=torch.from_numpy(table.soft[list(index)]))
    out = criterion(model, batch)
    out.total.backward()
    return criterion, batch, model, out


def test_the_methods_that_take_soft_labels():
    assert sorted(TAKERS) == [
        "an",
        "an_ls",
        "asl",
        "bce",
        "bce_ls",
        "focal",
        "hill",
        "iu",
        "iun",
        "splicemix_cl",
        "wan",
    ]


@pytest.mark.parametrize("name", TAKERS)
def test_a_soft_target_costs_the_mean_of_both_answers(name):
    table = soft_table(known_only=name == "bce_ls")
    criterion, batch, model, out = step(name, table)
    logits = model(batch.images).logits.detach()
    assert float(out.total.detach()) == pytest.approx(
        slowly(name, logits.double().numpy(), batch.soft.numpy()), rel=1e-5
    )
    if name == "splicemix_cl":
        return  # of more than logits
    again = criterion.from_logits(logits, batch.observed, batch.index, batch.soft)
    torch.testing.assert_close(again.total, out.total)


@pytest.mark.parametrize("name", TAKERS)
def test_soft_targets_of_0_and_1_are_the_hard_labels(name):
    table = soft_table(known_only=name == "bce_ls", hard=True)
    (*_, model, soft), (*_, other, hard) = step(name, table), step(name, table, soft=False)
    torch.testing.assert_close(soft.total, hard.total)
    assert soft.parts.keys() == hard.parts.keys()
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad)


@pytest.mark.parametrize("name", [name for name in CRITERIA if name not in TAKERS])
def test_every_other_method_refuses_them_in_a_line(name):
    with pytest.raises(UserError, match=rf"^{name.replace('+', '.')}: learns from labels .* threshold=0\.5, .* bce, "):
        require_takes(name, soft_table())
    require_takes(name, soft_table().hard())


def test_own_loops_are_refused_alike():
    with pytest.raises(UserError, match="db: learns from labels that are present or absent"):
        build_criterion("db", observed=soft_table())
    logits, index = torch.zeros(2, CLASSES), torch.tensor([0, 1])
    codes = torch.zeros(2, CLASSES)
    for name, soft in (("db", codes), ("bce", codes[:1])):
        criterion = build_criterion(name, observed=soft_table().hard())
        with pytest.raises(ValueError, match="soft targets must be"):
            criterion.from_logits(logits, codes, index, soft)
