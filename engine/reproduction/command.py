"""`reproduce.py`: the runs of a plan that are missing, and its tables."""

from __future__ import annotations

import os
import re
import shlex
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.core.setting_table import training_names
from engine.core.settings import Command, parse_settings
from engine.reproduction.campaign import Campaign
from engine.reproduction.estimate import duration, expected_seconds
from engine.reproduction.lines import FILE, LineFile
from engine.reproduction.overview import draw_overview
from engine.reproduction.plan import Cell, RunOf, first_runs, shard
from engine.reproduction.plan_file import read_plan
from engine.reproduction.planned import Given, Resolver
from engine.reproduction.runner import Start, Workers
from engine.reproduction.scripts import Scripts
from engine.reproduction.tables import tables
from engine.reproduction.worker import BUSY, STOPPED
from engine.reproduction.writers import write_tables
from utils.checks import Interrupted, require
from utils.console import say, warn
from utils.options import option
from utils.safe_files import make_folder

_SHARD = re.compile(r"([1-9]\d*)/([1-9]\d*)")
TABLES = Path("docs") / "reproduction"
WORK = Path("runs")


@dataclass(frozen=True, kw_only=True)
class ReproduceConfig:
    """Which runs of a plan are made, where, and what they are given."""

    dry_run: bool = option(False, "print what is to run, with an estimate of the time, and stop")
    tables_only: bool = option(False, "run nothing; collect, and write the tables")
    jobs: int = option(1, "runs at once, each in a process of its own")
    shard: str | None = option(None, "i/n: only the i-th of n parts of the plan, for array jobs")
    data: tuple[str, ...] | None = option(None, "folders of datasets: NAME=FOLDER, with commas between several")
    flags: str | None = option(None, "further flags for every run, such as '--precision bf16'")
    collect: tuple[str, ...] | None = option(
        None, "folders with runs of anywhere, searched for finished ones of this plan"
    )
    output: Path | None = option(
        None, "folder of the tables and the finished lines (default: docs/reproduction/<plan>)"
    )
    work: Path | None = option(None, "folder of the runs (default: runs/<plan>)")

    keep_weights: bool = option(False, "leave the weights of each run, which are removed once it has its line")

    def __post_init__(self) -> None:
        require(self.jobs >= 1, f"--jobs {self.jobs}: must be at least 1")
        fits = self.shard is None or (_SHARD.fullmatch(self.shard) is not None and self.part[0] <= self.part[1])
        require(fits, f"--shard {self.shard}: must be i/n with i from 1 to n, such as 2/8")
        wrong = [each for each in self.data or () if not all(each.partition("="))]
        require(not wrong, f"--data {wrong and wrong[0]}: must be NAME=FOLDER, such as voc07=Dataset/VOCdevkit")

    @property
    def part(self) -> tuple[int, int]:
        """The part of the plan that is run, and how many there are."""
        number, count = (self.shard or "1/1").split("/")
        return int(number), int(count)

    @property
    def given(self) -> Given:
        """What every run is given."""
        folders = {each.partition("=")[0]: Path(each.partition("=")[2]).expanduser() for each in self.data or ()}
        return Given(folders, tuple(shlex.split(self.flags or "")))


REPRODUCE = Command(
    program="reproduce.py",
    about="Run what is missing of a plan, and write its tables.",
    groups={"plan": (ReproduceConfig,)},
    words="PLAN.yaml",
)
COMMANDS = (REPRODUCE,)


def reproduce_command(argv: Sequence[str] | None, *, scripts: Scripts, start: Start = "spawn") -> int:
    """Make the missing runs of a plan, keep a line of each, write the tables.

    Args:
        argv: the command line without the program, None for the real one.
        scripts: the training scripts.
        start: how processes begin.

    Returns:
        The exit code: 1 where a run has failed.

    Raises:
        UserError: the plan, or a flag of any of its rows, is wrong; raised before anything is run.
    """
    require(int(os.environ.get("WORLD_SIZE", "1")) == 1, "reproduce.py: start it without a launcher; see --jobs")
    settings = parse_settings(REPRODUCE, argv, elsewhere=training_names())
    require(len(settings.words) == 1, "reproduce.py: name one plan, such as configs/plans/digits.yaml")
    return reproduce(Path(settings.words[0]), settings.of(ReproduceConfig), scripts, start)


def reproduce(path: Path, config: ReproduceConfig, scripts: Scripts, start: Start = "spawn") -> int:
    """The same for a plan and the settings of the command."""
    plan = read_plan(path, list(scripts))
    output, work = config.output or TABLES / plan.name, config.work or WORK / plan.name
    resolver, like = Resolver(scripts, config.given), None
    if plan.like is not None:  # its lines lie beside those of this plan; --flags are for the runs of this one
        own = Resolver(scripts, config.given._replace(flags=()))
        like = Campaign(plan.like, own, LineFile(output.parent / plan.like.name / FILE), WORK / plan.like.name)
    campaign = Campaign(plan, resolver, LineFile(output / FILE), work, like, keep_weights=config.keep_weights)
    for folder in config.collect or ():
        say(f"{folder}: {campaign.collect(Path(folder).expanduser())} finished runs of this plan")
    part = shard(campaign.cells, *config.part)
    announce(campaign, part, config)
    if config.dry_run:
        return 0
    code = 0
    try:
        if not config.tables_only:
            make_folder(work, "--work")
            code = run_part(campaign, part, config.jobs, start)
    except (KeyboardInterrupt, Interrupted) as stop:
        number = stop.number if isinstance(stop, Interrupted) else signal.SIGINT
        warn("stopped; what was running is saved, and the same command goes on")
        code = 128 + number
    finally:
        found = tables(plan, campaign.results())
        for file in (*write_tables(output, plan, found), *draw_overview(output, plan, found)):
            say(f"written: {file}")
    return code


Part = Sequence[tuple[Cell, tuple[int, ...]]]
"""Cells, each with the seeds that are run."""


def runs_of(part: Part) -> list[RunOf]:
    """The runs of a part of the plan that wait for no other."""
    return [run for cell, seeds in part for run in first_runs(cell) if cell.is_tuned or run.seed in seeds]


def announce(campaign: Campaign, part: Part, config: ReproduceConfig) -> None:
    """Print how much is to run, in a dry run also what, and what cannot."""
    first = runs_of(part)
    later = sum(len(cell.seeds) for cell, _ in part if cell.is_tuned and not campaign.tested(cell))
    ready = [run for cell, _ in part if cell.is_tuned for run in campaign.tested(cell)]
    waiting = campaign.waiting([*first, *ready])
    finished = sum(campaign.find(run) is not None for run in (*first, *ready))
    lines = list(campaign.lines)
    expected = [expected_seconds(run, lines) for run in waiting]
    if config.dry_run:
        for run, seconds in zip(waiting, expected, strict=True):
            say(f"  to run: {run.title}" + (f" (about {duration(seconds)})" if seconds is not None else ""))
    lacking = [run for run in (*first, *ready) if campaign.find(run) is None and campaign.reason(run)]
    for reason, number in _counted(campaign.reason(run) for run in lacking):
        say(f"  not run: {number} x {reason}")
    total = [seconds for seconds in expected if seconds is not None]
    told = f", about {duration(sum(total) / len(total) * len(waiting) / config.jobs)}" if total else ""
    after = f", then {later} once settings are chosen" if later else ""
    say(f"{campaign.plan.title}: {finished} runs finished, {len(waiting)} to run{told}{after}")


def run_part(campaign: Campaign, part: Part, jobs: int, start: Start) -> int:
    """Make the runs of a part of the plan; returns 1 where one has failed.

    Regime by regime, so that a plan which is stopped has some that are done.

    Raises: KeyboardInterrupt, Interrupted when it is stopped; what was running is saved then.
    """
    with _stopped_by_signal(), Workers(jobs, campaign.resolver.scripts, start) as workers:
        for regime in dict.fromkeys(cell.regime.name for cell, _ in part):
            held = [(cell, seeds) for cell, seeds in part if cell.regime.name == regime]
            run_all(campaign, runs_of(held), workers)
            campaign.lines.refresh()  # another process may have made runs that a choice waits for
            tuned = [cell for cell, _ in held if cell.is_tuned]
            run_all(campaign, [run for cell in tuned for run in campaign.tested(cell)], workers)
    return int(bool(campaign.failed))


def run_all(campaign: Campaign, runs: Sequence[RunOf], workers: Workers) -> None:
    """Make those of some runs that wait; say how each has ended."""
    waiting = campaign.waiting(runs)
    by_name = {campaign.planned(run).slug: run for run in waiting}
    for number, outcome in enumerate(workers.run(campaign.jobs(waiting)), 1):
        run, head = by_name[outcome.job.name], f"[{number}/{len(waiting)}] {by_name[outcome.job.name].title}: "
        if outcome.code == BUSY:
            say(f"{head}{outcome.text}")
        elif outcome.code > STOPPED:
            warn(f"{head}stopped by a signal; the same command goes on with it")
        elif why := campaign.take(run, outcome):
            warn(f"{head}failed: {why} ({outcome.job.log})")
        else:
            say(f"{head}{_told(campaign, run)}, {duration(outcome.seconds)}")


def _told(campaign: Campaign, run: RunOf) -> str:
    """The compared figure of a finished run."""
    line, figure = campaign.find(run), campaign.plan.figures[0]
    value = line.figures.get(figure) if line else None
    return f"{figure} {100 * value:.2f}" if value is not None else "done"


def _counted(reasons: Iterator[str]) -> list[tuple[str, int]]:
    """Reasons and how often each was given."""
    listed = list(reasons)
    return [(reason, listed.count(reason)) for reason in dict.fromkeys(listed)]


@contextmanager
def _stopped_by_signal() -> Iterator[None]:
    """SIGTERM ends what is inside with `Interrupted`, as a Ctrl-C does with `KeyboardInterrupt`."""

    def stop(number: int, frame: Any) -> None:
        raise Interrupted(number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
