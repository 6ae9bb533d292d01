"""Sweep: one training run per value of a setting, one after the other, and a metric against the value."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from engine.analysis.finished_runs import ReportFiles, make_report, write_table
from engine.core.run_results import read_result
from engine.core.setting_table import training_names
from engine.core.settings import Command, parse_settings
from utils.analysis_plots import Line, plot_lines
from utils.checks import require
from utils.console import say
from utils.options import option
from utils.plots import COLOURS

Main = Callable[[Sequence[str]], int]
Scripts = Mapping[str, Callable[[], Main]]
"""Training scripts by file name, as functions that import the script and return its main function."""

_RESERVED = frozenset({"output", "resume", "config", "print_config", "no-resume"})
_SETTING = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_VALUE = re.compile(r"[A-Za-z0-9_+-][A-Za-z0-9_.+-]*|\.[0-9]+")


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """The varied setting, its values, and the plotted metric."""

    setting: str | None = option(None, "the setting, such as delta_rel or ss_frac_train")
    values: str | None = option(None, "its values, with commas between them")
    metric: Literal["mAP", "CF1", "OF1"] = option("mAP", "the metric that is plotted")
    output: Path | None = option(None, "folder of the runs, the figure and the table (default: runs/sweep-<setting>)")

    def __post_init__(self) -> None:
        require(self.setting is not None, "--setting: say which setting of the training script is to be varied")
        require(self.values is not None, "--values: say which values it takes, such as 0,0.1,0.2")
        require(
            _SETTING.fullmatch(str(self.setting)) is not None and self.setting not in _RESERVED,
            f"--setting {self.setting}: name a setting of the training script without dashes, other than output and "
            "resume",
        )
        odd = [value for value in self.listed if not _VALUE.fullmatch(value)]
        require(
            not odd, f"--values {self.values}: {odd[:1] and odd[0]!r} is no plain value (letters, digits, and . + - _)"
        )
        same = [value for index, value in enumerate(self.listed) if _key(value) in map(_key, self.listed[:index])]
        require(not same, f"--values {self.values}: {same[:1] and same[0]} comes twice")

    @property
    def listed(self) -> list[str]:
        """Values as text, in the given order."""
        return [value.strip() for value in str(self.values).split(",")]


def sweep_command(argv: Sequence[str], *, scripts: Scripts) -> int:
    """Train once per value, plot and write the metric. The same command continues where an earlier one stopped.

    Args:
        argv: flags of the sweep, then `--`, then a training script and its flags.
        scripts: the training scripts.

    Returns:
        The exit code.

    Raises:
        UserError: a flag, the script or a value of the setting is not understood, raised before anything is trained.
    """
    end = list(argv).index("--") if "--" in argv else len(argv)
    own, command = argv[:end], argv[end + 1 :]
    config = parse_settings(SWEEP, own, elsewhere=training_names()).of(SweepConfig)
    program = SWEEP.program
    known = ", ".join(scripts)
    require(bool(command), f"{program}: end with -- and a training script with its flags; there are {known}")
    script, words = command[0].removeprefix("./"), list(command[1:])
    require(script in scripts, f"{program}: {command[0]}: not a training script of this project; there are {known}")
    _require_free(words, config, program)
    main = scripts[script]()
    folder = config.output or Path("runs") / f"sweep-{config.setting}"
    commands = {value: _words(words, config, value, folder) for value in config.listed}
    for each in commands.values():
        _try(main, each)
    report = make_report(folder, "sweep")
    say(f"{len(commands)} runs; if they are stopped, the same command goes on")
    results = {value: _train(main, each, value, config, folder) for value, each in commands.items()}
    say(summarise(config, results, report))
    for path in report:
        say(f"written: {path}")
    return 0


SWEEP = Command(
    program="analyse.py sweep",
    about="One training run for each value of a setting, and a metric against the value; end with -- SCRIPT FLAGS.",
    groups={"sweep": (SweepConfig,)},
)


def run_folder(folder: Path, config: SweepConfig, value: str) -> Path:
    """Folder of the run of one value."""
    return folder / f"{config.setting}-{value}"


def summarise(config: SweepConfig, results: Mapping[str, dict[str, Any]], report: ReportFiles) -> str:
    """Write the table and draw the figure; return a line about the best value."""
    parts = {"test": "test", "validation": "validation, selected epoch"}
    rows = [
        {
            str(config.setting): value,
            "selected_epoch": result["selected_epoch"],
            **{f"{part}_{config.metric}": (result[part] or {}).get(config.metric) for part in parts},
        }
        for value, result in results.items()
    ]
    write_table(report.table, rows)
    lines = []
    for (part, label), colour in zip(parts.items(), COLOURS, strict=False):
        points = [(float(index), row[f"{part}_{config.metric}"]) for index, row in enumerate(rows)]
        known = [(index, 100 * value) for index, value in points if value is not None]
        if known:
            lines.append(Line(label, known, colour))
    method, dataset, labels = (_each(results, name) for name in ("method", "dataset", "labels"))
    title = f"{method} on {dataset}, labels {labels}"
    plot_lines(
        lines,
        report.figure,
        title=title,
        xlabel=str(config.setting),
        ylabel=f"{config.metric} (%)",
        ticks=list(results),
    )
    return _best(config, rows)


def _each(results: Mapping[str, Mapping[str, Any]], name: str) -> str:
    """Distinct values of `name` in the results, as text."""
    return ", ".join(dict.fromkeys(str(result[name]) for result in results.values()))


def _best(config: SweepConfig, rows: Sequence[Mapping[str, Any]]) -> str:
    """Text about the best value: by the validation metric if all runs have it, else by the test metric."""
    by = "validation" if all(row[f"validation_{config.metric}"] is not None for row in rows) else "test"
    best = max(rows, key=lambda row: float(np.nan_to_num(row[f"{by}_{config.metric}"], nan=-np.inf)))
    text = f"best {by} {config.metric} {100 * best[f'{by}_{config.metric}']:.2f} at {config.setting} "
    text += str(best[str(config.setting)])
    return text if by == "test" else f"{text}, test {config.metric} {100 * best[f'test_{config.metric}']:.2f} there"


def _train(main: Main, words: Sequence[str], value: str, config: SweepConfig, folder: Path) -> dict[str, Any]:
    """Train the run of one value, unless it is finished, and return its result."""
    say(f"--{config.setting} {value} ({config.listed.index(value) + 1} of {len(config.listed)})")
    main(words)
    return read_result(run_folder(folder, config, value))


def _try(main: Main, words: Sequence[str]) -> None:
    """Check the settings of a run without starting it. Raises: UserError when they are wrong."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        main([*words, "--print_config"])


def _words(words: Sequence[str], config: SweepConfig, value: str, folder: Path) -> list[str]:
    """Command line of the run of one value."""
    return [*words, f"--{config.setting}={value}", f"--output={run_folder(folder, config, value)}", "--resume"]


def _require_free(words: Sequence[str], config: SweepConfig, program: str) -> None:
    """Raise UserError if a flag of the script is one that the sweep sets itself."""
    given = [word.split("=")[0].removeprefix("--") for word in words if word.startswith("--")]
    taken = [name for name in given if name in {*_RESERVED - {"config"}, str(config.setting)}]
    require(
        not taken, f"{program}: --{taken and taken[0]} stands behind the script, but the sweep sets it; leave it out"
    )


def _key(value: str) -> object:
    """Key for comparing values: 0.1 and 0.10 are equal."""
    try:
        return float(value)
    except ValueError:
        return value
