"""torchrun: workers that are started again, two launchers as two machines, another number of processes after them."""

import os
import signal
import socket
import subprocess
import sys
from unittest import mock

import pytest

from tests.commands.scene import ROOT, environment, result, run, state, tiny_voc
from tests.equality.processes import as_rank
from tests.kills.left import differences, left
from tests.kills.methods import words_of
from tests.ranks import run_ranks

pytestmark = pytest.mark.slow
NAME = "cones"
LAUNCHED, SECONDS = [], 150
BREAKS_OFF = str(ROOT / "tests" / "commands" / "broken_off.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("launchers")
    tiny_voc(folder)
    return folder


@pytest.fixture(autouse=True)
def none_left():
    """Launchers that a failure leaves are ended, with what they have started."""
    yield
    for launched in LAUNCHED:
        if launched.poll() is None:
            os.killpg(launched.pid, signal.SIGTERM)
            launched.kill()
    LAUNCHED.clear()


def start(folder, launching, script, *words, **environ):
    """A launcher of a script on this machine."""
    told = {**environment(folder), "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT), **environ}
    line = [sys.executable, "-m", "torch.distributed.run", *launching, script, *map(str, words)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    LAUNCHED.append(subprocess.Popen(line, cwd=folder, env=told, start_new_session=True, **pipes))
    return LAUNCHED[-1]


def words(folder, label):
    script, line = words_of(NAME, folder / f"{NAME}-{label}")
    return script, [*line, "--no-figures"]


def train(rank, folder, label, *more):
    """A run on the ranks that there are; what the main process says."""
    script, line = words(folder, label)
    with as_rank(rank):
        done = run(folder, f"{script}.py", *line, *more)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_worker_that_was_killed_is_started_again_and_goes_on_from_the_last_save(folder):
    script, line = words(folder, "again")
    launching = ("--standalone", "--nproc_per_node", "2", "--max_restarts", "1")
    launched = start(folder, launching, BREAKS_OFF, "SIGKILL", 2, folder / "killed", script, *line)
    said, complained = launched.communicate(timeout=SECONDS)
    assert launched.returncode == 0, complained[-3000:]
    assert (folder / "killed").exists()
    assert "resuming at epoch 1, after step 2" in said
    run_ranks(train, folder, "whole")
    found, expected = (left(folder / f"{NAME}-{label}") for label in ("again", "whole"))
    assert list(differences(found, expected))[:5] == []
    for elsewhere in ({}, {"TORCHELASTIC_RUN_ID": "another"}):  # the same command by hand, or by another launcher
        with mock.patch.dict(os.environ, elsewhere):
            done = run(folder, f"{script}.py", *line)
        assert (done.returncode, "not empty; add --resume to go on with that run" in done.stderr) == (2, True)


def two_machines(folder, restarts, *broken, **environ):
    """Two launchers on this machine, each with an address and a process of its own; exit codes, and what all say."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    meeting = ("--nnodes", "2", "--nproc_per_node", "1", "--rdzv_backend", "c10d", "--rdzv_id", "4")
    meeting += ("--rdzv_endpoint", f"127.0.0.1:{port}", "--max_restarts", restarts)
    launched = [
        start(folder, (*meeting, "--local_addr", address), BREAKS_OFF, *broken, **environ)
        for address in ("127.0.0.1", "127.0.0.2")
    ]
    said = [each.communicate(timeout=SECONDS) for each in launched]
    return [each.returncode for each in launched], "".join(out for out, _ in said), "".join(err for _, err in said)


def test_two_launchers_train_as_two_machines_and_three_processes_go_on(folder):
    script, line = words(folder, "nodes")
    codes, said, complained = two_machines(folder, "0", "SIGTERM", 2, folder / "stopped", script, *line)
    assert codes == [1, 1], complained[-3000:]
    assert said.count("x 2,") == 1  # one of them writes and speaks
    assert complained.count("stopped by SIGTERM after saving") == 2
    saved = state(folder / f"{NAME}-nodes")["loop"]
    assert saved["position"]["step"] == 3
    assert len(saved["ranks"]["model"]) == len(saved["ranks"]["sums"]) == 2
    first, *others = run_ranks(train, folder, "nodes", "--resume", world_size=3)
    assert "resuming at epoch 1, after step 3" in first
    assert "saved by 2 processes, now there are 3: BatchNorm takes their mean" in first
    assert others == ["", ""]
    assert result(folder / f"{NAME}-nodes")["epochs_trained"] == 3


def test_machines_start_again_together(folder):
    """The process of one is killed: its launcher counts a restart, the other one does not, and both go on."""
    script, line = words(folder, "machines")
    apart = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    codes, said, complained = two_machines(folder, "1", "SIGKILL", 2, folder / "gone", script, *line, **apart)
    assert codes == [0, 0], complained[-3000:]
    assert "resuming at epoch 1, after step 2" in said
    assert result(folder / f"{NAME}-machines")["epochs_trained"] == 3
