"""A plan on this machine: which runs have their line, which wait, and why others cannot run."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from engine.core.identity import identity_of, same_run
from engine.core.run_results import read_result
from engine.reproduction.figures import CHOSEN_BY, EVERY, line_of
from engine.reproduction.lines import FinishedLine, LineFile
from engine.reproduction.plan import Cell, Plan, RunOf, cells, first_runs
from engine.reproduction.planned import Planned, Resolver, check_tuning
from engine.reproduction.results import CellResult, Choice, cell_result, choice_of, tested_runs
from engine.reproduction.worker import Job, Outcome
from engine.training.config import recorded_settings
from utils.checks import UserError
from utils.console import warn


class Campaign:
    """The runs of a plan and what is known of them.

    Args:
        plan: the plan.
        resolver: resolves its runs.
        lines: its finished runs.
        work: the folder of all runs that are made here.
        like: the plan that chooses the settings, if another one does.
        keep_weights: True to leave the weights of runs that have their line.

    Raises:
        UserError: a flag of any row is wrong.
    """

    def __init__(
        self,
        plan: Plan,
        resolver: Resolver,
        lines: LineFile,
        work: Path,
        like: Campaign | None = None,
        *,
        keep_weights: bool = False,
    ) -> None:
        self.plan, self.resolver, self.lines, self.work, self.like = plan, resolver, lines, work, like
        self.keep_weights = keep_weights
        self.cells = cells(plan)
        self.failed: dict[str, str] = {}
        """Why runs have failed, by the hash of their settings."""
        for cell in self.cells:
            for run in first_runs(cell) or self._every_run(cell):
                check_tuning(self.planned(run))

    def planned(self, run: RunOf) -> Planned:
        """A run with its settings."""
        return self.resolver.plan(run)

    def find(self, run: RunOf) -> FinishedLine | None:
        """The line of a run, if it has one."""
        planned = self.planned(run)
        return self.lines.find(planned.method, planned.identity, planned.defaults)

    def reason(self, run: RunOf) -> str:
        """Why a run without a line cannot have one now; empty where it only waits."""
        return self.planned(run).lacks_data or self.failure(run)

    def failure(self, run: RunOf) -> str:
        """Why a run has failed here; empty where it has not."""
        return self.failed.get(self.planned(run).key, "")

    def results(self) -> list[CellResult]:
        """What the finished runs say about each cell."""
        self.lines.refresh()
        return [cell_result(cell, self.choice(cell), self.find, self.reason) for cell in self.cells]

    def choice(self, cell: Cell) -> Choice | None:
        """The setting of a cell; None where none is to be chosen, or not yet."""
        if self.like is None:
            return choice_of(cell, self.find, self.failure)
        assert cell.model is not None
        return self.like.choice(cell.model)

    def waiting(self, runs: Iterable[RunOf]) -> list[RunOf]:
        """Those of some runs that can be made now, each once though several cells share it."""
        left = {self.planned(run).key: run for run in runs if self.find(run) is None and not self.reason(run)}
        return list(left.values())

    def tested(self, cell: Cell) -> list[RunOf]:
        """The runs that a tuned cell is reported by, once its setting is chosen."""
        return tested_runs(cell, self.choice(cell))

    def jobs(self, runs: Iterable[RunOf]) -> Iterator[Job]:
        """Jobs of the runs that still wait when each is asked for; one that was finished meanwhile is read."""
        for run in runs:
            self.lines.refresh()
            planned = self.planned(run)
            if self.find(run) is None and not self._take_own(planned):
                yield Job(planned.slug, run.cell.row.script, planned.words, self.work)

    def take(self, run: RunOf, outcome: Outcome) -> str:
        """Keep the line of a run that has ended well, or why it has not; returns that reason."""
        planned = self.planned(run)
        if outcome.code == 0:
            return "" if self._take_own(planned, outcome.seconds) else self._fail(planned, "it left no result")
        return self._fail(planned, outcome.text or f"exit code {outcome.code}")

    def collect(self, folder: Path) -> int:
        """Keep the lines of finished runs below a folder that are runs of this plan; returns their number."""
        known: dict[str, list[Planned]] = {}
        for cell in self.cells:
            for run in self._every_run(cell):
                planned = self.planned(run)
                known.setdefault(planned.method, []).append(planned)
        return sum(self._collect_one(file.parent, known) for file in sorted(folder.rglob("result.json")))

    def _every_run(self, cell: Cell) -> list[RunOf]:
        """All runs that a cell may come to have."""
        later = [RunOf(cell, seed, setting) for setting in cell.settings for seed in cell.seeds]
        return [*first_runs(cell), *(later if cell.is_tuned else [])]

    def _collect_one(self, folder: Path, known: dict[str, list[Planned]]) -> bool:
        """Keep the line of one finished run if it is of this plan; one that cannot be read is said."""
        try:
            method = str(read_result(folder).get("method"))
            if method not in known:
                return False
            recorded = identity_of(recorded_settings(folder, method)[1])
            for planned in known[method]:
                if same_run(planned.identity, recorded, planned.defaults) and self.find(planned.run) is None:
                    self._keep(planned, folder, None)
                    return True
        except UserError as error:
            warn(f"note: {error}; passed over")
        return False

    def _take_own(self, planned: Planned, seconds: float | None = None) -> bool:
        """Keep the line of a run that is finished in its own folder here; False where there is none."""
        folder = self.work / planned.slug
        if not (folder / "result.json").exists():
            return False
        self.lines.refresh()
        if self.find(planned.run) is None:
            self._keep(planned, folder, seconds)
        if not self.keep_weights:
            _drop_weights(folder)
        return True

    def _keep(self, planned: Planned, folder: Path, seconds: float | None) -> None:
        row, regime = planned.run.cell.name
        tuning = planned.run.cell.plan.tuning
        columns = CHOSEN_BY if tuning and planned.run.seed == tuning.seed else EVERY
        line = line_of(folder, planned.identity, seconds, {"row": row, "regime": regime}, columns)
        self.lines.add(line, planned.defaults)

    def _fail(self, planned: Planned, why: str) -> str:
        self.failed[planned.key] = f"failed: {why}"
        return why


def _drop_weights(folder: Path) -> None:
    """Remove the weights and states of a finished run, which in a plan of many are all of its size."""
    shutil.rmtree(folder / "last", ignore_errors=True)
    (folder / "best.pth").unlink(missing_ok=True)
