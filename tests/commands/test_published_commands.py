"""`docs/published_commands.md`: the lines that stand for the papers' commands do what the page says."""

import re
import shlex

import pytest
import yaml

from engine.core.usage import check_usage
from tests.commands.scene import ROOT, run

PAGE = (ROOT / "docs" / "published_commands.md").read_text()
ROW = re.compile(r"^\| [^|]+ \| `[^`]+` \| `python ([^`]+)` \|(?: (.*) \|)?$", re.MULTILINE)
TRAINING, OTHER = ([row for row in ROW.findall(PAGE) if bool(row[1]) is trains] for trains in (True, False))
FAST = {"main_ndlp.py", "main_llm.py"}  # of the scripts whose flags papers spell in their own way


def test_the_page_has_rows_of_both_kinds():
    assert (len(TRAINING), len(OTHER)) == (41, 11)


@pytest.mark.parametrize(
    "line, says",
    [pytest.param(*row, marks=[] if row[0].split()[0] in FAST else pytest.mark.slow) for row in TRAINING],
)
def test_a_training_line_resolves_to_what_the_page_says(line, says):
    script, *words = shlex.split(line)
    done = run(ROOT, script, *words, "--print_config")
    assert done.returncode == 0, done.stderr
    held = yaml.safe_load(done.stdout)
    wanted = [part.split(": ", 1) for part in re.findall(r"`([^`]+)`", says)]
    assert len(wanted) > 5
    assert {name: str(held[name]) for name, _ in wanted} == dict(wanted)


@pytest.mark.parametrize("line", [line for line, _ in OTHER])
def test_every_other_line_is_understood(line, monkeypatch):
    monkeypatch.chdir(ROOT)
    script, *words = shlex.split(line)
    check_usage(script, words)
