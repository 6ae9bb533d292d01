"""Whole runs on one process, on two and on three, and runs that go on with another number of processes."""

import pytest

from tests.commands.scene import tiny_voc
from tests.equality.scripts import RUNS, apart, left, stop_after, train
from tests.kills.left import differences
from tests.kills.left import left as all_left
from tests.ranks import run_ranks

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("equality")
    tiny_voc(folder)
    for name in RUNS:
        train(None, folder, name, "1")
    return folder


@pytest.mark.parametrize("processes", [2, 3])
def test_whole_runs_are_those_of_one_process(processes, folder):
    for name in RUNS:
        run_ranks(train, folder, name, f"by-{processes}", world_size=processes)
        expected, found = (left(folder / f"{name}-{size}") for size in ("1", f"by-{processes}"))
        assert list(apart(found, expected))[:5] == [], name


@pytest.mark.parametrize("name", ["role+plateau", "LL-Cp+record", "cones+ema+val"])
def test_a_run_goes_on_with_another_number_of_processes_and_again_another(name, folder):
    """Saved after two and after five steps, both within an epoch, by two processes and by one; three end it."""
    run_ranks(stop_after, folder, name, "213", 2)
    stop_after(None, folder, name, "213", 3, "--resume")
    run_ranks(train, folder, name, "213", "--resume", world_size=3)
    assert list(apart(left(folder / f"{name}-213"), left(folder / f"{name}-1")))[:5] == []


def test_as_many_processes_go_on_bit_for_bit(folder):
    """The log too, of an epoch that was cut: each process has its part of the losses again."""
    name = "LL-Cp+record"
    run_ranks(train, folder, name, "2")
    run_ranks(stop_after, folder, name, "22", 2)
    run_ranks(train, folder, name, "22", "--resume")
    assert list(differences(all_left(folder / f"{name}-22"), all_left(folder / f"{name}-2")))[:5] == []
