"""IGNORE: what one call does. Its formulas: test_ignore_gap.py; its state: _training.py; its settings: _settings.py."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from losses import Ignore, IgnoreConfig
from losses.ignore import VARIANTS
from tests.losses.fake_model import FakeModel, batch_of, info_for
from tests.oracles import ignore as oracle
from utils.types import Batch, ModelOutput


class Answers:
    """A model that gives prepared logits, one (B, C) a call, and notes what it was shown; its maps are those given."""

    def __init__(self, *logits, cam=None, features=None):
        self.logits, self.cam, self.features = list(logits), cam, features
        self.images, self.wants, self.gradients = [], [], []

    def __call__(self, images, want=frozenset()):
        self.images.append(images)
        self.wants.append(want)
        self.gradients.append(torch.is_grad_enabled())
        logits = self.logits[len(self.images) - 1]
        cam = torch.zeros(*logits.shape, 2, 2) if self.cam is None else self.cam
        return ModelOutput(logits, self.features, cam if "cam" in want else None)


def views(codes, index=None, size=8):
    """A batch of random images in two views."""
    index = torch.arange(len(codes)) if index is None else torch.as_tensor(index)
    first, second = torch.randn(2, len(codes), 3, size, size, generator=torch.Generator().manual_seed(1))
    return Batch(first, torch.tensor(np.asarray(codes)).float(), index, second)


def build(codes, double=True, **settings):
    criterion = Ignore(IgnoreConfig(**settings), info_for(np.asarray(codes, dtype=np.int8)))
    return criterion.double() if double else criterion


def single(rows, classes, seed, empty=(), known=0.1):
    """Codes (N, C): one positive a row, none in the rows `empty`, some known to be absent, the rest unknown."""
    rng = np.random.default_rng(seed)
    codes = np.where(rng.random((rows, classes)) < known, 0, -1)
    codes[np.arange(rows), rng.integers(0, classes, rows)] = 1
    codes[list(empty)] = np.where(codes[list(empty)] == 1, -1, codes[list(empty)])
    return codes.astype(np.int8)


def three_logits(shape, seed):
    """Logits of the weak view, the strong view and the masked image, float64 (3, B, C)."""
    return torch.tensor(np.random.default_rng(seed).normal(0, 2, (3, *shape)))


def step(criterion, codes, logits, **answers):
    """(output, gradients of the weak and strong logits, the model) of one call."""
    inputs = [each.clone().requires_grad_() for each in logits]
    model = Answers(*inputs, **answers)
    out = criterion(model, views(codes))
    out.total.backward()
    return out, inputs, model


@pytest.mark.parametrize("lat", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_steps_match_loops(seed, lat):
    codes = single(5, 7, seed, empty=[2])
    settings = {"gap_lambda": 0.8, "avg_lambda": 0.6, "reject_after": 2}
    criterion = build(codes, lat=lat, spbc_weight=0.3, ignore_weight=1.2, reg_weight=0.7, **settings)
    gap, average, counts = 0.0, [0.0] * 7, []
    for number in range(6):
        epoch = 1 + number // 2
        criterion.on_epoch_start(epoch)
        logits = three_logits(codes.shape, 10 * seed + number)
        z, strong, masked = logits.tolist()
        gap, average = oracle.move(gap, average, z, masked, codes, 0.8, 0.6)
        gone = oracle.reject(z, masked, codes, gap, average if lat else None) if epoch > 2 else set()
        value, weak_gradient, strong_gradient = oracle.total(z, strong, codes, gone, (0.3, 1.2, 0.7))
        out, inputs, _ = step(criterion, codes, logits)
        assert set(map(tuple, out.modified.nonzero().tolist())) == gone
        assert float(out.total.detach()) == pytest.approx(value, rel=1e-12)
        np.testing.assert_allclose(inputs[0].grad, weak_gradient, rtol=1e-9, atol=1e-15)
        np.testing.assert_allclose(inputs[1].grad, strong_gradient, rtol=1e-9, atol=1e-15)
        assert inputs[2].grad is None
        assert float(criterion.gap_threshold) == pytest.approx(gap, rel=1e-12)
        np.testing.assert_allclose(criterion.average_threshold, average, rtol=1e-12)
        assert float(out.parts["rejected"]) == pytest.approx(len(gone) / 5)
        counts.append(len(gone))
    assert counts[:4] == [0] * 4
    assert all(counts[4:])


def test_worked_example():
    codes = [[1, -1, -1, -1]]
    z = [3, 1.5, -0.2, 0.1]
    logits = torch.tensor([[z], [[2.5, 1, 0, -0.5]], [[2.4, -0.3, -1.6, -1.5]]], dtype=torch.float64)
    criterion = build(codes, gap_lambda=0.5, avg_lambda=0.5)
    criterion.gap_threshold.fill_(1.8)  # the mean of 1.8 and 0.6 is 1.2
    criterion.average_threshold.copy_(2 * torch.tensor([0.5, 0, -1, 0.2]) - torch.tensor(z))
    criterion.on_epoch_start(5)
    out = step(criterion, codes, logits)[0]
    assert out.modified.int().tolist() == [[0, 1, 1, 0]]
    assert float(out.parts["ignored"]) == pytest.approx(0.27647, abs=1e-5)
    assert float(out.parts["spbc"]) == pytest.approx(0.04858, abs=1e-5)
    assert float(out.parts["reg"]) == pytest.approx(0.225, abs=1e-12)
    assert float(out.total.detach()) == pytest.approx(0.41326, abs=1e-5)


def test_gradient_by_finite_differences_through_both_views():
    codes, logits = single(3, 4, 4), three_logits((3, 4), 5)

    def total(weak, strong):
        criterion = build(codes, gap_lambda=0.5, avg_lambda=0.5)
        criterion.on_epoch_start(4)
        out = criterion(Answers(weak, strong, logits[2]), views(codes))
        assert out.modified.any()
        return out.total  # so small a change moves no label over a threshold

    assert torch.autograd.gradcheck(total, [logits[0].clone().requires_grad_(), logits[1].clone().requires_grad_()])


def test_the_model_sees_the_weak_view_then_the_strong_view_then_the_masked_image():
    codes = single(4, 3, 6, empty=[1])
    criterion, batch = build(codes, double=False), views(codes, size=9)
    cam = torch.randn(4, 3, 3, 3)
    model = Answers(*three_logits((4, 3), 0).float().requires_grad_(), cam=cam)
    out = criterion(model, batch)
    assert model.wants == [{"cam"}, set(), set()]
    assert model.gradients == [True, True, False]
    assert torch.equal(model.images[0], batch.images)
    assert torch.equal(model.images[1], batch.second_view)
    kept = []
    for image, masked, maps, row in zip(batch.images, model.images[2], cam, codes, strict=True):
        seen = np.ones((9, 9), dtype=bool)
        if 1 in row:
            seen = oracle.enlarged(oracle.scaled(maps[row == 1].numpy(), "spatial")[0], 9) > 0.8
        np.testing.assert_array_equal(masked, image * torch.tensor(seen))
        kept.append(seen.mean())
    assert float(out.parts["kept_area"]) == pytest.approx(np.mean(kept), rel=1e-6)


def test_attention_maps_take_the_features_along():
    codes = [[-1, 1], [1, -1]]
    cam, features = torch.rand(2, 2, 4, 4), torch.randn(2, 5, 4, 4)
    model = Answers(*torch.zeros(3, 2, 2).requires_grad_(), cam=cam, features=features)
    batch = views(codes, size=4)
    build(codes, double=False, cam_map="attention")(model, batch)
    maps = features.mean(dim=1) * cam[[0, 1], [1, 0]]
    seen = oracle.scaled(maps.numpy(), "spatial") > 0.8
    assert 0 < seen.sum() < seen.size
    np.testing.assert_array_equal(model.images[2], batch.images * torch.tensor(seen)[:, None])


def test_images_that_are_wider_than_high_are_masked_by_maps_of_their_shape():
    codes, cam = [[-1, 1], [1, -1], [1, -1]], torch.rand(3, 2, 3, 5)
    batch = views(codes)._replace(images=torch.randn(3, 3, 3, 5), second_view=torch.randn(3, 3, 3, 5))
    model = Answers(*torch.zeros(3, 3, 2).requires_grad_(), cam=cam)
    out = build(codes, double=False, cam_threshold=0.5)(model, batch)
    seen = oracle.scaled(cam[[0, 1, 2], [1, 0, 0]].numpy(), "spatial") > 0.5
    np.testing.assert_array_equal(model.images[2], batch.images * torch.tensor(seen)[:, None])
    assert float(out.parts["kept_area"]) == pytest.approx(seen.mean())


@pytest.mark.parametrize("cam_norm", ["spatial", "release", "batch_minmax"])
def test_union_is_the_only_map_where_there_is_one_positive(cam_norm):
    codes, cam = single(5, 4, 7, empty=[3]), torch.randn(5, 4, 3, 3)
    models = [Answers(*three_logits((5, 4), 1).requires_grad_(), cam=cam) for _ in range(2)]
    for model, several in zip(models, ("refuse", "union"), strict=True):
        build(codes, several=several, cam_norm=cam_norm)(model, views(codes))
    assert torch.equal(models[0].images[2], models[1].images[2])


def test_images_of_several_positives_show_them_all():
    codes = [[1, 1, -1]]
    cam = torch.zeros(1, 3, 4, 4)
    cam[0, 0, 0, 0] = cam[0, 1, 3, 3] = cam[0, 2, 0, 3] = 1.0
    model, batch = Answers(*torch.zeros(3, 1, 3).requires_grad_(), cam=cam), views(codes, size=4)
    build(codes, double=False, several="union")(model, batch)
    seen = torch.zeros(4, 4)
    seen[0, 0] = seen[3, 3] = 1
    assert torch.equal(model.images[2], batch.images * seen)


def test_images_without_a_positive_keep_their_labels_unless_judged():
    codes, logits = single(3, 4, 8, empty=[1], known=0), three_logits((3, 4), 2)
    logits[2, 1] = logits[0, 1] - 50  # noise between two passes of one image, absurdly large
    logits[0, 1] = 9
    for unannotated, expected in (("kept", 0), ("judged", 4)):
        criterion = build(codes, unannotated=unannotated)
        criterion.on_epoch_start(4)
        assert int(step(criterion, codes, logits)[0].modified[1].sum()) == expected


def test_a_batch_without_positives_leaves_the_gap_threshold_and_has_no_spbc():
    codes, table = np.full((3, 4), -1), single(6, 4, 9)
    criterion = build(table)
    criterion.gap_threshold.fill_(0.7)
    out, inputs, _ = step(criterion, codes, three_logits((3, 4), 3))
    assert float(criterion.gap_threshold) == 0.7
    assert criterion.average_threshold.abs().sum() > 0
    assert float(out.parts["spbc"]) == 0
    assert all(torch.isfinite(each.grad).all() for each in inputs[:2])


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_training_set_of_which_nothing_is_known_rejects_nothing_and_stays_finite(variant):
    codes = np.full((4, 3), -1)
    criterion = build(codes, variant=variant, unannotated="kept")
    criterion.on_epoch_start(4)
    for seed in range(3):
        out, inputs, _ = step(criterion, codes, three_logits((4, 3), seed))
        assert not out.modified.any()
        assert float(criterion.gap_threshold) == 0
        assert all(torch.isfinite(each.grad).all() for each in inputs[:2])


def test_thresholds_survive_logits_that_overflow():
    codes = single(2, 3, 10, known=0)
    criterion = build(codes, double=False)
    criterion.on_epoch_start(4)
    step(criterion, codes, three_logits((2, 3), 4).float())
    before = criterion.gap_threshold.clone(), criterion.average_threshold.clone()
    step(criterion, codes, torch.full((3, 2, 3), math.inf))
    assert torch.equal(criterion.gap_threshold, before[0])
    assert torch.equal(criterion.average_threshold, before[1])


def test_known_labels_always_count():
    codes = single(6, 8, 11, known=0.5)
    criterion = build(codes, gap_lambda=0.0, lat=False)
    criterion.on_epoch_start(4)
    logits = three_logits(codes.shape, 6)
    logits[2][torch.tensor(codes != 1)] = 99  # every other label loses more than the observed one
    modified = step(criterion, codes, logits)[0].modified.numpy()
    np.testing.assert_array_equal(modified, codes == -1)


@pytest.mark.parametrize("codes", [[[1, -1]], [[-1, -1]]])
def test_the_loss_is_of_what_is_left_when_all_other_labels_are_rejected(codes):
    criterion = build(single(4, 2, 3), gap_lambda=0.0, lat=False, unannotated="judged", spbc=False, reg=False)
    criterion.on_epoch_start(4)
    logits = torch.tensor([[[0.5, 3.0]], [[2.0, 1.0]], [[0.4, -4.0]]], dtype=torch.float64)
    out, inputs, _ = step(criterion, codes, logits)
    unknown = torch.tensor(codes) == -1
    assert torch.equal(out.modified, unknown)
    expected = math.log(1 / (torch.tensor(2.0).sigmoid() + 1e-5)) if 1 in codes[0] else 0.0
    assert float(out.total.detach()) == pytest.approx(expected, rel=1e-6)
    assert not inputs[1].grad[unknown].any()


def test_the_order_of_images_and_of_classes_does_not_matter():
    codes, logits = single(6, 5, 12), three_logits((6, 5), 7)
    images, classes = np.random.default_rng(1).permutation(6), np.random.default_rng(2).permutation(5)
    plain, moved = build(codes), build(codes[:, classes])
    for criterion in (plain, moved):
        criterion.on_epoch_start(4)
    one = step(plain, codes, logits)[0]
    other = step(moved, codes[images][:, classes], logits[:, images][:, :, classes])[0]
    torch.testing.assert_close(other.total, one.total)
    assert torch.equal(other.modified, one.modified[images][:, classes])
    assert one.modified.any()


@pytest.mark.parametrize(
    "off, weights, calls",
    [
        ({"spbc": False}, (0, 1, 0.5), 3),
        ({"reg": False}, (0.5, 1, 0), 3),
        ({"strong_aug": False}, (0.5, 1, 0.5), 3),
        ({"strong_aug": False, "reg": False}, (0.5, 1, 0), 2),
        ({"ignore": False}, (0.5, 1, 0.5), 2),
        ({"ignore": False, "strong_aug": False, "reg": False, "spbc": False}, (0, 1, 0), 1),
    ],
    ids=str,
)
def test_each_part_can_be_left_out_and_then_costs_nothing(off, weights, calls):
    codes, (weak, strong, masked) = single(4, 6, 13), three_logits((4, 6), 8)
    criterion = build(codes, **off)
    criterion.on_epoch_start(4)
    second = [strong] if off.get("strong_aug", True) or off.get("reg", True) else []
    model = Answers(weak, *second, *([] if off.get("ignore") is False else [masked]))
    out = criterion(model, views(codes))
    assert len(model.images) == calls
    gone = set(map(tuple, out.modified.nonzero().tolist()))
    assert bool(gone) == off.get("ignore", True)
    agreement = weights[2] * float((strong - weak).square().mean())
    view = strong if off.get("strong_aug", True) else weak
    value = oracle.total(weak.tolist(), view.tolist(), codes, gone, (*weights[:2], 0))[0]
    assert float(out.total.detach()) == pytest.approx(value + agreement, rel=1e-12)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_extreme_logits_in_any_precision_stay_finite(kind):
    codes = np.array([[1, -1, -1], [-1, -1, 1], [-1, -1, -1]], dtype=np.int8)
    values = torch.tensor([[1e3, -1e3, 0.0], [30, -30, -200], [200, 1e3, -1e3]])
    criterion = build(codes, double=kind == torch.float64)
    criterion.on_epoch_start(4)
    cam = torch.randn(3, 3, 2, 2).to(kind)
    out, inputs, _ = step(criterion, codes, torch.stack([values, -values, values.flip(0)]).to(kind), cam=cam)
    assert out.total.dtype == (torch.float64 if kind == torch.float64 else torch.float32)
    assert torch.isfinite(out.total)
    assert all(torch.isfinite(each.grad).all() for each in inputs[:2])


def test_inputs_stay_as_they_were_and_only_the_loss_has_a_gradient():
    codes, model = single(4, 5, 14), FakeModel(5)
    criterion, batch = build(codes, double=False), views(codes)
    before = [part.clone() for part in (batch.images, batch.observed, batch.second_view)]
    out = criterion(model, batch)
    assert all(
        torch.equal(*pair) for pair in zip(before, (batch.images, batch.observed, batch.second_view), strict=True)
    )
    assert out.total.requires_grad
    assert not any(part.requires_grad for part in [out.logits, out.modified, *out.parts.values()])
    assert out.modified.dtype == torch.bool
    assert out.parts.keys() == {"spbc", "ignored", "reg", "rejected", "gap_threshold", "kept_area"}


class Normed(FakeModel):
    def __init__(self, classes):
        super().__init__(classes)
        self.norm = nn.BatchNorm2d(3)
        self.counts = []

    def forward(self, images, want=frozenset()):
        out = super().forward(self.norm(images), want)
        self.counts.append((self.training, self.norm.training, int(self.norm.num_batches_tracked)))
        return out


def test_masked_images_may_leave_batchnorm_alone():
    codes = single(4, 5, 15)
    for masked_bn, expected in (("train", [1, 2, 3]), ("eval", [1, 2, 2])):
        model = Normed(5)
        build(codes, double=False, masked_bn=masked_bn)(model, views(codes))
        assert [count for _, _, count in model.counts] == expected
        assert [norm for _, norm, _ in model.counts] == [True, True, masked_bn == "train"]
        assert all(training for training, _, _ in model.counts)
        assert model.norm.training


def test_batchnorm_that_is_frozen_stays_frozen():
    codes, model = single(4, 5, 15), Normed(5)
    model.norm.eval()
    build(codes, double=False, masked_bn="eval")(model, views(codes))
    assert not model.norm.training


def test_a_image_of_one_row_is_a_batch_too():
    codes = single(1, 5, 16)
    out = build(codes, double=False)(FakeModel(5), batch_of(codes, [0])._replace(second_view=torch.randn(1, 3, 12, 12)))
    assert torch.isfinite(out.total)
