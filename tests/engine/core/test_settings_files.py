"""Settings files by themselves: shorthands, `when:` blocks, keys of others, and files of earlier versions."""

import random
from dataclasses import dataclass
from pathlib import Path

import pytest

from engine.core import setting_table
from engine.core.setting_table import settings_of
from engine.core.settings import Settings
from engine.core.settings_files import expanded, read_run_settings, read_settings_file, read_yaml, typed_values
from tests.engine import run_folders
from utils.checks import UserError
from utils.options import Shorthand, as_text, option
from utils.safe_files import write_text


def _square(text):
    if not text.isdigit():
        raise ValueError("must be a side in pixels")
    return {"width": text, "height": text}


@dataclass(frozen=True, kw_only=True)
class Config:
    width: int = option(4, "width", shorthands={"square": Shorthand("N", "both sides", _square)})
    height: int = option(3, "height", aliases=("tall",))
    rate: float | None = option(0.5, "rate")
    steps: tuple[int, ...] = option((1, 2), "steps")
    name: str = option("x", "name")


TABLE = settings_of(Config, "data")


@pytest.fixture
def file(tmp_path):
    """A function that writes a settings file of this text."""

    def written(text, name="own.yaml"):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return written


def test_what_stands_behind_a_shorthand_in_a_file_counts_too(file):
    content = "square: 7\nrate: 0.25\nsteps: [5, 6]"
    expected = {"rate": 0.25, "steps": (5, 6), "width": 7, "height": 7}
    assert read_settings_file(file(content), TABLE).plain.values == expected


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"square": ["7"]}, "f: square must be a single value"),
        ({"square": "x"}, "f: square 'x': must be a side in pixels"),
        ({"square": "7", "height": "8"}, "f: square 7 means height 7, but height 8 is given too"),
        ({"height": "7", "tall": "7"}, "f: tall and another spelling of it are both given"),
        ({"heigt": "7"}, "f: unknown setting 'heigt'; did you mean height?"),
        ({"height": "x"}, "f: height 'x': must be a whole number"),
        ({"height": ["7"]}, "f: height must be a single value"),
        ({"steps": ["7", ["8"]]}, "f: steps must be a single value"),
        ({"steps": {"7": "8"}}, "f: steps must be a single value"),
    ],
    ids=str,
)
def test_mistakes_name_the_file_and_the_key(content, words):
    with pytest.raises(UserError) as error:
        typed_values(content, TABLE, "f")
    assert str(error.value).startswith(words)


def test_a_shorthand_beside_a_value_that_says_the_same_is_fine():
    assert typed_values({"square": "7", "tall": "7"}, TABLE, "f") == {"height": 7, "width": 7}
    held = {"width": 7}
    assert expanded(held, {"square": "7"}, TABLE, "--") == {"width": 7, "height": 7}
    assert held == {"width": 7}, "what was given stays"


def test_a_block_holds_where_all_its_conditions_do(file):
    text = "width: 5\nwhen:\n  - {width: 5, height: 8, set: {rate: 1}}\n  - {tall: 8, set: {name: y}}"
    found = read_settings_file(file(text), TABLE)
    assert found.plain.values == {"width": 5}
    for values, changes in (
        ({"width": 5, "height": 8}, [{"rate": 1}, {"name": "y"}]),
        ({"width": 4, "height": 8}, [{"name": "y"}]),
        ({"width": 5, "height": 3}, []),
    ):
        assert [layer.values for layer in found.conditional(values)] == changes
    (first, _) = found.conditional({"width": 5, "height": 8})
    assert first.origin == f"{found.plain.origin} when width=5, height=8"


def test_keys_of_others_are_passed_over_and_so_are_blocks_under_them(file):
    text = "width: 5\nother: 9\nwhen:\n  - {other: 9, set: {rate: 1}}\n  - {width: 5, set: {height: 6, other: 2}}"
    found = read_settings_file(file(text), TABLE, frozenset({"other"}))
    assert (found.plain.values, found.blocks) == ({"width": 5}, [({"width": 5}, {"height": 6})])
    with pytest.raises(UserError, match="unknown setting 'other'"):
        read_settings_file(file(text), TABLE)


@pytest.mark.parametrize("block", ["3", "{width: 5}", "{width: 5, set: 3}"])
def test_a_block_must_set_something(file, block):
    with pytest.raises(UserError, match=r"own\.yaml: a when block needs `set:`"):
        read_settings_file(file(f"when:\n  - {{width: 5, set: {{rate: 1}}}}\n  - {block}"), TABLE)


def test_a_file_of_the_project_is_called_by_its_path_in_it(file, tmp_path, monkeypatch):
    path = file("width: 5")
    assert read_settings_file(path, TABLE).plain.origin == str(path)
    monkeypatch.setattr(setting_table, "CONFIGS", tmp_path / "configs")
    assert read_settings_file(path, TABLE).plain.origin == "own.yaml"


def test_the_settings_of_a_run_are_complete_whatever_its_file_lacks(file):
    path = file("width: 9\nheight:\nrate:\nforeign: 3")
    expected = {"width": 9, "height": 3, "rate": None, "steps": (1, 2), "name": "x"}
    assert read_run_settings(path, TABLE, frozenset({"foreign"})) == expected
    with pytest.raises(UserError, match="unknown setting 'foreign'"):
        read_run_settings(path, TABLE, frozenset())
    with pytest.raises(UserError, match="unknown setting 'gone'"):
        read_run_settings(file("gone:"), TABLE, frozenset())


def test_an_empty_file_says_nothing(file):
    assert read_yaml(file("")) == read_yaml(file("# nothing\n")) == {}
    assert read_settings_file(file(""), TABLE).conditional({}) == []


@pytest.mark.parametrize("opened", ["[", "{a: ", "[{x: "])
@pytest.mark.parametrize("where", ["when: ", "rate: ", "when:\n  - {width: 4, set: {rate: "])
def test_what_is_nested_hundreds_deep_is_refused_at_once(file, opened, where):
    for times in (30, 1000, 50_000):
        with pytest.raises(UserError, match=r"own\.yaml: not a readable YAML file \(nested more than 20 deep"):
            read_yaml(file(where + opened * times))


def test_many_keys_take_no_more_than_the_time_to_read_them(file):
    content = read_yaml(file("".join(f"key{n}: {n}\n" for n in range(3000))))
    assert len(content) == 3000
    with pytest.raises(UserError, match="key given twice: key7, key9"):
        read_yaml(file("".join(f"key{n}: {n}\n" for n in (*range(3000), 9, 7))))


LETTERS = "ab|:#&*%@`!?-,.[]{}<>=~'\"\\/ \t\n\r\x00\x07\x1b\x7f\x85\u00e9\u2028\u202e\ufeff\ufffe\U0001f408\ud800\udcff"


def test_random_texts_are_read_back_as_they_were_written(tmp_path):
    """Separators, outputs, tables and files that settings come from have any name."""
    rng = random.Random(0)
    table = settings_of(Texts, "data")
    for number in range(300):
        texts = ["".join(rng.choice(LETTERS) for _ in range(rng.choice((1, 1, 2, 9)))) for _ in range(4)]
        values = {"text": texts[0], "path": Path(texts[1]), "unset": None, "maybe": texts[2], "rate": 1e-5}
        made = Settings({}, values, dict.fromkeys(values, f"the file {texts[3]}"), table)
        file = tmp_path / f"{number}.yaml"
        write_text(file, made.as_yaml(texts[3]))
        assert read_run_settings(file, table, frozenset()) == values, texts


@dataclass(frozen=True, kw_only=True)
class Texts:
    text: str = option("x", "text")
    path: Path = option(Path("p"), "path")
    unset: str | None = option("y", "unset")
    maybe: str | None = option(None, "maybe")
    rate: float = option(0.5, "rate")


def test_a_path_that_begins_with_a_tilde_is_a_path_again():
    convert = settings_of(Texts, "data")["path"].convert
    assert convert(as_text(Path("~a/b"))) == Path("~a/b")
    assert convert("~") == Path.home()
    with pytest.raises(ValueError, match="there is no such home folder"):
        convert("~nobody-of-that-name/x")


def test_the_origins_of_written_settings_stand_below_each_other():
    written = run_folders.settings_of("bce", ["--lr", "0.25", "--weights", "a" * 50]).as_yaml("a run").splitlines()
    lines = {line.partition(":")[0]: line for line in written[1:]}
    assert written[0] == "# a run"
    assert lines["lr"] == f"lr: 0.25{' ' * 32}  # command line"
    assert lines["weights"] == f"weights: {'a' * 50}  # command line"
