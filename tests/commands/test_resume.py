"""A run that is killed, or asked to stop, goes on to the very same weights."""

import signal
import subprocess
import time

import pytest

from tests.commands.scene import SMALL, command, environment, refusal, result, run, same, state, succeed, tiny_voc

RUN = ("--dataset", "voc07", *SMALL, "--epochs", "3", "--partial_rate", "0.3", "--save_minutes", "0")
METHODS = {
    "main_BCE.py": (),
    "main_CoNeS.py": ("--clusters", "2", "--beta", "0.5", "--memory_per_class", "8"),
    "main_cls.py": ("--labels_left", "50", "--tau_h", "0.2", "--tau_l", "0.2", "--ramp_epochs", "2"),
    "main_ndlp.py": ("--neck_width", "16", "--sampler_reduce", "2"),  # three steps an epoch
}
RATES = {"main_cls.py": 4e-05, "main_ndlp.py": 0.02}
"""Learning rates of the scripts that do not take the plain one."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resume")
    tiny_voc(folder)
    return folder


@pytest.fixture(scope="module", params=METHODS)
def script(request):
    return request.param


def undisturbed(folder, script):
    """The run of a script that nobody disturbed, trained by whichever test comes first."""
    output = folder / f"whole-{script}"
    if not output.exists():
        succeed(folder, script, *RUN, *METHODS[script], "--output", output)
    return output


@pytest.fixture(scope="module")
def whole(folder, script):
    return undisturbed(folder, script)


def start_and_signal(folder, script, output, number):
    """Start a run and send it a signal in the middle of its second epoch; returns the exit status."""
    words = command(folder, script, *RUN, *METHODS[script], "--output", output)
    with subprocess.Popen(
        words, cwd=folder, env=environment(folder), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            try:
                position = state(folder / output)["loop"]["position"]
            except (FileNotFoundError, RuntimeError, EOFError):
                position = {"epoch": 0, "step": 0}
            if position["epoch"] == 2 and position["step"] >= 1:
                process.send_signal(number)
                break
            time.sleep(0.01)
        return process.wait(timeout=120)


def without_speed(path):
    """The state of a run less what a clock says."""
    held = state(path)
    position = held["loop"]["position"]
    position.pop("seconds")
    for row in position["history"]:
        row.pop("images_per_second")
    return held


@pytest.mark.slow
def test_a_killed_run_resumes_to_identical_weights(folder, script, whole):
    check_stop_and_resume(folder, script, whole, signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
@pytest.mark.slow
def test_a_run_asked_to_stop_saves_first(folder, number):
    check_stop_and_resume(folder, "main_BCE.py", undisturbed(folder, "main_BCE.py"), number)


def stopped_in_the_middle(folder, script, number):
    """A run that the signal met in the middle of its second epoch, and where; on a busy machine it may come late."""
    for attempt in range(6):
        output = f"{number.name}-{script}-{attempt}"
        code = start_and_signal(folder, script, output, number)
        stopped = state(folder / output)["loop"]["position"]
        if stopped["epoch"] == 2 and 0 < stopped["step"] < 4:
            assert code == (-signal.SIGKILL if number == signal.SIGKILL else 128 + number)
            return output, stopped
    raise AssertionError("never stopped in the middle of an epoch")


def check_stop_and_resume(folder, script, whole, number):
    output, stopped = stopped_in_the_middle(folder, script, number)
    assert not (folder / output / "result.json").exists()

    said = succeed(folder, script, *RUN, *METHODS[script], "--output", output, "--resume")
    assert f"resuming at epoch 2, after step {stopped['step']}" in said
    same(without_speed(folder / output), without_speed(whole))
    ours, theirs = result(folder / output), result(whole)
    for one in (ours, theirs):
        one.pop("images_per_second")
    assert ours == theirs


def test_a_finished_run_prints_its_result_and_touches_nothing(folder, script, whole):
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    said = succeed(folder, script, *RUN, *METHODS[script], "--output", whole, "--resume")
    assert "is finished" in said
    assert "mAP" in said
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*")} == before


def test_an_output_in_use_is_refused_without_resume(folder, script, whole):
    line = refusal(folder, script, *RUN, *METHODS[script], "--output", whole)
    assert str(whole) in line
    assert "--resume" in line


def test_resuming_with_other_settings_is_refused_naming_the_setting(folder, script, whole):
    line = refusal(folder, script, *RUN, *METHODS[script], "--lr", "0.5", "--output", whole, "--resume")
    assert f"--lr {RATES.get(script, 0.01)}" in line
    assert "0.5" in line


def test_resuming_what_is_not_there_starts_it_and_says_so(folder):
    said = succeed(folder, "main_BCE.py", *RUN, "--epochs", "1", "--warmup_epoch", "0", "--output", "fresh", "--resume")
    assert "nothing saved in fresh yet, starting" in said
    assert result(folder / "fresh")["epochs"] == 1


@pytest.mark.slow
def test_workers_and_save_times_do_not_change_the_result(folder):
    script = "main_CoNeS.py"
    whole = undisturbed(folder, script)
    done = run(folder, script, *RUN[:-2], *METHODS[script], "--num_workers", "2", "--output", "workers")
    assert done.returncode == 0, done.stderr
    same(without_speed(folder / "workers"), without_speed(whole))
