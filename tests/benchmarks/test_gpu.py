"""The check of a GPU, tried on the CPU."""

import json

import pytest
import torch

from benchmarks.gpu.__main__ import PARTS, main
from benchmarks.gpu.page import page
from benchmarks.gpu.suite import summary


@pytest.mark.slow
def test_every_part_runs_on_a_cpu_and_the_page_shows_it(tmp_path):
    assert main(["--dry_run", "--minutes", "10", "--output", str(tmp_path / "found")]) == 0
    held = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "found").glob("*.json")}
    assert held.keys() == {*PARTS, "summary"}
    assert len(list((tmp_path / "found").iterdir())) <= 8
    assert held["tests"]["exit"] == 0
    assert all(row["network"] == 0 for row in held["parity"]["steps"].values())
    assert [row["unequal"] for row in (held["resume"]["CoNeS fp32"][name] for name in ("again", "killed"))] == [0, 0]
    assert not any(held["waits"].values())
    assert all("error" not in row for table in held["steps"]["tables"] for row in table["methods"].values())
    text = (tmp_path / "found" / "README.md").read_text()
    assert "failed" not in text.replace("0 failed", "")
    for title in ("Tests", "CPU and GPU", "Killed and resumed", "Waits within a step", "resnet18", "From files"):
        assert f"## {title}" in text


def test_without_a_gpu_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main([]) == 2
    assert capsys.readouterr().err == "error: there is no CUDA device here; --dry_run tries the check on the CPU\n"


def test_a_run_of_the_tests_that_was_cut_short_is_read(tmp_path):
    log = """
[gw0] [  1%] PASSED tests/a.py::test_one[x y]
[gw1] [  2%] FAILED tests/a.py::test_two
[gw1] [  2%] ERROR tests/b.py::test_three
tests/a.py::test_four PASSED
"""
    found = summary(log)
    assert (found["passed"], found["failed"]) == (2, ["tests/a.py::test_two", "tests/b.py::test_three"])
    assert summary("")["summary"] == ""


def test_the_page_shows_what_there_is_and_what_failed(tmp_path):
    assert page(tmp_path).count("#") == 1
    (tmp_path / "resume.json").write_text(json.dumps({"CoNeS fp32": {"error": "no room"}}))
    assert "| CoNeS fp32 | no room |" in page(tmp_path)
