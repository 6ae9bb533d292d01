"""`compare.py`: finished runs in one table and two plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.build import DatasetConfig, load_splits
from data.loading.loader import LoaderConfig
from engine.analysis.comparison_report import comparison_report
from engine.analysis.finished_runs import FinishedRun, built_for, read_run, run_labels, run_paths
from engine.analysis.seed_groups import seed_table, setting_notes
from engine.core.run_results import HEADLINE, beside, require_parts
from engine.core.setting_table import training_names
from engine.core.settings import Command, parse_settings
from engine.report.content import Table, percent
from engine.report.page import REPORT_FILE, comparison_page
from engine.training.config import RunConfig
from engine.training.examples import choose_rows, examples
from utils.checks import require
from utils.console import say
from utils.image_plots import plot_examples
from utils.options import option
from utils.plots import plot_curves
from utils.safe_files import make_folder, write_text


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Plots of a comparison."""

    output: Path | None = option(None, "folder for the plots (default: none are drawn)")
    images: int = option(8, "test images in the grid", aliases=("pictures",))

    def __post_init__(self) -> None:
        require(self.images >= 1, f"--images {self.images}: must be at least 1")


COMPARE = Command(
    program="compare.py",
    about="Finished runs side by side: a table, their curves, and a grid of test images.",
    groups={"comparison": (CompareConfig,)},
    words="RUN [RUN ...]",
)


def compare_command(argv: Sequence[str] | None = None) -> int:
    """Print the table of the runs named on the command line, draw their plots. Return the exit code.

    Raises:
        UserError: a run is not finished or damaged, or has other classes than the rest and is to be plotted.
    """
    settings = parse_settings(COMPARE, argv, elsewhere=training_names())
    config, paths = settings.of(CompareConfig), run_paths(settings.words)
    require(bool(paths), "compare.py: name the folders of finished runs")
    runs = [read_run(path) for path in paths]
    labels = run_labels(runs)
    say(table(labels, runs))
    seeds, notes = seed_table(runs), [*differences(labels, runs), *setting_notes(runs)]
    for line in (*seeds, *notes):
        say(line)
    if config.output is not None:
        make_folder(config.output, "--output")
        curves, grid = config.output / "curves.png", config.output / "examples.png"
        plot_curves({label: run.history for label, run in zip(labels, runs, strict=True)}, curves)
        blind = [run.path for run in runs if not run.sees_images]
        if blind:
            say(f"{grid.name} is not drawn: {blind[0]} was trained on features, without images")
            grid.unlink(missing_ok=True)
        else:
            draw_examples(labels, runs, config.images, grid)
        page = config.output / REPORT_FILE
        report = comparison_report(
            labels, runs, figure_table(labels, runs), "\n".join(seeds).strip(), notes, config.output
        )
        write_text(page, comparison_page(report))
        for path in (*(run.path for run in runs), curves, *([] if blind else [grid]), page):
            say(f"written: {path}")
    return 0


def table(labels: Sequence[str], runs: Sequence[FinishedRun]) -> str:
    """Main metrics (%) on the test set, one row per run; for a pair of networks f, with g and ensemble below it."""
    for run in runs:
        _require_comparable(run)
    rows = [row for label, run in zip(labels, runs, strict=True) for row in _rows(label, run.result)]
    width = max(6, *(len(name) for name, *_ in rows))
    lines = [f"{'method':{width}}  {'dataset':8} {'labels':14}" + "".join(f"{name:>8}" for name in HEADLINE)]
    for name, dataset, regime, metrics in rows:
        cells = "".join(f"{100 * metrics[each]:8.2f}" for each in HEADLINE)
        lines.append(f"{name:{width}}  {dataset:8} {regime:14}{cells}")
    return "\n".join(lines)


def figure_table(labels: Sequence[str], runs: Sequence[FinishedRun]) -> Table:
    """The same metrics for the page."""
    rows = [row for label, run in zip(labels, runs, strict=True) for row in _rows(label, run.result)]
    cells = [[*words, *(percent(metrics[name]) for name in HEADLINE)] for *words, metrics in rows]
    return Table(["method", "dataset", "labels", *HEADLINE], cells)


def differences(labels: Sequence[str], runs: Sequence[FinishedRun]) -> list[str]:
    """A note where runs on one dataset were scored on other test sets, or trained on other images by the same seed.

    Runs of before results recorded their data are left out.
    """
    notes = []
    named = list(zip(labels, runs, strict=True))
    for dataset in dict.fromkeys(run.result["dataset"] for run in runs):
        same = [(label, run) for label, run in named if run.result["dataset"] == dataset]
        notes += _note(f"test set of {dataset}", "test", same)
        for seed in dict.fromkeys(run.result.get("seed") for _, run in same):  # it cuts out the validation split
            alike = [(label, run) for label, run in same if run.result.get("seed") == seed]
            notes += _note(f"training set of {dataset}", "train", alike)
    return notes


def _require_comparable(run: FinishedRun) -> None:
    """Raise UserError where the result of a run lacks what the table shows."""
    require_parts(run.result, run.path, "dataset", "labels", "rate")
    for metrics in (run.result["test"], *beside(run.result).values()):
        known = {name: value for name, value in metrics.items() if value is not None}
        require_parts(known, run.path, *HEADLINE)


def _note(what: str, split: str, runs: Sequence[tuple[str, FinishedRun]]) -> list[str]:
    """The note that runs do not share a split; none if they do."""
    groups: dict[str, list[str]] = {}
    for label, run in runs:
        recorded = run.result.get("data")
        found = recorded.get(split) if isinstance(recorded, dict) else None
        if isinstance(found, str):
            groups.setdefault(found, []).append(label)
    told = "; ".join(f"{', '.join(names)}: {found[:8]}" for found, names in groups.items())
    return [f"note: not the same {what}, images or true labels differ ({told})"] if len(groups) > 1 else []


def _rows(label: str, result: Mapping[str, Any]) -> list[tuple[str, str, str, Mapping[str, float]]]:
    """Name, dataset, labels and metrics of each row of one run."""
    rate = "" if result["rate"] is None else f" {result['rate']}"
    first = (label, result["dataset"], result["labels"] + rate, result["test"])
    return [first, *((f"  {name}", "", "", metrics) for name, metrics in beside(result).items())]


def draw_examples(labels: Sequence[str], runs: Sequence[FinishedRun], count: int, file: Path) -> None:
    """Plot a grid of test images of the dataset of the first run, with the labels that each model predicts."""
    saved = [run.saved() for run in runs]
    same = len({model.classes for model in saved}) == 1
    require(same, "these runs were trained on different classes; compare them without --output")
    first = runs[0]
    dataset = first.config(DatasetConfig)
    test = load_splits(dataset, first.config(RunConfig).seed, need_images=True).test
    test = test.take(dataset.usable_rows(test, "test"))
    rows = choose_rows(test, count)
    require(bool(rows), f"{first.path}: its test set has no labelled image to show")
    models = [built_for(model, test) for model in saved]
    plot_examples(examples(models, test, rows, first.config(LoaderConfig).eval_view()), labels, file)
