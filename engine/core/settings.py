"""Settings: the config dataclasses of a command, filled from layers, each value with its origin.

Precedence: code default < the script's defaults < `configs/datasets/<dataset>.yaml` < `configs/<method>/every.yaml` <
`configs/<method>/<dataset>.yaml` < `--config FILE` < command line. A YAML file may end with `when:` blocks that hold
under a condition:

    when:
      - {labels: candidate, partial_rate: 0.4, set: {beta: 0.3}}
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, get_type_hints

import yaml

from utils.checks import UserError, require
from utils.options import Shorthand, converter

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


class Setting(NamedTuple):
    """One setting of one config dataclass."""

    name: str
    section: str
    convert: Callable[[str], Any]
    choices: tuple[str, ...]
    default: Any
    help: str
    aliases: tuple[str, ...]
    is_bool: bool
    shorthands: Mapping[str, Shorthand]


class SettingsLayer(NamedTuple):
    """Values that come from one place."""

    origin: str
    values: dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """The config objects of a command by section name, the value of every setting, and where each came from."""

    sections: dict[str, Any]
    values: dict[str, Any]
    origins: dict[str, str]

    def as_yaml(self, heading: str) -> str:
        """All settings as a YAML file that `--config` reads back, the origin of each value behind it."""
        lines = [f"# {heading}"]
        for name, value in self.values.items():
            text = "" if value is None else str(value)
            lines.append(f"{name}: {text}".rstrip().ljust(40) + f"  # {self.origins[name]}")
        return "\n".join(lines) + "\n"


def parse_settings(
    sections: Mapping[str, type],
    argv: Sequence[str] | None,
    *,
    program: str,
    defaults: Mapping[str, Any],
    method: str | None = None,
    elsewhere: Sequence[type] = (),
    recorded: Callable[[Mapping[str, Any], Mapping[str, Setting]], SettingsLayer] | None = None,
) -> Settings:
    """Read flags and files into the dataclasses of `sections`.

    Args:
        sections: section name -> frozen config dataclass; the flags are their fields.
        argv: the command line without the program, None for the real one.
        program: name of the script, for messages and help.
        defaults: what this script sets differently from the code's defaults.
        method: folder under `configs/` whose `<dataset>.yaml` applies.
        elsewhere: config dataclasses of other commands, whose keys may stand in settings files without effect here.
        recorded: from the values so far to a layer that only the command line overrides (what a checkpoint says).

    Raises:
        UserError: an unknown flag or key (with the nearest name), or a value that does not fit.
    """
    table = setting_table(sections)
    foreign = frozenset(name for other in elsewhere for name in setting_table({"": other})) - table.keys()
    typed, config, only_print = _read_command_line(table, argv, program, defaults)
    given = SettingsLayer("command line", typed)
    script = SettingsLayer(program, dict(defaults))
    chosen = [read_yaml(config, table, foreign)] if config else []
    for file in chosen:
        _require_same_dataset(file.plain, given, program)
    code = SettingsLayer("default", {name: setting.default for name, setting in table.items()})
    first = _merge([code, script, *(file.plain for file in chosen), given])[0]
    above = [recorded(first, table), given] if recorded else [given]
    dataset = _merge([code, script, *(file.plain for file in chosen), *above])[0].get("dataset")
    files = [read_yaml(path, table, foreign) for path in _config_files(dataset, method)] + chosen
    plain = _merge([code, script, *(file.plain for file in files), *above])[0]
    conditional = [layer for file in files for layer in (file.plain, *file.conditional(plain))]
    values, origins = _merge([code, script, *conditional, *above])
    settings = _build(sections, table, values, origins)
    if only_print:
        sys.stdout.write(settings.as_yaml(f"resolved settings of {program}"))
        raise SystemExit(0)
    return settings


def peek(name: str, config: type, beside: Sequence[type], argv: Sequence[str] | None, *, program: str) -> Any:
    """The value of one setting, read before it is known which other settings there are.

    Args:
        name: a setting of `config`.
        config: the config dataclass it belongs to.
        beside: config dataclasses of all settings that may stand on the command line with it.
        argv: the command line without the program, None for the real one.
        program: name of the script, for messages.

    Returns:
        What the command line says, else the settings file named there, else the default.

    Raises:
        UserError: the value does not fit, or the file cannot be read. What else is wrong is left to `parse_settings`.
    """
    table = {key: setting for each in (*beside, config) for key, setting in setting_table({"": each}).items()}
    # Two methods may each give a flag a meaning of their own; here all that counts is that it takes a value.
    parser = _make_parser(table, program, {}, add_help=False, conflict_handler="resolve")
    spaces, unknown = parser.parse_known_args(argv)
    given = vars(spaces)
    if name in given:
        return _convert(table[name], given[name], f"--{name}")
    file = _settings_file(given, program)
    if file is None or set(unknown) - {"-h", "--help"}:  # the value of an unknown flag would look like a file
        return table[name].default
    text = _content(file).get(name)
    return table[name].default if text is None else typed_values({name: text}, table, str(file))[name]


def setting_table(sections: Mapping[str, type]) -> dict[str, Setting]:
    """Every setting of the given config dataclasses by name. A name may belong to one section only."""
    table: dict[str, Setting] = {}
    for section, config in sections.items():
        hints, own = get_type_hints(config), config.__annotations__
        for item in sorted(fields(config), key=lambda item: item.name not in own):  # inherited ones come last
            convert, choices = converter(hints[item.name])
            default = None if item.default is MISSING else item.default
            if item.name in table:
                raise ValueError(f"setting {item.name} is declared in {table[item.name].section} and in {section}")
            meta = item.metadata
            is_bool = hints[item.name] is bool
            table[item.name] = Setting(
                item.name,
                section,
                _spelled_out(convert, meta["synonyms"]),
                choices,
                default,
                meta["help"],
                meta["aliases"],
                is_bool,
                meta["shorthands"],
            )
    return table


class YamlFile(NamedTuple):
    """A settings file: its plain values, and the `when:` blocks as (conditions, values)."""

    plain: SettingsLayer
    blocks: list[tuple[dict[str, Any], dict[str, Any]]]

    def conditional(self, values: Mapping[str, Any]) -> list[SettingsLayer]:
        """The blocks whose conditions hold for `values`, as layers above the plain one."""
        return [
            SettingsLayer(f"{self.plain.origin} when {', '.join(f'{k}={v}' for k, v in when.items())}", change)
            for when, change in self.blocks
            if all(values[name] == wanted for name, wanted in when.items())
        ]


def read_yaml(path: Path, table: Mapping[str, Setting], foreign: frozenset[str] = frozenset()) -> YamlFile:
    """Read a settings file; every value passes through the type of its flag. Raises: UserError with file and key.

    Keys in `foreign` belong to other commands and are passed over, as are `when:` blocks with such a condition.
    """
    content = _content(path)
    blocks = content.pop("when", [])
    require(isinstance(blocks, list), f"{path}: `when:` must be a list of blocks")
    origin = str(path.relative_to(CONFIGS.parent)) if path.is_relative_to(CONFIGS.parent) else str(path)
    plain = SettingsLayer(origin, typed_values(_without(content, foreign), table, origin))
    conditional = []
    for block in blocks:
        require(isinstance(block, dict) and isinstance(block.get("set"), dict), f"{path}: a when block needs `set:`")
        conditions = {key: value for key, value in block.items() if key != "set"}
        if not conditions.keys() & foreign:
            change = typed_values(_without(block["set"], foreign), table, origin)
            conditional.append((typed_values(conditions, table, origin), change))
    return YamlFile(plain, conditional)


def _content(path: Path) -> dict[str, Any]:
    """What a settings file says, every value still the text that was written. Raises: UserError naming the file."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_TextLoader)
    except FileNotFoundError:
        raise UserError(f"{path}: no such settings file") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: not a readable YAML file ({' '.join(str(error).split())})") from None
    content = content or {}
    require(isinstance(content, dict), f"{path}: must be a list of `name: value` lines")
    return dict(content)


def typed_values(content: Mapping[str, Any], table: Mapping[str, Setting], origin: str) -> dict[str, Any]:
    """Texts by setting name (or alias) as typed values by setting name. Raises: UserError naming `origin` and key."""
    short = _shorthands(table)
    spelled = {alias: name for name, setting in table.items() for alias in (name, *setting.aliases)}
    result = {}
    for key, text in content.items():
        known = key in spelled or key in short
        require(known, f"{origin}: unknown setting {key!r}{_nearest(key, [*spelled, *short])}")
        require(isinstance(text, str), f"{origin}: {key} must be a single value")
        if key in short:
            continue
        name = spelled[key]
        require(name not in result, f"{origin}: {key} and another spelling of it are both given")
        result[name] = _convert(table[name], text, f"{origin}: {key}")
    return _expanded(result, {key: content[key] for key in short if key in content}, table, f"{origin}: ")


class _TextLoader(yaml.BaseLoader):
    """YAML whose scalars stay the text that was written; a key given twice is an error.

    So `1e-5`, `no` and `010` mean what the flag makes of them, not what YAML 1.1 does.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """As the base class, refusing repeated keys."""
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        repeated = {str(key) for key in keys if keys.count(key) > 1}
        if repeated:
            raise yaml.YAMLError(f"key given twice: {', '.join(sorted(repeated))}")
        return super().construct_mapping(node, deep=deep)


class OneLineParser(argparse.ArgumentParser):
    """An argument parser whose complaints are one line and an exception, not usage text and an exit."""

    def error(self, message: str) -> NoReturn:
        """Raise UserError with the program's name and `message`."""
        raise UserError(f"{self.prog}: {message}")


def _read_command_line(
    table: Mapping[str, Setting], argv: Sequence[str] | None, program: str, defaults: Mapping[str, Any]
) -> tuple[dict[str, Any], Path | None, bool]:
    """Typed values of the flags that were given, the settings file, and whether only to print."""
    parser = _make_parser(table, program, defaults)
    spaces, unknown = parser.parse_known_args(argv)
    for word in unknown:
        flag = word.split("=")[0]
        if flag.startswith("-"):
            raise UserError(f"{program}: unknown flag {flag}{_nearest(flag, list(parser._option_string_actions))}")
        raise UserError(f"{program}: {word!r} is not a flag; --help lists them")
    given = vars(spaces)
    config = _settings_file(given, program)
    only_print = given.pop("print_config", False)
    short = {name: given.pop(name) for name in _shorthands(table) if name in given}
    typed = {name: _convert(table[name], text, f"--{name}") for name, text in given.items()}
    return _expanded(typed, short, table, "--"), config, only_print


def _require_same_dataset(file: SettingsLayer, given: SettingsLayer, program: str) -> None:
    """A settings file made for one dataset says nothing true of another."""
    wanted, asked = (layer.values.get("dataset") for layer in (file, given))
    require(
        None in (wanted, asked) or wanted == asked,
        f"{program}: {file.origin} is for dataset {wanted}, but --dataset says {asked}; leave --dataset out, or give "
        f"the settings file of {asked}",
    )


def _shorthands(table: Mapping[str, Setting]) -> dict[str, Shorthand]:
    """Every shorthand by its name."""
    return {name: short for setting in table.values() for name, short in setting.shorthands.items()}


def _expanded(
    values: dict[str, Any], given: Mapping[str, str], table: Mapping[str, Setting], prefix: str
) -> dict[str, Any]:
    """Typed values, and those that the shorthands `given` stand for.

    Raises: UserError when a shorthand and a value beside it, from the same place, say different things.
    """
    result = dict(values)
    for key, text in given.items():
        try:
            meant = _shorthands(table)[key].expand(text)
        except ValueError as error:
            raise UserError(f"{prefix}{key} {text!r}: {error}") from None
        for name, value in meant.items():
            typed = _convert(table[name], value, f"{prefix}{key}: {name}")
            held = result.setdefault(name, typed)
            require(held == typed, f"{prefix}{key} {text} means {name} {typed}, but {name} {held} is given too")
    return result


def _settings_file(given: dict[str, Any], program: str) -> Path | None:
    """The settings file among the words of a command line, which are taken out of `given`."""
    file, flag_file = given.pop("config_file", None), given.pop("config", None)
    require(not (file and flag_file), f"{program}: two settings files, {file} and --config {flag_file}; give one")
    config = file or flag_file
    path = Path(config) if config else None
    require(
        path is None or path.suffix != ".py",
        f"{program}: {path}: settings are YAML files here, and no .py is run for them; give "
        f"{path and path.with_suffix('.yaml')}",
    )
    return path


def _make_parser(table: Mapping[str, Setting], program: str, defaults: Mapping[str, Any], **how: Any) -> OneLineParser:
    parser = OneLineParser(prog=program, allow_abbrev=False, argument_default=argparse.SUPPRESS, **how)
    parser.add_argument("config_file", nargs="?", metavar="CONFIG", help="settings file, the same as --config")
    parser.add_argument("--config", metavar="FILE", help="YAML file with settings; the command line wins over it")
    parser.add_argument("--print_config", action="store_true", help="print the settings with their origins and stop")
    groups = {setting.section: parser.add_argument_group(setting.section) for setting in table.values()}
    for setting in table.values():
        names = [f"--{setting.name}", *(f"--{alias}" for alias in setting.aliases)]
        default = defaults.get(setting.name, setting.default)
        text = setting.help + ("" if default is None else f" (default {default})")
        extra: dict[str, Any] = {"nargs": "?", "const": "true"} if setting.is_bool else {}
        shown = "{" + ",".join(setting.choices) + "}" if setting.choices else setting.name.upper()
        group = groups[setting.section]
        group.add_argument(*names, dest=setting.name, metavar=shown, help=text.replace("%", "%%"), **extra)
        if setting.is_bool:
            group.add_argument(f"--no-{setting.name}", dest=setting.name, action="store_const", const="false", help="")
        for name, short in setting.shorthands.items():
            group.add_argument(f"--{name}", metavar=short.values, help=short.help.replace("%", "%%"))
    return parser


def _config_files(dataset: str | None, method: str | None) -> list[Path]:
    names = [f"datasets/{dataset}", *([f"{method}/every", f"{method}/{dataset}"] if method else [])]
    return [path for name in names if (path := CONFIGS / f"{name}.yaml").exists()]


def _merge(layers: Sequence[SettingsLayer]) -> tuple[dict[str, Any], dict[str, str]]:
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for layer in layers:
        values.update(layer.values)
        origins.update(dict.fromkeys(layer.values, layer.origin))
    return values, origins


def _build(
    sections: Mapping[str, type], table: Mapping[str, Setting], values: dict[str, Any], origins: dict[str, str]
) -> Settings:
    """Construct each section; what it fills in itself (members of a variant) is read back with that origin."""
    built = {}
    for section, config in sections.items():
        names = [name for name, setting in table.items() if setting.section == section]
        built[section] = config(**{name: values[name] for name in names})
        for name in names:
            final = getattr(built[section], name)
            if final != values[name]:
                values[name], origins[name] = (
                    final,
                    f"variant {values['variant']}" if "variant" in names else "derived",
                )
    return Settings(built, values, origins)


def _without(content: Mapping[str, Any], foreign: frozenset[str]) -> dict[str, Any]:
    return {key: value for key, value in content.items() if key not in foreign}


def _spelled_out(convert: Callable[[str], Any], synonyms: Mapping[str, str]) -> Callable[[str], Any]:
    """`convert`, after a synonym has become the value it stands for."""
    return lambda text: convert(synonyms.get(text, text))


def _convert(setting: Setting, text: str, where: str) -> Any:
    try:
        return setting.convert(text)
    except ValueError as error:
        raise UserError(f"{where} {text!r}: {error}") from None


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else "; --help lists what there is"
