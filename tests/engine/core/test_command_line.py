"""Words of a command line: flags, other words, help, and what was probably meant."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from engine.core.command_line import help_text, peek, split_words, without_help
from engine.core.setting_table import CommandTable, settings_of
from engine.core.suggestions import suggestion
from utils.options import option


@dataclass(frozen=True, kw_only=True)
class Config:
    lr: float = option(0.1, "learning rate of the backbone")
    min_lr: float = option(0.0, "plateau: learning rate of the backbone below which nothing decays")
    partial_rate: float = option(0.1, "chance of each absent class", aliases=("noise",))
    tolerance: int = option(0, "pixels")
    seed: int = option(0, "seed")
    resume: bool = option(False, "go on with a run")


TABLE = settings_of(Config, "data")


def test_words_and_flags_may_be_mixed():
    argv = [
        "a",
        "--lr",
        "3",
        "c",
        "--tolerance=3",
        "--resume",
        "d",
        "--print_config",
        "e",
        "--no-resume",
        "f",
        "--seed",
    ]
    flags, words = split_words(argv, TABLE)
    assert words == ["a", "c", "d", "e", "f"]
    assert flags == ["--lr", "3", "--tolerance=3", "--resume", "--print_config", "--no-resume", "--seed"]


@pytest.mark.parametrize(
    "argv, rest, wanted",
    [
        (["--seed", "1"], ["--seed", "1"], ""),
        (["--seed", "1", "-h"], ["--seed", "1"], "short"),
        (["--help", "all", "--seed", "1"], ["--seed", "1"], "all"),
        (["--seed", "1", "--help", "all"], ["--seed", "1"], "all"),
        (["--help", "own.yaml"], ["own.yaml"], "short"),
        (["--help", "--help", "own.yaml"], ["--help", "own.yaml"], "short"),
    ],
)
def test_help_is_taken_out_of_the_words(argv, rest, wanted):
    assert without_help(argv) == (rest, wanted)


@pytest.mark.parametrize(
    "given, meant",
    [
        ("--learning_rate", "--lr"),
        ("--learning-rate", "--lr"),
        ("--Learning_Rate", "--lr"),
        ("--partial_rat", "--partial_rate"),
        ("--nois", "--noise"),
        ("learning_rate", "lr"),
        ("--tolerence", "--tolerance"),
    ],
)
def test_a_slip_is_mended_and_a_description_is_understood(given, meant):
    assert suggestion(given, TABLE) == f"; did you mean {meant}?"


def test_of_a_name_like_nothing_there_is_help():
    assert suggestion("--xyz", TABLE) == "; --help lists what there is"


@dataclass(frozen=True, kw_only=True)
class Lists:
    table: tuple[Path, ...] | None = option(None, "tables", common=True)
    steps: tuple[int, ...] | None = option(None, "steps", common=True)
    loss: str = option("one", "method")


def test_a_method_is_found_whatever_lists_stand_before_it():
    table = settings_of(Lists, "data")
    words = ["--table", "a.csv", "b.csv", "own.yaml", "--steps", "-1,2", "--loss", "two"]
    assert peek(CommandTable("x.py", "", table), "loss", [table], words) == ("two", Path("own.yaml"))


def test_help_shows_that_several_paths_may_follow():
    text = help_text(
        CommandTable("x.py", "about", settings_of(Lists, "data")), settings_of(Lists, "data"), "", every=False
    )
    assert "--table PATH ..." in text
    assert "--steps N,..." in text
