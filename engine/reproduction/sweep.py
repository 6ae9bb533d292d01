"""Sweep: a plan of one training run per value of a setting, and a metric against the value."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from engine.core.setting_table import training_names
from engine.core.settings import Command, parse_settings
from engine.reproduction.campaign import Campaign
from engine.reproduction.command import run_part
from engine.reproduction.lines import FILE, LineFile
from engine.reproduction.plan import Cell, Plan, PlanRegime, PlanRow, shard
from engine.reproduction.planned import Given, Resolver
from engine.reproduction.runner import Start
from engine.reproduction.scripts import Scripts
from engine.training.config import RunConfig, training_command
from utils.analysis_plots import Line, plot_lines
from utils.checks import require
from utils.console import say
from utils.csv_cells import csv_text
from utils.options import option
from utils.plots import COLOURS
from utils.safe_files import make_folder, write_text

_RESERVED = frozenset({"output", "resume", "config", "print_config", "no-resume"})
_SETTING = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_VALUE = re.compile(r"[A-Za-z0-9_+-][A-Za-z0-9_.+-]*|\.[0-9]+")


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """The varied setting, its values, and the plotted metric."""

    setting: str | None = option(None, "the setting, such as delta_rel or ss_frac_train")
    values: str | None = option(None, "its values, with commas between them")
    metric: Literal["mAP", "CF1", "OF1"] = option("mAP", "the metric that is plotted")
    jobs: int = option(1, "runs at once, each in a process of its own")
    output: Path | None = option(None, "folder of the runs, the figure and the table (default: runs/sweep-<setting>)")

    def __post_init__(self) -> None:
        require(self.jobs >= 1, f"--jobs {self.jobs}: must be at least 1")
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


class SweepPoint(NamedTuple):
    """The figures of one value, as fractions; None where they are not known."""

    value: str
    epoch: int | None
    test: float | None
    validation: float | None


def sweep_command(argv: Sequence[str], *, scripts: Scripts, start: Start = "spawn") -> int:
    """Train once per value, plot and write the metric. The same command continues where an earlier one stopped.

    Args:
        argv: flags of the sweep, then `--`, then a training script and its flags.
        scripts: the training scripts.
        start: how processes begin.

    Returns:
        The exit code: 1 where a run has failed.

    Raises:
        UserError: a flag, the script or a value of the setting is not understood, raised before anything is trained.
    """
    end = list(argv).index("--") if "--" in argv else len(argv)
    own, command = argv[:end], argv[end + 1 :]
    config = parse_settings(SWEEP, own, elsewhere=training_names()).of(SweepConfig)
    program = SWEEP.program
    known = ", ".join(scripts)
    require(bool(command), f"{program}: end with -- and a training script with its flags; there are {known}")
    script, words = command[0].removeprefix("./"), tuple(command[1:])
    require(script in scripts, f"{program}: {command[0]}: not a training script of this project; there are {known}")
    _require_free(words, config, program)
    folder = config.output or Path("runs") / f"sweep-{config.setting}"
    plan = sweep_plan(config, script, words, seed_of(script, words, scripts))
    campaign = Campaign(plan, Resolver(scripts, Given({})), LineFile(folder / FILE), folder, keep_weights=True)
    for cell in campaign.cells:
        reason = campaign.reason(campaign.tested(cell)[0])
        require(not reason, f"{program}: {reason}")
    make_folder(folder, "--output")
    say(f"{len(plan.rows)} runs; if they are stopped, the same command goes on")
    code = run_part(campaign, shard(campaign.cells, 1, 1), config.jobs, start)
    points = [point_of(campaign, cell, config) for cell in campaign.cells]
    say(summarise(config, points, folder, shlex.join(command)))
    return code


SWEEP = Command(
    program="analyse.py sweep",
    about="One training run for each value of a setting, and a metric against the value; end with -- SCRIPT FLAGS.",
    groups={"sweep": (SweepConfig,)},
)


def sweep_plan(config: SweepConfig, script: str, words: tuple[str, ...], seed: int) -> Plan:
    """The plan of a sweep: a row for each value, whose name is that of its run folder.

    Args:
        config: the varied setting and its values.
        script: the training script.
        words: its flags.
        seed: that of all runs, unless it is what varies.
    """
    varied = config.setting == "seed"
    rows = tuple(
        PlanRow(
            name=f"{config.setting}-{value}",
            script=script,
            flags=() if varied else (f"--{config.setting}={value}",),
            regimes=("",),
            seeds=(_whole(value, config),) if varied else (),
            choices={},
            published={},
            source="",
            tolerance=None,
            needs="",
            remark="",
            elsewhere="",
        )
        for value in config.listed
    )
    regime = PlanRegime(name="", flags=(), seeds=(seed,), needs="")
    return Plan(
        path=Path(SWEEP.program),
        title=f"--{config.setting}",
        about="",
        figures=(config.metric,),
        flags=without_seed(words),
        regimes={"": regime},
        rows=rows,
        tuning=None,
        needs="",
    )


def without_seed(words: Sequence[str]) -> tuple[str, ...]:
    """Flags of a script without `--seed` and its value."""
    kept, skipped = [], False
    for word in words:
        if skipped:
            skipped = False
        elif word == "--seed":
            skipped = True
        elif not word.startswith("--seed="):
            kept.append(word)
    return tuple(kept)


def seed_of(script: str, words: Sequence[str], scripts: Scripts) -> int:
    """The seed that a script has under these flags. Raises: UserError when they are wrong."""
    module = scripts[script]()
    command = training_command(script, module.DEFAULTS, method=getattr(module, "METHOD", ""))
    return parse_settings(command, words).of(RunConfig).seed


def point_of(campaign: Campaign, cell: Cell, config: SweepConfig) -> SweepPoint:
    """What the run of a value has reached."""
    (run,) = campaign.tested(cell)
    line = campaign.find(run)
    figures = line.figures if line else {}
    epoch, test, held_out = (figures.get(name) for name in ("epoch", config.metric, f"validation {config.metric}"))
    value = cell.row.name.removeprefix(f"{config.setting}-")
    return SweepPoint(value, None if epoch is None else int(epoch), test, held_out)


def summarise(config: SweepConfig, points: Sequence[SweepPoint], folder: Path, command: str) -> str:
    """Write the table and draw the figure; return a line about the best value, and the files."""
    figure, table = folder / "sweep.png", folder / "sweep.csv"
    columns = [str(config.setting), "selected_epoch", f"test_{config.metric}", f"validation_{config.metric}"]
    write_text(table, csv_text([columns, *map(list, points)]), errors="surrogateescape")
    parts = {"test": [point.test for point in points], "validation, selected epoch": [p.validation for p in points]}
    lines = []
    for (label, values), colour in zip(parts.items(), COLOURS, strict=False):
        known = [(float(index), 100 * value) for index, value in enumerate(values) if value is not None]
        if known:
            lines.append(Line(label, known, colour))
    texts = {"title": command, "xlabel": str(config.setting), "ylabel": f"{config.metric} (%)"}
    plot_lines(lines, figure, ticks=config.listed, **texts)
    return "\n".join((_best(config, points), f"written: {figure}", f"written: {table}"))


def _best(config: SweepConfig, points: Sequence[SweepPoint]) -> str:
    """Text about the best value: by the validation metric if all runs have it, else by the test metric."""
    known = [point for point in points if point.test is not None]
    if not known:
        return "no value has a result"
    if any(point.validation is None for point in known):
        best = max(known, key=lambda point: point.test or 0.0)
        return f"best test {config.metric} {100 * (best.test or 0.0):.2f} at {config.setting} {best.value}"
    best = max(known, key=lambda point: point.validation or 0.0)
    text = f"best validation {config.metric} {100 * (best.validation or 0.0):.2f} at {config.setting} {best.value}"
    return f"{text}, test {config.metric} {100 * (best.test or 0.0):.2f} there"


def _whole(value: str, config: SweepConfig) -> int:
    """A seed. Raises: UserError when it is no whole number."""
    require(value.isascii() and value.isdigit(), f"--values {config.values}: {value!r} is no whole number of 0 or more")
    return int(value)


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
