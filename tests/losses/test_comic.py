"""COMIC against golden values of the published code and plain loops; limits, state, refusals, kinds of labels."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from losses import build_criterion
from losses.comic import (
    CLIP,
    COMIC,
    CORRECTOR_POWER,
    FOCAL_POWER,
    COMICConfig,
    class_weights,
    one_sided_losses,
    related_shares,
    relations,
)
from tests.golden_files import each_case
from tests.losses.fake_model import FakeModel, batch_of, info_for, random_labels
from tests.losses.steps import WAITING, Recorder, check_resume, trainer
from tests.oracles import comic as oracle
from tests.ranks import run_ranks
from utils import collectives
from utils.checks import UserError
from utils.types import ABSENT, PRESENT, UNKNOWN, LabelTable

ROWS, CLASSES = 10, 5
CODES = random_labels(ROWS, CLASSES, seed=2)
INDEX = [4, 2, 0, 3, 6]


def of_missing(targets):
    """Labels of the published code, 1 or 0, where nothing is known to be absent."""
    return np.where(targets == 1, PRESENT, UNKNOWN).astype(np.int8)


def build(codes=CODES, **settings):
    return COMIC(COMICConfig(**settings), info_for(codes))


def of_rlc(case, arrays):
    first = of_missing(arrays["targets"][0])
    criterion = build(
        first, prior_weight=0, corrector_weight=1, tau=case["tau"], margin=case["margin"], focal_gamma=case["gamma_neg"]
    )
    criterion.positives.copy_(torch.tensor(arrays["counts"]))
    assert case["clip"] == CLIP
    before = 0
    for step, epoch in enumerate(case["epochs"]):
        if epoch == 0:  # in which the published loss is 0, and from which nobody counts
            continue
        if epoch > before:
            criterion.on_epoch_start(epoch)
            before = epoch
        logits = torch.tensor(arrays["logits"][step], requires_grad=True)
        codes = torch.tensor(of_missing(arrays["targets"][step]))
        out = criterion.from_logits(logits, codes, torch.arange(len(codes)))
        out.total.backward()
        np.testing.assert_array_equal(out.modified, arrays["corrected"][step])
        weights = class_weights(criterion.positives + criterion.added, CORRECTOR_POWER)
        np.testing.assert_allclose(weights, arrays["class_weight"][step], rtol=1e-6)
        scale = len(codes) / case["batch_size_setting"]  # the number of images, by which the published is a constant
        np.testing.assert_allclose(float(out.total.detach()), arrays["loss"][step] * scale, rtol=1e-5)
        np.testing.assert_allclose(logits.grad, arrays["grad"][step] * scale, rtol=1e-4, atol=1e-6)


def of_focal(case, arrays):
    logits, targets = torch.tensor(arrays["logits"], requires_grad=True), torch.tensor(arrays["targets"]).float()
    power = float(Fraction(case["weight_power"]))
    weights = class_weights(torch.tensor(arrays["counts"]).double(), power)
    np.testing.assert_allclose(weights, arrays["class_weight"], rtol=1e-6)
    together = torch.tensor(arrays["cooc"])
    shares = (together / together.sum(dim=0)).float()
    related = relations(targets, shares) if case["kind"] == "pfm" else None
    losses = one_sided_losses(logits, targets, weights.float(), case["gamma_neg"], related, 1.2)
    losses.sum().backward()
    known = torch.ones(len(logits), dtype=torch.bool) if case["ref_finite"] else targets.sum(dim=1) > 0
    if case["ref_finite"]:
        np.testing.assert_allclose(float(losses.detach().sum()), arrays["loss"], rtol=1e-5)
    else:
        plain = one_sided_losses(logits.detach(), targets, weights.float(), case["gamma_neg"])
        assert torch.equal(losses[~known].detach(), plain[~known])
        assert not known.all()
    np.testing.assert_allclose(logits.grad[known], arrays["grad"][known.numpy()], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("case", "arrays"), each_case("comic.npz"))
def test_golden_comic(case, arrays):
    {"rlc": of_rlc, "mgf": of_focal, "pfm": of_focal}[case["kind"]](case, arrays)


def test_powers_of_class_weights_are_the_published_ones():
    assert (FOCAL_POWER, CORRECTOR_POWER, CLIP) == (1 / 3, 1 / 6, 0.05)
    config = COMICConfig()
    assert (config.prior_weight, config.corrector_weight, config.tau, config.margin) == (4 / 3, 0.2, 0.7, 1.0)
    assert (config.focal_gamma, config.related_factor, config.start_epoch) == (3.0, 1.2, 1)
    assert (config.population, config.reduction) == ("unknown", "sum")


def test_a_class_without_images_counts_as_half_a_one():
    found = class_weights(torch.tensor([8.0, 0.0, 0.5, 2.0]), 0.5)
    expected = [1, (1 + np.log(16)) ** 0.5, (1 + np.log(16)) ** 0.5, (1 + np.log(4)) ** 0.5]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_relations_are_shares_of_what_is_observed_together():
    codes = np.array([[1, 1, 0, -1], [1, 0, 0, -1], [1, -1, 1, -1]], dtype=np.int8)
    shares = related_shares(LabelTable(codes))
    assert shares.dtype == torch.float32
    np.testing.assert_allclose(shares, [[3 / 5, 1 / 2, 1 / 2, 0], [1 / 5, 1 / 2, 0, 0], [1 / 5, 0, 1 / 2, 0], [0] * 4])
    targets = torch.tensor([[1.0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]])
    found = relations(targets, shares.float())
    both = np.array([4 / 5, 1, 1 / 2, 0])
    np.testing.assert_allclose(found, [both / both.sum(), [0] * 4, [0] * 4], rtol=1e-6)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_a_step_is_its_formula_in_loops(reduction):
    rng = np.random.default_rng(0)
    codes = CODES[INDEX]
    logits = torch.tensor(rng.normal(0.5, 1.5, codes.shape), requires_grad=True)
    criterion = build(reduction=reduction, tau=0.5).double()
    criterion.added.copy_(torch.tensor([0.0, 2, 0, 1, 0]))
    out = criterion(lambda images: type("Out", (), {"logits": logits}), batch_of(CODES, INDEX))
    present = (codes == 1).astype(int)
    counts = (CODES == 1).sum(axis=0)
    together = (CODES == 1).astype(float).T @ (CODES == 1)
    related = oracle.relations(present, together)
    prior = oracle.losses(
        logits.detach().numpy(), present, oracle.class_weights(counts, 1 / 3), 3.0, related, 1.2
    ).sum()
    lowered = logits.detach().numpy() - present
    found = oracle.corrected(lowered, codes, 0.5)
    assert found.any()
    assert ((codes == -1) & ~found).any()
    weights = oracle.class_weights(counts + np.array([0, 2, 0, 1, 0]) + found.sum(axis=0), 1 / 6)
    corrector = oracle.losses(lowered, present | found, weights, 3.0).sum() * 5 / (present | found).sum()
    total = 4 / 3 * prior + 0.2 * corrector
    assert float(out.total.detach()) == pytest.approx(total / (25 if reduction == "mean" else 1), rel=1e-6)
    parts = {name: float(value) for name, value in out.parts.items()}
    assert parts == pytest.approx(
        {"prior": prior / 25, "corrector": corrector / 25, "modified": found.sum() / 5}, rel=1e-6
    )
    np.testing.assert_array_equal(out.modified, found)
    assert criterion.added.tolist() == (np.array([0, 2, 0, 1, 0]) + found.sum(axis=0)).tolist()
    assert not any(part.requires_grad for part in [out.logits, *out.parts.values()])


def test_gradients_are_those_of_finite_differences_with_the_focus_held():
    logits = torch.randn(3, CLASSES, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    targets = torch.tensor(CODES[:3] == 1).double()
    weights, related = torch.rand(CLASSES).double() + 1, relations(targets, related_shares(LabelTable(CODES)).double())

    def held(moved):
        """The losses with the focusing weight of the logits themselves."""
        absent = (torch.sigmoid(-logits) + CLIP).clamp(max=1)
        moved_absent = (torch.sigmoid(-moved) + CLIP).clamp(max=1)
        absent, moved_absent = (torch.where(related > 0, 1.2 * n, n).clamp(max=1) for n in (absent, moved_absent))
        focus = (1 - absent) ** (3 + weights)
        return -weights * (targets * torch.sigmoid(moved).log() + (1 - targets) * focus * moved_absent.log())

    logits.requires_grad_()
    one_sided_losses(logits, targets, weights, 3.0, related, 1.2).sum().backward()
    step = 1e-6
    for at in np.ndindex(*logits.shape):
        moved = logits.detach().clone()
        moved[at] += step
        after = held(moved).sum()
        moved[at] -= 2 * step
        slope = (after - held(moved).sum()) / (2 * step)
        assert float(logits.grad[at]) == pytest.approx(slope.item(), rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("size", [200.0, -200.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_saturated_logits_give_finite_losses_and_gradients(size, dtype):
    logits = torch.full((5, CLASSES), size, dtype=dtype, requires_grad=True)
    out = build().from_logits(logits, torch.tensor(CODES[INDEX]), torch.tensor(INDEX))
    out.total.backward()
    assert out.total.isfinite()
    assert logits.grad.isfinite().all()
    assert out.logits.dtype == torch.float32


def test_a_class_that_always_stands_alone_is_learned():
    codes = np.full((4, 3), UNKNOWN, dtype=np.int8)
    codes[np.arange(4), [0, 1, 2, 0]] = PRESENT
    logits = torch.full((4, 3), -5.0, requires_grad=True)
    build(codes, corrector_weight=0).from_logits(logits, torch.tensor(codes), torch.arange(4)).total.backward()
    assert (logits.grad[torch.tensor(codes == 1)] < -1).all()


def test_nothing_is_corrected_before_its_epoch_and_counts_begin_anew_with_each():
    criterion, logits = (
        build(start_epoch=2, tau=0.1),
        torch.randn(5, CLASSES, generator=torch.Generator().manual_seed(3)),
    )
    found = []
    for epoch in (1, 2, 2, 3):
        if not found or epoch > found[-1][0]:
            criterion.on_epoch_start(epoch)
        out = criterion.from_logits(logits, torch.tensor(CODES[INDEX]), torch.tensor(INDEX))
        found.append((epoch, int(out.modified.sum()), criterion.added.sum().item()))
    one = found[1][1]
    assert one > 0
    assert found == [(1, 0, 0.0), (2, one, one), (2, one, 2 * one), (3, one, one)]


def test_labels_known_to_be_absent_are_corrected_only_if_all_may_be():
    logits = torch.tensor([[3.0, 3, 3], [-3, -3, -3]])
    codes = np.array([[1, 0, -1], [1, 0, -1]], dtype=np.int8)
    for population, expected in (("unknown", [[False, False, True]]), ("all", [[False, True, True]])):
        out = build(codes, population=population).from_logits(logits, torch.tensor(codes), torch.arange(2))
        assert out.modified.tolist() == [*expected, [False] * 3]


def test_a_label_at_the_threshold_or_at_the_mean_is_not_corrected():
    codes = np.array([[-1, 1], [-1, 1]], dtype=np.int8)
    logits = torch.tensor([[0.0, 1], [-1, 1]], dtype=torch.float64)
    observed, index = torch.tensor(codes), torch.arange(2)
    assert not build(codes, tau=0.5).from_logits(logits, observed, index).modified.any()  # p = 0.5
    assert build(codes, tau=0.49).from_logits(logits, observed, index).modified.tolist() == [[True, False], [False] * 2]
    same = torch.full((2, 2), 5.0, dtype=torch.float64)
    assert not build(codes).from_logits(same, observed, index).modified.any()


def test_weights_of_zero_leave_a_loss_out():
    logits, codes, index = torch.randn(5, CLASSES), torch.tensor(CODES[INDEX]), torch.tensor(INDEX)
    alone = build(corrector_weight=0).from_logits(logits, codes, index)
    both = build().from_logits(logits, codes, index)
    other = build(prior_weight=0).from_logits(logits, codes, index)
    assert (float(alone.parts["corrector"]), float(alone.parts["modified"])) == (0, 0)
    torch.testing.assert_close(alone.total + other.total, both.total)


def test_without_a_present_label_the_loss_is_finite():
    codes = np.where(CODES == 1, -1, CODES).astype(np.int8)
    codes[0, 0] = 1
    out = build(codes).from_logits(torch.full((2, CLASSES), -9.0), torch.tensor(codes[1:3]), torch.tensor([1, 2]))
    assert out.total.isfinite()


def test_rows_may_come_in_any_order():
    logits, order = torch.randn(5, CLASSES).double(), [3, 0, 4, 2, 1]
    index = torch.tensor(INDEX)
    found = build().from_logits(logits, torch.tensor(CODES[INDEX]), index)
    other = build().from_logits(logits[order], torch.tensor(CODES[INDEX])[order], index[order])
    torch.testing.assert_close(found.total, other.total)
    assert torch.equal(found.modified[order], other.modified)


def parts():
    torch.manual_seed(0)
    model = FakeModel(CLASSES)
    return build(tau=0.3), model, torch.optim.Adam(model.parameters(), lr=0.02)


@pytest.mark.parametrize("cut", [1, 4])
def test_a_run_that_is_cut_off_ends_the_same(cut):
    train = trainer([[4, 2, 0, 3], [6, 1, 5], [8, 7]], lambda index: batch_of(CODES, index))
    criterion, *_ = check_resume(parts, train, cut)
    assert criterion.added.sum() > 0
    assert set(criterion.state_dict()) == {"added", "_extra_state"}


def share_a_batch(rank):
    """Loss and gradient as the engine combines them: each rank's by its share of the global batch."""
    index = INDEX if rank is None else INDEX[rank::2]
    model, share, criterion = FakeModel(CLASSES), len(index) / len(INDEX), build(tau=0.3)
    out = criterion(model, batch_of(CODES, index)._replace(global_index=torch.tensor(INDEX)))
    (share * out.total).backward()
    found = [collectives.all_sum(share * out.total.detach()), collectives.all_sum(model.head.weight.grad)]
    return [*found, criterion.added, *(collectives.all_sum(share * value) for value in out.parts.values())]


@pytest.mark.slow
def test_two_ranks_learn_what_one_learns():
    alone = share_a_batch(None)
    assert alone[2].sum() > 0
    for found in run_ranks(share_a_batch):
        for value, expected in zip(found, alone, strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-6)


def test_nothing_in_a_step_waits_for_a_gpu():
    criterion, model, _ = parts()
    batch = batch_of(CODES, INDEX)
    with Recorder() as seen:
        criterion(model, batch).total.backward()
    assert not seen.names & WAITING


def test_labels_of_which_none_may_be_corrected_are_refused():
    known = np.maximum(CODES, ABSENT)
    with pytest.raises(UserError, match=r"^comic: no label is unknown, so none would be corrected; take --labels d"):
        build(known)
    for settings in ({"population": "all"}, {"corrector_weight": 0}):
        build(known, **settings)
    assert build_criterion("comic", observed=CODES).corrects_from_present
