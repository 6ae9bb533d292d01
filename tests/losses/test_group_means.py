"""The group regulariser: golden values, a slow loop, its controls, every method, several processes, resuming."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from losses import AN, CRITERIA, LSAN, ANConfig, LabelSmoothingConfig, build_criterion
from losses.common.base import Criterion
from losses.group_means import (
    GroupConfig,
    GroupMeans,
    group_losses,
    group_regularised,
    moved_means,
    seeded_means,
)
from tests import golden_files
from tests.losses.common.test_base import OPTIONS, labels_of
from tests.losses.common.test_base import ROWS as BASE_ROWS
from tests.losses.fake_model import FakeModel, batch_of, info_for, random_labels
from tests.losses.steps import WAITING, Recorder, check_resume, trainer
from tests.ranks import run_ranks
from utils import collectives
from utils.checks import UserError
from utils.types import PRESENT, LabelTable, LossOutput

ROWS, CLASSES = 10, 6
CODES = random_labels(ROWS, CLASSES, seed=4, rate=0.2)
GROUPS = np.array([0, 0, 1, 1, 1, 2, 3, 3, 2, 0])
INDEX = [4, 0, 2, 7, 9]


class Nothing(Criterion):
    """A loss of 0."""

    def forward(self, model, batch):
        logits = model(batch.images).logits
        return LossOutput(0 * logits.sum(), logits.detach(), {})


def build(kind=Nothing, groups=GROUPS, codes=CODES, own=None, **settings):
    config = GroupConfig(**{"group_weight": 0.5, **settings})
    info = replace(info_for(codes), groups=np.asarray(groups))
    return group_regularised("some", kind, config)(own, info)


def golden(kind):
    cases = golden_files.each_case("l48.npz")
    return [each for each in cases if each.values[0] is None or each.values[0]["kind"] == kind]


def right(arrays, name):
    return arrays.get(f"right_{name}", arrays[name])


@pytest.mark.parametrize("case, arrays", golden("regulariser"))
def test_golden_losses_gradients_and_means(case, arrays):
    groups = arrays["group"].astype(np.int64)
    codes = np.full((len(groups), arrays["logits"].shape[2]), -1, dtype=np.int8)
    criterion = build(groups=groups, codes=codes, group_weight=case["alpha"], group_rate=case["eps"])
    criterion.group_means = torch.from_numpy(arrays["mean_start"][: len(criterion.group_means)]).clone()
    for step, rows in enumerate(arrays["rows"].astype(np.int64)):
        logits = torch.from_numpy(arrays["logits"][step]).requires_grad_()
        out = criterion.from_logits(logits, torch.from_numpy(codes[rows]), torch.from_numpy(rows))
        out.total.backward()
        np.testing.assert_allclose(float(out.total.detach()), right(arrays, "loss")[step], rtol=1e-5)
        np.testing.assert_allclose(logits.grad, right(arrays, "grad")[step], rtol=1e-5, atol=1e-6)
        after = right(arrays, "mean_after")[step][: len(criterion.group_means)]
        np.testing.assert_allclose(criterion.group_means, after, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case, arrays", golden("seeding"))
def test_golden_positives_at_the_start(case, arrays):
    groups, seeded = np.unique(arrays["group"], return_inverse=True)
    means = seeded_means(seeded.astype(np.int64), LabelTable(arrays["observed"]), 0.25, seed=0)
    np.testing.assert_array_equal(means == 1, right(arrays, "seeded")[groups])
    assert set(means.unique().tolist()) <= {0.25, 1.0}


def test_means_at_the_start_are_drawn_by_the_seed_and_found_in_blocks(monkeypatch):
    one, same, other = (seeded_means(GROUPS, LabelTable(CODES), "uniform", seed) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    unknown = one < 1
    assert (one[unknown] >= 0.4).all()
    assert (one[unknown] <= 0.6).all()
    assert not torch.equal(one, other)
    monkeypatch.setattr("losses.group_means._BLOCK", 3)
    assert torch.equal(seeded_means(GROUPS, LabelTable(CODES), "uniform", 1), one)
    present = [[(CODES[group == GROUPS, label] == PRESENT).any() for label in range(CLASSES)] for group in range(4)]
    np.testing.assert_array_equal(~unknown, present)


def test_means_move_one_row_after_the_other():
    rng = np.random.default_rng(0)
    means, scores, rates = rng.random((4, 3)), rng.random((7, 3)), np.array([0.0, 0.3, 1.0, 0.5])
    groups = np.array([1, 3, 1, 2, 1, 2, 0])
    given = [torch.tensor(each) for each in (means[groups], groups, scores, rates[groups])]
    found = moved_means(*given)
    for group, row in zip(groups, scores, strict=True):
        means[group] = (1 - rates[group]) * means[group] + rates[group] * row
    np.testing.assert_allclose(found, means[groups], rtol=1e-12)


def test_losses_are_the_cross_entropy_against_the_mean_and_pass_gradcheck():
    torch.manual_seed(0)
    logits, means = torch.randn(4, 3, dtype=torch.float64, requires_grad=True), torch.rand(4, 3, dtype=torch.float64)
    expected = F.binary_cross_entropy_with_logits(logits, means, reduction="none")
    torch.testing.assert_close(group_losses(logits, means), expected)
    assert torch.autograd.gradcheck(lambda x: group_losses(x, means), (logits,))


@pytest.mark.parametrize("weight", [0.25, 1.0])
def test_assume_negative_with_means_of_one_half_is_label_smoothing(weight):
    codes, share = np.where(CODES == PRESENT, PRESENT, -1).astype(np.int8), weight / (1 + weight)
    model, batch = FakeModel(CLASSES), batch_of(codes, INDEX)
    ours = build(AN, codes=codes, own=ANConfig(), group_weight=weight, group_control="half")
    smooth = LSAN(LabelSmoothingConfig(ls_coef=share / 2), info_for(codes))
    for _ in range(2):
        torch.testing.assert_close(ours(model, batch).total, (1 + weight) * smooth(model, batch).total)
    assert (ours.group_means == 0.5).all()


def test_shuffled_groups_keep_their_sizes_and_follow_the_seed():
    one, same = (build(group_control="shuffled").group_of for _ in range(2))
    assert torch.equal(one, same)
    assert not np.array_equal(one, GROUPS)
    assert sorted(one.tolist()) == sorted(GROUPS.tolist())
    assert torch.equal(build().group_of, torch.from_numpy(GROUPS))


@pytest.mark.parametrize("rate, expected", [("group", [2 / 3, 2 / 3, 1.0, 1.0]), (0.25, [0.25] * 4)])
def test_a_mean_that_forgets_its_start_in_an_epoch_moves_by_the_size_of_its_group(rate, expected):
    np.testing.assert_allclose(build(group_rate=rate).group_rates, expected, rtol=1e-6)


def test_groups_of_one_image_are_its_own_former_scores():
    criterion, model, batch = build(groups=np.arange(ROWS), group_rate=1.0), FakeModel(CLASSES), batch_of(CODES, INDEX)
    criterion(model, batch)
    np.testing.assert_allclose(
        criterion.group_means[INDEX], torch.sigmoid(model(batch.images).logits).detach(), rtol=1e-5
    )


TAKES = [
    name
    for name, method in CRITERIA.items()
    if method.criterion.single_pass and not method.criterion.needs & {"peers", "second_view", "labels", "grids"}
]


@pytest.mark.parametrize("name", TAKES)
def test_every_method_of_one_forward_pass_takes_it_and_stays_what_it_is(name):
    codes = labels_of(name)
    options = {**OPTIONS.get(name, {}), "epochs": 4}
    model, batch = FakeModel(CLASSES), batch_of(codes, INDEX)
    plain = build_criterion(name, observed=codes, **options)
    ours = build_criterion(
        name, observed=codes, groups=GROUPS, regulariser=GroupConfig(group_weight=0.5, group_start=0.5), **options
    )
    assert BASE_ROWS == ROWS
    assert isinstance(ours, type(plain))
    assert ours.needs == plain.needs | {"groups"}
    assert ours.label_memories == plain.label_memories
    before = ours.group_means.clone()
    expected, out = plain(model, batch), ours(model, batch)
    logits = model(batch.images).logits
    added = 0.5 * group_losses(logits, before[GROUPS[INDEX]]).mean()
    torch.testing.assert_close(out.total, expected.total + added)
    assert out.parts.keys() == expected.parts.keys() | {"group"}
    torch.testing.assert_close(out.parts["group"], added.detach())
    assert ours.state_dict().keys() == plain.state_dict().keys() | {"group_means"}
    needs = type(ours).memory_needs(ours.config, ours.info)
    assert (needs[-1].name, needs[-1].size, needs[-1].per_image) == ("group means", 4 * 4 * CLASSES, False)
    assert len(needs) == 1 + len(plain.memory_needs(plain.config, plain.info))
    assert ours.refuses_spliced().startswith("learns from what each image belongs to")


@pytest.mark.parametrize("name", [name for name in CRITERIA if name not in TAKES and name != "label_mask"])
def test_methods_of_several_scores_refuse_it(name):
    with pytest.raises(UserError, match=rf"^--group_weight 0\.5: {name.replace('+', '.')} has several scores"):
        group_regularised(name, CRITERIA[name].criterion, GroupConfig(group_weight=0.5))


def test_without_weight_a_method_is_itself():
    for method in CRITERIA.values():
        assert group_regularised("some", method.criterion, GroupConfig()) is method.criterion


class Half:
    """The batch of two processes, told to one of them: its own rows, and what the other one sends."""

    def __init__(self, scores, index):
        self.scores, self.index = scores, torch.tensor(index)

    def rows(self, values):
        return self.scores.to(values.dtype)


def test_two_processes_have_the_loss_gradient_and_means_of_one(monkeypatch):
    alone, model = build(group_rate=0.3), FakeModel(CLASSES)
    scores = torch.sigmoid(model(batch_of(CODES, INDEX).images).logits).detach()
    whole = alone(model, batch_of(CODES, INDEX))
    whole.total.backward()
    gradient, model.head.weight.grad = model.head.weight.grad, None
    monkeypatch.setattr("losses.group_means.GlobalBatch", lambda batch: Half(scores, INDEX))
    totals = []
    for rank in range(2):
        own, index = build(group_rate=0.3), INDEX[rank::2]
        share = len(index) / len(INDEX)
        out = own(model, batch_of(CODES, index))
        (share * out.total).backward()
        totals.append(share * out.total.detach())
        torch.testing.assert_close(own.group_means, alone.group_means)
    torch.testing.assert_close(sum(totals), whole.total.detach())
    torch.testing.assert_close(model.head.weight.grad, gradient)


def share_batches(rank, told):
    """Loss, gradient and means of two batches, the second smaller than a pair of images for each of two processes."""
    found, criterion, model = [], build(group_rate=0.3), FakeModel(CLASSES)
    for everyone in (INDEX, INDEX[:1]):
        index = everyone if rank is None else everyone[rank % len(everyone) :: 2]
        whole = torch.tensor(everyone) if told and rank is not None else None
        out = criterion(model, batch_of(CODES, index)._replace(global_index=whole))
        model.zero_grad()
        share = len(index) / (max(len(everyone), 2) if rank is not None else len(everyone))
        (share * out.total).backward()
        total = collectives.all_sum(share * out.total.detach())
        found += [total, collectives.all_sum(model.head.weight.grad), criterion.group_means.clone()]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("told", [True, False])
def test_real_processes_have_the_loss_gradient_and_means_of_one(told):
    alone = share_batches(None, told)
    for found in run_ranks(share_batches, told):
        for value, expected in zip(found, alone, strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cut", [1, 3, 4, 7])
def test_a_run_that_is_cut_ends_bit_for_bit_where_one_that_is_not_does(cut):
    def parts():
        model = FakeModel(CLASSES)
        return build(AN, own=ANConfig()), model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

    train = trainer([[0, 1, 2], [3, 4, 5]], lambda index: batch_of(CODES, index))
    check_resume(parts, train, cut)


def test_a_step_waits_for_nothing():
    criterion, model, batch = build(), FakeModel(CLASSES), batch_of(CODES, INDEX)
    with Recorder() as recorder:
        criterion(model, batch)
    assert not recorder.names & WAITING


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_saturated_logits_have_finite_losses_gradients_and_means(dtype):
    criterion = build()
    logits = (200 * torch.randn(5, CLASSES).sign()).to(dtype).requires_grad_()
    out = criterion.from_logits(logits, torch.from_numpy(CODES[INDEX]), torch.tensor(INDEX))
    out.total.backward()
    assert out.total.isfinite()
    assert logits.grad.isfinite().all()
    assert criterion.group_means.isfinite().all()
    assert criterion.group_means.dtype == torch.float32


def test_means_stay_in_single_precision():
    criterion = build().in_float64()
    assert (criterion.group_means.dtype, criterion.group_rates.dtype) == (torch.float32, torch.float32)
    logits = torch.randn(5, CLASSES, dtype=torch.float64)
    out = criterion.from_logits(logits, torch.from_numpy(CODES[INDEX]), torch.tensor(INDEX))
    assert out.total.dtype == torch.float64


@pytest.mark.parametrize(
    "settings",
    [
        {"group_weight": -0.1},
        {"group_weight": float("inf")},
        {"group_rate": 1.1},
        {"group_rate": -0.1},
        {"group_start": 1.1},
        {"group_start": -0.1},
    ],
)
def test_settings_that_cannot_work_are_refused(settings):
    with pytest.raises(UserError, match=f"^--{next(iter(settings))} "):
        GroupConfig(**settings)
    GroupConfig(group_weight=0.0, group_rate=0.0, group_start=0.0)
    GroupConfig(group_rate=1.0, group_start=1.0)


def test_lacking_groups_are_told():
    info = SimpleNamespace(groups=None)
    kind = group_regularised("some", Nothing, GroupConfig(group_weight=1.0))
    assert issubclass(kind, GroupMeans)
    with pytest.raises(ValueError, match=r"CriterionInfo\.groups is missing"):
        kind.memory_needs(None, info)
    with pytest.raises(UserError, match=r"^an: give groups"):
        build_criterion("an", observed=CODES, regulariser=GroupConfig(group_weight=1.0))
