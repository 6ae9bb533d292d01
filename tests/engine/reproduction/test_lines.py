import json
import math

from engine.reproduction.estimate import duration
from engine.reproduction.figures import at_epoch, figures_of, line_of
from engine.reproduction.lines import FinishedLine, LineFile
from tests.engine.reproduction.fake_runs import write_run

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
    odd += [{**whole, "figures": {"mAP": math.nan}}, {**whole, "epochs": {"a": 1}}, {**whole, "seed": "3"}, [1]]
    path.write_text("<<<<<<< ours\n\n" + "".join(json.dumps(each) + "\n" for each in odd) + path.read_text())
    assert list(LineFile(path)) == [line()]
    said = capsys.readouterr().err.splitlines()
    assert [text.partition("runs.jsonl, ")[2] for text in said] == [
        "line 1: damaged; passed over",
        "line 8: damaged; passed over",
        "line 3: its defaults are not in the file; passed over",
        "line 4: its defaults are not in the file; passed over",
        *(f"line {number}: no line of a finished run; passed over" for number in (5, 6, 7)),
    ]


def test_half_a_line_that_a_kill_has_left_does_not_spoil_the_next(tmp_path):
    file = LineFile(tmp_path / "runs.jsonl")
    file.path.write_text('{"method": "b')
    file.add(line(), DEFAULTS)
    assert list(LineFile(file.path)) == [line()]


def test_figures_by_name():
    result = {"test": {"mAP": 0.5, "CP": None, "P@3": 0.2}, "last": {"mAP": 0.25}, "validation": None}
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
    assert [duration(seconds) for seconds in (41.2, 89, 90, 1800, 12000)] == [
        "41 s",
        "89 s",
        "2 min",
        "30 min",
        "3 h 20 min",
    ]


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
