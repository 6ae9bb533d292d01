"""A checkpoint as a file for other programs: ONNX, TorchScript, or a program of torch.export.

B batch, C classes, s side of the square that a model sees, in pixels. What is written takes pixels (B, 3, s, s), RGB,
float32 in [0, 1], for any B of at least 1, normalises them itself, and gives logits (B, C). Class names, and what a
reader has to know to make such pixels, are embedded in it as texts.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from data.loading.loader import LoaderConfig
from data.loading.transforms import NORMALIZATIONS, CenterCrop, Resize, scoring_transform
from engine.core.checkpoint import SavedModel
from engine.prediction.predictor import reported_network, view_of
from utils.checks import RunError, require
from utils.safe_files import write_atomically

TOLERANCE = 1e-4
"""Most by which a logit of the exported model may differ from torch's, as a share of the largest where that is above 1.
"""

_BATCHES = (1, 2, 5)  # batch sizes that are compared
_ONNX_BYTES = 2**31  # what a file of protocol buffers may hold

Computes = Callable[[Tensor], Tensor]


class ExportFormat(NamedTuple):
    """One form of an exported model."""

    packages: tuple[str, ...]  # what writing it needs besides torch
    reader: str  # what reading it needs
    write: Callable[[nn.Module, Tensor, Mapping[str, str]], bytes]  # model, example pixels, texts to embed
    read: Callable[[bytes], Computes]


class FromPixels(nn.Module):
    """A network behind its normalisation: pixels (B, 3, s, s) in [0, 1] to logits (B, C)."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, normalize: str) -> None:
        super().__init__()
        self.network = network
        scale = NORMALIZATIONS[normalize]
        self.scaled = scale is not None
        mean, std = scale if scale is not None else ((0.0,) * 3, (1.0,) * 3)
        self.register_buffer("mean", torch.tensor(mean)[None, :, None, None])
        self.register_buffer("std", torch.tensor(std)[None, :, None, None])

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits of pixels."""
        logits: Tensor = self.network((pixels - self.mean) / self.std if self.scaled else pixels).logits
        return logits


def export_model(saved: SavedModel, classes: Sequence[str], kind: str, path: Path) -> float | None:
    """Write a checkpoint's network, of two f, in one of `KINDS`, after comparing it with torch on random pixels.

    Args:
        saved: the checkpoint.
        classes: C names to embed.
        kind: a name of `KINDS`.
        path: the file to make or replace; its folder exists.

    Returns:
        The largest difference between a logit of what was written and torch's; None where nothing is installed that
        reads it.

    Raises:
        UserError: a package is missing, or the network is too large for the form.
        RunError: the network cannot be exported so, gives other logits, or the file cannot be written.
    """
    form, view = KINDS[kind], view_of(saved)
    _require_packages(kind, form)
    model = FromPixels(reported_network(saved), view.normalize).eval().requires_grad_(False)
    size = sum(tensor.nbytes for tensor in model.state_dict().values())
    require(
        kind != "onnx" or size < _ONNX_BYTES, f"--export onnx: {size:,} bytes are more than one file holds; take pt2"
    )
    content = _written(model, kind, view, texts(saved, classes, view))
    difference = _compared(model, kind, view, content)
    write_atomically(path, lambda file: file.write(content))
    return difference


def texts(saved: SavedModel, classes: Sequence[str], view: LoaderConfig) -> dict[str, str]:
    """What is embedded beside the model, by name."""
    steps = scoring_transform(view.augment, view.img_size).steps
    sides = [step.size for step in steps if isinstance(step, Resize | CenterCrop)]
    return {
        "classes": json.dumps(list(classes)),
        "img_size": str(view.img_size),
        "resize": str(sides[0]),
        "input": f"pixels: RGB, float32 in [0, 1], (batch, 3, {view.img_size}, {view.img_size}); normalised inside",
        "output": f"logits: (batch, {len(classes)}), a class a column; a sigmoid makes probabilities of them",
        "normalize": view.normalize,
        "load_from": saved.path.name,
        "epoch": str(saved.epoch),
    }


def _require_packages(kind: str, form: ExportFormat) -> None:
    missing = [name for name in form.packages if importlib.util.find_spec(name) is None]
    require(
        not missing,
        f"--export {kind}: {' and '.join(missing)} not installed; pip install {' '.join(form.packages)} {form.reader}",
    )


def _written(model: nn.Module, kind: str, view: LoaderConfig, embedded: Mapping[str, str]) -> bytes:
    """The content of the file."""
    try:
        with _quiet():
            return KINDS[kind].write(model, _pixels(2, view), embedded)
    except Exception as error:  # whatever the exporters raise, and they raise nearly anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise RunError(f"--export {kind}: torch cannot export this network ({reason[:160]})") from error


def _compared(model: nn.Module, kind: str, view: LoaderConfig, content: bytes) -> float | None:
    """The largest difference on random pixels of several batch sizes."""
    form = KINDS[kind]
    if importlib.util.find_spec(form.reader) is None:
        return None
    other = "another form may do: --export onnx or pt2"
    largest = 0.0
    for batch in _BATCHES:
        pixels = _pixels(batch, view)
        with torch.no_grad():
            wanted = model(pixels)
        try:
            with _quiet(), torch.no_grad():
                difference = float((form.read(content)(pixels) - wanted).abs().max())
        except RuntimeError as error:
            raise RunError(f"--export {kind}: what was written fails on {batch} pictures; {other}") from error
        if not difference <= TOLERANCE * max(1.0, float(wanted.abs().max())):
            raise RunError(
                f"--export {kind}: logits of {batch} pictures differ from torch's by {difference:.1e}; {other}"
            )
        largest = max(largest, difference)
    return largest


def _pixels(batch: int, view: LoaderConfig) -> Tensor:
    """Random pixels (B, 3, s, s), the same each time."""
    generator = torch.Generator().manual_seed(batch)
    return torch.rand(batch, 3, view.img_size, view.img_size, generator=generator)


def _program(model: nn.Module, example: Tensor) -> ExportedProgram:
    """The network as torch.export sees it, for batches of any size."""
    # Strictly: tracing alone would take `len` of a tensor for a constant.
    return torch.export.export(model, (example,), dynamic_shapes=({0: Dim("batch")},), strict=True)


def _write_onnx(model: nn.Module, example: Tensor, embedded: Mapping[str, str]) -> bytes:
    made = torch.onnx.export(
        _program(model, example),
        (example,),
        dynamo=True,
        verbose=False,
        input_names=["pixels"],
        output_names=["logits"],
    )
    assert made is not None
    proto = made.model_proto
    importlib.import_module("onnx.helper").set_model_props(proto, dict(embedded))
    content: bytes = proto.SerializeToString()
    return content


def _read_onnx(content: bytes) -> Computes:
    session = importlib.import_module("onnxruntime").InferenceSession(content, providers=["CPUExecutionProvider"])
    return lambda pixels: torch.from_numpy(session.run(["logits"], {"pixels": pixels.numpy()})[0])


def _write_torchscript(model: nn.Module, example: Tensor, embedded: Mapping[str, str]) -> bytes:
    held = io.BytesIO()
    traced = torch.jit.trace(model, example, check_trace=False)  # type: ignore[no-untyped-call]  # compared later
    torch.jit.save(traced, held, _extra_files=dict(embedded))
    return held.getvalue()


def _read_torchscript(content: bytes) -> Computes:
    loaded: Computes = torch.jit.load(io.BytesIO(content))  # type: ignore[no-untyped-call]
    return loaded


def _write_pt2(model: nn.Module, example: Tensor, embedded: Mapping[str, str]) -> bytes:
    held = io.BytesIO()
    torch.export.save(_program(model, example), held, extra_files=dict(embedded))
    return held.getvalue()


def _read_pt2(content: bytes) -> Computes:
    loaded: Computes = torch.export.load(io.BytesIO(content)).module()
    return loaded


KINDS: dict[str, ExportFormat] = {
    "onnx": ExportFormat(("onnx", "onnxscript"), "onnxruntime", _write_onnx, _read_onnx),
    "torchscript": ExportFormat((), "torch", _write_torchscript, _read_torchscript),
    "pt2": ExportFormat((), "torch", _write_pt2, _read_pt2),
}
"""The forms by name."""


@contextmanager
def _quiet() -> Iterator[None]:
    """A block in which exporters keep their remarks to themselves, and attention is computed in plain steps."""
    before, fast = logging.root.manager.disable, torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # its fused kernel is no operation of the other forms
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
        torch.backends.mha.set_fastpath_enabled(fast)
