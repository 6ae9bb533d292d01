"""LL-R, LL-Ct and LL-Cp: what one call does, and their settings; the state is in test_large_loss_training.py."""

import copy
import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from losses import BCE, BCEConfig, LargeLoss, LargeLossConfig
from losses.common.variants import variant_options
from losses.large_loss import VARIANTS, LargeLossVariant, kth_largest, label_count, modified_share, unpacked
from tests.losses.fake_model import info_for
from tests.oracles import large_loss as oracle
from utils.checks import UserError
from utils.types import Batch, ModelOutput

SCHEMES = ("LL-R", "LL-Ct", "LL-Cp")


def echo(images, want=frozenset()):
    """A model whose images (B, C, 1, 1) are the logits already."""
    return ModelOutput(images.flatten(1))


def batch_with(logits, codes, index=None):
    index = torch.arange(len(codes)) if index is None else torch.as_tensor(index)
    return Batch(torch.as_tensor(logits)[:, :, None, None], torch.tensor(codes).float(), index)


def step(logits, codes, epoch=2, table=None, **settings):
    """(loss, its gradient, modified, the criterion) of one call in `epoch`."""
    criterion = LargeLoss(LargeLossConfig(**settings), info_for(np.array(codes if table is None else table, np.int8)))
    criterion.on_epoch_start(epoch)
    inputs = torch.as_tensor(logits).clone().requires_grad_()
    out = criterion(echo, batch_with(inputs, codes))
    out.total.backward()
    return out.total.detach(), inputs.grad, out.modified, criterion


def flipped(criterion):
    return unpacked(criterion.corrected, criterion.info.observed.num_classes).numpy()


def single_positives(rows, classes, seed, known=0.1):
    """(logits, codes): one positive a row, some labels known to be absent, the rest unknown."""
    rng = np.random.default_rng(seed)
    codes = np.where(rng.random((rows, classes)) < known, 0, -1)
    codes[np.arange(rows), rng.integers(0, classes, rows)] = 1
    return rng.normal(0, 2, (rows, classes)), codes.astype(np.int8)


@pytest.mark.parametrize("percent", [0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 3.3, 60.0])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_exact_schedule_is_exact_and_the_accumulated_one_at_most_one_label_off(scheme, percent):
    exact = LargeLossConfig(mod_scheme=scheme, delta_rel=percent, schedule="exact").delta
    for epoch in range(1, 12):
        expected = oracle.share_of(scheme, percent, epoch)
        assert modified_share(scheme, exact, epoch) == expected
        for entries in (20, 320, 1280, 288 * 5000):
            count = label_count(entries, modified_share(scheme, exact, epoch))
            assert count == math.ceil(entries * expected)
            assert 0 <= label_count(entries, modified_share(scheme, percent / 100, epoch)) - count <= 1


@pytest.mark.parametrize("delta", [0.005, Fraction(3, 1000)])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_later_start_moves_the_schedule_and_nothing_is_modified_before_it(scheme, delta):
    for start in (2, 3, 7):
        shares = [modified_share(scheme, delta, epoch, start) for epoch in range(1, 12)]
        assert shares[: start - 1] == [0] * (start - 1)
        assert shares[start - 1 :] == [modified_share(scheme, delta, epoch) for epoch in range(2, 14 - start)]


def test_a_criterion_modifies_nothing_before_its_first_epoch():
    logits, codes = single_positives(16, 20, 0)
    settings = {"mod_scheme": "LL-Ct", "delta_rel": 5.0, "schedule": "exact", "start_epoch": 4}
    counts = [int(step(logits, codes, epoch=epoch, **settings)[2].sum()) for epoch in (3, 4, 5)]
    assert counts == [0, 16, 32]


def test_the_two_schedules_differ_where_the_published_code_rounds():
    shares = [modified_share("LL-R", delta, 6) for delta in (0.005, Fraction(5, 1000))]
    assert [label_count(16 * 20, share) for share in shares] == [9, 8]
    logits, codes = single_positives(16, 20, 0)
    settings = {"epoch": 6, "mod_scheme": "LL-R", "delta_rel": 0.5}
    modified = [int(step(logits, codes, schedule=name, **settings)[2].sum()) for name in ("accumulated", "exact")]
    assert modified == [9, 8]


@pytest.mark.parametrize("flip", ["selected", "strict"])
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("seed", range(2))
def test_training_matches_loops(seed, scheme, flip):
    rows, classes, epochs = 12, 9, 5
    codes = single_positives(rows, classes, seed)[1]
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (epochs, rows, classes)).round(1)  # rounded, so that some losses tie
    batches = [np.array_split(rng.permutation(rows), [5, 10]) for _ in range(epochs)]
    criterion = LargeLoss(
        LargeLossConfig(mod_scheme=scheme, delta_rel=8.0, schedule="exact", flip=flip), info_for(codes)
    )
    totals, expected = [], oracle.train(logits, codes, batches, scheme, 8.0, strict=flip == "strict")
    for epoch, (scores, order) in enumerate(zip(logits, batches, strict=True), start=1):
        criterion.on_epoch_start(epoch)
        for index in order:
            totals.append(float(criterion(echo, batch_with(scores[index], codes[index], index)).total))
        labels = criterion.corrected_labels()
        if scheme == "LL-Cp":
            np.testing.assert_array_equal(labels.dense(), expected[1][epoch - 1])
        else:
            assert labels is None
    np.testing.assert_allclose(totals, expected[0], rtol=1e-10)
    assert (expected[1][-1] != codes).any() == (scheme == "LL-Cp")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_gradient_is_that_of_the_loss_with_a_fixed_selection(scheme):
    logits, codes = single_positives(4, 7, 1)
    total, gradient, modified, _ = step(logits, codes, mod_scheme=scheme, delta_rel=20.0)
    places = set(map(tuple, modified.nonzero().tolist()))
    assert 0 < len(places) < modified.numel()
    value, expected = oracle.total(logits.tolist(), codes.tolist(), places, scheme)
    assert float(total) == pytest.approx(value, rel=1e-12)
    np.testing.assert_allclose(gradient, expected, rtol=1e-9, atol=1e-15)
    assert bool((gradient[modified] == 0).all()) == (scheme == "LL-R")
    width = 1e-6
    for at in np.ndindex(*logits.shape):  # so small a change moves no label over the threshold
        moved = [logits.copy() for _ in range(2)]
        moved[0][at] += width
        moved[1][at] -= width
        up, down = (float(step(x, codes, mod_scheme=scheme, delta_rel=20.0)[0]) for x in moved)
        assert (up - down) / (2 * width) == pytest.approx(float(gradient[at]), abs=1e-8)


@pytest.mark.parametrize("variant", ["fixed", "reference"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_with_delta_0_and_in_the_first_epoch_it_is_assume_negative_bit_for_bit(scheme, variant):
    logits, codes = single_positives(5, 8, 2)
    inputs = torch.tensor(logits, dtype=torch.float32, requires_grad=True)
    plain = BCE(BCEConfig(), info_for(codes))(echo, batch_with(inputs, codes)).total
    plain.backward()
    for epoch, delta in [(1, 30.0), (1, 0.0), (7, 0.0)]:
        total, gradient, modified, _ = step(
            inputs.detach(), codes, epoch, mod_scheme=scheme, delta_rel=delta, variant=variant
        )
        assert torch.equal(total, plain.detach())
        assert torch.equal(gradient, inputs.grad)
        assert not modified.any()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_order_of_images_and_of_classes_does_not_matter(scheme):
    logits, codes = single_positives(6, 9, 3)
    images, classes = np.random.default_rng(1).permutation(6), np.random.default_rng(2).permutation(9)
    plain = step(logits, codes, mod_scheme=scheme, delta_rel=15.0)
    moved = step(logits[images][:, classes], codes[images][:, classes], mod_scheme=scheme, delta_rel=15.0)
    torch.testing.assert_close(moved[0], plain[0])
    torch.testing.assert_close(moved[1], plain[1][images][:, classes])
    assert torch.equal(moved[2], plain[2][images][:, classes])


@pytest.mark.parametrize("percent", [1.0, 25.0, 99.0, 100.0])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_only_unknown_labels_are_modified_and_all_of_them_at_most(scheme, percent):
    logits, codes = single_positives(5, 6, 4, known=0.5)
    logits[0] = -800  # losses of 0
    _, _, modified, criterion = step(logits, codes, mod_scheme=scheme, delta_rel=percent)
    unknown = codes == -1
    assert not (modified.numpy() & ~unknown).any()
    expected = min(math.ceil(codes.size * percent / 100), int(unknown.sum()))
    assert int(modified.sum()) == expected
    if scheme == "LL-Cp":
        np.testing.assert_array_equal(flipped(criterion), modified)


def test_a_batch_without_unknown_labels_is_left_alone():
    logits, codes = single_positives(4, 5, 5)
    table = codes.copy()
    codes[codes == -1] = 0
    for variant in ("fixed", "reference"):
        total, _, modified, _ = step(logits, codes, table=table, delta_rel=10.0, population="unknown", variant=variant)
        assert not modified.any()
        assert float(total) == pytest.approx(oracle.total(logits.tolist(), codes.tolist(), set(), "LL-Ct")[0])


def test_a_threshold_of_0_modifies_known_labels_only_as_published():
    logits, codes = single_positives(4, 5, 6, known=0.5)
    settings = {"mod_scheme": "LL-R", "delta_rel": 100.0}
    assert step(logits, codes, variant="reference", **settings)[2].all()
    np.testing.assert_array_equal(step(logits, codes, **settings)[2], codes == -1)
    absolute = {"threshold": "absolute", "r0": -5.0, "variant": "reference"}
    np.testing.assert_array_equal(step(logits, codes, **absolute)[2], codes == -1)


def test_a_loss_of_exactly_the_absolute_threshold_is_not_above_it():
    codes = np.array([[-1, -1, 1]], dtype=np.int8)
    logits = [[800.0, 799.0, 0.0]]  # the losses of unknown labels are these numbers
    settings = {"threshold": "absolute", "r0": 801.0, "delta_abs": 0.5}
    found = [step(logits, codes, epoch=epoch, **settings)[2].tolist() for epoch in (2, 3, 4, 5)]
    assert found == [[[False] * 3], *[[[True, False, False]]] * 2, [[True, True, False]]]


def test_ties_at_the_threshold_are_all_modified_and_none_of_them_flipped_strictly():
    codes = np.full((2, 5), -1, dtype=np.int8)
    codes[0, 0] = 1
    logits = [[9.0, 3, 1, 1, 0], [1, 1, 0, 0, 0]]
    settings = {"mod_scheme": "LL-Cp", "delta_rel": 30.0}  # three labels
    _, _, modified, criterion = step(logits, codes, **settings)
    assert modified.int().tolist() == [[0, 1, 1, 1, 0], [1, 1, 0, 0, 0]]
    np.testing.assert_array_equal(flipped(criterion), modified)
    assert flipped(step(logits, codes, flip="strict", **settings)[3]).sum() == 1


def test_the_kth_largest_of_those_that_take_part():
    losses = torch.tensor([[3.0, -math.inf, 1], [2, -math.inf, 2]])
    assert [float(kth_largest(losses, count)) for count in (1, 2, 3, 4, 5, 6, 9)] == [3, 2, 2, 1, 1, 1, 1]
    assert float(kth_largest(torch.full((2, 2), -math.inf), 3)) == math.inf


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_extreme_logits_in_any_precision_stay_finite(scheme, kind):
    values = [[5e4, -5e4, 0, 30], [-5e4, -5e4, -5e4, 5e4], [-50, 50, -50, 50]]
    codes = np.array([[-1, -1, 1, 0], [-1, -1, -1, -1], [1, 0, -1, -1]], dtype=np.int8)
    for percent in (10.0, 100.0):
        total, gradient, _, _ = step(torch.tensor(values, dtype=kind), codes, mod_scheme=scheme, delta_rel=percent)
        assert total.dtype == (torch.float64 if kind == torch.float64 else torch.float32)
        assert torch.isfinite(total)
        assert torch.isfinite(gradient).all()


def test_a_loss_that_is_no_number_shows_and_corrects_nothing():
    logits, codes = single_positives(3, 4, 7)
    logits[tuple(np.argwhere(codes == -1)[2])] = math.nan
    total, _, modified, criterion = step(logits, codes, mod_scheme="LL-Cp", delta_rel=50.0)
    assert math.isnan(float(total))
    assert not modified.any()
    assert not criterion.corrected.any()


def test_inputs_stay_as_they_were_and_only_the_loss_has_a_gradient():
    logits, codes = single_positives(4, 6, 8)
    inputs = torch.tensor(logits, requires_grad=True)
    batch = batch_with(inputs, codes)
    before = copy.deepcopy([inputs.detach(), batch.observed, batch.index])
    criterion = LargeLoss(LargeLossConfig(mod_scheme="LL-Cp", delta_rel=20.0), info_for(codes))
    criterion.on_epoch_start(2)
    out = criterion(echo, batch)
    for old, new in zip(before, [inputs.detach(), batch.observed, batch.index], strict=True):
        assert torch.equal(old, new)
    assert out.total.requires_grad
    assert not any(part.requires_grad for part in [out.logits, out.modified, *out.parts.values()])
    assert out.modified.dtype == torch.bool
    assert float(out.parts["modified"]) == pytest.approx(math.ceil(24 * 0.2) / 4)
    plain = oracle.total(logits.tolist(), codes.tolist(), set(), "LL-R")[0]
    assert float(out.parts["bce"]) == pytest.approx(plain)


@pytest.mark.parametrize(
    "bad",
    [
        {"mod_scheme": "LL"},
        {"delta_rel": -0.1},
        {"delta_rel": 100.5},
        {"delta_rel": math.nan},
        {"schedule": "float"},
        {"start_epoch": 1},
        {"threshold": "none"},
        {"threshold": "absolute", "mod_scheme": "LL-Cp"},
        {"r0": math.inf},
        {"delta_abs": -1.0},
        {"delta_abs": math.nan},
        {"delta_abs": math.inf},
        {"variant": "paper"},
        {"population": "none"},
        {"flip": "all"},
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused_in_one_line(bad):
    with pytest.raises(UserError, match=next(iter(bad))) as refusal:
        LargeLossConfig(**bad)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("variant", VARIANTS)
def test_options_follow_the_variant_and_can_be_set_alone(variant):
    assert variant_options(LargeLossConfig(variant=variant), VARIANTS) == VARIANTS[variant]
    other = VARIANTS["reference" if variant == "fixed" else "fixed"]
    for name in LargeLossVariant._fields:
        config = LargeLossConfig(variant=variant, **{name: getattr(other, name)})
        assert variant_options(config, VARIANTS) == VARIANTS[variant]._replace(**{name: getattr(other, name)})


@pytest.mark.parametrize("scheme", SCHEMES)
def test_labels_without_unknown_ones_are_refused_unless_nothing_is_modified(scheme):
    codes = np.array([[1, 0], [0, 1]], dtype=np.int8)
    with pytest.raises(UserError, match="no label is unknown") as refusal:
        LargeLoss(LargeLossConfig(mod_scheme=scheme), info_for(codes))
    assert "--labels single" in str(refusal.value)
    logits = np.random.default_rng(0).normal(size=(2, 2))
    total = step(logits, codes, mod_scheme=scheme, delta_rel=0.0)[0]
    assert float(total) == pytest.approx(oracle.total(logits.tolist(), codes.tolist(), set(), scheme)[0])
    if scheme != "LL-Cp":
        with pytest.raises(UserError, match="no label is unknown"):
            LargeLoss(LargeLossConfig(mod_scheme=scheme, threshold="absolute", delta_rel=0.0), info_for(codes))
