"""Settings as plain data: read from the config dataclasses of a command, or from the generated table of all of them.

The table, `configs/settings.json`, answers `--help` and mistakes on the command line without importing torch; `make
tables` writes it, and a test holds it against the dataclasses.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, get_type_hints

from utils.checks import UserError
from utils.options import PATHS, Shorthand, as_text, choices_of, kind_of, reader

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
TABLE_FILE = CONFIGS / "settings.json"


class Setting(NamedTuple):
    """One setting: a flag and a YAML key."""

    name: str
    group: str
    """Its heading in `--help`: data, labels, model, optimiser, method, run, or that of a command of its own."""
    kind: str
    """A word of `utils.options.kind_of`."""
    choices: tuple[str, ...]
    default: Any
    help: str
    aliases: tuple[str, ...]
    synonyms: Mapping[str, str]
    shorthands: Mapping[str, Shorthand]
    common: bool
    strict: bool
    """True if its flag is refused beside a head that does not read it."""
    implies: Mapping[str, str] = MappingProxyType({})
    """Texts of other settings that conditions of settings files go by where it is set and those are not."""

    def convert(self, text: str) -> Any:
        """The value that a text stands for. Raises: ValueError saying what it must be."""
        return reader(self.kind, self.choices)(self.synonyms.get(text, text))

    @property
    def is_switch(self) -> bool:
        """True for a flag that needs no value."""
        return self.kind == "bool"

    @property
    def takes_words(self) -> bool:
        """True for a flag with several words behind it, a path each."""
        return self.kind.removesuffix("?") == PATHS

    @property
    def flags(self) -> tuple[str, ...]:
        """The spellings of its flag."""
        return tuple(f"--{name}" for name in (self.name, *self.aliases))


SettingTable = dict[str, Setting]
Groups = Mapping[str, Sequence[type]]
"""Config dataclasses by the group that their settings belong to."""


def settings_of(config: type, group: str) -> SettingTable:
    """Every setting of a config dataclass by name, its own before inherited ones."""
    return dict(_settings_of(config, group))


@cache
def _settings_of(config: type, group: str) -> SettingTable:
    """As `settings_of`, kept: reading the type hints takes longer than all the rest."""
    hints, own = get_type_hints(config), config.__annotations__
    table = {}
    for item in sorted(fields(config), key=lambda item: item.name not in own):
        metadata, hint = item.metadata, hints[item.name]
        choices = metadata["choices"] or choices_of(hint)
        table[item.name] = Setting(
            item.name,
            group,
            kind_of(hint, metadata["choices"]),
            choices,
            None if item.default is MISSING else item.default,
            metadata["help"],
            metadata["aliases"],
            metadata["synonyms"],
            metadata["shorthands"],
            metadata["common"],
            metadata["strict"],
            metadata["implies"],
        )
    return table


def joined(parts: Sequence[SettingTable]) -> SettingTable:
    """Several tables as one. Raises: ValueError when two declare a setting of the same name."""
    table: SettingTable = {}
    for part in parts:
        if twice := table.keys() & part.keys():
            raise ValueError(f"setting {sorted(twice)[0]} is declared twice")
        table |= part
    return table


class CommandTable(NamedTuple):
    """All settings that a command may have."""

    program: str
    about: str
    shared: SettingTable
    """Those it has in any case."""
    defaults: Mapping[str, Any] = MappingProxyType({})
    """Defaults that the script sets differently from the code, typed."""
    choice: str = ""
    """The flag that chooses one of several methods."""
    methods: Mapping[str, SettingTable] = MappingProxyType({})
    heads: Mapping[str, SettingTable] = MappingProxyType({})
    """Those of each value of `--head`."""
    words: str = ""
    """Its arguments that are no flags, in words; empty where there are none."""

    def of_method(self, method: str) -> SettingTable:
        """The settings of the command with one of its methods; without those of any head."""
        return joined([self.shared, self.methods.get(method, {})])

    def with_all_heads(self, method: str) -> SettingTable:
        """The same with the settings of all heads; of one name the first head's."""
        table: SettingTable = {}
        for part in (self.of_method(method), *self.heads.values()):
            table = {**part, **table}
        return table

    def of(self, method: str, head: str) -> SettingTable:
        """The settings of the command with one of its methods and one head."""
        return joined([self.of_method(method), self.heads.get(head, {})])


def plain_rows(table: SettingTable) -> list[dict[str, Any]]:
    """A table as plain values for a JSON file; what a setting does not have is left out."""
    rows = []
    for setting in table.values():
        row: dict[str, Any] = {
            **setting._asdict(),
            "default": None if setting.default is None else as_text(setting.default),
            "synonyms": dict(setting.synonyms),
            "implies": dict(setting.implies),
            "shorthands": {name: [short.values, short.help] for name, short in setting.shorthands.items()},
        }
        rows.append({key: value for key, value in row.items() if value not in ((), {}, [], None, False)})
    return rows


@cache
def _table_file(path: Path) -> dict[str, Any]:
    """The content of the generated file. Raises: UserError when it is not there."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); write it anew with `make tables`") from None
    return content


def read_command(program: str, path: Path = TABLE_FILE) -> CommandTable:
    """The table of a command from the generated file. Raises: UserError when it is not there."""
    content = _table_file(path)
    if program not in content["commands"]:
        raise UserError(f"{path}: says nothing of {program}; write it anew with `make tables`")
    command = content["commands"][program]
    configs = {name: {row["name"]: _setting(row) for row in rows} for name, rows in content["configs"].items()}
    methods = {name: configs[config] for name, config in command["methods"].items()}
    choice = choice_setting(command["choice"], tuple(methods)) if command["choice"] else {}
    shared = joined([choice, *(configs[name] for name in command["shared"])])
    heads = {name: configs[config] for name, config in command["heads"].items()}
    every = {name: setting for table in (*methods.values(), *heads.values(), shared) for name, setting in table.items()}
    defaults = {name: every[name].convert(text) for name, text in command["defaults"].items()}
    return CommandTable(
        program, command["about"], shared, defaults, command["choice"], methods, heads, command["words"]
    )


def command_names(path: Path = TABLE_FILE) -> tuple[str, ...]:
    """Names of all commands of the generated file."""
    return tuple(_table_file(path)["commands"])


def training_names(path: Path = TABLE_FILE) -> frozenset[str]:
    """Names of all settings of the training scripts, which settings files that other commands read may hold."""
    content = _table_file(path)
    commands = [command for command in content["commands"].values() if command["methods"]]
    choices = {command["choice"] for command in commands} - {""}
    used = {
        config
        for command in commands
        for config in (*command["shared"], *command["methods"].values(), *command["heads"].values())
    }
    return frozenset(row["name"] for config in used for row in content["configs"][config]) | choices


def _setting(row: Mapping[str, Any]) -> Setting:
    """A setting as it was written; its shorthands stand for nothing here, for their code is not in the file."""
    kind, choices = row["kind"], tuple(row.get("choices", ()))
    default = row.get("default")
    return Setting(
        row["name"],
        row["group"],
        kind,
        choices,
        None if default is None else reader(kind, choices)(default) if default else "",
        row["help"],
        tuple(row.get("aliases", ())),
        row.get("synonyms", {}),
        {name: Shorthand(short[0], short[1], _nothing) for name, short in row.get("shorthands", {}).items()},
        row.get("common", False),
        row.get("strict", False),
        row.get("implies", {}),
    )


def choice_setting(flag: str, methods: tuple[str, ...]) -> SettingTable:
    """The table of the one setting by which a script of several methods chooses one; the first is the default."""
    text = "which of these methods is trained; its settings are below"
    return {flag: Setting(flag, "run", "choice", methods, methods[0], text, (), {}, {}, True, False)}


def _nothing(text: str) -> Mapping[str, str]:
    """No settings: the table does not hold what a shorthand stands for."""
    return {}
