"""Some mutated files of every kind, and that a fault of a command would be seen."""

import time

import pytest

from tests.commands.scene import Done
from tests.faults import trial
from tests.faults.formats import MARKER
from tests.faults.kinds import KINDS
from tests.faults.trial import Bench, Kind

FEW = {"features npz", "features npy", "features safetensors"}
FEW |= {"images", "released checkpoint", "checkpoint of a loop", "backbone", "word vectors", "array of word vectors"}
TRAINING = {"run state", "label state of a run", "events of a run", "caches"}
TRIALS = dict.fromkeys(FEW, 2) | dict.fromkeys(TRAINING, 2)
LONG = {"label state of a run", "events of a run", "run log", "recorded labels", "caches"}
"""Kinds whose folders take a training of their own."""


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, id=kind.name, marks=[pytest.mark.slow] if kind.name in LONG else []) for kind in KINDS],
)
def test_mutated_files_are_read_or_refused_in_one_clear_line(kind, tmp_path):
    bench = Bench(kind, tmp_path / "files")
    assert bench.is_read() == []
    outcomes = [bench.attempt(number, seed=1) for number in range(TRIALS.get(kind.name, 3))]
    assert [outcome for outcome in outcomes if outcome.is_fault] == []


def one_file(folder):
    (folder / "t.csv").write_text("image,labels\na.jpg,x\n")


@pytest.fixture
def bench(tmp_path):
    return Bench(Kind("texts", one_file, ("t.csv",), (("inspect_data.py",),)), tmp_path / "files")


def crash(folder, *words):
    raise ValueError("in a reader")


def hang(folder, *words):
    time.sleep(60)


def toil(folder, *words):
    while True:
        pass


def obey(folder, *words):
    (folder / MARKER).touch()
    return Done(0, "", "")


@pytest.mark.parametrize(
    "command, end",
    [
        (crash, "traceback"),
        (hang, "hangs"),
        (toil, "hangs"),
        (obey, "ran code"),
        (lambda *_: Done(0, "", ""), "read"),
        (lambda *_: Done(1, "", "note: 1 image is missing\n"), "read"),
        (lambda *_: Done(2, "", "error: t.csv, line 2: no\n"), "refused"),
        (lambda *_: Done(2, "", "error: no table here:\n  t.csv\n(or another)\n"), "refused"),
        (lambda *_: Done(2, "", "error: t.csv:\nnot a number\n"), "unclear"),
        (lambda *_: Done(2, "", f"error: {'a' * 2000}\n"), "unclear"),
        (lambda *_: Done(2, "", ""), "unclear"),
        (lambda *_: Done(-11, "", "error: t.csv\n"), "unclear"),
    ],
)
def test_the_end_of_a_command_is_told(bench, monkeypatch, command, end):
    monkeypatch.setattr(trial, "run", command)
    monkeypatch.setattr(trial, "SECONDS", 0.2)
    monkeypatch.setattr(trial, "PATIENCE", 2)
    outcome = bench.attempt(0)
    assert outcome.end == end
    assert outcome.is_fault == (end not in ("read", "refused"))
    assert outcome.named == ("t.csv" in outcome.words)


def test_a_trial_is_the_same_each_time_and_leaves_the_folder_as_it_was(bench, monkeypatch):
    seen = []

    def look(folder, *words):
        path = folder / "t.csv"
        seen.append(path.read_bytes() if path.is_file() else path.is_dir())
        (folder / "out").mkdir()
        return Done(0, "", "")

    monkeypatch.setattr(trial, "run", look)
    for seed in (0, 0, 1):
        for number in range(40):
            bench.attempt(number, seed)
            assert [path.name for path in bench.folder.iterdir()] == ["t.csv"]
            assert (bench.folder / "t.csv").read_text() == "image,labels\na.jpg,x\n"
    assert seen[:40] == seen[40:80] != seen[80:]
    assert len(set(seen[:40])) > 20
