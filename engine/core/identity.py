"""The settings that decide the result of a run, as plain texts: equal ones are the same run wherever it was made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from engine.core.run_folder import FREE_ON_RESUME
from engine.core.setting_table import SettingTable
from utils.options import as_text, is_paths

Identity = Mapping[str, str]
"""Texts of settings by name."""

_LEFT_OUT = FREE_ON_RESUME - {"label_file", "features", "prior_scores", "hierarchy"}


def identity_of(values: Mapping[str, Any]) -> dict[str, str]:
    """Texts of the settings that decide the result of a run; of a path only the last part, for folders move.

    Args:
        values: typed values of all its settings.
    """
    return {name: _text(name, value) for name, value in values.items() if name not in _LEFT_OUT}


def default_identity(table: SettingTable) -> dict[str, str]:
    """The same of the code's defaults."""
    return identity_of({name: setting.default for name, setting in table.items()})


def same_run(identity: Identity, other: Identity, defaults: Identity) -> bool:
    """True if two runs are the same.

    Args:
        identity: all settings of a run of now.
        other: those of a run of any version, which lacks settings that came later.
        defaults: what stands for those.
    """
    return all(other.get(name, defaults.get(name)) == text for name, text in identity.items())


def differing(identities: Iterable[Identity]) -> dict[str, tuple[str, ...]]:
    """Settings in which runs differ, each with its texts in the order met; one that a run does not have is ''."""
    every = list(identities)
    names = dict.fromkeys(name for each in every for name in each)
    texts = {name: tuple(dict.fromkeys(each.get(name, "") for each in every)) for name in names}
    return {name: found for name, found in texts.items() if len(found) > 1}


def _text(name: str, value: Any) -> str:
    """A value as text, paths by their names."""
    if isinstance(value, Path) or (name == "weights" and value):
        return Path(str(value)).name
    if is_paths(value):
        return ",".join(path.name for path in value)
    return as_text(value)
