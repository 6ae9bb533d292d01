"""Plans read from their YAML files and checked; a mistake is one line with file and row."""

from __future__ import annotations

import math
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.core.settings_files import read_yaml
from engine.reproduction.plan import TUNED_EPOCHS, Plan, PlanRegime, PlanRow, Tuning, cells
from utils.checks import UserError, require
from utils.nearest import nearest


def read_plan(path: Path, scripts: Sequence[str]) -> Plan:
    """Read and check a plan.

    Args:
        path: the file.
        scripts: names of the training scripts.

    Raises:
        UserError: naming the file, the row or regime, and what is wrong there.
    """
    content = read_yaml(path)
    return _plan(content, path, scripts) if "like" not in content else _plan_like(content, path, scripts)


def _plan(content: Mapping[str, Any], path: Path, scripts: Sequence[str]) -> Plan:
    """A plan with rows of its own."""
    file = _Part(content, str(path), "title about figures flags seeds regimes rows tuning needs tolerance source")
    regimes = _regimes(file, path)
    listed = content.get("rows")
    if not isinstance(listed, list) or not listed:
        raise UserError(f"{path}: `rows:` must be a list of at least one row")
    common: dict[str, Any] = {key: content[key] for key in ("tolerance", "source") if key in content}
    rows = tuple(_row(value, number, path, regimes, scripts, common) for number, value in enumerate(listed, 1))
    _check_names(rows, path)
    plan = Plan(
        path=path,
        title=file.text("title") or path.stem,
        about=file.text("about"),
        figures=file.texts("figures") or ("mAP", "CF1", "OF1"),
        flags=file.words("flags"),
        regimes=regimes,
        rows=rows,
        tuning=_tuning(file.mapping("tuning"), path),
        needs=file.text("needs"),
    )
    _check_cells(plan)
    return plan


def _plan_like(content: Mapping[str, Any], path: Path, scripts: Sequence[str]) -> Plan:
    """A plan with the rows of another one."""
    file = _Part(content, str(path), "title about figures flags seeds regimes needs like without")
    other, regimes = path.parent / file.text("like"), _regimes(file, path)
    rest = read_yaml(other)
    require("like" not in rest, f"{path}: like: {other} is like another plan itself; name that one")
    like = _plan(rest, other, scripts)
    _check_known(tuple(regimes), like.regimes, f"{path}: like: {other}: no regime")
    left_out = _left_out(file, like)
    rows = [
        replace(row, regimes=(), elsewhere=left_out[row.name])
        if row.name in left_out
        else replace(row, regimes=tuple(name for name in regimes if name in row.regimes))
        for row in like.rows
    ]
    plan = Plan(
        path=path,
        title=file.text("title") or path.stem,
        about=file.text("about"),
        figures=file.texts("figures") or like.figures,
        flags=(*like.flags, *file.words("flags")),
        regimes=regimes,
        rows=tuple(replace(row, seeds=(), published={}) for row in rows if row.regimes or row.name in left_out),
        tuning=like.tuning,
        needs=file.text("needs"),
        like=like,
    )
    _check_cells(plan)
    return plan


def _left_out(file: _Part, like: Plan) -> dict[str, str]:
    """The rows of another plan that this one does not run, with the reason."""
    left_out = file.mapping("without")
    _check_known(tuple(left_out), {row.name for row in like.rows}, f"{file.where}: without: no row of {like.path}")
    for name, why in left_out.items():
        require(isinstance(why, str) and bool(why), f"{file.where}: without: {name}: must say why")
    return left_out


def _check_known(names: Sequence[str], known: Collection[str], nothing: str) -> None:
    """Raise UserError for a name that is not known, with the nearest that is; the line begins with `nothing`."""
    for name in names:
        hint = nearest(name, known)
        mean = f"; did you mean {hint}?" if hint else ""
        require(name in known, f"{nothing} is called {name!r}{mean}")


def _regimes(file: _Part, path: Path) -> dict[str, PlanRegime]:
    """The regimes of a plan."""
    seeds = file.seeds()
    regimes = {name: _regime(value, name, path, seeds) for name, value in file.mapping("regimes").items()}
    require(bool(regimes), f"{path}: `regimes:` names the flags of at least one")
    return regimes


def _regime(value: Any, name: str, path: Path, seeds: tuple[int, ...]) -> PlanRegime:
    """A regime: its flags, or a mapping that holds them."""
    content = {"flags": value} if isinstance(value, str) else value
    part = _Part(content, f"{path}: regime {name}", "flags seeds needs")
    return PlanRegime(name=name, flags=part.words("flags"), seeds=part.seeds() or seeds, needs=part.text("needs"))


def _row(
    value: Any,
    number: int,
    path: Path,
    regimes: Mapping[str, PlanRegime],
    scripts: Sequence[str],
    common: Mapping[str, Any],
) -> PlanRow:
    """A row, checked."""
    where = f"{path}: row {number}"
    require(isinstance(value, dict), f"{where}: must be `key: value` pairs")
    where += f" ({value['name']})" if isinstance(value.get("name"), str) else ""
    part = _Part(
        {**common, **value}, where, "name command regimes seeds try published source tolerance needs remark elsewhere"
    )
    name, words = part.text("name"), part.words("command")
    require(bool(name), f"{where}: `name:` is missing")
    require(bool(words), f"{where}: `command:` is missing")
    known = ", ".join(scripts)
    require(words[0] in scripts, f"{where}: command: {words[0]}: no training script of this project; there are {known}")
    named = part.texts("regimes") or tuple(regimes)
    published = {regime: _figures(found, f"{where}: published: {regime}") for regime, found in part.pairs("published")}
    _check_known((*named, *published), regimes, f"{where}: no regime")
    row = PlanRow(
        name=name,
        script=words[0],
        flags=words[1:],
        regimes=named,
        seeds=part.seeds(),
        choices={setting: _values(values, f"{where}: try: {setting}") for setting, values in part.pairs("try")},
        published=published,
        source=part.text("source"),
        tolerance=part.number("tolerance"),
        needs=part.text("needs"),
        remark=part.text("remark"),
        elsewhere=part.text("elsewhere"),
    )
    require(not published or row.source != "", f"{where}: published figures need `source:`")
    require(not published or row.tolerance is not None, f"{where}: published figures need `tolerance:`, in points")
    return row


def _tuning(content: Mapping[str, Any], path: Path) -> Tuning | None:
    """How settings are chosen; None where the plan does not say."""
    if not content:
        return None
    part = _Part(content, f"{path}: tuning", "seed epoch")
    seed, epoch = part.number("seed"), part.text("epoch") or "tuning"
    require(seed is not None and seed.is_integer(), f"{path}: tuning: `seed:` must be a whole number")
    require(epoch in TUNED_EPOCHS, f"{path}: tuning: epoch {epoch}: choose from {', '.join(TUNED_EPOCHS)}")
    assert seed is not None
    return Tuning(seed=int(seed), epoch=epoch)


def _check_names(rows: Sequence[PlanRow], path: Path) -> None:
    """Raise UserError where two rows of a name share a regime."""
    seen: set[tuple[str, str]] = set()
    for number, row in enumerate(rows, 1):
        for regime in row.regimes:
            require(
                (row.name, regime) not in seen, f"{path}: row {number} ({row.name}): is there twice in regime {regime}"
            )
            seen.add((row.name, regime))


def _check_cells(plan: Plan) -> None:
    """Raise UserError for a cell without seeds, or one that cannot be tuned."""
    for cell in cells(plan):
        require(bool(cell.seeds), f"{cell.where}: no seeds; give `seeds:` to the plan, the regime or the row")
        if cell.is_tuned:
            require(plan.tuning is not None, f"{cell.where}: `try:` needs `tuning: {{seed: N}}` of the plan")
            assert plan.tuning is not None
            require(plan.tuning.seed not in cell.seeds, f"{cell.where}: seed {plan.tuning.seed} is that of the tuning")


def _figures(found: Any, where: str) -> dict[str, float]:
    """Published figures of one regime."""
    require(isinstance(found, dict) and bool(found), f"{where}: must be figures by name, such as {{mAP: 88.4}}")
    figures = {str(name): _number(text) for name, text in found.items()}
    for name, value in figures.items():
        require(value is not None and 0 <= value <= 100, f"{where}: {name} {found[name]!r}: must be a percentage")
    return {name: value for name, value in figures.items() if value is not None}


def _values(found: Any, where: str) -> tuple[str, ...]:
    """The values of a setting to be tried."""
    fits = isinstance(found, list) and bool(found) and all(isinstance(each, str) for each in found)
    require(fits, f"{where}: must be a list of values")
    twice = [value for index, value in enumerate(found) if value in found[:index]]
    require(not twice, f"{where}: {twice and twice[0]} comes twice")
    return tuple(found)


def _number(text: Any) -> float | None:
    """A text as a number; None where it is none."""
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


class _Part:
    """A mapping of the file, whose values are read key by key.

    Raises: UserError when it is none, or has a key that is not among `known`.
    """

    def __init__(self, content: Any, where: str, known: str) -> None:
        if not isinstance(content, dict):
            raise UserError(f"{where}: must be `key: value` pairs")
        names = known.split()
        for key in content:
            hint = nearest(str(key), names)
            mean = f"; did you mean {hint}?" if hint else f"; there are {', '.join(names)}"
            require(key in names, f"{where}: unknown key {key!r}{mean}")
        self.content, self.where = content, where

    def text(self, key: str) -> str:
        """A text; empty where it is missing."""
        value = self.content.get(key, "")
        require(isinstance(value, str), f"{self.where}: {key}: must be a text")
        return str(value)

    def words(self, key: str) -> tuple[str, ...]:
        """A text as the words of a command line."""
        try:
            return tuple(shlex.split(self.text(key)))
        except ValueError as error:
            raise UserError(f"{self.where}: {key}: {error}") from None

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts, or a single one; empty where it is missing."""
        value = self.content.get(key, [])
        found = [value] if isinstance(value, str) else value
        fits = isinstance(found, list) and all(isinstance(each, str) and each for each in found)
        require(fits, f"{self.where}: {key}: must be a list of texts")
        return tuple(found)

    def mapping(self, key: str) -> dict[str, Any]:
        """A mapping; empty where it is missing."""
        value = self.content.get(key, {})
        if not isinstance(value, dict):
            raise UserError(f"{self.where}: {key}: must be `key: value` pairs")
        return value

    def pairs(self, key: str) -> Iterator[tuple[str, Any]]:
        """The pairs of a mapping."""
        yield from self.mapping(key).items()

    def number(self, key: str) -> float | None:
        """A number, not below zero; None where it is missing."""
        if key not in self.content:
            return None
        value = _number(self.content[key])
        require(
            value is not None and value >= 0, f"{self.where}: {key}: {self.content[key]!r} is no number of 0 or more"
        )
        return value

    def seeds(self) -> tuple[int, ...]:
        """Whole numbers; empty where they are missing."""
        texts = self.texts("seeds")
        wrong = [text for text in texts if not text.isascii() or not text.isdigit()]
        require(not wrong, f"{self.where}: seeds: {wrong and wrong[0]!r} is no whole number of 0 or more")
        seeds = tuple(map(int, texts))
        require(len(set(seeds)) == len(seeds), f"{self.where}: seeds: one comes twice")
        return seeds
