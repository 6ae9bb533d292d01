"""Runs in float64: every method and head, what is saved, resuming, and the commands that read such a checkpoint."""

from unittest import mock

import numpy as np
import pytest
import torch

from data.datasets.voc import VOC_CLASSES
from engine.training.loop import Loop
from losses import CRITERIA
from losses.common.base import Criterion
from models.heads import HEADS
from tests.commands.scene import SMALL, refusal, result, run, same, state, succeed, tiny_voc
from tests.commands.test_resume import without_speed

RUN = ("--dataset", "voc07", *SMALL, "--precision", "fp64", "--device", "cpu", "--warmup_epoch", "0", "--epochs", "1")
NEEDED = {
    **dict.fromkeys(("epr", "role"), ("--labels", "single", "--expected_num_pos", "1.5")),
    **dict.fromkeys(
        ("bce", "focal", "cb", "db", "cdcr", "comes", "comes_rl", "cones", "ndlp", "asl"), ("--labels", "candidate")
    ),
    **dict.fromkeys(
        ("iu", "iun", "curriculum", "csl", "partial_bce", "consistency", "sarb", "hst", "imcl"),
        ("--labels", "observed", "--num_pos", "1", "--num_neg", "2"),
    ),
    "cap": (
        "--labels",
        "semi",
        "--labelled_share",
        "0.5",
        "--sampler",
        "semi",
        "--labelled_per_batch",
        "2",
        "--ema",
        "0.9",
    ),
    "lac": ("--labels", "single", "--lac_warmup", "0", "--queue_size", "8"),
    "bce_ls": ("--labels", "full"),
    "transition": ("--labels", "flip", "--known_rates", "0.1,0.1"),
    "vlpl": ("--labels", "single", "--prior_scores", "s.npz"),
    "gpr": ("--labels", "single", "--prior_scores", "s.npz", "--expected_num_pos", "1.5"),
    "splicemix_cl": ("--labels", "single", "--mix", "splice", "--pool", "max"),
    "label_mask": ("--labels", "single", "--head", "ctran", "--hidden_dim", "8", "--nheads", "2"),
}
HEAD_WORDS = {
    "q2l": ("--hidden_dim", "8", "--dim_feedforward", "8", "--nheads", "2"),
    "ctran": ("--hidden_dim", "8", "--dim_feedforward", "8", "--nheads", "2", "--pos_emb"),
    "gcn": ("--word_width", "8", "--gcn_width", "8"),
    "pfc": ("--neck_width", "8"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("precision")
    tiny_voc(folder)
    ids = [f"{row:06d}" for row in range(22)]
    np.savez(folder / "s.npz", scores=np.full((22, 20), 0.5), ids=ids, classes=VOC_CLASSES, kind="probability")
    return folder


def floats(weights):
    """The types of the floats among tensors."""
    return {value.dtype for value in weights.values() if torch.is_tensor(value) and value.is_floating_point()}


def method_words(method):
    """A short run of a method; `--method` chooses it in `main_cls.py`, `--loss` in `main_BCE.py`."""
    flag = {"main_BCE.py": ("--loss", method), "main_cls.py": ("--method", method)}
    return (*flag.get(CRITERIA[method].script, ()), *NEEDED.get(method, ("--labels", "single")))


@pytest.mark.slow
@pytest.mark.parametrize("method", CRITERIA)
def test_every_method_steps_in_float64(folder, method):
    seen, step = set(), Criterion.__call__

    def watched(self, model, batch):
        output = step(self, model, batch)
        seen.update({batch.images.dtype, output.total.dtype, output.logits.dtype})
        return output

    name = f"method-{method}"
    with mock.patch.object(Criterion, "__call__", watched):
        succeed(folder, CRITERIA[method].script, *RUN, *method_words(method), "--output", name)
    assert seen == {torch.float64}
    loop = state(folder / name)["loop"]
    assert floats(loop["model"]) == {torch.float64}
    kept = {
        name.partition(".")[0]
        for name, value in loop["criterion"].items()
        if torch.is_tensor(value) and value.dtype == torch.float32
    }
    assert kept == CRITERIA[method].criterion.float32_state


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS)
def test_every_head_runs_in_float64_and_its_checkpoint_is_read_by_the_others(folder, head):
    name = f"head-{head}"
    words = (*RUN, "--head", head, *HEAD_WORDS.get(head, ()), "--ema", "0.9")
    succeed(folder, "main_BCE.py", *words, "--output", name)
    weights = torch.load(folder / name / "best.pth", weights_only=True)["model"]
    assert floats(weights) == {torch.float64}
    for precision in ("fp64", "fp32"):
        said = succeed(folder, "evaluate.py", "--load_from", f"{name}/best.pth", "--precision", precision)
        assert f"{100 * result(folder / name)['test']['mAP']:.2f}" in said


@pytest.mark.slow
def test_a_killed_run_in_float64_goes_on_to_the_same_weights(folder):
    words = (*RUN[:-2], "--epochs", "2", "--partial_rate", "0.3", "--variant", "reference", "--save_minutes", "0")
    succeed(folder, "main_CoNeS.py", *words, "--output", "whole")
    step, left = Loop.step, [5]

    def halting(self, *arguments):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return step(self, *arguments)

    with mock.patch.object(Loop, "step", halting):
        run(folder, "main_CoNeS.py", *words, "--output", "killed")
    succeed(folder, "main_CoNeS.py", *words, "--output", "killed", "--resume")
    same(without_speed(folder / "whole"), without_speed(folder / "killed"))


def test_a_run_in_float64_is_refused_on_a_gpu(folder):
    with mock.patch.object(torch.cuda, "is_available", return_value=True):
        line = refusal(folder, "main_BCE.py", *RUN[:-6], "--precision", "fp64", "--output", "refused")
    assert line == "error: --precision fp64: computes on a CPU only; give --device cpu with it"
    assert not (folder / "refused").exists()
