"""PU-MLC against golden values, slow loops, its limits and several processes."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from losses import PUMLC, PUMLCConfig, build_criterion
from losses.pu_mlc import Mixtures, draw_mixtures, log_probabilities, logit_scales, mixture_loss, vpu_loss
from tests import golden_files
from tests.losses.fake_model import FakeModel, batch_of, info_for, random_labels
from tests.oracles import pu_mlc as oracle
from tests.ranks import run_ranks
from utils.checks import UserError
from utils.types import PRESENT, UNKNOWN, Batch, ModelOutput

ROWS, CLASSES = 11, 5
CODES = random_labels(ROWS, CLASSES, seed=6, rate=0.3)
LOGITS = torch.from_numpy(np.random.default_rng(5).normal(0, [0.2, 0.5, 1, 2, 4], (ROWS, CLASSES)))


def golden(kind):
    cases = golden_files.each_case("pu_mlc.npz")
    return [each for each in cases if each.values[0] is None or each.values[0]["kind"] == kind]


class Answers(nn.Module):
    """A model whose logits are the pixels, and which keeps what it was asked."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, images, want=frozenset()):
        self.seen.append(images.detach())
        return ModelOutput(images.flatten(1))


def given(logits, codes, index=None, everyone=None):
    """A batch whose images are its logits, with gradient."""
    index = torch.arange(len(codes)) if index is None else torch.tensor(index)
    images = logits.detach().clone()[:, :, None, None].requires_grad_()
    return Batch(images, torch.tensor(codes).double(), index, global_index=everyone)


def build(codes=CODES, **settings):
    return PUMLC(PUMLCConfig(**settings), info_for(codes))


@pytest.mark.parametrize("case, arrays", golden("vpu"))
def test_golden_losses_and_gradients(case, arrays):
    positive = torch.from_numpy(arrays["targets"] == 1)
    for variant, name, rtol in (("fixed", "right_", 1e-9), ("reference", "", 1e-5)):
        if variant == "reference" and not case["ref_finite"]:
            continue
        logits = torch.from_numpy(arrays["logits"])
        logits = (logits.double() if variant == "fixed" else logits).requires_grad_()
        scales = logit_scales(logits, case["alpha"], 1e-6)
        assert not scales.requires_grad
        np.testing.assert_allclose(scales, arrays["scale"], rtol=1e-6)
        exact = torch.from_numpy(arrays["scale"]).to(logits.dtype)
        loss = vpu_loss(logits, positive, scales if case["dtype"] == "float64" else exact, case["gamma"], variant)
        loss.backward()
        rtol = 1e-6 if case["dtype"] == "float32" and variant == "fixed" else rtol
        np.testing.assert_allclose(float(loss.detach()), arrays[f"{name}loss"], rtol=rtol)
        np.testing.assert_allclose(logits.grad, arrays[f"{name}grad"], rtol=rtol, atol=1e-6)


@pytest.mark.parametrize("variant", ["fixed", "reference"])
@pytest.mark.parametrize("case, arrays", golden("mixup"))
def test_golden_mixtures(case, arrays, variant):
    images, positive = torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["targets"] == 1)
    weight, bias = (torch.from_numpy(arrays[name]).requires_grad_() for name in ("weight", "bias"))
    half = len(images) // 2
    seconds = torch.arange(len(images) - half, len(images))
    mixtures = Mixtures(torch.from_numpy(arrays["perm"]), seconds, torch.tensor(float(arrays["lam"])).double())
    halves = images[mixtures.first], images[mixtures.second]
    logits, mixed = (each.flatten(1) @ weight + bias for each in (images, mixtures.of(*halves)))
    loss = mixture_loss(mixed, log_probabilities(logits, variant).masked_fill(positive, 0), mixtures, variant)
    loss.backward()
    np.testing.assert_allclose(float(loss.detach()), arrays["loss"], rtol=1e-6)
    np.testing.assert_allclose(weight.grad, arrays["grad_weight"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(bias.grad, arrays["grad_bias"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("factor", "power", "floor"), [(1.0, 0.55, 1e-6), (2.0, 0.85, 0.1), (0.5, 0.0, 1.0)])
def test_a_step_without_mixtures_is_its_formula_in_loops(factor, power, floor):
    settings = {"vpu_scale": factor, "vpu_power": power, "scale_floor": floor, "mixup_weight": 0.0}
    model, batch = Answers(), given(LOGITS, CODES)
    out = build(**settings)(model, batch)
    out.total.backward()
    divisors = oracle.scales(LOGITS.numpy(), factor, floor)
    loss, gradient = oracle.vpu(LOGITS.numpy(), CODES == PRESENT, divisors, power)
    assert float(out.total.detach()) == pytest.approx(loss, rel=1e-9)
    np.testing.assert_allclose(batch.images.grad.flatten(1), gradient, rtol=1e-9, atol=1e-12)
    assert [float(out.parts[name]) for name in ("vpu", "mixup")] == pytest.approx([loss, 0])
    assert torch.equal(out.logits, LOGITS)
    assert not any(part.requires_grad for part in [out.logits, *out.parts.values()])
    assert out.modified is None
    assert len(model.seen) == 1


def test_known_absent_and_unknown_labels_are_alike():
    totals = [
        build(mixup_weight=0.0)(Answers(), given(LOGITS, codes)).total
        for codes in (CODES, np.where(CODES == PRESENT, PRESENT, UNKNOWN), np.maximum(CODES, 0))
    ]
    assert totals[0] == totals[1] == totals[2]


@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_a_step_with_mixtures(weight):
    model, batch = Answers(), given(LOGITS, CODES)
    torch.manual_seed(3)
    mixtures = draw_mixtures(ROWS, 0.3, torch.device("cpu"))
    torch.manual_seed(3)
    out = build(mixup_weight=weight)(model, batch)
    vpu = oracle.vpu(LOGITS.numpy(), CODES == PRESENT, oracle.scales(LOGITS.numpy(), 1, 1e-6), 0.55)[0]
    portion, first, second = float(mixtures.portion), mixtures.first.numpy(), mixtures.second.numpy()
    mixed = portion * LOGITS.numpy()[first] + (1 - portion) * LOGITS.numpy()[second]
    expected = oracle.mixture(mixed, LOGITS.numpy(), CODES == PRESENT, first, second, portion)
    assert float(out.parts["mixup"]) == pytest.approx(expected, rel=1e-9)
    assert float(out.total.detach()) == pytest.approx(vpu + weight * expected, rel=1e-9)
    torch.testing.assert_close(model.seen[0].flatten(1), torch.from_numpy(mixed))  # before the batch itself
    assert torch.equal(model.seen[1].flatten(1), LOGITS)


def test_mixtures_are_of_both_halves_without_the_middle():
    torch.manual_seed(0)
    for images in (2, 7, 8):
        found = draw_mixtures(images, 0.3, torch.device("cpu"))
        assert sorted(found.first.tolist()) == list(range(images // 2))
        assert found.second.tolist() == list(range((images + 1) // 2, images))
        assert 0 <= float(found.portion) <= 1
        assert found.portion.dtype == torch.float64
    portions = [float(draw_mixtures(2, 0.3, torch.device("cpu")).portion) for _ in range(200)]
    assert 0.4 < np.mean(portions) < 0.6
    assert np.mean([0.1 < portion < 0.9 for portion in portions]) < 0.6  # of Beta(0.3, 0.3) the ends are likely
    torch.manual_seed(1)
    assert len({tuple(draw_mixtures(9, 0.3, torch.device("cpu")).first.tolist()) for _ in range(5)}) > 1


@pytest.mark.parametrize("portion", [0.0, 0.25, 1.0])
def test_the_loss_of_mixtures_passes_gradcheck_and_takes_whole_images(portion):
    mixtures = Mixtures(torch.tensor([1, 0]), torch.tensor([2, 3]), torch.tensor(portion, dtype=torch.float64))
    mixed, logits = torch.randn(2, 3, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)

    def loss(x, z):
        return mixture_loss(x, log_probabilities(z, "fixed"), mixtures)

    assert torch.autograd.gradcheck(loss, (mixed.requires_grad_(), logits.requires_grad_()))
    if portion == 1.0:
        whole = loss(logits[[1, 0]], logits)
        torch.testing.assert_close(whole, torch.zeros_like(whole))


def test_an_image_alone_is_not_mixed():
    model = Answers()
    out = build()(model, given(LOGITS[:1], CODES[:1]))
    assert len(model.seen) == 1
    assert out.total.isfinite()
    assert float(out.parts["mixup"]) == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_saturated_logits_have_finite_losses_and_gradients(dtype):
    logits = (200 * torch.randn(ROWS, CLASSES, generator=torch.Generator().manual_seed(0)).sign()).to(dtype)
    logits[:, 0] = 200  # no deviation at all
    batch = given(logits, CODES)
    torch.manual_seed(0)
    out = build()(Answers(), batch)
    out.total.backward()
    assert out.total.isfinite()
    assert batch.images.grad.isfinite().all()


def test_the_floor_spares_logits_that_do_not_differ_yet():
    logits = 0.01 * LOGITS
    assert float(logit_scales(logits, 1.0, 0.1).max()) == 0.1
    torch.testing.assert_close(logit_scales(logits, 1.0, 1e-6), logits.std(dim=0, correction=0))
    assert float(logit_scales(torch.zeros(3, 2), 1.0, 1e-6).max()) == pytest.approx(1e-6)


def test_training_lowers_the_loss():
    criterion, model = build(scale_floor=0.1, mixup_weight=0.0), FakeModel(CLASSES)
    optimizer, totals, batch = torch.optim.Adam(model.parameters(), lr=1e-2), [], batch_of(CODES, list(range(ROWS)))
    for _ in range(12):
        optimizer.zero_grad()
        out = criterion(model, batch)
        out.total.backward()
        optimizer.step()
        totals.append(float(out.total.detach()))
    assert totals[-1] < totals[0]


BATCHES = [[4, 2, 0, 3, 6], [1, 7, 8, 9], [5]]  # the last goes to both


def share_batches(rank):
    """For each batch: index, total and gradient of a process; rank None has whole batches."""
    results = []
    for told in (True, False):
        for whole in BATCHES:
            index = whole if rank is None else whole[rank::2] or whole[:1]
            batch = given(LOGITS[index], CODES[index], index, torch.tensor(whole) if told else None)
            out = build(mixup_weight=0.0)(Answers(), batch)
            out.total.backward()
            results.append((index, out.total.detach(), batch.images.grad.flatten(1)))
    return results


def test_two_ranks_do_what_one_process_does_on_the_whole_batch():
    alone, ranks = share_batches(None), run_ranks(share_batches)
    for (rows, total, expected), *parts in zip(alone, *ranks, strict=True):
        shares = [len(part[0]) / sum(len(each[0]) for each in parts) for part in parts]
        found = torch.zeros_like(expected)
        for share, (index, own, gradient) in zip(shares, parts, strict=True):
            torch.testing.assert_close(own, total)
            for at, row in enumerate(index):
                found[rows.index(row)] += share * gradient[at]
        torch.testing.assert_close(found, expected)


def test_labels_without_a_present_one_are_refused():
    with pytest.raises(UserError, match="pu_mlc: no label is known to be present, and it learns from these alone"):
        build_criterion("pu_mlc", observed=np.minimum(CODES, 0))
    assert build_criterion("pu_mlc", observed=CODES).state_dict() == {}
    assert (PUMLC.corrects_from_present, PUMLC.single_pass, PUMLC.needs) == (True, False, frozenset())


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"vpu_scale": 0.0}, "--vpu_scale 0.0: must be above 0; the published value is 1"),
        ({"mixup_beta": math.inf}, "--mixup_beta inf: must be above 0; the published value is 0.3"),
        ({"vpu_power": -0.1}, "--vpu_power -0.1: must be 0 or more"),
        ({"mixup_weight": -1.0}, "--mixup_weight -1.0: must be 0 or more"),
        ({"scale_floor": 0.0}, "--scale_floor 0.0: must be above 0 and at most 1"),
        ({"scale_floor": 1.1}, "--scale_floor 1.1: must be above 0 and at most 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, line):
    with pytest.raises(UserError, match=line):
        PUMLCConfig(**settings)
