"""Exchanges between two processes of this machine: what they cost by their bytes, and which a step of a method makes.

`torchrun --nproc_per_node 2 -m benchmarks.scaling.exchanges FILE [small]` writes FILE.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist

from benchmarks.epoch_work import seconds_of
from benchmarks.gpu.trainer import CASES, LATE, VARIANTS, Case, Shape, Trainer
from benchmarks.scaling.scene import FULL, ROOT, SMALL, launched
from engine.core.distributed import Runtime
from utils.collectives import all_sum, gather_dealt

SIZES = (8, 1 << 12, 1 << 16, 1 << 20, 1 << 22, 1 << 24)
TURNS = 15
COUNTED = ("bce", "cones", "ndlp", "cls", "large_loss LL-R", "ignore")
SIDE, BATCH = 64, 32


def measure_exchanges(folder: Path, *, small: bool) -> dict[str, Any]:
    """Start two processes, and return what the first of them found."""
    path = folder / "exchanges.json"
    words = launched(2, "-m", "benchmarks.scaling.exchanges", str(path), *(["small"] if small else []))
    subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def points() -> dict[str, list[tuple[int, float]]]:
    """(bytes, seconds) of sums and of gathered rows, which take so many bytes in all."""
    found: dict[str, list[tuple[int, float]]] = {"reduced": [], "gathered": []}
    for size in SIZES:
        whole, own = torch.zeros(size // 4), torch.zeros(size // 8, 1)
        found["reduced"].append((size, seconds_of(partial(all_sum, whole), TURNS)))
        found["gathered"].append((size, seconds_of(partial(gather_dealt, own, 2 * len(own)), TURNS)))
    return found


@contextmanager
def counted() -> Iterator[list[tuple[str, int]]]:
    """A block in which every exchange but those of gradients is put into a list: its kind, and its bytes in all."""
    made: list[tuple[str, int]] = []
    kinds = {"all_reduce": "reduced", "broadcast": "reduced", "all_gather": "gathered", "all_to_all_single": "gathered"}
    before = {name: getattr(dist, name) for name in kinds}

    def noted(name: str, way: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(way)
        def call(*given: Any, **more: Any) -> Any:
            tensors = given[0] if isinstance(given[0], list) else [given[0]]
            made.append((kinds[name], sum(each.nbytes for each in tensors)))
            return way(*given, **more)

        return call

    for name, way in before.items():
        setattr(dist, name, noted(name, way))
    try:
        yield made
    finally:
        for name, way in before.items():
            setattr(dist, name, way)


def of_step(case: Case, model: str, runtime: Runtime, classes: int) -> dict[str, float]:
    """Number of exchanges in a step of a method, bytes that are added up, and bytes that are gathered per image."""
    trainer = Trainer(case, runtime, Shape(model, SIDE, BATCH, classes))
    trainer.start(LATE)
    trainer.step()  # by its first confidences NDLP mixes nothing
    with counted() as made:
        trainer.step()
    sums = {kind: sum(size for each, size in made if each == kind) for kind in ("reduced", "gathered")}
    return {"exchanges": len(made), "reduced": sums["reduced"], "gathered": sums["gathered"] / BATCH}


def main(path: Path, *, small: bool) -> None:
    """Measure on both processes; the first writes."""
    torch.set_num_threads(1)
    runtime, scene = Runtime("cpu", "fp32"), SMALL if small else FULL
    every = {case.name: case for case in CASES + VARIANTS}
    found: dict[str, Any] = {"points": points(), "methods": {}, "models": {}}
    for name in COUNTED:
        found["methods"][name] = of_step(every[name], scene.model, runtime, scene.classes)
    if not small:
        found["models"]["resnet50"] = {"cones": of_step(every["cones"], "resnet50", runtime, scene.classes)}
    if runtime.is_main:
        path.write_text(json.dumps(found))
    runtime.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), small="small" in sys.argv[2:])
