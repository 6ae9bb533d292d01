"""The words of a command line: flags and their texts, help, and one line for what is wrong with them."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from engine.core.setting_table import CommandTable, Setting, SettingTable
from engine.core.settings_files import expanded, shorthands, typed_value
from engine.core.suggestions import suggestion
from utils.checks import UserError, require
from utils.options import BETWEEN_PATHS, as_text

_NUMBERS = re.compile(r"-[\d.][\d.,eE+-]*")
_HELP = ("-h", "--help")
_HELP_COLUMN, _HELP_WIDTH = 32, 110
"""Where the text of a flag begins, and the longest line."""
_SETTINGS_FILES = (".yaml", ".yml", ".py")
"""Endings of a word behind a list of paths that is no path of it."""


class OneLineParser(argparse.ArgumentParser):
    """An argument parser whose complaints are one line and an exception, not usage text and an exit."""

    def error(self, message: str) -> NoReturn:
        """Raise UserError with the program's name and `message`."""
        raise UserError(f"{self.prog}: {message}")


class CommandLine(NamedTuple):
    """A command line taken apart; nothing of it is checked against types yet."""

    texts: dict[str, str]
    """By the name of the setting or shorthand."""
    config: Path | None
    only_print: bool
    words: tuple[str, ...]
    """Arguments that are no flags, of commands that have some."""
    notes: tuple[str, ...] = ()
    """How something was understood that is not what it says, one line each."""

    def values(self, table: SettingTable) -> dict[str, Any]:
        """Typed values of the settings in `table`. Raises: UserError when a text does not fit."""
        known = shorthands(table)
        short = {name: text for name, text in self.texts.items() if name in known}
        typed = {
            name: typed_value(table[name], text, f"--{name}") for name, text in self.texts.items() if name in table
        }
        return expanded(typed, short, table, "--")


def without_help(argv: Sequence[str]) -> tuple[list[str], str]:
    """The other words of a command line, and `short` or `all` as it asks for help; empty where it does not."""
    words, wanted = list(argv), ""
    for position in [position for position, word in enumerate(words) if word in _HELP][:1]:
        wanted = "all" if words[position + 1 : position + 2] == ["all"] else "short"
        del words[position : position + (2 if wanted == "all" else 1)]
    return words, wanted


def split_words(argv: Sequence[str], table: SettingTable) -> tuple[list[str], list[str]]:
    """The flags of a command line with their values, and the other words, in whatever order they are mixed."""
    switches = {f"--{name}" for name in ("print_config", *(each.name for each in table.values() if each.is_switch))}
    switches |= {f"--no-{each.name}" for each in table.values() if each.is_switch}
    flags: list[str] = []
    words: list[str] = []
    left = iter(argv)
    for word in left:
        if not word.startswith("-"):
            words.append(word)
        elif "=" in word or word in switches:
            flags.append(word)
        else:
            flags += [word, *([value] if (value := next(left, None)) is not None else [])]
    return flags, words


def read_command_line(command: CommandTable, table: SettingTable, argv: Sequence[str]) -> CommandLine:
    """Take a command line apart by the flags of `table`.

    Raises: UserError for an unknown flag, with the one that was probably meant, or a flag without its value.
    """
    flags, words = split_words(argv, table) if command.words else (list(argv), [])
    joined = _values_joined(flags, table.values())
    spaces, unknown = _parser(command, table, joined).parse_known_args(joined)
    for word in unknown:
        flag = word.split("=")[0]
        if flag.startswith("-"):
            hint = suggestion(flag, table, ("--config", "--print_config", "--help"))
            raise UserError(f"{command.program}: unknown flag {flag}{hint}")
        raise UserError(f"{command.program}: {word!r} is not a flag; --help lists them")
    given = vars(spaces)
    only_print = bool(given.pop("print_config", False))
    named = _settings_file(given, command.program)
    file, notes = beside(named, command.program)
    return CommandLine(given, file, only_print, tuple(words), notes)


def peek(
    command: CommandTable, name: str, tables: Sequence[SettingTable], argv: Sequence[str]
) -> tuple[str, Path | None]:
    """The text that a command line gives for one setting, read before it is known which others there are.

    Args:
        command: the command.
        name: the setting.
        tables: all settings that may stand beside it; two may give a name a meaning of their own.
        argv: the command line.

    Returns:
        The text, empty where there is none, and the settings file. Where a flag is unknown no file is returned, for
        the value of that flag would look like one.
    """
    table: SettingTable = {}
    for part in tables:  # of methods that each give a flag a meaning of their own, one may need no value
        table = {**table, **{name: setting._replace(kind="bool") for name, setting in part.items()}}
    settings = [setting for part in tables for setting in part.values()]
    joined = _values_joined(argv, settings)
    spaces, unknown = _parser(command, table, joined).parse_known_args(joined)
    given = vars(spaces)
    file, _ = beside(_settings_file(given, command.program), command.program)
    return str(given.get(name, "")), None if unknown else file


def help_text(command: CommandTable, table: SettingTable, method: str, *, every: bool) -> str:
    """The text of `--help`: the common settings and those of the method; or with `every` all, group by group."""
    own = command.methods.get(method, {})
    groups: dict[str, list[Setting]] = {"common": [each for each in table.values() if each.common]}
    for setting in table.values():
        if not setting.common and (every or setting.name in own or not _is_training(command)):
            title = f"method: {method}" if setting.group == "method" else setting.group
            groups.setdefault(title, []).append(setting)
    if every:
        groups |= {f"model, --head {head}": list(settings.values()) for head, settings in command.heads.items()}
    usage = f"usage: {command.program} {command.words or '[CONFIG.yaml]'} [--flag VALUE ...]"
    sections = [_section(title, settings, command, every=every) for title, settings in groups.items()]
    return "\n\n".join([usage, command.about, *sections]) + "\n"


def _section(title: str, settings: Sequence[Setting], command: CommandTable, *, every: bool) -> str:
    """One group of settings as help shows it."""
    parser = OneLineParser(
        usage=argparse.SUPPRESS,
        add_help=False,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=_HELP_COLUMN, width=_HELP_WIDTH),
    )
    group = parser.add_argument_group(title)
    if title == "common":
        text = "this text" if every else "this text; `--help all` shows all settings"
        group.add_argument("--help", metavar="all", nargs="?", help=text)
        group.add_argument("--config", metavar="FILE", help="YAML file with settings; the command line wins over it")
        group.add_argument("--print_config", action="store_true", help="print the settings with their origins and stop")
    for setting in settings:
        _add_shown(group, setting, command)
    return parser.format_help().strip()


def _is_training(command: CommandTable) -> bool:
    return bool(command.methods)


def _add_shown(group: Any, setting: Setting, command: CommandTable) -> None:
    """A setting and its shorthands as help shows them."""
    default = as_text(command.defaults.get(setting.name, setting.default))
    text = setting.help + (f" (default {default})" if default else "")
    chosen = setting.kind.startswith("choice")
    shown = "{" + ",".join(setting.choices) + "}" if chosen else "|".join([_metavar(setting), *setting.choices])
    switch = {"nargs": "?"} if setting.is_switch else {}
    group.add_argument(*setting.flags, metavar=shown, help=text.replace("%", "%%"), **switch)
    for name, short in setting.shorthands.items():
        group.add_argument(f"--{name}", metavar=short.values, help=short.help.replace("%", "%%"))


def _metavar(setting: Setting) -> str:
    """The kind of value that a flag takes."""
    kind = setting.kind.rstrip("?")
    if setting.takes_words:
        return "PATH ..."
    words = {"int": "N", "float": "X", "str": "TEXT", "path": "PATH", "bool": "True|False"}
    return words.get(kind, f"{words.get(kind.removesuffix('...'), 'VALUE')},...")


def _parser(command: CommandTable, table: SettingTable, words: Sequence[str]) -> OneLineParser:
    """A parser that takes every flag of `table` among `words` as a text; making one with all of them takes longer."""
    written = {word.split("=")[0] for word in words}
    parser = OneLineParser(
        prog=command.program,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        add_help=False,
        conflict_handler="resolve",
    )
    if not command.words:
        parser.add_argument("config_file", nargs="?")
    parser.add_argument("--config")
    parser.add_argument("--print_config", action="store_true")
    for setting in table.values():
        switch: dict[str, Any] = {"nargs": "?", "const": "true"} if setting.is_switch else {}
        if flags := [flag for flag in setting.flags if flag in written]:
            parser.add_argument(*flags, dest=setting.name, **switch)
        if setting.is_switch and (off := f"--no-{setting.name}") in written:
            parser.add_argument(off, dest=setting.name, action="store_const", const="false")
        for name in setting.shorthands:
            if (flag := f"--{name}") in written:
                parser.add_argument(flag)
    return parser


def _values_joined(argv: Sequence[str], settings: Iterable[Setting]) -> list[str]:
    """The words of a command line, with values that would look like other words joined to their flag.

    These are a list of numbers that begins with a minus, and the paths of a list, up to the next flag or settings file.
    """
    lists = [each for each in settings if "..." in each.kind]
    paths = {flag for each in lists if each.takes_words for flag in each.flags}
    numbers = {flag for each in lists if not each.takes_words for flag in each.flags}
    words: list[str] = []
    for word in argv:
        before = words[-1] if words else ""
        if (before in numbers and _NUMBERS.fullmatch(word)) or (before in paths and not word.startswith("-")):
            words[-1] = f"{before}={word}"
        elif before.split("=")[0] in paths and not word.startswith("-") and not word.endswith(_SETTINGS_FILES):
            words[-1] = f"{before}{BETWEEN_PATHS}{word}"
        else:
            words.append(word)
    return words


def _settings_file(given: dict[str, Any], program: str) -> Path | None:
    """The settings file among the words of a command line, which are taken out of `given`."""
    file, flag_file = given.pop("config_file", None), given.pop("config", None)
    require(not (file and flag_file), f"{program}: two settings files, {file} and --config {flag_file}; give one")
    config = file or flag_file
    return Path(config) if config else None


def beside(path: Path | None, program: str) -> tuple[Path | None, tuple[str, ...]]:
    """The settings file that a name stands for, and a line where it is another: published ones end in `.py`.

    Raises: UserError for a `.py` that has no `.yaml` beside it.
    """
    if path is None or path.suffix != ".py":
        return path, ()
    yaml = path.with_suffix(".yaml")
    text = f"{program}: {path}: settings are YAML files here, and no .py is run for them"
    require(yaml.is_file(), f"{text}; give {yaml} (there is none beside it)")
    return yaml, (f"note: {path}: no .py is run here; its settings are those of {yaml}",)
