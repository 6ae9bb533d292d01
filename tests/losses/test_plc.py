"""PLC against golden values, slow loops, its limits and several processes."""

import numpy as np
import pytest
import torch
from torch import nn

from losses import AN, PLC, ANConfig, PLCConfig, build_criterion
from losses.plc import sure_labels, view_losses
from tests import golden_files
from tests.losses.fake_model import FakeModel, batch_of, info_for, random_labels
from tests.oracles import plc as oracle
from utils.checks import UserError
from utils.types import ABSENT, PRESENT, UNKNOWN, Batch, ModelOutput

ROWS, CLASSES = 9, 5
CODES = random_labels(ROWS, CLASSES, seed=2, rate=0.2)
INDEX = [4, 2, 0, 3, 6]


def golden(kind):
    cases = golden_files.each_case("plc_lac.npz")
    return [each for each in cases if each.values[0] is None or each.values[0]["kind"] == kind]


class Answers(nn.Module):
    """A model that gives prepared logits of both views and keeps what it was asked."""

    def __init__(self, weak, strong):
        super().__init__()
        self.logits, self.seen = torch.cat([weak, strong]), []

    def forward(self, images, want=frozenset()):
        self.seen.append((images, want))
        return ModelOutput(self.logits * 1)


def given(codes):
    """A batch of labels with views of one pixel that tell each other apart."""
    view = torch.zeros(len(codes), 3, 1, 1)
    return Batch(view, torch.tensor(codes).double(), torch.arange(len(codes)), view + 1)


def views(seed, rows=5, spread=2.0):
    rng = np.random.default_rng(seed)
    return [torch.tensor(rng.normal(0, spread, (rows, CLASSES)), requires_grad=True) for _ in range(2)]


def build(codes=CODES, **settings):
    return PLC(PLCConfig(**settings), info_for(codes))


@pytest.mark.parametrize("case, arrays", golden("plc"))
def test_golden_labels_losses_and_gradients(case, arrays):
    weak, strong = (torch.from_numpy(arrays[name]).requires_grad_() for name in ("weak", "strong"))
    codes = np.where(arrays["obs"] == 1, PRESENT, UNKNOWN)
    labels = sure_labels(weak, torch.from_numpy(codes), case["threshold"])
    np.testing.assert_array_equal(labels, np.where(arrays["kept"] != 0, arrays["hard"], UNKNOWN))
    an, plc = view_losses(weak, strong, labels, given(codes))
    (an + plc).backward()
    np.testing.assert_allclose(float(an.detach()), arrays["loss_an"], rtol=1e-9)
    assert case["finite"] == bool((labels != UNKNOWN).any())
    if not case["finite"]:  # of nothing kept the mean is 0
        assert float(plc.detach()) == 0
        assert not strong.grad.any()
        return
    np.testing.assert_allclose(float(plc.detach()), arrays["loss_plc"], rtol=1e-9)
    np.testing.assert_allclose(weak.grad, arrays["grad_weak"], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(strong.grad, arrays["grad_strong"], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("tau", "weight"), [(0.5, 1.0), (0.6, 0.5), (0.9, 2.0)])
def test_a_step_is_its_formula_in_loops_with_its_gradients(tau, weight):
    (weak, strong), codes = views(1), CODES[INDEX]
    model = Answers(weak, strong)
    out = build(pseudo_threshold=tau, plc_weight=weight)(model, given(codes))
    an, plc, by_weak, by_strong = oracle.terms(weak.detach().numpy(), strong.detach().numpy(), codes, tau)
    out.total.backward()
    assert float(out.total.detach()) == pytest.approx(an + weight * plc, rel=1e-9)
    np.testing.assert_allclose(weak.grad, by_weak, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(strong.grad, weight * by_strong, rtol=1e-9, atol=1e-12)
    assert [float(out.parts[name]) for name in ("an", "plc")] == pytest.approx([an, plc], rel=1e-9)
    learned, unknown = oracle.labels(weak.detach().numpy(), codes, tau), codes == UNKNOWN
    np.testing.assert_array_equal(out.modified, unknown & (learned == 1))
    for name, code in (("pseudo_present", 1), ("pseudo_absent", 0)):
        assert float(out.parts[name]) == pytest.approx((unknown & (learned == code)).sum() / len(codes))
    assert torch.equal(out.logits, weak.detach())
    assert not any(part.requires_grad for part in [out.logits, *out.parts.values()])
    ((images, want),) = model.seen
    assert torch.equal(images, torch.cat([torch.zeros(5, 3, 1, 1), torch.ones(5, 3, 1, 1)]))
    assert want == frozenset()


def test_labels_at_both_ends_of_the_threshold():
    logits = torch.tensor([[0.0, 1.0, -1.0, -2.0]], dtype=torch.float64)
    unknown, p = torch.full((1, 4), UNKNOWN), torch.sigmoid(logits)[0].tolist()
    assert sure_labels(logits, unknown, 0.5).tolist() == [[1, 1, 0, 0]]
    assert sure_labels(logits, unknown, p[1]).tolist()[0][:2] == [-1, 1]
    assert sure_labels(logits, unknown, np.nextafter(p[1], 1)).tolist()[0][:2] == [-1, -1]
    quarter = torch.logit(torch.tensor([[0.25] * 4], dtype=torch.float64))
    assert torch.sigmoid(quarter)[0, 0] == 0.25
    assert sure_labels(quarter, unknown, 0.75).tolist() == [[-1, -1, -1, -1]]
    assert sure_labels(quarter, unknown, np.nextafter(0.75, 0)).tolist() == [[0, 0, 0, 0]]
    known = torch.tensor([[PRESENT, ABSENT, ABSENT, PRESENT]])
    assert sure_labels(logits, known, 0.9).tolist() == [[1, 0, 0, 1]]
    assert not sure_labels(logits.requires_grad_(), known, 0.9).requires_grad


def test_without_weight_it_is_assume_negative_on_the_weak_view():
    model, batch = FakeModel(CLASSES), batch_of(CODES, INDEX)
    ours = build(plc_weight=0.0)(model, batch._replace(second_view=batch.images.flip(3)))
    torch.testing.assert_close(ours.total, AN(ANConfig(), info_for(CODES))(model, batch).total)


def test_the_loss_does_not_depend_on_the_order_of_the_rows():
    (weak, strong), order = views(3), [2, 4, 1, 0, 3]
    totals = [build()(Answers(weak[rows], strong[rows]), given(CODES[INDEX][rows])).total for rows in (range(5), order)]
    torch.testing.assert_close(*totals)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_saturated_logits_have_finite_losses_and_gradients(dtype):
    signs = torch.randn(2, 5, CLASSES, generator=torch.Generator().manual_seed(0)).sign()
    weak, strong = ((200 * each).to(dtype).requires_grad_() for each in signs)
    out = build()(Answers(weak, strong), given(CODES[INDEX]))
    out.total.backward()
    assert out.total.isfinite()
    assert weak.grad.isfinite().all()
    assert strong.grad.isfinite().all()


def test_it_takes_two_views_and_keeps_nothing():
    criterion = build_criterion("plc", observed=CODES)
    assert (criterion.needs, criterion.corrects_from_present) == ({"second_view"}, True)
    assert criterion.state_dict() == {}


@pytest.mark.parametrize(
    ("codes", "line"),
    [
        (np.where(CODES == PRESENT, ABSENT, CODES), "plc: no label is known to be present"),
        (
            np.abs(CODES),
            "plc: no label is unknown, so there is nothing to learn from another view; take --labels single",
        ),
    ],
)
def test_labels_that_it_cannot_use_are_refused(codes, line):
    with pytest.raises(UserError, match=line):
        build(codes)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"pseudo_threshold": 0.49}, r"--pseudo_threshold 0.49: must be in \[0.5, 1\); the published value is 0.6"),
        ({"pseudo_threshold": 1.0}, r"--pseudo_threshold 1.0: must be in \[0.5, 1\)"),
        ({"plc_weight": -1.0}, "--plc_weight -1.0: must be 0 or more; the published value is 1"),
        ({"plc_weight": float("inf")}, "--plc_weight inf: must be 0 or more"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings, line):
    with pytest.raises(UserError, match=line):
        PLCConfig(**settings)
