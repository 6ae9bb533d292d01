"""The model of an epoch: coefficients are found again, and what is predicted moves the way that it must."""

import math
from dataclasses import replace

import pytest

from benchmarks.scaling.model import (
    MIB,
    Job,
    Line,
    Link,
    Machine,
    efficiency,
    epoch,
    exchanges,
    fit_line,
    fit_link,
    gradients,
    scoring,
    training,
)

LINK = Link(2e-4, 1e-9)
MACHINE = Machine(Line(0.01, 0.002), 0.005, 0, 0.001, LINK, 0.0, 2e-8, 1e-7, Line(0.01, 1e-9))
JOB = Job(1000, 100, 80, 1, 32, 14 * MIB, 30 * MIB, 3, 400_000, 100.0, 0.5)


@pytest.mark.parametrize("line", [Line(0.02, 0.003), Line(0.0, 0.5), Line(0.7, 0.0)])
def test_the_coefficients_of_a_line_are_found_again(line):
    found = fit_line([(size, line.at(size)) for size in (1, 4, 9, 100)])
    assert found == pytest.approx(line, abs=1e-9)


def test_nothing_in_a_line_is_below_zero():
    falling, late = fit_line([(1, 2.0), (2, 1.0), (3, 0.5)]), fit_line([(1, 0.1), (2, 2.0), (3, 4.0)])
    assert (falling.each, late.fixed) == (0.0, 0.0)


def test_errors_count_relative_to_what_was_measured():
    """A millionth of a large time is no reason to miss a small one."""
    found = fit_line([(0, 1e-4), (1e8, 1.001), (2e8, 1.999)])
    assert found.fixed == pytest.approx(1e-4, rel=0.01)
    assert found.each == pytest.approx(1e-8, rel=0.01)


def test_latency_and_bandwidth_are_found_again_from_sums_and_gathered_rows():
    sizes = (8, 10**4, 10**6, 10**7)
    found = fit_link([(size, LINK.reduced(size, 2)) for size in sizes], [(n, LINK.gathered(n, 2)) for n in sizes])
    assert found == pytest.approx(LINK, rel=1e-6)


@pytest.mark.parametrize("processes", [2, 3, 8, 64])
def test_a_ring_sends_each_byte_so_often(processes):
    """By hand: a tensor in P parts; P - 1 rounds in which each sends a part on, and for a sum as many once more."""
    part, rounds = 1e6 / processes, processes - 1
    assert Link(0, 1).gathered(1e6, processes) == pytest.approx(part * rounds)
    assert Link(0, 1).reduced(1e6, processes) == pytest.approx(part * rounds * 2)
    assert Link(1, 0).reduced(1e6, processes) == math.log2(processes)


def test_one_process_exchanges_nothing():
    assert (gradients(LINK, JOB), exchanges(LINK, JOB)) == (0.0, 0.0)
    assert training(MACHINE, JOB)["gradients"] == training(MACHINE, JOB)["exchanges"] == 0.0


@pytest.mark.parametrize(("size", "buckets"), [(MIB // 2, 1), (MIB, 1), (MIB + 1, 2), (26 * MIB, 2), (102 * MIB, 6)])
def test_gradients_travel_in_buckets(size, buckets):
    job = replace(JOB, processes=2, parameters=size)
    assert gradients(Link(1.0, 0.0), job) == buckets


def test_a_step_exchanges_what_the_method_does_and_a_word_on_stopping():
    job = replace(JOB, processes=2)
    assert exchanges(Link(1.0, 0.0), job) == 4
    assert exchanges(Link(0.0, 1.0), job) == pytest.approx(400_000 + 100 * 32 / 2)


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_an_epoch_is_the_sum_of_its_steps(processes):
    """By hand, step by step, of a process that reads, computes and exchanges one after the other."""
    job, seconds = replace(JOB, images=960, processes=processes), 0.0
    for _ in range(30):
        own = 32 / processes
        seconds += own * 0.005 + 0.01 + own * 0.002
        if processes > 1:
            rounds, share = math.log2(processes), (processes - 1) / processes
            seconds += 2 * rounds * 2e-4 + 2 * share * 14 * MIB * 1e-9
            seconds += 4 * rounds * 2e-4 + (2 * 400_000 + 100 * 32) * share * 1e-9
    assert sum(training(MACHINE, job).values()) == pytest.approx(seconds)


def test_a_last_batch_that_is_not_full_is_a_step():
    assert (replace(JOB, images=960).steps, replace(JOB, images=961).steps) == (30, 31)


def test_with_cores_of_its_own_only_what_reading_lags_behind_is_waited_for():
    slow, fast = (replace(MACHINE, readers=readers) for readers in (1, 16))
    computing = sum(training(MACHINE, JOB).values()) - 1000 * 0.005
    assert training(slow, JOB)["reading"] == pytest.approx(1000 * 0.005 - computing)
    assert training(fast, JOB)["reading"] == 0.0
    assert scoring(fast, JOB, 100)["reading"] == 0.0


def test_gradients_that_travel_while_the_step_goes_on_cost_what_is_left():
    job, step = replace(JOB, processes=2), MACHINE.step.at(16)
    alone, half = (training(replace(MACHINE, overlap=share), job)["gradients"] for share in (0.0, 0.5))
    assert half == pytest.approx(max(0.0, alone - job.steps * 0.5 * step))
    assert training(replace(MACHINE, overlap=1.0), job)["gradients"] == 0.0


@pytest.mark.parametrize(
    "more",
    [
        {"images": 2000},
        {"scored": 200},
        {"labels": 160},
        {"parameters": 28 * MIB},
        {"state": 60 * MIB},
        {"exchanges": 6},
        {"reduced": 800_000},
        {"gathered": 200.0},
        {"epoch_start": 1.0},
    ],
)
@pytest.mark.parametrize("readers", [0, 16])
def test_more_of_anything_takes_longer(more, readers):
    job, machine = replace(JOB, processes=2), replace(MACHINE, readers=readers)
    assert sum(epoch(machine, replace(job, **more)).values()) > sum(epoch(machine, job).values())


def test_a_larger_batch_and_more_processes_take_less_while_there_is_enough_to_share():
    job = replace(JOB, images=100_000)
    by_batch = [sum(epoch(MACHINE, replace(job, batch=batch)).values()) for batch in (16, 32, 64, 128)]
    assert by_batch == sorted(by_batch, reverse=True)
    by_processes = [
        sum(epoch(MACHINE, replace(job, processes=count, batch=32 * count)).values()) for count in (1, 2, 4, 8)
    ]
    assert by_processes == sorted(by_processes, reverse=True)
    shares = [
        efficiency(MACHINE, replace(job, processes=count, batch=32 * count), by_processes[0]) for count in (1, 2, 4, 8)
    ]
    assert shares[0] == pytest.approx(1.0)
    assert shares == sorted(shares, reverse=True)


def test_what_every_process_does_for_itself_stays():
    one, many = (epoch(MACHINE, replace(JOB, processes=count, batch=32 * count)) for count in (1, 64))
    assert many["figures"] >= one["figures"]
    assert many["saving"] == one["saving"]
    assert many["epoch start"] == one["epoch start"]
    assert many["forward passes of scoring"] == pytest.approx(one["forward passes of scoring"] / 64)
