import io

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from engine.training.optim import OptimConfig, build_optimizer
from losses import ROLE, ROLEConfig
from losses.role import HALF_WIDTH, SURE, initial_estimates, role_losses
from losses.single_positive import count_penalty
from tests import golden_files
from tests.losses import published
from tests.losses.fake_model import FakeModel, batch_of, info_for, random_labels
from tests.oracles import single_positive as oracle
from tests.ranks import run_ranks
from utils import collectives
from utils.checks import UserError
from utils.types import ABSENT, PRESENT, UNKNOWN, LabelTable

ROWS, CLASSES = 12, 5
CODES = random_labels(ROWS, CLASSES, seed=3)
ORDER = [[4, 0, 7, 9, 2, 11], [1, 3, 8, 5, 10]]


def build(**settings):
    return ROLE(ROLEConfig(**{"expected_num_pos": 1.5} | settings), info_for(CODES))


@pytest.mark.parametrize("loss, case", published.each_case("role"))
def test_golden_loss_of_the_published_code(loss, case):
    logits, estimates = published.leaf(case["logits"]), published.leaf(case["estimates"])
    losses = role_losses(logits, estimates, case["observed"], "reference")
    expected = float(case["expected_num_pos"])
    penalties = [count_penalty(torch.sigmoid(each), expected) for each in (logits, estimates)]
    published.agree(case, losses.positive + losses.agreement, 0.5 * sum(penalties), logits, estimates)


def test_golden_first_estimates():
    golden = golden_files.load(published.NAME)
    assert pytest.approx(golden["role_init_halfwidth"], rel=1e-9) == HALF_WIDTH
    assert pytest.approx(golden["role_init_pos_logit"], rel=1e-9) == SURE
    assert pytest.approx(golden["role_init_neg_logit"], rel=1e-9) == -SURE


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("guard, variant", [(0.0, "fixed"), (1e-5, "reference")])
def test_loss_matches_loops(seed, guard, variant):
    rng = np.random.default_rng(seed)
    logits, estimates, codes = rng.normal(0, 6, (4, 7)), rng.normal(0, 6, (4, 7)), random_labels(4, 7, seed)
    x, y = torch.tensor(logits), torch.tensor(estimates)
    losses = role_losses(x, y, torch.tensor(codes), variant)
    penalties = 0.5 * (count_penalty(torch.sigmoid(x), 2.0) + count_penalty(torch.sigmoid(y), 2.0))
    found = float((losses.positive + losses.agreement).mean() + penalties)
    assert found == pytest.approx(oracle.role(logits, estimates, codes, 2.0, guard), rel=1e-9)


@pytest.mark.parametrize("variant", ["fixed", "reference"])
def test_one_step_is_the_formula_at_the_rows_of_the_batch(variant):
    criterion, model, index = build(variant=variant), FakeModel(CLASSES), ORDER[0]
    out = criterion(model, batch_of(CODES, index))
    estimates = criterion.estimates[index].detach().double().numpy()
    expected = oracle.role(out.logits.double().numpy(), estimates, CODES[index], 1.5, 1e-5 * (variant == "reference"))
    assert float(out.total.detach()) == pytest.approx(expected, rel=1e-5)
    parts = [float(out.parts[name]) for name in ("positive", "agreement", "penalty")]
    assert sum(parts) == pytest.approx(expected, rel=1e-5)
    assert float(out.parts["estimated"]) == pytest.approx((1 / (1 + np.exp(-estimates))).sum(axis=1).mean(), rel=1e-5)
    assert not any(part.requires_grad for part in [out.logits, *out.parts.values()])
    assert model.calls == [frozenset()]
    out.total.backward()
    touched = criterion.estimates.grad.abs().sum(dim=1) > 0
    assert touched.nonzero().flatten().tolist() == sorted(index)
    assert model.head.weight.grad.any()


def test_classifier_and_estimates_change_places():
    x, y, codes = torch.randn(4, 5).double(), torch.randn(4, 5).double(), random_labels(4, 5)
    one, other = role_losses(x, y, torch.tensor(codes)), role_losses(y, x, torch.tensor(codes))
    torch.testing.assert_close(one.positive, other.positive)
    torch.testing.assert_close(one.agreement, other.agreement)


def test_each_side_is_a_constant_to_the_loss_of_the_other():
    x, y = published.leaf(torch.randn(4, 5)), published.leaf(torch.randn(4, 5))
    role_losses(x, y, torch.full((4, 5), UNKNOWN)).agreement.sum().backward()
    # the cross-entropy of sigmoid(x) against a constant q has the gradient sigmoid(x) - q
    difference = torch.sigmoid(x.detach()) - torch.sigmoid(y.detach())
    torch.testing.assert_close(x.grad, 0.5 * difference)
    torch.testing.assert_close(y.grad, -0.5 * difference)


@pytest.mark.parametrize("block", [1, 5, 100])
def test_first_estimates_know_what_is_known_and_doubt_the_rest(block):
    codes = random_labels(40, 30, seed=1)
    estimates = initial_estimates(LabelTable(codes), 7, block=block)
    assert estimates.dtype == torch.float32
    assert torch.equal(estimates, initial_estimates(LabelTable(codes), 7))
    q = torch.sigmoid(estimates).numpy()
    np.testing.assert_allclose(q[codes == PRESENT], 0.995, rtol=1e-5)
    np.testing.assert_allclose(q[codes == ABSENT], 0.005, rtol=1e-4)
    doubted = q[codes == UNKNOWN]
    assert doubted.min() >= 0.4 - 1e-6
    assert doubted.max() <= 0.6 + 1e-6
    assert doubted.std() > 0.05
    assert not torch.equal(estimates, initial_estimates(LabelTable(codes), 8))


def test_estimates_are_one_group_of_the_optimiser_without_weight_decay():
    criterion, model = build(estimator_lr_mult=4.0), FakeModel(CLASSES)
    groups = [{"params": list(model.parameters())}, *criterion.parameter_groups()]
    optimizer = build_optimizer(OptimConfig(optimizer="adam", lr=0.01, w_d=0.1), groups)
    assert optimizer.param_groups[1]["params"] == [criterion.estimates]
    assert optimizer.param_groups[1]["lr"] == pytest.approx(0.04)
    assert optimizer.param_groups[1]["weight_decay"] == 0
    assert optimizer.param_groups[0]["weight_decay"] == 0.1
    assert [id(each) for each in criterion.parameters()] == [id(criterion.estimates)]


def train(criterion, model, optimizer, steps):
    totals = []
    for step in steps:
        optimizer.zero_grad()
        out = criterion(model, batch_of(CODES, ORDER[step % 2]))
        out.total.backward()
        optimizer.step()
        totals.append(float(out.total.detach()))
    return totals


def parts(variant="fixed"):
    criterion, model = build(variant=variant), FakeModel(CLASSES)
    groups = [{"params": list(model.parameters())}, *criterion.parameter_groups()]
    return criterion, model, build_optimizer(OptimConfig(optimizer="adam", lr=0.02, w_d=0), groups)


@pytest.mark.parametrize("variant", ["fixed", "reference"])
def test_training_lowers_the_loss_and_moves_the_estimates(variant):
    learner = parts(variant)
    start = learner[0].estimates.detach().clone()
    totals = train(*learner, range(40))
    assert np.mean(totals[-2:]) < np.mean(totals[:2])
    moved = (learner[0].estimates != start).any(dim=1)
    assert moved.nonzero().flatten().tolist() == sorted(ORDER[0] + ORDER[1])


def test_a_resumed_run_ends_where_an_uninterrupted_one_does():
    whole = parts()
    totals = train(*whole, range(6))
    first = parts()
    before = train(*first, range(3))
    file = io.BytesIO()
    torch.save([part.state_dict() for part in first], file)
    file.seek(0)
    second = parts()
    for part, state in zip(second, torch.load(file, weights_only=True), strict=True):
        part.load_state_dict(state)
    assert before + train(*second, range(3, 6)) == totals
    assert torch.equal(whole[0].estimates, second[0].estimates)


def share_a_batch(rank):
    """Loss and gradients as the engine combines them: each rank's weighted by its share of the global batch."""
    index = ORDER[1] if rank is None else (ORDER[1][:2] if rank == 0 else ORDER[1][2:])
    criterion, model, share = build(), FakeModel(CLASSES), len(index) / len(ORDER[1])
    out = criterion(model, batch_of(CODES, index))
    (share * out.total).backward()
    gradients = [model.head.weight.grad, criterion.estimates.grad]
    return [collectives.all_sum(value) for value in (share * out.total, *gradients)]


def test_two_ranks_have_the_loss_and_gradients_of_one_process_on_the_whole_batch():
    alone = share_a_batch(None)
    for found in run_ranks(share_a_batch):
        for value, expected in zip(found, alone, strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-7)


def test_half_precision_saturated_logits_stay_finite():
    model, batch = FakeModel(CLASSES), batch_of(CODES, ORDER[0])
    with torch.no_grad():
        model.head.bias.copy_(torch.tensor([-5e4, 5e4, 0, 1, 2]))
    out = build()(model.half(), batch._replace(images=batch.images.half()))
    out.total.backward()
    assert torch.isfinite(out.total)
    assert torch.isfinite(model.head.weight.grad).all()


def test_what_it_cannot_use_is_refused_in_one_line():
    with pytest.raises(UserError, match="--expected_num_pos is missing"):
        ROLEConfig()
    for wrong in (0.0, -1.0, float("nan")):
        with pytest.raises(UserError, match="--estimator_lr_mult"):
            ROLEConfig(expected_num_pos=1.5, estimator_lr_mult=wrong)
    sparse = LabelTable(csr_array(CODES), default=UNKNOWN)
    info = info_for(CODES)
    with pytest.raises(UserError, match=r"role: .*12 x 5"):
        ROLE(ROLEConfig(expected_num_pos=1.5), type(info)(**{**vars(info), "observed": sparse}))
