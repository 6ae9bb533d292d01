"""Folders that a run may use, and those that it may not: nothing of them is changed before it is allowed."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from data.datasets.table.config import FOUND, FOUND_IN_TABLE
from engine.core.run_folder import FREE_ON_RESUME, RunFolder
from engine.core.run_lock import RunLock, this_process
from engine.core.setting_table import training_names
from tests.engine.run_folders import settings_of
from utils.checks import UserError

KNOWN = training_names()
SETTINGS = settings_of("bce", ("--lr", "0.25", "--epochs", "3"))


def used(path, words=("--lr", "0.25", "--epochs", "3"), method="bce"):
    """A folder of a run with these settings."""
    path.mkdir(parents=True)
    (path / "settings.yaml").write_text(settings_of(method, words).as_yaml("a run"))
    return RunFolder(path)


def refused(folder, resume=True, settings=SETTINGS):
    with pytest.raises(UserError) as error:
        folder.open(resume, settings, KNOWN)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("resume", [True, False])
def test_a_new_folder_is_only_tried(tmp_path, capsys, resume):
    folder = RunFolder(tmp_path / "new" / "run")
    folder.open(resume, SETTINGS, KNOWN)
    assert [path.name for path in folder.path.iterdir()] == [".lock"]
    folder.close()
    assert not folder.path.exists()
    said = f"--resume: nothing saved in {folder.path} yet, starting\n"
    assert capsys.readouterr().out == (said if resume else "")
    folder.path.mkdir()
    folder = RunFolder(folder.path)
    folder.open(False, SETTINGS, KNOWN)
    folder.close()
    assert list(folder.path.iterdir()) == []


def test_a_file_and_a_folder_in_use_are_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    assert refused(RunFolder(tmp_path / "file")) == f"--output {tmp_path / 'file'}: is a file"
    folder = used(tmp_path / "run")
    words = f"--output {tmp_path / 'run'}: not empty; add --resume to go on with that run, or name another"
    assert refused(folder, resume=False) == words
    (folder.path / "settings.yaml").rename(folder.path / "other.yaml")
    assert "contains files but no run (no settings.yaml); name another folder" in refused(folder)


@pytest.mark.parametrize("saved", ["last/state.pth", "result.json", None])
def test_a_run_goes_on_with_its_own_settings(tmp_path, capsys, saved):
    folder = used(tmp_path / "run")
    if saved:
        (folder.path / saved).parent.mkdir(exist_ok=True)
        (folder.path / saved).write_text(json.dumps({"test": {}}))
    before = sorted(folder.path.rglob("*"))
    folder.open(True, SETTINGS, KNOWN)
    folder.close()
    assert sorted(folder.path.rglob("*")) == before
    assert ("nothing saved" in capsys.readouterr().out) == (saved is None)
    assert folder.result == ({"test": {}} if saved == "result.json" else None)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--lr", "0.5", "--epochs", "3"), "was started with --lr 0.5, now it is 0.25; give the same settings"),
        (("--lr", "0.25", "--epochs", "3", "--clip_grad", "2"), "was started with --clip_grad 2.0, now it is None"),
        (("--lr", "0.25", "--epochs", "3", "--milestones", "5,7"), "was started with --milestones 5,7, now it is None"),
    ],
)
def test_other_settings_are_another_run(tmp_path, words, expected):
    assert f"--resume: {tmp_path / 'run'} {expected}" in refused(used(tmp_path / "run", words))


def test_settings_that_leave_the_result_as_it_is_may_change(tmp_path):
    changed = {name: value for name, value in SETTINGS.values.items() if name in FREE_ON_RESUME}
    assert len(changed) >= 12
    other = {**SETTINGS.values, **dict.fromkeys(changed, "another")}
    folder = used(tmp_path / "run")
    folder.open(True, replace(SETTINGS, values=other), KNOWN)
    folder.close()
    assert "--seed 0, now it is another" in refused(
        RunFolder(tmp_path / "run"), settings=replace(SETTINGS, values={**other, "seed": "another"})
    )


def test_settings_of_other_methods_in_the_file_are_passed_over(tmp_path):
    folder = used(tmp_path / "run")
    with (folder.path / "settings.yaml").open("a") as file:
        file.write("mod_scheme: LL-R\n")
    folder.open(True, SETTINGS, KNOWN)
    folder.close()
    with pytest.raises(UserError, match="unknown setting 'mod_scheme'"):
        folder.open(True, SETTINGS, frozenset())


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_trained(tmp_path, monkeypatch):
    def full(*args, **named):
        raise OSError(28, "No space left on device")

    for place, name in ((os, "link"), (Path, "mkdir")):
        with monkeypatch.context() as patched:
            patched.setattr(place, name, full)
            message = refused(RunFolder(tmp_path / "run"), resume=False)
        assert message == f"--output {tmp_path / 'run'}: cannot be written (No space left on device)"
        assert not (tmp_path / "run").exists()


def test_what_a_kill_leaves_is_cleaned_up(tmp_path):
    folder = used(tmp_path / "run")
    (folder.path / "last").mkdir()
    left = [".settings.yaml.7.tmp", ".lock.7.tmp", "last/.state.pth.123.tmp", "last/.previous.pth.9.tmp"]
    others = [".notes.7.tmp", "a.tmp", "last/mine.tmp"]
    for name in (*left, *others):
        (folder.path / name).write_bytes(b"half")
    folder.log.write_text('{"event": "start"}\n{"time": "20')
    folder.open(True, SETTINGS, KNOWN)
    folder.close()
    assert sorted(path.relative_to(folder.path).as_posix() for path in folder.path.rglob("*.tmp")) == sorted(others)
    assert folder.log.read_text() == '{"event": "start"}\n'


@pytest.mark.parametrize("resume", [True, False])
def test_a_kill_within_the_very_first_write_leaves_a_folder_that_a_run_takes(tmp_path, resume):
    folder = RunFolder(tmp_path)
    for name in (".settings.yaml.7.tmp", ".lock.7.tmp", ".lock"):
        (tmp_path / name).write_text(json.dumps(this_process()._replace(pid=2**30)._asdict()))
    folder.open(resume, SETTINGS, KNOWN)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    folder.close()


@pytest.mark.parametrize("name", ["log.jsonl", "last"])
def test_links_in_a_folder_are_refused(tmp_path, name):
    folder = used(tmp_path / "run")
    (tmp_path / "elsewhere").mkdir()
    (folder.path / name).symlink_to(tmp_path / "elsewhere")
    assert f"{name}: is a link, through which no run writes" in refused(folder)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_the_folder_itself_may_be_a_link(tmp_path):
    used(tmp_path / "run")
    (tmp_path / "link").symlink_to(tmp_path / "run")
    folder = RunFolder(tmp_path / "link")
    folder.open(True, SETTINGS, KNOWN)
    folder.save({"loop": 1})
    folder.close()
    assert (tmp_path / "run" / "last" / "state.pth").exists()


def test_a_run_killed_right_behind_its_end_leaves_nothing(tmp_path):
    folder = used(tmp_path / "run")
    folder.finish({"test": {}})
    lock = folder.path / ".lock"
    lock.write_text("of nobody")
    RunFolder(folder.path).open(True, SETTINGS, KNOWN)
    assert lock.exists()
    for change, left in (({"pid": 2**30}, False), ({}, True), ({"pid": 2**30, "host": "another"}, True)):
        lock.write_text(json.dumps(this_process()._replace(**change)._asdict()))
        RunFolder(folder.path).open(True, SETTINGS, KNOWN)
        assert lock.exists() == left


def test_a_second_run_names_the_first_and_a_finished_one_takes_no_lock(tmp_path):
    folder = used(tmp_path / "run")
    folder.open(True, SETTINGS, KNOWN)
    for resume in (True, False):
        message = refused(RunFolder(folder.path), resume=resume)
        assert f"--output {folder.path} is in use by another run (process {os.getpid()} on " in message
    folder.finish({"test": {}})
    again = RunFolder(folder.path)
    again.open(True, SETTINGS, KNOWN)
    again.close()
    assert (folder.path / ".lock").exists()
    folder.close()
    assert not (folder.path / ".lock").exists()


def test_a_run_that_ended_while_another_waited_for_it_is_finished_and_nobody_holds_it(tmp_path, monkeypatch):
    folder, take = used(tmp_path / "run"), RunLock.take

    def wait_and_take(lock, *, wait):
        (folder.path / "result.json").write_text('{"test": {}}')
        take(lock, wait=wait)

    monkeypatch.setattr(RunLock, "take", wait_and_take)
    folder.open(True, SETTINGS, KNOWN)
    assert not (folder.path / ".lock").exists()
    assert folder.result == {"test": {}}


@pytest.mark.parametrize(
    ("changed", "names"), [(None, FOUND), ("table", FOUND_IN_TABLE), ("test_table", FOUND_IN_TABLE)]
)
def test_what_was_found_of_another_table_says_nothing_of_this_one(tmp_path, monkeypatch, changed, names):
    folder = used(tmp_path / "run")
    every = {"table": "a", "test_table": "b", **dict.fromkeys({*FOUND, *FOUND_IN_TABLE}, "found")}
    monkeypatch.setattr("engine.core.run_folder.read_run_settings", lambda *_: every)
    values = {"table": "a", "test_table": "b"} | ({changed: "c"} if changed else {})
    assert folder.found(replace(SETTINGS, values={**SETTINGS.values, **values}), KNOWN) == dict.fromkeys(names, "found")


def test_a_finished_run_has_its_result_at_once_and_in_its_files(tmp_path):
    folder = RunFolder(tmp_path)
    assert folder.result is None
    for loop in (1, 2):
        folder.save({"loop": loop})
    folder.finish({"test": {"mAP": 0.5}, "epochs": 3})
    assert [path.name for path in (tmp_path / "last").iterdir()] == ["state.pth"]
    assert folder.result == json.loads((tmp_path / "result.json").read_text()) == {"test": {"mAP": 0.5}, "epochs": 3}
    assert (tmp_path / "result.json").read_text().startswith('{\n  "test": {\n    "mAP": 0.5\n')
    assert (tmp_path / "result.json").read_text().endswith("\n}\n")
    event = json.loads((tmp_path / "log.jsonl").read_text())
    assert (event["event"], event["test"]) == ("end", {"mAP": 0.5})
