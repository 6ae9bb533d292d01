"""The same steps on CPU and GPU from one start, for every method; then whole runs on digits, on both."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from torch import Tensor

from benchmarks.gpu.plan import Plan, reason
from benchmarks.gpu.runs import DIGITS, Job, figures, train
from benchmarks.gpu.trainer import CASES, LATE, ON_HOST, VARIANTS, Case, Shape, Trainer
from engine.core.distributed import Runtime
from engine.core.kernels import KernelConfig

SHAPE = Shape("scenenet", 40, 16, classes=10)
STEPS = 2
FEW = ("bce", "cones", "large_loss", "cls", "ndlp", "ignore")


class Trained(NamedTuple):
    """A method after a few steps: the losses added up, after each epoch, and the tensors of criterion and network."""

    losses: list[dict[str, float]]
    tensors: dict[str, Tensor]


def run(plan: Plan) -> None:
    """Write parity.json: relative differences of the GPU from the CPU."""
    found: dict[str, Any] = {"steps": {}, "digits": {}}
    with ThreadPoolExecutor(8) as pool:
        runs = {name: pool.submit(train, plan, job) for name, job in _digits(plan).items()}
        for case in [case for case in CASES if case.method in FEW] if plan.small else CASES + VARIANTS + ON_HOST:
            found["steps"][case.name] = compared(case, plan)
            plan.write("parity", found)
        for name, result in runs.items():
            found["digits"][name] = figures(result.result())
            plan.write("parity", found)


def compared(case: Case, plan: Plan) -> dict[str, Any]:
    """Largest relative differences of losses, of the state of the method, and of the network."""
    try:
        cpu, gpu = trained(case, "cpu"), trained(case, plan.device)
    except Exception as error:  # one method that fails hides no other
        return {"error": reason(error)}
    apart = {name: _apart(value, gpu.tensors[name]) for name, value in cpu.tensors.items()}
    return {
        "losses of epoch 1": _losses_apart(cpu.losses[:1], gpu.losses[:1]),
        "losses": _losses_apart(cpu.losses, gpu.losses),
        "method": max((gap for name, gap in apart.items() if name.startswith("criterion.")), default=0.0),
        "network": max(gap for name, gap in apart.items() if name.startswith("network.")),
        "finite": all(bool(value.isfinite().all()) for value in gpu.tensors.values()),
    }


def trained(case: Case, device: str) -> Trained:
    """A method after some steps of an early and of a late epoch, in float32."""
    runtime = Runtime(device, "fp32", KernelConfig(tf32=False))
    trainer, losses = Trainer(case, runtime, SHAPE, rows=64), []
    for epoch in (1, LATE):
        trainer.start(epoch)
        for _ in range(STEPS):
            trainer.step()
        losses.append(trainer.losses())
    parts = {"criterion": trainer.criterion, "network": trainer.network}
    tensors = {
        f"{part}.{name}": value.detach().cpu().double()
        for part, module in parts.items()
        for name, value in module.state_dict().items()
        if isinstance(value, Tensor)
    }
    runtime.close()
    gc.collect()
    return Trained(losses, tensors)


def _apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / one.norm().clamp(min=1e-12))


def _losses_apart(one: list[dict[str, float]], other: list[dict[str, float]]) -> float:
    pairs = [(a[name], b[name]) for a, b in zip(one, other, strict=True) for name in a]
    return max(abs(a - b) / max(abs(a), 1e-6) for a, b in pairs)


def _digits(plan: Plan) -> dict[str, Job]:
    """Whole runs by the plain commands, on the CPU and, in three precisions, on the GPU."""
    if plan.small:
        return {"CoNeS cpu fp32": Job("CoNeS", "cpu", "fp32", ("--epochs", "1", "--warmup_epoch", "0"))}
    jobs = [Job(method, device, "fp32") for method in DIGITS for device in ("cpu", "cuda")]
    jobs += [Job("CoNeS", "cuda", "bf16"), Job("CLS", "cuda", "bf16"), Job("CoNeS", "cuda", "fp16")]
    return {f"{job.method} {job.device} {job.precision}": job for job in jobs}
