"""Settings files: YAML whose values mean what the flag of the same name makes of them.

A file may end with `when:` blocks that hold under a condition:

    when:
      - {labels: candidate, partial_rate: 0.4, set: {beta: 0.3}}

A file that stands for a published one may say `rules: [lr]`, settings in which it overrules the command line as the
published code does, and `scripts: {main_x.py: other.yaml}`, the file that it adds to under that script.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from yaml.reader import Reader

from engine.core import setting_table
from engine.core.setting_table import Setting, SettingTable
from engine.core.suggestions import suggestion
from utils.checks import UserError, require
from utils.console import printable
from utils.options import BETWEEN_PATHS, Shorthand, as_text, is_paths

_DEEPEST = 20
"""Lists and mappings within each other that a settings file may have; those there are need five."""


class SettingsLayer(NamedTuple):
    """Values that come from one place."""

    origin: str
    values: dict[str, Any]


class SettingsFile(NamedTuple):
    """A settings file: its plain values, and the `when:` blocks as (conditions, values)."""

    plain: SettingsLayer
    blocks: list[tuple[dict[str, Any], dict[str, Any]]]
    rules: tuple[str, ...] = ()
    """Settings in which its values hold whatever the command line says."""

    def conditional(self, values: Mapping[str, Any]) -> list[SettingsLayer]:
        """The blocks whose conditions hold for `values`, as layers above the plain one."""
        return [
            SettingsLayer(f"{self.plain.origin} when {', '.join(f'{k}={v}' for k, v in when.items())}", change)
            for when, change in self.blocks
            if all(values[name] == wanted for name, wanted in when.items())
        ]


def read_settings_file(path: Path, table: SettingTable, foreign: frozenset[str] = frozenset()) -> SettingsFile:
    """Read a settings file; every value passes through the type of its flag. Raises: UserError with file and key.

    Keys in `foreign` belong to other commands or heads and are passed over, as are `when:` blocks with such a
    condition.
    """
    content = read_yaml(path)
    content.pop("scripts", None)
    blocks, rules = content.pop("when", []), content.pop("rules", [])
    require(isinstance(blocks, list), f"{path}: `when:` must be a list of blocks")
    known = isinstance(rules, list) and all(isinstance(name, str) and name in content for name in rules)
    require(known, f"{path}: `rules:` must be a list of settings that the file sets")
    root = setting_table.CONFIGS.parent
    origin = str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
    plain = SettingsLayer(origin, typed_values(_without(content, foreign), table, origin))
    conditional = []
    for block in blocks:
        require(isinstance(block, dict) and isinstance(block.get("set"), dict), f"{path}: a when block needs `set:`")
        conditions = {key: value for key, value in block.items() if key != "set"}
        if not conditions.keys() & foreign:
            change = typed_values(_without(block["set"], foreign), table, origin)
            conditional.append((typed_values(conditions, table, origin), change))
    return SettingsFile(plain, conditional, tuple(name for name in rules if name in plain.values))


def with_foundation(path: Path, program: str) -> list[Path]:
    """A settings file, behind the one that it adds to under a script. Raises: UserError when it cannot be read."""
    below = read_yaml(path).get("scripts", {})
    named = isinstance(below, dict) and all(isinstance(file, str) for file in below.values())
    require(named, f"{path}: `scripts:` must name a settings file for each script")
    return [path.parent / below[program], path] if program in below else [path]


def read_run_settings(path: Path, table: SettingTable, foreign: frozenset[str]) -> dict[str, Any]:
    """The value of every setting of `table` in a run's own `settings.yaml`, which may be of an earlier version.

    A setting that the file lacks, or leaves empty although it cannot be unset any more, has its default.
    """
    content = _without(read_yaml(path), foreign)
    kept = {key: text for key, text in content.items() if text or key not in table or table[key].kind.endswith("?")}
    return {name: setting.default for name, setting in table.items()} | typed_values(kept, table, str(path))


def read_yaml(path: Path) -> dict[str, Any]:
    """The content of a settings file, every value still the text that was written. Raises: UserError with the file."""
    try:
        content = copy.deepcopy(_content(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise UserError(f"{path}: no such settings file") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: not a readable YAML file ({' '.join(str(error).split())})") from None
    content = content or {}
    require(isinstance(content, dict), f"{path}: must be a list of `name: value` lines")
    return dict(content)


@lru_cache(maxsize=64)
def _content(text: str) -> Any:
    """What a YAML text says; kept, since a plan reads the same few files once for each of its thousands of runs."""
    return yaml.load(text, Loader=_TextLoader)


def yaml_text(text: str) -> str:
    """A value as it stands in a YAML file, in quotes where it would be read back as something else."""
    try:
        plain = yaml.load(f"x: {text}  # origin", Loader=_TextLoader) == {"x": text}
    except yaml.YAMLError:
        plain = False
    quoted = yaml.safe_dump(text, default_style='"', width=math.inf, allow_unicode=True)
    return text if plain else quoted.removesuffix("\n")


def yaml_comment(text: str) -> str:
    """A text as it may stand in a comment of a YAML file, on one line."""
    line = printable(text).replace("\n", "\\n")
    return Reader.NON_PRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), line)


def yaml_value(value: Any) -> str:
    """A value of a setting as it stands in a YAML file; several paths are a list there."""
    if is_paths(value) and len(value) > 1:
        paths = yaml.safe_dump(list(map(str, value)), default_flow_style=True, width=math.inf, allow_unicode=True)
        return paths.removesuffix("\n")
    return yaml_text(as_text(value))


def typed_values(content: Mapping[str, Any], table: SettingTable, origin: str) -> dict[str, Any]:
    """Texts by setting name (or alias) as typed values by setting name. Raises: UserError naming `origin` and key."""
    if not content:
        return {}
    short = shorthands(table)
    names = {alias: name for name, setting in table.items() for alias in (name, *setting.aliases)}
    result = {}
    for key, value in content.items():
        if key not in names and key not in short:  # a suggestion takes far longer than all the rest
            raise UserError(f"{origin}: unknown setting {key!r}{suggestion(str(key), table)}")
        if key in short:
            require(isinstance(value, str), f"{origin}: {key} must be a single value")
            continue
        name = names[key]
        text = _single_text(value, table[name], f"{origin}: {key}")
        require(name not in result, f"{origin}: {key} and another spelling of it are both given")
        result[name] = typed_value(table[name], text, f"{origin}: {key}")
    return expanded(result, {key: content[key] for key in short if key in content}, table, f"{origin}: ")


def typed_value(setting: Setting, text: str, where: str) -> Any:
    """The value that a text stands for. Raises: UserError that begins with `where`."""
    try:
        return setting.convert(text)
    except ValueError as error:
        raise UserError(f"{where} {text!r}: {error}") from None


def shorthands(table: SettingTable) -> dict[str, Shorthand]:
    """Every shorthand by its name."""
    return {name: short for setting in table.values() for name, short in setting.shorthands.items()}


def expanded(values: dict[str, Any], given: Mapping[str, str], table: SettingTable, prefix: str) -> dict[str, Any]:
    """Typed values, and those that the shorthands `given` stand for.

    Raises: UserError when a shorthand and a value beside it, from the same place, say different things.
    """
    result = dict(values)
    for key, text in given.items():
        try:
            meant = shorthands(table)[key].expand(text)
        except ValueError as error:
            raise UserError(f"{prefix}{key} {text!r}: {error}") from None
        for name, value in meant.items():
            typed = typed_value(table[name], value, f"{prefix}{key}: {name}")
            present = result.setdefault(name, typed)
            require(present == typed, f"{prefix}{key} {text} means {name} {typed}, but {name} {present} is given too")
    return result


def _single_text(value: Any, setting: Setting, where: str) -> str:
    """The text of a value; a YAML list stands for a list of numbers, texts or paths."""
    if isinstance(value, list) and "..." in setting.kind and all(isinstance(item, str) for item in value):
        return (BETWEEN_PATHS if setting.takes_words else ",").join(value)
    require(isinstance(value, str), f"{where} must be a single value")
    return str(value)


def _without(content: Mapping[str, Any], foreign: frozenset[str]) -> dict[str, Any]:
    return {key: value for key, value in content.items() if key not in foreign}


class _TextLoader(yaml.BaseLoader):
    """YAML whose scalars stay the text that was written; a key given twice is an error.

    So `1e-5`, `no` and `010` mean what the flag makes of them, not what YAML 1.1 does.
    """

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """As the base class, which takes time and stack without end for lists within lists."""
        self.depth += 1
        if self.depth > _DEEPEST:
            raise yaml.YAMLError(f"nested more than {_DEEPEST} deep")
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """As the base class, refusing repeated keys."""
        texts = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        repeated = [key for key, count in texts.items() if count > 1]
        if repeated:
            raise yaml.YAMLError(f"key given twice: {', '.join(sorted(repeated))}")
        return super().construct_mapping(node, deep=deep)
