"""Predictions from what was found, and the page and the command that show them."""

import json

import pytest

from benchmarks.scaling import pieces as pieces_module
from benchmarks.scaling.__main__ import main
from benchmarks.scaling.model import Line, Link, epoch, training
from benchmarks.scaling.page import page
from benchmarks.scaling.pieces import middle
from benchmarks.scaling.prediction import error, few, job_of, machine_of, predicted, start_seconds
from benchmarks.scaling.runs import WHOLE, Whole
from benchmarks.scaling.scene import FULL, SMALL, settings
from benchmarks.scaling.scene import training as command

LINK, STEP = Link(3e-4, 2e-9), Line(0.02, 0.004)
SIZES = (8, 10**5, 10**7)
STARTS = {1: 6.0, 2: 11.0}
ONE_STEP = {"exchanges": 3, "reduced": 400_000, "gathered": 100.0}


def pieces(slower):
    steps = [(size, slower * STEP.at(size)) for size in FULL.tried]
    return {
        "step": {"bce": steps, "cones": steps},
        "read": 0.005 * slower,
        "forward": 0.002 * slower,
        "decode": 0.003 * slower,
    }


@pytest.fixture
def found():
    held = {
        "machine": "a machine",
        "pieces 1": pieces(1.0),
        "pieces 2": pieces(1.5),
        "host": {"order": [(10**5, 0.002), (10**6, 0.02)], "saving": [(10**6, 0.011), (10**7, 0.02)]},
        "exchanges": {
            "points": {
                "reduced": [(size, LINK.reduced(size, 2)) for size in SIZES],
                "gathered": [(size, LINK.gathered(size, 2)) for size in SIZES],
            },
            "methods": {"bce": {"exchanges": 0, "reduced": 0, "gathered": 0.0}, "cones": ONE_STEP},
            "models": {},
        },
    }
    held["host"] |= {"figure": 2e-7, "epoch start": 0.6}
    for run in WHOLE:
        held[f"start {run.name}"] = {"command": 0.0, "state": 2e7, "best": 1e7}
        short = sum(epoch(machine_of(held, run), job_of(held, FULL, run, few(FULL))).values())
        held[f"start {run.name}"]["command"] = STARTS[run.processes] + FULL.epochs * short
    return held


@pytest.mark.parametrize("run", WHOLE)
def test_pieces_are_read_as_they_were_measured(found, run):
    machine = machine_of(found, run)
    slower = {1: 1.0, 2: 1.5}[run.processes]
    assert machine.step == pytest.approx((slower * STEP.fixed, slower * STEP.each))
    assert machine.link == pytest.approx(LINK)
    assert (machine.read, machine.overlap, machine.order) == (0.005 * slower, 0.0, pytest.approx(2e-8))
    assert start_seconds(found, FULL, run) == pytest.approx(STARTS[run.processes])


@pytest.mark.parametrize("run", WHOLE)
def test_a_run_takes_its_start_and_its_epochs(found, run):
    told = predicted(found, FULL, run)
    machine, job = machine_of(found, run), job_of(found, FULL, run, FULL.trained)
    assert told.steps == pytest.approx(FULL.epochs * sum(training(machine, job).values()))
    looked_at = (FULL.trained - few(FULL)) * found[f"pieces {run.processes}"]["decode"] / 2
    whole = STARTS[run.processes] + looked_at + FULL.epochs * sum(epoch(machine, job).values())
    assert told.command == pytest.approx(whole)
    assert error(told.command, whole / 1.1) == pytest.approx(0.1)


def test_only_a_method_that_exchanges_more_takes_longer_on_two_processes(found):
    bce, cones = (predicted(found, FULL, Whole(method, 2)).steps for method in ("bce", "cones"))
    steps = FULL.epochs * -(-FULL.trained // (2 * FULL.batch))
    # around a ring of two a process sends as many bytes as a sum has, and half of what is gathered
    each = 3 * LINK.latency + LINK.each * (400_000 + 100.0 * FULL.batch)
    assert cones - bce == pytest.approx(steps * each)


def test_the_page_shows_predictions_beside_runs(found):
    for run in WHOLE:
        told = predicted(found, FULL, run)
        found[f"run {run.name}"] = {"steps": told.steps / 1.25, "command": told.command / 0.9}
    text = page(found, FULL)
    first = WHOLE[0]
    told = predicted(found, FULL, first)
    assert f"| {first.name}: all steps | {told.steps:.1f} s | {told.steps / 1.25:.1f} s | +25 % |" in text
    assert f"| {first.name}: command | {told.command:.1f} s | {told.command / 0.9:.1f} s | -10 % |" in text
    for title in ("Pieces", "Exchanges between two", "Predicted, then run", "Many GPUs", "100,000,000 images"):
        assert f"## {title}" in text


def test_what_was_not_measured_is_left_out(found):
    whole = page(found, FULL)
    assert "all steps" not in whole  # there are predictions, but no runs
    del found["pieces 2"]
    assert "## Pieces" not in page(found, FULL)
    assert page({"machine": "a machine"}, FULL).count("\n") == 0


def test_processes_that_measured_at_once_count_alike():
    one, other = pieces(1.0), pieces(2.0)
    assert dict(middle([one, other])["step"]["bce"]) == pytest.approx(dict(pieces(1.5)["step"]["bce"]))
    assert middle([one, other])["read"] == pytest.approx(0.0075)


def test_runs_have_batches_between_those_at_which_steps_were_measured():
    for scene in (FULL, SMALL):
        assert min(scene.tried) < scene.batch < max(scene.tried)
        assert scene.batch not in scene.tried
        assert few(scene) < scene.trained < scene.images


@pytest.mark.parametrize("run", WHOLE)
def test_commands_say_how_many_images_and_processes(tmp_path, run):
    words = settings(tmp_path, FULL, tmp_path / "run", few(FULL), run.processes)
    assert float(words[words.index("--ss_frac_train") + 1]) * FULL.trained == pytest.approx(few(FULL))
    assert int(words[words.index("--batch_size") + 1]) == FULL.batch * run.processes
    assert "--ss_frac_train" not in settings(tmp_path, FULL, tmp_path / "run", FULL.trained, run.processes)
    launch = "torch.distributed.run" in command("main_BCE.py", run.processes, words)
    assert launch is (run.processes > 1)


def test_a_process_does_not_wait_for_ever_for_one_that_failed(tmp_path, monkeypatch):
    monkeypatch.setattr(pieces_module, "PATIENCE", 0.05)
    pieces_module.meet(tmp_path, 0, 1)
    with pytest.raises(TimeoutError, match="only some of 2 processes"):
        pieces_module.meet(tmp_path, 0, 2)
    (tmp_path / "ready-1-of-2").touch()
    pieces_module.meet(tmp_path, 0, 2)


@pytest.mark.slow
def test_the_command_measures_predicts_and_runs(tmp_path):
    output = tmp_path / "scaling.md"
    assert main(["--small", "--output", str(output)]) == 0
    held, text = json.loads(output.with_suffix(".json").read_text()), output.read_text()
    assert {f"run {run.name}" for run in WHOLE} <= held.keys()
    assert text.count(": all steps |") == len(WHOLE)
    assert main(["--small", "--resume", "--output", str(output)]) == 0  # and measures nothing
    assert output.read_text() == text
