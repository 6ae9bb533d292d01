"""Reweighting by rates of wrong labels: golden values, the epochs of its phases, resuming, limits, refusals."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from torch.nn import functional as F

from losses import BCE, BCEConfig, build_criterion
from losses.transition import WINDOW, NoisePlan, Transition, TransitionConfig, add_scaled_losses, label_weights
from losses.transition_estimate import clean_labels, estimate_noise
from tests import golden_files
from tests.losses.fake_model import FakeModel, batch_of, info_for, random_labels
from tests.losses.steps import WAITING, Recorder, check_resume
from tests.oracles import transition as oracle
from tests.ranks import run_ranks
from utils.checks import UserError
from utils.types import PRESENT, UNKNOWN, LabelTable

ROWS, CLASSES = 12, 5
CODES = np.maximum(random_labels(ROWS, CLASSES, seed=3), 0)
INDEX = [4, 0, 3, 7]
KNOWN = {"known_rates": (0.1, 0.3)}


def build(codes=CODES, epochs=4, **settings):
    return Transition(TransitionConfig(**settings), replace(info_for(codes), epochs=epochs))


def golden(kind):
    cases = golden_files.each_case("transition.npz")
    return [each for each in cases if each.values[0] is None or each.values[0]["kind"] == kind]


@pytest.mark.parametrize("case, arrays", golden("reweight"))
def test_golden_losses_and_gradients(case, arrays):
    logits = torch.from_numpy(arrays["logits"]).requires_grad_()
    codes = (arrays["labels"] >= 0).astype(np.int8)  # 0, which is difficult, counts as present
    rates = np.stack([arrays["T"][:, 0, 1], arrays["T"][:, 1, 0]], axis=1)
    criterion = build_criterion("transition", observed=codes, noise_rates=rates)
    out = criterion.from_logits(logits, torch.from_numpy(codes), torch.arange(len(codes)))
    out.total.backward()
    np.testing.assert_allclose(float(out.total.detach()), arrays["loss"], rtol=1e-5)
    np.testing.assert_allclose(logits.grad, arrays["grad"], rtol=1e-5, atol=1e-6)


def test_weights_match_the_definition_and_gradients_do_not_pass_through_them():
    rng = np.random.default_rng(0)
    values, seen, rates = rng.normal(0, 3, (6, 4)), rng.integers(0, 2, (6, 4)), rng.random((4, 2)) * 0.5
    logits, rates = torch.tensor(values, requires_grad=True), torch.tensor(rates)
    found = label_weights(logits, torch.tensor(seen), rates)
    expected = [
        [oracle.weight(values[row, label], seen[row, label], *rates[label].tolist()) for label in range(4)]
        for row in range(6)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert not found.requires_grad
    criterion = build(CODES[:6, :4], known_rates=(0.2, 0.1)).in_float64()
    out = criterion.from_logits(logits, torch.tensor(seen), torch.arange(6))
    out.total.backward()
    weights = label_weights(logits, torch.tensor(seen), criterion.rates)
    slope = weights * (torch.sigmoid(logits) - torch.tensor(seen)) / 24
    torch.testing.assert_close(logits.grad, slope.detach())
    torch.testing.assert_close(out.parts["weight"], weights.mean())
    torch.testing.assert_close(out.parts["positive"] + out.parts["negative"], out.total.detach())


def test_without_noise_it_is_bce():
    model, batch = FakeModel(CLASSES), batch_of(CODES, INDEX)
    plain = BCE(BCEConfig(), info_for(CODES))(model, batch)
    for criterion in (build(known_rates=(0.0, 0.0)), build()):  # the other one is in its warm-up
        torch.testing.assert_close(criterion(model, batch).total, plain.total)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("rates", [(0.0, 0.0), (0.2, 0.0), (0.0, 0.2), (0.4, 0.5)])
def test_saturated_logits_have_finite_losses_and_gradients(dtype, rates):
    logits = (200 * torch.randn(4, CLASSES).sign()).to(dtype).requires_grad_()
    out = build(known_rates=rates).from_logits(logits, torch.from_numpy(CODES[INDEX]), torch.tensor(INDEX))
    out.total.backward()
    assert out.total.isfinite()
    assert logits.grad.isfinite().all()


def test_unknown_labels_count_as_absent():
    missing = np.where(CODES == PRESENT, PRESENT, UNKNOWN).astype(np.int8)
    model = FakeModel(CLASSES)
    one, other = (build(codes, **KNOWN)(model, batch_of(codes, INDEX)) for codes in (CODES, missing))
    assert torch.equal(one.total, other.total)


def test_losses_are_scaled_among_the_same_class_and_label():
    rng = np.random.default_rng(1)
    scores, seen, before = rng.normal(0, 2, (9, 3)), rng.integers(0, 2, (9, 3)) == 1, rng.random((9, 3))
    seen[:, 2] = True
    scores[seen[:, 1], 1] = 0.7  # all of one loss
    total = torch.tensor(before)
    add_scaled_losses(total, torch.tensor(seen), torch.tensor(scores))
    losses = np.log1p(np.exp(np.where(seen, -scores, scores)))
    expected = np.zeros((9, 3))
    for label in range(3):
        for value in (True, False):
            part = losses[seen[:, label] == value, label]
            if len(part) and np.ptp(part):
                expected[seen[:, label] == value, label] = (part - part.min()) / np.ptp(part)
    np.testing.assert_allclose(total.numpy() - before, expected, atol=1e-12)


# Epochs.


@pytest.mark.parametrize(
    "settings, epochs, warmup, sample, wanted",
    [
        ({}, 4, 2, 1, [2]),
        ({}, 2, 1, 1, [2]),
        ({}, 1, 1, 1, []),
        ({}, 40, 20, 10, [7, 8, 9, 10, 11]),
        ({"transition_warmup": 7, "sample_epoch": 6}, 8, 7, 6, [3, 4, 5, 6, 7]),
        ({"transition_warmup": 3, "sample_epoch": 3}, 4, 3, 3, [2, 3, 4]),
    ],
)
def test_the_epochs_of_each_phase(settings, epochs, warmup, sample, wanted):
    plan = NoisePlan(TransitionConfig(**settings), epochs)
    assert (plan.warmup, plan.sample) == (warmup, sample)
    criterion = build(epochs=epochs, **settings)
    assert [epoch for epoch in range(1, epochs + 1) if criterion.wants_train_scores(epoch)] == wanted
    assert not any(build(epochs=epochs, **KNOWN).wants_train_scores(epoch) for epoch in range(1, epochs + 1))
    assert WINDOW == 5


def scores_of(seed):
    return torch.from_numpy(np.random.default_rng(seed).normal(0, 2, (ROWS, CLASSES)).astype(np.float32))


def test_rates_are_estimated_after_the_sample_epoch_and_used_after_the_warm_up(monkeypatch):
    monkeypatch.setattr("losses.transition_estimate.LEAST_CHOSEN", 1)
    criterion, model, batch = build(transition_warmup=3, sample_epoch=2), FakeModel(CLASSES), batch_of(CODES, INDEX)
    plain = BCE(BCEConfig(), info_for(CODES))(model, batch).total
    for epoch in (1, 2, 3):
        assert criterion.noise_rates() is None
        criterion.on_epoch_start(epoch, scores_of(epoch) if epoch > 1 else None)
        torch.testing.assert_close(criterion(model, batch).total, plain)
    losses = torch.zeros(ROWS, CLASSES)
    for epoch in (2, 3):
        add_scaled_losses(losses, torch.from_numpy(CODES == PRESENT), scores_of(epoch))
    clean = clean_labels(CODES == 1, losses.double().numpy() / 2)
    expected = estimate_noise(CODES == 1, clean, torch.sigmoid(scores_of(3).double()).numpy())
    found = criterion.noise_rates()
    np.testing.assert_allclose(found.values, expected.rates, rtol=1e-6)
    assert found.origin == tuple(("pairs", "anchors", "none")[number] for number in expected.how)
    assert expected.rates.any()
    criterion.on_epoch_start(4)
    seen = batch.observed
    logits = model(batch.images).logits
    weights = label_weights(logits, seen, criterion.rates)
    expected_loss = (weights * F.binary_cross_entropy_with_logits(logits, seen, reduction="none")).mean()
    torch.testing.assert_close(criterion(model, batch).total, expected_loss)
    with pytest.raises(ValueError, match="epoch 2 needs the scores of the training set"):
        build().on_epoch_start(2)


@pytest.mark.parametrize("process, found", [(0, 1), (1, 0)])
def test_one_process_estimates_and_all_take_what_it_found(monkeypatch, process, found):
    asked, sent = [], torch.tensor([[0.1, 0.2, 1.0]] * CLASSES, dtype=torch.float64)
    monkeypatch.setattr("losses.transition.rank", lambda: process)
    monkeypatch.setattr("losses.transition.broadcast", lambda values: sent)
    monkeypatch.setattr(Transition, "_estimated", lambda self, *given: asked.append(given) or sent)
    criterion = build()
    criterion.on_epoch_start(2, scores_of(0))
    assert len(asked) == found
    np.testing.assert_allclose(criterion.noise_rates().values, [[0.1, 0.2]] * CLASSES, rtol=1e-6)
    assert criterion.noise_rates().origin == ("anchors",) * CLASSES


def estimate_on_ranks(rank):
    """The rates that each process takes, whatever its own scores are."""
    criterion = build()
    criterion.on_epoch_start(2, scores_of(rank or 0))
    return criterion.rates, criterion.how


@pytest.mark.slow
def test_real_processes_take_what_the_first_finds():
    alone = estimate_on_ranks(None)
    for found in run_ranks(estimate_on_ranks):
        assert all(torch.equal(*pair) for pair in zip(found, alone, strict=True))


@pytest.mark.parametrize("cut", [1, 2, 3, 4, 5, 7])
def test_a_run_that_is_cut_ends_bit_for_bit_where_one_that_is_not_does(cut):
    """Two steps an epoch; rates come before the third step's epoch and are used from the fifth step on."""

    def parts():
        model = FakeModel(CLASSES)
        return build(), model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

    def train(criterion, model, optimizer, epochs, start=0, stop=10**9):
        totals = []
        for number in range(start, min(stop, 2 * len(epochs))):
            epoch, at = epochs[number // 2], number % 2
            if at == 0:
                with torch.no_grad():
                    scores = model(batch_of(CODES, list(range(ROWS))).images).logits
                criterion.on_epoch_start(epoch, scores if criterion.wants_train_scores(epoch) else None)
            optimizer.zero_grad()
            out = criterion(model, batch_of(CODES, [[0, 1, 2], [7, 4, 9]][at]))
            out.total.backward()
            optimizer.step()
            totals.append(float(out.total.detach()))
        return totals

    assert check_resume(parts, train, cut)[0].noise_rates() is not None


def test_a_step_waits_for_nothing_and_the_order_of_rows_does_not_matter():
    criterion, model, batch = build(**KNOWN), FakeModel(CLASSES), batch_of(CODES, INDEX)
    with Recorder() as recorder:
        out = criterion(model, batch)
    assert not recorder.names & WAITING
    torch.testing.assert_close(criterion(model, batch_of(CODES, INDEX[::-1])).total, out.total)
    assert list(out.parts) == ["positive", "negative", "weight"]


def test_what_is_kept_is_planned_and_nothing_with_given_rates():
    info = info_for(CODES)
    needs = Transition.memory_needs(TransitionConfig(), info)
    assert [(need.name, need.size) for need in needs] == [("losses", 4 * CODES.size), ("scores", 4 * CODES.size)]
    assert Transition.memory_needs(TransitionConfig(**KNOWN), info) == ()
    assert build(**KNOWN).losses is None
    given = build(epochs=1, **KNOWN).noise_rates()
    np.testing.assert_allclose(given.values, [[0.1, 0.3]] * CLASSES, rtol=1e-6)
    assert given.origin == ("given",) * CLASSES


# Refusals.


@pytest.mark.parametrize(
    "settings",
    [
        {"transition_warmup": 0},
        {"sample_epoch": 0},
        {"known_zero": "rho"},
        {"known_rates": (0.5, 0.5)},
        {"known_rates": (-0.1, 0.5)},
        {"known_rates": (0.1, 1.1)},
        {"known_rates": (0.1,)},
    ],
)
def test_settings_that_cannot_work_are_refused(settings):
    with pytest.raises(UserError, match=f"^--{next(iter(settings))} [^\n]*$"):
        TransitionConfig(**settings)


def test_epochs_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match=r"^transition: a warm-up of 1 epochs .* leaves none of the 1 --epochs "):
        build(epochs=1, transition_warmup=1)
    with pytest.raises(UserError, match=r"^transition: a warm-up of 4 epochs .* leaves none of the 4 --epochs "):
        build(transition_warmup=4)
    with pytest.raises(UserError, match=r"^--sample_epoch 3: must be within the warm-up of 2 epochs"):
        build(sample_epoch=3)


def test_labels_that_tell_nothing_are_refused():
    for value in (0, 1):
        with pytest.raises(UserError, match=rf"^transition: {60 * value} of 60 labels are present, so nothing tells"):
            build(np.full_like(CODES, value))
    sparse = LabelTable(csr_array(CODES), default=UNKNOWN)
    with pytest.raises(UserError, match=r"^transition: it scores each of the 12 x 5 labels, too many"):
        build_criterion("transition", observed=sparse, epochs=4)
