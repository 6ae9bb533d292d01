"""Exchanges of a step, counted on two processes."""

import os

import pytest
import torch

from benchmarks.gpu.trainer import CASES
from benchmarks.scaling.exchanges import counted, of_step
from engine.core.distributed import Runtime
from tests.ranks import run_ranks
from utils.collectives import all_sum, gather_dealt

CLASSES, WIDTH = 5, 96


def of_methods(rank):
    env = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ.update(env)
    runtime, every = Runtime("cpu", "fp32"), {case.name: case for case in CASES}
    return {name: of_step(every[name], "scenenet", runtime, CLASSES) for name in ("bce", "cones", "cls")}


@pytest.mark.slow
def test_bytes_of_a_step_are_those_of_what_a_method_exchanges():
    first, second = run_ranks(of_methods)
    assert first == second
    assert first["bce"] == {"exchanges": 0, "reduced": 0, "gathered": 0.0}
    assert first["cls"] == {
        "exchanges": 1,
        "reduced": 0,
        "gathered": 3 * CLASSES * 4,
    }  # losses of f and g, and the codes
    peaks, sums = 4 * CLASSES, 4 * CLASSES * (WIDTH + 1)  # of the maps; of features, and how many they are
    assert (first["cones"]["exchanges"], first["cones"]["reduced"]) == (3, peaks + sums)


def exchanged(rank):
    with counted() as made:
        all_sum(torch.zeros(10))
        gather_dealt(torch.zeros(3, 2), 6)
    all_sum(torch.zeros(10))
    return made


@pytest.mark.parametrize("turn", [1, 2])
def test_bytes_are_those_of_all_processes_and_nothing_stays_in_the_place_of_torch(turn):
    assert run_ranks(exchanged) == [[("reduced", 40), ("gathered", 48)]] * 2
