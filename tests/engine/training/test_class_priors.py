"""Class priors of a run: what a network estimates on one process or two, and the file that the next run reads."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from data.labels.class_rates import read_class_priors
from data.labels.regime import Regime
from engine.training.class_priors import (
    PRIORS_FILE,
    candidate_rates,
    estimated_priors,
    estimates_priors,
    given_priors,
    report_priors,
)
from engine.training.recorder import RecordConfig
from losses.common.class_priors import ClassPriorConfig
from tests.ranks import run_ranks
from utils.checks import RunError, UserError
from utils.class_facts import ClassPriors
from utils.types import Batch

CLASSES = ('a "b", c', "dog", " é")
LOGITS = np.random.default_rng(0).normal(0, 3, (7, 3))


class Echo(nn.Module):
    """Images that are the logits already."""

    def forward(self, images):
        assert not self.training
        return SimpleNamespace(logits=images)


class Batches:
    """The rows of a process, in twos."""

    num_classes = 3

    def __init__(self, rows):
        self.rows = rows

    def __iter__(self):
        yield from (self.rows[first : first + 2] for first in range(0, len(self.rows), 2))

    def to_batch(self, raw, device):
        return Batch(torch.tensor(LOGITS[raw]).float(), torch.zeros(len(raw), 3), torch.tensor(raw))


def estimate(rank, logits=LOGITS):
    """The estimate of a process: of all rows, or, of two processes, of every other one."""
    rows = list(range(7)) if rank is None else list(range(rank, 7, 2))
    size = 1 if rank is None else 2
    runtime = SimpleNamespace(device=torch.device("cpu"), is_main=False, precision="fp32", world_size=size)
    return estimated_priors(Echo(), Batches(rows), 7, runtime)


def test_the_estimate_is_the_mean_probability_whatever_the_number_of_processes():
    expected = (1 / (1 + np.exp(-LOGITS))).mean(axis=0)
    alone = estimate(None)
    assert alone.origin == "ignore_model"
    assert alone.values.dtype == np.float64
    np.testing.assert_allclose(alone.values, expected, rtol=1e-6)
    for found in run_ranks(estimate):
        np.testing.assert_allclose(found.values, alone.values, rtol=1e-14)


def test_scores_that_are_not_finite_are_told(monkeypatch):
    monkeypatch.setitem(globals(), "LOGITS", np.where(np.arange(3) == 1, np.nan, LOGITS))
    with pytest.raises(RunError, match="estimating class priors: the model gives scores that are not finite"):
        estimate(None)


def test_estimates_are_a_file_that_comes_back_bit_for_bit_and_other_priors_are_none(tmp_path, capsys):
    values = np.array([1 / 3, 0.0, 1e-12])
    for origin in ("given", "observed", "candidate_rate", "ignore_model"):
        assert not (tmp_path / PRIORS_FILE).exists()
        part = report_priors(ClassPriors(values, origin), CLASSES, tmp_path)
        assert part == {"class_priors": {"origin": origin, "values": dict(zip(CLASSES, values.tolist(), strict=True))}}
    assert capsys.readouterr().out.count("for --prior_file") == 1
    stripped = tuple(name.strip() for name in CLASSES)
    np.testing.assert_array_equal(read_class_priors(tmp_path / PRIORS_FILE, stripped), values)
    assert report_priors(None, CLASSES, Path("nowhere")) == {}


def test_a_run_estimates_where_its_method_can_and_nobody_has_said_no():
    for can in (True, False):
        criterion = SimpleNamespace(estimates_priors=can)
        assert estimates_priors(criterion, RecordConfig()) is can
        assert not estimates_priors(criterion, RecordConfig(class_priors=False))


def test_priors_are_read_where_the_settings_of_a_method_name_a_file(tmp_path):
    (tmp_path / "p.csv").write_text("class,prior\nb,0.5\na,0.25\n")
    found = given_priors(ClassPriorConfig(prior_file=tmp_path / "p.csv"), ("a", "b"))
    assert (found.values.tolist(), found.origin) == ([0.25, 0.5], "given")
    assert given_priors(ClassPriorConfig(), ("a", "b")) is None
    assert given_priors(SimpleNamespace(prior_file=tmp_path / "p.csv"), ("a", "b")) is None
    with pytest.raises(UserError, match="no line for class 'c'"):
        given_priors(ClassPriorConfig(prior_file=tmp_path / "p.csv"), ("a", "b", "c"))


def test_the_chance_of_a_candidate_is_that_of_its_regime(tmp_path):
    (tmp_path / "r.csv").write_text("class,rate\na,0.25\nb,0.5\n")
    (tmp_path / "c.csv").write_text("")
    regimes = [
        (Regime(labels="candidate", partial_rate=0.2), [0.2, 0.2]),
        (Regime(labels="candidate", class_rates=tmp_path / "r.csv"), [0.25, 0.5]),
        (Regime(labels="full"), [0, 0]),
        (Regime(labels="candidate", confusion=tmp_path / "c.csv"), None),
        (Regime(labels="known"), None),
    ]
    for regime, expected in regimes:
        found = candidate_rates(regime, ("a", "b"))
        assert (None if found is None else found.tolist()) == expected
