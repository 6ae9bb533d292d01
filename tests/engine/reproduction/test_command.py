"""The command on runs that are only pretended: in forked processes, which start at once."""

import json
import multiprocessing
import os
import re
import signal
import threading
import time
from pathlib import Path

import pytest

from engine.core.run_lock import RunLock
from engine.reproduction.command import ReproduceConfig
from engine.reproduction.lines import LineFile
from tests.engine.reproduction.fake_runs import (
    FakeScript,
    RunError,
    UserError,
    fails_with,
    is_killed,
    reproduce,
    write_plan,
    write_run,
)
from tests.engine.run_folders import settings_of

pytestmark = [pytest.mark.usefixtures("own_folder"), pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")]
ALL = [
    f"{method} {rate} {seed} {lr}"
    for rate in (0.1, 0.4)
    for method, lr in (("bce", 0.01), ("an", 0.5))
    for seed in (1, 2)
]
TABLES = Path("docs/reproduction/plan")


@pytest.fixture
def plan(tmp_path):
    return write_plan(tmp_path)


@pytest.fixture
def script(tmp_path):
    return FakeScript(tmp_path / "trained.txt")


def kept():
    return sorted((line.about["row"], line.about["regime"], line.seed) for line in LineFile(TABLES / "runs.jsonl"))


def test_every_run_once_then_lines_and_tables_and_nothing_more_the_second_time(plan, script, capsys):
    assert reproduce(plan, script) == 0
    assert len(script.lines) == len(set(script.lines)) == 8
    assert kept() == sorted(
        (row, regime, seed) for row in ("BCE", "AN") for regime in ("easy", "hard") for seed in (1, 2)
    )
    tables = [f"table.{end}" for end in ("csv", "html", "md", "tex")]
    assert sorted(path.name for path in TABLES.iterdir()) == ["gains.png", "ranks.png", "runs.jsonl", *tables]
    assert all(0 <= line.seconds < 60 for line in LineFile(TABLES / "runs.jsonl"))
    assert "A plan: 0 runs finished, 8 to run\n" in capsys.readouterr().out
    assert not list(Path("runs/plan/claims").iterdir())
    assert reproduce(plan, script) == 0
    assert "A plan: 8 runs finished, 0 to run\n" in capsys.readouterr().out
    assert len(script.lines) == 8


@pytest.mark.parametrize("words", [(), ("--keep_weights",)])
def test_weights_are_removed_once_a_run_has_its_line(plan, tmp_path, words):
    def act(values):
        for name in ("best.pth", "last/state.pth", "notes.txt"):
            file = Path(values["output"]) / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()

    reproduce(plan, FakeScript(tmp_path / "trained.txt", act), *words)
    left = {path.name for path in Path("runs/plan").rglob("*") if path.parent != Path("runs/plan")}
    assert {"result.json", "metrics.csv", "notes.txt"} <= left
    assert ({"best.pth", "state.pth"} <= left) is bool(words)
    assert ("last" in left) is bool(words)


def test_a_disk_that_takes_nothing_fails_the_run_and_not_its_process(plan, script, capsys):
    Path("w").mkdir()
    Path("w/claims").write_text("in the way")
    assert reproduce(plan, script, "--work", "w") == 1
    said = capsys.readouterr().err
    assert said.count("failed: w/claims/") == 8
    assert "cannot be written: Not a directory" in said
    assert script.lines == []


def test_a_dry_run_says_what_is_to_run_and_writes_nothing(plan, script, capsys):
    assert reproduce(plan, script, "--dry_run") == 0
    said = capsys.readouterr().out
    assert "  to run: AN, hard, seed 2\n" in said
    assert not script.lines
    assert not TABLES.exists()
    assert not Path("runs").exists()


def test_lines_say_how_long_the_rest_will_take(plan, script, capsys):
    reproduce(plan, script, "--shard", "1/2")
    file = TABLES / "runs.jsonl"
    file.write_text(re.sub(r'"seconds":[0-9.]+', '"seconds":300.0', file.read_text()))
    reproduce(plan, script, "--dry_run", "--jobs", "2")
    said = capsys.readouterr().out
    assert "BCE, easy, seed 2 (about 5 min)" in said
    assert "4 runs finished, 4 to run, about 10 min\n" in said


def test_parts_on_machines_of_their_own_make_every_run_once_and_their_lines_can_be_joined(plan, script):
    for number in (1, 2, 3):
        assert (
            reproduce(plan, script, "--shard", f"{number}/3", "--output", f"out{number}", "--work", f"w{number}") == 0
        )
    assert len(script.lines) == len(set(script.lines)) == 8
    TABLES.mkdir(parents=True)
    (TABLES / "runs.jsonl").write_text("".join(Path(f"out{number}/runs.jsonl").read_text() for number in (3, 1, 2)))
    assert reproduce(plan, script) == 0
    assert len(script.lines) == 8


def test_a_row_that_fails_stops_nothing_and_is_said_in_the_table(plan, tmp_path, capsys):
    script = FakeScript(tmp_path / "trained.txt", fails_with(RunError("the loss is nan"), lr=0.5, seed=2))
    assert reproduce(plan, script, "--jobs", "2") == 1
    assert len(kept()) == 6
    assert "1 of 2 seeds: failed: the loss is nan" in (TABLES / "table.md").read_text()
    assert "AN, hard, seed 2: failed: the loss is nan (" in capsys.readouterr().err


def test_a_process_that_dies_takes_one_run_with_it(plan, tmp_path, capsys):
    script = FakeScript(tmp_path / "trained.txt", is_killed(None, lr=0.5, seed=1, partial_rate=0.1))
    assert reproduce(plan, script) == 1
    assert len(kept()) == 7
    assert "its process was ended by SIGKILL" in capsys.readouterr().err


def test_after_a_kill_the_same_command_goes_on(plan, tmp_path):
    script = FakeScript(tmp_path / "trained.txt", is_killed(tmp_path / "once", lr=0.5, seed=1, partial_rate=0.1))
    assert reproduce(plan, script) == 1
    assert reproduce(plan, script) == 0
    assert len(kept()) == 8
    assert len(script.lines) == 9


def test_a_run_that_ended_while_nobody_looked_is_only_read(plan, script):
    reproduce(plan, script)
    file = TABLES / "runs.jsonl"
    file.write_text("\n".join(file.read_text().splitlines()[:3]) + '\n{"method": "bce", "se')  # killed while it wrote
    assert reproduce(plan, script) == 0
    assert len(script.lines) == 8
    assert len(kept()) == 8


def test_a_run_that_another_one_has_is_left_to_it(plan, script, capsys):
    reproduce(plan, script, "--dry_run")
    reproduce(plan, script, "--shard", "8/8", "--work", "w")
    (name,) = {path.stem for path in Path("w").glob("*.txt")}
    TABLES.joinpath("runs.jsonl").unlink()
    claim = Path("w/claims") / name
    claim.mkdir()
    lock = RunLock(claim)
    lock.take(wait=False)
    Path(f"w/{name}/result.json").unlink()
    assert reproduce(plan, script, "--work", "w", "--shard", "8/8") == 0
    lock.release()
    assert "another reproduce.py has it (process" in capsys.readouterr().out
    assert kept() == []


def test_a_signal_ends_it_with_its_tables_written(plan, tmp_path, capsys):
    def act(values):
        if values["lr"] == 0.5:
            (tmp_path / "slow").touch()
            time.sleep(30)

    script = FakeScript(tmp_path / "trained.txt", act)
    ended = threading.Event()

    def stop():
        while not (tmp_path / "slow").exists():
            if ended.wait(0.02):
                return
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=stop)
    began, before, others = time.monotonic(), signal.getsignal(signal.SIGTERM), multiprocessing.active_children()
    thread.start()
    assert reproduce(plan, script, "--jobs", "2") == 128 + signal.SIGTERM
    assert time.monotonic() - began < 15  # what was running was told to stop, and was waited for
    assert set(multiprocessing.active_children()) <= set(others)
    assert signal.getsignal(signal.SIGTERM) == before
    ended.set()
    thread.join()
    assert "stopped; what was running is saved, and the same command goes on" in capsys.readouterr().err
    assert (TABLES / "table.md").exists()
    assert {("BCE", "easy", 1), ("BCE", "easy", 2)} & set(kept())  # whichever of the two was done by then


def test_runs_of_anywhere_are_collected_by_their_settings(plan, script, tmp_path, capsys):
    words = ["--dataset", "digits", "--labels", "candidate", "--partial_rate", "0.1"]
    for name, value, more in (("one", 0.9, ("--device", "cpu")), ("other", 0.1, ("--lr", "0.3"))):
        write_run(tmp_path / "any" / name, "bce", value)
        settings = settings_of("bce", [*words, "--seed", "1", *more])
        (tmp_path / "any" / name / "settings.yaml").write_text(settings.as_yaml("of a test"))
    write_run(tmp_path / "any" / "an", "an", 0.8)
    of_an = settings_of(
        "an", [*words, "--seed", "2", "--lr", "0.5"]
    )  # as `--loss an` of the script that trains several
    (tmp_path / "any" / "an" / "settings.yaml").write_text(of_an.as_yaml("of a test"))
    (tmp_path / "any" / "broken").mkdir()
    (tmp_path / "any" / "broken" / "result.json").write_text("{")
    assert reproduce(plan, script, "--collect", tmp_path / "any", "--shard", "2/8") == 0
    said = capsys.readouterr()
    assert "any: 2 finished runs of this plan" in said.out
    assert "broken" in said.err
    assert kept() == [("AN", "easy", 2), ("BCE", "easy", 1), ("BCE", "easy", 2)]
    line = next(line for line in LineFile(TABLES / "runs.jsonl") if line.seed == 1)
    assert line.figures["mAP"] == 0.9


def test_the_setting_is_chosen_by_validation_and_the_other_seeds_run_with_it(tmp_path, script):
    row = {"name": "BCE", "command": "main_BCE.py --test_every 1", "try": {"lr": [0.1, 0.3, 0.2]}}
    plan = write_plan(tmp_path, rows=[row], regimes={"easy": "--partial_rate 0.1"}, tuning={"seed": 11})
    assert reproduce(plan, script) == 0
    assert script.lines == [f"bce 0.1 11 {lr}" for lr in (0.1, 0.3, 0.2)] + [f"bce 0.1 {seed} 0.3" for seed in (1, 2)]
    table = (TABLES / "table.md").read_text()
    kept_of = {line.seed: set(line.epochs) for line in LineFile(TABLES / "runs.jsonl")}
    reported = {"validation_mAP", "test_mAP", "test_CF1"}
    assert kept_of == {11: {"validation_mAP", "test_mAP"}, 1: reported, 2: reported}
    # Of the tuning seed .5 + .03 + .11 - .01 = 63 %, on the test set 2 points more in another epoch.
    assert "| lr 0.3, epoch 2: 63.00 / 65.00 |" in table
    assert "| BCE | 2 | 55.50 ± 0.71 |" in table  # epoch 2 of each: 2 points above .53 and .54


def test_settings_and_epochs_may_be_those_that_another_plan_has_chosen(tmp_path, script, capsys):
    row = {"name": "X", "command": "main_BCE.py", "try": {"lr": [0.1, 0.3]}}
    flags = {"flags": "--dataset digits --val_frac 0.2 --test_every 1"}
    other = write_plan(
        tmp_path, name="other.yaml", rows=[row], regimes={"easy": ""}, tuning={"seed": 11}, seeds=[1], **flags
    )
    content = {"like": "other.yaml", "flags": "--labels single", "seeds": [7, 8], "regimes": {"easy": ""}}
    plan = write_plan(tmp_path, content)
    assert reproduce(plan, script) == 0
    table = TABLES / "table.md"
    assert script.lines == []
    assert f"not run: {other} has not chosen its setting yet" in table.read_text()
    assert reproduce(other, script) == 0
    assert capsys.readouterr().out.count("then 2 once settings are chosen") == 1
    script.trained.unlink()
    assert (
        reproduce(plan, script, "--flags", "--drop_rate 0.3") == 0
    )  # of the runs of this plan, not of what the other chose
    assert sorted(script.lines) == ["bce 0.1 7 0.3", "bce 0.1 8 0.3"]
    text = table.read_text()
    assert "| X | 2 |" in text
    assert "| lr 0.3, epoch 2 |" in text  # without figures of the other data
    assert f"those that {other} has chosen on its own data" in text
    assert "once settings are chosen" not in capsys.readouterr().out


def test_a_wrong_flag_of_a_plan_like_another_is_told_before_anything_runs(tmp_path, script):
    row = {"name": "X", "command": "main_BCE.py --test_every 1", "try": {"lr": [0.1, 0.3]}}
    write_plan(tmp_path, name="other.yaml", rows=[row], regimes={"easy": ""}, tuning={"seed": 11})
    content = {"like": "other.yaml", "flags": "--lrr 1", "seeds": [7], "regimes": {"easy": ""}}
    with pytest.raises(UserError, match=r"plan\.yaml: row X, regime easy: .*unknown flag --lrr"):
        reproduce(write_plan(tmp_path, content), script)


def test_a_row_without_tuning_needs_no_validation_split_beside_one_that_has_it(tmp_path, script):
    rows = [
        {"name": "X", "command": "main_BCE.py --loss an --test_every 1", "try": {"lr": [0.1, 0.3]}},
        {"name": "BCE", "command": "main_BCE.py --val_frac 0"},
    ]
    plan = write_plan(tmp_path, rows=rows, regimes={"easy": ""}, tuning={"seed": 11}, seeds=[1])
    assert reproduce(plan, script) == 0
    lines = (TABLES / "table.md").read_text().splitlines()
    (head,) = [text for text in lines if text.startswith("| method")]
    assert head == "| method | seeds | mAP | CF1 | OF1 | mAP - X | chosen | remark |"
    assert "| BCE | 1 | **" not in "\n".join(lines)


def test_runs_of_a_tuned_row_are_collected_whatever_their_setting(tmp_path, script):
    row = {"name": "BCE", "command": "main_BCE.py --test_every 1", "try": {"lr": [0.1, 0.3]}}
    plan = write_plan(tmp_path, rows=[row], regimes={"easy": ""}, tuning={"seed": 11})
    words = ["--dataset", "digits", "--labels", "candidate", "--test_every", "1", "--lr", "0.3", "--seed", "2"]
    write_run(tmp_path / "any" / "one", "bce", 0.9)
    (tmp_path / "any" / "one" / "settings.yaml").write_text(settings_of("bce", words).as_yaml("of a test"))
    reproduce(plan, script, "--collect", tmp_path / "any", "--tables_only")
    assert kept() == [("BCE", "easy", 2)]


def test_of_several_copies_of_a_run_the_first_by_name_is_collected(plan, script, tmp_path, monkeypatch, capsys):
    words = ["--dataset", "digits", "--labels", "candidate", "--partial_rate", "0.1", "--seed", "1"]
    for name, method, value in (("a", "wan", 0.7), ("b", "bce", 0.9), ("c", "bce", 0.8)):
        write_run(tmp_path / "any" / name, method, value)
        (tmp_path / "any" / name / "settings.yaml").write_text(settings_of(method, words).as_yaml("of a test"))
    files = [tmp_path / "any" / name / "result.json" for name in "cba"]
    monkeypatch.setattr(Path, "rglob", lambda self, pattern: iter(files))
    reproduce(plan, script, "--collect", tmp_path / "any", "--tables_only")
    assert "any: 1 finished runs of this plan" in capsys.readouterr().out
    assert [line.figures["mAP"] for line in LineFile(TABLES / "runs.jsonl")] == [0.9]


def test_a_regime_is_done_before_the_next_one_begins(tmp_path, script):
    row = {"name": "X", "command": "main_BCE.py", "try": {"lr": [0.1, 0.3]}}
    flags = {"flags": "--dataset digits --val_frac 0.2 --test_every 1"}
    reproduce(write_plan(tmp_path, rows=[row], tuning={"seed": 11}, seeds=[1], **flags), script)
    tried = [f"bce {{0}} 11 {lr}" for lr in (0.1, 0.3)]
    assert script.lines == [text.format(rate) for rate in (0.1, 0.4) for text in (*tried, "bce {0} 1 0.3")]


def test_each_seed_may_take_its_own_epoch(tmp_path, script):
    row = {"name": "BCE", "command": "main_BCE.py", "try": {"lr": [0.1, 0.3]}}
    changes = {"regimes": {"easy": "--partial_rate 0.1"}, "tuning": {"seed": 11, "epoch": "own"}}
    assert reproduce(write_plan(tmp_path, rows=[row], **changes), script) == 0
    assert "| BCE | 2 | 53.50 ± 0.71 |" in (TABLES / "table.md").read_text()


def test_a_setting_that_fails_is_left_out_of_the_choice(tmp_path):
    row = {"name": "BCE", "command": "main_BCE.py --test_every 1", "try": {"lr": [0.1, 0.3]}}
    plan = write_plan(tmp_path, rows=[row], regimes={"easy": ""}, tuning={"seed": 11})
    script = FakeScript(tmp_path / "trained.txt", fails_with(RunError("the loss is nan"), lr=0.3))
    assert reproduce(plan, script) == 1
    assert [line.split()[2:] for line in script.lines] == [["11", "0.1"], ["11", "0.3"], ["1", "0.1"], ["2", "0.1"]]


def test_rows_without_their_data_say_what_they_need(tmp_path, script, capsys):
    regimes = {"easy": "--partial_rate 0.1", "voc": {"flags": "--dataset voc07", "needs": "VOC 2007"}}
    plan = write_plan(
        tmp_path, regimes=regimes, flags=None, rows=[{"name": "BCE", "command": "main_BCE.py --threads 1"}]
    )
    plan.write_text(plan.read_text().replace("--partial_rate 0.1", "--partial_rate 0.1 --dataset digits"))
    assert reproduce(plan, script) == 0
    assert "not run: needs VOC 2007 (--data voc07=FOLDER)" in (TABLES / "table.md").read_text()
    said = capsys.readouterr().out
    assert "  not run: 2 x needs VOC 2007 (--data voc07=FOLDER)\n" in said
    assert said.count("not run: ") == 1
    assert len(script.lines) == 2
    (tmp_path / "devkit").mkdir()
    assert reproduce(plan, script, "--data", f"voc07={tmp_path / 'devkit'}") == 0
    assert len(script.lines) == 4


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"rows": [{"name": "X", "command": "main_BCE.py --lrr 1"}]},
            r"row X, regime easy: main_BCE.py: unknown flag --lrr",
        ),
        ({"rows": [{"name": "X", "command": "main_BCE.py --seed 1"}]}, "row X, regime easy: --seed is set by the plan"),
        ({"rows": [{"name": "X", "command": "main_BCE.py -h"}]}, "row X, regime easy: --h is set by the plan"),
        ({"flags": "--dataset digits --epochs 0"}, "row BCE, regime easy: --epochs 0: must be at least 1"),
        (
            {
                "rows": [{"name": "X", "command": "main_BCE.py --val_frac 0", "try": {"lr": [1, 2]}}],
                "tuning": {"seed": 9},
            },
            "row X, regime easy: settings are chosen on a validation split; give --val_frac",
        ),
        (
            {"rows": [{"name": "X", "command": "main_BCE.py", "try": {"lr": [1, 2]}}], "tuning": {"seed": 9}},
            "row X, regime easy: the epoch of the tuning seed is reported, .* give --test_every 1",
        ),
    ],
)
def test_a_wrong_flag_of_any_row_is_told_before_anything_runs(tmp_path, script, changes, text):
    with pytest.raises(UserError, match=text):
        reproduce(write_plan(tmp_path, **changes), script)
    assert not script.lines
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--shard", "3/2"], "--shard 3/2: must be i/n"),
        (["--shard", "x"], "--shard x: must be i/n"),
        (["--shard", "0/2"], "--shard 0/2: must be i/n"),
        (["--jobs", "0"], "--jobs 0: must be at least 1"),
        (["--data", "voc07"], "--data voc07: must be NAME=FOLDER"),
        (["other.yaml"], "name one plan"),
    ],
)
def test_wrong_words_are_refused(plan, script, words, text):
    with pytest.raises(UserError, match=text):
        reproduce(plan, script, *words)


def test_a_folder_of_runs_that_cannot_be_made_is_refused(plan, script):
    Path("w").touch()
    with pytest.raises(UserError, match=r"^--work w: cannot be made"):
        reproduce(plan, script, "--work", "w")


def test_a_launcher_is_refused(plan, script, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"^reproduce\.py: start it without a launcher; see --jobs$"):
        reproduce(plan, script)


def test_the_parts_of_a_plan_and_the_folders_of_data():
    assert ReproduceConfig().part == (1, 1)
    assert ReproduceConfig(shard="2/8").part == (2, 8)
    assert ReproduceConfig(data=("voc07=a=b",)).given.folders == {"voc07": Path("a=b")}
    assert ReproduceConfig(flags="--precision 'bf16'").given.flags == ("--precision", "bf16")


def test_further_flags_make_other_runs(plan, script):
    reproduce(plan, script, "--shard", "1/8")
    reproduce(plan, script, "--shard", "1/8", "--flags", "--w_d 0.5")
    assert len(script.lines) == 2
    assert {line.settings["w_d"] for line in LineFile(TABLES / "runs.jsonl")} == {"0.5", "0.02"}


def test_settings_of_a_line_are_those_of_its_run_though_defaults_change(plan, script):
    reproduce(plan, script, "--shard", "1/8")
    file = TABLES / "runs.jsonl"
    first, second = map(json.loads, file.read_text().splitlines())
    assert first.keys() == {"defaults", "values"}
    assert second["settings"]["img_size"] == "40"
    assert second["settings"].keys() <= first["values"].keys()
    assert "head" not in second["settings"]  # as the code's default


def test_tables_can_be_written_without_running_anything(plan, script):
    reproduce(plan, script, "--shard", "1/8")
    (TABLES / "table.md").unlink()
    assert reproduce(plan, script, "--tables_only") == 0
    assert "| BCE | 1 |" in (TABLES / "table.md").read_text()
    assert len(script.lines) == 1
