"""What runs survive, and how those end that do not: no traceback, an honest exit code, nothing lost that was saved."""

import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path
from unittest import mock

import pytest

from engine import INTERRUPTED
from engine.core.checkpoint import read_model, read_state
from engine.core.run_folder import RunFolder
from engine.training.run import Run
from tests.commands.scene import SMALL, command, environment, refusal, result, run, run_process, succeed, tiny_voc
from utils.checks import UserError
from utils.sealed_files import check_seal

RUN = ("--dataset", "voc07", *SMALL, "--warmup_epoch", "0", "--partial_rate", "0.3", "--save_minutes", "0")
ONE = ("main_BCE.py", *RUN, "--epochs", "1", "--output")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("survival")
    tiny_voc(folder)
    return folder


@pytest.fixture(scope="module")
def trained(folder):
    succeed(folder, *ONE, "trained")
    return folder / "trained"


def test_a_folder_that_is_removed_while_a_run_goes_on_ends_it(folder):
    log = RunFolder.log_epoch

    def remove_and_log(self, history, epochs):
        shutil.rmtree(self.path)
        log(self, history, epochs)

    with mock.patch.object(RunFolder, "log_epoch", remove_and_log):
        line = refusal(folder, *ONE, "removed", code=1)
    assert "removed: removed, or taken by another run, while this one went on" in line
    assert not (folder / "removed").exists()


def test_a_best_file_that_is_gone_at_the_end_is_written_again(folder):
    finish = Run.finish

    def remove_and_finish(self):
        self.folder.best.unlink()
        finish(self)

    with mock.patch.object(Run, "finish", remove_and_finish):
        succeed(folder, *ONE, "gone")
    assert read_model(folder / "gone" / "best.pth").epoch == 1


def test_a_loss_that_is_not_finite_names_step_term_and_images_and_leaves_the_last_save(folder):
    line = refusal(folder, *ONE, "diverged", "--lr", "1e18", "--optimizer", "sgd", code=1)
    assert "at epoch 1, step " in line
    assert "(term that is not finite: " in line
    assert "images: 0000" in line
    state = folder / "diverged" / "last" / "state.pth"
    if state.exists():
        weights = read_state(state)["loop"]["model"].values()
        assert all(bool(value.isfinite().all()) for value in weights if value.is_floating_point())


def test_a_flipped_bit_is_refused_by_what_reads_it(trained):
    content = bytearray((trained / "best.pth").read_bytes())
    content[len(content) // 3] ^= 4
    (trained.parent / "flipped.pth").write_bytes(content)
    line = refusal(trained.parent, "evaluate.py", "--load_from", "flipped.pth", "--path_images", "Dataset/VOCdevkit")
    assert "flipped.pth: its checksum is wrong: damaged since it was written" in line


@pytest.mark.slow
def test_none_of_a_thousand_flipped_bits_is_accepted(trained, tmp_path):
    whole, rng, accepted = (trained / "best.pth").read_bytes(), random.Random(0), []
    file = tmp_path / "best.pth"
    for _ in range(1000):
        place = rng.randrange(8 * len(whole))
        changed = bytearray(whole)
        changed[place // 8] ^= 1 << place % 8
        file.write_bytes(changed)
        try:
            check_seal(file)
            accepted.append(place)
        except UserError:
            pass
    assert accepted == []


def test_an_output_of_any_name_trains_and_is_resumed(folder):
    output = os.fsdecode("猫 | # : & * % a\nb'\"\\".encode() + b"caf\xe9")
    succeed(folder, *ONE, output)
    (folder / output / "result.json").unlink()
    assert "resuming at epoch 2" in succeed(folder, *ONE, output, "--resume")
    assert "is finished" in succeed(folder, *ONE, output, "--resume")
    settings = folder / output / "settings.yaml"
    succeed(folder, "main_BCE.py", "--config", settings, "--output", f"{output}2", "--print_config")


@pytest.mark.slow
@pytest.mark.parametrize("locale", ["C", "POSIX"])
def test_a_path_that_is_no_text_is_nothing_special_under_a_plain_locale(folder, locale):
    words = [os.fsencode(word) for word in command(folder, *ONE)]
    words.append(b"caf\xe9-" + locale.encode())
    env = {**environment(folder), "LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(words, cwd=folder, env=env, capture_output=True, timeout=300, check=False)
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False), done.stderr[-500:]
    again = subprocess.run([*words, b"--resume"], cwd=folder, env=env, capture_output=True, timeout=300, check=False)
    assert b"is finished" in again.stdout


@pytest.mark.slow
@pytest.mark.parametrize("both", [False, True])
def test_a_reader_that_goes_after_a_line_ends_no_training(folder, both):
    output = f"piped-{both}"
    errors = subprocess.STDOUT if both else subprocess.PIPE
    with subprocess.Popen(
        command(folder, *ONE, output), cwd=folder, env=environment(folder), stdout=subprocess.PIPE, stderr=errors
    ) as process:
        process.stdout.readline()
        process.stdout.close()
        said = b"" if both else process.stderr.read()
        assert process.wait(timeout=300) == 0
    assert b"Traceback" not in said
    assert result(folder / output)["epochs"] == 1


@pytest.mark.slow
def test_a_command_that_only_prints_ends_well_without_a_reader(folder):
    with subprocess.Popen(
        command(folder, "main_BCE.py", "--help", "all"),
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 0


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.15, 0.4, 0.8, 1.2, 1.8, 2.5])
def test_an_interrupt_while_a_script_starts_is_one_line(folder, seconds):
    words = command(folder, *ONE[:-1], "--epochs", "400", "--output", f"interrupted-{seconds}")  # still at it by then
    with subprocess.Popen(words, cwd=folder, env=environment(folder), stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 60
        while b"tqdm" not in Path(f"/proc/{process.pid}/maps").read_bytes() and time.monotonic() < deadline:
            if b"_bisect" in Path(f"/proc/{process.pid}/maps").read_bytes() or _has_begun(process.pid):
                break
            time.sleep(0.001)
        time.sleep(seconds - 0.15)
        process.send_signal(signal.SIGINT)
        said = process.stderr.read().decode()
        code = process.wait(timeout=60)
    lines = [line for line in said.splitlines() if line and "Warning" not in line]
    assert lines in ([INTERRUPTED], ["stopped by SIGINT after saving; go on with --resume and the same --output"])
    assert code in (130, -signal.SIGINT)


def _has_begun(pid):
    """True once a process has opened a compiled module, as it does for the scripts' own imports."""
    return ".cpython-" in Path(f"/proc/{pid}/maps").read_text()


@pytest.mark.slow
def test_a_loader_process_that_is_killed_is_one_line_and_the_run_goes_on(folder):
    words = command(folder, *ONE[:-1], "--epochs", "400", "--num_workers", "1", "--output", "worker")
    with subprocess.Popen(words, cwd=folder, env=environment(folder), stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        while not (folder / "worker" / "last" / "state.pth").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGKILL)
        said = process.stderr.read()
        code = process.wait(timeout=120)
    lines = [line for line in said.splitlines() if line.startswith("error: a loader process (")]
    assert (code, len(lines), "Traceback" in said) == (1, 1, False), said
    assert "killed by signal" in lines[0] or "exited unexpectedly" in lines[0]
    assert not (folder / "worker" / ".lock").exists()


@pytest.mark.slow
def test_a_second_run_on_one_folder_is_refused_and_the_first_is_none_the_worse(folder):
    words = command(folder, *ONE[:-1], "--epochs", "30", "--output", "shared")
    with subprocess.Popen(words, cwd=folder, env=environment(folder), stdout=subprocess.PIPE) as process:
        while not (folder / "shared" / ".lock").exists():
            time.sleep(0.01)
        for more in ((), ("--resume",)):
            line = refusal(folder, *ONE, "shared", *more, run=run)
            assert f"in use by another run (process {process.pid} on " in line
        process.send_signal(signal.SIGKILL)
        process.communicate()
    done = run_process(folder, *ONE[:-1], "--epochs", "30", "--output", "shared", "--resume")
    assert done.returncode == 0, done.stderr
