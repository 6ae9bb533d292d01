"""Hill and SPLC: the published code's values, slow loops and closed slopes, limits, labels that may be corrected."""

import io

import numpy as np
import pytest
import torch

from losses import SPLC, Hill, HillConfig, SPLCConfig, build_criterion
from losses.common.functional import weighted_bce
from losses.splc import corrections, hill_losses, splc_losses
from tests import golden_files
from tests.losses.fake_model import FakeModel, batch_of, info_for, random_labels
from tests.oracles import splc as oracle
from tests.ranks import run_ranks
from utils import collectives
from utils.checks import UserError
from utils.types import ABSENT, PRESENT, UNKNOWN, LabelTable

CODES = random_labels(7, 5, seed=3)
INDEX = [4, 0, 3, 6, 1]
EXTREME = (-1e4, -300.0, -200.0, -40.0, -3.0, 0.0, 3.0, 40.0, 200.0, 300.0, 1e4)
HILL, FOCAL = {"hill_lambda": 1.5, "margin": 1.0, "gamma": 2.0}, {"margin": 1.0, "gamma": 2.0}
SETTINGS = {"hill": (Hill, HillConfig), "splc": (SPLC, SPLCConfig)}


def taken(case, arrays, field, loss):
    """Whether the sum of `loss` and its gradient are those of the file; the reference's where it is finite."""
    logits = torch.from_numpy(arrays["logits"]).requires_grad_()
    total = loss(logits).sum()
    total.backward()
    exact = case["dtype"] == "float64"
    rtol, atol = (1e-9, 1e-9) if exact else (1e-5, 1e-6)
    np.testing.assert_allclose(float(total.detach()), arrays[f"{field}loss"], rtol=rtol)
    np.testing.assert_allclose(logits.grad, arrays[f"{field}grad"], rtol=rtol, atol=atol)


def wanted(arrays):
    """What a file asks for: the reference where all of it is finite, and the right values where it has them."""
    finite = np.isfinite(arrays["loss"]) and np.isfinite(arrays["grad"]).all()
    return [*([""] if finite else []), *(["right_"] if "right_loss" in arrays else [])]


@pytest.mark.parametrize("case, arrays", golden_files.each_case("hill.npz"))
def test_golden_hill(case, arrays):
    targets = torch.from_numpy(arrays["targets"])
    settings = {"hill_lambda": case["lamb"], "margin": case["margin"], "gamma": case["gamma"]}
    for field in wanted(arrays):
        taken(case, arrays, field, lambda logits: hill_losses(logits, targets.to(logits.dtype), **settings))


@pytest.mark.parametrize("case, arrays", golden_files.each_case("splc.npz"))
def test_golden_splc(case, arrays):
    """The published code takes every label that is not present for unknown, and counts epochs from 0."""
    codes = np.where(arrays["targets"] == 1, PRESENT, UNKNOWN).astype(np.int8)
    config = SPLCConfig(
        tau=case["tau"],
        start_epoch=case["change_epoch"] + 1,
        margin=case["margin"],
        focal_gamma=case["gamma"],
        population="all",
    )
    criterion, outputs = SPLC(config, info_for(codes)), []
    criterion.on_epoch_start(case["epoch"] + 1)

    def loss(logits):
        out = criterion.from_logits(logits, torch.tensor(codes), torch.arange(len(codes)))
        outputs.append(out)
        return out.total

    for field in wanted(arrays):
        taken(case, arrays, field, loss)
    for out in outputs:
        np.testing.assert_array_equal(out.modified, arrays["corrected"])
        assert float(out.parts["modified"]) == pytest.approx(arrays["corrected"].sum(axis=1).mean())


def drawn(seed, shape=(4, 6)):
    """Logits in float64, and which labels are present."""
    rng = np.random.default_rng(seed)
    return rng.normal(0, 4, shape), rng.random(shape) < 0.3


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("change", [{}, {"hill_lambda": 1.0}, {"margin": 0.0}, {"gamma": 0.5}, {"gamma": 0.0}])
def test_hill_and_its_slope_match_loops_for_hard_and_soft_targets(seed, change):
    logits, hard = drawn(seed)
    for targets in (hard.astype(float), np.random.default_rng(seed).random(hard.shape)):
        leaf = torch.tensor(logits, requires_grad=True)
        losses = hill_losses(leaf, torch.tensor(targets), **HILL | change)
        losses.sum().backward()
        expected = oracle.hill(logits, targets, *(HILL | change).values())
        np.testing.assert_allclose(losses.detach(), expected[0], rtol=1e-10, atol=1e-14)
        np.testing.assert_allclose(leaf.grad, expected[1], rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("change", [{}, {"margin": 0.0}, {"gamma": 0.5}, {"gamma": 0.0}, {"gamma": 5.0}])
def test_splc_and_its_slope_match_loops(seed, change):
    (logits, positive), settings = drawn(seed), FOCAL | change
    correctable = ~positive & (np.random.default_rng(seed + 9).random(positive.shape) < 0.7)
    leaf = torch.tensor(logits, requires_grad=True)
    corrected = corrections(leaf, torch.tensor(correctable), 0.6)
    losses = splc_losses(leaf, torch.tensor(positive).double(), corrected, **settings)
    losses.sum().backward()
    expected = oracle.splc(logits, positive, correctable, 0.6, *settings.values())
    np.testing.assert_array_equal(corrected, expected[2])
    assert corrected.any()
    np.testing.assert_allclose(losses.detach(), expected[0], rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(leaf.grad, expected[1], rtol=1e-9, atol=1e-14)


def test_both_pass_gradcheck():
    logits, positive = drawn(5, (3, 4))
    leaf, targets = torch.tensor(logits / 2, requires_grad=True), torch.tensor(positive).double()
    corrected = corrections(leaf, ~torch.tensor(positive), 0.6)
    for gamma in (0.0, 0.5, 2.0):
        assert torch.autograd.gradcheck(lambda z, g=gamma: hill_losses(z, targets, **HILL | {"gamma": g}), (leaf,))
        assert torch.autograd.gradcheck(
            lambda z, g=gamma: splc_losses(z, targets, corrected, margin=1.0, gamma=g), (leaf,)
        )


def test_the_hill_is_steepest_at_one_half_and_flat_where_a_label_is_predicted_with_confidence():
    logits = torch.linspace(-30, 30, 601, dtype=torch.float64, requires_grad=True)
    losses = hill_losses(logits, torch.zeros_like(logits), **HILL)
    losses.sum().backward()
    p = torch.sigmoid(logits.detach())
    torch.testing.assert_close(logits.grad, 3 * (p * (1 - p)).square())
    assert float(logits[logits.grad.argmax()].detach()) == pytest.approx(0, abs=1e-9)
    assert float(losses[-1].detach()) == pytest.approx(0.5)  # lambda - 1, where p is 1
    assert (losses.diff() > -1e-12).all()


def test_without_focus_margin_and_corrections_splc_is_bce():
    logits, positive = drawn(1)
    logits, targets = torch.tensor(logits), torch.tensor(positive).double()
    nothing = corrections(logits, torch.zeros_like(logits, dtype=torch.bool), 0.6)
    losses = splc_losses(logits, targets, nothing, margin=0.0, gamma=0.0)
    torch.testing.assert_close(losses.mean(), weighted_bce(logits, targets), rtol=1e-12, atol=0)


@pytest.mark.parametrize("gamma", [0.0, 0.01, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_losses_and_gradients_are_finite_at_any_logit(kind, gamma):
    values = torch.tensor(EXTREME, dtype=kind)
    for target in (0.0, 1.0):
        targets = torch.full_like(values, target)
        corrected = corrections(values, targets == 0, 0.6)
        for loss in (
            lambda z, y=targets: hill_losses(z, y, hill_lambda=1.5, margin=1.0, gamma=gamma),
            lambda z, y=targets, c=corrected: splc_losses(z, y, c, margin=1.0, gamma=gamma),
        ):
            leaf = values.clone().requires_grad_()
            losses = loss(leaf)
            losses.sum().backward()
            assert torch.isfinite(losses).all()
            assert torch.isfinite(leaf.grad).all()


def after(name, epoch=2, codes=CODES, **settings):
    """A criterion in some epoch."""
    criterion, config = SETTINGS[name]
    made = criterion(config(**settings), info_for(codes))
    made.on_epoch_start(epoch)
    return made


@pytest.mark.parametrize("reduction, scale", [("sum", 25), ("mean", 1)])
def test_one_step_of_hill_reads_unknown_as_absent(reduction, scale):
    model = FakeModel(5)
    out = after("hill", reduction=reduction, hill_lambda=1.2, margin=0.5, focal_gamma=1.5)(
        model, batch_of(CODES, INDEX)
    )
    losses, _ = oracle.hill(out.logits.double().numpy(), CODES[INDEX] == 1, 1.2, 0.5, 1.5)
    check(out, losses, scale)
    assert out.modified is None
    assert model.calls == [frozenset()]


@pytest.mark.parametrize("reduction, scale", [("sum", 25), ("mean", 1)])
@pytest.mark.parametrize("epoch, start", [(1, 2), (2, 2), (3, 4), (4, 4), (1, 1), (9, 2)])
@pytest.mark.parametrize("population", ["unknown", "all"])
def test_one_step_of_splc(reduction, scale, epoch, start, population):
    criterion = after("splc", epoch, reduction=reduction, tau=0.55, start_epoch=start, population=population)
    model, codes = FakeModel(5), CODES[INDEX]
    out = criterion(model, batch_of(CODES, INDEX))
    correctable = (codes == UNKNOWN if population == "unknown" else codes != PRESENT) & (epoch >= start)
    losses, _, corrected = oracle.splc(out.logits.double().numpy(), codes == PRESENT, correctable, 0.55, 1.0, 2.0)
    check(out, losses, scale)
    np.testing.assert_array_equal(out.modified, corrected)
    assert corrected.any() == (epoch >= start)
    assert float(out.parts["modified"]) == pytest.approx(corrected.sum(axis=1).mean())
    assert model.calls == [frozenset()]


def check(out, losses, scale):
    """The total is that of the losses, and so are both parts; no part has a gradient."""
    positive = CODES[INDEX] == PRESENT
    assert float(out.total.detach()) == pytest.approx(losses.mean() * scale, rel=1e-5)
    assert float(out.parts["positive"]) == pytest.approx((losses * positive).mean(), rel=1e-5)
    assert float(out.parts["negative"]) == pytest.approx((losses * ~positive).mean(), rel=1e-5)
    assert out.total.requires_grad
    assert not any(part.requires_grad for part in [out.logits, *out.parts.values()])


def test_a_label_known_to_be_absent_is_corrected_only_where_that_is_asked_for():
    codes = np.array([[PRESENT, ABSENT, UNKNOWN]], dtype=np.int8)
    for population, expected in (("unknown", [False, False, True]), ("all", [False, True, True])):
        criterion = after("splc", codes=codes, population=population)
        out = criterion.from_logits(torch.full((1, 3), 5.0), torch.tensor(codes), torch.tensor([0]))
        assert out.modified[0].tolist() == expected


def test_the_threshold_itself_corrects_nothing():
    everything = torch.ones(1, 3, dtype=torch.bool)
    logits = torch.tensor([[0.0, 1e-6, -1e-6]], dtype=torch.float64)
    assert corrections(logits, everything, 0.5).tolist() == [[False, True, False]]


@pytest.mark.parametrize("name", SETTINGS)
def test_the_order_of_rows_is_of_no_account(name):
    found = []
    for index in (INDEX, INDEX[::-1]):
        model = FakeModel(5)
        out = after(name)(model, batch_of(CODES, index))
        out.total.backward()
        found.append([out.total.detach(), model.head.weight.grad])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", SETTINGS)
def test_half_precision_saturated_logits_stay_finite(name, kind):
    codes = CODES[INDEX]
    logits = torch.full(codes.shape, 200.0, dtype=kind)
    logits[:, ::2] *= -1
    leaf = logits.requires_grad_()
    out = after(name).from_logits(leaf, torch.tensor(codes), torch.tensor(INDEX))
    out.total.backward()
    assert out.total.dtype == torch.float32
    assert torch.isfinite(out.total)
    assert torch.isfinite(leaf.grad).all()


def test_the_epoch_is_saved_and_nothing_else():
    criterion, file = after("splc", 2), io.BytesIO()
    torch.save(criterion.state_dict(), file)
    file.seek(0)
    resumed = SPLC(SPLCConfig(), info_for(CODES))
    resumed.load_state_dict(torch.load(file, weights_only=True))
    batch = batch_of(CODES, INDEX)
    expected, found = criterion(FakeModel(5), batch), resumed(FakeModel(5), batch)
    assert torch.equal(expected.total, found.total)
    assert expected.modified.any()
    assert torch.equal(expected.modified, found.modified)
    assert not SPLC(SPLCConfig(), info_for(CODES))(FakeModel(5), batch).modified.any()
    assert Hill(HillConfig(), info_for(CODES)).state_dict() == {}


def share_a_batch(rank):
    """Losses and gradients as the engine combines them: each rank's weighted by its share of the global batch."""
    index = INDEX if rank is None else (INDEX[:2] if rank == 0 else INDEX[2:])
    found = []
    for name in SETTINGS:
        for reduction in ("sum", "mean"):
            model, share = FakeModel(5), len(index) / len(INDEX)
            batch = batch_of(CODES, index)._replace(global_index=torch.tensor(INDEX))
            out = after(name, reduction=reduction)(model, batch)
            (share * out.total).backward()
            found += [collectives.all_sum(share * out.total), collectives.all_sum(model.head.weight.grad)]
    return found


def test_two_ranks_have_the_losses_and_gradients_of_one_process_on_the_whole_batch():
    alone = share_a_batch(None)
    for found in run_ranks(share_a_batch):
        for value, expected in zip(found, alone, strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "name, change",
    [
        *((name, change) for name in SETTINGS for change in ({"margin": 0.2}, {"focal_gamma": 1.0})),
        ("hill", {"hill_lambda": 2.0}),
        ("splc", {"tau": 0.9999}),
        ("splc", {"start_epoch": 3}),
        ("splc", {"population": "all"}),
    ],
)
def test_each_setting_reaches_training(name, change):
    gradients = []
    for settings in ({}, change):
        model = FakeModel(5)
        after(name, **settings)(model, batch_of(CODES, INDEX)).total.backward()
        gradients.append(model.head.weight.grad)
    assert not torch.allclose(*gradients)


@pytest.mark.parametrize(
    "wrong",
    [
        {"margin": -0.1},
        {"margin": float("inf")},
        {"focal_gamma": -1.0},
        {"reduction": "total"},
        {"hill_lambda": 0.9},
        {"hill_lambda": float("nan")},
        {"tau": 0.0},
        {"tau": 1.0},
        {"start_epoch": 0},
        {"population": "absent"},
    ],
)
def test_a_setting_that_cannot_work_is_refused_by_name(wrong):
    (name,) = wrong
    for _, config in SETTINGS.values():
        if name in config.__dataclass_fields__:
            with pytest.raises(UserError, match=f"^--{name} [^\n]*$"):
                config(**wrong)


def test_labels_of_which_none_may_be_corrected_are_refused():
    full = np.maximum(CODES, 0)
    with pytest.raises(UserError, match=r"^splc: no label is unknown, .* --population all .*, or --loss hill$"):
        build_criterion("splc", observed=full)
    assert build_criterion("splc", observed=full, population="all").config.population == "all"
    assert build_criterion("hill", observed=LabelTable(full))
