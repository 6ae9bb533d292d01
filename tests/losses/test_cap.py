"""CAP against golden values, slow loops and its limits."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from losses import CAP, CAPConfig, build_criterion
from losses.asl import asymmetric_losses
from losses.cap import Kept, bin_rates, calibrated, class_shares, share_labels
from tests import golden_files
from tests.losses.fake_model import FakeModel, batch_of, info_for
from tests.oracles import cap as oracle
from utils.checks import UserError
from utils.seeding import derive_seed
from utils.types import ABSENT, PRESENT, UNKNOWN, LabelTable

ROWS, CLASSES = 40, 5
LABELLED = [3, 8, 12, 20, 21, 27, 30, 33, 35, 39]
TRUTH = np.random.default_rng(3).binomial(1, [0.5, 0.3, 0.2, 0.1, 0.4], (ROWS, CLASSES)).astype(np.int8)
CODES = np.full((ROWS, CLASSES), UNKNOWN, dtype=np.int8)
CODES[LABELLED] = TRUTH[LABELLED]
OTHERS = np.setdiff1d(np.arange(ROWS), LABELLED)
SCORES = torch.from_numpy(np.random.default_rng(1).normal(0, 3, (ROWS, CLASSES))).float()
INDEX = [8, 0, 3, 7, 14, 39]
CALIBRATED = {"pseudo_weights": "calibrated", "calibration_bins": 4}


def build(codes=CODES, seed=0, **settings):
    settings = {"cap_warmup": 1, **settings}
    return CAP(CAPConfig(**settings), replace(info_for(codes), seed=seed))


def as_codes(labels, kept):
    return np.where(kept != 0, labels, UNKNOWN)


@pytest.mark.parametrize("case, arrays", golden_files.each_case("cap.npz"))
def test_golden_pseudo_labels(case, arrays):
    np.testing.assert_allclose(arrays["pos_freq"] + arrays["neg_freq"], 1, rtol=1e-12)
    scores, kept = torch.from_numpy(arrays["scores"]), Kept(case["pos_per"], case["neg_per"])
    right = as_codes(arrays["right_pseudo"], arrays["right_mask"])
    np.testing.assert_array_equal(share_labels(scores, arrays["pos_freq"], kept), right)
    published = as_codes(arrays["pseudo"], arrays["mask"])
    np.testing.assert_array_equal(share_labels(scores, arrays["pos_freq"], kept, "reference"), published)
    assert case["ref_agrees_with_right"] == np.array_equal(right, published)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kept", [Kept(1, 1), Kept(0.5, 0.7), Kept(0, 1), Kept(1, 0)])
def test_pseudo_labels_match_loops_with_ties_too(seed, kept):
    rng = np.random.default_rng(seed)
    scores, shares = rng.integers(-3, 4, (29, 7)).astype(float), np.array([0, 0.01, 0.1, 0.29, 0.5, 0.99, 1])
    found = share_labels(torch.from_numpy(scores), shares, kept)
    assert found.dtype == torch.int8
    np.testing.assert_array_equal(found, oracle.pseudo_labels(scores, shares, *kept))


def test_a_share_that_floating_point_makes_smaller_still_counts_whole():
    found = share_labels(torch.rand(100, 1), np.array([0.29]), Kept(1.0, 1.0))
    assert [int((found == code).sum()) for code in (PRESENT, ABSENT, UNKNOWN)] == [29, 71, 0]


def test_pseudo_labels_move_with_the_rows_and_any_rising_scale_gives_the_same():
    order, scores = torch.randperm(ROWS), SCORES.double()
    shares, kept = np.linspace(0.1, 0.9, CLASSES), Kept(0.6, 0.6)
    expected = share_labels(scores, shares, kept)
    assert torch.equal(share_labels(scores[order], shares, kept), expected[order])
    assert torch.equal(share_labels(torch.sigmoid(scores), shares, kept), expected)


def test_shares_are_counted_and_smoothed():
    counts = np.array([0, 5, 10])
    np.testing.assert_allclose(class_shares(counts, 10), [0, 0.5, 1])
    np.testing.assert_allclose(class_shares(counts, 10, 1.0), [1 / 12, 0.5, 11 / 12])


@pytest.mark.parametrize("bins", [1, 3, 20])
def test_rates_of_bins_match_loops(bins):
    rng = np.random.default_rng(0)
    p, truth = rng.random((60, 4)), rng.integers(0, 2, (60, 4)).astype(np.int8)
    p[0] = [0, 1, 0.05, 1 / 3]
    found = bin_rates(p, truth, bins)
    np.testing.assert_allclose(found, oracle.rates(p, truth, bins), rtol=1e-12)
    values = rng.random(50)
    weights = calibrated(torch.from_numpy(values), torch.from_numpy(found))
    np.testing.assert_allclose(weights, [oracle.weight(value, found) for value in values], rtol=1e-9)
    ends = calibrated(torch.tensor([0.0, 1.0], dtype=torch.float64), torch.from_numpy(found))
    np.testing.assert_allclose(ends, found[[0, -1]])


def test_empty_bins_lie_between_those_around_them():
    found = bin_rates(np.array([[0.25, 0.26, 0.75, 0.76]]), np.array([[0, 1, 1, 1]], np.int8), 5)
    np.testing.assert_allclose(found, [0.5, 0.5, 0.75, 1, 1])


def test_in_the_warm_up_labelled_images_alone_teach():
    criterion, model = build(cap_warmup=2), FakeModel(CLASSES)
    assert [criterion.wants_train_scores(epoch) for epoch in (1, 2, 3, 4)] == [False, False, True, True]
    criterion.on_epoch_start(2)
    batch = batch_of(CODES, INDEX)
    out = criterion(model, batch)
    mask = torch.from_numpy(CODES[INDEX] != UNKNOWN)
    losses = asymmetric_losses(
        out.logits, (batch.observed == 1).float(), gamma_neg=4, gamma_pos=0, clip=0.05, eps=1e-8, constant_weight=True
    )
    torch.testing.assert_close(out.total.detach(), (losses * mask).sum())
    assert not out.modified.any()
    assert [float(out.parts[name]) for name in ("pseudo", "pseudo_present", "pseudo_absent")] == [0, 0, 0]


def expected_targets(held_out=(), smoothing=0.0, kept=(1.0, 0.998)):
    """What labels teach after a round with SCORES, without weights."""
    taught = np.setdiff1d(LABELLED, held_out)
    rows = np.setdiff1d(np.arange(ROWS), taught)
    shares = (TRUTH[taught].sum(axis=0) + smoothing) / (len(taught) + 2 * smoothing)
    targets = TRUTH.astype(float) * 2 - 1
    labels = oracle.pseudo_labels(SCORES.double().numpy()[rows], shares, *kept)
    targets[rows] = np.where(labels == UNKNOWN, 0, labels * 2 - 1)
    return targets


@pytest.mark.parametrize("smoothing", [0.0, 1.0])
def test_a_step_after_a_round(smoothing):
    criterion, model = build(share_smoothing=smoothing, kept_present=0.7), FakeModel(CLASSES)
    criterion.on_epoch_start(2, SCORES)
    targets = expected_targets(smoothing=smoothing, kept=(0.7, 0.998))
    np.testing.assert_array_equal(criterion.targets, targets)
    out = criterion(model, batch_of(CODES, INDEX))
    losses, gradient = oracle.loss(out.logits.double().numpy(), targets[INDEX], 0, 4, 0.05)
    assert float(out.total.detach()) == pytest.approx(losses.sum(), rel=1e-5)
    logits = out.logits.clone().requires_grad_()
    criterion.from_logits(logits, torch.from_numpy(CODES[INDEX]), torch.tensor(INDEX)).total.backward()
    np.testing.assert_allclose(logits.grad, gradient, rtol=1e-4, atol=1e-6)
    unknown = CODES[INDEX] == UNKNOWN
    np.testing.assert_array_equal(out.modified, unknown & (targets[INDEX] > 0))
    assert out.modified.any()
    for name, sign in (("pseudo_present", 1), ("pseudo_absent", -1)):
        assert float(out.parts[name]) == pytest.approx((unknown & (targets[INDEX] == sign)).sum() / len(INDEX))
    mean = losses.mean()
    for name, part in (("labelled", ~unknown), ("pseudo", unknown)):
        assert float(out.parts[name]) == pytest.approx((losses * part).mean(), rel=1e-5)
    assert not any(part.requires_grad for part in [out.logits, *out.parts.values()])
    assert model.calls == [frozenset()]
    averaged = build(share_smoothing=smoothing, kept_present=0.7, reduction="mean")
    averaged.on_epoch_start(2, SCORES)
    assert float(averaged(model, batch_of(CODES, INDEX)).total.detach()) == pytest.approx(mean, rel=1e-5)


def test_every_round_begins_anew():
    criterion, once = build(), build()
    criterion.on_epoch_start(2, -SCORES)
    criterion.on_epoch_start(3, SCORES)
    once.on_epoch_start(3, SCORES)
    assert torch.equal(criterion.targets, once.targets)


def held_out_rows(share, seed=0):
    drawn = np.random.default_rng(derive_seed(seed, "calibration")).permutation(LABELLED)
    return np.sort(drawn[: round(share * len(LABELLED))])


def test_calibrated_weights_and_held_out_images():
    criterion = build(**CALIBRATED, calibration_share=0.4)
    held_out = held_out_rows(0.4)
    np.testing.assert_array_equal(criterion.held_out, held_out)
    assert len(held_out) == 4
    assert not criterion.targets[held_out].any()
    taught = np.setdiff1d(LABELLED, held_out)
    np.testing.assert_allclose(criterion.class_priors().values, TRUTH[taught].mean(axis=0))
    criterion.on_epoch_start(2, SCORES)
    p = torch.sigmoid(SCORES).double().numpy()
    rates = oracle.rates(p[held_out], TRUTH[held_out], 4)
    assert np.isfinite(rates).all()
    signs = expected_targets(held_out)
    weights = np.vectorize(lambda value: oracle.weight(value, rates))(p)
    expected = np.where(signs > 0, weights, weights - 1) * (signs != 0)
    expected[taught] = signs[taught]
    np.testing.assert_allclose(criterion.targets, expected, rtol=1e-5, atol=1e-6)
    assert not np.array_equal(build(seed=1, **CALIBRATED, calibration_share=0.4).held_out, held_out)


def test_uniform_weights_hold_nothing_out():
    criterion = build()
    assert len(criterion.held_out) == 0
    np.testing.assert_allclose(criterion.class_priors().values, TRUTH[LABELLED].mean(axis=0))
    assert criterion.class_priors().origin == "observed"


def test_the_warm_up_is_12_of_40_epochs_unless_told():
    found = [build_criterion("cap", observed=CODES, epochs=epochs).warmup for epochs in (1, 3, 4, 40)]
    assert found == [0, 0, 1, 12]
    assert build_criterion("cap", observed=CODES, epochs=5, cap_warmup=4).warmup == 4
    with pytest.raises(UserError, match="--cap_warmup 5 leaves none of the 5 --epochs for pseudo labels"):
        build_criterion("cap", observed=CODES, epochs=5, cap_warmup=5)


def test_what_it_is_told_by():
    assert (CAP.train_scores_of, CAP.needs) == ("average", {"train_scores"})
    with pytest.raises(ValueError, match="epoch 2 needs the scores"):
        build().on_epoch_start(2)


@pytest.mark.parametrize("settings", [{}, CALIBRATED])
def test_state_is_saved_and_taken_up_again(settings):
    criterion = build(**settings)
    criterion.on_epoch_start(2, SCORES)
    file = io.BytesIO()
    torch.save(criterion.state_dict(), file)
    file.seek(0)
    resumed, batch = build(**settings), batch_of(CODES, INDEX)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(criterion(FakeModel(CLASSES), batch).total, resumed(FakeModel(CLASSES), batch).total)
    assert not torch.equal(
        criterion(FakeModel(CLASSES), batch).total, build(**settings)(FakeModel(CLASSES), batch).total
    )


@pytest.mark.parametrize("variant", ["fixed", "reference"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_saturated_logits_have_finite_losses_and_gradients(dtype, variant):
    criterion = build(variant=variant, clip=0.0)
    criterion.on_epoch_start(2, SCORES)
    logits = torch.full((len(INDEX), CLASSES), 200.0)
    logits[:, ::2] = -200
    logits = logits.to(dtype).requires_grad_()
    out = criterion.from_logits(logits, torch.from_numpy(CODES[INDEX]), torch.tensor(INDEX))
    out.total.backward()
    assert out.total.isfinite()
    assert logits.grad.isfinite().all()
    wrong = criterion.targets[INDEX][:, 0] > 0  # with a logit of -200
    assert wrong.any()
    assert bool((logits.grad[:, 0][wrong] != 0).all()) is (variant == "fixed")


def test_training_lowers_the_loss():
    criterion, model = build(), FakeModel(CLASSES)
    criterion.on_epoch_start(2, SCORES)
    optimizer, totals, batch = torch.optim.SGD(model.parameters(), lr=1e-3), [], batch_of(CODES, list(range(ROWS)))
    for _ in range(8):
        optimizer.zero_grad()
        out = criterion(model, batch)
        out.total.backward()
        optimizer.step()
        totals.append(float(out.total.detach()))
    assert totals[-1] < totals[0]


PARTLY = CODES.copy()
PARTLY[0, 0] = ABSENT


@pytest.mark.parametrize(
    ("codes", "settings", "line"),
    [
        (
            PARTLY,
            {},
            "cap: is for images that are labelled or not, and 1 of 40 have some of their labels; take --labels",
        ),
        (TRUTH, {}, "cap: no image is unlabelled; take --labels semi"),
        (np.where(CODES == PRESENT, ABSENT, CODES), {}, "cap: no label is known to be present"),
        (
            CODES,
            {**CALIBRATED, "calibration_share": 0.04},
            "--calibration_share 0.04: holds out 0 of 10 labelled images",
        ),
        (CODES, {**CALIBRATED, "calibration_share": 0.96}, "--calibration_share 0.96: holds out 10 of 10 labelled"),
    ],
)
def test_labels_that_it_cannot_use_are_refused(codes, settings, line):
    with pytest.raises(UserError, match=line):
        build(codes, **settings)
    assert len(build(**{**CALIBRATED, "calibration_share": 0.06}).held_out) == 1
    assert len(build(**{**CALIBRATED, "calibration_share": 0.94}).held_out) == 9


def test_labels_that_are_too_many_to_score_are_refused():
    table = LabelTable(csr_array(CODES[LABELLED]), default=UNKNOWN)
    with pytest.raises(UserError, match="cap: it scores each of the 10 x 5 labels, too many"):
        CAP(CAPConfig(), replace(info_for(CODES), observed=table))


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"cap_warmup": -1}, "--cap_warmup -1: must be 0 or more"),
        ({"kept_present": 1.1}, r"--kept_present 1.1: must be in \[0, 1\]"),
        ({"kept_absent": -0.1}, r"--kept_absent -0.1: must be in \[0, 1\]"),
        ({"share_smoothing": -1.0}, "--share_smoothing -1.0: must be 0 or more"),
        ({"gamma_pos": -1.0}, "--gamma_pos -1.0: must be 0 or more"),
        ({"gamma_neg": float("inf")}, "--gamma_neg inf: must be 0 or more"),
        ({"calibration_share": 1.0}, r"--calibration_share 1.0: must be in \(0, 1\); the published value is 0.2"),
        ({"calibration_bins": 0}, "--calibration_bins 0: must be at least 1; the published value is 20"),
        ({"clip": 1.0}, r"--clip 1.0: must be in \[0, 1\); the published value is 0.05"),
        ({"pseudo_weights": "best"}, "--pseudo_weights best: must be one of uniform, calibrated"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, line):
    with pytest.raises(UserError, match=line):
        CAPConfig(**settings)
