"""CLS and its ablations: golden values, slow loops, and what must hold of any batch; training: test_cls_training.py."""

import copy
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from losses import CLS, CRITERIA, CLSConfig
from losses.assume_negative import assume_negative_losses
from losses.cls import KeptShares, divisor, kept_share, select
from tests import golden_files
from tests.losses.peers import batch_with, build, echo_peers, random_case, slopes, step
from tests.oracles import co_label as oracle
from utils.checks import UserError

GOLDEN = "cls_selection.npz"
EXACT = {"rtol": 1e-10, "atol": 1e-12}
METHOD = CRITERIA["cls"]
ABLATIONS = ("none", "CLS-H", "CLS-L", "CLC")
REDUCTIONS = ("sum_over_labels", "mean_kept", "mean_all")


def golden_cases():
    """The cases of the file for parametrize; one named skip where it is absent."""
    if not (Path(os.environ.get("GOLDEN_DIR", golden_files.HERE)) / GOLDEN).exists():
        return [pytest.param(None, id=GOLDEN, marks=pytest.mark.skip(reason=f"no golden file {GOLDEN}"))]
    golden = golden_files.load(GOLDEN)
    parts = [golden_files.part(golden, f"c{number}_") for number in range(int(golden["n_cases"]))]
    return [pytest.param(arrays, id=f"{number}-{arrays['name']}") for number, arrays in enumerate(parts)]


def in_force(rates):
    """Settings under which these shares are kept in epoch 1."""
    return {"tau_h": 1 - float(rates[0]), "tau_l": 1 - float(rates[1]), "ramp_epochs": 1}


def run_case(arrays, **settings):
    """One step on a golden case, in whose file 0 means not annotated."""
    codes = np.where(arrays["targets"] == 1, 1, -1)
    table = np.append(codes, np.full_like(codes[:1], -1), axis=0)  # a case may have no unknown label
    criterion = build(METHOD, table, **in_force(arrays["R"]), **settings)
    return step(criterion, arrays["logits_f"], arrays["logits_g"], codes)


@pytest.mark.parametrize("arrays", golden_cases())
def test_golden_selection(arrays):
    logits = [torch.from_numpy(arrays[f"logits_{name}"]) for name in "fg"]
    targets = torch.from_numpy(arrays["targets"])
    f, g = (assume_negative_losses(each, targets) for each in logits)
    for name, own, peer in (("f", f, g), ("g", g, f)):
        removed = select(own, peer, targets == 0, KeptShares(*arrays["R"].tolist()))
        left = (targets == 0) & ~removed.high
        np.testing.assert_array_equal(left, arrays[f"stage1_{name}"])
        np.testing.assert_array_equal(left & ~removed.low, arrays[f"keepneg_{name}"])


@pytest.mark.parametrize("arrays", golden_cases())
def test_golden_losses_and_gradients(arrays):
    out, *gradients = run_case(arrays)
    np.testing.assert_allclose(out.total.detach(), arrays["loss_f"] + arrays["loss_g"], **EXACT)
    for name, gradient in zip("fg", gradients, strict=True):
        np.testing.assert_allclose(out.parts[f"loss_{name}"], arrays[f"loss_{name}"], **EXACT)
        np.testing.assert_allclose(gradient, arrays[f"grad_{name}"], **EXACT)
    np.testing.assert_array_equal(out.modified, (arrays["targets"] == 0) & ~arrays["stage1_f"])


@pytest.mark.parametrize("ablation, key", [("CLS-H", "clsH"), ("CLS-L", "clsL"), ("CLC", "clc")])
@pytest.mark.parametrize("arrays", golden_cases())
def test_golden_ablations(arrays, ablation, key):
    out = run_case(arrays, ablation=ablation)[0]
    for name in "fg":
        np.testing.assert_allclose(out.parts[f"loss_{name}"], arrays[f"{key}_loss_{name}"], **EXACT)


@pytest.mark.parametrize("lag, prefix", [(0, "sched_tau"), (1, "sched_lag_tau")])
def test_golden_schedule(lag, prefix):
    golden = golden_files.load(GOLDEN)
    for key, expected in golden_files.part(golden, prefix).items():
        tau, ramp = key.split("_Ek")
        shares = [kept_share(float(tau), int(epoch), int(ramp), lag) for epoch in golden["sched_epoch"]]
        np.testing.assert_allclose(shares, expected, rtol=0, atol=1e-12)


def test_the_worked_example():
    """Two images, four classes, both shares 0.8, computed by hand to four places."""
    codes = [[1, -1, -1, -1], [-1, 1, -1, -1]]
    f, g = [[2, 1, -1, -3], [0, 1, -2, -0.5]], [[1, -1, 0, -2], [2, 0.5, -3, -1]]
    expected = {"none": (1.1772, 0.9603), "CLS-H": (1.6170, 2.1170), "CLS-L": (1.2015, 0.9846), "CLC": (2.1804, 1.6804)}
    for ablation, losses in expected.items():
        criterion = build(METHOD, codes, **in_force((0.8, 0.8)), ablation=ablation)
        out = step(criterion, torch.tensor(f), torch.tensor(g), codes)[0]
        found = [float(out.parts[f"loss_{name}"]) for name in "fg"]
        assert found == pytest.approx(losses, abs=6e-5)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("seed", range(3))
def test_a_step_matches_loops(seed, ablation, reduction):
    f, g, codes = random_case(7, 9, seed)
    f, g = f.round(1 - seed % 2), g.round(1 - seed % 2)  # rounded, so that some losses tie
    settings = {"tau_h": 0.3, "tau_l": 0.4, "ramp_epochs": 4, "ablation": ablation, "reduction": reduction}
    for epoch in (1, 3, 4, 9):
        out, *gradients = step(build(METHOD, codes, **settings), f, g, codes, epoch)
        rates = [1 - min(epoch / 4, 1) * tau for tau in (0.3, 0.4)]
        expected = oracle.label_selection(f, g, codes, *rates, ablation, reduction)
        for name, gradient, (loss, slope, _, low) in zip("fg", gradients, expected, strict=True):
            assert float(out.parts[f"loss_{name}"]) == pytest.approx(loss, rel=1e-10)
            np.testing.assert_allclose(gradient, slope, **EXACT)
            assert float(out.parts["removed_low"]) == pytest.approx(len(low) / 7)
        assert set(map(tuple, out.modified.nonzero().tolist())) == expected[0][2]
        assert float(out.parts["removed_high"]) == pytest.approx(len(expected[0][2]) / 7)
        assert float(out.total.detach()) == pytest.approx(expected[0][0] + expected[1][0], rel=1e-10)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("ablation", ABLATIONS)
def test_gradient_is_the_slope_of_the_loss(ablation, reduction):
    f, g, codes = random_case(3, 5, 5)
    criterion = build(METHOD, codes, **in_force((0.7, 0.6)), ablation=ablation, reduction=reduction)
    _, *gradients = step(criterion, f, g, codes)
    for gradient, slope in zip(gradients, slopes(criterion, f, g, codes), strict=True):
        np.testing.assert_allclose(gradient, slope, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_networks_that_judge_themselves_never_meet(ablation):
    f, g, codes = random_case(7, 9, 8)
    settings = {"ablation": ablation, "judge": "self"}
    out, of_f, of_g = step(build(METHOD, codes, **in_force((0.7, 0.6)), **settings), f, g, codes)
    for logits, gradient, name in ((f, of_f, "loss_f"), (g, of_g, "loss_g")):
        loss, slope, high, _ = oracle.label_selection(logits, logits, codes, 0.7, 0.6, ablation)[0]
        assert float(out.parts[name]) == pytest.approx(loss, rel=1e-10)
        np.testing.assert_allclose(gradient, slope, **EXACT)
        if name == "loss_f":
            assert set(map(tuple, out.modified.nonzero().tolist())) == high


def test_both_networks_play_the_same_part():
    f, g, codes = random_case(4, 6, 6)
    criterion = build(METHOD, codes, **in_force((0.8, 0.8)))
    plain, swapped = step(criterion, f, g, codes), step(criterion, g, f, codes)
    assert torch.equal(plain[1], swapped[2])
    assert torch.equal(plain[2], swapped[1])
    assert torch.equal(plain[0].parts["loss_f"], swapped[0].parts["loss_g"])
    assert not torch.equal(plain[0].modified, swapped[0].modified)


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_in_the_limit_of_no_removal_it_is_bce_of_both_networks(ablation):
    f, g, codes = random_case(5, 8, 7)
    expected = [sum(oracle.label_losses(each, codes).values()) / 5 for each in (f, g)]
    rates = {"none": (0, 0), "CLC": (0, 0), "CLS-H": (0.5, 0), "CLS-L": (0, 0.5)}[ablation]
    criterion = build(METHOD, codes, tau_h=rates[0], tau_l=rates[1], ablation=ablation)
    out = step(criterion, f, g, codes, 30)[0]
    assert [float(out.parts[f"loss_{name}"]) for name in "fg"] == pytest.approx(expected, rel=1e-12)
    assert not out.modified.any()


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_when_all_is_removed_known_labels_remain(ablation):
    f, g, codes = random_case(5, 8, 8)
    out, gradient, _ = step(build(METHOD, codes, **in_force((0, 0)), ablation=ablation), f, g, codes)
    unknown = torch.from_numpy(codes == -1)
    assert bool((gradient[~unknown] != 0).all())
    assert torch.isfinite(out.total)
    if ablation != "CLC":
        assert not gradient[unknown].any()
        known = [loss for at, loss in oracle.label_losses(f, codes).items() if codes[at] != -1]
        assert float(out.parts["loss_f"]) == pytest.approx(sum(known) / 5)


def test_known_negatives_are_never_removed_and_count_for_no_share():
    f, g, codes = random_case(6, 10, 9)
    absent = codes == 0
    assert absent.any()
    f[absent], g[absent] = 50.0, -50.0  # the highest loss, and the lowest
    out, gradient_f, gradient_g = step(build(METHOD, codes, **in_force((0.5, 0.5))), f, g, codes)
    assert not out.modified[torch.from_numpy(absent)].any()
    assert int(out.modified.sum()) == math.ceil((codes == -1).sum() / 2)
    np.testing.assert_allclose(gradient_f[absent], 1 / 6, rtol=1e-9)
    assert bool((gradient_g[absent] > 0).all())


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_the_order_of_images_and_of_classes_does_not_matter(ablation):
    f, g, codes = random_case(6, 9, 10)
    rows, classes = np.random.default_rng(1).permutation(6), np.random.default_rng(2).permutation(9)
    criterion = build(METHOD, codes, **in_force((0.7, 0.8)), ablation=ablation)
    plain = step(criterion, f, g, codes)
    moved = step(criterion, *(each[rows][:, classes] for each in (f, g, codes)))
    torch.testing.assert_close(moved[0].total, plain[0].total)
    for ours, expected in zip([moved[0].modified, *moved[1:]], [plain[0].modified, *plain[1:]], strict=True):
        torch.testing.assert_close(ours, expected[rows][:, classes])


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("codes", [[[1, 1]], [[-1, -1]], [[-1, -1], [1, 1]], [[0, 0]], [[-1, 0]]], ids=str)
def test_batches_that_lack_something_have_a_loss(codes, reduction):
    table = [*codes, [-1] * 2]
    f, g = np.random.default_rng(0).normal(size=(2, *np.shape(codes)))
    for rates in ((0.5, 0.5), (0, 0), (0.4, 1)):
        criterion = build(METHOD, table, **in_force(rates), reduction=reduction)
        out, *gradients = step(criterion, f, g, codes)
        expected = oracle.label_selection(f, g, codes, *rates, reduction=reduction)
        for name, gradient, (loss, slope, _, _) in zip("fg", gradients, expected, strict=True):
            assert float(out.parts[f"loss_{name}"]) == pytest.approx(loss)
            np.testing.assert_allclose(gradient, slope, **EXACT)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("ablation", ABLATIONS)
def test_extreme_logits_in_any_precision_stay_finite(ablation, kind):
    codes = [[-1, -1, 1, 0], [-1, -1, -1, -1], [1, 0, -1, -1]]
    f = torch.tensor([[5e4, -5e4, 0, 30], [-5e4, -5e4, -5e4, 5e4], [-50, 50, -50, 50]], dtype=kind)
    for rates in ((0.9, 0.9), (0, 0)):
        criterion = build(METHOD, codes, **in_force(rates), ablation=ablation)
        out, *gradients = step(criterion, f, -f, codes)
        assert out.total.dtype == out.logits.dtype == (torch.float64 if kind == torch.float64 else torch.float32)
        assert torch.isfinite(out.total)
        assert all(torch.isfinite(each).all() for each in gradients)


def test_easy_negatives_are_told_apart_in_single_precision():
    f = torch.tensor([[-16.0, -19.0, -17.0, -18.0, 3.0]])  # losses of 1e-7 and below
    codes = [[-1, -1, -1, -1, 1]]
    _, gradient, _ = step(build(METHOD, codes, tau_h=0.0, tau_l=0.5, ramp_epochs=1), f, f, codes)
    assert (gradient != 0).tolist() == [[True, False, True, False, True]]


@pytest.mark.parametrize("kept, expected", [(0, (2, 1, 6)), (1, (2, 1, 6)), (2, (2, 2, 6)), (6, (2, 6, 6))])
def test_the_sum_is_divided_by_images_by_kept_labels_or_by_all_and_never_by_0(kept, expected):
    labels = (torch.arange(6) < kept).reshape(2, 3)
    assert tuple(int(divisor(labels, reduction)) for reduction in REDUCTIONS) == expected


def test_inputs_stay_as_they_were_and_only_the_loss_has_a_gradient():
    f, g, codes = random_case(4, 6, 11)
    batch = batch_with(f, g, codes)
    before = copy.deepcopy([batch.images.detach(), batch.observed, batch.index])
    out = build(METHOD, codes, **in_force((0.7, 0.7)), ablation="CLC")(echo_peers(), batch)
    for old, new in zip(before, [batch.images.detach(), batch.observed, batch.index], strict=True):
        assert torch.equal(old, new)
    assert out.total.requires_grad
    assert not any(part.requires_grad for part in [out.logits, out.modified, *out.parts.values()])
    np.testing.assert_array_equal(out.logits, f)


@pytest.mark.parametrize(
    "bad",
    [
        {"tau_h": -0.1},
        {"tau_l": 1.5},
        {"tau_h": math.nan},
        {"ramp_epochs": 0},
        {"schedule_lag": 2},
        {"ablation": "CLS"},
        {"reduction": "sum"},
        {"judge": "both"},
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused_in_one_line(bad):
    with pytest.raises(UserError, match=f"--{next(iter(bad))}") as refusal:
        CLSConfig(**bad)
    assert "\n" not in str(refusal.value)


def test_labels_without_unknown_ones_are_refused_unless_nothing_is_removed():
    codes = [[1, 0], [0, 1]]
    for settings in ({}, {"ablation": "CLC"}, {"tau_h": 0.0}, {"tau_h": 0.0, "ablation": "CLS-H"}):
        with pytest.raises(UserError, match="no label is unknown") as refusal:
            build(METHOD, codes, **settings)
        assert "--labels dropped" in str(refusal.value)
    for settings in ({"tau_h": 0.0, "tau_l": 0.0}, {"tau_h": 0.0, "ablation": "CLS-L"}):
        assert isinstance(build(METHOD, codes, **settings), CLS)
