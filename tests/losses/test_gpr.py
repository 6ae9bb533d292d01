"""GPR against golden values, slow loops and its limits; resuming, and several processes."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from losses import GR, GRConfig
from losses.gpr import GPR, GPRConfig, gpr_losses, tile_scores, top_codes
from losses.single_positive import count_penalty
from tests import golden_files
from tests.losses.fake_model import FakeModel, batch_of, info_for, random_labels
from tests.losses.steps import WAITING, Recorder, check_resume, trainer
from tests.ranks import run_ranks
from utils import collectives
from utils.checks import UserError
from utils.prior_scores import as_probabilities
from utils.types import ABSENT, PRESENT, UNKNOWN

ROWS, CLASSES = 10, 6
CODES = random_labels(ROWS, CLASSES, seed=4, rate=0.2)
INDEX = [4, 0, 3, 7]


def config(**settings):
    return GPRConfig(**{"expected_num_pos": 1.5, **settings})


def golden(kind):
    cases = golden_files.each_case("prior_scores.npz")
    return [each for each in cases if each.values[0] is None or each.values[0]["kind"] == kind]


@pytest.mark.parametrize("case, arrays", golden("damp"))
def test_golden_scores_of_tiles(case, arrays):
    images, tiles = len(arrays["obs"]), case["grid_size"] ** 2
    found = as_probabilities(arrays["similarity"], "cosine", case["temp"])
    parts = found[images:].reshape(tiles, images, -1).swapaxes(0, 1)
    scores = tile_scores(found[:images], parts, np.where(arrays["obs"] == 1, PRESENT, UNKNOWN), case["eta"])
    np.testing.assert_allclose(scores, arrays["final_score"], rtol=1e-5, atol=1e-6)
    codes = top_codes(scores, case["threshold"], case["top_k"])
    np.testing.assert_array_equal(codes == PRESENT, arrays["pseudo"] == 1)


@pytest.mark.parametrize("case, arrays", golden("gpr"))
@pytest.mark.parametrize("variant", ["reference", "fixed"])
def test_golden_losses_and_gradients(case, arrays, variant):
    logits = torch.from_numpy(arrays["logits"]).requires_grad_()
    observed = torch.where(torch.from_numpy(arrays["obs"]) == 1, PRESENT, UNKNOWN)
    given = torch.from_numpy(arrays["pseudo"]) * bool(case["use_pl"])
    guessed = torch.where(given == 1, PRESENT, torch.where(given == -1, ABSENT, UNKNOWN))
    settings = config(
        present_power=case["q2q3"][0],
        absent_power=case["q2q3"][1],
        pseudo_bounds=tuple(case["lam"]),
        pseudo_target=case["rho"],
        variant=variant,
    )
    pseudo, weights = torch.from_numpy(arrays["K"]), torch.from_numpy(arrays["V_before"])
    losses = gpr_losses(logits, observed, guessed, pseudo, weights, settings)
    total = losses.mean() + case["reg"] * count_penalty(torch.sigmoid(logits), case["expected_num_pos"])
    total.backward()
    near = {"rtol": 1e-9, "atol": 1e-12} if variant == "reference" else {"rtol": 1e-4, "atol": 1e-8}
    np.testing.assert_allclose(float(total.detach()), arrays["loss"], **near)
    np.testing.assert_allclose(logits.grad, arrays["grad"], **near)


def slow_losses(logits, observed, guessed, pseudo, weights, guard):
    """As the page writes them, entry by entry: target .9, weights of guessed labels from .4 to .7, powers .01 and 1."""
    found = np.zeros(logits.shape)
    for at, logit in np.ndenumerate(logits):
        p, k, v = 1 / (1 + math.exp(-logit)), pseudo[at], weights[at]
        if observed[at] == PRESENT:
            found[at] = -math.log(p + guard)
        elif observed[at] == ABSENT:
            found[at] = -math.log(1 - p)
        elif guessed[at] == PRESENT:
            trust = min(max(1 - v, 0.4), 0.7)
            found[at] = -trust * (0.9 * math.log(p + guard) + 0.1 * math.log(1 - p + guard))
        elif guessed[at] == ABSENT:
            found[at] = -v * math.log(1 - p + guard)
        else:
            found[at] = v * (k * (1 - p**0.01) / 0.01 + (1 - k) * p)
    return found


@pytest.mark.parametrize("variant, guard", [("fixed", 0.0), ("reference", 1e-7)])
def test_losses_match_loops(variant, guard):
    rng = np.random.default_rng(2)
    logits, (pseudo, weights) = rng.normal(0, 3, (6, 7)), rng.random((2, 6, 7))
    observed, guessed = random_labels(6, 7), rng.integers(-1, 2, (6, 7))
    given = [torch.tensor(each) for each in (logits, observed, guessed, pseudo, weights)]
    found = gpr_losses(*given, config(variant=variant))
    np.testing.assert_allclose(found, slow_losses(logits, observed, guessed, pseudo, weights, guard), rtol=1e-10)


def test_tiles_count_in_full_above_the_floor_or_the_score_of_what_is_observed():
    whole = np.array([[0.2, 0.6, 0.1], [0.2, 0.6, 0.1], [0.2, 0.6, 0.1]], np.float32)
    tiles = np.array([[[0.3, 0.25, 0.7], [0.1, 0.2, 0.3]]] * 3, np.float32)
    observed = np.array([[1, -1, -1], [-1, 1, -1], [0, -1, -1]], np.int8)
    found = tile_scores(whole, tiles, observed, 0.28)
    low, high = [0.25, 0.425, 0.4], [0.25, 0.4, 0.4]  # the floor is .2, the score of what is observed; or .28
    np.testing.assert_allclose(found, [low, high, high], rtol=1e-6)
    equal = tile_scores(whole[:1], tiles[:1], observed[1:2], float(tiles[0, 0, 0]))
    np.testing.assert_allclose(equal, [[0.15, 0.4, 0.4]], rtol=1e-6)  # a score at the floor is not above it
    both = np.array([[1, 1, -1]], np.int8)  # of several observed classes the largest score counts
    np.testing.assert_allclose(tile_scores(whole[:1], tiles[:1], both, 0.28), [high], rtol=1e-6)


def test_the_first_of_equal_scores_are_guessed_and_the_threshold_itself_is_enough():
    scores = np.array([[0.5, 0.75, 0.5, 0.25, 0.5]], np.float32)
    assert top_codes(scores, 0.5, 3).tolist() == [[1, 1, 1, -1, -1]]
    assert top_codes(scores, 0.51, 3).tolist() == [[-1, 1, -1, -1, -1]]
    assert top_codes(scores, 0.0, 9).tolist() == [[1, 1, 1, 1, 1]]
    assert top_codes(scores, 0.5, 3).dtype == np.int8


def test_losses_pass_gradcheck():
    torch.manual_seed(0)
    pseudo, weights = torch.rand(2, 5, 7).double()
    observed, guessed = torch.tensor(random_labels(5, 7)), torch.randint(-1, 2, (5, 7))
    logits = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    for variant in ("fixed", "reference"):
        settings = config(variant=variant)
        assert torch.autograd.gradcheck(
            lambda x, c=settings: gpr_losses(x, observed, guessed, pseudo, weights, c), (logits,)
        )


def test_without_high_scores_and_penalty_it_is_gr():
    model, batch, info = FakeModel(CLASSES), batch_of(CODES, INDEX), info_for(CODES)
    ours = GPR(config(pseudo_threshold=1.0, count_weight=0.0), info)(model, batch)
    torch.testing.assert_close(ours.total, GR(GRConfig(), info)(model, batch).total)
    assert not ours.modified.any()


def test_tiles_count_and_what_is_observed_stays():
    info = info_for(CODES)
    tiles = np.random.default_rng(3).random((ROWS, 4, CLASSES)).astype(np.float32)
    with_tiles = replace(info, prior_scores=replace(info.prior_scores, tiles=tiles))
    plain, tiled = (GPR(config(), each).guessed for each in (info, with_tiles))
    assert not torch.equal(plain, tiled)
    out = GPR(config(), with_tiles)(FakeModel(CLASSES), batch_of(CODES, INDEX))
    np.testing.assert_array_equal(out.modified, (CODES[INDEX] == UNKNOWN) & (tiled[INDEX].numpy() == PRESENT))
    names = ("positive", "negative", "unknown", "guess", "penalty")
    assert float(out.total.detach()) == pytest.approx(sum(float(out.parts[name]) for name in names), rel=1e-5)


def test_labels_are_found_in_blocks_of_all_tiles_and_not_saved(monkeypatch):
    tiles = np.random.default_rng(3).random((ROWS, 4, CLASSES)).astype(np.float32)
    info = replace(info_for(CODES), prior_scores=replace(info_for(CODES).prior_scores, tiles=tiles))
    whole = GPR(config(), info)
    monkeypatch.setattr("losses.vlpl._BLOCK", 3 * 5 * CLASSES)
    assert torch.equal(GPR(config(), info).guessed, whole.guessed)
    assert whole.guessed.dtype == torch.int8
    assert whole.state_dict() == {"_extra_state": {"epoch": 1}}
    assert [(need.name, need.size) for need in GPR.memory_needs(config(), info)] == [("guessed labels", ROWS * CLASSES)]


def part_of_a_batch(index, everyone, monkeypatch):
    """Loss and gradient of one of two processes: what all predict is summed as if the other were there."""
    model = FakeModel(CLASSES)
    p = torch.sigmoid(model(batch_of(CODES, everyone).images).logits.detach())
    asked = []
    total = torch.stack([p.sum(), torch.tensor(float(len(everyone)))])
    monkeypatch.setattr("losses.single_positive.all_sum", lambda values: asked.append(values.detach()) or total)
    out = GPR(config(count_weight=3.0), info_for(CODES))(model, batch_of(CODES, index))
    (out.total * len(index) / len(everyone)).backward()
    assert len(asked) == 1
    return asked[0], out.total.detach() * len(index) / len(everyone), model.head.weight.grad


def test_two_processes_have_the_loss_and_gradient_of_one(monkeypatch):
    everyone = [*INDEX, 8]
    expected = part_of_a_batch(everyone, everyone, monkeypatch)
    parts = [part_of_a_batch(everyone[rank::2], everyone, monkeypatch) for rank in range(2)]
    for found, whole in zip(zip(*parts, strict=True), expected, strict=True):
        torch.testing.assert_close(sum(found), whole, rtol=1e-5, atol=1e-6)


def share_a_batch(rank):
    everyone = [*INDEX, 8]
    index = everyone if rank is None else everyone[rank::2]
    model, share = FakeModel(CLASSES), len(index) / len(everyone)
    out = GPR(config(count_weight=3.0), info_for(CODES))(model, batch_of(CODES, index))
    (share * out.total).backward()
    return collectives.all_sum(share * out.total.detach()), collectives.all_sum(model.head.weight.grad)


@pytest.mark.slow
def test_real_processes_have_the_loss_and_gradient_of_one():
    alone = share_a_batch(None)
    for found in run_ranks(share_a_batch):
        for value, expected in zip(found, alone, strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cut", [1, 3, 4, 7])
def test_a_run_that_is_cut_ends_bit_for_bit_where_one_that_is_not_does(cut):
    def parts():
        model = FakeModel(CLASSES)
        return GPR(config(), info_for(CODES)), model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

    train = trainer([[0, 1, 2], [3, 4, 5]], lambda index: batch_of(CODES, index))
    assert check_resume(parts, train, cut)[0].epoch == 4


def test_a_step_waits_for_nothing_and_the_order_of_rows_does_not_matter():
    criterion, model = GPR(config(), info_for(CODES)), FakeModel(CLASSES)
    batch = batch_of(CODES, INDEX)
    with Recorder() as recorder:
        out = criterion(model, batch)
    assert not recorder.names & WAITING
    other = criterion(model, batch_of(CODES, INDEX[::-1]))
    torch.testing.assert_close(other.total, out.total)
    assert torch.equal(other.modified.flip(0), out.modified)
    assert float(out.parts["labelled"]) == pytest.approx(out.modified.sum(dim=1).float().mean())
    assert out.parts.keys() == {
        *("positive", "negative", "unknown", "guess", "penalty", "labelled", "pseudo_present"),
    }


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_saturated_logits_have_finite_losses_and_gradients(dtype):
    logits = (200 * torch.randn(4, CLASSES).sign()).to(dtype).requires_grad_()
    out = GPR(config(), info_for(CODES)).from_logits(logits, torch.from_numpy(CODES[INDEX]), torch.tensor(INDEX))
    out.total.backward()
    assert out.total.isfinite()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize(
    "settings",
    [
        {"pseudo_threshold": 1.5},
        {"pseudo_top": 0},
        {"tile_floor": -0.1},
        {"pseudo_bounds": (0.4, 0.7)},
        {"pseudo_target": 2.0},
        {"count_weight": -1.0},
        {"expected_num_pos": 0.0},
        {"count_weight": float("inf")},
        {"pseudo_bounds": (0.5,)},
        {"pseudo_bounds": (1.1, 0.4)},
        {"pseudo_bounds": (0.7, -0.1)},
        {"absent_power": -1.0},
    ],
)
def test_settings_that_cannot_work_are_refused(settings):
    with pytest.raises(UserError, match=f"^--{next(iter(settings))} "):
        config(**settings)


def test_the_ends_of_what_can_work():
    config(pseudo_threshold=1.0, pseudo_top=1, tile_floor=1.0, pseudo_bounds=(1.0, 0.0), pseudo_target=0.0)
    config(pseudo_threshold=0.0, count_weight=0.0, tile_floor=0.0, pseudo_bounds=(0.0, 0.0), pseudo_target=1.0)
    GPR(config(expected_num_pos=float(CLASSES)), info_for(CODES))


def test_labels_that_it_cannot_use_are_refused():
    with pytest.raises(UserError, match="gpr: no label is unknown"):
        GPR(config(), info_for(np.abs(CODES)))
    with pytest.raises(UserError, match=r"^--expected_num_pos is missing"):
        GPRConfig()
    with pytest.raises(UserError, match=r"^--expected_num_pos 7\.0: there are only 6 classes"):
        GPR(config(expected_num_pos=7.0), info_for(CODES))
    with pytest.raises(ValueError, match=r"gpr: CriterionInfo\.prior_scores is missing"):
        GPR(config(), replace(info_for(CODES), prior_scores=None))
