"""The state of IGNORE: resuming, precision, sharing a batch between processes."""

from functools import partial
from itertools import product

import numpy as np
import pytest
import torch

from losses import CRITERIA, Ignore, IgnoreConfig
from tests.losses.fake_model import FakeModel, batch_of, info_for
from tests.losses.steps import WAITING, Recorder, check_resume, trainer
from tests.losses.test_ignore import Answers, single
from tests.ranks import run_ranks
from utils.types import Batch

ROWS, CLASSES = 12, 5
CODES = single(ROWS, CLASSES, 21, empty=[3])
ORDER = [[4, 0, 7, 9, 2], [1, 3, 8, 5, 10], [6, 11]]
SETTINGS = {"gap_lambda": 0.8, "avg_lambda": 0.8, "reject_after": 1}


def build(**settings):
    return Ignore(IgnoreConfig(**SETTINGS | settings), info_for(CODES))


def two_views(index):
    """The rows at `index` in two views, which depend on the row alone."""
    batch = batch_of(CODES, index)
    return batch._replace(second_view=batch.images.flip(-1) + 0.1)


train = trainer(ORDER, two_views)


def parts(**settings):
    model = FakeModel(CLASSES)
    return build(**settings), model, torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)


@pytest.mark.parametrize("variant", ["fixed", "reference"])
@pytest.mark.parametrize("cut", [6, 7])  # at the end of an epoch, and in the middle of one
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(cut, variant):
    whole = check_resume(partial(parts, variant=variant), train, cut)
    assert whole[0](whole[1], two_views(ORDER[0])).modified.any()
    assert float(whole[0].gap_threshold) > 0


def test_training_lowers_the_loss():
    totals = train(*parts(), range(1, 9))
    assert np.mean(totals[-3:]) < np.mean(totals[:3])


@pytest.mark.parametrize("reduced", [torch.float16, torch.bfloat16])
def test_mixed_precision_leaves_the_loss_in_single_precision(reduced):
    criterion, model = build(gap_lambda=0.0, avg_lambda=0.0), FakeModel(CLASSES)
    criterion.on_epoch_start(2)
    with torch.autocast("cpu", dtype=reduced):
        out = criterion(model, two_views(ORDER[0]))
    out.total.backward()
    assert out.total.dtype == out.logits.dtype == torch.float32
    assert torch.isfinite(out.total)
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("settings", [{}, {"variant": "reference"}, {"several": "union", "masked_bn": "eval"}], ids=str)
def test_a_step_never_waits_for_the_device(settings):
    criterion, model = build(**settings), FakeModel(CLASSES)
    criterion.on_epoch_start(3)
    batch = two_views(ORDER[0])
    with Recorder() as seen:
        criterion(model, batch)
    assert not seen.names & WAITING
    assert "upsample_bilinear2d" in seen.names


def test_the_method_by_name_has_its_settings_beside_it():
    method = CRITERIA["ignore"]
    assert isinstance(method.criterion(method.config(), info_for(CODES)), Ignore)
    assert method.config.__module__ == method.criterion.__module__
    assert Ignore.needs == {"cam", "second_view"}


# --- several processes


def logits_of(step):
    """(3, N, C) logits of the three passes, and maps (N, C, 3, 3), of a step."""
    rng = np.random.default_rng(step)
    return torch.tensor(rng.normal(0, 2, (3, ROWS, CLASSES))), torch.tensor(rng.normal(size=(ROWS, CLASSES, 3, 3)))


def share_steps(rank, batches, settings):
    """For each setting and step: index, total, gradients, modified, masked images and thresholds of a process.

    Rank None has whole batches; rank r has rows r, r + 2, ... and the first row where none are left.
    """
    results = []
    for setting, told in product(settings, (True, False)):
        criterion = build(**setting).double()
        for number, whole in enumerate(batches):
            criterion.on_epoch_start(number + 1)
            index = whole if rank is None else whole[rank::2] or whole[:1]
            logits, cam = logits_of(number)
            inputs = logits[:, index].requires_grad_()
            model = Answers(*inputs, cam=cam[index])
            views = torch.ones(len(index), 3, 6, 6, dtype=torch.float64)
            observed, rows = torch.tensor(CODES[index]).double(), torch.tensor(index)
            everyone = torch.tensor(whole) if told else None
            out = criterion(model, Batch(views, observed, rows, views, global_index=everyone))
            out.total.backward()
            held = (out.total.detach(), inputs.grad, out.modified, model.images[2])
            results.append((index, *held, criterion.gap_threshold.clone(), criterion.average_threshold.clone()))
    return results


def test_two_ranks_do_what_one_process_does_on_the_whole_batch():
    settings = [{}, {"variant": "reference"}, {"several": "union", "cam_norm": "batch_minmax", "lat": False}]
    batches = [*ORDER[:2], [3], [6, 11], [3, 0, 5], [7]]  # odd ones, single ones, one whose only image has no positive
    alone = share_steps(None, batches, settings)
    for whole, *ranks in zip(alone, *run_ranks(share_steps, batches, settings), strict=True):
        size = max(len(whole[0]), 2)  # the engine weights by rows, padding included
        shares = [len(rank[0]) / size for rank in ranks]
        total = sum(share * rank[1] for share, rank in zip(shares, ranks, strict=True))
        torch.testing.assert_close(total, whole[1])
        gradient = torch.zeros_like(whole[2])
        for share, rank in zip(shares, ranks, strict=True):
            for place, row in enumerate(rank[0]):
                at = whole[0].index(row)
                gradient[:, at] += share * rank[2][:, place]
                assert torch.equal(rank[3][place], whole[3][at])
                assert torch.equal(rank[4][place], whole[4][at])
            torch.testing.assert_close(rank[5:], whole[5:])
        torch.testing.assert_close(gradient, whole[2])
    assert sum(int(step[3].sum()) for step in alone) > 0
