"""Images per second from JPEG files: of the loader by workers and decoder, and from file to step."""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from PIL import Image

from benchmarks.gpu.plan import Plan, reason
from benchmarks.gpu.runs import folder_of
from benchmarks.gpu.steps import Bare, bare_step
from benchmarks.gpu.trainer import Case, Shape, Trainer, observed_codes
from benchmarks.loading import published_passes
from data.images.decoders import Decoder
from data.images.files import FileImages
from data.loading.loader import ImageLoader, build_loader
from data.loading.samplers import ShuffledBatches
from data.loading.transforms import normalizer, train_transform
from engine.core.distributed import Runtime
from utils.types import Annotations, LabelTable

FILES = 2048
PASSES = 8  # over the files in an epoch: with few batches in it the processes would often wait for its end
CLASSES = 80


class Setting(NamedTuple):
    """A way of loading, and for training the network behind it."""

    shape: Shape
    workers: int
    decoder: Decoder = "pillow"
    precision: str = "bf16"

    @property
    def name(self) -> str:
        """Name in the tables."""
        return f"{self.shape.size} px, batch {self.shape.batch}, {self.decoder}, {self.workers} workers"

    def loads_as(self, name: str) -> bool:
        """True if a setting of this name loads as fast: all but the batch size is the same."""
        return name.startswith(f"{self.shape.size} px,") and name.endswith(self.name.split(", ", 2)[2])


def run(plan: Plan) -> None:
    """Write loader.json."""
    paths = drawn(folder_of(plan, "photographs"), 48 if plan.small else FILES)
    kilobytes = sum(Path(path).stat().st_size for path in paths) / len(paths) / 1024
    found: dict[str, Any] = {"cores": _cores(), "KB per file": round(kilobytes, 1), "side": "640 x 480"}
    found |= {"shm GiB": round(shutil.disk_usage("/dev/shm").total / 2**30, 1), "loader": {}, "training": {}}
    data = annotations(paths if plan.small else paths * PASSES)
    for part, measure, settings in (("loader", throughput, _loaders(plan)), ("training", training, _trainings(plan))):
        for setting in settings:
            if plan.left > 0:
                row = _tried(partial(measure, data, setting, plan))
                found[part][_named(part, setting)] = row | _share(row, setting, found["loader"])
                plan.write("loader", found)
    if plan.on_gpu and "torchcodec" in _decoders():
        found["decoded by the GPU, 64 files at once"] = _tried(partial(decoded_by_gpu, paths))
    if plan.left > 0:
        found["published way"] = {"images/s": published(paths, plan)}
        plan.write("loader", found)
    shutil.rmtree(folder_of(plan, "photographs"))


def _tried(measure: Any) -> Any:
    try:
        return measure()
    except Exception as error:  # one that fails hides no other
        return {"error": reason(error)}


def _share(row: Mapping[str, Any], setting: Setting, loaders: Mapping[str, Any]) -> dict[str, float]:
    """The speed of training from files against the slower of its step and its loader."""
    loader = next((rate for name, rate in loaders.items() if setting.loads_as(name)), {}).get("images/s")
    step = row.get("with images in memory")
    return (
        {"of the slower of step and loader": round(row["images/s"] / min(step, loader), 2)} if step and loader else {}
    )


def _named(part: str, setting: Setting) -> str:
    return setting.name if part == "loader" else f"{setting.shape.model} {setting.precision}, {setting.name}"


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _decoders() -> list[Decoder]:
    return cast(list[Decoder], ["pillow", *(["torchcodec"] if importlib.util.find_spec("torchcodec") else [])])


def _loaders(plan: Plan) -> list[Setting]:
    if plan.small:
        return [Setting(Shape("", 64, 4), workers, decoder) for workers in (0, 1) for decoder in _decoders()]
    shapes, workers = (Shape("", 224, 64), Shape("", 448, 16)), (0, _cores())
    return [Setting(shape, number, decoder) for shape in shapes for decoder in _decoders() for number in workers]


def _trainings(plan: Plan) -> list[Setting]:
    if plan.small:
        return [Setting(Shape("resnet18", 64, 4), 1)]
    large, usual = Shape("resnet101", 448, 64), Shape("resnet50", 224, 256)
    found = [Setting(shape, _cores(), decoder) for shape in (large, usual) for decoder in _decoders()[-1:]]
    return [*found, Setting(large, _cores()), Setting(large._replace(batch=16), _cores(), precision="fp32")]


def drawn(folder: Path, number: int) -> list[str]:
    """Files of about the size and weight of COCO's: 640 x 480, 100 to 160 KB."""
    folder.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(_cores()) as pool:
        return list(pool.map(partial(_draw, folder), range(number), chunksize=16))


def _draw(folder: Path, number: int) -> str:
    rng = np.random.default_rng(number)
    coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)).resize(
        (640, 480), Image.Resampling.BICUBIC
    )
    pixels = np.asarray(coarse, dtype=np.int16) + rng.normal(0, 9, (480, 640, 1)).astype(np.int16)
    path = folder / f"{number:05d}.jpg"
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=88)
    return str(path)


def annotations(paths: list[str]) -> Annotations:
    """The files with random labels."""
    table = LabelTable(observed_codes("candidate", len(paths), CLASSES))
    return Annotations(FileImages(paths), tuple(map(str, range(len(paths)))), tuple(map(str, range(CLASSES))), table)


def loader_of(data: Annotations, setting: Setting, batches: ShuffledBatches, plan: Plan) -> ImageLoader:
    """A loader as training makes it."""
    return build_loader(
        data,
        data.truth,
        [train_transform("crop", setting.shape.size)],
        batches,
        normalizer=normalizer("imagenet"),
        decoder=setting.decoder,
        seed=0,
        num_workers=setting.workers,
        pin_memory=plan.on_gpu,
    )


def endless(loader: ImageLoader, batches: ShuffledBatches) -> Iterator[Any]:
    """Batches, epoch after epoch."""
    for epoch in itertools.count(1):
        batches.set_epoch(epoch)
        yield from loader


def throughput(data: Annotations, setting: Setting, plan: Plan) -> dict[str, float]:
    """Images per second once the workers are at it."""
    batches = ShuffledBatches(len(data), setting.shape.batch, seed=0)
    source = endless(loader_of(data, setting, batches, plan), batches)
    began = time.perf_counter()
    next(source)
    first = time.perf_counter() - began
    for _ in range(4 * setting.workers):  # what was loaded ahead is not counted
        next(source)
    return {
        "images/s": _rate(source, setting.shape.batch, 0.5 if plan.small else 2.5),
        "first batch s": round(first, 2),
    }


def _rate(source: Iterator[Any], size: int, seconds: float) -> float:
    began, seen = time.perf_counter(), 0
    while (passed := time.perf_counter() - began) < seconds:
        next(source)
        seen += size
    return round(seen / passed, 1)


def decoded_by_gpu(paths: list[str]) -> dict[str, float]:
    """Images per second that torchcodec decodes on the GPU, not resized."""
    decode = importlib.import_module("torchcodec.decoders").decode_jpeg
    files = [Path(path).read_bytes() for path in paths[:256]]
    batches = (decode(files[at : at + 64], device="cuda") for at in itertools.cycle(range(0, len(files), 64)))
    next(batches)
    return {"images/s": _rate(batches, 64, 2.0)}


def training(data: Annotations, setting: Setting, plan: Plan) -> dict[str, float]:
    """Images per second of CoNeS: with images in memory, and from files."""
    runtime, batch = Runtime(plan.device, setting.precision), setting.shape.batch
    trainer = Trainer(Case("cones"), runtime, setting.shape, rows=len(data) // batch * batch)
    trainer.start(2)
    seconds = 0.5 if plan.small else 4.0
    in_memory = _stepping(iter(trainer.step, 0), batch, plan, seconds)
    whole = data.take(np.arange(len(trainer.observed)))
    source = endless(loader_of(whole, setting, trainer.batches, plan), trainer.batches)

    def steps() -> Iterator[None]:
        for raw in source:
            trainer.loop.step(raw, len(raw.index))
            trainer.loop.state.step %= len(trainer.batches)
            yield

    from_files = _stepping(steps(), batch, plan, seconds)
    runtime.close()
    return {"images/s": from_files, "with images in memory": in_memory}


def _stepping(steps: Iterator[Any], batch: int, plan: Plan, seconds: float) -> float:
    for _ in range(2 if plan.small else 12):
        next(steps)
    plan.synchronize()
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        next(steps)
        count += 1
    plan.synchronize()
    return round(count * batch / (time.perf_counter() - began), 1)


def published(paths: list[str], plan: Plan) -> float:
    """Images per second of the published pipeline: Pillow in the process that trains, float32, ResNet-101."""
    shape = Shape("resnet18", 64, 16) if plan.small else Shape("resnet101", 448, 16)
    runtime = Runtime(plan.device, "fp32")
    step = bare_step(runtime, shape, Bare(channels_last=False))
    batches = (images for each in published_passes(paths, shape.size) for images in each if len(images) == shape.batch)
    steps = (step(images.to(runtime.device)) for images in batches)  # type: ignore[func-returns-value]
    rate = _stepping(steps, shape.batch, plan, 0.5 if plan.small else 4.0)
    runtime.close()
    return rate
