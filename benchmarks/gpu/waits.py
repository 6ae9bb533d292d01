"""Places in the code at which a training step waits for the GPU."""

from __future__ import annotations

import gc
import traceback
import warnings
from collections import Counter
from typing import Any

import torch

from benchmarks.gpu.plan import Plan, reason
from benchmarks.gpu.runs import ROOT
from benchmarks.gpu.trainer import CASES, LATE, ON_HOST, VARIANTS, Case, Shape, Trainer
from engine.core.distributed import Runtime
from engine.training.optim import OptimConfig
from models.heads import HEADS

SHAPE = Shape("scenenet", 40, 16, classes=10)
ROOMS = tuple(f"{ROOT}/{room}/" for room in ("engine", "losses", "models", "data", "utils"))
HALF = ("bce", "cones", "cls", "ndlp", "ignore")  # methods that are tried in half precision too

ADAMW = OptimConfig(optimizer="adamw", lr=1e-4, warmup_epoch=0.0, clip_grad=1.0)
MORE = [
    *(Case("bce", note=head, head=head) for head in HEADS if head != "linear"),
    Case("bce", note="clip_grad adamw", optim=ADAMW),
    Case("bce", note="tresnet_m", model="tresnet_m"),
]


def run(plan: Plan) -> None:
    """Write waits.json: by method and precision, how often one step of each of three epochs waits, and where."""
    found = {}
    for precision in ("fp32", "bf16") if plan.small else ("fp32", "bf16", "fp16"):
        for case in CASES + VARIANTS + ON_HOST + MORE:
            if case.method in HALF or (precision == "fp32" and not plan.small):
                found[f"{case.name} {precision}"] = _of_case(case, precision, plan)
    found["bce --ema fp32"] = _of_case(Case("bce"), "fp32", plan, ema=0.99)
    plan.write("waits", found)


def _of_case(case: Case, precision: str, plan: Plan, ema: float | None = None) -> dict[Any, Any]:
    try:
        runtime = Runtime(plan.device, precision)
        shape = SHAPE._replace(size=64) if case.model else SHAPE
        trainer, seen = Trainer(case, runtime, shape, rows=64, ema=ema), {}
        for epoch in (1, 2, LATE):
            trainer.start(epoch)
            trainer.step()
            trainer.step()
            plan.synchronize()
            seen[epoch] = dict(_places(trainer, plan))
        runtime.close()
    except Exception as error:  # one method that fails hides no other
        return {"error": reason(error)}
    finally:
        gc.collect()
    return {epoch: places for epoch, places in seen.items() if places}


def _places(trainer: Trainer, plan: Plan) -> Counter[str]:
    """The places at which one step waits, by PyTorch's own warnings."""
    places: Counter[str] = Counter()

    def note(message: Warning | str, *_: object, **__: object) -> None:
        if "synchroniz" in str(message):
            frames = [frame for frame in traceback.extract_stack() if frame.filename.startswith(ROOMS)]
            inner = frames[-1] if frames else None
            places[f"{inner.filename[len(str(ROOT)) + 1 :]}:{inner.lineno}" if inner else "elsewhere"] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        if plan.on_gpu:
            torch.cuda.set_sync_debug_mode("warn")
        try:
            trainer.step()
        finally:
            if plan.on_gpu:
                torch.cuda.set_sync_debug_mode("default")
    return places
