"""CoNeS as a criterion: one step, the state it leaves, resuming it, and sharing it between processes."""

import copy
from functools import partial

import numpy as np
import pytest
import torch

from losses import BCE, CRITERIA, BCEConfig, CoNeS, CoNeSConfig
from losses.common.base import Criterion
from losses.cones import VARIANTS, CoNeSVariant, cones_loss
from losses.cones_prototypes import initial_correlation, refresh_correlation
from tests.losses.fake_model import FakeModel, batch_of, info_for, random_labels
from tests.losses.steps import Recorder, check_resume, trainer
from tests.oracles import cones as oracle
from tests.ranks import run_ranks
from utils.checks import UserError
from utils.cooccurrence import cooccurrence
from utils.types import LabelTable, ModelOutput

ROWS, CLASSES = 12, 5
CODES = random_labels(ROWS, CLASSES, seed=3)
CODES[0] = [0, 0, 1, -1, 0]  # a sole candidate
SMALL = {"clusters": 2, "memory_per_class": 4, "mu": 0.6, "gamma": 0.5, "beta": 0.5}
ORDER = [[4, 0, 7, 9, 2, 11], [1, 3, 8, 5, 10, 6]]


def build(**settings):
    return CoNeS(CoNeSConfig(**SMALL | settings), info_for(CODES))


def test_one_step_in_its_order():
    criterion, model = build(), FakeModel(CLASSES)
    confidence = oracle.initial_confidence(CODES == 1)
    correlation = oracle.initial_correlation(CODES)
    for index in ORDER[:1] * 2:
        batch = batch_of(CODES, index)
        out = model(batch.images, want=frozenset({"cam"}))
        logits, candidates = out.logits.detach().double().numpy(), (CODES[index] == 1).astype(float)
        confidence[index] = oracle.update_confidence(confidence[index], logits, candidates, correlation, 0.6)
        expected = oracle.loss(logits, candidates, confidence[index], 3.0, 0.5)
        step = criterion(model, batch)
        found = [float(step.total.detach()), float(step.parts["bce"]), float(step.parts["pml"])]
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        np.testing.assert_allclose(criterion.confidence.dense(), confidence, rtol=1e-5)
        rows = oracle.prototypes(out.features.detach().numpy(), out.cam.numpy(), 0.1)
        newest = np.stack([criterion.bank.newest_first(label)[0] for label in range(CLASSES)])
        np.testing.assert_allclose(newest, rows, rtol=1e-4, atol=1e-5)
        marked = oracle.pseudo_labels(confidence[index], candidates).sum(axis=1).mean()
        assert float(step.parts["pseudo_positives"]) == pytest.approx(marked)


def dense_step(confidence, correlation, logits, index, candidates, mu):
    """Rows `index` of the confidences (N, C) of all labels after a step, which are written into them."""
    support = (torch.sigmoid(logits).double() @ correlation) * candidates
    moved = mu * confidence[index].double() + (1 - mu) * support / support.sum(dim=1, keepdim=True)
    for place in reversed(range(len(index))):  # of an image that comes twice the first row counts
        confidence[index[place]] = moved[place].float()
    return confidence[index]


def test_confidences_at_candidates_alone_are_those_of_all_labels_bit_for_bit():
    criterion, model = build(), FakeModel(CLASSES)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    present = torch.from_numpy(CODES == 1).float()
    confidence = present / present.sum(dim=1, keepdim=True)
    for epoch in (1, 2, 3):
        criterion.on_epoch_start(epoch)
        for index in [[4, 0, 7, 4, 2, 11], *ORDER]:
            batch, rows = batch_of(CODES, index), torch.tensor(index)
            logits, candidates = model(batch.images).logits.detach(), present[rows]
            kept = dense_step(confidence, criterion.correlation, logits, rows, candidates, 0.6)
            optimizer.zero_grad()
            step = criterion(model, batch)
            assert torch.equal(step.total, cones_loss(logits, candidates, kept, r=3.0, beta=0.5).total)
            assert torch.equal(criterion.confidence.dense(), confidence)
            step.total.backward()
            optimizer.step()


def test_the_model_is_called_once_with_what_is_needed_and_only_the_loss_has_a_gradient():
    model = FakeModel(CLASSES)
    out = build()(model, batch_of(CODES, ORDER[0]))
    assert model.calls == [frozenset({"cam"})]
    assert CoNeS.needs == {"cam", "features"}
    assert out.total.requires_grad
    assert not any(part.requires_grad for part in [out.logits, *out.parts.values()])


def test_without_beta_loss_and_gradient_are_those_of_the_baseline():
    batch, gradients, totals = batch_of(CODES, ORDER[0]), [], []
    for criterion in (build(beta=0.0), BCE(BCEConfig(), info_for(CODES))):
        model = FakeModel(CLASSES)
        total = criterion(model, batch).total
        total.backward()
        totals.append(total)
        gradients.append(model.head.weight.grad)
    assert torch.equal(*totals)
    assert torch.equal(*gradients)


def test_correlation_is_refreshed_from_the_second_epoch_on():
    criterion, model = build(), FakeModel(CLASSES)
    start = criterion.correlation.clone()
    for index in ORDER:
        criterion(model, batch_of(CODES, index))
    criterion.on_epoch_start(1)
    assert torch.equal(criterion.correlation, start)
    criterion.on_epoch_start(2)
    assert not torch.equal(criterion.correlation, start)
    assert criterion.correlation.dtype == torch.float64


@pytest.mark.parametrize("variant", ["fixed", "reference"])
def test_correlation_starts_and_is_refreshed_as_the_variant_says(variant):
    criterion, model, members = build(variant=variant), FakeModel(CLASSES), VARIANTS[variant]
    expected = initial_correlation(torch.from_numpy(cooccurrence(LabelTable(CODES))), axis=members.correlation_axis)
    assert torch.equal(criterion.correlation, expected)
    for index in ORDER:
        criterion(model, batch_of(CODES, index))
    rows = [criterion.bank.newest_first(label) for label in range(CLASSES)]
    expected = refresh_correlation(
        expected, rows, clusters=2, gamma=0.5, axis=members.correlation_axis, mix=members.correlation_mix
    )
    criterion.on_epoch_start(2)
    assert torch.equal(criterion.correlation, expected)


def test_a_refresh_without_prototypes_changes_nothing():
    criterion = build()
    start = criterion.correlation.clone()
    criterion.on_epoch_start(2)
    assert torch.equal(criterion.correlation, start)


def test_labels_without_company_or_candidates_leave_a_finite_state():
    codes = CODES.copy()
    codes[:, 0] = 0  # never a candidate
    codes[0] = -1  # an image without candidates
    codes[1] = 1  # an image of nothing but candidates
    codes[1, 0] = 1
    criterion, model = CoNeS(CoNeSConfig(**SMALL), info_for(codes)), FakeModel(CLASSES)
    for epoch in (1, 2, 3):
        criterion.on_epoch_start(epoch)
        for index in ORDER:
            assert torch.isfinite(criterion(model, batch_of(codes, index)).total)
    assert all(torch.isfinite(value).all() for value in criterion.state_dict().values())


def totals_and_state(**settings):
    criterion, model = build(**settings), FakeModel(CLASSES)
    totals = train(criterion, model, torch.optim.SGD(model.parameters(), lr=0.05), epochs=(1, 2))
    return [torch.tensor(totals), *criterion.state_dict().values()]


OTHERS = {name: getattr(VARIANTS["reference"], name) for name in CoNeSVariant._fields}
OTHERS |= {"prototype_images": "candidates", "pseudo_threshold": 0.2, "tau": 0.6, "r_ws": 2.0}


@pytest.mark.parametrize("name", OTHERS)
def test_each_setting_reaches_training(name):
    plain, changed = totals_and_state(), totals_and_state(**{name: OTHERS[name]})
    assert not all(torch.equal(a, b) for a, b in zip(plain, changed, strict=True))


@pytest.mark.parametrize("variant", ["fixed", "reference"])
def test_training_lowers_the_loss(variant):
    criterion, model = build(variant=variant), FakeModel(CLASSES)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    totals = train(criterion, model, optimizer, epochs=range(1, 9))
    assert np.mean(totals[-2:]) < np.mean(totals[:2])


@pytest.mark.parametrize("reduced", [torch.float16, torch.bfloat16])
def test_mixed_precision_leaves_state_and_loss_in_single_precision(reduced):
    criterion, model = build(), FakeModel(CLASSES)
    with torch.autocast("cpu", dtype=reduced):
        out = criterion(model, batch_of(CODES, ORDER[0]))
    assert out.total.dtype == torch.float32
    assert torch.isfinite(out.total)
    features = model(batch_of(CODES, ORDER[0]).images, want=frozenset({"cam"}))
    rows = oracle.prototypes(features.features.detach().numpy(), features.cam.numpy(), 0.1)
    np.testing.assert_allclose(criterion.bank.newest_first(2)[0], rows[2], rtol=0.05, atol=0.05)
    assert criterion.confidence.values.dtype == torch.float32


@pytest.mark.parametrize("kept", [(), ("features",), ("cam",)])
def test_a_model_without_features_or_class_activation_maps_is_refused_in_one_line(kept):
    maps = {"features": torch.ones(6, 8, 2, 2), "cam": torch.ones(6, CLASSES, 2, 2)}
    output = ModelOutput(torch.zeros(6, CLASSES), **{name: maps[name] for name in kept})
    with pytest.raises(UserError, match="class activation maps"):
        build()(lambda images, want: output, batch_of(CODES, ORDER[0]))


@pytest.mark.parametrize("variant", ["fixed", "reference"])
def test_a_step_never_waits_for_the_device_nor_expands_features_by_class(variant):
    criterion, model = build(variant=variant), FakeModel(CLASSES)
    criterion(model, batch_of(CODES, ORDER[0]))
    batch = batch_of(CODES, ORDER[1], size=32)
    features = model(batch.images).features
    with Recorder() as seen:
        criterion(model, batch)
    assert not seen.names & {"_local_scalar_dense", "nonzero", "_unique2", "masked_select", "is_nonzero"}
    assert "bmm" in seen.names
    assert seen.largest <= max(features.numel(), batch.images.numel(), criterion.bank.rows.numel())


train = trainer(ORDER, partial(batch_of, CODES))


@pytest.mark.parametrize("variant", ["fixed", "reference"])
@pytest.mark.parametrize("cut", [4, 5])  # at the end of an epoch, and in the middle of one
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(cut, variant):
    def parts():
        model = FakeModel(CLASSES)
        return build(variant=variant), model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

    check_resume(parts, train, cut)


def share_a_batch(rank, variant, order):
    """State after two epochs, of a process that sees its part of each batch."""
    criterion, model = build(variant=variant), FakeModel(CLASSES)
    for epoch in (1, 2):
        criterion.on_epoch_start(epoch)
        for index in order:
            part = index if rank is None else (index[:4] if rank == 0 else index[4:])
            criterion(model, batch_of(CODES, part))
    return copy.deepcopy(criterion.state_dict())


@pytest.mark.parametrize("variant", ["fixed", "reference"])
def test_two_ranks_hold_the_state_of_one_process_on_the_whole_batch(variant):
    alone = share_a_batch(None, variant, ORDER)
    first, second = run_ranks(share_a_batch, variant, ORDER)
    for name, expected in alone.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], expected, rtol=1e-5, atol=1e-6)


def test_methods_by_name_have_their_settings_beside_them():
    assert {"bce", "cones"} <= set(CRITERIA)
    for name, method in CRITERIA.items():
        assert issubclass(method.criterion, Criterion), name
        assert method.config.__module__ == method.criterion.__module__
    assert isinstance(CRITERIA["cones"].criterion(CRITERIA["cones"].config(), info_for(CODES)), CoNeS)
