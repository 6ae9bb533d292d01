"""The Slurm script of docs/running_at_scale.md, run by bash with a stand-in for Slurm."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.commands.scene import ROOT, SMALL, environment, state, tiny_voc

PAGE = ROOT / "docs" / "running_at_scale.md"
(SCRIPT,) = re.findall(r"```bash\n(#!/bin/bash.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
ENDLESS = ("--epochs", "5000", "--save_minutes", "0")


def start(folder, *words):
    """Start the script with another command in the place of its own; Slurm's part is a file that notes its words."""
    if shutil.which("bash") is None:
        pytest.skip("there is no bash")
    command = " ".join([sys.executable, str(ROOT / "main_BCE.py"), "--dataset", "voc07", *SMALL, *words])
    text, count = re.subn(r"(?m)^set -- .*$", lambda _: f"set -- {command} --no-figures", SCRIPT)
    assert count == 1
    (folder / "array.sh").write_text(text)
    (folder / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> "{folder}/asked"\n')
    (folder / "scontrol").chmod(0o755)
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    slurm = {"PATH": path, "SLURM_ARRAY_TASK_ID": "3", "SLURM_JOB_ID": "1234"}
    return subprocess.Popen(["bash", "array.sh"], cwd=folder, env=environment(folder) | slurm, stderr=subprocess.PIPE)


def stopped(folder, number):
    """The exit code of an element that gets a signal while it trains, and what it said."""
    file, began = folder / "runs" / "coco-3" / "last" / "state.pth", time.time_ns()
    element = start(folder, *ENDLESS)
    while not (file.exists() and file.stat().st_mtime_ns > began) and time.time_ns() - began < 120e9:
        time.sleep(0.1)
    element.send_signal(number)
    _, said = element.communicate(timeout=120)
    return element.returncode, said.decode()


@pytest.mark.slow
def test_an_element_whose_time_is_over_saves_and_asks_for_another_turn(tmp_path):
    tiny_voc(tmp_path)
    code, said = stopped(tmp_path, signal.SIGUSR1)
    assert code == 128 + signal.SIGTERM
    assert "stopped by SIGTERM after saving" in said
    assert (tmp_path / "asked").read_text() == "requeue 1234\n"
    (tmp_path / "asked").unlink()
    before = state(tmp_path / "runs" / "coco-3")["loop"]
    code, _ = stopped(tmp_path, signal.SIGTERM)  # preempted: Slurm itself puts it back
    assert code == 128 + signal.SIGTERM
    assert not (tmp_path / "asked").exists()
    after = state(tmp_path / "runs" / "coco-3")["loop"]
    assert after["position"] != before["position"]


@pytest.mark.slow
def test_an_element_that_ends_by_itself_is_not_put_back(tmp_path):
    tiny_voc(tmp_path)
    for words, code in ((("--epochs", "1"), 0), (("--epochs", "1", "--lr", "fast"), 2)):
        element = start(tmp_path, *words)
        element.communicate(timeout=120)
        assert element.returncode == code
    assert (tmp_path / "runs" / "coco-3" / "result.json").exists()
    assert not (tmp_path / "asked").exists()
