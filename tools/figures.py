"""Figures of photographs in the pages that quote them: `python -m tools.figures` writes them, `--check` compares them.

They come from the finished runs of `configs/plans/photographs.yaml`. What stands between the marker lines
`<!-- figures: REGIME | REGIME -->` and `<!-- end -->` is a table of all methods under these regimes; between
`<!-- figures -->` and `<!-- end -->`, in the page of a method, one of that page's methods under all regimes.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from engine.reproduction.campaign import Campaign
from engine.reproduction.lines import LineFile
from engine.reproduction.plan import RunOf
from engine.reproduction.plan_file import read_plan
from engine.reproduction.planned import Given, Resolver
from engine.reproduction.tables import RegimeTable, TableRow, tables
from tools.tables import ROOT, method_page

PLAN = ROOT / "configs" / "plans" / "photographs.yaml"
LINES = ROOT / "docs" / "reproduction" / "photographs" / "runs.jsonl"
_MARKED = re.compile(r"(<!-- figures(?:: ([^\n]+))? -->\n).*?(<!-- end -->)", re.DOTALL)


class Told(NamedTuple):
    """A method under a regime, all seeds of it."""

    mean: float
    """Mean test mAP."""
    words: str
    """That, bold if it is the best, with the gain over the baseline and the number of seeds that have one."""
    chosen: str
    """The setting that was chosen, as flags."""


class Figures(NamedTuple):
    """What the finished runs of the plan say."""

    regimes: Mapping[str, Mapping[str, Told]]
    """By regime and row."""
    pages: Mapping[str, Path]
    """The page of each row's method, in the order of the plan; the baseline is the first."""

    def words(self, row: str, regime: str) -> str:
        """A cell of a table, empty where there is nothing."""
        told = self.regimes[regime].get(row)
        return told.words if told else ""

    def of_regime(self, regime: str) -> str:
        """A table of all methods under a regime, the highest first, with what was chosen."""
        found = sorted(self.regimes[regime].items(), key=lambda pair: -pair[1].mean)
        return _table(["method", regime, "chosen"], ((row, told.words, f"`{told.chosen}`") for row, told in found))

    def of_regimes(self, regimes: Sequence[str]) -> str:
        """A table of all methods under several regimes."""
        rows = [row for row in self.pages if any(row in self.regimes[regime] for regime in regimes)]
        return _table(["method", *regimes], ((row, *(self.words(row, regime) for regime in regimes)) for row in rows))

    def of_page(self, page: Path) -> str:
        """A table of the methods of a page, and of the baseline, under all regimes that have any of them."""
        own = [row for row, its in self.pages.items() if its == page]
        regimes = [regime for regime, found in self.regimes.items() if any(row in found for row in own)]
        rows = list(dict.fromkeys([next(iter(self.pages)), *own]))
        return _table(["labels", *rows], ((regime, *(self.words(row, regime) for row in rows)) for regime in regimes))


def figures() -> Figures:
    """The figures of the plan's finished runs."""
    scripts = {path.name: lambda name=path.stem: importlib.import_module(name) for path in ROOT.glob("main_*.py")}
    plan, resolver = read_plan(PLAN, list(scripts)), Resolver(scripts, Given({}))
    results = Campaign(plan, resolver, LineFile(LINES), ROOT).results()
    methods = {one.cell.row.name: resolver.plan(RunOf(one.cell, 0, {})).method for one in results}
    return Figures(
        {table.regime: finished(table) for table in tables(plan, results)},
        {row.name: method_page(methods[row.name]) for row in plan.rows},
    )


def finished(table: RegimeTable) -> dict[str, Told]:
    """The rows of a regime that have all their seeds."""
    base = table.rows[0].result.of("mAP")
    return {
        row.name: told(row, base)
        for row in table.rows
        if row.result.of("mAP").keys() == base.keys() == set(row.result.cell.seeds)
    }


def told(row: TableRow, base: Mapping[int, float]) -> Told:
    """A row in words; `base` are the baseline's figures by seed."""
    mean, choice = row.spreads["mAP"].mean, row.result.choice
    words = f"**{mean:.1f}**" if "mAP" in row.best else f"{mean:.1f}"
    if row.gain is not None:
        ahead = sum(value > base[seed] for seed, value in row.result.of("mAP").items())
        words += f" ({row.gain.mean:+.1f}, {ahead} of {len(base)})"
    setting = {} if choice is None else choice.setting
    return Told(mean, words, " ".join(f"--{name} {value}" for name, value in setting.items()))


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lines of a table in Markdown."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def with_figures(page: Path, text: str, found: Figures) -> str:
    """The text of a page with its tables as they should be."""

    def written(marked: re.Match[str]) -> str:
        """One table between its marker lines."""
        regimes = marked[2].split(" | ") if marked[2] else []
        if not regimes:
            table = found.of_page(page)
        else:
            table = found.of_regimes(regimes) if len(regimes) > 1 else found.of_regime(regimes[0])
        return marked[1] + table + marked[3]

    return _MARKED.sub(written, text)


def generated() -> dict[Path, str]:
    """Every page that has figures, with its text."""
    texts = {page: page.read_text(encoding="utf-8") for page in sorted((ROOT / "docs").rglob("*.md"))}
    found = figures()
    return {page: with_figures(page, text, found) for page, text in texts.items() if _MARKED.search(text)}


def main(argv: Sequence[str]) -> int:
    """Write the pages that differ, or name them with `--check`; returns the exit code."""
    stale = {page: text for page, text in generated().items() if page.read_text(encoding="utf-8") != text}
    for page, text in stale.items():
        sys.stdout.write(f"{'stale' if '--check' in argv else 'written'}: {page.relative_to(ROOT)}\n")
        if "--check" not in argv:
            page.write_text(text, encoding="utf-8")
    return 1 if stale and "--check" in argv else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
