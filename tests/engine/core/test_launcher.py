"""Which launcher has begun a run: its processes go on with it when they are started again, and no others do."""

import json
import os
import socket
from contextlib import nullcontext
from pathlib import Path

import pytest

from engine.core import launcher as room
from engine.core.launcher import KEY, is_started_again, launcher, meet_again, require_restartable
from engine.core.run_folder import RunFolder
from tests.engine.run_folders import settings_of
from utils.checks import UserError


@pytest.fixture
def launched(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "7")


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_MAX_RESTARTS"):
        monkeypatch.delenv(name, raising=False)


def asked(log, *, everywhere=None):
    """The answer, and what this process told the others; `everywhere` is what they agree on, if not on that."""
    told = []
    answer = is_started_again(log, lambda own: told.append(own) or (own if everywhere is None else everywhere))
    return answer, told


def test_without_a_launcher_there_is_nothing_to_tell_and_nobody_is_asked(tmp_path):
    (tmp_path / "log.jsonl").write_text(json.dumps({"event": "start", KEY: None}))
    assert launcher() is None
    assert asked(tmp_path / "log.jsonl", everywhere=True) == (False, [])


def test_a_launcher_is_the_parent_and_its_run(launched, monkeypatch):
    found = launcher()
    assert (found["host"], found["pid"], found["start"], found["run"]) == (socket.gethostname(), os.getppid(), "", "7")
    assert launcher() == found
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "8")
    assert launcher() != found


def test_the_last_start_counts(tmp_path, launched):
    log, own = tmp_path / "log.jsonl", launcher()
    begun, other = ({"event": "start", KEY: {**own, "pid": pid}} for pid in (own["pid"], own["pid"] + 1))
    ended, damaged = {"event": "end", KEY: own}, '{"event": "start'
    cases = {
        "": False,
        damaged: False,
        json.dumps({"event": "start"}): False,
        json.dumps(begun): True,
        json.dumps(other): False,
        f"{json.dumps(other)}\n{json.dumps(begun)}\n[1]\n{json.dumps({'event': 'epoch'})}\n{damaged}": True,
        f"{json.dumps(begun)}\n{json.dumps(other)}\n{json.dumps(ended)}\n": False,
    }
    assert asked(log) == (False, [False])
    for text, expected in cases.items():
        log.write_text(text)
        assert asked(log) == (expected, [expected]), text
        assert asked(log, everywhere=not expected) == (not expected, [expected])


def test_a_run_notes_its_launcher(tmp_path, launched, capsys):
    folder = RunFolder(tmp_path)
    info = {"method": "bce", "dataset": "d", "images": {}, "label_file": None, "labels": "", "label_seed": 0}
    info |= {"label_hash": "", "network": "", "sampler": "shuffled", "device": "cpu", "processes": 2, "precision": ""}
    assert not asked(folder.log)[0]
    folder.start(settings_of("bce", []), {**info, "epoch": 1, "step": 0})
    assert asked(folder.log)[0]
    assert json.loads(folder.log.read_text())[KEY] == launcher()


@pytest.mark.parametrize(("restarts", "refused"), [("0", False), ("2", True), ("many", False), (None, False)])
def test_a_run_that_may_be_started_again_needs_a_name(monkeypatch, launched, restarts, refused):
    if restarts is not None:
        monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", restarts)
    require_restartable(Path("out"))
    if refused:
        words = f"^--max_restarts {restarts} of the launcher: a process that is started again needs --output to find"
        with pytest.raises(UserError, match=words):
            require_restartable(None)
        monkeypatch.delenv("TORCHELASTIC_RUN_ID")  # left by something else
    require_restartable(None)


@pytest.mark.parametrize(
    ("restarts", "keeps", "machines", "refused"),
    [("1", "True", "2", True), ("0", "True", "2", False), ("1", "False", "2", False), ("1", "True", "1", False)],
)
def test_machines_whose_store_outlives_a_start_are_refused(monkeypatch, launched, restarts, keeps, machines, refused):
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", restarts)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", keeps)
    monkeypatch.setenv("GROUP_WORLD_SIZE", machines)
    words = "wait for those before; launch with --rdzv_backend c10d, and TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in its e"
    with pytest.raises(UserError, match=words) if refused else nullcontext():
        require_restartable(Path("out"))


@pytest.mark.parametrize(
    ("number", "keeps", "met"), [("2", "True", True), ("0", "True", False), ("2", "False", False), ("", "True", False)]
)
def test_processes_that_are_started_again_meet_apart_from_those_before(monkeypatch, launched, number, keeps, met):
    told = {}
    monkeypatch.setattr(room.dist, "TCPStore", lambda *given, **named: (given, named))
    monkeypatch.setattr(room.dist, "PrefixStore", lambda *given: given)
    monkeypatch.setattr(room.dist, "init_process_group", lambda backend, **named: told.update(named, backend=backend))
    held = {"MASTER_ADDR": "host", "MASTER_PORT": "5", "RANK": "1", "WORLD_SIZE": "3"}
    held |= {"TORCHELASTIC_RESTART_COUNT": number, "TORCHELASTIC_USE_AGENT_STORE": keeps}
    for name, value in held.items():
        monkeypatch.setenv(name, value)
    meet_again("gloo")
    store = (f"started again {number}", (("host", 5), {"is_master": False}))
    assert told == ({"store": store, "rank": 1, "world_size": 3, "backend": "gloo"} if met else {})
    told.clear()
    monkeypatch.setattr(room.dist, "is_initialized", lambda: True)
    meet_again("gloo")
    assert told == {}
