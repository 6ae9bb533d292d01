from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from losses import EM, EMAPL, EMAPLConfig, EMConfig, build_criterion
from losses.assume_negative import label_costs
from losses.em import add_soft_labels, em_losses, lowest, soft_losses
from tests import golden_files
from tests.losses.fake_model import FakeModel, batch_of, info_for, random_labels
from tests.losses.steps import WAITING, Recorder, check_resume
from tests.oracles import em as oracle
from tests.ranks import run_ranks
from utils import collectives
from utils.checks import UserError
from utils.types import ABSENT, PRESENT, UNKNOWN, LabelTable

ROWS, CLASSES, EPOCHS = 10, 6, 4
CODES = random_labels(ROWS, CLASSES, seed=4, rate=0.2)
CODES[:, 5] = PRESENT  # a class of which all is known
INDEX = [4, 0, 3, 7]
ORDER = [INDEX, [1, 2, 5, 6], [8, 9]]
SCORES = np.random.default_rng(0).normal(-1, 2, (EPOCHS + 1, ROWS, CLASSES)).astype(np.float32)
NO_SOFT = np.zeros((ROWS, CLASSES))


def build(codes=CODES, epochs=EPOCHS, **settings):
    return EMAPL(EMAPLConfig(**settings), replace(info_for(codes), epochs=epochs))


def golden(rounds):
    """Cases of losses, or of rounds of labelling."""
    cases = golden_files.each_case("em_apl.npz")
    return [each for each in cases if each.values[0] is None or (each.values[0]["kind"] == "apl") == rounds]


# Losses.


def both(logits, observed, soft, alpha, beta, variant):
    """Losses (B, C) where some entries have soft labels."""
    costs = label_costs(logits, variant)
    return torch.where(soft > 0, soft_losses(costs, soft, beta), em_losses(logits, costs, observed, alpha))


@pytest.mark.parametrize("case, arrays", golden(rounds=False))
@pytest.mark.parametrize("variant", ["reference", "fixed"])
def test_golden_losses_and_gradients(case, arrays, variant):
    reference = variant == "reference"
    loss, gradient = (name if reference else f"right_{name}" for name in ("loss", "grad"))
    if loss not in arrays:
        pytest.skip(f"no {loss} in this case")
    logits = torch.from_numpy(arrays["logits"])
    logits = (logits if reference else logits.double()).requires_grad_()
    obs = torch.from_numpy(arrays["obs"])
    soft = (-obs).clamp(min=0).to(logits.dtype)
    losses = both(logits, torch.where(obs == 1, PRESENT, UNKNOWN), soft, case["alpha"], case["beta"], variant)
    losses.mean().backward()
    near = {"rtol": 1e-5, "atol": 1e-6} if case["dtype"] == "float32" else {"rtol": 1e-9, "atol": 1e-12}
    np.testing.assert_allclose(float(losses.mean().detach()), arrays[loss], **near)
    np.testing.assert_allclose(logits.grad * losses.numel(), arrays[gradient] * losses.numel(), **near)
    if reference:
        np.testing.assert_allclose(losses.detach(), arrays["loss_mtx"], **near)


def random_case(seed, spread=4.0):
    rng = np.random.default_rng(seed)
    logits, observed = rng.normal(0, spread, (5, 7)), random_labels(5, 7, seed)
    return logits, observed, rng.random((5, 7)) * (observed == UNKNOWN) * (rng.random((5, 7)) < 0.5)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("variant, guard", [("fixed", 0.0), ("reference", 1e-5)])
def test_losses_match_loops(seed, variant, guard):
    logits, observed, soft = random_case(seed)
    found = both(*map(torch.from_numpy, (logits, observed, soft)), 0.3, 0.7, variant)
    np.testing.assert_allclose(found, oracle.losses(logits, observed, soft, 0.3, 0.7, guard), rtol=1e-12)


@pytest.mark.parametrize("seed", range(2))
def test_the_gradient_is_that_of_the_formula(seed):
    logits, observed, soft = random_case(seed)
    x, codes, targets = torch.tensor(logits, requires_grad=True), torch.tensor(observed), torch.tensor(soft)
    both(x, codes, targets, 0.3, 0.7, "fixed").mean().backward()
    np.testing.assert_allclose(x.grad, oracle.gradient(logits, observed, soft, 0.3, 0.7), rtol=1e-10, atol=1e-16)
    for variant in ("fixed", "reference"):
        assert torch.autograd.gradcheck(lambda z, how=variant: both(z, codes, targets, 0.3, 0.7, how), (x,))


def test_a_network_that_is_unsure_has_the_least_loss_of_unknown_labels():
    logits = torch.tensor([[-200.0, -3.0, 0.0, 3.0, 200.0]], requires_grad=True)
    losses = em_losses(logits, label_costs(logits), torch.full((1, 5), UNKNOWN), 0.2)
    losses.sum().backward()
    assert float(losses[0, 2].detach()) == pytest.approx(-0.2 * np.log(2))
    assert losses[0, [0, 4]].tolist() == [0, 0]
    assert logits.grad[0, [0, 2, 4]].tolist() == [0, 0, 0]
    assert logits.grad[0, 1] < 0 < logits.grad[0, 3], "both move towards 0"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("variant", ["fixed", "reference"])
def test_saturated_logits_stay_finite(dtype, variant):
    logits = torch.tensor([[200.0, -200.0, 40.0, -40.0, 0.0, 1.0]] * ROWS, dtype=dtype, requires_grad=True)
    criterion = build(variant=variant, epochs=1)
    criterion.on_epoch_start(1, torch.from_numpy(SCORES[0]))
    out = criterion.from_logits(logits, torch.tensor(CODES), torch.arange(ROWS))
    out.total.backward()
    assert out.logits.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.isfinite(out.total)
    assert torch.isfinite(logits.grad).all()
    assert out.modified.any()


def test_where_all_is_known_it_is_bce():
    logits, codes = torch.randn(3, 4, dtype=torch.float64), torch.tensor(random_labels(3, 4)).clamp(min=0)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, codes.double())
    costs = label_costs(logits)
    torch.testing.assert_close(em_losses(logits, costs, codes, 0.1).mean(), expected)
    soft = torch.rand(3, 4, dtype=torch.float64)
    expected = 0.3 * torch.nn.functional.binary_cross_entropy_with_logits(logits, soft)
    torch.testing.assert_close(soft_losses(costs, soft, 0.3).mean(), expected)


# Rounds.


@pytest.mark.parametrize("case, arrays", golden(rounds=True))
def test_golden_rounds_of_labelling(case, arrays):
    """Where an epoch is one batch the published code never labels: then the labels are those of the loops."""
    observed = np.where(arrays["obs_before"] == 1, PRESENT, UNKNOWN).astype(np.int8)
    epochs, warmup = case["num_epochs"], case["warmup_epoch"]
    criterion = build(observed, epochs, neg_proportion=case["neg_proportion"], apl_warmup=warmup)
    assert criterion.counts == arrays["per_round"].tolist()
    expected = np.zeros(observed.shape)
    for at, logits in enumerate(arrays["logits"]):
        criterion.on_epoch_start(warmup + 1 + at, torch.from_numpy(logits))
        expected = oracle.one_round(expected, logits, observed, case["neg_proportion"], epochs - warmup)
        np.testing.assert_allclose(criterion.soft, expected, rtol=1e-5)
        if not case["one_batch_per_epoch"]:
            np.testing.assert_allclose(criterion.soft, np.maximum(-arrays["obs_after"][at], 0), rtol=1e-5)


def test_every_round_labels_a_share_of_each_class_for_good():
    codes = random_labels(60, CLASSES, seed=1, rate=0.1)
    codes[:, 5] = PRESENT
    criterion, rng = build(codes, 10, apl_warmup=6), np.random.default_rng(0)
    unknown, expected = (codes == UNKNOWN).sum(axis=0), np.zeros(codes.shape)
    for epoch in range(1, 11):
        scores = rng.normal(-1, 2, codes.shape).astype(np.float32)
        criterion.on_epoch_start(epoch, torch.from_numpy(scores) if criterion.wants_train_scores(epoch) else None)
        if epoch > 6:
            expected = oracle.one_round(expected, scores, codes, 0.9, 4)
        np.testing.assert_allclose(criterion.soft, expected, rtol=1e-6)
        done = (criterion.soft > 0).sum(dim=0).numpy()
        np.testing.assert_array_equal(done, max(epoch - 6, 0) * np.floor(0.9 * unknown / 4))
    assert (np.abs(done - 0.9 * unknown) < 4).all()
    assert done[5] == 0
    assert done[:5].all()


def test_a_probability_of_0_is_a_label_too_and_the_first_of_equal_scores_comes_first():
    soft, unknown = torch.zeros(5, 2), torch.ones(5, 2, dtype=torch.bool)
    unknown[0, 0] = False
    scores = torch.full((5, 2), -200.0)
    scores[4] = -300.0
    add_soft_labels(soft, unknown, scores, [2, 1])
    least = torch.finfo(torch.float32).tiny
    assert (soft > 0).tolist() == [[False, False], [True, False], [False, False], [False, False], [True, True]]
    assert soft.unique().tolist() == [0, pytest.approx(least)]
    add_soft_labels(soft, unknown, scores + 100, [2, 9])
    assert (soft > 0).tolist() == [[False, True]] + [[True, True]] * 4, "no more than there are, none twice"
    assert soft[4].tolist() == [pytest.approx(least)] * 2, "a label stays as it is"


def test_no_more_are_lowest_than_are_candidates():
    scores, candidates = torch.tensor([3.0, 1.0, 2.0, 0.0]), torch.tensor([True, True, True, False])
    assert [lowest(scores, candidates, count).sum().item() for count in (0, 1, 2, 3, 9)] == [0, 1, 2, 3, 3]
    assert lowest(scores, candidates, 1).tolist() == [False, True, False, False]


@pytest.mark.parametrize(
    "epochs, warmup, wanted",
    [(4, None, [3, 4]), (5, None, [3, 4, 5]), (4, 3, [4]), (4, 0, [1, 2, 3, 4]), (1, None, [1])],
)
def test_scores_are_wanted_before_every_epoch_after_the_warm_up(epochs, warmup, wanted):
    criterion = build(epochs=epochs, apl_warmup=warmup)
    assert [epoch for epoch in range(1, epochs + 1) if criterion.wants_train_scores(epoch)] == wanted
    rounds = len(wanted)
    assert criterion.counts == [int(0.9 * (CODES[:, label] == UNKNOWN).sum() / rounds) for label in range(CLASSES)]


@pytest.mark.parametrize("scores", [None, torch.zeros(ROWS - 1, CLASSES)])
def test_a_round_without_fitting_scores_is_an_error(scores):
    with pytest.raises(ValueError, match=r"epoch 3 needs the scores .*\(10, 6\)"):
        build().on_epoch_start(3, scores)


# Steps.


def labelled(**settings):
    """A criterion after one round, and its soft labels by the loops."""
    criterion = build(apl_warmup=2, **settings)
    criterion.on_epoch_start(3, torch.from_numpy(SCORES[0]))
    return criterion, oracle.one_round(NO_SOFT, SCORES[0], CODES, 0.9, 2)


@pytest.mark.parametrize("method", ["em", "em_apl"])
def test_one_step_adds_up_its_parts(method):
    criterion, soft = labelled() if method == "em_apl" else (EM(EMConfig(), info_for(CODES)), NO_SOFT)
    model = FakeModel(CLASSES)
    out = criterion(model, batch_of(CODES, INDEX))
    codes, chosen = CODES[INDEX], soft[INDEX] > 0
    losses = oracle.losses(out.logits.double().numpy(), codes, soft[INDEX], 0.1, 0.9)
    assert float(out.total.detach()) == pytest.approx(losses.mean(), rel=1e-5)
    masks = {"positive": codes == PRESENT, "negative": codes == ABSENT, "entropy": (codes == UNKNOWN) & ~chosen}
    masks |= {"pseudo": chosen} if method == "em_apl" else {}
    for name, mask in masks.items():
        assert mask.any()
        assert float(out.parts[name]) == pytest.approx((losses * mask).mean(), rel=1e-5)
    if method == "em_apl":
        assert float(out.parts["labelled"]) == pytest.approx(chosen.sum() / len(INDEX))
        np.testing.assert_array_equal(out.modified, chosen)
    assert out.parts.keys() == {*masks, *(["labelled"] if method == "em_apl" else [])}
    assert not any(part.requires_grad for part in [out.logits, *out.parts.values()])
    assert model.calls == [frozenset()]
    assert criterion.corrected_labels() is None


def test_before_the_first_round_it_is_em():
    totals = [
        each(FakeModel(CLASSES), batch_of(CODES, INDEX)).total for each in (build(), EM(EMConfig(), build().info))
    ]
    assert torch.equal(*totals)


def test_the_order_of_the_rows_does_not_matter():
    criterion, model = labelled()[0], FakeModel(CLASSES)
    one, other = (criterion(model, batch_of(CODES, index)) for index in (INDEX, INDEX[::-1]))
    torch.testing.assert_close(one.total, other.total)
    assert torch.equal(one.modified, other.modified.flip(0))


@pytest.mark.parametrize("cut", [1, 5, 6, 7, 8, 10])
def test_a_run_that_is_cut_ends_bit_for_bit_where_one_that_is_not_does(cut):
    """Rounds before the epochs 3 and 4, which begin with the steps 6 and 9."""

    def parts():
        model = FakeModel(CLASSES)
        return build(), model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

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

    criterion = check_resume(parts, train, cut)[0]
    assert (criterion.soft > 0).sum(dim=0).tolist() == [2 * count for count in criterion.counts]


def share_a_batch(rank):
    """Loss, gradient and labels as the engine combines them: each rank's weighted by its share of the global batch."""
    everyone = [*INDEX, 8]
    index = everyone if rank is None else everyone[rank::2]
    criterion, model, share = labelled()[0], FakeModel(CLASSES), len(index) / len(everyone)
    out = criterion(model, batch_of(CODES, index))
    (share * out.total).backward()
    total = collectives.all_sum(share * out.total.detach())
    return total, collectives.all_sum(model.head.weight.grad), criterion.soft


def test_two_ranks_have_the_loss_gradient_and_labels_of_one():
    alone = share_a_batch(None)
    for found in run_ranks(share_a_batch):
        for value, expected in zip(found, alone, strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-7)


def test_a_step_reads_rows_of_the_batch_only_and_waits_for_nothing():
    criterion, model, batch = labelled()[0], FakeModel(CLASSES), batch_of(CODES, INDEX)
    with Recorder() as recorder:
        criterion(model, batch)
    assert not recorder.names & WAITING


def test_soft_labels_and_the_scores_of_a_round_are_planned():
    needs = EMAPL.memory_needs(EMAPLConfig(), info_for(CODES))
    assert [(need.name, need.size) for need in needs] == [("soft labels", 240), ("scores", 240)]


# Refusals.


@pytest.mark.parametrize(
    "wrong",
    [
        {"entropy_weight": 0.0},
        {"entropy_weight": float("nan")},
        {"entropy_weight": float("inf")},
        {"pseudo_weight": -0.1},
        {"pseudo_weight": float("inf")},
        {"neg_proportion": 0.0},
        {"neg_proportion": 1.01},
        {"apl_warmup": -1},
        {"variant": "published"},
    ],
)
def test_a_setting_that_cannot_work_is_refused_by_name(wrong):
    with pytest.raises(UserError, match=f"--{next(iter(wrong))} "):
        EMAPLConfig(**wrong)


def test_the_ends_of_what_can_work():
    assert EMAPLConfig(pseudo_weight=0.0, neg_proportion=1.0, apl_warmup=0).neg_proportion == 1


@pytest.mark.parametrize("warmup", [4, 5])
def test_a_warm_up_that_leaves_no_epoch_is_refused(warmup):
    with pytest.raises(UserError, match=f"^em_apl: --apl_warmup {warmup} leaves none of the 4 --epochs .* --loss em$"):
        build(apl_warmup=warmup)


@pytest.mark.parametrize("name", ["em", "em_apl"])
def test_labels_that_mean_nothing_to_it_are_refused_in_one_line(name):
    for codes, words in ((np.maximum(CODES, 0), "unknown"), (np.minimum(CODES, 0), "known to be present")):
        with pytest.raises(UserError, match=f"^{name}: no label is {words}.*--loss bce$"):
            build_criterion(name, observed=codes, epochs=4)


def test_sparse_labels_are_for_em_alone():
    known = CODES != UNKNOWN
    bounds = np.concatenate([[0], known.sum(axis=1).cumsum()])
    table = LabelTable(csr_array((CODES[known], known.nonzero()[1], bounds), shape=CODES.shape), default=UNKNOWN)
    with pytest.raises(UserError, match=r"^em_apl: .*10 x 6 labels, too many; take --loss em$"):
        build_criterion("em_apl", observed=table, epochs=4)
    assert build_criterion("em", observed=table, epochs=4).config == EMConfig()
