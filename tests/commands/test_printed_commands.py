"""Every command that a page or a script prints is understood: flags, kinds of values, settings files that are ours."""

import re
import shlex

import pytest

from engine.core.setting_table import command_names
from engine.core.usage import check_subcommand, check_usage
from tests.commands.scene import ROOT

PLACES = ("*.md", "docs/**/*.md", "*.py", "configs/**/*.yaml", "benchmarks/*.md")
SCRIPTS = "|".join(sorted({re.escape(name.split()[0]) for name in command_names()}))
COMMAND = re.compile(rf"(?:python|nproc_per_node \d+) ({SCRIPTS})([^`\n|#;(]*)")


def printed(page):
    """The commands on a page, each as its words; continued lines are joined, what is left to the reader cut off."""
    text = re.sub(r"\\\n\s*(#\s*)?|\n(?=--|[0-9.]+[ `])", " ", page.read_text())
    for script, rest in COMMAND.findall(text):
        words = [script, *shlex.split(re.split(r"(?<!\.)[,.:]\s|,$", rest)[0])]
        if not any("..." in word for word in words):
            yield tuple(words)


FOUND = ((page, words) for place in PLACES for page in ROOT.glob(place) for words in printed(page))
COMMANDS = sorted({(str(page.relative_to(ROOT)), words) for page, words in FOUND})


def test_there_are_commands():
    assert len(COMMANDS) > 100


@pytest.mark.parametrize(
    "page, words", COMMANDS, ids=lambda part: part if isinstance(part, str) else " ".join(part)[:70]
)
def test_a_printed_command_is_understood(page, words, monkeypatch):
    monkeypatch.chdir(ROOT)
    script, *argv = words
    if any(word.endswith(".yaml") and not (ROOT / word).exists() for word in argv):
        pytest.skip("names a settings file of the reader")
    if script == "analyse.py":
        check_subcommand(script, argv)
    else:
        check_usage(script, argv)
