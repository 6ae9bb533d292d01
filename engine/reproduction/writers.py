"""The tables of a plan as Markdown, CSV, LaTeX and a page of HTML."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from engine.core.pages import templates_in
from engine.reproduction.overview import overview
from engine.reproduction.plan import Plan
from engine.reproduction.results import CellResult
from engine.reproduction.tables import RegimeTable, TableRow, Verdict
from utils.csv_cells import csv_text
from utils.safe_files import make_folder, write_text
from utils.seed_statistics import Difference, Spread

LEGEND = (
    "Test figures in %, mean and standard deviation over seeds; the best mean is bold. Differences are paired by seed, "
    "with their 95 % interval (Student's t). Published figures: ours minus published, and whether that is within the "
    "tolerance."
)
TUNED = (
    "Chosen: the setting with the highest validation mAP of the tuning seed; behind it that seed's test mAP, and after "
    "the bar the highest of any setting and epoch on the test set itself."
)


def legend(plan: Plan) -> list[str]:
    """What the columns mean, and where published figures are from."""
    chosen = [TUNED] if plan.tuning else []
    if plan.like is not None:
        chosen = [f"Chosen: settings and epochs are those that {plan.like.path} has chosen on its own data."]
    return [LEGEND, *chosen, *sources(plan)]


class TableCell(NamedTuple):
    """A cell of a table as it is shown."""

    text: str
    bold: bool = False


class Grid(NamedTuple):
    """A table as it is shown."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[TableCell, ...], ...]
    notes: tuple[str, ...]


def write_tables(folder: Path, plan: Plan, found: Sequence[RegimeTable]) -> list[Path]:
    """Write the tables in all forms; returns the files. Raises: UserError, RunError where they cannot be written."""
    make_folder(folder, "--output")
    forms: dict[str, Callable[[Plan, Sequence[RegimeTable]], str]] = {
        "table.md": markdown,
        "table.csv": comma_separated,
        "table.tex": latex,
        "table.html": page,
    }
    for name, form in forms.items():
        write_text(folder / name, form(plan, found), errors="backslashreplace")
    return [folder / name for name in forms]


def markdown(plan: Plan, found: Sequence[RegimeTable]) -> str:
    """The tables as a page of Markdown."""
    lines = [f"# {plan.title}", "", f"Written by `python reproduce.py {plan.path}`.", *_about(plan)]
    for grid in grids(plan, found):
        rows = [[_marked(cell) for cell in row] for row in grid.rows]
        table = [list(map(_piped, grid.headings)), ["---"] * len(grid.headings), *rows]
        lines += ["", f"## {grid.title}", "", *(f"| {' | '.join(row)} |" for row in table)]
        lines += [f"\nNote: {note}." for note in grid.notes]
    return "\n".join([*lines, "", *legend(plan)]) + "\n"


def latex(plan: Plan, found: Sequence[RegimeTable]) -> str:
    """The tables as LaTeX, one `tabular` each, without packages."""
    lines = [f"% {_on_one_line(plan.title)}: written by python reproduce.py {plan.path}"]
    for grid in grids(plan, found):
        rows = [" & ".join(_bold(cell) for cell in row) + r" \\" for row in grid.rows]
        head = " & ".join(map(_escaped, grid.headings)) + r" \\"
        columns = "l" + "r" * (len(grid.headings) - 2) + "l"
        begin = rf"\begin{{tabular}}{{{columns}}}"
        lines += ["", f"% {_on_one_line(grid.title)}", begin, r"\hline", head, r"\hline", *rows, r"\hline"]
        lines += [r"\end{tabular}", *(f"% {_on_one_line(note)}" for note in grid.notes)]
    return "\n".join(lines) + "\n"


def page(plan: Plan, found: Sequence[RegimeTable]) -> str:
    """The tables as one file of HTML that loads nothing."""
    template = templates_in(Path(__file__).parent / "templates").get_template("tables.html.j2")
    return template.render(title=plan.title, about=plan.about, grids=grids(plan, found), legend=legend(plan))


def comma_separated(plan: Plan, found: Sequence[RegimeTable]) -> str:
    """One line per figure of a cell, numbers in full."""
    head = ["regime", "row", "figure", "seeds", "mean", "deviation", "difference", "low", "high"]
    head += ["published", "tolerance", "verdict", "chosen", "remark"]
    return csv_text([head, *(line for table in found for row in table.rows for line in _csv_lines(plan, table, row))])


def _csv_lines(plan: Plan, table: RegimeTable, row: TableRow) -> Iterator[list[object]]:
    """The lines of a cell."""
    published = {verdict.figure: verdict for verdict in row.verdicts}
    for name in dict.fromkeys((*plan.figures, *published)):
        found, verdict = row.spreads.get(name), published.get(name)
        if verdict is None and found is None and name != plan.figures[0]:
            continue
        gain = row.gain if name == plan.figures[0] else None
        numbers = (found.seeds, found.mean, found.deviation) if found else (0, None, None)
        told = (verdict.published, verdict.tolerance, verdict.word) if verdict else (None, None, None)
        choice = row.result.choice.words if row.result.choice else ""
        difference = gain[1:] if gain else (None, None, None)
        yield [table.regime, row.name, name, *numbers, *difference, *told, choice, row.remark]


def grids(plan: Plan, found: Sequence[RegimeTable]) -> list[Grid]:
    """The tables as they are shown, behind a table of all regimes where there are several."""
    return [*([_overview_grid(plan, found)] if len(found) > 1 else []), *(_grid(plan, table) for table in found)]


def _overview_grid(plan: Plan, found: Sequence[RegimeTable]) -> Grid:
    """The compared figure of all rows in all regimes."""
    seen = overview(plan, found)
    rows = tuple(
        (
            TableCell(name),
            *(
                TableCell("" if math.isnan(mean) else f"{mean:.2f}", bool(best))
                for mean, best in zip(means, bests, strict=True)
            ),
        )
        for name, means, bests in zip(seen.rows, seen.means, seen.best, strict=True)
    )
    apart: dict[str, list[str]] = {}
    for row in plan.rows:
        if row.elsewhere:
            apart.setdefault(row.elsewhere, []).append(row.name)
    notes = tuple(f"{', '.join(dict.fromkeys(names))}: {why}" for why, names in apart.items())
    return Grid(f"All regimes: {plan.figures[0]}", ("method", *seen.regimes), rows, notes)


def _grid(plan: Plan, table: RegimeTable) -> Grid:
    """The table of a regime as it is shown; columns that would be empty are left out."""
    compared = len(table.rows) > 1
    tuned = any(row.result.cell.is_tuned for row in table.rows)
    published = any(row.verdicts for row in table.rows)
    shown = [name for name in plan.figures if any(name in row.spreads for row in table.rows)] or plan.figures[:1]
    headings = ["method", "seeds", *shown]
    headings += [f"{plan.figures[0]} - {table.baseline}"] * compared + ["chosen"] * tuned
    headings += ["published", "ours", "difference", "verdict"] * published + ["remark"]
    rows = []
    for row in table.rows:
        cells = [TableCell(row.name), TableCell(str(len(row.result.figures)))]
        cells += [TableCell(_spread(row.spreads.get(name)), name in row.best) for name in shown]
        cells += [TableCell(_difference(row.gain))] * compared + [TableCell(_choice(row.result))] * tuned
        cells += [TableCell(text) for text in _verdicts(row.verdicts, plan.figures[0])] * published
        rows.append((*cells, TableCell(row.remark)))
    return Grid(table.regime, tuple(headings), tuple(rows), table.notes)


def _spread(found: Spread | None) -> str:
    if found is None:
        return ""
    return f"{found.mean:.2f}" if found.deviation is None else f"{found.mean:.2f} ± {found.deviation:.2f}"


def _difference(gain: Difference | None) -> str:
    if gain is None:
        return ""
    return f"{gain.mean:+.2f}" if gain.low is None else f"{gain.mean:+.2f} [{gain.low:+.2f}, {gain.high:+.2f}]"


def _choice(result: CellResult) -> str:
    """A setting and its epoch; where it was chosen here, with the tuning seed's test figure and the best one there."""
    choice = result.choice
    if choice is None:
        return ""
    told = f"{choice.words}, epoch {choice.epoch}"
    return told if result.cell.plan.like else f"{told}: {choice.test:.2f} / {choice.best_on_test:.2f}"


def _verdicts(verdicts: Sequence[Verdict], compared: str) -> tuple[str, str, str, str]:
    """Published, ours, difference and verdict of a row; with their names unless it is the compared figure alone."""
    named = any(each.figure != compared for each in verdicts)

    def told(of: Callable[[Verdict], str]) -> str:
        """One column."""
        return ", ".join(f"{each.figure} {of(each)}" if named else of(each) for each in verdicts if of(each))

    return (
        told(lambda each: f"{each.published:g}"),
        told(lambda each: "" if each.ours is None else f"{each.ours:.2f}"),
        told(lambda each: "" if each.difference is None else f"{each.difference:+.2f}"),
        told(lambda each: each.word),
    )


def sources(plan: Plan) -> list[str]:
    """Where the published figures are from, and the tolerances."""
    told: dict[tuple[str, float], list[str]] = {}
    for row in plan.rows:
        if row.published and row.tolerance is not None:
            told.setdefault((row.source, row.tolerance), []).append(row.name)
    return [
        f"Published: {source} ({', '.join(names)}; tolerance {tolerance:g})."
        for (source, tolerance), names in told.items()
    ]


def _about(plan: Plan) -> list[str]:
    return ["", plan.about.strip()] if plan.about else []


def _on_one_line(text: str) -> str:
    return " ".join(text.split())


def _piped(text: str) -> str:
    """A text in a cell of Markdown."""
    return _on_one_line(text).replace("|", "\\|")


def _marked(cell: TableCell) -> str:
    """A cell in Markdown."""
    return f"**{_piped(cell.text)}**" if cell.bold and cell.text else _piped(cell.text)


_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$"}
_LATEX |= {character: f"\\{character}" for character in "&%$#_{}"}


def _escaped(text: str) -> str:
    """A text in LaTeX."""
    return "".join(_LATEX.get(character, character) for character in _on_one_line(text))


def _bold(cell: TableCell) -> str:
    """A cell in LaTeX."""
    return rf"\textbf{{{_escaped(cell.text)}}}" if cell.bold and cell.text else _escaped(cell.text)
