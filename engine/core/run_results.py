"""What a finished run left: its `result.json` and its `metrics.csv`, read back and checked."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from utils.checks import UserError, is_number, require

HEADLINE = ("mAP", "CF1", "OF1")
CALIBRATION = ("ECE", "ECE_class", "CF1_tuned", "OF1_tuned", "CF1_per_class", "OF1_per_class")
"""What a run with dense truth has under `calibration`, the last four where it has a validation split."""
BESIDE = {"g": "network g", "ensemble": "ensemble of both"}
"""Results that a pair of networks has besides that of the first, and their names."""

_NAMED = 20
"""Classes that a line names."""
_ADVICE = "log.jsonl beside it has the same values"


def few(names: Sequence[str]) -> str:
    """Names for a line: of many, as OpenImages has, the first and how many there are besides."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more:,} more" if more > 0 else "")


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _are_metrics(value: Any) -> bool:
    """True for numbers by name, where None stands for one that is not known."""
    return isinstance(value, dict) and all(each is None or is_number(each) for each in value.values())


def _is_extra(value: Any) -> bool:
    """True for what stands beside the metrics: lists of classes, and metrics of networks and of groups of classes."""
    if not isinstance(value, dict):
        return False
    lists = (value.get(f"classes_without_{name}", []) for name in ("positives", "negatives"))
    groups = value.get("groups", {})
    networks = all(_are_metrics(value.get(name, {})) for name in BESIDE)
    return (
        all(map(_are_texts, lists))
        and isinstance(groups, dict)
        and all(map(_are_metrics, groups.values()))
        and networks
    )


_FORMS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("method", "dataset", "labels", "selection", "label_hash"), _is_text),
    **dict.fromkeys(("seed", "selected_epoch", "epochs", "epochs_trained"), lambda value: type(value) is int),
    **dict.fromkeys(("last", "validation"), lambda value: value is None or _are_metrics(value)),
    "rate": lambda value: value is None or is_number(value),
    "test": _are_metrics,
    "calibration": _are_metrics,
    "extra": _is_extra,
}
"""Parts of a result that are read again, and what they must be; of earlier versions some are not there."""


def read_result(path: Path) -> dict[str, Any]:
    """Read the `result.json` of a run folder. Raises: UserError when it is missing or damaged."""
    file = path / "result.json"
    try:
        result: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: not a finished run (no result.json)") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: not readable ({error})") from None
    if not isinstance(result, dict) or not isinstance(result.get("test"), dict):
        raise UserError(f"{file}: not the result of a training run (it has no metrics under `test`)")
    wrong = [name for name, fits in _FORMS.items() if name in result and not fits(result[name])]
    require(not wrong, f"{file}: damaged: {wrong and wrong[0]!r} is not what a run writes there")
    return result


def require_parts(result: Mapping[str, Any], path: Path, *names: str) -> None:
    """Raise UserError naming the first part that the result of the run in a folder lacks."""
    missing = [name for name in names if name not in result]
    require(not missing, f"{path / 'result.json'}: damaged: {missing and missing[0]!r} is missing")


def beside(result: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """For a pair of networks: metrics of `g` and of the `ensemble`; else empty."""
    extra = result.get("extra") or {}
    return {name: extra[name] for name in BESIDE if name in extra}


def read_history(path: Path) -> list[dict[str, float]]:
    """Read the rows of a run's `metrics.csv`, without empty cells.

    Raises:
        UserError: the file is missing or damaged; the message names the line.
    """
    file = path / "metrics.csv"
    try:
        text = file.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UserError(f"{file}, line {line}: not readable (no UTF-8 text); {_ADVICE}") from None
    except OSError as error:
        raise UserError(f"{file}: not readable ({error.strerror}); {_ADVICE}") from None
    rows = csv.DictReader(io.StringIO(text, newline=""))
    try:
        return [_numbers(row) for row in rows]
    except (ValueError, csv.Error) as error:
        raise UserError(f"{file}, line {rows.reader.line_num}: not readable ({error}); {_ADVICE}") from None


def _numbers(row: Mapping[str | None, Any]) -> dict[str, float]:
    """Cells of a row as numbers by column. Raises: ValueError when the row does not fit the table."""
    numbers = {}
    for name, text in row.items():
        if name is None or text is None:  # marks of the csv module for too many and too few cells
            raise ValueError("not as many cells as in the first line")
        if text:
            numbers[name] = _number(text)
    return numbers


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{text[:40]!r} is not a number") from None
