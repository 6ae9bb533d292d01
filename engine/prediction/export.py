"""A checkpoint as a file for other programs: ONNX, TorchScript, or a program of torch.export.

B batch, C classes, s side of the square that a model sees, in pixels. The exported model takes pixels (B, 3, s, s),
RGB, float32 in [0, 1], for any B of at least 1, normalises them itself, and returns logits (B, C). Class names, and
what a reader must know to make such pixels, are embedded in the file as texts.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import json
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from data.images.reading import AS_TRAINED, ReadingConfig
from data.loading.eval_view import EvalView
from data.loading.transforms import NORMALIZATIONS
from engine.core.checkpoint import SavedModel
from engine.prediction.predictor import reported_network, view_of
from utils.checks import RunError, require
from utils.options import as_text
from utils.safe_files import write_atomically

TOLERANCE = 1e-4
"""Largest allowed difference between a logit of the exported model and torch's, relative to the largest if above 1."""

_BATCHES = (1, 2, 5)  # batch sizes that are compared
_ONNX_BYTES = 2**31  # size limit of a protocol buffers file

Forward = Callable[[Tensor], Tensor]


class ExportFormat(NamedTuple):
    """A file format of exported models, with its writer and reader."""

    packages: tuple[str, ...]  # needed for writing, besides torch
    reader: str  # package needed for reading
    write: Callable[[nn.Module, Tensor, Mapping[str, str]], bytes]  # model, example pixels, texts to embed
    read: Callable[[bytes], Forward]


class FromPixels(nn.Module):
    """A network with its normalisation: pixels (B, 3, s, s) in [0, 1] to logits (B, C)."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, normalize: str) -> None:
        super().__init__()
        self.network = network
        mean, std = NORMALIZATIONS[normalize] or ((0.0,) * 3, (1.0,) * 3)  # these change no bit of a pixel
        self.register_buffer("mean", torch.tensor(mean)[None, :, None, None])
        self.register_buffer("std", torch.tensor(std)[None, :, None, None])

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (B, C) of pixels (B, 3, s, s)."""
        logits: Tensor = self.network((pixels - self.mean) / self.std).logits
        return logits


def export_model(
    saved: SavedModel, classes: Sequence[str], kind: str, path: Path, reading: ReadingConfig = AS_TRAINED
) -> float | None:
    """Write the network of a checkpoint, of two f, in one of `FORMATS`, after comparing it with torch on random pixels.

    Args:
        saved: the checkpoint.
        classes: C names to embed.
        kind: a name of `FORMATS`.
        path: the file to make or replace; its folder exists.
        reading: how files become pixels, where that is not to be as in training; the file says it.

    Returns:
        The largest difference between a logit of the exported model and torch's; None if its reader is not installed.

    Raises:
        UserError: a package is missing, or the network is too large for the format.
        RunError: the network cannot be exported to this format, gives other logits, or the file cannot be written.
    """
    file_format, view = FORMATS[kind], view_of(saved, reading=reading)
    _require_packages(kind, file_format)
    model = FromPixels(reported_network(saved), view.normalize).eval().requires_grad_(False)
    size = sum(tensor.nbytes for tensor in model.state_dict().values())
    require(
        kind != "onnx" or size < _ONNX_BYTES, f"--export onnx: {size:,} bytes are more than one file holds; take pt2"
    )
    content = _written(model, kind, view, texts(saved, classes, view))
    difference = _compared(model, kind, view, content)
    write_atomically(path, lambda file: file.write(content))
    return difference


def texts(saved: SavedModel, classes: Sequence[str], view: EvalView) -> dict[str, str]:
    """Texts embedded in the file, by name."""
    return {
        "classes": json.dumps(list(classes)),
        "img_size": str(view.img_size),
        "resize": str(view.resized),
        "resize_by": view.resize,
        "exif": view.reading.exif,
        "value_range": as_text(view.reading.value_range),
        "input": f"pixels: RGB, float32 in [0, 1], (batch, 3, {view.img_size}, {view.img_size}); normalised inside",
        "output": f"logits: (batch, {len(classes)}), one column per class; a sigmoid makes probabilities of them",
        "normalize": view.normalize,
        "load_from": saved.path.name,
        "epoch": str(saved.epoch),
        **_decisions(saved),
    }


def _decisions(saved: SavedModel) -> dict[str, str]:
    """The thresholds, as logits, and the calibration of a checkpoint, as JSON; empty without any."""
    held = {} if saved.decisions is None else saved.decisions.as_plain()
    texts = {}
    if "thresholds" in held:
        limits = [value if math.isfinite(value) else None for value in held["thresholds"]["logits"]]
        texts["thresholds"] = json.dumps({"logits": limits, "rule": held["thresholds"]["rule"]})
    if "calibration" in held:
        texts["calibration"] = json.dumps({key: held["calibration"][key] for key in ("method", "temperature", "knots")})
    return texts


def _require_packages(kind: str, file_format: ExportFormat) -> None:
    missing = [name for name in file_format.packages if importlib.util.find_spec(name) is None]
    install = " ".join((*file_format.packages, file_format.reader))
    require(not missing, f"--export {kind}: {' and '.join(missing)} not installed; pip install {install}")


def _written(model: nn.Module, kind: str, view: EvalView, embedded: Mapping[str, str]) -> bytes:
    """The bytes of the file."""
    try:
        with _quiet():
            return FORMATS[kind].write(model, _pixels(2, view), embedded)
    except Exception as error:  # exporters raise nearly anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise RunError(f"--export {kind}: torch cannot export this network ({reason[:160]})") from error


def _compared(model: nn.Module, kind: str, view: EvalView, content: bytes) -> float | None:
    """The largest difference on random pixels of several batch sizes."""
    file_format = FORMATS[kind]
    if importlib.util.find_spec(file_format.reader) is None:
        return None
    other = "another format may do: --export onnx or pt2"
    largest = 0.0
    for batch in _BATCHES:
        pixels = _pixels(batch, view)
        with torch.no_grad():
            wanted = model(pixels)
        try:
            with _quiet(), torch.no_grad():
                difference = float((file_format.read(content)(pixels) - wanted).abs().max())
        except RuntimeError as error:
            raise RunError(f"--export {kind}: the exported model fails on {batch} images; {other}") from error
        if not difference <= TOLERANCE * max(1.0, float(wanted.abs().max())):
            raise RunError(
                f"--export {kind}: logits of {batch} images differ from torch's by {difference:.1e}; {other}"
            )
        largest = max(largest, difference)
    return largest


def _pixels(batch: int, view: EvalView) -> Tensor:
    """Random pixels (B, 3, s, s), the same each time."""
    generator = torch.Generator().manual_seed(batch)
    return torch.rand(batch, 3, view.img_size, view.img_size, generator=generator)


def _program(model: nn.Module, example: Tensor) -> ExportedProgram:
    """The network as a program of torch.export, for batches of any size."""
    # strict: otherwise `len` of a tensor would become a constant
    return torch.export.export(model, (example,), dynamic_shapes=({0: Dim("batch")},), strict=True)


def _write_onnx(model: nn.Module, example: Tensor, embedded: Mapping[str, str]) -> bytes:
    program = torch.onnx.export(
        _program(model, example),
        (example,),
        dynamo=True,
        verbose=False,
        input_names=["pixels"],
        output_names=["logits"],
    )
    assert program is not None
    proto = program.model_proto
    importlib.import_module("onnx.helper").set_model_props(proto, dict(embedded))
    content: bytes = proto.SerializeToString()
    return content


def _read_onnx(content: bytes) -> Forward:
    session = importlib.import_module("onnxruntime").InferenceSession(content, providers=["CPUExecutionProvider"])
    return lambda pixels: torch.from_numpy(session.run(["logits"], {"pixels": pixels.numpy()})[0])


def _write_torchscript(model: nn.Module, example: Tensor, embedded: Mapping[str, str]) -> bytes:
    buffer = io.BytesIO()
    traced = torch.jit.trace(model, example, check_trace=False)  # type: ignore[no-untyped-call]  # compared later
    torch.jit.save(traced, buffer, _extra_files=dict(embedded))
    return buffer.getvalue()


def _read_torchscript(content: bytes) -> Forward:
    loaded: Forward = torch.jit.load(io.BytesIO(content))  # type: ignore[no-untyped-call]
    return loaded


def _write_pt2(model: nn.Module, example: Tensor, embedded: Mapping[str, str]) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(_program(model, example), buffer, extra_files=dict(embedded))
    return buffer.getvalue()


def _read_pt2(content: bytes) -> Forward:
    loaded: Forward = torch.export.load(io.BytesIO(content)).module()
    return loaded


FORMATS: dict[str, ExportFormat] = {
    "onnx": ExportFormat(("onnx", "onnxscript"), "onnxruntime", _write_onnx, _read_onnx),
    "torchscript": ExportFormat((), "torch", _write_torchscript, _read_torchscript),
    "pt2": ExportFormat((), "torch", _write_pt2, _read_pt2),
}
"""The formats by name."""


@contextmanager
def _quiet() -> Iterator[None]:
    """Context without log messages and warnings of exporters, and with attention computed in plain steps."""
    before, fast = logging.root.manager.disable, torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # its fused kernel is no operation of the other formats
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
        torch.backends.mha.set_fastpath_enabled(fast)
