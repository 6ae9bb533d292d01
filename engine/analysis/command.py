"""`analyse.py`: effects of training with missing labels, after Kim et al., "Large Loss Matters" (CVPR 2022)."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from engine.analysis.compare import COMPARE
from engine.analysis.finished_runs import (
    FinishedRun,
    ReportConfig,
    ReportFiles,
    make_report,
    read_run,
    run_labels,
    run_paths,
    write_table,
)
from engine.analysis.modified_labels import ModifiedConfig, modified
from engine.analysis.pointing_game import PointingConfig, pointing
from engine.core.setting_table import training_names
from engine.core.settings import Command, parse_settings
from engine.reproduction.runner import Start
from engine.reproduction.scripts import Scripts
from engine.reproduction.sweep import SWEEP, sweep_command
from utils.analysis_plots import Line, plot_lines, plot_memorisation
from utils.checks import UserError, require
from utils.console import say
from utils.label_dynamics import GROUPS
from utils.plots import COLOURS

PROGRAM = "analyse.py"


class Analysis(NamedTuple):
    """One kind of analysis of finished runs."""

    about: str
    config: type[Any]
    several: bool  # True if it takes more than one run
    run: Callable[[Sequence[FinishedRun], Any, ReportFiles], str]  # writes the files; returns the text to print


def analyse_command(argv: Sequence[str], *, scripts: Scripts, start: Start = "spawn") -> int:
    """Run the analysis that the first word names; print its main results and the files written. Return the exit code.

    Args:
        argv: the command line without the program.
        scripts: the training scripts that a sweep may run.
        start: how its processes begin.

    Raises:
        UserError: no such analysis, no such run, or a run that lacks the records for it.
    """
    name, words = argv[0], argv[1:]
    program = f"{PROGRAM} {name}"
    require(
        int(os.environ.get("WORLD_SIZE", "1")) == 1, f"{PROGRAM}: works in one process; start it without a launcher"
    )
    if name == "sweep":
        return sweep_command(words, scripts=scripts, start=start)
    analysis = ANALYSES[name]
    settings = parse_settings(_command(name), words, elsewhere=training_names())
    paths, config = run_paths(settings.words), settings.of(analysis.config)
    require(bool(paths), f"{program}: name the folder of a finished run{', or several' if analysis.several else ''}")
    require(len(paths) == 1 or analysis.several, f"{program}: takes one run, not {len(paths)}")
    runs = [read_run(path) for path in paths]
    report = make_report(config.output or paths[0], name)
    say(analysis.run(runs, config, report))
    for path in report:
        say(f"written: {path}")
    return 0


def _command(name: str) -> Command:
    """Return the settings of one analysis."""
    analysis = ANALYSES[name]
    return Command(
        program=f"{PROGRAM} {name}",
        about=f"{analysis.about[0].upper()}{analysis.about[1:]}.",
        groups={"analysis": (analysis.config,)},
        words="RUN [RUN ...]" if analysis.several else "RUN",
    )


def memorisation(runs: Sequence[FinishedRun], config: ReportConfig, report: ReportFiles) -> str:
    """Table 1 and Figure 1: share of labels with their highest loss in the first epoch, and mean losses."""
    (run,) = runs
    columns = [*(f"an_loss_{name}" for name in GROUPS), *(f"warmup_{name}" for name in GROUPS)]
    _require_recorded(run, columns, "memorisation")
    write_table(report.table, [_row(row, columns) for row in run.history])
    groups = [name for name in GROUPS if run.column(f"warmup_{name}")]
    colours = dict(zip(GROUPS, COLOURS, strict=False))
    lines = [Line(_LEGEND[name], run.column(f"an_loss_{name}"), colours[name]) for name in groups]
    first = {name: run.column(f"warmup_{name}")[-1][1] for name in groups}
    plot_memorisation(lines, first, report.figure)
    shares = ", ".join(f"{name} {100 * share:.1f} %" for name, share in first.items())
    return f"{run.label}: labels with their highest loss in epoch 1 of {len(run.history)}: {shares}"


def modification(runs: Sequence[FinishedRun], config: ReportConfig, report: ReportFiles) -> str:
    """Figure 4: share of the labels modified by each run that are truly present."""
    columns = ["modified_true", "modified_ever_true", "unknown_true"]
    for run in runs:
        _require_recorded(run, columns[2:], "modification")
        require(bool(run.column(columns[0])), f"{run.path}: {run.method} modified no label in its epochs")
        _require_recorded(run, [_precision_column(run)], "modification")
    labels = run_labels(runs)
    rows = [
        {"run": label, **_row(row, columns)} for label, run in zip(labels, runs, strict=True) for row in run.history
    ]
    write_table(report.table, rows)
    lines = [_precision_line(run, label, index) for index, (label, run) in enumerate(zip(labels, runs, strict=True))]
    title, share = "truly present: of modified labels, and of all unknown ones (base rate)", "truly present (%)"
    plot_lines([*lines, *_base_rates(runs, labels)], report.figure, title=title, xlabel="epoch", ylabel=share)
    return "\n".join(_precision_text(run, label) for run, label in zip(runs, labels, strict=True))


def found(runs: Sequence[FinishedRun], config: ReportConfig, report: ReportFiles) -> str:
    """Figure 3 of CLS (AAAI 2025): share of the false negatives that each run has found, epoch by epoch."""
    chosen = ["found_ever" if _permanent(run) else "found" for run in runs]
    for run, name in zip(runs, chosen, strict=True):
        _require_recorded(run, [name], "modification")
    labels, columns = run_labels(runs), ["found", "found_ever"]
    write_table(
        report.table,
        [{"run": label, **_row(row, columns)} for label, run in zip(labels, runs, strict=True) for row in run.history],
    )
    lines = [
        Line(label, [(epoch, 100 * value) for epoch, value in run.column(name)], COLOURS[index % len(COLOURS)])
        for index, (label, run, name) in enumerate(zip(labels, runs, chosen, strict=True))
    ]
    title = "false negatives found: unknown labels that are truly present and were modified"
    plot_lines(lines, report.figure, title=title, xlabel="epoch", ylabel="false negatives (%)")
    shares = [100 * run.column(name)[-1][1] for run, name in zip(runs, chosen, strict=True)]
    rows = zip(labels, shares, runs, strict=True)
    return "\n".join(f"{label}: {value:.1f} % found in epoch {len(run.history)}" for label, value, run in rows)


def _precision_line(run: FinishedRun, label: str, index: int) -> Line:
    text = f"{label}, corrected so far" if _permanent(run) else f"{label}, modified in the epoch"
    points = [(epoch, 100 * value) for epoch, value in run.column(_precision_column(run))]
    return Line(text, points, COLOURS[index % len(COLOURS)])


def _precision_text(run: FinishedRun, label: str) -> str:
    epoch, value = run.column(_precision_column(run))[-1]
    which = f"labels corrected up to epoch {epoch:.0f}" if _permanent(run) else f"labels modified in epoch {epoch:.0f}"
    base = run.column("unknown_true")[-1][1]
    return f"{label}: {100 * value:.1f} % of the {which} are truly present; of all unknown labels {100 * base:.1f} %"


def _base_rates(runs: Sequence[FinishedRun], labels: Sequence[str]) -> list[Line]:
    """Share of a random choice: one line, or one per run where they differ."""
    points = [tuple((epoch, 100 * value) for epoch, value in run.column("unknown_true")) for run in runs]
    longest = max(points, key=len)
    if len({round(value, 6) for line in points for _, value in line}) == 1:
        return [Line("base rate: all unknown labels", longest, "#606060", dashed=True)]
    return [
        Line(f"{label}, base rate: all unknown labels", line, COLOURS[index % len(COLOURS)], dashed=True)
        for index, (label, line) in enumerate(zip(labels, points, strict=True))
    ]


def _permanent(run: FinishedRun) -> bool:
    """True if the run modifies labels permanently, so that its share is that of all labels modified so far."""
    return getattr(run.method_config, "mod_scheme", "") == "LL-Cp"


def _precision_column(run: FinishedRun) -> str:
    return "modified_ever_true" if _permanent(run) else "modified_true"


def _require_recorded(run: FinishedRun, columns: Sequence[str], record: str) -> None:
    if not any(run.column(name) for name in columns):
        raise UserError(f"{run.path}: its log has no columns of {record}; train it with --record {record} (or all)")


def _row(row: dict[str, float], columns: Sequence[str]) -> dict[str, float | None]:
    """Epoch and `columns` of a row of the log, None for those it does not have."""
    return {"epoch": int(row["epoch"]), **{name: row.get(name) for name in columns}}


_LEGEND = {"TP": "TP: seen as present", "TN": "TN: unknown, absent", "FN": "FN: unknown, present"}

ANALYSES = {
    "memorisation": Analysis(
        "epochs in which labels have their highest loss, of one run", ReportConfig, False, memorisation
    ),
    "modification": Analysis("share of modified labels that are truly present", ReportConfig, True, modification),
    "found": Analysis("share of the false negatives that were found", ReportConfig, True, found),
    "pointing": Analysis("share of activation maps that are highest on their objects", PointingConfig, True, pointing),
    "modified": Analysis("images with the labels that were modified, of one run", ModifiedConfig, False, modified),
}
"""Analyses of finished runs by name."""

COMMANDS = (*map(_command, ANALYSES), SWEEP, COMPARE)
"""Settings of all commands of this package."""
