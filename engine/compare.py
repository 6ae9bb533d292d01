"""`compare.py`: finished runs in one table and two pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.build import DatasetConfig, load_splits
from data.loader import LoaderConfig
from engine.checkpoint import read_model
from engine.output import HEADLINE, read_history, read_result
from engine.pictures import choose_rows, examples
from engine.sections import CHOICES, SECTIONS
from engine.settings import OneLineParser, read_yaml, setting_table
from losses import CRITERIA
from utils.checks import require
from utils.console import say
from utils.plots import plot_curves, plot_examples


def compare_command(argv: Sequence[str] | None = None, *, program: str) -> int:
    """Print the table of the runs named on the command line, draw their pictures. Returns the exit code."""
    parser = OneLineParser(prog=program, allow_abbrev=False, description="Finished runs side by side.")
    parser.add_argument("runs", nargs="+", type=Path, help="run folders")
    parser.add_argument("--output", type=Path, help="folder for the pictures (default: none are drawn)")
    parser.add_argument("--pictures", type=int, default=8, help="test pictures in the grid (default 8)")
    given = parser.parse_args(argv)
    results = {path: read_result(path) for path in given.runs}
    names = run_names(results)
    say(table(names, results))
    if given.output is not None:
        given.output.mkdir(parents=True, exist_ok=True)
        curves, grid = given.output / "curves.png", given.output / "examples.png"
        plot_curves({names[path]: read_history(path) for path in given.runs}, curves)
        draw_examples(names, given.pictures, grid)
        for path in (*given.runs, curves, grid):
            say(f"written: {path}")
    return 0


def run_names(results: dict[Path, dict[str, Any]]) -> dict[Path, str]:
    """A short name a run: its method, and its folder where two runs share a method."""
    methods = [result["method"] for result in results.values()]
    return {
        path: result["method"] if methods.count(result["method"]) == 1 else f"{result['method']} ({path.name})"
        for path, result in results.items()
    }


def table(names: dict[Path, str], results: dict[Path, dict[str, Any]]) -> str:
    """The headline figures (%) on the test set, a row a run."""
    width = max(6, *(len(name) for name in names.values()))
    lines = [f"{'method':{width}}  {'dataset':8} {'labels':14}" + "".join(f"{name:>8}" for name in HEADLINE)]
    for path, result in results.items():
        rate = "" if result["rate"] is None else f" {result['rate']}"
        figures = "".join(f"{100 * result['test'][name]:8.2f}" for name in HEADLINE)
        lines.append(f"{names[path]:{width}}  {result['dataset']:8} {result['labels'] + rate:14}{figures}")
    return "\n".join(lines)


def draw_examples(names: dict[Path, str], count: int, file: Path) -> None:
    """A grid of test pictures of the runs' common dataset, with what each run's model sees."""
    saved = {path: read_model(path / "best.pth") for path in names}
    classes = {model.classes for model in saved.values()}
    require(len(classes) == 1, "these runs were trained on different classes; compare them without --output")
    first = next(iter(names))
    values = _values(first)
    config = DatasetConfig(**{name: values[name] for name in DatasetConfig.__dataclass_fields__})
    loader = LoaderConfig(**{name: values[name] for name in LoaderConfig.__dataclass_fields__})
    test = load_splits(config, values["seed"], need_images=True).test
    rows = choose_rows(test, count)
    require(bool(rows), f"{first}: its test set has no labelled picture to show")
    plot_examples(examples([model.build() for model in saved.values()], test, rows, loader), list(names.values()), file)


def _values(run: Path) -> dict[str, Any]:
    """The settings a run was made with."""
    method = read_result(run)["method"]
    table = setting_table({**SECTIONS, method: CRITERIA[method].config})
    return read_yaml(run / "settings.yaml", table, CHOICES).plain.values
