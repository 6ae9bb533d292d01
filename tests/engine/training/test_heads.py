"""Heads on two processes: what both learn is what one learns, and no parameter is left waiting for a gradient."""

import os
from unittest import mock

import pytest
import torch

from engine.core.distributed import Runtime
from engine.training.optim import OptimConfig
from models.classifier import Classifier
from models.heads.ctran import CTranHead
from models.heads.gcn import GCNHead, LabelGraph
from models.heads.query2label import Query2LabelHead
from tests.engine.training.test_loop import CLASSES, Small, copied, make_loop
from tests.ranks import run_ranks

HEADS = {
    "q2l": lambda: Query2LabelHead(5, CLASSES, hidden=8, heads=2, dropout=0.0),
    "gcn": lambda: GCNHead(5, LabelGraph(torch.randn(CLASSES, 4), torch.eye(CLASSES)), 6),
    "ctran": lambda: CTranHead(5, CLASSES, hidden=8, heads=2, layers=2, dropout=0.0),
}

# The bias of keys in an attention has no gradient but rounding, which Adam would make steps of.
SGD = OptimConfig(optimizer="sgd", lr=0.05, scheduler="constant", warmup_epoch=0)


def trained(rank, name):
    env = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    with mock.patch.dict(os.environ, env if torch.distributed.is_initialized() else {}):
        loop, network = make_loop(
            Runtime("cpu", "fp32"), frozen=0, epochs=2, build=lambda: Classifier(Small(False), HEADS[name]()), optim=SGD
        )
        before = copied(network)
        loop.run(lambda epoch, row: None)
        return before, copied(network)


def trained_with_each(rank):
    return {name: trained(rank, name)[1] for name in HEADS}


@pytest.fixture(scope="module")
def two_processes():
    return run_ranks(trained_with_each)


@pytest.mark.parametrize("name", HEADS)
def test_two_processes_learn_what_one_learns(two_processes, name):
    before, alone = trained(0, name)
    first, second = two_processes
    for key, value in alone.items():
        torch.testing.assert_close(first[name][key], value, rtol=1e-3, atol=1e-4, msg=key)
        assert torch.equal(first[name][key], second[name][key]), key
        if "graph." in key:
            assert torch.equal(first[name][key], before[key]), key
