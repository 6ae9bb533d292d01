"""Settings: the config dataclasses of a command, filled from layers, each value with its origin.

Precedence: code default < the script's defaults < `configs/datasets/<dataset>.yaml` < `configs/<method>/every.yaml` <
`configs/<method>/<dataset>.yaml` < `configs/weights/<weights>.yaml` < `--config FILE` < a checkpoint that is scored <
command line. Which method and which head there is decides which settings there are, so both are found first.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from engine.core import setting_table
from engine.core.command_line import help_text, peek, read_command_line, without_help
from engine.core.setting_table import CommandTable, Groups, Setting, SettingTable, settings_of
from engine.core.settings_files import (
    SettingsFile,
    SettingsLayer,
    read_settings_file,
    read_yaml,
    typed_value,
    typed_values,
    with_foundation,
    yaml_comment,
    yaml_value,
)
from utils.checks import require
from utils.console import is_first_process, warn
from utils.options import as_words

Config = TypeVar("Config")


@dataclass(frozen=True, kw_only=True)
class Command:
    """A script and the config dataclasses that its settings fill."""

    program: str
    """Name of the script, with the word that chooses what it does where there is one."""
    about: str
    """One line for `--help`."""
    groups: Groups
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Values that this script sets differently from the code's defaults."""
    choice: str = ""
    """The flag that chooses one of several methods."""
    methods: Mapping[str, type] = field(default_factory=dict)
    """Config dataclasses of the methods it may train; the first is the default."""
    heads: Mapping[str, type] = field(default_factory=dict)
    """Config dataclasses by the value of `--head`."""
    words: str = ""
    """Its arguments that are no flags, in words."""

    def table(self) -> CommandTable:
        """All its settings as plain data."""
        shared = [settings_of(config, group) for group, configs in self.groups.items() for config in configs]
        if self.choice:
            shared.insert(0, setting_table.choice_setting(self.choice, tuple(self.methods)))
        return CommandTable(
            self.program,
            self.about,
            setting_table.joined(shared),
            self.defaults,
            self.choice,
            {name: settings_of(config, "method") for name, config in self.methods.items()},
            {name: settings_of(config, "model") for name, config in self.heads.items()},
            self.words,
        )


@dataclass(frozen=True)
class Settings:
    """The config objects of a command by class, the value of every setting, and where each came from."""

    configs: Mapping[type, Any]
    values: Mapping[str, Any]
    origins: Mapping[str, str]
    table: SettingTable
    """All settings there are, in this order."""
    method: str = ""
    """The method that is trained, of commands that train one."""
    method_config: Any = None
    head_config: Any = None
    words: tuple[str, ...] = ()
    """Arguments that are no flags."""

    def of(self, config: type[Config]) -> Config:
        """The settings of one config dataclass."""
        found: Config = self.configs[config]
        return found

    def is_given(self, name: str) -> bool:
        """True if something other than the code's default has set a value."""
        return self.origins[name] != "default"

    def is_typed(self, name: str) -> bool:
        """True if the command line has set a value."""
        return self.origins.get(name) == "command line"

    def with_found(self, found: Mapping[str, Any], origin: str) -> Settings:
        """The settings with values for some of those that are unset.

        Args:
            found: values by name; those of settings that are set are passed over.
            origin: where they come from.
        """
        unset = {name: value for name, value in found.items() if name in self.values and self.values[name] is None}
        return self.with_values(unset, origin)

    def with_values(self, new: Mapping[str, Any], origin: str) -> Settings:
        """The settings with other values.

        Args:
            new: values by name, of settings that there are.
            origin: where they come from.
        """
        configs = {
            kind: replace(config, **{name: new[name] for name in new if hasattr(config, name)})
            for kind, config in self.configs.items()
        }
        values, origins = {**self.values, **new}, {**self.origins, **dict.fromkeys(new, origin)}
        return replace(self, configs=configs, values=values, origins=origins)

    def as_yaml(self, heading: str) -> str:
        """All settings as a YAML file that `--config` reads back, the origin of each value behind it."""
        lines = [f"# {yaml_comment(heading)}"]
        for name, value in self.values.items():
            line = f"{name}: {yaml_value(value)}".rstrip().ljust(40)
            lines.append(f"{line}  # {yaml_comment(self.origins[name])}")
        return "\n".join(lines) + "\n"


class Request:
    """A command line taken apart, before all settings are known.

    Args:
        table: all settings that the command may have.
        argv: the command line without the program, None for the real one.
        elsewhere: names of other commands' settings, which may stand in settings files without effect here.

    Raises:
        UserError: an unknown flag or key (with the nearest name), or a value that does not fit.
        SystemExit: help was asked for, and printed.
    """

    def __init__(
        self, table: CommandTable, argv: Sequence[str] | None, elsewhere: frozenset[str] = frozenset()
    ) -> None:
        self.command = table
        words, wanted = without_help(sys.argv[1:] if argv is None else argv)
        self.method = self._method(words)
        every = table.with_all_heads(self.method)
        if wanted:
            sys.stdout.write(help_text(table, table.of_method(self.method), self.method, every=wanted == "all"))
            raise SystemExit(0)
        self.elsewhere = elsewhere | every.keys()
        self.line = read_command_line(table, every, words)
        self.head = self._resolved(every, None)[0].get("head", "")
        self.table = table.of(self.method, self.head)

    def first(self) -> dict[str, Any]:
        """Values by the code, the script, the settings file that was named and the command line alone."""
        return _merged(
            [
                *self._below(self.table),
                *(file.plain for file in self._named(self.table)),
                *self._above(self.table, None),
            ]
        )[0]

    def check(self) -> None:
        """Raise UserError where a value of any layer cannot be read."""
        self.resolved()

    def resolved(self, recorded: SettingsLayer | None = None) -> tuple[dict[str, Any], dict[str, str]]:
        """The value of every setting, and its origin.

        Args:
            recorded: what a checkpoint says, which only the command line overrides.
        """
        values, origins = self._resolved(self.table, recorded)
        choice = self.command.choice
        require(
            not choice or values[choice] == self.method,
            f"{choice}: {values.get(choice)} was set by {origins.get(choice)}; a method is chosen by --{choice}, or by "
            "a plain line of the settings file given",
        )
        self._check_other_heads()
        return values, origins

    def notes(self) -> list[str]:
        """What was asked for and has no effect, and which settings file is read instead of another, one line each."""
        heads = [f"note: {text}, so it has no effect" for _, text in self._other_heads()]
        return [*self.line.notes, *self._overruled(), *heads]

    def _method(self, argv: Sequence[str]) -> str:
        """The method: as the command line says, else the settings file named there, else the first."""
        command = self.command
        if not command.choice:
            return next(iter(command.methods), "")
        tables = [command.shared, *command.methods.values(), *command.heads.values()]
        text, file = peek(command, command.choice, tables, argv)
        setting = command.shared[command.choice]
        if text:
            return str(typed_value(setting, text, f"--{command.choice}"))
        for path in reversed([] if file is None else with_foundation(file, command.program)):
            if (named := read_yaml(path).get(command.choice)) is not None:
                return str(typed_values({command.choice: named}, command.shared, str(path))[command.choice])
        return str(setting.default)

    def _resolved(self, table: SettingTable, recorded: SettingsLayer | None) -> tuple[dict[str, Any], dict[str, str]]:
        """Values and origins of the settings in `table`, by all layers."""
        below, named, above = self._below(table), self._named(table), self._above(table, recorded)
        for file in named:
            _require_same_dataset(file.plain, above[-1], self.command.program)
        chosen = _merged([*below, *(file.plain for file in named), *above])[0]
        paths = _config_files(chosen, self.method)
        files = [read_settings_file(path, table, self._foreign(table)) for path in paths] + named
        plain = _merged([*below, *(file.plain for file in files), *above])[0]
        held = {**plain, **_implied(table, plain)}
        conditional = [layer for file in files for layer in (file.plain, *file.conditional(held))]
        return _merged([*below, *conditional, *above])

    def _below(self, table: SettingTable) -> list[SettingsLayer]:
        """The defaults of the code and of the script."""
        code = {name: setting.default for name, setting in table.items()}
        script = {name: value for name, value in self.command.defaults.items() if name in table}
        return [SettingsLayer("default", code), SettingsLayer(self.command.program, script)]

    def _named(self, table: SettingTable) -> list[SettingsFile]:
        """The settings file that the command line names, if any, and first the one that it adds to."""
        path = self.line.config
        paths = [] if path is None else with_foundation(path, self.command.program)
        return [read_settings_file(path, table, self._foreign(table)) for path in paths]

    def _above(self, table: SettingTable, recorded: SettingsLayer | None) -> list[SettingsLayer]:
        """The layers above all files."""
        ruled = {name for file in self._named(table) for name in file.rules}
        values = {name: value for name, value in self.line.values(table).items() if name not in ruled}
        given = SettingsLayer("command line", values)
        return [given] if recorded is None else [recorded, given]

    def _overruled(self) -> list[str]:
        """A line for each flag that the settings file overrules with another value."""
        given = self.line.values(self.table)
        return [
            f"note: --{name} {as_words(given[name])}: {file.plain.origin} says {name} "
            f"{as_words(file.plain.values[name])} and rules, as in the published code; for another one leave the "
            "settings file out"
            for file in self._named(self.table)
            for name in file.rules
            if name in given and given[name] != file.plain.values[name]
        ]

    def _foreign(self, table: SettingTable) -> frozenset[str]:
        """Names that may stand in settings files although `table` has no such setting."""
        return self.elsewhere - table.keys()

    def _check_other_heads(self) -> None:
        """Raise UserError where leaving out a flag of another head would be another experiment."""
        for setting, text in self._other_heads():
            head = next(head for head, settings in self.command.heads.items() if setting.name in settings)
            require(not setting.strict, f"{text}; leave the flag out, or give --head {head}")

    def _other_heads(self) -> list[tuple[Setting, str]]:
        """The flags that are of another head, and a sentence about each."""
        every, found = self.command.with_all_heads(self.method), []
        for name in (name for name in self.line.texts if name in every.keys() - self.table.keys()):
            heads = [head for head, settings in self.command.heads.items() if name in settings]
            found.append((every[name], f"--{name}: is of --head {' and '.join(heads)}, but the head is {self.head}"))
        return found


def parse_settings(
    command: Command,
    argv: Sequence[str] | None,
    *,
    elsewhere: frozenset[str] = frozenset(),
    request: Request | None = None,
    recorded: SettingsLayer | None = None,
    completed: Callable[[Settings], Settings] | None = None,
) -> Settings:
    """Read flags and files into the config dataclasses of a command.

    Args:
        command: the command.
        argv: the command line without the program, None for the real one.
        elsewhere: names of other commands' settings, which may stand in settings files without effect here.
        request: the command line where it has been read already.
        recorded: what a checkpoint says, which only the command line overrides.
        completed: sets what follows from files that the settings name.

    Raises:
        UserError: an unknown flag or key (with the nearest name), or a value that does not fit.
        SystemExit: help or the settings were asked for, and printed.
    """
    request = request or Request(command.table(), argv, elsewhere)
    settings = _built(command, request, *request.resolved(recorded))
    if completed is not None:
        settings = completed(settings)
    for text in request.notes() if is_first_process() else ():
        warn(text)
    if request.line.only_print:
        sys.stdout.write(settings.as_yaml(f"resolved settings of {command.program}"))
        raise SystemExit(0)
    return settings


def _built(command: Command, request: Request, values: dict[str, Any], origins: dict[str, str]) -> Settings:
    """Construct each config; what one fills in itself (options of a variant) is read back with that origin."""

    def built(config: type) -> Any:
        """A config with its values."""
        names = settings_of(config, "")
        made = config(**{name: values[name] for name in names})
        for name in names:
            final = getattr(made, name)
            if final != values[name]:
                origins[name] = f"variant {values['variant']}" if "variant" in names else "derived"
                values[name] = final
        return made

    configs = {config: built(config) for group in command.groups.values() for config in group}
    method, head = command.methods.get(request.method), command.heads.get(request.head)
    method_config = built(method) if method else None
    head_config = built(head) if head else None
    order = request.table.keys()
    return Settings(
        configs,
        MappingProxyType({name: values[name] for name in order}),
        MappingProxyType({name: origins[name] for name in order}),
        request.table,
        request.method,
        method_config,
        head_config,
        request.line.words,
    )


def _require_same_dataset(file: SettingsLayer, given: SettingsLayer, program: str) -> None:
    """Raise UserError where a settings file that names its dataset is used on another: it says nothing true of it."""
    wanted, asked = (layer.values.get("dataset") for layer in (file, given))
    require(
        None in (wanted, asked) or wanted == asked,
        f"{program}: {file.origin} is for dataset {wanted}, but --dataset says {asked}; leave --dataset out, or give "
        f"the settings file of {asked}",
    )


def _config_files(chosen: Mapping[str, Any], method: str) -> list[Path]:
    """The files that come with the code for the dataset, method and weights that were chosen."""
    dataset, weights = chosen.get("dataset"), str(chosen.get("weights"))
    names = [f"datasets/{dataset}", *([f"{method}/every", f"{method}/{dataset}"] if method else [])]
    if Path(weights).name == weights:  # no path to a file
        names.append(f"weights/{weights}")
    return [path for name in names if (path := setting_table.CONFIGS / f"{name}.yaml").exists()]


def _implied(table: SettingTable, values: Mapping[str, Any]) -> dict[str, Any]:
    """What settings that are set imply of others that are not, for conditions of settings files."""
    found: dict[str, Any] = {}
    for setting in table.values():
        for name, text in setting.implies.items() if values[setting.name] else ():
            if name in table and values[name] == table[name].default:
                found.setdefault(name, table[name].convert(text))
    return found


def _merged(layers: Sequence[SettingsLayer]) -> tuple[dict[str, Any], dict[str, str]]:
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for layer in layers:
        values.update(layer.values)
        origins.update(dict.fromkeys(layer.values, layer.origin))
    return values, origins
