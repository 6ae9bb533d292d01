"""What several processes exchange in a step of each method: as often as the page says, and nobody waits for a GPU."""

import os
import re
from collections import Counter
from contextlib import ExitStack
from unittest import mock

import pytest
import torch
from torch import distributed as dist

from benchmarks.gpu.trainer import CASES, EPOCHS, LATE, VARIANTS, Case, Trainer
from engine.training.loop import Freezing, Hooks
from engine.training.recorder import RecordConfig, Recorder
from losses import CRITERIA
from tests.engine.training.test_waits import CASES_ON_HOST, KNOWN, SHAPE, PretendedRuntime
from tests.pretended_device import DEVICE, ROOT, PretendedDevice
from tests.ranks import run_ranks

pytestmark = [
    pytest.mark.slow,  # a step of every method on two processes
    pytest.mark.skipif(torch.cuda.is_available(), reason="a real GPU disturbs a pretended one beside it"),
]
EXCHANGES = ("all_reduce", "all_gather", "broadcast", "all_to_all_single")
OTHERS = [Case("ignore", {"variant": "reference"}, "reference"), Case("db", {"weight_norm": "by_batch"}, "by_batch")]
OTHERS += [Case("csl", {"csl_mode": "negative"}, "negative")]
STEPS = {case.name: case for case in [*CASES, *VARIANTS, *OTHERS, *CASES_ON_HOST]}


class OneOfSeveral(PretendedRuntime):
    """A process whose networks are not wrapped: their gradients are averaged by torch, which is not counted."""

    def wrap(self, module):
        return self.to_device(module)


def counted(calls, name):
    """A function of torch.distributed that counts its calls: by name, or as one between the hosts."""
    original = getattr(dist, name)

    def call(*args, group=None, **kwargs):
        calls["hosts" if group is not None else name] += 1
        return original(*args, group=group, **kwargs)

    return mock.patch.object(dist, name, call)


def freeze(trainer):
    trainer.network.freeze_backbone(True)
    trainer.loop.freezing = Freezing(LATE, trainer.network.freeze_backbone)


def record(trainer):
    config, labels = RecordConfig(record="all"), trainer.observed
    recorder = Recorder(config, observed=labels, truth=labels, epochs=EPOCHS, device=DEVICE)
    trainer.loop.hooks = Hooks(after_step=recorder.step)


def of_a_step(case, device, prepare=lambda trainer: None):
    """Of a step of a late epoch: exchanges by kind, where it waited, the rows of all and of this process."""
    trainer, calls, batches = Trainer(case, OneOfSeveral(), SHAPE, rows=14), Counter(), []
    trainer.loop.hooks = Hooks(after_step=lambda epoch, batch, output: batches.append(batch))
    prepare(trainer)
    trainer.start(LATE)
    if case.method == "ndlp":
        trainer.step()  # by its first confidences no image is trusted, and none mixed
    device.waits.clear()
    with ExitStack() as stack:
        for name in EXCHANGES:
            stack.enter_context(counted(calls, name))
        trainer.step()
        trainer.loop.check_stop()
    waits, last = list(device.waits), batches[-1:]
    return dict(calls), waits, [(batch.global_index.tolist(), batch.index.tolist()) for batch in last]


def of_every_step(rank):
    env = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ.update(env, ACCELERATE_USE_CPU="true", MASTER_ADDR="127.0.0.1", MASTER_PORT="29511")
    with mock.patch.object(dist, "get_backend_config", return_value="cuda:nccl"), PretendedDevice() as device:
        of_a_step(STEPS["bce"], device)  # the first of a process makes constants, and a group of the hosts
        prepared = [of_a_step(STEPS["an"], device, prepare)[:2] for prepare in (freeze, record)]
        return {name: of_a_step(case, device) for name, case in STEPS.items()}, prepared


@pytest.fixture(scope="module")
def everything():
    return run_ranks(of_every_step)


@pytest.fixture
def ranks(everything):
    """Of the steps of each process by name."""
    return [steps for steps, _ in everything]


def told():
    """Exchanges per step by method or variant, as the table of the page says."""
    section = (ROOT / "docs" / "training.md").read_text().split("## On several GPUs")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (\d+) \| (.+?) \| .*\|$", section, re.MULTILINE)
    return {name: int(number) for number, names in rows for name in re.findall(r"`([^`]+)`", names)}


def test_the_page_tells_how_often_each_method_exchanges_something(ranks):
    table = told()
    assert set(CRITERIA) <= set(table)
    for found in ranks:
        counts = {name: sum(calls.values()) - 1 for name, (calls, *_) in found.items()}  # without that of the flags
        expected = {name: table.get(name, table[STEPS[name].method]) for name in found}
        assert counts == expected


def test_a_gpu_is_waited_for_no_more_than_by_one_process(ranks):
    for found in ranks:
        for name, (_, waits, _) in found.items():
            assert waits == KNOWN.get((STEPS[name].method, LATE), []), name


def test_every_process_is_told_the_rows_of_all(ranks):
    for name in ranks[0]:
        (everyone, first), (same, second) = (found[name][2][0] for found in ranks)
        assert everyone == same
        assert (first, second) == (everyone[::2], everyone[1::2]), name


def test_images_of_ndlp_go_where_they_are_mixed_and_are_not_gathered(ranks):
    assert ranks[0]["ndlp"][0] == {"all_gather": 1, "all_to_all_single": 1, "hosts": 2}


def test_gradients_behind_a_frozen_backbone_are_exchanged_together_and_so_is_what_is_recorded(everything):
    for _, prepared in everything:
        assert prepared == [({"all_reduce": 1, "hosts": 1}, []), ({"all_gather": 1, "hosts": 1}, [])]


def test_flags_are_exchanged_between_the_hosts(ranks):
    assert ranks[0]["bce"][0] == {"hosts": 1}
