"""CLS over steps: its schedule and state, what it asks of the networks, and sharing a batch between processes."""

from functools import partial
from itertools import product

import numpy as np
import pytest
import torch

from losses import CLS, CRITERIA
from tests.losses.fake_model import batch_of
from tests.losses.peers import SmallPeers, batch_with, build, dealt_out, echo_peers, random_case
from tests.losses.steps import WAITING, Recorder, check_resume, trainer
from tests.ranks import run_ranks
from utils import collectives

ROWS, CLASSES = 12, 5
CODES = random_case(ROWS, CLASSES, 20)[2]
ORDER = [[4, 0, 7, 9, 2], [1, 3, 8, 5, 10], [6, 11]]
SETTINGS = {"tau_h": 0.2, "tau_l": 0.3, "ramp_epochs": 3}
METHOD = CRITERIA["cls"]


def parts(**settings):
    model = SmallPeers(CLASSES)
    return build(METHOD, CODES, **SETTINGS | settings), model, torch.optim.Adam(model.parameters(), lr=0.01)


train = trainer(ORDER, partial(batch_of, CODES))


@pytest.mark.parametrize("cut", [6, 7])  # at the end of an epoch, and in the middle of one
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(cut):
    check_resume(parts, train, cut)


def test_the_rates_fall_to_their_full_size_and_begin_later_with_a_lag():
    plain, late = parts()[0], parts(schedule_lag=1)[0]
    rates = []
    for epoch in range(1, 6):
        plain.on_epoch_start(epoch)
        late.on_epoch_start(epoch)
        rates.append((plain.rates.high, late.rates.high))
    expected = [1 - 0.2 / 3, 1 - 0.4 / 3, 0.8, 0.8, 0.8]
    assert [rate for rate, _ in rates] == pytest.approx(expected)
    assert [rate for _, rate in rates] == pytest.approx([1, *expected[:-1]])


def test_each_network_is_called_once_and_learns_and_training_lowers_the_loss():
    criterion, model, optimizer = parts()
    totals = train(criterion, model, optimizer, range(1, 9))
    assert model.f.calls == model.g.calls == [frozenset()] * len(totals)
    assert np.mean(totals[-3:]) < np.mean(totals[:3])
    assert all(parameter.grad.any() for parameter in model.parameters())
    assert CLS.needs == {"peers"}


def test_the_loss_of_one_network_leaves_the_other_as_it_is():
    criterion, model, _ = parts()
    model.g.requires_grad_(False)
    criterion(model, batch_of(CODES, ORDER[0])).total.backward()
    alone = [parameter.grad.clone() for parameter in model.f.parameters()]
    model.zero_grad()
    model.g.requires_grad_(True)
    criterion(model, batch_of(CODES, ORDER[0])).total.backward()
    for parameter, gradient in zip(model.f.parameters(), alone, strict=True):
        assert torch.equal(parameter.grad, gradient)
    assert all(parameter.grad is not None for parameter in model.g.parameters())


@pytest.mark.parametrize("reduced", [torch.float16, torch.bfloat16])
def test_mixed_precision_leaves_the_loss_in_single_precision(reduced):
    criterion, model, _ = parts()
    criterion.on_epoch_start(3)
    with torch.autocast("cpu", dtype=reduced):
        out = criterion(model, batch_of(CODES, ORDER[0]))
    assert out.total.dtype == out.logits.dtype == torch.float32
    assert torch.isfinite(out.total)
    assert out.modified.any()


@pytest.mark.parametrize("reduction", ["sum_over_labels", "mean_kept", "mean_all"])
@pytest.mark.parametrize("ablation", ["none", "CLC"])
def test_a_step_never_waits_for_the_device(ablation, reduction):
    criterion, model, _ = parts(ablation=ablation, reduction=reduction)
    criterion.on_epoch_start(3)
    batch = batch_of(CODES, ORDER[0])
    with Recorder() as seen:
        criterion(model, batch)
    assert not seen.names & WAITING
    assert "sort" in seen.names or "argsort" in seen.names


# --- several processes: an epoch dealt out by the sampler; rounded logits, so that losses tie


def shared_logits(epoch):
    return np.random.default_rng(epoch).normal(0, 2, (2, ROWS, CLASSES)).round(0).astype(np.float32)


def share_epochs(rank, world_size, settings):
    """Of every step: the labels removed by image, their counts, and the gradients as the engine combines them."""
    found = []
    for setting, batch_size, epoch, told in product(settings, (2, 5), (1, 3), (True, False)):
        criterion, logits = build(METHOD, CODES, **SETTINGS | setting), shared_logits(epoch)
        criterion.on_epoch_start(epoch)
        for index, share, whole in dealt_out(rank, world_size, ROWS - 1, batch_size, epoch, told):
            batch = batch_with(logits[0][index], logits[1][index], CODES[index], index, whole if told else None)
            out = criterion(echo_peers(), batch)
            (out.total * share).backward()
            gradient = torch.zeros(ROWS, 2 * CLASSES).index_add(0, batch.index, batch.images.grad.flatten(1))
            removed = torch.zeros(ROWS, CLASSES).index_put((batch.index,), out.modified.float())
            counts = torch.stack([out.parts[name] for name in ("removed_high", "removed_low")])
            found.append((collectives.all_max(removed), counts, collectives.all_sum(gradient)))
    return found


@pytest.mark.slow
def test_several_processes_select_and_learn_as_one_does_on_the_whole_batch():
    settings = [{"ablation": name} for name in ("none", "CLC")]
    settings += [{"reduction": name} for name in ("mean_kept", "mean_all")]
    alone = share_epochs(0, 1, settings)
    for found in run_ranks(share_epochs, 3, settings, world_size=3):  # batches of two images go to all, or are padded
        for ours, expected in zip(found, alone, strict=True):
            torch.testing.assert_close(ours, expected)
    assert any(removed.any() for removed, *_ in alone)
