"""Help and slips of every script, answered without importing torch."""

import subprocess
import sys

import pytest

from engine.core.setting_table import command_names, read_command
from tests.commands.scene import ROOT

PROBE = """
import importlib, io, sys
from contextlib import redirect_stderr, redirect_stdout
from engine.core.cli import exit_code

def ended(script, *words):
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            code = exit_code(importlib.import_module(script).main, words)
        except SystemExit as stop:
            code = stop.code
    assert "torch" not in sys.modules, (script, words)
    return code, out.getvalue(), err.getvalue()

for script, words in {CASES}:
    first = [words] if words else []
    code, out, err = ended(script, *first, "--help")
    assert (code, err) == (0, ""), (script, code, err)
    assert out.startswith("usage: " + script + ".py"), out
    code, whole, err = ended(script, *first, "--help", "all")
    assert code == 0 and whole.startswith("usage: ")
    for wrong in (["--no_such_flag", "1"], ["--config", "nowhere.yaml"]):
        code, out, err = ended(script, *first, *wrong)
        assert (code, out) == (2, ""), (script, wrong, code, out)
        assert err.startswith("error: ") and len(err.splitlines()) == 1, err
code, out, err = ended("main_BCE", "--learning_rate", "1")
assert err == "error: main_BCE.py: unknown flag --learning_rate; did you mean --lr?\\n", err
code, out, err = ended("main_CoNeS", "--epochs", "many")
assert (code, err) == (2, "error: --epochs 'many': must be a whole number\\n"), err
code, out, err = ended("analyse", "--help")
assert code == 0 and "pointing" in out
code, out, err = ended("analyse", "nothing")
assert code == 2 and "say first what to do" in err
"""


@pytest.mark.slow
def test_help_and_slips_of_every_script_need_no_torch():
    cases = [(name.split(".py")[0], name.partition(".py ")[2]) for name in command_names()]
    done = subprocess.run(
        [sys.executable, "-c", PROBE.replace("{CASES}", repr(cases))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("program", command_names())
def test_every_script_is_in_the_table(program):
    table = read_command(program)
    assert (ROOT / program.split()[0]).exists()
    assert table.about
    assert table.shared
