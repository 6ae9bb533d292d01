"""Results of a benchmark that was cut short."""

import pytest

from benchmarks.kept import Kept


def test_what_is_there_is_not_measured_again(tmp_path):
    path, measured = tmp_path / "new" / "found.json", []
    for number in range(3):
        kept = Kept(path, resume=number > 0)
        for name in ("a", "b")[: number + 1]:
            kept.once(name, lambda name=name: measured.append(name) or [name, len(measured)])
    assert measured == ["a", "b"]
    assert Kept(path, resume=True).found == {"a": ["a", 1], "b": ["b", 2]}


def test_a_new_start_forgets_what_was_there(tmp_path):
    path = tmp_path / "found.json"
    Kept(path).once("a", lambda: 1)
    assert Kept(path).found == {}


def test_nothing_is_begun_when_time_is_over_and_without_a_file_nothing_is_written(tmp_path):
    late = Kept(tmp_path / "found.json", seconds=0)
    late.once("a", lambda: 1)
    assert (late.found, late.is_late, [*tmp_path.iterdir()]) == ({}, True, [])
    held = Kept(None)
    held.once("a", lambda: 1)
    assert held.found == {"a": 1}


def test_one_that_fails_leaves_the_others(tmp_path):
    kept = Kept(tmp_path / "found.json")
    kept.once("a", lambda: 1)
    with pytest.raises(ZeroDivisionError):
        kept.once("b", lambda: 1 / 0)
    assert Kept(kept.path, resume=True).found == {"a": 1}


def test_the_machine_is_that_of_the_first_start(tmp_path, monkeypatch):
    for number in range(2):
        monkeypatch.setattr("os.getloadavg", lambda number=number: (number, 0.25, 0.0))
        kept = Kept(tmp_path / "found.json", resume=number > 0)
        kept.describe("a machine")
        kept.once("a", lambda: 1)
    assert kept.found["machine"] == "a machine; load before the start 0.0, 0.2, 0.0"
