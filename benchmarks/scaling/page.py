"""The page of the results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.measure import markdown_table
from benchmarks.scaling.gpus import (
    BETWEEN,
    CORES,
    DECODERS,
    OVERLAP,
    PER_MACHINE,
    QUESTIONS,
    WITHIN,
    Asked,
    cores_needed,
    first_to_give,
    gpu_machine,
    job_of,
    predicted,
    read_results,
    read_seconds,
    step_line,
    with_cones,
)
from benchmarks.scaling.large import (
    LINE,
    Dataset,
    id_bytes,
    label_bytes,
    memory_bytes,
    order_bytes,
    path_bytes,
)
from benchmarks.scaling.model import Job, Link, Machine, epoch, training
from benchmarks.scaling.prediction import error, host_of, link_of, machine_of
from benchmarks.scaling.prediction import job_of as job_here
from benchmarks.scaling.prediction import predicted as predicted_here
from benchmarks.scaling.runs import WHOLE, Whole
from benchmarks.scaling.scene import Scene

Found = Mapping[str, Any]
GPUS = (1, 8, 64)
LARGE = Dataset(10**8, 5_000, 50, 5)
_SPEED_UP = (Whole("bce", 1), Whole("bce", 2))
GIB = 2**30
PARTS = (
    *("steps", "reading", "gradients", "exchanges", "forward passes of scoring", "figures", "order", "epoch start"),
    "saving",
)


def page(found: Found, scene: Scene) -> str:
    """Markdown of all that is there; what is missing is left out."""
    parts = [f"{found['machine']}. What they mean: [docs/scaling.md](../../docs/scaling.md)."]
    if {"host", "pieces 1", "pieces 2", "exchanges"} <= found.keys():
        parts += [*_pieces(found, scene), *_exchanges(found)]
        parts += [*_checked(found, scene)]
    if {"host", "exchanges"} <= found.keys():
        parts += [*_gpus(found), *_large()]
    return "\n\n".join(parts)


def _pieces(found: Found, scene: Scene) -> Iterator[str]:
    yield "## Pieces"
    yield (
        f"{scene.model}, {scene.side} px, {scene.classes} classes, files of 480 x 360 pixels, one thread a process. "
        "Steps were measured\n"
        f"with {', '.join(map(str, scene.tried))} images in turns; side by side: while another process did the "
        "same, without exchanges."
    )
    rows = []
    for method in ("bce", "cones"):
        lines = [machine_of(found, run._replace(method=method)).step for run in _SPEED_UP]
        rows.append((f"a step of {method}", *(f"{1e3 * line.fixed:.1f} + {1e3 * line.each:.2f} b" for line in lines)))
    for name, words in (("read", "reading"), ("forward", "scoring, read already"), ("decode", "decoding alone")):
        rows.append((f"{words}, of an image", *(f"{1e3 * found[f'pieces {count}'][name]:.2f}" for count in (1, 2))))
    yield markdown_table(("ms, b images", "one process", "two side by side"), rows)
    host = host_of(found)
    yield (
        f"Order of an epoch: {1e9 * host.order:.0f} ns an image. Figures of scores: {1e9 * host.figure:.0f} ns for "
        f"each image and class. Saving:\n{1e3 * host.save.fixed:.0f} ms and {1e9 * host.save.each:.2f} s a GB. CoNeS "
        f"before an epoch, 80 classes of a ResNet-50: {found['host']['epoch start']:.2f} s."
    )


def _exchanges(found: Found) -> Iterator[str]:
    link = link_of(found)
    yield "## Exchanges between two processes (gloo)"
    yield f"Fitted: {1e6 * link.latency:.0f} us, and {1e-9 / link.each:.2f} GB/s of what leaves a process."
    points = found["exchanges"]["points"]
    rows = [
        (
            f"{size:,}",
            *(f"{1e6 * value:.0f}" for value in (summed, link.reduced(size, 2), gathered, link.gathered(size, 2))),
        )
        for (size, summed), (_, gathered) in zip(points["reduced"], points["gathered"], strict=True)
    ]
    yield markdown_table(("bytes in all", "sum, us", "model", "gathered, us", "model"), rows)
    yield (
        "What a step exchanges beside gradients, counted in a step on two processes; one more each step says whether\n"
        "to stop or save. NDLP sends images of 64 px here."
    )
    rows = [
        (name, f"{row['exchanges']}", f"{row['reduced']:,}", f"{row['gathered']:,.0f}")
        for name, row in found["exchanges"]["methods"].items()
    ]
    yield markdown_table(("method", "exchanges", "bytes added up", "bytes gathered per image"), rows)


def _checked(found: Found, scene: Scene) -> Iterator[str]:
    yield "## Predicted, then run"
    yield (
        f"{scene.epochs} epochs of {scene.trained} images by the scripts, {scene.batch} images a step in each "
        f"process, {sum(scene.scored)} scored after each.\nPredicted from the pieces, and for the command from a run "
        "on few images, which shows what a start takes. Nothing of the\nruns below is in the prediction."
    )
    done = [run for run in WHOLE if {f"start {run.name}", f"run {run.name}"} <= found.keys()]
    cells = (row for run in done for row in _errors(found, scene, run))
    yield markdown_table(("", "predicted", "measured", "error"), cells)
    if set(_SPEED_UP) <= set(done):
        real = [found[f"run {run.name}"]["steps"] for run in _SPEED_UP]
        told = [predicted_here(found, scene, run).steps for run in _SPEED_UP]
        yield (
            f"Two processes train by {_SPEED_UP[0].method} at {50 * real[0] / real[1]:.0f} % of twice the speed of "
            f"one; predicted {50 * told[0] / told[1]:.0f} %."
        )
    yield "Seconds of an epoch by what takes them, as the model has it:"
    rows = [
        (run.name, *_seconds(epoch(machine_of(found, run), job_here(found, scene, run, scene.trained))))
        for run in WHOLE
        if f"start {run.name}" in found
    ]
    yield markdown_table(("run", *PARTS), rows)


def _errors(found: Found, scene: Scene, run: Whole) -> Iterator[Sequence[str]]:
    """What was predicted of a run, beside what it took."""
    told, real = predicted_here(found, scene, run), found[f"run {run.name}"]
    for part, words in (("steps", "all steps"), ("command", "command")):
        first, second = getattr(told, part), real[part]
        yield f"{run.name}: {words}", f"{first:.1f} s", f"{second:.1f} s", f"{100 * error(first, second):+.0f} %"


def _seconds(parts: Mapping[str, float]) -> list[str]:
    return [f"{parts[name]:.3g}" if parts.get(name) else "" for name in PARTS]


def _gpus(found: Found) -> Iterator[str]:
    steps, loader = read_results()
    line = step_line(steps, "bce")
    yield "## Many GPUs, by the model"
    speeds = (f"{1 / read_seconds(loader, decoder):.0f} images/s a core by {decoder}" for decoder in DECODERS)
    yield (
        f"A ResNet-50, 224 px, bf16, of which one H200 with {loader['cores']} cores was measured "
        f"([gpu](gpu/README.md)): a step takes {1e3 * line.fixed:.1f} ms and\n{1e3 * line.each:.3f} ms an image, "
        f"{', '.join(speeds)}. Orders, figures,\nsaving and CoNeS's epoch start are this machine's."
    )
    yield (
        f"Assumed, not measured: {_link(WITHIN)} up to {PER_MACHINE} GPUs, {_link(BETWEEN)} beyond; gradients travel\n"
        f"during {OVERLAP:g} of a step; a forward pass takes a third of a step; {CORES} cores a GPU; files come as\n"
        "fast as they are asked for. Reading is what is waited for, as these cores read while the GPU trains."
    )
    yield _held_against(gpu_machine(line, read_seconds(loader, "pillow"), host_of(found), 1), loader)
    for asked in QUESTIONS:
        yield f"### {asked.title}"
        rows = [row for method, decoder in _ASKED for row in _rows(found, asked, method, decoder)]
        yield markdown_table(("method, decoder", "GPUs", *PARTS, "epoch", "efficiency", "most beside steps"), rows)
    needs = [f"{cores_needed(line, read_seconds(loader, decoder), 256):.0f} by {decoder}" for decoder in DECODERS]
    yield f"Cores that keep up with one GPU at 256 images a step: {', '.join(needs)}."


def _held_against(machine: Machine, loader: Mapping[str, Any]) -> str:
    """The speed from files by the model, and the one that was measured."""
    measured = loader["training"]["resnet50 bf16, 224 px, batch 256, pillow, 16 workers"]["images/s"]
    speed = 10**6 / sum(training(machine, Job(*_MILLION)).values())
    return (
        f"One GPU, from files by pillow: by the model {speed:,.0f} images/s; measured were {measured:,.0f}, an error "
        f"of {100 * error(speed, measured):+.0f} %."
    )


_MILLION = 10**6, 0, 0, 1, 256, 0, 0
"""An epoch of so many images on one GPU, 256 a step, and nothing beside."""
_ASKED = (("bce", "pillow"), ("bce", "torchcodec"), ("cones", "torchcodec"))


def _link(link: Link) -> str:
    return f"{1e6 * link.latency:.0f} us and {1e-9 / link.each:.0f} GB/s"


def _rows(found: Found, asked: Asked, method: str, decoder: str) -> Iterator[Sequence[str]]:
    steps, loader = read_results()
    exchanged = found["exchanges"]["models"].get("resnet50", found["exchanges"]["methods"])["cones"]
    line, read, alone = step_line(steps, method), read_seconds(loader, decoder), 0.0
    for count in GPUS:
        job = job_of(asked, count)
        if method == "cones":
            job = with_cones(job, asked, exchanged, found["host"]["epoch start"])
        parts = predicted(gpu_machine(line, read, host_of(found), count), job)
        whole = sum(parts.values())
        alone = alone or whole
        shown = f"{whole:.3g}", f"{alone / count / whole:.2f}", first_to_give(parts)
        yield f"{method}, {decoder}", str(count), *_seconds(parts), *shown


def _large() -> Iterator[str]:
    _, loader = read_results()
    yield "## 100,000,000 images"
    yield (
        f"{LARGE.classes:,} classes, {LARGE.known} labels known of an image, {LARGE.candidates} candidates; labels "
        f"stored sparse. Each process has all of it,\nso a machine of {PER_MACHINE} GPUs has it {PER_MACHINE} times."
    )
    kept = {f"kept by {name}": size for name, size in memory_bytes(LARGE).items()}
    sizes = {"labels": label_bytes(LARGE), "ids": id_bytes(LARGE), "paths of files": path_bytes(LARGE)}
    sizes |= {"order of an epoch": order_bytes(LARGE), **kept}
    rows = [
        (name, f"{size / LARGE.images:,.0f}", f"{size / GIB:,.1f}", f"{PER_MACHINE * size / GIB:,.0f}")
        for name, size in sizes.items()
    ]
    yield markdown_table(("", "bytes an image", "GiB, a process", f"GiB, {PER_MACHINE} processes"), rows)
    wanted = GPUS[-1] * CORES / read_seconds(loader, "torchcodec")
    checking = LARGE.images * read_seconds(loader, "pillow") / CORES / 3600
    reading = LARGE.images * LINE / 3600
    yield (
        f"Before the first step: decoding every image once, on the {CORES} cores of one process, {checking:.0f} h\n"
        f"(`--no-check_images` leaves it out); a table of as many lines {reading:.2f} h of a core in each process.\n"
        f"While {GPUS[-1]} GPUs train, torchcodec on {CORES} cores each asks for {wanted:,.0f} files and "
        f"{wanted * loader['KB per file'] / 1e6:.0f} GB a second."
    )
