"""Milliseconds of a step of every method, against the bare network; what faster settings give."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.gpu.plan import Plan, reason
from benchmarks.gpu.trainer import CASES, LATE, ON_HOST, VARIANTS, Case, Shape, Trainer
from engine.core.distributed import Runtime
from losses.common.functional import weighted_bce
from models.build import Architecture, build_model

Step = Callable[[], None]


class Table(NamedTuple):
    """Methods at one shape and precision; all of them where none is named."""

    shape: Shape
    precision: str
    methods: tuple[str, ...] = ()


_SEVEN = ("bce", "cones", "ndlp", "cls", "large_loss LL-R", "large_loss LL-Cp", "ignore")
TABLES = [
    Table(Shape("resnet101", 448, 64), "bf16", _SEVEN),
    Table(Shape("resnet101", 448, 16), "fp32", _SEVEN[:2]),
    Table(Shape("resnet50", 224, 64), "bf16", (*_SEVEN[:2], "cones memories on the host")),
    Table(Shape("resnet50", 224, 256), "bf16"),
]
SMALL = [Table(Shape("resnet18", 64, 4), "fp32", ("bce", "cones"))]


class Bare(NamedTuple):
    """How the bare network is trained; by default as the engine does it."""

    channels_last: bool = True
    fused: bool = True
    benchmark: bool = False
    compiled: bool = False
    optimizer: str = "sgd"


BARES: Mapping[str, Bare] = {
    "bare": Bare(),
    "channels first": Bare(channels_last=False),
    "not fused": Bare(fused=False),
    "cudnn.benchmark": Bare(benchmark=True),
    "adamw": Bare(optimizer="adamw"),
    "compiled": Bare(compiled=True),
}


def run(plan: Plan) -> None:
    """Write steps.json."""
    found: dict[str, Any] = {"peak": peak(plan), "tables": []}
    if plan.on_gpu:
        found["profile"] = profiled(TABLES[2], plan)
    found["settling"] = settling((SMALL if plan.small else TABLES[2:3])[0], plan)
    tables = SMALL if plan.small else TABLES
    found["tables"] = [{"shape": table.shape._asdict(), "precision": table.precision} for table in tables]
    for part in (of_methods, of_bare_network):  # the second takes long to compile, so all methods come first
        for table, rows in zip(tables, found["tables"], strict=True):
            for name, row in part(rows, table, plan):
                rows[name] = row
                plan.write("steps", found)


def of_methods(rows: Mapping[str, Any], table: Table, plan: Plan) -> Iterator[tuple[str, Any]]:
    """The bare network, and each method on it."""
    yield "bare", {"bare": _row(partial(bare, table.shape, BARES["bare"]), measured_and_counted, table, plan)}
    yield "methods", {}
    for case in CASES + VARIANTS + ON_HOST:
        if (not table.methods or case.name in table.methods) and plan.left > 0:
            made = partial(_trainer, case, table.shape)
            yield "methods", {**rows["methods"], case.name: _row(made, measured_and_counted, table, plan)}


def of_bare_network(rows: Mapping[str, Any], table: Table, plan: Plan) -> Iterator[tuple[str, Any]]:
    """The bare network in other ways."""
    for name, how in BARES.items():
        if name != "bare" and plan.left > 0 and (plan.on_gpu or name in ("channels first", "adamw")):
            yield "bare", {**rows["bare"], name: _row(partial(bare, table.shape, how), measured, table, plan)}


def _trainer(case: Case, shape: Shape, runtime: Runtime) -> Step:
    trainer = Trainer(case, runtime, shape)
    trainer.start(LATE)
    return trainer.step


def _row(
    make: Callable[[Runtime], Step], measure: Callable[[Step, Plan], dict[str, Any]], table: Table, plan: Plan
) -> dict[str, Any]:
    """What a step takes, on a device where nothing is left of what ran before."""
    runtime = Runtime(plan.device, table.precision)
    if plan.on_gpu:
        torch.cuda.reset_peak_memory_stats()
    try:
        return {**measure(make(runtime), plan), "GiB": _memory(plan)}
    except Exception as error:  # one that fails hides no other
        return {"error": reason(error)}
    finally:
        runtime.close()
        gc.collect()
        if plan.on_gpu:
            torch.cuda.empty_cache()


def _memory(plan: Plan) -> float | None:
    return round(torch.cuda.max_memory_allocated() / 2**30, 2) if plan.on_gpu else None


def measured_and_counted(step: Step, plan: Plan) -> dict[str, Any]:
    """What `measured` says, and the floating-point operations of a step."""
    return {**measured(step, plan), "flops": flops(step)}


def measured(step: Step, plan: Plan) -> dict[str, Any]:
    """Milliseconds a step, the best of several turns, and those that the host needs to issue it."""
    count, warm, seconds = (2, 1, 0.0) if plan.small else (6, 3, 1.0)
    for _ in range(warm):
        step()
    turns: list[tuple[float, float]] = []
    began = time.perf_counter()
    while len(turns) < 3 or time.perf_counter() - began < seconds:
        turns.append(_turn(step, count, plan))
    best = min(turns)
    return {"ms": round(best[0], 3), "issued ms": round(best[1], 3)}


def _turn(step: Step, count: int, plan: Plan) -> tuple[float, float]:
    """Milliseconds of one of so many steps until the device is done with them, and until they are issued."""
    plan.synchronize()
    began = time.perf_counter()
    for _ in range(count):
        step()
    issued = time.perf_counter() - began
    plan.synchronize()
    return 1e3 * (time.perf_counter() - began) / count, 1e3 * issued / count


def bare(shape: Shape, how: Bare, runtime: Runtime) -> Step:
    """A step of the bare network on images that stay on the device."""
    images = torch.rand(shape.batch, 3, shape.size, shape.size, device=runtime.device)
    images = images.to(memory_format=torch.channels_last) if how.channels_last else images
    step = bare_step(runtime, shape, how)
    return lambda: step(images)


def bare_step(runtime: Runtime, shape: Shape, how: Bare) -> Callable[[Tensor], None]:
    """Network, BCE, backward and optimiser: nothing of the engine."""
    torch.backends.cudnn.benchmark = how.benchmark
    network = build_model(Architecture.of(model=shape.model, weights="none"), shape.classes, 0)
    model = runtime.wrap(network)
    if not how.channels_last:
        network.to(memory_format=torch.contiguous_format)
    if how.compiled:
        model.compile()
    kind, more = {"sgd": (torch.optim.SGD, {"momentum": 0.9}), "adamw": (torch.optim.AdamW, {})}[how.optimizer]
    optimizer = kind(network.parameters(), lr=1e-4, **more, **({"fused": True} if how.fused else {}))
    targets = (torch.rand(shape.batch, shape.classes, device=runtime.device) < 0.1).float()
    network.train()

    def step(images: Tensor) -> None:
        optimizer.zero_grad()
        weighted_bce(model(images).logits, targets).backward()
        optimizer.step()

    return step


def profiled(table: Table, plan: Plan) -> dict[str, Any]:
    """Where the time of a CoNeS step goes: longest operations, milliseconds in which the GPU is busy, launches."""
    from torch.profiler import ProfilerActivity, profile

    runtime = Runtime(plan.device, table.precision)
    step = _trainer(Case("cones"), table.shape, runtime)
    for _ in range(6):
        step()
    plan.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as trace:
        for _ in range(4):
            step()
        plan.synchronize()
    runtime.close()
    events = trace.key_averages()
    kernels = [each for each in events if str(each.device_type).endswith("CUDA")]
    found: dict[str, Any] = {}
    for kind, key in (("on the GPU", "self_device_time_total"), ("on the host", "self_cpu_time_total")):
        longest = sorted(events, key=lambda each: -getattr(each, key))[:25]
        found[kind] = [(each.key[:60], each.count // 4, round(getattr(each, key) / 4e3, 3)) for each in longest]
    busy = sum(each.self_device_time_total for each in kernels)
    return {**found, "GPU busy ms": round(busy / 4e3, 2), "launches": sum(each.count for each in kernels) // 4}


def flops(step: Step) -> int:
    """Floating-point operations of one step, in all forward and backward passes that it takes."""
    counter = FlopCounterMode(display=False)
    with counter:
        step()
    return int(counter.get_total_flops())


def settling(table: Table, plan: Plan) -> list[float]:
    """Milliseconds a step of NDLP, turn by turn.

    The number of images that pass a second time changes from step to step, and for each number that is new cuDNN plans
    every convolution anew.
    """
    runtime = Runtime(plan.device, table.precision)
    step = _trainer(Case("ndlp"), table.shape, runtime)
    turns = [_turn(step, 2 if plan.small else 25, plan) for _ in range(3 if plan.small else 10)]
    runtime.close()
    return [round(milliseconds, 2) for milliseconds, _ in turns]


def peak(plan: Plan) -> dict[str, float]:
    """TFLOP/s of a large product of matrices in bfloat16: what the card can do."""
    side = 256 if plan.small else 8192
    a, b = (torch.randn(side, side, device=plan.device, dtype=torch.bfloat16) for _ in range(2))
    taken = measured(lambda: torch.mm(a, b), plan)["ms"]  # type: ignore[arg-type,return-value]
    return {"bf16 TFLOP/s": round(2 * side**3 / taken / 1e9, 3)}
