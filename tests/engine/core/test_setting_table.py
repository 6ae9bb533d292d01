"""The generated table of settings, read back: it says of every command what its config dataclasses say."""

import pytest

from engine.core.setting_table import (
    CommandTable,
    Setting,
    choice_setting,
    command_names,
    joined,
    plain_rows,
    read_command,
    training_names,
)
from tools.tables import commands
from utils.checks import UserError
from utils.options import Shorthand


@pytest.fixture(scope="module")
def declared():
    """By program: its settings as the dataclasses declare them."""
    return {command.program: command.table() for command in commands()}


def plain(table):
    """The settings of a table, without the code of their shorthands, which no file holds."""
    return {
        name: setting._replace(shorthands={key: short[:2] for key, short in setting.shorthands.items()})
        for name, setting in table.items()
    }


@pytest.mark.parametrize("program", command_names())
def test_a_command_reads_back_as_it_is_declared(declared, program):
    found, expected = read_command(program), declared[program]
    for name in ("program", "about", "defaults", "choice", "words"):
        assert getattr(found, name) == getattr(expected, name), name
    assert list(found.shared) == list(expected.shared)
    assert plain(found.shared) == plain(expected.shared)
    for name in ("methods", "heads"):
        one, other = getattr(found, name), getattr(expected, name)
        assert list(one) == list(other)
        assert [plain(table) for table in one.values()] == [plain(table) for table in other.values()]
    for setting in found.shared.values():
        assert all(short.expand("3") == {} for short in setting.shorthands.values())


def test_names_of_training_are_those_of_all_commands_that_train(declared):
    expected = set()
    for table in declared.values():
        if table.methods:
            expected |= table.shared.keys()
            for part in (*table.methods.values(), *table.heads.values()):
                expected |= part.keys()
    assert training_names() == expected
    assert command_names() == tuple(declared)


def setting(name, **values):
    """A setting of nothing but its name, its kind and its default."""
    plain = Setting(name, "data", "int", (), 3, "help", (), {}, {}, False, False)
    return plain._replace(**values)


def test_what_a_setting_does_not_have_is_not_written():
    row = {"name": "a", "group": "data", "kind": "int", "help": "help"}
    short = Shorthand("N", "both", dict)
    full = setting("b", choices=("1",), aliases=("c",), synonyms={"one": "1"}, shorthands={"d": short}, common=True)
    assert plain_rows({"a": setting("a"), "b": full, "e": setting("e", default=None, strict=True)}) == [
        {**row, "default": "3"},
        {
            **{**row, "name": "b", "default": "3", "choices": ("1",), "aliases": ("c",), "synonyms": {"one": "1"}},
            **{"shorthands": {"d": ["N", "both"]}, "common": True},
        },
        {**row, "name": "e", "strict": True},
    ]
    assert plain_rows({"f": setting("f", default=None, implies={"a": "1"})})[0]["implies"] == {"a": "1"}


def test_a_name_is_declared_once():
    parts = [{"a": setting("a"), "b": setting("b")}, {"c": setting("c")}]
    assert list(joined(parts)) == ["a", "b", "c"]
    with pytest.raises(ValueError, match="setting b is declared twice"):
        joined([*parts, {"d": setting("d"), "c": setting("c"), "b": setting("b")}])


def test_of_a_name_that_several_heads_have_the_first_heads_setting_counts_before_one_is_chosen():
    one, other = setting("depth", default=1), setting("depth", default=2)
    table = CommandTable("x", "", {"a": setting("a")}, heads={"p": {"depth": one}, "q": {"depth": other}})
    assert table.with_all_heads("") == {"a": setting("a"), "depth": one}
    assert table.of("", "q") == {"a": setting("a"), "depth": other}
    assert table.of("", "r") == table.of_method("none") == {"a": setting("a")}


def test_a_choice_of_methods_is_a_common_setting_whose_default_is_the_first():
    table = choice_setting("loss", ("bce", "an"))
    assert list(table) == ["loss"]
    found = table["loss"]
    assert (found.kind, found.choices, found.default, found.group) == ("choice", ("bce", "an"), "bce", "run")
    assert (found.common, found.strict, found.aliases) == (True, False, ())


def test_a_table_that_is_damaged_or_old_is_told_what_to_do(tmp_path):
    with pytest.raises(UserError, match=r"cannot be read .* write it anew with `make tables`"):
        read_command("main_x.py", tmp_path / "gone.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(UserError, match=r"bad\.json: cannot be read"):
        command_names(tmp_path / "bad.json")
    (tmp_path / "old.json").write_text('{"commands": {}, "configs": {}}')
    with pytest.raises(UserError, match=r"old\.json: says nothing of main_x\.py; write it anew with `make tables`"):
        read_command("main_x.py", tmp_path / "old.json")
