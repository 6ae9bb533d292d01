"""`predict.py --shards` as a user runs it, and kills it."""

import os
import signal
import subprocess
import time

import pytest

from tests.commands.scene import command, environment, run_process
from tests.engine.checkpoints import checkpoint, damaged, pixels

IMAGES, SHARDS = 300, 15
WORDS = ("predict.py", "in", "--load_from", "best.pth", "--device", "cpu", "--shard_size", "20", "--resume")


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def killed_at(folder, files):
    """Start a call and kill it, loader processes and all, as soon as there are so many files."""
    words = command(folder, *WORDS, "--shards", "out", "--num_workers", "1")
    process = subprocess.Popen(
        words, cwd=folder, env=environment(folder), stdout=subprocess.DEVNULL, start_new_session=True
    )
    out = folder / "out"
    while process.poll() is None and (not out.is_dir() or len(list(out.iterdir())) < files):
        time.sleep(0.002)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


@pytest.mark.slow
def test_a_call_that_is_killed_again_and_again_ends_as_one_that_was_not(tmp_path):
    checkpoint(tmp_path / "best.pth", augment="none", size=24)
    (tmp_path / "in").mkdir()
    for number in range(4):
        pixels(number, 30, 26).save(tmp_path / "in" / f"{number}.png")
    damaged(tmp_path / "in" / "4.png")
    for number in range(5, IMAGES):
        os.link(tmp_path / "in" / f"{number % 5}.png", tmp_path / "in" / f"{number}.png")
    assert run_process(tmp_path, *WORDS, "--shards", "whole").returncode == 1
    whole = content(tmp_path / "whole")
    assert len(whole) == 2 + 2 * SHARDS
    ends = [killed_at(tmp_path, files) for files in (1, 9, 20)]
    assert ends == 3 * [-signal.SIGKILL]
    done = run_process(tmp_path, *WORDS, "--shards", "out")
    assert done.returncode == 1
    assert content(tmp_path / "out") == whole
    assert "60 of 300 images could not be read" in done.stderr
