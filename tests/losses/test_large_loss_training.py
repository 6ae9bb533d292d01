"""The state of LL-R, LL-Ct and LL-Cp: what stays corrected, resuming, and sharing a batch between processes."""

import contextlib
import copy
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from data.loading.samplers import ShuffledBatches
from losses import CRITERIA, LargeLoss, LargeLossConfig
from losses.large_loss import packed, unpacked
from tests.losses.fake_model import FakeModel, batch_of, info_for
from tests.losses.steps import WAITING, Recorder, check_resume, trainer
from tests.losses.test_large_loss import SCHEMES, batch_with, echo, single_positives
from tests.ranks import run_ranks
from utils.types import LabelTable

ROWS, CLASSES = 12, 5
CODES = single_positives(ROWS, CLASSES, 11)[1]
ORDER = [[4, 0, 7, 9, 2], [1, 3, 8, 5, 10], [6, 11]]


def build(codes=CODES, **settings):
    return LargeLoss(LargeLossConfig(**{"delta_rel": 15.0} | settings), info_for(codes))


def test_a_corrected_label_stays_present_and_leaves_the_population():
    logits, codes = single_positives(3, 10, 9)
    criterion = LargeLoss(LargeLossConfig(mod_scheme="LL-Cp", delta_rel=20.0), info_for(codes))
    seen = np.zeros(codes.shape, dtype=bool)
    for epoch in range(2, 6):
        criterion.on_epoch_start(epoch)
        out = criterion(echo, batch_with(logits, codes))
        modified = out.modified.numpy()
        assert modified.any()
        assert not (modified & seen).any()
        seen |= modified
        np.testing.assert_array_equal(criterion.corrected_labels().dense(), np.where(seen, 1, codes))
    other = criterion(echo, batch_with(logits[:1], codes[:1], [2]))  # the corrections go by the image's row
    assert not (other.modified.numpy()[0] & seen[2]).any()


@pytest.mark.parametrize("classes", [1, 7, 8, 9, 20, 64])
def test_packed_flags_come_back(classes):
    flags = torch.from_numpy(np.random.default_rng(classes).random((5, classes)) < 0.4)
    rows = packed(flags)
    assert rows.shape == (5, -(-classes // 8))
    np.testing.assert_array_equal(rows, np.packbits(flags.numpy(), axis=1, bitorder="little"))
    assert torch.equal(unpacked(rows, classes), flags)


@pytest.mark.parametrize("block", [10, 11, 25, 1000])  # blocks of one row, although it is longer; of one, two and all
def test_corrected_labels_of_a_sparse_table_stay_sparse(block, monkeypatch):
    monkeypatch.setattr("losses.large_loss._BLOCK", block)
    logits, codes = single_positives(7, 11, 10)
    known = codes != -1
    bounds = np.concatenate([[0], known.sum(axis=1).cumsum()])
    sparse = LabelTable(csr_array((codes[known], known.nonzero()[1], bounds), shape=codes.shape), default=-1)
    tables = []
    for table in (LabelTable(codes), sparse):
        info = replace(info_for(codes), observed=table)
        criterion = LargeLoss(LargeLossConfig(mod_scheme="LL-Cp", delta_rel=30.0), info)
        criterion.on_epoch_start(2)
        criterion(echo, batch_with(logits, codes))
        tables.append(criterion.corrected_labels())
    assert tables[1].stores_known_only
    np.testing.assert_array_equal(tables[0].dense(), tables[1].dense())
    assert tables[0].hash() == tables[1].hash() != sparse.hash()


def parts(**settings):
    model = FakeModel(CLASSES)
    return build(**settings), model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


train = trainer(ORDER, partial(batch_of, CODES))


@pytest.mark.parametrize("variant", ["fixed", "reference"])
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("cut", [6, 7])  # at the end of an epoch, and in the middle of one
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(cut, scheme, variant):
    settings = {"mod_scheme": scheme, "variant": variant}
    whole = check_resume(partial(parts, **settings), train, cut)
    if scheme == "LL-Cp":
        assert whole[0].corrected.any()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_model_is_called_once_for_logits_only_and_training_lowers_the_loss(scheme):
    criterion, model, optimizer = parts(mod_scheme=scheme, delta_rel=2.0)
    totals = train(criterion, model, optimizer, range(1, 9))
    assert set(model.calls) == {frozenset()}
    assert len(model.calls) == len(totals)
    assert np.mean(totals[-3:]) < np.mean(totals[:3])
    assert LargeLoss.needs == frozenset()


@pytest.mark.parametrize("reduced", [torch.float16, torch.bfloat16])
def test_mixed_precision_leaves_the_loss_in_single_precision(reduced):
    criterion = build(mod_scheme="LL-Cp")
    criterion.on_epoch_start(2)
    with torch.autocast("cpu", dtype=reduced):
        out = criterion(FakeModel(CLASSES), batch_of(CODES, ORDER[0]))
    assert out.total.dtype == out.logits.dtype == torch.float32
    assert torch.isfinite(out.total)
    assert out.modified.any()


@pytest.mark.parametrize("variant", ["fixed", "reference"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_step_never_waits_for_the_device(scheme, variant):
    criterion, model = build(mod_scheme=scheme, variant=variant), FakeModel(CLASSES)
    criterion.on_epoch_start(3)
    batch = batch_of(CODES, ORDER[0])
    with Recorder() as seen:
        criterion(model, batch)
    assert not seen.names & WAITING
    assert "topk" in seen.names


def test_the_method_by_name_has_its_settings_beside_it():
    method = CRITERIA["large_loss"]
    assert isinstance(method.criterion(method.config(), info_for(CODES)), LargeLoss)
    assert method.config.__module__ == method.criterion.__module__


# --- several processes: fixed logits, so that only the threshold and the state are shared


def shared_logits(epoch):
    return np.random.default_rng(epoch).normal(0, 2, (ROWS, CLASSES)).round(1).astype(np.float32)


def share_batches(rank, order, settings):
    """Modified labels by image, in every step, and the state, of a process that sees its part of each batch."""
    results = []
    for setting in settings:
        criterion, modified = build(**setting), []
        for epoch in range(1, 5):
            criterion.on_epoch_start(epoch)
            for index in order:
                part = index if rank is None else index[:1] if rank == 0 else index[1:]  # unequal parts
                out = criterion(echo, batch_with(shared_logits(epoch)[part], CODES[part], part))
                modified.append(dict(zip(part, out.modified.tolist(), strict=True)))
        results.append((modified, criterion.corrected))
    return results


def test_two_ranks_modify_what_one_process_modifies_on_the_whole_batch():
    settings = [{"mod_scheme": scheme, "variant": name} for scheme in SCHEMES for name in ("fixed", "reference")]
    settings.append({"threshold": "absolute", "r0": 1.5})
    alone = share_batches(None, ORDER, settings)
    first, second = run_ranks(share_batches, ORDER, settings)
    for whole, one, two in zip(alone, first, second, strict=True):
        assert [a | b for a, b in zip(one[0], two[0], strict=True)] == whole[0]
        assert any(any(row) for step in whole[0] for row in step.values())
        if whole[1] is not None:
            assert whole[1].any()
            assert torch.equal(one[1], whole[1])
            assert torch.equal(two[1], whole[1])


def share_short_batches(rank, world_size, scheme, told):
    """As `share_batches`, on batches of two images, which the sampler gives to each of three processes whole."""
    criterion, modified = build(mod_scheme=scheme, delta_rel=30.0), []
    sampler = ShuffledBatches(ROWS, 2, seed=0, rank=rank, world_size=world_size)
    for epoch in range(1, 4):
        criterion.on_epoch_start(epoch)
        sampler.set_epoch(epoch)
        for number, samples in enumerate(sampler):
            index = [sample.row for sample in samples]
            whole = torch.from_numpy(sampler.order(epoch)[2 * number : 2 * number + 2]) if told else None
            batch = batch_with(shared_logits(epoch)[index], CODES[index], index)._replace(global_index=whole)
            out = criterion(echo, batch)
            modified.append(dict(zip(index, out.modified.tolist(), strict=True)))
    return modified, criterion.corrected


@pytest.mark.parametrize("told", [True, False])
def test_an_image_that_every_process_has_counts_once(told):
    alone, corrected = share_short_batches(0, 1, "LL-Cp", told)
    ranks = run_ranks(share_short_batches, 3, "LL-Cp", told, world_size=3)
    for number, whole in enumerate(alone):
        assert len(whole) == 2
        assert all(modified[number] == whole for modified, _ in ranks)
    assert corrected.any()
    assert all(torch.equal(state, corrected) for _, state in ranks)


def test_only_corrections_for_good_are_there_to_be_asked_for():
    told = {scheme: build(mod_scheme=scheme).corrects_for_good for scheme in ("LL-R", "LL-Ct", "LL-Cp")}
    assert told == {"LL-R": False, "LL-Ct": False, "LL-Cp": True}


def test_a_state_that_nobody_else_reads_is_taken_without_a_copy():
    one, other = (build(mod_scheme="LL-Cp", delta_rel=30.0) for _ in range(2))
    one.on_epoch_start(3)
    one.corrected.random_(0, 256)
    state = {name: copy.deepcopy(value) for name, value in one.state_dict().items()}
    memory = other.corrected
    other.take_state(state)
    assert other.corrected is memory  # what others hold is that of before, with new rows
    assert memory.data_ptr() == state["corrected"].data_ptr()
    assert torch.equal(memory, one.corrected)
    assert other.epoch == 3
    loaded = build(mod_scheme="LL-Cp", delta_rel=30.0)
    loaded.load_state_dict(state)
    assert loaded.corrected.data_ptr() != state["corrected"].data_ptr()
    assert torch.equal(loaded.corrected, one.corrected)


@pytest.mark.parametrize(
    "wrong", [lambda rows: rows[:-1], lambda rows: rows.repeat(1, 2)[:, :1], lambda rows: rows.int()]
)
def test_a_state_of_another_kind_is_taken_as_it_is_loaded(wrong):
    one, other = (build(mod_scheme="LL-Cp", delta_rel=30.0) for _ in range(2))
    one.corrected.random_(0, 256)
    state = {**one.state_dict(), "corrected": wrong(one.corrected)}
    before = other.corrected.data_ptr()
    with pytest.raises(RuntimeError) if len(state["corrected"]) < ROWS else contextlib.nullcontext():
        other.take_state(state)
        assert torch.equal(other.corrected, one.corrected)
    assert other.corrected.data_ptr() == before
