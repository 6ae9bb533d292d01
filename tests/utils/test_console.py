"""Lines for a person, and progress bars on a terminal only."""

import io
import os
import sys
import unicodedata

import pytest

from utils import console
from utils.console import Progress, note, printable, say, show, warn


class Bar:
    """Notes what a bar is told."""

    def __init__(self, **settings):
        self.settings, self.told = settings, []

    def set_postfix_str(self, text, refresh):
        self.told.append((text, refresh))

    def update(self, amount):
        self.told.append(amount)

    def close(self):
        self.told.append("closed")


@pytest.fixture
def bars(monkeypatch):
    """The bars that are made, in place of tqdm's."""
    made = []
    monkeypatch.setattr(console, "tqdm", lambda **settings: made.append(Bar(**settings)) or made[-1])
    return made


def test_lines_go_to_their_streams_at_once(capsys):
    say("one")
    warn("two")
    assert capsys.readouterr() == ("one\n", "two\n")


def test_processes_of_one_run_say_a_line_and_a_note_once(monkeypatch, capsys):
    for rank in ("0", "1", "11"):
        monkeypatch.setenv("RANK", rank)
        say("read")
        note("two files")
        warn(f"{rank} fails")
    assert capsys.readouterr() == ("read\n", "note: two files\n0 fails\n1 fails\n11 fails\n")
    monkeypatch.delenv("RANK")
    note("alone")
    assert capsys.readouterr().err == "note: alone\n"


def test_a_line_leaves_the_program_at_once(monkeypatch):
    events = []

    class Out(io.StringIO):
        def write(self, text):
            events.append(text)

        def flush(self):
            events.append("flush")

    monkeypatch.setattr(sys, "stdout", Out())
    say("one")
    assert "".join(events).replace("flush", "") == "one\n"
    assert events[-1] == "flush"


@pytest.mark.parametrize(("shown", "terminal"), [(True, True), (True, False), (False, True), (False, False)])
def test_a_bar_is_shown_on_a_terminal_and_where_it_is_wanted(bars, monkeypatch, shown, terminal):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    Progress([], total=9, done=4, label="epoch 1", unit="img", shown=shown)
    expected = {"total": 9, "initial": 4, "desc": "epoch 1", "unit": "img", "leave": False}
    assert bars[0].settings == {**expected, "disable": not (shown and terminal)}


def test_a_bar_counts_and_shows_a_text_without_drawing_twice(bars):
    progress = Progress("ab", total=2, label="", unit="", shown=True)
    for _ in progress:
        progress.advance(3, "loss 1.5")
        progress.advance(1)
    assert bars[0].settings["initial"] == 0
    assert bars[0].told == [("loss 1.5", False), 3, 1] * 2 + ["closed"]


def test_a_bar_is_closed_after_an_error_too(bars):
    def items():
        yield 1
        raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        list(Progress(items(), total=2, label="", unit="", shown=True))
    assert bars[0].told == ["closed"]


SHOWN = [
    ("cat", "cat"),
    ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
    ("bell\x07", "bell\\x07"),
    ("\x9b31m", "\\x9b31m"),
    ("back\rover\x08", "back\\x0dover\\x08"),
    ("a\tb\nc", "a\tb\nc"),
    ("del\x7f", "del\\x7f"),
    ("gnp.\u202eexe", "gnp.\\u202eexe"),
    ("\u2066x\u2069", "\\u2066x\\u2069"),
    ("half \ud83d", "half \\ud83d"),
    ("caf\udce9.jpg", "caf\\udce9.jpg"),
    ("\u4e2d\u6587 \xe9 \U0001f415", "\u4e2d\u6587 \xe9 \U0001f415"),
]


@pytest.mark.parametrize(("text", "shown"), SHOWN)
def test_a_terminal_shows_names_and_does_not_obey_them(text, shown, capsys):
    assert printable(text) == shown
    say(text)
    warn(text)
    assert capsys.readouterr() == (f"{shown}\n", f"{shown}\n")


def test_all_controls_and_all_turns_of_direction_are_shown_and_nothing_else():
    turns = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    letters = [chr(code) for code in range(0x3000)]
    obeyed = [
        letter
        for letter in letters
        if letter in "\u200e\u200f"
        or unicodedata.category(letter) in ("Cc", "Zl", "Zp")
        or unicodedata.bidirectional(letter) in turns
    ]
    changed = [letter for letter in letters if printable(letter) != letter]
    assert changed == [letter for letter in obeyed if letter not in "\n\t"]
    assert {printable(letter) for letter in changed} == {ascii(letter).strip("'") for letter in changed} - {"\\r"} | {
        "\\x0d"
    }


def test_what_an_encoding_lacks_is_escaped():
    assert printable("\u4e2d \xe9", "ascii") == "\\u4e2d \\xe9"
    assert printable("\u4e2d \xe9", "latin-1") == "\\u4e2d \xe9"
    assert printable("\u4e2d", None) == "\u4e2d"


@pytest.mark.parametrize(("tell", "name"), [(say, "stdout"), (warn, "stderr")])
def test_a_line_that_nobody_reads_ends_nothing(monkeypatch, tell, name):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w", buffering=1) as stream:
        monkeypatch.setattr(sys, name, stream)
        if name == "stdout":
            with pytest.raises(BrokenPipeError):
                show("one")
        for _ in range(3):
            tell("one")
            stream.flush()
    monkeypatch.undo()


def test_a_stream_without_a_file_is_left_alone(monkeypatch):
    class Gone(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Gone())
    say("one")
