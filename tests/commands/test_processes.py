"""Two real processes train together: the same labels, the same memory, one result."""

import subprocess
import sys

import pytest
import torch

from tests.commands.scene import ROOT, SMALL, environment, result, state, succeed, tiny_voc

pytestmark = pytest.mark.slow
RUN = ("--dataset", "voc07", *SMALL, "--epochs", "2", "--warmup_epoch", "0", "--partial_rate", "0.3", "--device", "cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    tiny_voc(folder)
    return folder


def launch(folder, script, *arguments):
    """Run a script on two processes as `torchrun` does."""
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*words, str(ROOT / script), *map(str, arguments)],
        cwd=folder,
        env={**environment(folder), "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize(
    "script, extra, near",
    [
        ("main_BCE.py", (), None),
        # BatchNorm's statistics are each process's own, so this is close, not equal
        ("main_CoNeS.py", ("--clusters", "2", "--beta", "0.5"), 0.02),
        ("main_cls.py", ("--labels_left", "50", "--tau_h", "0.2", "--tau_l", "0.2", "--ramp_epochs", "1"), None),
        # here they stay as they are, and without a neck there are no others
        pytest.param(
            "main_ndlp.py",
            ("--head", "linear", "--norm_eval", "--sampler_reduce", "2"),
            1e-4,
            marks=pytest.mark.slow,
        ),
    ],
)
def test_two_processes_train_validate_and_report_once(folder, script, extra, near):
    said = launch(folder, script, *RUN, *extra, "--val_frac", "0.2", "--output", f"two-{script}")
    for line in ("epoch 1/2", "labels: ", "network: ", " train, 3 validation"):
        assert said.count(line) == 1, line
    assert "x 2," in said
    succeed(folder, script, *RUN, *extra, "--val_frac", "0.2", "--output", f"one-{script}")
    one, two = result(folder / f"one-{script}"), result(folder / f"two-{script}")
    assert one["label_hash"] == two["label_hash"]
    if near is not None:
        confidences = [
            state(folder / f"{n}-{script}")["loop"]["criterion"]["confidence.values"] for n in ("one", "two")
        ]
        assert torch.allclose(*confidences, atol=near)
        assert not torch.equal(confidences[0], torch.zeros_like(confidences[0]))


def test_two_processes_resume(folder):
    arguments = (*RUN, "--output", "again")
    launch(folder, "main_BCE.py", *arguments)
    (folder / "again" / "result.json").unlink()
    assert "resuming" in launch(folder, "main_BCE.py", *arguments, "--resume")
    assert (folder / "again" / "result.json").exists()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="threads are told apart by Linux alone")
def test_no_thread_of_the_process_group_outlives_a_run(folder):
    """One that is left when the interpreter ends may abort the process: work that is done looks like a failure."""
    program = "tests/commands/threads_left.py"
    said = launch(folder, program, "main_BCE", *RUN, "--output", "threads")
    assert said.count("threads left: none") == 2
    said = launch(folder, program, "evaluate", "--load_from", "threads/best.pth", "--device", "cpu")
    assert said.count("threads left: none") == 2
