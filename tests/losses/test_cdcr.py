"""CDCR: the published code's values, slow loops, rounds and their thresholds, resuming, two ranks, what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from data.labels.regimes import candidate_labels
from losses import BCEConfig, CDCRConfig, build_criterion
from losses.assume_negative import BCE
from losses.cdcr import CDCR, alpha_of, candidate_losses, chosen_candidates, usual_excess
from tests import golden_files
from tests.losses.fake_model import FakeModel, batch_of, info_for, random_labels
from tests.losses.steps import WAITING, Recorder, check_resume
from tests.oracles import cdcr as oracle
from tests.ranks import run_ranks
from utils import collectives
from utils.checks import UserError
from utils.types import ABSENT, PRESENT, UNKNOWN, LabelTable

ROWS, CLASSES, EPOCHS = 10, 6, 4
CODES = random_labels(ROWS, CLASSES, seed=4)
INDEX = [4, 0, 3, 7]
ORDER = [INDEX, [1, 2, 5, 6], [8, 9]]
SCORES = np.random.default_rng(0).normal(0.5, 2, (ROWS, CLASSES)).astype(np.float32)
PASSED = oracle.chosen(1 / (1 + np.exp(-SCORES.astype(float))), CODES == PRESENT, 0.6)


def build(codes=CODES, epochs=EPOCHS, **settings):
    return CDCR(CDCRConfig(**settings), replace(info_for(codes), epochs=epochs))


def chosen(**settings):
    """A criterion after one round."""
    criterion = build(cdcr_warmup=1, **settings)
    criterion.on_epoch_start(2, torch.from_numpy(SCORES))
    return criterion


def golden(kind):
    cases = golden_files.each_case("cdcr.npz")
    return [each for each in cases if each.values[0] is None or each.values[0]["kind"] == kind]


@pytest.mark.parametrize("case, arrays", golden("selection"))
@pytest.mark.parametrize("rule, suffix", [("confidence", ""), ("difficulty", "_difficulty")])
def test_golden_weights_and_purity(case, arrays, rule, suffix):
    candidates, confidence = torch.tensor(arrays["candidates"] == 1), torch.tensor(arrays["confidence"])
    found = chosen_candidates(confidence, candidates, case["alpha"], rule).numpy()
    weights = np.where(candidates, found, 1)
    np.testing.assert_array_equal(
        weights, arrays[f"right_weights{suffix}" if f"right_weights{suffix}" in arrays else f"weights{suffix}"]
    )
    true = (found & (arrays["truth"] == 1)).sum()
    np.testing.assert_allclose([true / max(found.sum(), 1), true, found.sum()], arrays[f"purity{suffix}"])


@pytest.mark.parametrize("case, arrays", golden("selection"))
@pytest.mark.parametrize("variant, prefix", [("reference", ""), ("fixed", "right_")])
def test_golden_losses_of_a_step(case, arrays, variant, prefix):
    codes = arrays["candidates"].astype(np.int8)
    criterion = build(codes, cdcr_warmup=0, candidate_threshold=float(case["alpha"]), variant=variant)
    criterion.on_epoch_start(1, torch.logit(torch.from_numpy(arrays["confidence"])))
    criterion.left_out.copy_(torch.from_numpy((arrays["weights"] == 0).astype(np.int8)))  # logits round at alpha
    leaf = torch.tensor(arrays["logits"], requires_grad=True)
    out = criterion.from_logits(leaf, torch.tensor(codes), torch.arange(len(codes)))
    out.total.backward()
    loss, grad = (arrays.get(f"{prefix}{name}", arrays[name]) for name in ("loss", "grad"))
    near = {"rtol": 1e-9, "atol": 1e-12} if arrays["logits"].dtype == np.float64 else {"rtol": 1e-5, "atol": 1e-6}
    np.testing.assert_allclose(float(out.total.detach()), loss, rtol=near["rtol"])
    np.testing.assert_allclose(leaf.grad, grad, **near)
    np.testing.assert_array_equal(out.modified, arrays["weights"] == 0)


@pytest.mark.parametrize("case, arrays", golden("labels"))
def test_golden_candidates_are_drawn_as_ours(case, arrays):
    table = LabelTable(arrays["truth"].astype(np.int8))
    rng = np.random.RandomState(case["seed"])
    np.testing.assert_array_equal(candidate_labels(table, rng, case["rho"]).dense(), arrays["candidates"])


# Formulas.


@pytest.mark.parametrize("seed", range(3))
def test_losses_and_slopes_match_loops(seed):
    rng = np.random.default_rng(seed)
    logits, codes = rng.normal(0, 4, (4, 6)), rng.integers(0, 2, (4, 6))
    leaf, candidates = torch.tensor(logits, requires_grad=True), torch.tensor(codes == 1)
    losses = candidate_losses(leaf, candidates)
    losses.sum().backward()
    expected = oracle.losses(logits, codes, np.zeros_like(codes))
    np.testing.assert_allclose(losses.detach(), expected[0], rtol=1e-12)
    np.testing.assert_allclose(leaf.grad, expected[1], rtol=1e-12)
    assert torch.autograd.gradcheck(lambda z: candidate_losses(z, candidates), (leaf,))
    np.testing.assert_allclose(candidate_losses(leaf, candidates, "reference").detach(), expected[0], rtol=1e-6)


def test_a_missed_candidate_keeps_its_gradient_where_the_published_logarithm_is_cut_off():
    for variant, expected in (("fixed", -1.0), ("reference", 0.0)):
        leaf = torch.tensor([-40.0], requires_grad=True)
        candidate_losses(leaf, torch.tensor([True]), variant).sum().backward()
        assert float(leaf.grad) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("rule", ["confidence", "difficulty"])
def test_the_choice_matches_loops(seed, rule):
    rng = np.random.default_rng(seed)
    confidence, candidates = rng.random((9, 5)), rng.random((9, 5)) < 0.6
    candidates[:, seed] = False
    found = chosen_candidates(torch.tensor(confidence), torch.tensor(candidates), 0.55, rule)
    expected = oracle.chosen(confidence, candidates, 0.55, rule == "difficulty")
    np.testing.assert_array_equal(found, expected)
    assert found.any()
    order = rng.permutation(9)
    again = chosen_candidates(torch.tensor(confidence[order]), torch.tensor(candidates[order]), 0.55, rule)
    np.testing.assert_array_equal(again, expected[order])


def test_at_the_threshold_a_candidate_passes_and_without_candidates_nothing_is_usual():
    confidence, candidates = torch.tensor([[0.6, 0.5]]), torch.tensor([[True, True]])
    assert chosen_candidates(confidence, candidates, float(confidence[0, 0])).tolist() == [[True, False]]
    none = torch.zeros(1, 2, dtype=torch.bool)
    assert usual_excess(confidence, none).tolist() == [0, 0]
    assert not chosen_candidates(confidence, none, 0.1, "difficulty").any()


@pytest.mark.parametrize("epoch, expected", [(2, 0.8), (3, 0.8), (4, 0.7), (5, 0.6), (6, 0.6)])
def test_the_threshold_moves_in_a_straight_line(epoch, expected):
    assert alpha_of(epoch, 3, 5, 0.8, 0.6) == pytest.approx(expected)
    assert alpha_of(epoch, 3, 3, 0.8, 0.6) == 0.8


def test_the_criterion_follows_its_epochs():
    assert [build(cdcr_warmup=1).alpha(epoch) for epoch in (2, 4)] == [0.6, 0.6]
    moving = build(cdcr_warmup=1, candidate_threshold=0.9, candidate_threshold_end=0.3)
    assert [moving.alpha(epoch) for epoch in (2, 3, 4)] == pytest.approx([0.9, 0.6, 0.3])


# Rounds.


@pytest.mark.parametrize("rule", ["confidence", "difficulty"])
def test_a_round_keeps_what_passes_and_each_starts_anew(rule):
    criterion = build(cdcr_warmup=1, candidate_rule=rule)
    for shift in (0, 1, -1):
        criterion.on_epoch_start(2, torch.from_numpy(SCORES) + shift)
        confidence = 1 / (1 + np.exp(-(SCORES.astype(float) + shift)))
        passed = oracle.chosen(confidence, CODES == PRESENT, 0.6, rule == "difficulty")
        np.testing.assert_array_equal(criterion.left_out, (CODES == PRESENT) & ~passed)


@pytest.mark.parametrize(
    "epochs, warmup, wanted", [(4, None, [2, 3, 4]), (57, None, range(17, 58)), (3, 0, [1, 2, 3]), (1, None, [1])]
)
def test_scores_are_wanted_before_every_epoch_after_the_warm_up(epochs, warmup, wanted):
    criterion = build(epochs=epochs, cdcr_warmup=warmup)
    assert [epoch for epoch in range(1, epochs + 1) if criterion.wants_train_scores(epoch)] == list(wanted)


@pytest.mark.parametrize("scores", [None, torch.zeros(ROWS - 1, CLASSES)])
def test_a_round_without_fitting_scores_is_an_error(scores):
    with pytest.raises(ValueError, match=r"epoch 3 needs the scores .*\(10, 6\)"):
        build().on_epoch_start(3, scores)


def test_classes_that_keep_no_candidate_for_two_rounds_are_named_once(capsys):
    criterion, scores = build(cdcr_warmup=0), torch.full((ROWS, CLASSES), 3.0)
    scores[:, [1, 4]] = -3
    for _ in range(2):
        assert capsys.readouterr().err == ""
        criterion.on_epoch_start(1, scores)
    said = capsys.readouterr().err
    assert said.startswith("note: cdcr: class 1, class 4: no candidate kept for 2 epochs")
    assert said.count("\n") == 1
    criterion.on_epoch_start(1, scores)
    assert capsys.readouterr().err == ""
    criterion.on_epoch_start(1, -scores)
    assert criterion.idle.tolist() == [1, 0, 1, 1, 0, 1]
    criterion.on_epoch_start(1, torch.full((ROWS, CLASSES), -3.0))
    assert "note: cdcr: class 0, class 2, class 3, class 5: no candidate" in capsys.readouterr().err
    many = build(np.array([[1] * 8, [0] * 8], dtype=np.int8), cdcr_warmup=0)
    for _ in range(2):
        many.on_epoch_start(1, torch.full((2, 8), -3.0))
    assert "class 4 and 3 more: no candidate" in capsys.readouterr().err
    without = build(np.array([[1, 0], [1, 0]], dtype=np.int8), cdcr_warmup=0)
    for _ in range(3):
        without.on_epoch_start(1, torch.full((2, 2), 3.0))
    assert capsys.readouterr().err == "", "a class without candidates keeps none and is not named"


# Steps.


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("warm", [True, False])
def test_one_step(reduction, warm):
    criterion = build(reduction=reduction) if warm else chosen(reduction=reduction)
    model, codes = FakeModel(CLASSES), CODES[INDEX]
    out = criterion(model, batch_of(CODES, INDEX))
    dropped = (codes == PRESENT) & ~(PASSED[INDEX] | warm)
    losses = oracle.losses(out.logits.double().numpy(), codes, dropped)[0]
    total = losses.sum() if reduction == "sum" else losses.mean()
    assert float(out.total.detach()) == pytest.approx(total, rel=1e-5)
    np.testing.assert_array_equal(out.modified, dropped)
    assert dropped.any() is np.bool_(not warm)
    candidates, kept = codes == PRESENT, (codes == PRESENT) & ~dropped
    expected = {"positive": (losses * candidates).mean(), "negative": (losses * (codes == ABSENT)).mean()}
    expected |= {"chosen": kept.sum() / candidates.sum()}
    expected |= {"negatives_only": (~kept.any(axis=1) & candidates.any(axis=1)).sum() / candidates.any(axis=1).sum()}
    assert {name: float(part) for name, part in out.parts.items()} == pytest.approx(expected, rel=1e-5)
    assert not any(part.requires_grad for part in [out.logits, *out.parts.values()])
    assert model.calls == [frozenset()]


def test_without_candidates_shares_are_0_and_the_loss_is_that_of_the_negatives():
    out = build().from_logits(torch.zeros(2, CLASSES), torch.zeros(2, CLASSES), torch.tensor([0, 1]))
    assert {name: float(out.parts[name]) for name in ("chosen", "negatives_only")} == {"chosen": 0, "negatives_only": 0}
    assert float(out.total) == pytest.approx(12 * np.log(2))


def test_in_its_warm_up_it_is_bce_where_all_is_known():
    codes = np.maximum(CODES, 0)
    ours, plain = build(codes, reduction="mean"), BCE(BCEConfig(), info_for(codes))
    totals = [each(FakeModel(CLASSES), batch_of(codes, INDEX)).total for each in (ours, plain)]
    torch.testing.assert_close(*totals)


def test_unknown_labels_have_no_gradient():
    leaf = torch.randn(ROWS, CLASSES, requires_grad=True)
    build().from_logits(leaf, torch.tensor(CODES), torch.arange(ROWS)).total.backward()
    np.testing.assert_array_equal(leaf.grad == 0, CODES == UNKNOWN)


def test_the_order_of_the_rows_does_not_matter():
    criterion, model = chosen(), FakeModel(CLASSES)
    one, other = (criterion(model, batch_of(CODES, index)) for index in (INDEX, INDEX[::-1]))
    torch.testing.assert_close(one.total, other.total)
    assert torch.equal(one.modified, other.modified.flip(0))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("variant", ["fixed", "reference"])
def test_saturated_logits_stay_finite(dtype, variant):
    logits = torch.tensor([[200.0, -200.0, 40.0, -40.0, 0.0, 1.0]] * ROWS, dtype=dtype, requires_grad=True)
    criterion = build(variant=variant, cdcr_warmup=0)
    criterion.on_epoch_start(1, logits.detach())
    out = criterion.from_logits(logits, torch.tensor(CODES), torch.arange(ROWS))
    out.total.backward()
    assert out.logits.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.isfinite(out.total)
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("cut", [1, 3, 4, 8])
def test_a_run_that_is_cut_ends_bit_for_bit_where_one_that_is_not_does(cut):
    """Rounds before the epochs 2 to 4, which begin with the steps 3, 6 and 9."""

    def parts():
        model = FakeModel(CLASSES)
        return build(cdcr_warmup=1), model, torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def train(criterion, model, optimizer, epochs, start=0, stop=10**9):
        totals = []
        for number in range(start, min(stop, len(epochs) * len(ORDER))):
            epoch, at = epochs[number // len(ORDER)], number % len(ORDER)
            if at == 0:
                with torch.no_grad():
                    scores = model(batch_of(CODES, list(range(ROWS))).images).logits
                criterion.on_epoch_start(epoch, scores if criterion.wants_train_scores(epoch) else None)
            optimizer.zero_grad()
            out = criterion(model, batch_of(CODES, ORDER[at]))
            out.total.backward()
            optimizer.step()
            totals.append(float(out.total.detach()))
        return totals

    assert check_resume(parts, train, cut)[0].left_out.any()


def share_a_batch(rank):
    """Loss, gradient and choice as the engine combines them: each rank's by its share of the global batch."""
    everyone = [*INDEX, 8]
    index = everyone if rank is None else everyone[rank::2]
    found = []
    for reduction in ("sum", "mean"):
        criterion, model, share = chosen(reduction=reduction), FakeModel(CLASSES), len(index) / len(everyone)
        batch = batch_of(CODES, index)._replace(global_index=torch.tensor(everyone))
        out = criterion(model, batch)
        (share * out.total).backward()
        found += [collectives.all_sum(share * out.total.detach()), collectives.all_sum(model.head.weight.grad)]
    return [*found, criterion.left_out]


def test_two_ranks_have_the_loss_gradient_and_choice_of_one():
    alone = share_a_batch(None)
    for found in run_ranks(share_a_batch):
        for value, expected in zip(found, alone, strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5)


def test_a_step_waits_for_nothing_and_what_it_keeps_is_planned():
    criterion, model, batch = chosen(), FakeModel(CLASSES), batch_of(CODES, INDEX)
    with Recorder() as recorder:
        criterion(model, batch)
    assert not recorder.names & WAITING
    needs = CDCR.memory_needs(CDCRConfig(), info_for(CODES))
    assert [(need.name, need.size) for need in needs] == [("dropped candidates", 60), ("scores", 240)]


# Refusals.


@pytest.mark.parametrize(
    "wrong",
    [
        {"candidate_threshold": 0.0},
        {"candidate_threshold": 1.0},
        {"candidate_threshold": float("nan")},
        {"candidate_threshold_end": 1.5},
        {"candidate_rule": "luck"},
        {"cdcr_warmup": -1},
        {"reduction": "total"},
        {"variant": "mended"},
    ],
)
def test_a_setting_that_cannot_work_is_refused_by_name(wrong):
    with pytest.raises(UserError, match=f"^--{next(iter(wrong))} [^\n]*$"):
        CDCRConfig(**wrong)


@pytest.mark.parametrize("warmup", [EPOCHS, EPOCHS + 1])
def test_a_warm_up_that_leaves_no_epoch_is_refused(warmup):
    with pytest.raises(UserError, match=rf"^cdcr: --cdcr_warmup {warmup} leaves none of the 4 --epochs"):
        build(cdcr_warmup=warmup)
    assert build(cdcr_warmup=EPOCHS - 1).warmup == EPOCHS - 1


def test_labels_that_it_cannot_use_are_refused():
    with pytest.raises(UserError, match=r"^cdcr: no label is known to be absent, .* --labels candidate$"):
        build(np.where(CODES == PRESENT, PRESENT, UNKNOWN).astype(np.int8))
    with pytest.raises(UserError, match=r"^cdcr: no label is a candidate"):
        build_criterion("cdcr", observed=np.minimum(CODES, 0))
    sparse = LabelTable(csr_array(CODES), default=UNKNOWN)
    with pytest.raises(UserError, match=r"^cdcr: .*10 x 6 labels only known ones are stored"):
        build_criterion("cdcr", observed=sparse)
