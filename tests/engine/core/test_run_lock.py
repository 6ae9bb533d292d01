"""The lock of a run folder: who has it, when it is stale, and who waits."""

import errno
import json
import os
import socket
import subprocess
import threading
import time

import pytest

from engine.core import run_lock as room
from engine.core.run_lock import NAME, RunLock, this_process
from utils.checks import RunError, UserError

GONE = 2**30  # above the process ids that there are


def lock_of(folder, **change):
    """The lock that another process left."""
    (folder / NAME).write_text(json.dumps(this_process()._replace(**change)._asdict()))
    return folder / NAME


def age(path, seconds):
    past = time.time() - seconds
    os.utime(path, (past, past))


def refused(folder, wait=True):
    with pytest.raises(UserError) as told:
        RunLock(folder).take(wait=wait)
    assert "\n" not in str(told.value)
    assert [path.name for path in folder.iterdir()] == [NAME]
    return str(told.value)


def test_a_lock_names_its_process_and_is_removed_with_its_end(tmp_path):
    lock = RunLock(tmp_path)
    lock.take(wait=False)
    held = json.loads((tmp_path / NAME).read_text())
    assert (held["host"], held["pid"]) == (socket.gethostname(), os.getpid())
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
    lock.require_held()
    lock.release()
    assert list(tmp_path.iterdir()) == []
    lock.release()


@pytest.mark.parametrize("wait", [True, False])
def test_a_living_process_of_this_host_is_not_waited_for(tmp_path, wait):
    lock_of(tmp_path, start="2026-01-01 00:00:00")
    message = refused(tmp_path, wait)
    assert (
        f"in use by another run (process {os.getpid()} on {socket.gethostname()}, since 2026-01-01 00:00:00)" in message
    )


@pytest.mark.parametrize("change", [{"pid": GONE}, {"born": "1"}])
def test_a_process_that_is_gone_holds_nobody_up(tmp_path, change):
    lock_of(tmp_path, **change)
    lock = RunLock(tmp_path)
    lock.take(wait=False)
    assert json.loads((tmp_path / NAME).read_text())["pid"] == os.getpid()
    lock.release()


def test_a_process_that_has_ended_unnoticed_is_gone(tmp_path):
    with subprocess.Popen(["sleep", "60"]) as child:
        born = room._state_and_birth(child.pid)[1]
        lock_of(tmp_path, pid=child.pid, born=born)
        refused(tmp_path)
        child.kill()
        while room._state_and_birth(child.pid)[0] != "Z":  # nobody has asked for its end yet
            time.sleep(0.001)
        lock = RunLock(tmp_path)
        lock.take(wait=False)
        lock.release()
    assert int(born) > int(room._state_and_birth(os.getpid())[1])  # ticks from the start of the host on


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"host": 1}', "null", '{"host": "a", "pid": -1, "start": "x"}'])
@pytest.mark.parametrize("seconds", [590, 610])
def test_an_untouched_lock_is_stale_after_ten_minutes_whatever_it_says(tmp_path, text, seconds):
    (tmp_path / NAME).write_text(text)
    age(tmp_path / NAME, seconds)
    if seconds < 600:
        assert "in use by another run (of a process unknown)" in refused(tmp_path, wait=False)
    else:
        RunLock(tmp_path).take(wait=False)


@pytest.mark.parametrize("change", [{"host": "another"}, {"space": "pid:[7]"}])
def test_another_host_is_waited_for_until_it_releases(tmp_path, monkeypatch, capsys, change):
    path = lock_of(tmp_path, pid=GONE, **change)
    slept = []
    monkeypatch.setattr(room.time, "sleep", lambda seconds: slept.append(seconds) or len(slept) < 3 or path.unlink())
    lock = RunLock(tmp_path)
    lock.take(wait=True)
    assert slept == [room.POLL_SECONDS] * 3
    assert capsys.readouterr().out.count("waiting until it is released") == 1
    lock.release()


def test_another_host_is_waited_for_until_it_is_stale(tmp_path, monkeypatch):
    path = lock_of(tmp_path, host="another")
    monkeypatch.setattr(room.time, "sleep", lambda seconds: age(path, 601))
    lock = RunLock(tmp_path)
    lock.take(wait=True)
    lock.release()


def test_another_host_that_goes_on_is_refused_after_ten_minutes_and_at_once_without_resume(tmp_path, monkeypatch):
    path, now = lock_of(tmp_path, host="another"), [0.0]
    monkeypatch.setattr(room.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(room.time, "sleep", lambda seconds: (now.__setitem__(0, now[0] + seconds), os.utime(path)))
    assert "process" in refused(tmp_path, wait=False)
    assert now == [0.0]
    assert "on another" in refused(tmp_path)
    assert now[0] == 610


def test_a_lock_taken_over_while_it_was_looked_at_is_put_back(tmp_path):
    path = lock_of(tmp_path, pid=7)
    room._clear(path, "an older content")
    assert json.loads(path.read_text())["pid"] == 7
    room._clear(path, path.read_text())
    assert list(tmp_path.iterdir()) == []
    room._clear(path, "")


def test_without_hard_links_the_lock_is_exclusive_too(tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    lock = RunLock(tmp_path)
    lock.take(wait=False)
    refused(tmp_path)
    lock.release()


def test_only_one_of_many_takes_a_stale_lock(tmp_path):
    lock_of(tmp_path, pid=GONE)
    taken, start = [], threading.Barrier(8)

    def take():
        start.wait()
        draft = tmp_path / f".draft-{threading.get_ident()}"
        own = json.dumps({**this_process()._asdict(), "start": str(threading.get_ident())})
        try:
            RunLock(tmp_path)._wait_for(draft, own, wait=False)
            taken.append(own)
        except UserError:
            pass

    threads = [threading.Thread(target=take) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert (tmp_path / NAME).read_text() in taken


def test_a_lock_is_touched_and_not_when_it_is_lost(tmp_path, monkeypatch):
    monkeypatch.setattr(room, "TOUCH_SECONDS", 0.001)
    lock = RunLock(tmp_path)
    lock.take(wait=False)
    age(lock.path, 1000)
    while time.time() - lock.path.stat().st_mtime > 500:
        time.sleep(0.001)
    lock.path.write_text("of another")
    age(lock.path, 1000)
    time.sleep(0.02)  # which is many times as long as it takes to touch it
    assert time.time() - lock.path.stat().st_mtime > 500
    with pytest.raises(RunError, match="removed, or taken by another run"):
        lock.require_held()
    lock.release()
    assert lock.path.read_text() == "of another"


def test_the_thread_that_touches_holds_no_program_up_and_ends_with_the_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(room, "TOUCH_SECONDS", 30.0)
    lock, others = RunLock(tmp_path), set(threading.enumerate())
    lock.take(wait=False)
    (thread,) = (each for each in set(threading.enumerate()) - others if each.name == "lock of the run folder")
    assert thread.daemon
    lock.release()
    thread.join(5)
    assert not thread.is_alive()


@pytest.mark.parametrize("name", [".lock.14317.tmp", ".lock-stale.7.tmp"])
@pytest.mark.parametrize(
    "text",
    ["", '{"host": "h', json.dumps(this_process()._replace(pid=GONE)._asdict())],
    ids=["nothing", "a part", "all"],  # not the text, which is another in each process that collects the tests
)
def test_what_a_process_has_left_that_was_killed_while_it_took_the_lock_is_removed(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    (tmp_path / ".settings.yaml.7.tmp").touch()
    lock = RunLock(tmp_path)
    lock.take(wait=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == [NAME, ".settings.yaml.7.tmp"]
    lock.require_held()
    lock.release()


def test_the_lock_itself_set_aside_by_a_process_that_takes_it_for_stale_is_left_there(tmp_path):
    lock = RunLock(tmp_path)
    lock.take(wait=False)
    aside = lock.path.rename(tmp_path / f"{NAME}-stale.7.tmp")
    lock._drop_left()
    os.link(aside, lock.path)  # as the other process does
    lock.require_held()
    lock._drop_left()
    lock.release()


def test_a_process_that_waits_writes_its_draft_again_where_another_has_removed_it(tmp_path, monkeypatch):
    path, link, slept, drafts = lock_of(tmp_path, host="another"), os.link, [], set()

    def others(seconds):
        for draft in tmp_path.glob(f"{NAME}.*.tmp"):
            draft.unlink()
        slept.append(seconds)
        if len(slept) == 2:
            path.unlink()

    def swept_before(draft, place):
        if len(slept) == 2 and not drafts:  # between writing and linking
            drafts.add(draft)
            draft.unlink()
        link(draft, place)

    monkeypatch.setattr(room.time, "sleep", others)
    monkeypatch.setattr(os, "link", swept_before)
    lock = RunLock(tmp_path)
    lock.take(wait=True)
    assert drafts
    lock.require_held()
    lock.release()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_removed_meanwhile_is_told(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    folder.mkdir()
    path = lock_of(folder, host="another")
    monkeypatch.setattr(
        room.time, "sleep", lambda _: [each.unlink() for each in (*folder.iterdir(),)] and folder.rmdir()
    )
    with pytest.raises(UserError, match="cannot be written"):
        RunLock(folder).take(wait=True)
    assert not path.exists()


def test_a_lock_that_is_released_while_it_is_looked_at_is_free(tmp_path, monkeypatch):
    path, real = lock_of(tmp_path), room._content

    def content(asked):
        if path.exists() and json.loads(path.read_text())["start"] == "released":
            path.unlink()
        return real(asked)

    path = lock_of(tmp_path, start="released")
    monkeypatch.setattr(room, "_content", content)
    lock = RunLock(tmp_path)
    lock.take(wait=False)
    lock.require_held()
    lock.release()


def test_a_link_whose_answer_got_lost_is_the_lock(tmp_path, monkeypatch):
    link = os.link

    def lossy(*args):
        link(*args)
        raise FileExistsError

    monkeypatch.setattr(os, "link", lossy)
    lock = RunLock(tmp_path)
    lock.take(wait=False)
    lock.require_held()
    lock.release()


@pytest.mark.parametrize(
    ("change", "fits"),
    [
        *(({"pid": pid}, True) for pid in (1, 2**31 - 1)),
        *(({"pid": pid}, False) for pid in (0, 2**31, "7", True, 7.0)),
        *(({name: "x" * 199}, True) for name in ("host", "start", "space", "born")),
        *(({name: "x" * 200}, False) for name in ("host", "start", "space", "born")),
        *(({name: 7}, False) for name in ("host", "start", "space", "born")),
    ],
)
def test_a_lock_names_a_process_or_none(change, fits):
    held = {**this_process()._asdict(), **change}
    assert (room._holder(json.dumps(held)) is not None) == fits


def test_the_age_of_a_lock_is_by_the_clock_of_its_files(tmp_path):
    draft, path = tmp_path / "draft", tmp_path / NAME
    for file in (draft, path):
        file.touch()
        age(file, 1000)
    assert room._age(path, draft) == pytest.approx(1000, abs=30)
    assert room._age(tmp_path / "gone", draft) == 0


def test_a_link_in_the_place_of_the_lock_is_refused(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / NAME).symlink_to(tmp_path / "elsewhere")
    assert refused(tmp_path / "run") == f"{tmp_path / 'run' / NAME}: is a link; remove it"
    assert not (tmp_path / "elsewhere").exists()
