"""NDLP's state: resuming, half precision, and sharing a batch between processes."""

import copy
from dataclasses import replace
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch

from data.loading.samplers import ShuffledBatches
from losses import NDLP, NDLPConfig
from losses.ndlp import VARIANTS, NDLPVariant
from tests.losses.fake_model import FakeModel, batch_of, info_for, random_labels
from tests.losses.steps import WAITING, Recorder, check_resume, trainer
from tests.losses.test_ndlp import views
from tests.ranks import run_ranks
from utils.class_facts import ClassCounts

ROWS, CLASSES = 12, 5
CODES = random_labels(ROWS, CLASSES, seed=3)
ORDER = [[4, 0, 7, 9, 2, 4, 11], [1, 3, 8, 5, 1, 10, 6]]  # images 4 and 1 come twice
FAST = {"mu": 0.4, "gamma": 2.0}
EACH = {"confidence": "sigmoid", "rejected": "ignored", "candidate_epochs": 1}


def build(**settings):
    info = replace(info_for(CODES), clean_counts=ClassCounts(np.array([5, 1, 2, 7, 3]), "clean"))
    return NDLP(NDLPConfig(**FAST | settings), info)


def parts(**settings):
    model = FakeModel(CLASSES)
    return build(**settings), model, torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)


train = trainer(ORDER, partial(views, CODES))


@pytest.mark.parametrize("settings", [{}, {"variant": "reference"}, {"prior": "confidence"}, EACH], ids=str)
@pytest.mark.parametrize("cut", [4, 5])  # at the end of an epoch, and in the middle of one
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(cut, settings):
    check_resume(partial(parts, **settings), train, cut)


@pytest.mark.parametrize("variant", ["fixed", "reference"])
def test_training_lowers_the_loss(variant):
    totals = train(*parts(variant=variant, eta=0.0), range(1, 13))
    assert np.mean(totals[-2:]) < np.mean(totals[:2])


@pytest.mark.parametrize("settings", [{}, EACH], ids=str)
def test_totals_follow_the_confidences_and_are_taken_anew_as_an_epoch_starts(settings):
    criterion, model, optimizer = parts(**settings)
    train(criterion, model, optimizer, range(1, 9))
    dense = criterion.confidence.dense()
    torch.testing.assert_close(criterion.sums, dense.sum(dim=0), rtol=1e-12, atol=1e-12)
    assert torch.equal(criterion.counts, (dense != 0).sum(dim=0))
    criterion.sums.add_(0.1)
    criterion.counts.add_(1)
    criterion.on_epoch_start(9)
    for found, expected in zip(criterion.totals, criterion.confidence.class_totals(), strict=True):
        assert torch.equal(found, expected)


OTHERS = {name: getattr(VARIANTS["reference"], name) for name in NDLPVariant._fields if name != "mix_statistics"}
OTHERS |= {"gamma": 1.0, "eta": 0.1, "alpha_range": (0.9, 1), "ramp_epochs": 2, "mu": 0.1, "mixup_beta": 0.1}
OTHERS |= {"confidence": "sigmoid", "rejected": "ignored", "candidate_epochs": 2}
OTHERS |= {"prior": "candidate", "distribution_mu": 0.9, "max_ratio": 2.0, "neg_scale": 2.0, "init_bias": 0.2}


@pytest.mark.parametrize("name", OTHERS)
def test_each_setting_reaches_training(name):
    found = []
    for settings in ({}, {name: OTHERS[name]}):
        criterion, model, optimizer = parts(**settings)
        totals = train(criterion, model, optimizer, range(1, 4))
        found.append([torch.tensor(totals), *criterion.buffers()])
    assert not all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def warmed():
    """A criterion in its third epoch, whose confidences have moved."""
    criterion, model, optimizer = parts()
    train(criterion, model, optimizer, range(1, 3))
    criterion.on_epoch_start(3)
    return criterion, model


@pytest.mark.parametrize("reduced", [torch.float16, torch.bfloat16])
def test_mixed_precision_leaves_the_loss_in_single_and_the_state_in_double_precision(reduced):
    found = []
    for enabled in (True, False):
        criterion, model = warmed()
        torch.manual_seed(0)
        with torch.autocast("cpu", dtype=reduced, enabled=enabled):
            out = criterion(model, views(CODES, ORDER[0]))
        assert out.total.dtype == out.logits.dtype == torch.float32
        assert float(out.parts["mix"]) > 0
        found.append([out.total, out.parts["mix"], *criterion.buffers()])
    for half, single in zip(*found, strict=True):
        assert half.dtype == single.dtype
        torch.testing.assert_close(half, single, rtol=0.1, atol=0.02)


@pytest.mark.parametrize("variant", ["fixed", "reference"])
def test_a_step_waits_for_the_device_only_to_learn_how_many_images_are_mixed(variant):
    criterion, model, batch = build(variant=variant), FakeModel(CLASSES), views(CODES, ORDER[0])
    for epoch in (1, 2):
        criterion.on_epoch_start(epoch)
        with Recorder() as seen:
            criterion(model, batch)
        assert not seen.names & (WAITING - {"nonzero"})
        assert ("nonzero" in seen.names) == (epoch == 2)


# --- several processes


def share_batches(rank, order, settings):
    """Parts, weighted gradients and state of steps in which a process sees its part of each batch, told and not."""
    results = []
    for setting, told in product(settings, (True, False)):
        criterion, model, found = build(**setting), FakeModel(CLASSES), []
        for epoch in (1, 2, 3):
            criterion.on_epoch_start(epoch)
            for number, index in enumerate(order):
                own = slice(rank, None, None if rank is None else 2)  # unequal parts
                part, places = index[own], list(range(len(index)))[own]
                batch = views(CODES, part, places)._replace(global_index=torch.tensor(index) if told else None)
                torch.manual_seed(100 * epoch + number + 17 * (rank or 0))
                model.zero_grad()
                out = criterion(model, batch)
                (out.total * len(part) / len(index)).backward()
                figures = {name: float(value) * len(part) / len(index) for name, value in out.parts.items()}
                found.append((figures, [parameter.grad.clone() for parameter in model.parameters()]))
        results.append((found, copy.deepcopy(criterion.state_dict())))
    return results


def test_two_ranks_have_the_loss_and_the_state_of_one_process_on_the_whole_batch():
    settings = [{}, {"variant": "reference"}, {"prior": "confidence"}, EACH]
    alone = share_batches(None, ORDER, settings)
    first, second = run_ranks(share_batches, ORDER, settings)
    for whole, one, two in zip(alone, first, second, strict=True):
        for (figures, gradients), a, b in zip(whole[0], one[0], two[0], strict=True):
            for name in figures:
                if name != "chosen":
                    assert a[0][name] + b[0][name] == pytest.approx(figures[name], rel=1e-4, abs=1e-7), name
            for expected, x, y in zip(gradients, a[1], b[1], strict=True):
                torch.testing.assert_close(x + y, expected, rtol=1e-3, atol=1e-5)
        assert any(figures["mix"] > 0 for figures, _ in whole[0])
        for name, expected in whole[1].items():
            if isinstance(expected, torch.Tensor):
                assert torch.equal(one[1][name], two[1][name]), name
                torch.testing.assert_close(one[1][name], expected, rtol=1e-5, atol=1e-7)


def share_short_batches(rank, world_size, told):
    """State after batches of two images, which three processes have all; where these are not told, padded."""
    criterion, model = build(alpha_range=(1, 1)), FakeModel(CLASSES)
    sampler, chosen = ShuffledBatches(ROWS, 2, seed=0, rank=rank, world_size=world_size), []
    for epoch in range(1, 4):
        criterion.on_epoch_start(epoch)
        sampler.set_epoch(epoch)
        for number, samples in enumerate(sampler):
            torch.manual_seed(number)
            whole = torch.from_numpy(sampler.order(epoch)[2 * number : 2 * number + 2])
            own = [sample.row for sample in samples]
            if not told and len(own) < world_size:
                own = [own[rank % len(own)]]
            batch = batch_of(CODES, own)._replace(global_index=whole if told else None)
            chosen.append(2 * float(criterion(model, batch).parts["chosen"]))
    return chosen, len(model.calls), dict(criterion.named_buffers())


@pytest.mark.parametrize("told", [True, False])
def test_an_image_that_several_processes_have_counts_once(told):
    chosen, calls, state = share_short_batches(0, 1, told)
    ranks = run_ranks(share_short_batches, 3, told, world_size=3)
    assert 2.0 in chosen
    for found, _, buffers in ranks:
        assert found == pytest.approx(chosen)
        for name, expected in state.items():
            torch.testing.assert_close(buffers[name], expected, rtol=1e-5, atol=1e-7)
    assert ranks[0][1] == calls  # a mixture of two images is the first rank's alone
    assert ranks[1][1] == ranks[2][1] < calls
