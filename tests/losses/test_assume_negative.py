import numpy as np
import pytest
import torch

from losses import AN, BCE, CRITERIA, LSAN, WAN, ANConfig, BCEConfig, LabelSmoothingConfig, SmoothedBCE
from losses.assume_negative import assume_negative_losses, label_costs
from losses.common.functional import present, weighted_bce
from tests import golden_files
from tests.losses import published
from tests.losses.fake_model import FakeModel, batch_of, info_for, random_labels
from tests.oracles import cones as oracle
from tests.oracles import single_positive
from utils.checks import UserError

CODES = random_labels(6, 5)
FULL = np.where(CODES == 1, 1, 0).astype(np.int8)
INDEX = [4, 0, 3]


def test_unknown_counts_as_absent_and_the_model_is_called_once_for_logits_only():
    model, batch = FakeModel(5), batch_of(CODES, INDEX)
    out = BCE(BCEConfig(), info_for(CODES))(model, batch)
    logits = model(batch.images).logits.detach().double().numpy()
    expected = np.mean([oracle.bce(logits[at], CODES[INDEX][at] == 1) for at in np.ndindex(3, 5)])
    assert float(out.total.detach()) == pytest.approx(expected, rel=1e-6)
    assert model.calls[0] == frozenset()
    assert len(model.calls) == 2
    assert set(out.parts) == {"bce"}
    assert out.total.requires_grad
    assert not out.logits.requires_grad
    assert not out.parts["bce"].requires_grad


@pytest.mark.parametrize("name", ["bce", "bce_ls", "an", "an_ls", "wan"])
def test_half_precision_saturated_logits_stay_finite(name):
    codes = np.array([[1, 0]], dtype=np.int8)
    batch = batch_of(codes, [0])
    model = FakeModel(2)
    with torch.no_grad():
        model.head.bias.copy_(torch.tensor([-5e4, 5e4]))
    criterion = CRITERIA[name].criterion(CRITERIA[name].config(), info_for(codes))
    out = criterion(model.half(), batch._replace(images=batch.images.half()))
    out.total.backward()
    assert torch.isfinite(out.total)
    assert torch.isfinite(model.head.weight.grad).all()


@pytest.mark.parametrize("loss, case", published.each_case("bce", "bce_ls", "an", "an_ls", "wan"))
def test_golden_losses_of_the_published_code(loss, case):
    logits = published.leaf(case["logits"])
    matrix = assume_negative_losses(
        logits,
        case["observed"],
        smoothing=float(case["ls_coef"]) if loss.endswith("_ls") else 0.0,
        absent_weight=1 / (logits.shape[1] - 1) if loss == "wan" else 1.0,
        variant="reference",
    )
    published.agree(case, matrix, torch.zeros(()), logits)


def test_golden_costs_of_saturated_logits():
    golden = golden_files.load(published.NAME)
    logits = torch.from_numpy(golden["neglog_x"]).requires_grad_()
    costs = label_costs(logits, "reference")
    costs.present.sum().backward()
    np.testing.assert_allclose(costs.present.detach(), golden["neglog_value"], rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(logits.grad, golden["neglog_grad"], rtol=1e-4, atol=1e-7)
    mirrored = label_costs(-logits.detach(), "reference").absent
    np.testing.assert_allclose(mirrored, golden["neglog_value"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("guard, variant", [(0.0, "fixed"), (1e-5, "reference")])
@pytest.mark.parametrize("smoothing, weight", [(0.0, 1.0), (0.1, 1.0), (0.0, 0.25), (0.3, 0.5)])
def test_losses_match_loops(smoothing, weight, guard, variant):
    logits = np.random.default_rng(5).normal(0, 5, CODES.shape)
    expected = single_positive.assume_negative(logits, CODES, smoothing, weight, guard)
    ours = assume_negative_losses(
        torch.tensor(logits), torch.tensor(CODES), smoothing=smoothing, absent_weight=weight, variant=variant
    )
    assert float(ours.mean()) == pytest.approx(expected, rel=1e-11)


def test_exact_costs_are_finite_and_have_a_gradient_where_the_published_ones_have_none():
    logits = torch.tensor([-300.0, -40.0, 0.0, 40.0, 300.0], requires_grad=True)
    costs = label_costs(logits)
    torch.testing.assert_close(costs.present, torch.tensor([300, 40, np.log(2), np.exp(-40), 0]).float())
    costs.present.sum().backward()
    assert logits.grad[:3].tolist() == pytest.approx([-1.0, -1.0, -0.5])
    saturated = torch.tensor([-300.0], requires_grad=True)
    label_costs(saturated, "reference").present.sum().backward()
    assert float(saturated.grad) == 0.0


def test_losses_pass_gradcheck():
    logits = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    for variant in ("fixed", "reference"):
        assert torch.autograd.gradcheck(
            lambda x, variant=variant: assume_negative_losses(
                x, torch.tensor(CODES), smoothing=0.2, absent_weight=0.3, variant=variant
            ),
            (logits,),
        )


def total(criterion, codes=CODES):
    model = FakeModel(5)
    out = criterion(model, batch_of(codes, INDEX))
    return float(out.total.detach()), out, model(batch_of(codes, INDEX).images).logits.detach().double().numpy()


@pytest.mark.parametrize("variant", ["fixed", "reference"])
def test_each_method_is_its_formula(variant):
    guard = 1e-5 if variant == "reference" else 0.0
    info = info_for(CODES)
    methods = [
        (AN(ANConfig(variant=variant), info), 0.0, 1.0),
        (WAN(ANConfig(variant=variant), info), 0.0, 1 / 4),
        (LSAN(LabelSmoothingConfig(variant=variant, ls_coef=0.2), info), 0.2, 1.0),
    ]
    for criterion, smoothing, weight in methods:
        value, out, logits = total(criterion)
        expected = single_positive.assume_negative(logits, CODES[INDEX], smoothing, weight, guard)
        assert value == pytest.approx(expected, rel=1e-5)
        assert set(out.parts) == {"positive", "negative"}
        assert float(sum(out.parts.values())) == pytest.approx(value, rel=1e-5)
    smoothed = SmoothedBCE(LabelSmoothingConfig(variant=variant), info_for(FULL))
    value, _, logits = total(smoothed, FULL)
    assert value == pytest.approx(single_positive.assume_negative(logits, FULL[INDEX], 0.1, 1.0, guard), rel=1e-5)


def test_assume_negative_is_the_baseline_and_no_smoothing_is_none():
    an, baseline = total(AN(ANConfig(), info_for(CODES)))[0], total(BCE(BCEConfig(), info_for(CODES)))[0]
    assert an == pytest.approx(baseline, rel=1e-6)
    assert total(LSAN(LabelSmoothingConfig(ls_coef=0.0), info_for(CODES)))[0] == an


def test_exact_losses_are_those_of_torch():
    logits, codes = torch.randn(6, 5, dtype=torch.float64) * 30, torch.tensor(CODES)
    ours = assume_negative_losses(logits, codes).mean()
    torch.testing.assert_close(ours, weighted_bce(logits, present(codes, logits.dtype)), rtol=1e-12, atol=0)


def test_an_order_of_classes_does_not_matter():
    order = torch.randperm(5)
    logits, codes = torch.randn(6, 5).double(), torch.tensor(CODES)
    ours = assume_negative_losses(logits, codes, smoothing=0.1)
    assert torch.equal(ours[:, order], assume_negative_losses(logits[:, order], codes[:, order], smoothing=0.1))


def test_what_a_method_cannot_use_is_refused_in_one_line():
    unknown = int((CODES == -1).sum())
    assert unknown != (CODES == 0).sum()
    with pytest.raises(UserError, match=rf"bce_ls: {unknown} labels are unknown.*--loss an_ls"):
        SmoothedBCE(LabelSmoothingConfig(), info_for(CODES))
    with pytest.raises(UserError, match=r"wan: .*two classes"):
        WAN(ANConfig(), info_for(np.ones((3, 1), dtype=np.int8)))
    for wrong in (-0.1, 0.5, float("nan")):
        with pytest.raises(UserError, match="--ls_coef"):
            LabelSmoothingConfig(ls_coef=wrong)
    for config in (ANConfig, LabelSmoothingConfig):
        with pytest.raises(UserError, match="--variant published"):
            config(variant="published")
