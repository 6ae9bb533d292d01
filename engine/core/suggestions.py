"""The setting that was probably meant by a name that no setting has."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from engine.core.setting_table import SettingTable

_CLOSE = 0.8  # ratio of difflib from which on a name counts as a slip of the finger


def suggestion(name: str, table: SettingTable, others: Sequence[str] = ()) -> str:
    """The end of a message about an unknown name: `; did you mean lr?`, or that --help lists the settings.

    A name that is nearly another one is taken for it; else one that is described with its words, as `learning_rate` is
    by "learning rate of the backbone"; else the nearest.

    Args:
        name: what was given, with dashes in front where it was a flag; the suggestion then has them too.
        table: the settings there are.
        others: other names that may stand there.
    """
    dashes = "--" if name.startswith("-") else ""
    wanted = name.lstrip("-").replace("-", "_").lower()
    known = [spelling for setting in table.values() for spelling in (setting.name, *setting.aliases)]
    known += [short for setting in table.values() for short in setting.shorthands]
    known += [other.lstrip("-") for other in others]
    close = difflib.get_close_matches(wanted, known, cutoff=_CLOSE)
    found = close or described(wanted, table) or difflib.get_close_matches(wanted, known)
    return f"; did you mean {dashes}{found[0]}?" if found else "; --help lists what there is"


def described(name: str, table: SettingTable) -> list[str]:
    """The settings whose help holds all words of a name in their order, the earliest mention first."""
    phrase = name.replace("_", " ")
    found = [(setting.help.lower().find(phrase), setting.name) for setting in table.values()]
    return [name for position, name in sorted(found) if position >= 0] if " " in phrase else []
