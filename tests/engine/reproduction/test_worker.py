"""One worker, in this process and in one of its own."""

import multiprocessing
import os
import time
from pathlib import Path

import pytest

from engine.reproduction import command, worker
from engine.reproduction.worker import BUSY, STOPPED, Job, Outcome, last_line, threads_for, trained, work
from tests.engine.reproduction.fake_runs import FakeScript, fails_with, reproduce, write_plan, write_run

pytestmark = [pytest.mark.usefixtures("own_folder"), pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")]


class Pipe:
    """The worker's end of a connection: what it receives in turn, None for a wait without any, and what it sends."""

    def __init__(self, *items):
        self.items, self.sent = list(items), []
        self.send = self.sent.append

    def poll(self, seconds):
        return self.items[0] != "wait" or not self.items.pop(0)

    def recv(self):
        return self.items.pop(0)


@pytest.fixture
def threads(monkeypatch):
    """Threads that were set; nothing of this process is changed."""
    seen = []
    monkeypatch.setattr("torch.set_num_threads", seen.append)
    monkeypatch.setattr(worker.os, "setpgrp", lambda: None)
    monkeypatch.setattr(worker.signal, "pthread_sigmask", lambda how, which: None)
    return seen


class Script:
    """Ends as it is told."""

    def __init__(self, end):
        self.end = end

    def __call__(self):
        return self

    def main(self, words):
        if isinstance(self.end, BaseException):
            raise self.end
        return self.end


def job(folder, name="a"):
    return Job(name, "x.py", (), folder)


@pytest.mark.parametrize(
    ("end", "code", "text"),
    [
        (0, 0, ""),
        (3, 3, ""),
        (SystemExit(5), 5, ""),
        (SystemExit("why"), 1, ""),
        (ValueError("odd"), 1, "ValueError: odd"),
    ],
)
def test_how_a_run_ends_is_its_code_and_its_last_words(tmp_path, threads, end, code, text):
    outcome = trained(job(tmp_path), {"x.py": Script(end)}, 3)
    assert outcome[:3] == (job(tmp_path), code, text)
    assert 0 <= outcome.seconds < 60
    assert threads == [3]
    assert not (tmp_path / "claims" / "a").exists()


def test_a_worker_waits_for_jobs_until_there_is_none(tmp_path, threads):
    pipe = Pipe("wait", job(tmp_path), job(tmp_path, "b"), None, "left")
    work(pipe, {"x.py": Script(0)}, 1)
    assert [outcome.job.name for outcome in pipe.sent] == ["a", "b"]
    assert pipe.items == ["left"]


def test_a_run_that_a_signal_has_stopped_is_the_last(tmp_path, threads):
    pipe = Pipe(job(tmp_path), job(tmp_path, "b"), None)
    work(pipe, {"x.py": Script(STOPPED + 15)}, 1)
    assert [outcome.code for outcome in pipe.sent] == [STOPPED + 15]
    pipe = Pipe(job(tmp_path), None)
    work(pipe, {"x.py": Script(STOPPED)}, 1)  # a code like any other
    assert not pipe.items


def test_a_worker_whose_parent_is_gone_waits_no_longer():
    assert worker._next_job(Pipe("wait", "job"), parent=-1) is None


def test_the_last_words_of_a_run(tmp_path):
    log = tmp_path / "log.txt"
    assert last_line(log) == ""
    log.write_text("\n \n")
    assert last_line(log) == ""
    log.write_text("first\nsecond\n error: " + "".join(f"{n:05}" for n in range(101)) + "\n\n")
    assert last_line(log) == "".join(f"{n:05}" for n in range(100))


@pytest.mark.parametrize(("cores", "jobs", "threads"), [(8, 2, 4), (7, 2, 3), (2, 4, 1), (None, 1, 1)])
def test_processes_share_the_cores(monkeypatch, cores, jobs, threads):
    monkeypatch.setattr(worker.os, "cpu_count", lambda: cores)
    assert threads_for(jobs) == threads


def test_one_process_makes_all_runs_one_after_the_other(tmp_path):
    def act(values):
        (tmp_path / "busy").touch(exist_ok=False)
        time.sleep(0.02)  # a second process would have begun by now
        with (tmp_path / "processes.txt").open("a") as file:
            file.write(f"{os.getpid()} {os.getpgrp()}\n")
        (tmp_path / "busy").unlink()

    others = multiprocessing.active_children()
    assert reproduce(write_plan(tmp_path), FakeScript(tmp_path / "trained.txt", act)) == 0
    lines = (tmp_path / "processes.txt").read_text().splitlines()
    assert len(lines) == 8
    (pair,) = set(lines)
    process, group = pair.split()
    assert process == group != str(os.getpgrp())  # a Ctrl-C is for the parent
    assert set(multiprocessing.active_children()) <= set(others)


def test_a_process_that_ends_by_itself_is_told_with_its_code(tmp_path, capsys):
    def act(values):
        if values["seed"] == 1:
            write_run(tmp_path / "runs" / "plan" / Path(values["output"]).name, "bce", 0.5)
            os._exit(0)
        os._exit(200)

    plan = write_plan(tmp_path, rows=[{"name": "BCE", "command": "main_BCE.py"}], regimes={"easy": ""})
    assert reproduce(plan, FakeScript(tmp_path / "trained.txt", act)) == 1
    said = capsys.readouterr()
    assert "[1/2] BCE, easy, seed 1: mAP 50.00, 0 s\n" in said.out  # it had written its result
    assert "[2/2] BCE, easy, seed 2: failed: its process was ended with exit code 200 (" in said.err


def test_a_process_that_ends_without_a_word_or_a_result(tmp_path, capsys):
    plan = write_plan(tmp_path, rows=[{"name": "BCE", "command": "main_BCE.py"}], regimes={"easy": ""}, seeds=[1])
    assert reproduce(plan, FakeScript(tmp_path / "trained.txt", lambda values: os._exit(0))) == 1
    assert "failed: it left no result (" in capsys.readouterr().err


def test_codes_above_128_are_signals_and_others_are_failures(tmp_path, capsys):
    plan = write_plan(tmp_path, rows=[{"name": "BCE", "command": "main_BCE.py"}], regimes={"easy": ""})
    ends = FakeScript(tmp_path / "trained.txt", fails_with(SystemExit(128), seed=1))
    ends.act = lambda values: fails_with(SystemExit(127 + values["seed"]))(values)
    assert reproduce(plan, ends) == 1
    said = capsys.readouterr().err
    assert "seed 1: failed: exit code 128 (" in said
    assert "seed 2: stopped by a signal; the same command goes on with it\n" in said


def test_what_another_process_has_is_no_failure(tmp_path, capsys):
    class Workers:
        def run(self, jobs):
            yield from (Outcome(each, BUSY, "another one has it", 0.0) for each in jobs)

    class Campaign:
        plan = None

        def waiting(self, runs):
            return runs

        def planned(self, run):
            return run

        def jobs(self, runs):
            return [Job(run.slug, "x.py", (), tmp_path) for run in runs]

    class Run:
        slug, title = "a", "A, seed 1"

    command.run_all(Campaign(), [Run()], Workers())
    assert capsys.readouterr().out == "[1/1] A, seed 1: another one has it\n"
