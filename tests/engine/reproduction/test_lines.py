import json
import math
from types import SimpleNamespace

import pytest

from engine.reproduction.estimate import duration, expected_seconds
from engine.reproduction.figures import at_epoch, figures_of, line_of
from engine.reproduction.lines import FinishedLine, LineFile
from engine.reproduction.plan import Cell, PlanRegime, RunOf
from tests.engine.reproduction.fake_runs import write_run
from utils.checks import RunError, UserError

DEFAULTS = {"seed": "0", "lr": "0.01", "head": "linear"}
IDENTITY = {"seed": "3", "lr": "0.5", "head": "linear"}


def line(**changes):
    return FinishedLine("bce", 3, IDENTITY, {"mAP": 0.5}, {}, "x", {}, 2.0, {"row": "r"})._replace(**changes)


def test_a_line_is_found_by_its_settings_and_read_again(tmp_path):
    LineFile(tmp_path / "a" / "runs.jsonl").add(line(), DEFAULTS)
    found = LineFile(tmp_path / "a" / "runs.jsonl")
    assert found.find("bce", IDENTITY, DEFAULTS) == line()
    assert found.find("an", IDENTITY, DEFAULTS) is None
    for name, text in (("lr", "0.6"), ("head", "csra"), ("seed", "4")):
        assert found.find("bce", {**IDENTITY, name: text}, DEFAULTS) is None
    assert list(found) == [line()]


def test_defaults_stand_once_and_what_equals_them_is_left_out(tmp_path):
    file = LineFile(tmp_path / "runs.jsonl")
    file.add(line(), DEFAULTS)
    file.add(line(seed=4, settings={**IDENTITY, "seed": "4"}), DEFAULTS)
    records = [json.loads(text) for text in file.path.read_text().splitlines()]
    assert [record.get("settings") for record in records] == [None, *({"seed": seed, "lr": "0.5"} for seed in "34")]


def test_a_line_means_the_same_when_defaults_have_changed(tmp_path):
    LineFile(tmp_path / "runs.jsonl").add(line(), DEFAULTS)
    now, file = {**DEFAULTS, "head": "csra", "new": "1"}, LineFile(tmp_path / "runs.jsonl")
    assert file.find("bce", {**IDENTITY, "new": "1"}, now) == line()
    assert file.find("bce", {**IDENTITY, "new": "2"}, now) is None
    assert file.find("bce", {**IDENTITY, "head": "csra", "new": "1"}, now) is None


def test_what_another_process_adds_is_seen(tmp_path):
    mine, other = LineFile(tmp_path / "runs.jsonl"), LineFile(tmp_path / "runs.jsonl")
    other.add(line(), DEFAULTS)
    assert mine.find("bce", IDENTITY, DEFAULTS) is None
    mine.refresh()
    assert mine.find("bce", IDENTITY, DEFAULTS) == line()


def test_damaged_lines_are_said_and_passed_over(tmp_path, capsys):
    path = tmp_path / "runs.jsonl"
    LineFile(path).add(line(), DEFAULTS)
    odd = [{"method": 3}, {**json.loads(path.read_text().splitlines()[1]), "defaults": "gone"}]
    whole = json.loads(path.read_text().splitlines()[1])
    odd += [{**whole, "figures": {"mAP": math.nan, "CF1": 1}}, {**whole, "epochs": {"a": 1, "b": []}}]
    odd += [{**whole, "seed": "3"}, {**whole, "about": "x"}, {**whole, "method": 3}, [1]]
    path.write_text("<<<<<<< ours\n\n" + "".join(json.dumps(each) + "\n" for each in odd) + path.read_text())
    assert list(LineFile(path)) == [line()]
    said = capsys.readouterr().err.splitlines()
    assert [text.partition("runs.jsonl, ")[2] for text in said] == [
        "line 1: damaged; passed over",
        "line 10: damaged; passed over",
        "line 3: its defaults are not in the file; passed over",
        "line 4: its defaults are not in the file; passed over",
        *(f"line {number}: no line of a finished run; passed over" for number in range(5, 10)),
    ]


def test_one_name_for_the_same_defaults_in_any_order(tmp_path):
    file = LineFile(tmp_path / "runs.jsonl")
    file.path.touch()
    file.add(line(about={"row": "é"}), DEFAULTS)
    file.add(line(), dict(reversed(DEFAULTS.items())))
    text = file.path.read_text(encoding="utf-8")
    assert "é" in text
    records = [json.loads(each) for each in text.split("\n")[:-1]]
    assert [len(record["defaults"]) for record in records] == [12, 12, 12]
    assert len({record["defaults"] for record in records}) == 1


def test_a_file_that_cannot_be_read_or_made_is_said(tmp_path):
    (tmp_path / "runs.jsonl").mkdir()
    with pytest.raises(UserError, match=r"runs\.jsonl: cannot be read \(Is a directory\)"):
        LineFile(tmp_path / "runs.jsonl")
    (tmp_path / "a").touch()
    with pytest.raises(RunError, match=r"a: cannot be made \((Not a directory|File exists)\)"):
        LineFile(tmp_path / "a" / "runs.jsonl").add(line(), DEFAULTS)


def test_half_a_line_that_a_kill_has_left_does_not_spoil_the_next(tmp_path):
    file = LineFile(tmp_path / "runs.jsonl")
    file.path.write_text('{"method": "b')
    file.add(line(), DEFAULTS)
    assert list(LineFile(file.path)) == [line()]


def test_figures_by_name():
    result = {"test": {"mAP": 0.5, "CP": None, "P@3": 0.2, "CR": 1 / 3}, "last": {"mAP": 0.25}, "validation": None}
    result |= {"selected_epoch": 4, "best_on_test": {"epoch": 2, "mAP": 0.75, "chosen_on": "the test set"}}
    result["extra"] = {
        "ensemble": {"mAP": 0.6, "P@3": 1.0},
        "tail": 0.125,
        "head": None,
        "classes_without_positives": [],
    }
    result["calibration"] = {"ECE": 0.0625, "CF1_tuned": None}
    assert figures_of(result, {"modified_true": 0.875, "loss": 3.0}) == {
        "mAP": 0.5,
        "CR": 0.333333,
        "last mAP": 0.25,
        "best on test mAP": 0.75,
        "ensemble mAP": 0.6,
        "tail mAP": 0.125,
        "ECE": 0.0625,
        "epoch": 4.0,
        "best on test epoch": 2.0,
        "modified_true": 0.875,
    }


def test_figures_of_an_epoch():
    columns = {"test_mAP": [0.25, None], "test_CF1": [0.5, 0.75], "validation_mAP": [1.0, 1.0]}
    columns |= {"test_ECE_class": [0.125, None], "test_tail_mAP": [None, 0.5], "modified_true": [None, 0.875]}
    of_epochs = line(epochs=columns)
    assert at_epoch(of_epochs, 1) == {"mAP": 0.25, "CF1": 0.5, "ECE_class": 0.125}
    assert at_epoch(of_epochs, 2) == {"CF1": 0.75, "tail mAP": 0.5, "modified_true": 0.875}
    assert at_epoch(of_epochs, 3) == at_epoch(of_epochs, 0) == {}


def test_durations_in_words():
    assert [duration(seconds) for seconds in (41.2, 89, 90, 1800, 5340, 5400, 12000)] == [
        "41 s",
        "89 s",
        "2 min",
        "30 min",
        "89 min",
        "1 h 30 min",
        "3 h 20 min",
    ]


@pytest.mark.parametrize(
    ("row", "regime", "seconds"),
    [("A", "easy", 10), ("A", "new", 20), ("new", "easy", 40), ("B", "easy", 80)],
)
def test_a_run_is_expected_to_take_as_long_as_those_most_like_it(row, regime, seconds):
    taken = {("A", "easy"): 10.0, ("A", "hard"): 30.0, ("B", "easy"): 80.0, ("C", "easy"): None}
    lines = [line(about={"row": one, "regime": two}, seconds=value) for (one, two), value in taken.items()]
    cell = Cell(None, SimpleNamespace(name=row), PlanRegime(name=regime, flags=(), seeds=(), needs=""))
    assert expected_seconds(RunOf(cell, 1, {}), lines) == seconds
    assert expected_seconds(RunOf(cell, 1, {}), lines[3:]) is None


def test_columns_of_the_log_are_kept_where_any_epoch_has_them(tmp_path):
    write_run(tmp_path, "bce", 0.5)
    rows = ["epoch,test_mAP,test_ECE,test_OF1,modified_true", "1,0.123456,nan,,0.25", "2,0.5,0.75,,0.125", "3,1,,,0.5"]
    (tmp_path / "metrics.csv").write_text("\n".join(rows) + "\n")
    kept = line_of(tmp_path, {"seed": "3"}, None, {})
    assert kept.epochs == {
        "test_mAP": [0.1235, 0.5, 1.0],
        "test_ECE": [None, 0.75, None],
        "modified_true": [0.25, 0.125, 0.5],
    }
    assert kept.figures["modified_true"] == 0.5
    (tmp_path / "metrics.csv").write_text(rows[0] + "\n")
    assert "modified_true" not in line_of(tmp_path, {"seed": "3"}, None, {}).figures


def test_seconds_are_those_of_a_run_that_nobody_interrupted(tmp_path):
    write_run(tmp_path / "r", "bce", 0.5)
    identity = {"seed": "3"}
    assert line_of(tmp_path / "r", identity, None, {}).seconds is None
    assert line_of(tmp_path / "r", identity, 2.25, {}).seconds == 2.2
    start, end = ({"time": f"2026-11-27T05:3{n}:10", "event": name} for n, name in ((1, "start"), (3, "end")))
    log = tmp_path / "r" / "log.jsonl"
    log.write_text("".join(json.dumps(each) + "\n" for each in ({**start, "device": "cpu", "precision": "fp32"}, end)))
    found = line_of(tmp_path / "r", identity, None, {"row": "r"})
    assert (found.seconds, found.about["device"], found.about["row"]) == (120.0, "cpu fp32", "r")
    log.write_text(json.dumps(start) + "\nhalf a li\n" + log.read_text())
    assert line_of(tmp_path / "r", identity, 2.25, {}).seconds is None
    assert found.epochs["validation_mAP"] == [0.4, 0.45]
    assert (found.label_hash, found.data) == ("a" * 16, {"test": "b" * 16})
