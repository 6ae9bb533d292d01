"""Methods beside bare networks on a CPU, tried at tiny sizes."""

import json

import pytest

from benchmarks import epoch_work
from benchmarks.cpu_steps import FIRST, FULL, Turn, cases, main, page, summary
from benchmarks.epoch_work import Sizes
from engine.core.distributed import Runtime
from losses import CRITERIA

ALONE = [Turn(1.0, 1.25, 1.0), Turn(3.0, 3.0, 3.0), Turn(2.0, 2.5, 2.0)]
TITLE = FULL.settings[0].title
HELD = {"machine": "a machine", "epoch": Sizes(1600, 10, 20, 5, 16)._asdict()}


def test_ratios_are_of_each_turn():
    """A machine that slows down for a turn slows both."""
    found = summary(ALONE)
    assert (found["bare s"], found["method s"], found["turns"]) == (2.0, 2.5, 3)
    assert (found["bare / method"], found["needed / method"], found["further passes"]) == (0.8, 0.8, False)
    assert found["quartiles"] == pytest.approx([0.8, 0.9])


def test_further_passes_are_what_a_method_is_measured_against():
    found = summary([Turn(1.0, 2.5, 2.25), Turn(1.0, 2.5, 2.25)])
    assert (found["bare / method"], found["needed / method"], found["further passes"]) == (0.4, 0.9, True)


def test_every_method_is_there_once_and_the_important_ones_come_first():
    names = list(cases())
    assert tuple(names[: len(FIRST)]) == FIRST
    assert len(set(names)) == len(names)
    assert {case.method for case in cases().values()} == set(CRITERIA) - {"label_mask"}  # C-Tran's alone


def test_the_page_says_what_was_missed_and_what_failed():
    fast, slow = Turn(1.0, 1.04, 1.0), Turn(1.0, 2.5, 2.2)
    text = page(
        {
            **HELD,
            f"{TITLE}: bce": summary([fast, fast]),
            f"{TITLE}: cls": summary([slow, slow]),
            f"{TITLE}: an": {"error": "no room"},
            "epoch: order": 0.5,
            "epoch: scoring": {"figures": 1.0},
            "epoch: epoch start, a": 0.1,
            "epoch: epoch start, b": 0.4,
        }
    )
    assert "| bce | 1.000 | 1.040 | 0.962 |  | 0.962 | 0.962 to 0.962 | 2 | 0.95 |" in text
    assert "| 0.880 | 0.880 to 0.880 | 2 | 0.90 (missed) |" in text
    assert "| an | failed: no room |" in text
    assert "| order | 0.5 s | 0.5 % |" in text  # of the 100 steps of a second each
    assert "| all, with the longest epoch start; goal 2 %, reached | 1.9 s | 1.9 % |" in text


def test_scores_are_measured_by_the_engine_without_a_network():
    runtime = Runtime("cpu", "fp32")
    try:
        split = epoch_work.scored(40, Sizes(0, 0, 40, 6, 8), runtime, 0)
        result = split.measure()
    finally:
        runtime.close()
    assert result.scores.shape == (40, 6)
    assert 0.5 < result.metrics.mAP < 1  # logits of present labels are higher by 1


@pytest.mark.slow
def test_the_command_goes_on_from_what_is_there(tmp_path, capsys):
    output = tmp_path / "steps.md"
    words = ["--small", "--methods", "bce", "ndlp", "asl", "--output", str(output)]
    assert main(words) == 0
    held, text = json.loads(output.with_suffix(".json").read_text()), output.read_text()
    assert "failed" not in text
    assert sum(": bce" in name or ": ndlp" in name or ": asl" in name for name in held) == 3
    capsys.readouterr()
    assert main([*words, "--resume"]) == 0
    assert ": bce: " not in capsys.readouterr().out
    assert output.read_text() == text
