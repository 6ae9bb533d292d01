"""`compare.py`: finished runs in one table and two pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data.build import DatasetConfig, load_splits
from data.loading.loader import LoaderConfig
from engine.analysis.finished_runs import FinishedRun, built_for, make_folder, read_run, run_labels
from engine.core.run_folder import HEADLINE, beside
from engine.core.settings import OneLineParser
from engine.training.examples import choose_rows, examples
from utils.checks import require
from utils.console import say
from utils.plots import plot_curves, plot_examples


def compare_command(argv: Sequence[str] | None = None, *, program: str) -> int:
    """Print the table of the runs named on the command line, draw their pictures. Returns the exit code.

    Raises:
        UserError: a run is not finished or damaged, or runs with different classes are to be drawn.
    """
    parser = OneLineParser(prog=program, allow_abbrev=False, description="Finished runs side by side.")
    parser.add_argument("runs", nargs="+", type=Path, help="run folders")
    parser.add_argument("--output", type=Path, help="folder for the pictures (default: none are drawn)")
    parser.add_argument("--pictures", type=int, default=8, help="test pictures in the grid (default 8)")
    given = parser.parse_args(argv)
    runs = [read_run(path) for path in dict.fromkeys(given.runs)]
    labels = run_labels(runs)
    say(table(labels, runs))
    if given.output is not None:
        make_folder(given.output)
        curves, grid = given.output / "curves.png", given.output / "examples.png"
        plot_curves({label: run.history for label, run in zip(labels, runs, strict=True)}, curves)
        draw_examples(labels, runs, given.pictures, grid)
        for path in (*(run.path for run in runs), curves, grid):
            say(f"written: {path}")
    return 0


def table(labels: Sequence[str], runs: Sequence[FinishedRun]) -> str:
    """The headline figures (%) on the test set, a row a run; of two networks that of f, and g and both below it."""
    rows = [row for label, run in zip(labels, runs, strict=True) for row in _rows(label, run.result)]
    width = max(6, *(len(name) for name, *_ in rows))
    lines = [f"{'method':{width}}  {'dataset':8} {'labels':14}" + "".join(f"{name:>8}" for name in HEADLINE)]
    for name, dataset, regime, figures in rows:
        cells = "".join(f"{100 * figures[each]:8.2f}" for each in HEADLINE)
        lines.append(f"{name:{width}}  {dataset:8} {regime:14}{cells}")
    return "\n".join(lines)


def _rows(label: str, result: Mapping[str, Any]) -> list[tuple[str, str, str, Mapping[str, float]]]:
    """Name, dataset, labels and figures of each row of one run."""
    rate = "" if result["rate"] is None else f" {result['rate']}"
    first = (label, result["dataset"], result["labels"] + rate, result["test"])
    return [first, *((f"  {name}", "", "", figures) for name, figures in beside(result).items())]


def draw_examples(labels: Sequence[str], runs: Sequence[FinishedRun], count: int, file: Path) -> None:
    """A grid of test pictures of the runs' common dataset, with what each run's model sees."""
    saved = [run.saved() for run in runs]
    same = len({model.classes for model in saved}) == 1
    require(same, "these runs were trained on different classes; compare them without --output")
    first = runs[0]
    test = load_splits(first.config(DatasetConfig), first.values["seed"], need_images=True).test
    rows = choose_rows(test, count)
    require(bool(rows), f"{first.path}: its test set has no labelled picture to show")
    models = [built_for(model, test) for model in saved]
    plot_examples(examples(models, test, rows, first.config(LoaderConfig)), labels, file)
