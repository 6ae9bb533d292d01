"""Co-teaching, Co-teaching+, Decoupling and JoCoR over steps: their state, and sharing a batch between processes."""

from functools import partial
from itertools import product

import numpy as np
import pytest
import torch

from losses import CRITERIA
from tests.losses.fake_model import batch_of
from tests.losses.peers import SmallPeers, batch_with, build, dealt_out, echo_peers, random_case
from tests.losses.steps import WAITING, Recorder, check_resume, trainer
from tests.losses.test_co_teaching import METHODS
from tests.ranks import run_ranks
from utils import collectives

ROWS, CLASSES = 12, 3
CODES = random_case(ROWS, CLASSES, 30)[2]
ORDER = [[4, 0, 7, 9, 2], [1, 3, 8, 5, 10], [6, 11]]
SETTINGS = {
    "co-teaching": {"forget_rate": 0.4, "ramp_epochs": 3},
    "co-teaching+": {"forget_rate": 0.4, "ramp_epochs": 3, "init_epoch": 2},
    "decoupling": {},
    "jocor": {"forget_rate": 0.4, "ramp_epochs": 3},
}


def parts(method):
    model = SmallPeers(CLASSES)
    return build(CRITERIA[method], CODES, **SETTINGS[method]), model, torch.optim.Adam(model.parameters(), lr=0.01)


train = trainer(ORDER, partial(batch_of, CODES))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("cut", [6, 7])  # at the end of an epoch, and in the middle of one
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(cut, method):
    check_resume(partial(parts, method), train, cut)


@pytest.mark.parametrize("method", METHODS)
def test_each_network_is_called_once_and_training_lowers_the_loss(method):
    criterion, model, optimizer = parts(method)
    images = [batch_of(CODES, index) for index in ORDER]
    criterion.on_epoch_start(1)

    def plain_loss():
        """Mean loss of f, assume-negative, whatever is selected."""
        with torch.no_grad():
            logits = torch.cat([model.f(batch.images).logits for batch in images])
        observed = torch.cat([batch.observed for batch in images])
        return float(torch.nn.functional.binary_cross_entropy_with_logits(logits, (observed == 1).float()))

    before, steps = plain_loss(), 3 * len(ORDER)
    model.f.calls.clear()
    train(criterion, model, optimizer, range(1, 4))
    assert model.f.calls == model.g.calls == [frozenset()] * steps
    assert plain_loss() < before
    assert criterion.needs == {"peers"}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("reduced", [torch.float16, torch.bfloat16])
def test_mixed_precision_leaves_the_loss_in_single_precision(reduced, method):
    criterion, model, _ = parts(method)
    criterion.on_epoch_start(3)
    with torch.autocast("cpu", dtype=reduced):
        out = criterion(model, batch_of(CODES, ORDER[0]))
    assert out.total.dtype == out.logits.dtype == torch.float32
    assert torch.isfinite(out.total)


@pytest.mark.parametrize(
    "method, epoch, waits",
    [
        ("co-teaching", 3, False),
        ("jocor", 3, False),
        ("co-teaching+", 1, False),  # warming up
        ("co-teaching+", 3, True),  # whether there is a step at all has to be known
        ("decoupling", 3, True),
    ],
)
def test_a_step_waits_for_the_device_only_to_be_called_off(method, epoch, waits):
    criterion, model, _ = parts(method)
    criterion.on_epoch_start(epoch)
    batch = batch_of(CODES, ORDER[0])
    with Recorder() as seen:
        criterion(model, batch)
    assert bool(seen.names & WAITING) == waits


# --- several processes: an epoch dealt out by the sampler; rounded logits, so that losses tie


def shared_logits(epoch):
    """Logits of f and g (2, N, C) that differ in sign in a quarter of the images."""
    f = np.random.default_rng(epoch).normal(0, 2, (ROWS, CLASSES)).round(0).astype(np.float32) + 0.25
    return f, np.where(np.arange(ROWS)[:, None] % 4 == 1, -f, f * 1.5)


def share_epochs(rank, world_size):
    """Of every step of every method: whether there is one, and loss and gradients as the engine combines them."""
    found = []
    for method, batch_size, epoch, told in product(METHODS, (2, 5), (1, 3), (True, False)):
        criterion, (f, g) = build(CRITERIA[method], CODES, **SETTINGS[method]), shared_logits(epoch)
        criterion.on_epoch_start(epoch)
        for index, share, whole in dealt_out(rank, world_size, ROWS - 1, batch_size, epoch, told):
            batch = batch_with(f[index], g[index], CODES[index], index, whole if told else None)
            total = criterion(echo_peers(), batch).total * share
            gradient = torch.zeros(ROWS, 2 * CLASSES)
            if total.requires_grad:
                total.backward()
                gradient.index_add_(0, batch.index, batch.images.grad.flatten(1))
            found.append((total.requires_grad, collectives.all_sum(total), collectives.all_sum(gradient)))
    return found


@pytest.mark.slow
def test_several_processes_choose_and_learn_as_one_does_on_the_whole_batch():
    alone = share_epochs(0, 1)
    for found in run_ranks(share_epochs, 3, world_size=3):  # batches of two images go to all, or are padded
        for ours, expected in zip(found, alone, strict=True):
            assert ours[0] == expected[0]
            torch.testing.assert_close(ours[1:], expected[1:])
    assert {steps for steps, *_ in alone} == {True, False}  # some batches hold no disagreement
