"""Co-teaching, Co-teaching+, Decoupling and JoCoR: golden values, slow loops, and what must hold of any batch."""

import copy
import math

import numpy as np
import pytest
import torch

from losses import CRITERIA, CoTeachingConfig, CoTeachingPlusConfig, DecouplingConfig, JoCoRConfig, methods_of
from losses.co_teaching import disagreements, divergence, exchanged, forgotten_share, joint, small_losses
from losses.common.base import PeerPair
from tests import golden_files
from tests.losses.peers import batch_with, build, echo_peers, random_case, slopes, step
from tests.oracles import co_label as oracle
from utils.checks import UserError

EXACT = {"rtol": 1e-10, "atol": 1e-12}
METHODS = [name for name in methods_of("main_cls.py") if name != "cls"]
SETTINGS = {
    "co-teaching": {"forget_rate": 0.4, "ramp_epochs": 1},
    "co-teaching+": {"forget_rate": 0.4, "ramp_epochs": 1, "init_epoch": 0},
    "decoupling": {},
    "jocor": {"forget_rate": 0.4, "ramp_epochs": 1, "agreement": 0.3},
}
EVERYTHING = [*SETTINGS.items(), ("decoupling", {"disagreement": "label"})]


def tensors(golden, *names):
    return [torch.from_numpy(golden[name]) for name in names]


def places(chosen):
    return chosen.nonzero().flatten().tolist()


def everyone(losses):
    return torch.ones(len(losses), dtype=torch.bool)


def forgetting(rate, **settings):
    """Settings under which this share is left out in epoch 1."""
    return {"forget_rate": float(rate), "ramp_epochs": 1, **settings}


def golden_step(golden, method, **settings):
    """(the output, gradient at f's logits, gradient at g's) on the several labels of a golden file."""
    codes = np.where(golden["ml_targets"] == 1, 1, -1)
    return step(build(CRITERIA[method], codes, **settings), golden["ml_logits_f"], golden["ml_logits_g"], codes)


def check_losses(out, golden, prefix):
    for name in "fg":
        np.testing.assert_allclose(out.parts[f"loss_{name}"], golden[f"{prefix}loss_{name}"], **EXACT)
    np.testing.assert_allclose(out.total.detach(), sum(golden[f"{prefix}loss_{name}"] for name in "fg"), **EXACT)


def learned(gradient):
    """The images at which a network has a gradient."""
    return places(gradient.any(dim=1))


def test_golden_losses_of_images_and_disagreements():
    golden = golden_files.load("coteaching.npz")
    codes = np.where(golden["ml_targets"] == 1, 1, -1)
    for name in "fg":
        found = oracle.image_losses(golden[f"ml_logits_{name}"], codes)  # so the loops are right, too
        np.testing.assert_allclose(found, golden[f"ml_loss_{name}"], **EXACT)
    differing = disagreements(PeerPair(*tensors(golden, "ml_logits_f", "ml_logits_g"))).any(dim=1)
    np.testing.assert_array_equal(differing, golden["disagree"])


@pytest.mark.parametrize(
    "method, prefix, extra", [("co-teaching", "ct", {}), ("co-teaching+", "ctp", {"init_epoch": 0})]
)
def test_golden_co_teaching(method, prefix, extra):
    golden = golden_files.load("coteaching.npz")
    for number, rate in enumerate(golden["forget_rate"]):
        out, gradient_f, gradient_g = golden_step(golden, method, **forgetting(rate, **extra))
        check_losses(out, golden, f"{prefix}{number}_")
        assert learned(gradient_f) == golden[f"{prefix}{number}_chosen_by_g"].tolist()
        assert learned(gradient_g) == golden[f"{prefix}{number}_chosen_by_f"].tolist()
        share = len(golden[f"{prefix}{number}_chosen_by_f"]) / len(golden["ml_targets"])
        assert float(out.parts["kept"]) == pytest.approx(share)


def test_golden_decoupling():
    golden = golden_files.load("coteaching.npz")
    out, *gradients = golden_step(golden, "decoupling")
    check_losses(out, golden, "dec_")
    for gradient in gradients:
        assert learned(gradient) == places(torch.from_numpy(golden["disagree"]))


def test_golden_choice_of_the_published_co_teaching_of_one_label_an_image():
    golden = golden_files.load("coteaching.npz")
    losses = PeerPair(*tensors(golden, "mc_loss1", "mc_loss2"))
    for number, rate in enumerate(golden["forget_rate"]):
        chosen = exchanged(losses, everyone(losses.f), float(rate))
        assert places(chosen.g) == sorted(golden[f"mc{number}_keep1"].tolist())  # chosen by the first, for the second
        assert places(chosen.f) == sorted(golden[f"mc{number}_keep2"].tolist())
        for values, keep, name in ((losses.f, chosen.f, "ref_loss1"), (losses.g, chosen.g, "ref_loss2")):
            published = values[keep].mean() / keep.sum()  # the published code divides by the count twice
            np.testing.assert_allclose(published, golden[f"mc{number}_{name}"], **EXACT)


def test_golden_schedule():
    golden = golden_files.load("coteaching.npz")
    for key, expected in golden_files.part(golden, "sched_fr").items():
        rate, ramp, exponent = key.replace("_Tk", " ").replace("_c", " ").split()
        config = CoTeachingConfig(forget_rate=float(rate), ramp_epochs=int(ramp), exponent=float(exponent))
        shares = [forgotten_share(config, epoch) for epoch in range(len(expected))]
        np.testing.assert_allclose(shares, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("ramp", [1, 2, 3, 10])
def test_the_share_grows_in_even_steps_over_ramps_of_any_length(ramp):
    config = CoTeachingConfig(forget_rate=0.25, ramp_epochs=ramp, exponent=0.5)
    rising = [0.5 * epoch / (ramp - 1) for epoch in range(1, ramp)]
    shares = [forgotten_share(config, epoch) for epoch in range(ramp + 3)]
    assert shares == pytest.approx([0, *rising, 0.25, 0.25, 0.25])


def test_golden_jocor():
    golden = golden_files.load("jocor.npz")
    apart = divergence(PeerPair(*tensors(golden, "ml_logits_f", "ml_logits_g")))
    np.testing.assert_allclose(apart, golden["ml_symkl"], **EXACT)
    f, g = tensors(golden, "ml_bce_f", "ml_bce_g")
    for number, (rate, weight) in enumerate(golden["cases"]):
        out, *gradients = golden_step(golden, "jocor", **forgetting(rate, agreement=float(weight)))
        np.testing.assert_allclose(joint(PeerPair(f, g), apart, float(weight)), golden[f"ml{number}_pick"], **EXACT)
        np.testing.assert_allclose(out.total.detach(), golden[f"ml{number}_loss"], **EXACT)
        for gradient in gradients:
            assert learned(gradient) == golden[f"ml{number}_keep"].tolist()


def test_golden_choice_of_the_published_jocor_of_one_label_an_image():
    golden = golden_files.load("jocor.npz")
    first, second, to_first, to_second = tensors(golden, "mc_ce1", "mc_ce2", "mc_kl_2to1", "mc_kl_1to2")
    for number, (rate, weight) in enumerate(golden["cases"]):
        losses = joint(PeerPair(first, second), to_first + to_second, float(weight))
        np.testing.assert_allclose(losses, golden[f"mc{number}_pick"], **EXACT)
        chosen = small_losses(losses, everyone(losses), float(rate))
        assert places(chosen) == golden[f"mc{number}_keep"].tolist()
        np.testing.assert_allclose(losses[chosen].mean(), golden[f"mc{number}_loss"], **EXACT)


def expected_losses(method, f, g, codes, settings):
    """(loss of f, loss of g) by slow loops; of JoCoR the joint loss alone."""
    rate = settings.get("forget_rate")
    if method == "decoupling":
        return oracle.decoupling(f, g, codes, settings.get("disagreement") == "label")
    if method == "jocor":
        return oracle.jocor(f, g, codes, rate, settings["agreement"])[:1]
    return {"co-teaching": oracle.co_teaching, "co-teaching+": oracle.co_teaching_plus}[method](f, g, codes, rate)[:2]


@pytest.mark.parametrize("method, settings", EVERYTHING, ids=str)
@pytest.mark.parametrize("seed", range(4))
def test_a_step_matches_loops(seed, method, settings):
    f, g, codes = random_case(9, 3, seed)
    g = np.where(np.random.default_rng(seed).random((9, 1)) < 0.5, f + 0.01, g)  # some images they agree on
    f, g = f.round(seed), g.round(seed)  # few digits, so that losses tie
    out = step(build(CRITERIA[method], codes, **settings), f, g, codes)[0]
    expected = expected_losses(method, f, g, codes, settings)
    assert float(out.total.detach()) == pytest.approx(sum(expected), rel=1e-10)
    if method != "jocor":
        assert [float(out.parts[f"loss_{name}"]) for name in "fg"] == pytest.approx(expected, rel=1e-10)
    if "disagreeing" in out.parts:
        differing = {image for image, _ in oracle.disagreements(f, g)}
        assert 0 < len(differing) < 9
        assert float(out.parts["disagreeing"]) == pytest.approx(len(differing) / 9)


@pytest.mark.parametrize("method, settings", EVERYTHING, ids=str)
def test_gradient_is_the_slope_of_the_loss(method, settings):
    f, g, codes = random_case(5, 3, 5)
    criterion = build(CRITERIA[method], codes, **settings)
    _, *gradients = step(criterion, f, g, codes)
    for gradient, slope in zip(gradients, slopes(criterion, f, g, codes), strict=True):
        np.testing.assert_allclose(gradient, slope, rtol=1e-6, atol=1e-7)


def test_networks_learn_from_what_the_other_chooses():
    codes = -np.ones((3, 2))
    f, g = np.array([[-5.0, -5], [3, 3], [4, 4]]), np.array([[4.0, 4], [-5, -5], [3, 3]])
    _, gradient_f, gradient_g = step(build(CRITERIA["co-teaching"], codes, **forgetting(0.6)), f, g, codes)
    assert learned(gradient_f) == [1]  # of the smallest loss in g
    assert learned(gradient_g) == [0]


def test_small_losses_keep_all_members_rather_than_none():
    losses = torch.tensor([3.0, 1.0, 2.0])
    assert places(small_losses(losses, torch.tensor([True, False, False]), 0.9)) == [0]
    assert places(small_losses(losses, everyone(losses), 0.7)) == [0, 1, 2]
    assert places(small_losses(losses, everyone(losses), 0.5)) == [1]
    assert places(small_losses(torch.zeros(5), everyone(torch.zeros(5)), 0.4)) == [0, 1, 2]  # ties: the first
    assert not small_losses(losses, ~everyone(losses), 0.5).any()


@pytest.mark.parametrize("method", METHODS)
def test_the_order_of_images_and_of_classes_does_not_matter(method):
    f, g, codes = random_case(7, 4, 6)
    rows, classes = np.random.default_rng(1).permutation(7), np.random.default_rng(2).permutation(4)
    criterion = build(CRITERIA[method], codes, **SETTINGS[method])
    plain = step(criterion, f, g, codes)
    moved = step(criterion, *(each[rows][:, classes] for each in (f, g, codes)))
    torch.testing.assert_close(moved[0].total, plain[0].total)
    for ours, expected in zip(moved[1:], plain[1:], strict=True):
        torch.testing.assert_close(ours, expected[rows][:, classes])


def test_without_forgetting_co_teaching_is_bce_of_both_networks():
    f, g, codes = random_case(5, 4, 7)
    out = step(build(CRITERIA["co-teaching"], codes, forget_rate=0.0), f, g, codes, 20)[0]
    expected = [np.mean(oracle.image_losses(each, codes)) for each in (f, g)]
    assert [float(out.parts[f"loss_{name}"]) for name in "fg"] == pytest.approx(expected, rel=1e-12)
    joined = step(build(CRITERIA["jocor"], codes, forget_rate=0.0, agreement=0.0), f, g, codes, 20)[0]
    assert float(joined.total.detach()) == pytest.approx(sum(expected), rel=1e-12)


def test_networks_that_are_the_same_do_not_diverge_and_others_are_pulled_together():
    f, g, codes = random_case(5, 4, 8)
    same, *gradients = step(build(CRITERIA["jocor"], codes, agreement=1.0), f, f, codes)
    assert float(same.total.detach()) == 0
    assert not any(gradient.any() for gradient in gradients)
    out, gradient_f, gradient_g = step(build(CRITERIA["jocor"], codes, **forgetting(0, agreement=1.0)), f, g, codes)
    assert float(out.parts["divergence"]) == pytest.approx(float(out.total.detach()))
    assert bool((gradient_f.sign() == torch.from_numpy(np.sign(f - g))).all())
    assert bool((gradient_g.sign() == -gradient_f.sign()).all())


@pytest.mark.parametrize("method", ["decoupling", "co-teaching+"])
def test_there_is_no_step_where_networks_agree(method):
    f, _, codes = random_case(4, 3, 9)
    out, gradient, _ = step(build(CRITERIA[method], codes, **SETTINGS[method]), f, 2 * f, codes)
    assert gradient is None
    assert float(out.total) == float(out.parts["loss_f"]) == 0
    assert float(out.parts["disagreeing"]) == 0


def test_co_teaching_plus_begins_as_co_teaching():
    f, g, codes = random_case(6, 2, 10)
    g[::2] = f[::2]
    settings = {"forget_rate": 0.5, "ramp_epochs": 2}
    plus = build(CRITERIA["co-teaching+"], codes, init_epoch=3, **settings)
    plain = build(CRITERIA["co-teaching"], codes, **settings)
    totals = [
        [float(step(each, f, g, codes, epoch)[0].total.detach()) for epoch in range(1, 6)] for each in (plus, plain)
    ]
    assert totals[0][:3] == totals[1][:3]
    assert totals[0][3:] != totals[1][3:]
    assert step(plus, f, f, codes, 3)[0].total.requires_grad  # agreeing networks learn while it lasts
    assert not step(plus, f, f, codes, 4)[0].total.requires_grad


def test_disagreement_on_labels_leaves_the_others_alone():
    f, g, codes = random_case(5, 4, 11)
    _, *gradients = step(build(CRITERIA["decoupling"], codes, disagreement="label"), f, g, codes)
    for gradient in gradients:
        np.testing.assert_array_equal(gradient != 0, (f >= 0) != (g >= 0))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("method", METHODS)
def test_extreme_logits_in_any_precision_stay_finite(method, kind):
    codes = [[-1, -1, 1, 0], [-1, -1, -1, -1], [1, 0, -1, -1]]
    f = torch.tensor([[5e4, -5e4, 0, 30], [-5e4, -5e4, -5e4, 5e4], [-50, 50, -50, 50]], dtype=kind)
    out, *gradients = step(build(CRITERIA[method], codes, **SETTINGS[method]), f, -f, codes)
    assert out.total.dtype == out.logits.dtype == (torch.float64 if kind == torch.float64 else torch.float32)
    assert torch.isfinite(out.total)
    assert all(torch.isfinite(each).all() for each in gradients)


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_of_one_image_and_one_class_works(method):
    out, *gradients = step(build(CRITERIA[method], [[-1]], **SETTINGS[method]), [[1.0]], [[-2.0]], [[-1]])
    expected = expected_losses(method, np.array([[1.0]]), np.array([[-2.0]]), [[-1]], SETTINGS[method])
    assert float(out.total.detach()) == pytest.approx(sum(expected), rel=1e-6)
    assert all(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("method", METHODS)
def test_inputs_stay_as_they_were_and_only_the_loss_has_a_gradient(method):
    f, g, codes = random_case(4, 6, 12)
    batch = batch_with(f, g, codes)
    before = copy.deepcopy([batch.images.detach(), batch.observed, batch.index])
    out = build(CRITERIA[method], codes, **SETTINGS[method])(echo_peers(), batch)
    for old, new in zip(before, [batch.images.detach(), batch.observed, batch.index], strict=True):
        assert torch.equal(old, new)
    assert out.total.requires_grad
    assert not any(part.requires_grad for part in [out.logits, *out.parts.values()])
    assert out.modified is None
    np.testing.assert_array_equal(out.logits, f)


@pytest.mark.parametrize(
    "config, bad",
    [
        (CoTeachingConfig, {"forget_rate": 1.0}),
        (CoTeachingConfig, {"forget_rate": math.nan}),
        (CoTeachingConfig, {"ramp_epochs": 0}),
        (CoTeachingConfig, {"exponent": 0.0}),
        (CoTeachingConfig, {"exponent": math.inf}),
        (CoTeachingPlusConfig, {"init_epoch": -1}),
        (CoTeachingPlusConfig, {"forget_rate": -0.1}),
        (DecouplingConfig, {"disagreement": "class"}),
        (JoCoRConfig, {"agreement": 1.1}),
        (JoCoRConfig, {"ramp_epochs": -1}),
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused_in_one_line(config, bad):
    with pytest.raises(UserError, match=f"--{next(iter(bad))}") as refusal:
        config(**bad)
    assert "\n" not in str(refusal.value)
