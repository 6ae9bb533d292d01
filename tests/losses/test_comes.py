"""COMES: slow loops and closed slopes, the risk it estimates, class priors by rate, two ranks, what is refused."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from torch.nn import functional as F

from losses import COMESConfig, COMESRLConfig, build_criterion
from losses.comes import COMES, COMESRL, candidate_shares, entry_weights, rate_priors
from tests.losses.fake_model import FakeModel, batch_of, info_for, random_labels
from tests.losses.steps import WAITING, Recorder
from tests.oracles import comes as oracle
from tests.ranks import run_ranks
from utils import collectives
from utils.checks import UserError
from utils.class_facts import ClassPriors
from utils.types import ABSENT, PRESENT, UNKNOWN, LabelTable

CODES = random_labels(9, 5, seed=3, rate=0.5)
CODES[2] = ABSENT  # of each class some are
INDEX = [4, 0, 3, 6, 1]
PRIOR = np.array([0.1, 0.3, 0.05, 0.2, 0.4])


def build(codes=CODES, priors=PRIOR, **settings):
    given = None if priors is None else ClassPriors(np.asarray(priors, dtype=np.float64), "given")
    return COMES(COMESConfig(**settings), replace(info_for(codes), class_priors=given))


def drawn(seed, shape=(6, 5)):
    """Logits in float64 and codes, the last class absent nowhere."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(-1, 2, shape).astype(np.int8)
    codes[:, -1] = np.abs(codes[:, -1]) * 2 - 1
    return rng.normal(0, 3, shape), codes


def step(logits, codes, criterion):
    """Loss, slopes and parts of one step on logits (B, C)."""
    leaf = torch.tensor(logits, requires_grad=True)
    out = criterion.from_logits(leaf, torch.tensor(codes), torch.arange(len(codes)))
    out.total.backward()
    return out, leaf.grad


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("correction", ["absolute", "none"])
def test_risk_and_slopes_match_loops(seed, correction):
    logits, codes = drawn(seed)
    out, slopes = step(logits, codes, build(correction=correction))
    held = build().prior.numpy()
    parts, turned, expected = oracle.risk(logits, codes, held, correction == "absolute")
    assert float(out.total.detach()) == pytest.approx(parts.sum(), rel=1e-10)
    np.testing.assert_allclose(slopes, expected, rtol=1e-9, atol=1e-14)
    assert float(out.parts["present_risk"]) == pytest.approx(parts[:, 0].sum(), rel=1e-10)
    assert float(out.parts["absent_risk"]) == pytest.approx(parts[:, 1].sum(), rel=1e-10)
    assert float(out.parts["turned"]) == pytest.approx(turned.mean())
    assert not any(part.requires_grad for part in [out.logits, *out.parts.values()])
    assert (slopes[:, -1] == 0).all(), "a class that is absent nowhere in the batch is left out"


def test_some_classes_turn_and_some_do_not():
    found = np.concatenate([oracle.risk(*drawn(seed), PRIOR)[1] for seed in range(4)])
    assert found.any()
    assert not found.all()


def test_it_passes_gradcheck():
    logits, codes = drawn(1)
    leaf, criterion = torch.tensor(logits, requires_grad=True), build()
    observed, index = torch.tensor(codes), torch.arange(len(codes))
    assert torch.autograd.gradcheck(lambda z: criterion.from_logits(z, observed, index).total, (leaf,))


def test_of_true_labels_it_is_bce():
    """With the shares of the batch as priors the difference is what present labels add to the mean."""
    logits, codes = drawn(2)
    codes = np.where(codes == PRESENT, PRESENT, ABSENT).astype(np.int8)
    codes[0], codes[1] = PRESENT, ABSENT
    out, slopes = step(logits, codes, build(codes, priors=None, candidate_rate=0.0))
    leaf = torch.tensor(logits, requires_grad=True)
    expected = F.binary_cross_entropy_with_logits(leaf, torch.tensor(codes).double())
    expected.backward()
    torch.testing.assert_close(out.total, expected)
    torch.testing.assert_close(slopes, leaf.grad)


@pytest.mark.parametrize("rates", [0.4, np.array([0.1, 0.5, 0.8])])
def test_of_candidates_it_is_near_the_bce_of_the_true_labels(rates):
    rng = np.random.default_rng(0)
    truth = rng.random((40_000, 3)) < [0.1, 0.3, 0.5]
    codes = (truth | (rng.random(truth.shape) < rates)).astype(np.int8)
    logits = torch.tensor(rng.normal(2.0 * truth - 1, 1.5))
    by_rate = replace(info_for(codes), candidate_rates=np.broadcast_to(rates, 3))
    criterion = COMES(COMESConfig(correction="none"), by_rate)
    np.testing.assert_allclose(criterion.prior, truth.mean(axis=0), atol=0.01)
    found = criterion.from_logits(logits, torch.tensor(codes), torch.arange(len(codes))).total
    expected = F.binary_cross_entropy_with_logits(logits, torch.tensor(truth).double())
    naive = F.binary_cross_entropy_with_logits(logits, torch.tensor(codes).double())
    assert abs(float(found - expected)) < 0.02
    assert abs(float(naive - expected)) > 0.2


def test_weights_of_a_class_add_up():
    """The weights of l1 add up to the prior's side of the risk, those of l0 to the rest, over C."""
    absent = torch.tensor(CODES == ABSENT)
    weights = entry_weights(torch.rand(*CODES.shape, dtype=torch.float64), absent, torch.tensor(PRIOR), corrected=False)
    np.testing.assert_allclose(weights.present.sum(dim=0) * 5, PRIOR)
    np.testing.assert_allclose(weights.absent.sum(dim=0) * 5, 1 - PRIOR)
    assert (weights.absent[~absent] == 0).all()


def test_the_order_of_the_rows_does_not_matter_and_one_forward_is_enough():
    model = FakeModel(5)
    one, other = (build()(model, batch_of(CODES, index)).total for index in (INDEX, INDEX[::-1]))
    torch.testing.assert_close(one, other)
    assert model.calls == [frozenset()] * 2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_saturated_logits_stay_finite(dtype):
    logits = torch.tensor([[200.0, -200.0, 40.0, -40.0, 0.0]] * 9, dtype=dtype, requires_grad=True)
    out = build().from_logits(logits, torch.tensor(CODES), torch.arange(9))
    out.total.backward()
    assert out.total.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.isfinite(out.total)
    assert torch.isfinite(logits.grad).all()


def share_a_batch(rank):
    """Loss and gradient as the engine combines them: each rank's by its share of the global batch."""
    index, found = INDEX if rank is None else INDEX[rank::2], []
    for whole in (torch.tensor(INDEX), None):
        model, share = FakeModel(5), len(index) / len(INDEX)
        out = build()(model, batch_of(CODES, index)._replace(global_index=whole))
        (share * out.total).backward()
        found += [collectives.all_sum(share * out.total.detach()), collectives.all_sum(model.head.weight.grad)]
        found += [collectives.all_sum(share * out.parts[name]) for name in ("present_risk", "absent_risk", "turned")]
    return found


def test_two_ranks_have_the_risk_of_one():
    alone = share_a_batch(None)
    for found in run_ranks(share_a_batch):
        for value, expected in zip(found, alone, strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-6)


def test_a_step_waits_for_nothing():
    criterion, model, batch = build(), FakeModel(5), batch_of(CODES, INDEX)
    with Recorder() as recorder:
        criterion(model, batch)
    assert not recorder.names & WAITING


# Class priors.


def test_priors_follow_from_shares_and_rates():
    table = LabelTable(np.array([[1, 1, 0, 1], [1, 0, 0, -1], [1, 0, 0, 1], [0, 1, 0, 1]], dtype=np.int8))
    np.testing.assert_allclose(candidate_shares(table), [0.75, 0.5, 0, 1])
    found = rate_priors(table, np.array([0.5, 0.0, 0.5, 1.0]))
    np.testing.assert_allclose(found.values, [0.5, 0.5, 0, 1])
    assert found.origin == "candidate_rate"
    np.testing.assert_allclose(build(table.codes, priors=None, candidate_rate=0.5).prior, [0.5, 0, 0, 1])


def test_the_rate_of_the_settings_goes_before_that_of_the_labels_and_priors_before_both():
    info = replace(info_for(CODES), candidate_rates=np.full(5, 0.1))
    shares = candidate_shares(info.observed)
    expected = {None: (shares - 0.1) / 0.9, 0.2: (shares - 0.2) / 0.8}
    for rate, values in expected.items():
        np.testing.assert_allclose(COMES(COMESConfig(candidate_rate=rate), info).prior, values.clip(0, 1))
    given = replace(info, class_priors=ClassPriors(PRIOR, "given"))
    assert COMES(COMESConfig(), given).class_priors().origin == "given"
    counted = COMES(COMESConfig(prior="observed"), info)
    known = [(CODES[:, label] == PRESENT).sum() / (CODES[:, label] != UNKNOWN).sum() for label in range(5)]
    np.testing.assert_allclose(counted.prior, np.minimum(known, shares))


def test_a_prior_above_the_share_of_candidates_is_cut_and_named(capsys):
    shares = candidate_shares(LabelTable(CODES))
    assert capsys.readouterr().err == ""
    found = build(priors=[1.0, *PRIOR[1:4], 1.0])
    np.testing.assert_allclose(found.prior, np.minimum([1.0, *PRIOR[1:4], 1.0], shares))
    said = capsys.readouterr().err
    assert said.startswith("note: comes: class 0, class 4: class prior above the share of images")
    assert said.count("\n") == 1
    build(random_labels(9, 8, seed=1), priors=np.ones(8))
    assert "class 4 and 3 more: class prior above" in capsys.readouterr().err


def test_a_run_that_resumes_keeps_its_priors():
    criterion, file = build(), io.BytesIO()
    torch.save(criterion.state_dict(), file)
    file.seek(0)
    resumed = build(priors=np.zeros(5))
    resumed.load_state_dict(torch.load(file, weights_only=True))
    np.testing.assert_array_equal(resumed.class_priors().values, criterion.class_priors().values)
    batch = batch_of(CODES, INDEX)
    assert torch.equal(criterion(FakeModel(5), batch).total, resumed(FakeModel(5), batch).total)


# Refusals.


@pytest.mark.parametrize(
    "wrong",
    [
        {"candidate_rate": -0.1},
        {"candidate_rate": 1.0},
        {"candidate_rate": float("nan")},
        {"candidate_rate": 0.1, "prior": "observed"},
        {"candidate_rate": 0.1, "prior_file": Path("p.csv")},
        {"correction": "some"},
    ],
)
def test_a_setting_that_cannot_work_is_refused_by_name(wrong):
    with pytest.raises(UserError, match=f"^--{next(iter(wrong))} [^\n]*$"):
        COMESConfig(**wrong)


def test_labels_and_priors_that_it_cannot_use_are_refused():
    with pytest.raises(UserError, match=r"^comes: it needs class priors, .* --candidate_rate, --prior_file"):
        build_criterion("comes", observed=CODES)
    with pytest.raises(UserError, match=r"^class priors are given: leave out --candidate_rate$"):
        build(candidate_rate=0.1)
    with pytest.raises(UserError, match=r"^comes: no label is known to be absent"):
        build_criterion("comes", observed=np.where(CODES == PRESENT, PRESENT, UNKNOWN), candidate_rate=0.1)
    with pytest.raises(UserError, match=r"^comes: .*9 x 5 labels only known ones are stored"):
        build_criterion("comes", observed=LabelTable(csr_array(CODES), default=UNKNOWN), candidate_rate=0.1)


# Ranking.


def ranking(codes=CODES, **settings):
    given = ClassPriors(PRIOR, "given")
    return COMESRL(COMESRLConfig(**settings), replace(info_for(codes), class_priors=given))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("pairs", [1 << 24, 60, 1])
def test_the_ranking_risk_matches_loops_in_blocks_or_at_once(monkeypatch, seed, pairs):
    monkeypatch.setattr("losses.comes._PAIRS", pairs)
    logits, codes = drawn(seed)
    criterion = ranking()
    out, slopes = step(logits, codes, criterion)
    expected = oracle.ranking_risk(logits, codes, criterion.prior.numpy())
    assert float(out.total.detach()) == pytest.approx(expected, rel=1e-10)
    assert float(out.parts["risk"]) == pytest.approx(expected, rel=1e-10)
    moved, at = logits.copy(), (seed, 2)
    moved[at] += 1e-6
    slope = (oracle.ranking_risk(moved, codes, criterion.prior.numpy()) - expected) / 1e-6
    assert float(slopes[at]) == pytest.approx(slope, rel=1e-4, abs=1e-7)
    np.testing.assert_allclose(slopes.sum(dim=1), np.zeros(len(logits)), atol=1e-12)


def test_below_the_flood_the_risk_rises():
    logits, codes = drawn(1)
    found = {flood: step(logits, codes, ranking(flood=flood)) for flood in (0.0, 0.01, 100.0)}
    (plain, slopes), (low, same), (high, turned) = found.values()
    torch.testing.assert_close(plain.total, low.total)
    torch.testing.assert_close(slopes, same)
    torch.testing.assert_close(high.total, 200 - plain.total)
    torch.testing.assert_close(turned, -slopes)
    assert float(high.parts["risk"]) == pytest.approx(float(plain.total.detach()))


def share_a_ranking(rank):
    index, found = INDEX if rank is None else INDEX[rank::2], []
    for flood in (0.0, 50.0):
        model, share = FakeModel(5), len(index) / len(INDEX)
        out = ranking(flood=flood)(model, batch_of(CODES, index)._replace(global_index=torch.tensor(INDEX)))
        (share * out.total).backward()
        found += [collectives.all_sum(share * out.total.detach()), collectives.all_sum(model.head.weight.grad)]
    return found


def test_two_ranks_rank_as_one():
    alone = share_a_ranking(None)
    for found in run_ranks(share_a_ranking):
        for value, expected in zip(found, alone, strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("flood", [-0.1, float("inf"), float("nan")])
def test_a_flood_that_cannot_be_and_a_single_class_are_refused(flood):
    with pytest.raises(UserError, match=r"^--flood [^\n]*$"):
        COMESRLConfig(flood=flood)
    with pytest.raises(UserError, match=r"^comes_rl: it ranks two classes or more"):
        build_criterion("comes_rl", observed=[[1], [0]], candidate_rate=0.1)
