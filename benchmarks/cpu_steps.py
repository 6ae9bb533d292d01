"""Methods beside bare networks on a CPU: `python -m benchmarks.cpu_steps [--output FILE]` (twelve minutes).

A step of each method, in the engine's own loop, beside a step of the bare network and, where a method needs further
forward passes, beside a step of nothing but these; and what an epoch of the size of COCO does between its steps. What
is done is kept beside FILE: `--resume` goes on from there. The machine must be idle: two threads that wait for each
other on a busy one take many times as long.
"""

from __future__ import annotations

import gc
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks import epoch_work
from benchmarks.epoch_work import COCO, Sizes
from benchmarks.gpu.trainer import CASES, LATE, VARIANTS, Case, Shape, Trainer
from benchmarks.kept import Kept
from benchmarks.measure import finish, machine, markdown_table, options
from benchmarks.passes import BareStep, Pass, is_bare, networks_of, taken_down
from engine.core.distributed import Runtime
from losses import CRITERIA

FIRST = ("bce", "an", "cones", "ndlp", "cls", "large_loss LL-R", "large_loss", "large_loss LL-Cp", "ignore")
"""The methods with a script of their own and their baselines; `large_loss` alone is LL-Ct."""
WARM_UP, ENOUGH = 2, 6.0
"""Turns before the first that counts; seconds after which the fewest turns will do."""
GOAL, GOAL_FURTHER, GOAL_WORK = 0.95, 0.90, 0.02


class Setting(NamedTuple):
    """Network and batch, and threads that it may use."""

    shape: Shape
    threads: int

    @property
    def title(self) -> str:
        """In words."""
        shape, plural = self.shape, "s" if self.threads > 1 else ""
        return f"{shape.model}, {shape.size} px, batch {shape.batch}, {self.threads} thread{plural}"


class Scale(NamedTuple):
    """How large everything is."""

    settings: tuple[Setting, ...]
    """In the order of their importance."""
    turns: tuple[int, int]
    """Fewest and most."""
    epoch: Sizes


LITE0, RESNET18 = Shape("timm/tf_efficientnet_lite0", 160, 16), Shape("resnet18", 160, 16)
FULL = Scale(tuple(Setting(shape, threads) for shape in (LITE0, RESNET18) for threads in (1, 2)), (5, 15), COCO)
SMALL = Scale((Setting(Shape("scenenet", 32, 4, 8), 1),), (2, 2), Sizes(200, 40, 60, 8, 4))


def cases() -> dict[str, Case]:
    """All methods by name, the important ones first; but for those that a network with a linear head cannot run."""
    every = {case.name: case for case in CASES + VARIANTS if "labels" not in CRITERIA[case.method].criterion.needs}
    return {name: every[name] for name in (*FIRST, *(name for name in every if name not in FIRST))}


def row_of(case: Case, setting: Setting, scale: Scale) -> dict[str, Any]:
    """What a step of a method takes beside the bare network; or the error that it ended with."""
    torch.set_num_threads(setting.threads)
    runtime = Runtime("cpu", "fp32")
    try:
        return measured(case, setting.shape, runtime, scale.turns)
    except Exception as error:  # a method that fails hides no other
        return {"error": f"{type(error).__name__}: {error}"[:200]}
    finally:
        runtime.close()
        gc.collect()


def measured(case: Case, shape: Shape, runtime: Runtime, turns: tuple[int, int]) -> dict[str, Any]:
    """Seconds of steps in turns: of the bare network, of the method, of the passes that the method takes."""
    trainer = Trainer(case, runtime, shape)
    trainer.start(LATE)
    model = trainer.loop.learner.model
    once = [Pass(0, shape.batch, learns=True)]
    bare, further = (BareStep(shape, runtime, networks) for networks in (1, len(networks_of(model))))
    bare.prepare(once)
    one = partial(turn, trainer, partial(bare, once), further)
    for _ in range(WARM_UP):
        one(bare_first=True)
    taken: list[Turn] = []
    began = time.perf_counter()
    while len(taken) < turns[0] or (len(taken) < turns[1] and time.perf_counter() - began < ENOUGH):
        taken.append(one(bare_first=len(taken) % 2 == 0))
    return summary(taken)


class Turn(NamedTuple):
    """Seconds of one step each."""

    bare: float
    method: float
    needed: float
    """Of the passes that the method took; of the bare step, where there was one pass."""


def turn(trainer: Trainer, bare: Callable[[], None], further: BareStep, *, bare_first: bool) -> Turn:
    """Take a step of the bare network, of the method, and of the passes that it took where they were not one alone."""
    plain = _seconds(bare) if bare_first else 0.0
    with taken_down(trainer.loop.learner.model) as passes:
        method = _seconds(trainer.step)
    needed = 0.0
    if not is_bare(passes, trainer.shape.batch):
        further.prepare(passes)
        needed = _seconds(partial(further, passes))
    plain = plain or _seconds(bare)
    return Turn(plain, method, needed or plain)


def _seconds(step: Callable[[], None]) -> float:
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


def summary(turns: Sequence[Turn]) -> dict[str, Any]:
    """Medians of the seconds, and of the ratios of each turn with the quartiles of the one that the goal is about."""
    further = any(each.needed != each.bare for each in turns)
    reached = [each.needed / each.method for each in turns]
    low, _, high = statistics.quantiles(reached, n=4, method="inclusive")
    return {
        **{f"{name} s": statistics.median(getattr(each, name) for each in turns) for name in Turn._fields},
        "bare / method": statistics.median(each.bare / each.method for each in turns),
        "needed / method": statistics.median(reached),
        "quartiles": [low, high],
        "further passes": further,
        "turns": len(turns),
    }


def around(scale: Scale) -> Iterator[tuple[str, Callable[[], Any]]]:
    """What an epoch does between its steps, by name, and what measures it."""
    sizes = scale.epoch
    yield "order", partial(epoch_work.order, sizes)
    yield "label rows", partial(epoch_work.label_rows, sizes)
    yield "scoring", partial(_with_runtime, partial(_scoring, sizes))
    yield "saving", partial(_with_runtime, partial(_saving, sizes))
    for name in FIRST:
        yield f"epoch start, {name}", partial(_with_runtime, partial(epoch_work.epoch_start, cases()[name], sizes))


def _scoring(sizes: Sizes, runtime: Runtime) -> dict[str, float]:
    return dict(epoch_work.scoring(sizes, runtime))


def _saving(sizes: Sizes, runtime: Runtime) -> dict[str, float]:
    trainer = Trainer(cases()["cones"], runtime, Shape("resnet18", 32, 2, sizes.classes), rows=sizes.train)
    trainer.start(1)
    trainer.step()
    with tempfile.TemporaryDirectory() as folder:
        return dict(epoch_work.saving(trainer, Path(folder)))


def _with_runtime(work: Callable[[Runtime], Any]) -> Any:
    torch.set_num_threads(1)
    runtime = Runtime("cpu", "fp32")
    try:
        return work(runtime)
    finally:
        runtime.close()


def measure(kept: Kept, scale: Scale, names: Sequence[str]) -> None:
    """Measure all that is not there, the important cases first, until time is over."""
    kept.describe(machine())
    kept.found["epoch"] = scale.epoch._asdict()
    every, first = cases(), scale.settings[0]
    important, others = [name for name in names if name in FIRST], [name for name in names if name not in FIRST]
    for setting in scale.settings:
        for name in important:
            kept.once(f"{setting.title}: {name}", partial(row_of, every[name], setting, scale))
        if setting == first:
            for part, work in around(scale):
                kept.once(f"epoch: {part}", work)
    for name in others:
        kept.once(f"{first.title}: {name}", partial(row_of, every[name], first, scale))


def page(found: Mapping[str, Any]) -> str:
    """The tables of what has been measured."""
    parts = [f"{found['machine']}.", _INTRODUCTION]
    tables: dict[str, dict[str, Any]] = {}
    for name, value in found.items():
        title, _, row = name.rpartition(": ")
        if title:
            tables.setdefault(title, {})[row] = value
    work = tables.pop("epoch", {})
    for title, rows in tables.items():
        parts += [f"## {title}", markdown_table(_HEADINGS, (_cells(name, row) for name, row in rows.items()))]
    if work and tables:
        bare = [row["bare s"] for rows in tables.values() for row in rows.values() if "bare s" in row]
        parts += ["## Between the steps of an epoch", *_between(work, found["epoch"], min(bare))]
    return "\n\n".join(parts)


_INTRODUCTION = (
    "Steps in turns in one process, medians of the turns; ratios are those of each turn. A bare step: the network,\n"
    "BCE, backward, SGD with momentum. Needed: a step of the same forward passes as the method's, on as many images\n"
    "and networks, without the method; where a method takes one pass it is the bare step. Goals: "
    f"{GOAL:g} of the bare\nnetwork's speed, or {GOAL_FURTHER:.2f} of that of the passes needed where there are more. "
    "`large_loss` alone is LL-Ct."
)
_HEADINGS = (
    *("method", "bare s", "method s", "bare / method", "needed s", "needed / method", "quartiles", "turns", "goal"),
)


def _cells(name: str, row: Mapping[str, Any]) -> tuple[str, ...]:
    if "error" in row:
        return name, f"failed: {row['error']}", *[""] * (len(_HEADINGS) - 2)
    goal = GOAL_FURTHER if row["further passes"] else GOAL
    reached = row["needed / method"] >= goal
    return (
        name,
        f"{row['bare s']:.3f}",
        f"{row['method s']:.3f}",
        f"{row['bare / method']:.3f}",
        f"{row['needed s']:.3f}" if row["further passes"] else "",
        f"{row['needed / method']:.3f}",
        " to ".join(f"{value:.3f}" for value in row["quartiles"]),
        str(row["turns"]),
        f"{goal:.2f}{'' if reached else ' (missed)'}",
    )


def _between(work: Mapping[str, Any], sizes: Mapping[str, int], bare: float) -> Iterator[str]:
    """The seconds of each part, and their share of the steps of an epoch, of which the fastest bare one is given."""
    flat: dict[str, float] = {}
    for name, value in work.items():
        flat |= value if isinstance(value, dict) else {name: value}
    epoch = bare * sizes["train"] / sizes["batch"]
    starts = {name: value for name, value in flat.items() if name.startswith("epoch start")}
    total = sum(value for name, value in flat.items() if name not in starts) + max(starts.values(), default=0.0)
    yield (
        f"{sizes['train']:,} training, {sizes['validation']:,} validation and {sizes['test']:,} test images, "
        f"{sizes['classes']} classes, one thread.\nForward passes and the opening of images are not in it. Shares are "
        f"of the {epoch:,.0f} s that the steps of an\nepoch of the fastest bare network above take."
    )
    rows = [(name, f"{value:.3g} s", f"{100 * value / epoch:.2g} %") for name, value in flat.items()]
    verdict = "reached" if total / epoch < GOAL_WORK else "missed"
    longest = f"all, with the longest epoch start; goal {100 * GOAL_WORK:g} %, {verdict}"
    rows.append((longest, f"{total:.3g} s", f"{100 * total / epoch:.2g} %"))
    yield markdown_table(("part", "seconds", "share"), rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write. A missed goal is no error."""
    parser = options("cpu_steps", __doc__)
    parser.add_argument("--resume", action="store_true", help="keep what is there already")
    parser.add_argument("--minutes", type=float, default=12, help="after which no case is begun")
    parser.add_argument("--methods", nargs="+", choices=tuple(cases()), default=tuple(cases()), help="(default: all)")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to try the command itself")
    given = parser.parse_args(argv)
    path = given.output.with_suffix(".json") if given.output else None
    kept = Kept(path, given.resume, 60 * given.minutes)
    measure(kept, SMALL if given.small else FULL, given.methods)
    finish("cpu_steps", "Methods beside bare networks on a CPU", page(kept.found), given.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
