"""Label mask training against plain loops, what is revealed, and that processes share a batch."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from losses import label_mask
from losses.label_mask import LabelMask, LabelMaskConfig, draw_revealed, revealed_labels
from tests.losses.fake_model import FakeModel, batch_of, info_for, random_labels
from tests.ranks import run_ranks
from utils import collectives
from utils.checks import UserError
from utils.types import ABSENT, PRESENT, UNKNOWN

CODES = random_labels(7, 5)
INDEX = [4, 0, 3, 6]


class TellableModel(nn.Module):
    """Logits of images, moved by the labels that are revealed to it, which it remembers."""

    def __init__(self, classes=5):
        super().__init__()
        self.inner = FakeModel(classes)
        self.weight = nn.Parameter(torch.linspace(-1, 1, classes**2).view(classes, classes))
        self.revealed = []

    def forward(self, images, want=frozenset(), known=None):
        self.revealed.append(known)
        out = self.inner(images, want)
        return out._replace(logits=out.logits + known @ self.weight)


def targets_of(codes):
    return torch.from_numpy((codes == PRESENT).astype(np.float32))


def revealed(codes, most, reveals="assumed", seed=0):
    torch.manual_seed(seed)
    drawn = draw_revealed(codes.shape, most, torch.device("cpu"))
    return revealed_labels(torch.from_numpy(codes), targets_of(codes), drawn, reveals)


def test_what_is_revealed_is_true_of_the_labels_as_they_are_assumed():
    known = revealed(CODES, 3)
    shown = known != UNKNOWN
    assert shown.any()
    assert torch.equal(known[shown], targets_of(CODES)[shown])


def test_how_many_are_revealed_is_uniform_and_which_ones_too():
    codes = np.repeat(random_labels(1, 8), 20_000, axis=0)
    shown = revealed(codes, 6) != UNKNOWN
    counts = torch.bincount(shown.sum(dim=1), minlength=9)
    np.testing.assert_allclose(counts[:7] / 20_000, 1 / 7, atol=0.012)
    assert not counts[7:].any()
    np.testing.assert_allclose(shown.float().mean(dim=0), 3 / 8, atol=0.02)


def test_each_image_has_a_draw_of_its_own():
    one = random_labels(1, 5)
    seen = {tuple((revealed(one, 2, seed=seed) != UNKNOWN)[0].tolist()) for seed in range(200)}
    assert len(seen) == 1 + 5 + 10  # none, one or two of five


def test_only_known_labels_are_revealed_where_that_is_wanted():
    for seed in range(20):
        known = revealed(CODES, 4, "observed", seed)
        assert not (known != UNKNOWN)[torch.from_numpy(CODES) == UNKNOWN].any()
        everything = revealed(CODES, 4, "assumed", seed)
        assert torch.equal(known, torch.where(torch.from_numpy(CODES) == UNKNOWN, float(UNKNOWN), everything))


def test_labels_without_known_absent_ones_tell_positives_alone():
    codes = np.where(CODES == ABSENT, UNKNOWN, CODES).astype(np.int8)
    assert set(revealed(codes, 4, "observed").unique().tolist()) <= {PRESENT, UNKNOWN}


@pytest.mark.parametrize("share, classes, most", [(0.57, 100, 57), (0.75, 5, 3), (0.99, 5, 4), (0.29, 100, 29)])
def test_the_largest_number_is_the_share_rounded_down_and_no_less(monkeypatch, share, classes, most):
    asked = []
    draw = label_mask.draw_revealed
    monkeypatch.setattr(label_mask, "draw_revealed", lambda *given: asked.append(given[1]) or draw(*given))
    codes = random_labels(2, classes)
    model = TellableModel(classes)
    LabelMask(LabelMaskConfig(mask_known=share), info_for(codes))(model, batch_of(codes, [0, 1]))
    assert asked == [most]


def test_none_is_revealed_where_none_may_be():
    assert (revealed(CODES, 0) == UNKNOWN).all()


def step(config=None, index=INDEX, seed=0):
    torch.manual_seed(seed)
    model = TellableModel()
    out = LabelMask(config or LabelMaskConfig(), info_for(CODES))(model, batch_of(CODES, index))
    return model, out


def bce(z, y):
    return np.logaddexp(0, z) - z * y


@pytest.mark.parametrize("reveals", ["assumed", "observed"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.75, 0.99])
def test_the_loss_is_the_sum_over_what_was_not_revealed(reveals, share):
    model, out = step(LabelMaskConfig(mask_known=share, mask_reveals=reveals))
    (known,) = model.revealed
    logits, y = out.logits.double().numpy(), (CODES[INDEX] == PRESENT).astype(float)
    total, asked = 0.0, 0
    for n in range(len(INDEX)):
        assert (known[n] != UNKNOWN).sum() <= int(share * 5)
        for k in range(5):
            if known[n, k] == UNKNOWN:
                total, asked = total + bce(logits[n, k], y[n, k]), asked + 1
    assert out.total.item() == pytest.approx(total, rel=1e-5)
    assert out.parts["bce"].item() == pytest.approx(total / asked, rel=1e-5)
    assert out.parts["told"].item() == pytest.approx((20 - asked) / 4)
    assert out.total.requires_grad
    assert not any(part.requires_grad for part in [out.logits, *out.parts.values()])


def test_a_sole_label_is_logged_as_it_is_and_where_all_are_revealed_nothing_is():
    codes, model = np.array([[1]], dtype=np.int8), TellableModel(1)
    out = LabelMask(LabelMaskConfig(), info_for(codes))(model, batch_of(codes, [0]))
    assert float(out.parts["bce"]) == pytest.approx(float(out.total.detach()))
    assert float(out.parts["told"]) == 0
    always = LabelMask(LabelMaskConfig(mask_known=math.nextafter(1, 0)), info_for(codes))
    torch.manual_seed(0)
    parts = [always(model, batch_of(codes, [0])).parts for _ in range(20)]
    assert {float(part["bce"]) for part in parts if float(part["told"]) == 1} == {0.0}


def test_no_gradient_comes_from_what_was_revealed():
    torch.manual_seed(0)
    seen = {}

    class Bare(nn.Module):
        def forward(self, images, want=frozenset(), known=None):
            seen["logits"] = torch.randn(len(images), 5, requires_grad=True)
            seen["known"] = known
            return FakeModel(5)(images)._replace(logits=seen["logits"])

    LabelMask(LabelMaskConfig(), info_for(CODES))(Bare(), batch_of(CODES, INDEX)).total.backward()
    asked = seen["known"] == UNKNOWN
    expected = (torch.sigmoid(seen["logits"]) - targets_of(CODES[INDEX])) * asked
    assert 0 < asked.sum() < 20
    torch.testing.assert_close(seen["logits"].grad, expected.detach())


def test_each_step_draws_anew_from_the_generator():
    (one,), (same,), (other,) = (step(seed=seed)[0].revealed for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_it_keeps_no_state():
    assert not LabelMask(LabelMaskConfig(), info_for(CODES)).state_dict()


def share_a_batch(rank):
    """Loss and gradient as the engine combines them; every second label is revealed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(label_mask, "revealed_labels", lambda observed, targets, drawn, reveals: every_second(targets))
        index = INDEX if rank is None else (INDEX[:2] if rank == 0 else INDEX[2:])
        model, out = step(index=index)
        total = out.total * len(index) / len(INDEX)
        total.backward()
        return [collectives.all_sum(total), collectives.all_sum(model.weight.grad)]


def every_second(targets):
    places = torch.arange(targets.shape[1]) % 2 == 0
    return targets.masked_fill(places, UNKNOWN)


def test_two_ranks_have_the_loss_and_gradient_of_one_process_on_the_whole_batch():
    alone = share_a_batch(None)
    for found in run_ranks(share_a_batch):
        for value, expected in zip(found, alone, strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "wrong", [{"mask_known": 1.0}, {"mask_known": -0.1}, {"mask_known": float("nan")}, {"mask_reveals": "all"}]
)
def test_a_setting_that_cannot_work_is_refused_by_name(wrong):
    with pytest.raises(UserError, match=f"--{next(iter(wrong))} "):
        LabelMaskConfig(**wrong)
