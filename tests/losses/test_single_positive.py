import numpy as np
import pytest
import torch

from losses import EPR, IU, PR, EPRConfig, IUConfig, PRConfig
from losses.single_positive import count_penalty, known_losses, positive_losses, ranking_losses
from tests.losses import published
from tests.losses.fake_model import FakeModel, batch_of, info_for, random_labels
from tests.oracles import single_positive as oracle
from tests.ranks import run_ranks
from utils import collectives
from utils.checks import UserError
from utils.types import ABSENT, UNKNOWN

CODES = random_labels(8, 6, seed=2)
SINGLE = np.where(np.arange(6) == np.array([1, 0, 5, 2, 2, 4, 3, 0])[:, None], 1, -1).astype(np.int8)
INDEX = [4, 0, 3, 7, 6]


def published_iu(case, name):
    """Labels of the case: observed ones, or for `iun` the observed positives and all or none of the true negatives."""
    observed, true = case["observed"], case["true"]
    if name == "iu":
        return observed
    known_absent = (true == 0) if name == "iun_true_pm1" else torch.zeros_like(true, dtype=torch.bool)
    return torch.where(observed == 1, observed, torch.where(known_absent, ABSENT, UNKNOWN).float())


@pytest.mark.parametrize("loss, case", published.each_case("iu", "iun_true_pm1", "iun_asrun"))
def test_golden_losses_of_known_labels(loss, case):
    logits = published.leaf(case["logits"])
    matrix = known_losses(logits, published_iu(case, loss), "reference")
    published.agree(case, matrix, torch.zeros(()), logits)


@pytest.mark.parametrize("loss, case", published.each_case("epr"))
def test_golden_expected_positive_regularisation(loss, case):
    logits = published.leaf(case["logits"])
    penalty = count_penalty(torch.sigmoid(logits), float(case["expected_num_pos"]))
    published.agree(case, positive_losses(logits, case["observed"], "reference"), penalty, logits)


@pytest.mark.parametrize("loss, case", published.each_case("pr"))
def test_golden_pairwise_ranking(loss, case):
    logits = published.leaf(case["logits"])
    published.agree(case, ranking_losses(logits, case["observed"]), torch.zeros(()), logits)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("spread", [1, 60])
def test_losses_match_loops(seed, spread):
    rng = np.random.default_rng(seed)
    logits, codes = rng.normal(0, spread, (4, 7)), random_labels(4, 7, seed)
    ours, observed = torch.tensor(logits), torch.tensor(codes)
    for guard, variant in ((0.0, "fixed"), (1e-5, "reference")):
        found = float(known_losses(ours, observed, variant).mean())
        assert found == pytest.approx(oracle.known(logits, codes, guard), rel=1e-9)
        found = float(positive_losses(ours, observed, variant).mean())
        assert found == pytest.approx(oracle.positive(logits, codes, guard), rel=1e-9)
    assert float(ranking_losses(ours, observed).mean()) == pytest.approx(oracle.ranking(logits, codes), rel=1e-12)
    assert float(count_penalty(torch.sigmoid(ours), 2.5)) == pytest.approx(oracle.penalty(logits, 2.5), rel=1e-12)


def test_losses_pass_gradcheck():
    logits, codes = torch.randn(8, 6, dtype=torch.float64, requires_grad=True), torch.tensor(CODES)
    for loss in (known_losses, positive_losses, ranking_losses):
        assert torch.autograd.gradcheck(lambda x, loss=loss: loss(x, codes), (logits,))


def test_the_penalty_draws_towards_the_expected_number_and_is_0_there():
    for expected, sign in ((1.0, 1), (5.0, -1)):
        p = torch.full((4, 6), 0.5, requires_grad=True)  # 3 labels an image
        count_penalty(p, expected).backward()
        assert (p.grad.sign() == sign).all()
    exact = torch.full((4, 6), 0.5, requires_grad=True)
    penalty = count_penalty(exact, 3.0)
    penalty.backward()
    assert float(penalty.detach()) == 0
    assert not exact.grad.any()


def test_unknown_labels_have_no_loss_and_no_gradient_of_known_ones():
    logits = torch.randn(8, 6, requires_grad=True)
    codes = torch.tensor(CODES)
    known_losses(logits, codes).sum().backward()
    assert torch.equal(logits.grad != 0, codes != UNKNOWN)


def test_a_batch_without_any_known_label_has_loss_0_and_keeps_its_graph():
    codes = CODES.copy()
    codes[:3] = UNKNOWN
    criteria = [(IU(IUConfig(variant=name), info_for(codes)), codes) for name in ("fixed", "reference")]
    criteria.append((PR(PRConfig(), info_for(codes)), codes))
    for criterion, labels in criteria:
        model = FakeModel(6)
        out = criterion(model, batch_of(labels, [0, 1, 2]))
        out.total.backward()
        assert float(out.total.detach()) == 0
        assert not model.head.weight.grad.any()


def test_each_method_is_its_formula():
    for guard, variant in ((0.0, "fixed"), (1e-5, "reference")):
        found, out, logits = step(IU(IUConfig(variant=variant), info_for(CODES)), CODES)
        assert found == pytest.approx(oracle.known(logits, CODES[INDEX], guard), rel=1e-5)
        assert float(out.parts["positive"] + out.parts["negative"]) == pytest.approx(found, rel=1e-5)
        found, out, logits = step(epr(variant), SINGLE)
        expected = oracle.positive(logits, SINGLE[INDEX], guard), oracle.penalty(logits, 1.4)
        assert found == pytest.approx(sum(expected), rel=1e-5)
        assert [float(out.parts[name]) for name in ("positive", "penalty")] == pytest.approx(expected, rel=1e-5)
        assert float(out.parts["predicted"]) == pytest.approx((1 / (1 + np.exp(-logits))).sum(axis=1).mean(), rel=1e-5)
    found, out, logits = step(PR(PRConfig(), info_for(CODES)), CODES)
    assert found == pytest.approx(oracle.ranking(logits, CODES[INDEX]), rel=1e-5)
    assert float(out.parts["ranking"]) == found


def epr(variant="fixed"):
    return EPR(EPRConfig(variant=variant, expected_num_pos=1.4), info_for(SINGLE))


def step(criterion, codes, index=INDEX):
    model = FakeModel(6)
    out = criterion(model, batch_of(codes, index))
    assert out.total.requires_grad
    assert not any(part.requires_grad for part in [out.logits, *out.parts.values()])
    assert model.calls == [frozenset()]
    return float(out.total.detach()), out, out.logits.double().numpy()


def share_a_batch(rank):
    """Loss and gradient of EPR as the engine combines them: each rank's weighted by its share of the global batch."""
    index = INDEX if rank is None else (INDEX[:2] if rank == 0 else INDEX[2:])
    model, share = FakeModel(6), len(index) / len(INDEX)
    out = epr()(model, batch_of(SINGLE, index))
    (share * out.total).backward()
    total = collectives.all_sum(share * out.total)
    return total, out.parts["penalty"], collectives.all_sum(model.head.weight.grad)


def test_two_ranks_have_the_loss_and_gradient_of_one_process_on_the_whole_batch():
    alone = share_a_batch(None)
    for found in run_ranks(share_a_batch):
        for value, expected in zip(found, alone, strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-7)


def test_what_a_method_cannot_use_is_refused_in_one_line():
    with pytest.raises(UserError, match=r"--expected_num_pos is missing: .*pascal"):
        EPRConfig()
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UserError, match=r"--expected_num_pos .*above 0"):
            EPRConfig(expected_num_pos=wrong)
    with pytest.raises(UserError, match=r"--expected_num_pos 6.5: there are only 6 classes"):
        EPR(EPRConfig(expected_num_pos=6.5), info_for(SINGLE))
    assert EPR(EPRConfig(expected_num_pos=6), info_for(SINGLE)).expected == 6
    absent = int((CODES[:5] == 0).sum())
    assert absent != (CODES[:5] == -1).sum()
    with pytest.raises(UserError, match=rf"epr: {absent} labels are known to be absent"):
        EPR(EPRConfig(expected_num_pos=1.5), info_for(CODES[:5]))
    with pytest.raises(UserError, match=r"iu: no label is known to be absent.*--num_neg"):
        IU(IUConfig(), info_for(SINGLE))
    with pytest.raises(UserError, match="iu: no label is known to be present"):
        IU(IUConfig(), info_for(np.zeros((3, 2), dtype=np.int8)))
