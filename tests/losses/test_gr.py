"""GR loss against the published code's numbers, the intended ones, slow loops, its closed-form gradient and limits."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from losses import AN, GR, ANConfig, GRConfig, build_criterion
from losses.gr import GRSchedule, entry_weights, gr_losses, gr_schedule, pseudo_labels, robust_losses
from tests import golden_files
from tests.losses.fake_model import FakeModel, batch_of, info_for, random_labels
from tests.losses.steps import check_resume, trainer
from tests.oracles import single_positive as oracle
from tests.ranks import run_ranks
from utils import collectives
from utils.checks import UserError
from utils.types import ABSENT, PRESENT, UNKNOWN, LabelTable

ROWS, CLASSES = 9, 5
CODES = random_labels(ROWS, CLASSES, seed=2)
INDEX = [4, 0, 3, 6]
ENDS = {"pseudo_slope": (1.0, 9.0), "pseudo_bias": (-3.0, -1.0), "weight_mean": (0.4, 0.9), "weight_std": (1.5, 0.3)}
OWN = ENDS | {"present_power": 0.3, "absent_power": 0.7}
GOLDEN = "gr_loss.npz"


def info_of(epochs=4, frozen=0, codes=CODES):
    info = info_for(codes)
    return type(info)(**{**vars(info), "epochs": epochs, "frozen_epochs": frozen})


def build(epoch=3, **settings):
    criterion = GR(GRConfig(**settings), info_of())
    criterion.on_epoch_start(epoch)
    return criterion


def golden_settings(case):
    """The settings that a case names in the order of the published code."""
    slope, slope_end, bias, bias_end = case["beta"]
    mean, std, mean_end, std_end = case["alpha"]
    present_power, absent_power = case["q2q3"]
    return {
        "pseudo_slope": (slope, slope_end),
        "pseudo_bias": (bias, bias_end),
        "weight_mean": (mean, mean_end),
        "weight_std": (std, std_end),
        "present_power": present_power,
        "absent_power": absent_power,
    }


def golden_step(case, arrays, dtype=None, **more):
    """Loss and gradient of a case, as float64 arrays, and the criterion."""
    logits = torch.from_numpy(arrays["logits"] if dtype is None else arrays["logits"].astype(dtype)).requires_grad_()
    observed = torch.from_numpy(np.where(arrays["obs"] == 1, PRESENT, UNKNOWN))
    criterion = build_criterion(
        "gr",
        observed=[[UNKNOWN] * logits.shape[1]],
        epochs=case["num_epochs"],
        frozen_epochs=case["linear_init"],
        **golden_settings(case),
        **more,
    )
    criterion.on_epoch_start(case["epoch"])
    out = criterion.from_logits(logits, observed, torch.zeros(len(logits)))
    out.total.backward()
    return float(out.total.detach()), logits.grad.numpy(), criterion


def require(arrays, *names):
    for name in names:
        if name not in arrays:
            pytest.skip(f"no {name} in this golden case")


def near(*dtypes):
    """The tolerance of a comparison in which these types of numbers have a part."""
    return {"rtol": 1e-5, "atol": 1e-6} if np.float32 in dtypes else {"rtol": 1e-9, "atol": 1e-12}


@pytest.mark.parametrize("case, arrays", golden_files.each_case(GOLDEN))
def test_golden_loss_of_the_published_code(case, arrays):
    require(arrays, "loss", "grad")
    if not case.get("ref_grad_finite", True):
        pytest.skip(f"{case['name']}: the published code has a gradient that is no number; see the intended one")
    total, gradient, _ = golden_step(case, arrays, variant="reference")
    np.testing.assert_allclose(total, arrays["loss"], **near(arrays["logits"].dtype))
    np.testing.assert_allclose(gradient, arrays["grad"], **near(arrays["logits"].dtype))


@pytest.mark.parametrize("case, arrays", golden_files.each_case(GOLDEN))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_golden_loss_as_intended(case, arrays, dtype):
    require(arrays, "right_loss", "right_grad")
    total, gradient, _ = golden_step(case, arrays, dtype)
    tolerance = near(dtype, arrays["logits"].dtype)  # the file's pseudo labels and weights are of its logits' type
    np.testing.assert_allclose(total, arrays["right_loss"], **tolerance)
    np.testing.assert_allclose(gradient, arrays["right_grad"], **tolerance)


@pytest.mark.parametrize("case, arrays", golden_files.each_case(GOLDEN))
def test_golden_schedules_pseudo_labels_and_weights(case, arrays):
    require(arrays, "w", "b", "mu", "sigma", "K", "V")
    now = golden_step(case, arrays)[2].schedule()
    np.testing.assert_allclose(now, [arrays[name] for name in ("w", "b", "mu", "sigma")], rtol=1e-12)
    p = torch.sigmoid(torch.from_numpy(arrays["logits"]))
    np.testing.assert_allclose(pseudo_labels(p, now), arrays["K"], **near(arrays["logits"].dtype))
    np.testing.assert_allclose(entry_weights(p, now), arrays["V"], **near(arrays["logits"].dtype))


@pytest.mark.parametrize("epochs, frozen", [(8, 0), (10, 3), (1, 0), (2, 1)])
def test_schedules_match_their_lines_in_every_epoch(epochs, frozen):
    for epoch in range(1, epochs + 1):
        found = gr_schedule(GRConfig(**ENDS), epoch, epochs, frozen)
        late = {"pseudo_slope": 1, "pseudo_bias": 1, "weight_mean": 0, "weight_std": 0}
        expected = [oracle.gr_numbers(ENDS[name], epoch, epochs, frozen, late[name]) for name in late]
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_pseudo_labels_begin_at_their_start_and_end_a_step_short_while_weights_reach_their_end():
    def at(epoch, frozen=0, epochs=8):
        return tuple(gr_schedule(GRConfig(**ENDS), epoch, epochs, frozen))

    assert at(1)[:2] == (1.0, -3.0)
    assert at(8) == pytest.approx((8.0, -1.25, 0.9, 0.3))
    assert at(3, frozen=3) == (1.0, -3.0, 0.4, 1.5)
    assert at(99, epochs=1) == pytest.approx((9.0, -1.0, 0.9, 0.3))  # a loop that did not say how long it is


def test_a_backbone_that_never_learns_does_not_hold_the_schedule_back():
    assert gr_schedule(GRConfig(), 5, 8, frozen=8) == gr_schedule(GRConfig(), 5, 8)


def of_the_loops(logits, codes, now, config, guard=0.0):
    """Mean loss and gradient (B, C) of float64 logits."""
    total, gradient = 0.0, np.zeros_like(logits)
    powers = config.present_power, config.absent_power
    for at in np.ndindex(*logits.shape):
        p = oracle.sigmoid(logits[at])
        k, v = oracle.gr_pseudo(p, now.slope, now.bias), oracle.gr_weight(p, now.mean, now.std)
        total += oracle.gr_entry(logits[at], codes[at], k, v, *powers, guard)
        gradient[at] = oracle.gr_gradient(logits[at], codes[at], k, v, *powers)
    return total / logits.size, gradient / logits.size


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("guard, variant", [(0.0, "fixed"), (1e-7, "reference")])
@pytest.mark.parametrize("change", [{}, {"present_power": 0.0, "absent_power": 1.5}, {"absent_power": 0.0}])
def test_loss_and_gradient_match_loops_whatever_is_known(seed, guard, variant, change):
    logits, codes = np.random.default_rng(seed).normal(0, 5, (4, 7)), random_labels(4, 7, seed)
    settings = OWN | change | {"variant": variant}
    criterion = build_criterion("gr", observed=codes, epochs=5, **settings)
    criterion.on_epoch_start(4)
    leaf = torch.tensor(logits, requires_grad=True)
    out = criterion.from_logits(leaf, torch.tensor(codes), torch.arange(4))
    out.total.backward()
    total, gradient = of_the_loops(logits, codes, criterion.schedule(), criterion.config, guard)
    assert float(out.total.detach()) == pytest.approx(total, rel=1e-9)
    np.testing.assert_allclose(leaf.grad, gradient, rtol=1e-9 if variant == "fixed" else 1e-3, atol=1e-12)


@pytest.mark.parametrize("powers", [(0.01, 1.0), (0.0, 0.0), (2.0, 1.5)])
def test_losses_pass_gradcheck(powers):
    logits = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    codes, pseudo, weights = torch.tensor(random_labels(5, 7)), torch.rand(5, 7).double(), torch.rand(5, 7).double()
    named = dict(zip(("present_power", "absent_power"), powers, strict=True))
    assert torch.autograd.gradcheck(lambda x: gr_losses(x, codes, pseudo, weights, **named), (logits,))


def test_the_robust_loss_goes_from_the_logarithm_to_the_distance():
    logs = torch.log(torch.tensor([1e-30, 0.01, 0.5, 1.0]).double())
    torch.testing.assert_close(robust_losses(logs, 0.0), -logs)
    torch.testing.assert_close(robust_losses(logs, 2e-9), -logs, rtol=1e-6, atol=0)
    torch.testing.assert_close(robust_losses(logs, 1.0), 1 - logs.exp())
    torch.testing.assert_close(robust_losses(logs, 1.5), (1 - logs.exp() ** 1.5) / 1.5)


def test_without_pseudo_labels_weights_and_powers_it_assumes_negative():
    plain = {"pseudo_bias": (-1000.0, -1000.0), "weight_std": (1000.0, 1000.0), "absent_power": 0.0}
    model, batch = FakeModel(CLASSES), batch_of(CODES, INDEX)
    ours, theirs = build(**plain)(model, batch), AN(ANConfig(), info_for(CODES))(model, batch)
    torch.testing.assert_close(ours.total, theirs.total, rtol=1e-5, atol=0)
    torch.testing.assert_close(ours.parts["positive"], theirs.parts["positive"])
    assert float(ours.parts["pseudo_present"]) == 0
    assert not ours.modified.any()


def test_sure_pseudo_labels_turn_what_is_unknown_into_present():
    sure = {"pseudo_bias": (1000.0, 1000.0), "weight_std": (1000.0, 1000.0), "present_power": 0.0}
    model, batch = FakeModel(CLASSES), batch_of(CODES, INDEX)
    turned = batch._replace(observed=batch.observed.abs())
    ours, theirs = build(**sure)(model, batch), AN(ANConfig(), info_for(CODES))(model, turned)
    torch.testing.assert_close(ours.total, theirs.total, rtol=1e-5, atol=0)
    assert torch.equal(ours.modified, batch.observed == UNKNOWN)


def test_one_step_is_the_formula_and_its_parts():
    criterion, model = build(**OWN), FakeModel(CLASSES)
    out, codes = criterion(model, batch_of(CODES, INDEX)), CODES[INDEX]
    logits = out.logits.double().numpy()
    assert float(out.total.detach()) == pytest.approx(
        of_the_loops(logits, codes, criterion.schedule(), criterion.config)[0], rel=1e-5
    )
    kinds = [float(out.parts[name]) for name in ("positive", "negative", "unknown")]
    assert sum(kinds) == pytest.approx(float(out.total.detach()), rel=1e-5)
    assert all(value > 0 for value in kinds)
    now, unknown = criterion.schedule(), codes == UNKNOWN
    pseudo = np.vectorize(lambda x: oracle.gr_pseudo(oracle.sigmoid(x), now.slope, now.bias))(logits)
    assert float(out.parts["pseudo_present"]) == pytest.approx((pseudo * unknown).sum() / len(INDEX), rel=1e-5)
    np.testing.assert_array_equal(out.modified, unknown & (pseudo > 0.5))
    assert float(out.parts["modified"]) == pytest.approx((unknown & (pseudo > 0.5)).sum() / len(INDEX))
    assert out.modified.any()
    assert (out.modified != torch.from_numpy(unknown)).any()
    assert not any(part.requires_grad for part in [out.logits, *out.parts.values()])
    assert model.calls == [frozenset()]
    assert criterion.memory_needs(criterion.config, criterion.info) == ()


def test_rows_and_classes_may_come_in_any_order():
    logits, codes = torch.randn(6, CLASSES).double(), torch.tensor(CODES[:6])
    rows, columns = torch.randperm(6), torch.randperm(CLASSES)
    one = build(**OWN).from_logits(logits, codes, torch.arange(6))
    other = build(**OWN).from_logits(logits[rows][:, columns], codes[rows][:, columns], rows)
    torch.testing.assert_close(one.total, other.total, rtol=1e-12, atol=0)
    assert torch.equal(one.modified[rows][:, columns], other.modified)


@pytest.mark.parametrize(
    "change",
    [
        {"pseudo_slope": (3.0, 9.0)},
        {"pseudo_slope": (1.0, 4.0)},
        {"pseudo_bias": (-3.0, 0.0)},
        {"weight_mean": (0.4, 0.2)},
        {"weight_std": (1.5, 2.0)},
        {"present_power": 1.0},
        {"absent_power": 1.5},
    ],
)
def test_each_setting_reaches_training(change):
    gradients = []
    for settings in (OWN, OWN | change):
        model = FakeModel(CLASSES)
        build(**settings)(model, batch_of(CODES, INDEX)).total.backward()
        gradients.append(model.head.weight.grad)
    assert not torch.allclose(*gradients)


def test_the_published_logarithm_loses_the_gradient_of_a_positive_that_is_missed():
    logits = torch.tensor([[-30.0, 0.0]])
    gradients = []
    for variant in ("fixed", "reference"):
        leaf = logits.clone().requires_grad_()
        build(variant=variant).from_logits(leaf, torch.tensor([[1, 1]]), torch.zeros(1)).total.backward()
        gradients.append(leaf.grad[0])
    assert gradients[0][0] == pytest.approx(-0.5)
    assert abs(gradients[1][0]) < 1e-5
    torch.testing.assert_close(gradients[0][1], gradients[1][1], rtol=1e-5, atol=0)


@pytest.mark.parametrize("variant", ["fixed", "reference"])
@pytest.mark.parametrize("power", [0.0, 0.01, 1.0, 10.0])
@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_loss_and_gradient_are_finite_at_any_logit(kind, power, variant):
    values = torch.tensor([-6e4, -200.0, -104.0, -40.0, 0.0, 40.0, 200.0, 6e4], dtype=kind)
    settings = {"present_power": power, "absent_power": power, "variant": variant, "weight_std": (0.001, 0.001)}
    for code in (PRESENT, ABSENT, UNKNOWN):
        for settings["pseudo_slope"] in ((-1000.0, -1000.0), (0.0, 0.0), (1000.0, 1000.0)):
            logits = values.clone()[None].requires_grad_()
            out = build(**settings).from_logits(logits, torch.full((1, 8), code), torch.zeros(1))
            out.total.backward()
            assert torch.isfinite(out.total)
            assert out.total.dtype == (torch.float64 if kind == torch.float64 else torch.float32)
            assert torch.isfinite(logits.grad).all()


TRAIN = trainer([[4, 0, 7, 2, 8], [1, 3, 5, 6]], lambda index: batch_of(CODES, index))


def parts():
    criterion, model = GR(GRConfig(**OWN), info_of()), FakeModel(CLASSES)
    return criterion, model, torch.optim.Adam(model.parameters(), lr=0.05)


@pytest.mark.parametrize("cut", [3, 4, 7])
def test_a_run_goes_on_in_any_step_to_the_same_numbers(cut):
    criterion = check_resume(parts, TRAIN, cut)[0]
    assert criterion.state_dict() == {"_extra_state": {"epoch": 4}}


def test_training_lowers_the_loss():
    totals = TRAIN(*parts(), range(1, 9))
    assert sum(totals[-2:]) < sum(totals[:2])


def share_a_batch(rank):
    """Loss and gradient as the engine combines them: each rank's weighted by its share of the global batch."""
    index = INDEX if rank is None else (INDEX[:2] if rank == 0 else INDEX[2:])
    criterion, model, share = build(**OWN), FakeModel(CLASSES), len(index) / len(INDEX)
    out = criterion(model, batch_of(CODES, index))
    (share * out.total).backward()
    return [collectives.all_sum(value) for value in (share * out.total, model.head.weight.grad)]


def test_two_ranks_have_the_loss_and_gradient_of_one_process_on_the_whole_batch():
    alone = share_a_batch(None)
    for found in run_ranks(share_a_batch):
        for value, expected in zip(found, alone, strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-7)


def test_labels_that_are_stored_sparse_are_taken():
    table = LabelTable(csr_array(np.where(CODES == UNKNOWN, 0, 1).astype(np.int8)), default=UNKNOWN)
    GR(GRConfig(), type(info_of())(**{**vars(info_of()), "observed": table}))


def test_labels_without_an_unknown_one_are_refused_in_one_line():
    with pytest.raises(UserError, match=r"^gr: no label is unknown, so it would be plain BCE; take --loss bce, or "):
        GR(GRConfig(), info_of(codes=np.abs(CODES)))


def test_one_unknown_label_is_enough():
    codes = np.ones((4, 3), dtype=np.int8)
    codes[2, 1] = UNKNOWN
    GR(GRConfig(), info_of(codes=codes))


def test_a_label_as_likely_present_as_absent_is_not_counted_as_turned():
    criterion = build(pseudo_slope=(0.0, 0.0), pseudo_bias=(0.0, 0.0))
    assert not criterion(FakeModel(CLASSES), batch_of(CODES, INDEX)).modified.any()


@pytest.mark.parametrize("name", ENDS)
@pytest.mark.parametrize("wrong", [(), (0.5,), (0.5, 0.5, 0.5), (float("nan"), 0.5), (0.5, 1000.5), (-1000.5, 0.5)])
def test_lines_have_two_ends_within_bounds(name, wrong):
    GRConfig(**{name: (0.001, 1000.0)})
    with pytest.raises(UserError, match=f"^--{name} .*: must be two numbers from -1000 to 1000, at the start and at"):
        GRConfig(**{name: wrong})


@pytest.mark.parametrize("wrong", [(0.0, 1.0), (1.0, 0.0009), (-1.0, 1.0)])
def test_a_weight_has_a_width(wrong):
    with pytest.raises(UserError, match=r"^--weight_std .*: both must be 0\.001 or more$"):
        GRConfig(weight_std=wrong)


def test_the_schedule_is_a_record_of_four_numbers():
    assert gr_schedule(GRConfig(), 1, 8) == GRSchedule(0.0, -2.0, 0.5 + 0.3 / 8, 2.0 - 1.5 / 8)
