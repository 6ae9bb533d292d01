"""The figures of a finished run that are kept of it, by names that plans use.

`mAP`, `CF1` and the others are of the test set at the selected epoch; words before a name say otherwise: `validation`,
`last` (the last epoch), `best on test`, `ensemble` and `g` (of two networks), a group of classes (`tail mAP`). `ECE`,
`CF1_tuned` and the others of `engine.core.run_results.CALIBRATION` are of the same epoch. `epoch` is the selected one,
`modified_true` and the other columns of `--record modification` are of the last epoch, or of the one a plan has chosen.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.core.identity import Identity
from engine.core.run_results import BESIDE, CALIBRATION, HEADLINE, read_history, read_result
from engine.reproduction.lines import FinishedLine
from utils.checks import is_number

RECORDED = ("modified_true", "modified_ever_true", "unknown_true", "found", "found_ever")
_HASH = 16
"""Digits of a hash that are kept."""
_TAILS = ("head", "middle", "tail")
PER_EPOCH = (
    {name: f"test_{name}" for name in (*HEADLINE, *CALIBRATION)}
    | {f"{group} mAP": f"test_{group}_mAP" for group in _TAILS}
    | {name: name for name in RECORDED}
)
"""Figures of which every epoch is kept, and their columns of the log."""


EVERY = ("validation_mAP", *PER_EPOCH.values())
"""Columns of the log that are kept of a run that a table reports."""
CHOSEN_BY = ("validation_mAP", "test_mAP")
"""Those that are kept of a run by which a setting is chosen."""


def line_of(
    folder: Path,
    identity: Identity,
    seconds: float | None,
    about: Mapping[str, str],
    columns: Sequence[str] = EVERY,
) -> FinishedLine:
    """What is kept of the finished run in a folder.

    Args:
        folder: the run folder.
        identity: the settings of the run.
        seconds: how long its last session took; None where only its log says.
        about: further words for readers.
        columns: of the log, if the run has them.

    Raises:
        UserError: the run is not finished, or a file is damaged.
    """
    result, history = read_result(folder), read_history(folder)
    logged, sessions = _logged(folder)
    taken = None if sessions > 1 else seconds if seconds is not None else logged
    words = {"date": time.strftime("%Y-%m-%d"), "machine": platform.machine(), "versions": result.get("versions", {})}
    return FinishedLine(
        method=str(result.get("method")),
        seed=int(identity["seed"]),
        settings=identity,
        figures=figures_of(result, history[-1] if history else {}),
        epochs=_by_epoch(history, columns),
        label_hash=str(result.get("label_hash", ""))[:_HASH],
        data={name: str(found)[:_HASH] for name, found in (result.get("data") or {}).items()},
        seconds=None if taken is None else round(taken, 1),
        about={**about, **words, "device": _device(folder)},
    )


def figures_of(result: Mapping[str, Any], last: Mapping[str, float]) -> dict[str, float]:
    """Figures by name (fractions; `epoch` a number).

    Args:
        result: content of `result.json`.
        last: the last row of the log.
    """
    found: dict[str, Any] = {name: value for name, value in result["test"].items() if "@" not in name}
    for words, part in (("last", "last"), ("validation", "validation"), ("best on test", "best_on_test")):
        found |= {f"{words} {name}": (result.get(part) or {}).get(name) for name in HEADLINE}
    extra = result.get("extra") or {}
    for network in BESIDE:
        found |= {f"{network} {name}": value for name, value in extra.get(network, {}).items() if name in HEADLINE}
    found["full rows mAP"] = ((result.get("full_rows") or {}).get("test") or {}).get("mAP")
    found |= result.get("calibration") or {}
    found |= {f"{group} mAP": value for group, value in extra.items() if is_number(value)}
    found |= {
        "epoch": result.get("selected_epoch"),
        "best on test epoch": (result.get("best_on_test") or {}).get("epoch"),
    }
    found |= {name: last.get(name) for name in RECORDED}
    return {name: round(float(value), 6) for name, value in found.items() if is_number(value) and value == value}


def at_epoch(line: FinishedLine, epoch: int) -> dict[str, float]:
    """The figures of one epoch that are kept of each; without those of the test set where it was not scored then."""
    found = {}
    for name, column in PER_EPOCH.items():
        values = line.epochs.get(column, [])
        value = values[epoch - 1] if 0 < epoch <= len(values) else None
        if is_number(value):
            found[name] = float(value)  # type: ignore[arg-type]
    return found


def _by_epoch(history: Sequence[Mapping[str, float]], columns: Sequence[str]) -> dict[str, list[float | None]]:
    """Columns of the log, if the run has them."""
    found = {name: [_rounded(row.get(name)) for row in history] for name in columns}
    return {name: values for name, values in found.items() if any(value is not None for value in values)}


def _rounded(value: float | None) -> float | None:
    return None if value is None or value != value else round(value, 4)


def _events(folder: Path) -> list[dict[str, Any]]:
    """The events of the log of a run; lines that cannot be read are left out."""
    found = []
    try:
        text = (folder / "log.jsonl").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    for line in text.splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict):
            found.append(event)
    return found


def _logged(folder: Path) -> tuple[float | None, int]:
    """Seconds from the first to the last event of a log, None where it does not say, and how often the run started."""
    events = _events(folder)
    sessions = [event.get("event") for event in events].count("start")
    try:
        first, last = (time.mktime(time.strptime(events[n]["time"], "%Y-%m-%dT%H:%M:%S")) for n in (0, -1))
    except (IndexError, KeyError, ValueError, TypeError):
        return None, sessions
    return last - first, sessions


def _device(folder: Path) -> str:
    """The device that the log names last, with the precision; empty where it names none."""
    started = [event for event in _events(folder) if event.get("event") == "start"]
    return f"{started[-1].get('device', '')} {started[-1].get('precision', '')}".strip() if started else ""
