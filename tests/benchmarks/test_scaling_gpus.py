"""What the model is told of one GPU, and asked of many."""

import pytest

from benchmarks.scaling.gpus import (
    BETWEEN,
    CORES,
    QUESTIONS,
    WITHIN,
    Host,
    cores_needed,
    first_to_give,
    gpu_machine,
    job_of,
    predicted,
    read_results,
    read_seconds,
    step_line,
    with_cones,
)
from benchmarks.scaling.model import Line
from models.build import Architecture, build_model

HOST = Host(2e-8, 2e-7, Line(0.1, 1e-9))
COCO = QUESTIONS[0]


@pytest.mark.parametrize("method", ["bce", "cones"])
def test_the_line_of_a_step_goes_through_both_batches_that_were_measured(method):
    steps, _ = read_results()
    line = step_line(steps, method)
    tables = [table for table in steps["tables"] if table["shape"]["model"] == "resnet50"]
    assert len(tables) == 2
    for table in tables:
        assert 1e3 * line.at(table["shape"]["batch"]) == pytest.approx(table["methods"][method]["ms"])


def test_cores_read_as_fast_as_the_loader_that_was_measured():
    _, loader = read_results()
    assert 1 / read_seconds(loader, "pillow") * 16 == pytest.approx(2279.3)
    assert cores_needed(Line(0.0, 1 / 1000), 1 / 100, 256) == pytest.approx(10)


def test_the_bytes_of_gradients_are_those_of_the_network():
    network = build_model(Architecture.of(model="resnet50", weights="none"), COCO.classes, 0)
    job = job_of(COCO, 8)
    assert job.parameters == sum(each.nbytes for each in network.parameters())
    assert (job.batch, job.processes, job_of(QUESTIONS[1], 8).batch) == (2048, 8, 256)


def test_cones_adds_up_features_of_every_class():
    job = with_cones(job_of(QUESTIONS[2], 8), QUESTIONS[2], {"exchanges": 3, "gathered": 20.0}, 0.8)
    assert (job.reduced, job.exchanges, job.gathered) == (4 * 5_000 * 2049, 3, 20.0)
    assert job.epoch_start == pytest.approx(0.8 * 5_000 / 80)


def test_machines_are_linked_otherwise_than_the_gpus_of_one():
    links = [gpu_machine(Line(0.01, 1e-4), 0.01, HOST, count).link for count in (8, 9)]
    assert links == [WITHIN, BETWEEN]


def test_what_gives_first_is_the_largest_piece_beside_the_steps():
    assert first_to_give({"steps": 9.0, "reading": 2.0, "saving": 3.0}) == "saving"
    slow = predicted(gpu_machine(Line(0.001, 1e-5), CORES * 1.0, HOST, 8), job_of(COCO, 8))
    assert first_to_give(slow) in ("reading", "forward passes of scoring")
    assert 0.0 not in slow.values()
