"""What an export does around the exporters: how it compares, and what it switches off meanwhile."""

import importlib
import logging
import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from data.loading.eval_view import EvalView
from engine.prediction import export
from utils.checks import RunError

VIEW = EvalView(8, "none", "unit", "pillow")


class Means(nn.Module):
    """Logits that are the means of the channels, with a parameter."""

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.ones(3))

    def forward(self, pixels):
        return pixels.float().mean(dim=(2, 3)) * self.factor


def reading(monkeypatch, read, reader="torch"):
    """The format torchscript with another reader."""
    monkeypatch.setitem(export.FORMATS, "torchscript", export.FORMATS["torchscript"]._replace(read=read, reader=reader))


def test_the_largest_difference_of_several_batch_sizes_is_found_without_gradients(monkeypatch):
    model, seen, graphs = Means(), [], []
    model.register_forward_hook(lambda *_: graphs.append(torch.is_grad_enabled()))

    def read(content):
        def forward(pixels):
            seen.append((len(pixels), content, torch.is_grad_enabled()))
            return model(pixels) + {1: 2.5e-5, 2: -5e-5, 5: 1.25e-5}[len(pixels)]

        return forward

    reading(monkeypatch, read)
    assert export._compared(model, "torchscript", VIEW, b"file") == pytest.approx(5e-5, abs=1e-6)
    assert seen == [(1, b"file", False), (2, b"file", False), (5, b"file", False)]
    assert graphs == [False] * 6  # of the model itself, and within what was read


def test_nothing_is_compared_where_the_reader_is_not_installed(monkeypatch):
    reading(monkeypatch, None, reader="no_such_package")
    assert export._compared(Means(), "torchscript", VIEW, b"file") is None


@pytest.mark.parametrize(
    ("largest", "apart", "fits"),
    [(0.0, 1e-4, True), *((each, *case) for each in (0.5, 100.0) for case in ((0.9e-4, True), (1.1e-4, False)))],
)
def test_logits_may_differ_by_a_ten_thousandth_of_the_largest_or_of_1(monkeypatch, largest, apart, fits):
    class Steady(nn.Module):
        def forward(self, pixels):
            return torch.tensor([largest / 2, -largest, 0.0], dtype=torch.float64).expand(len(pixels), 3)

    wrong = Steady()(torch.zeros(1)) + apart * max(1.0, largest)
    reading(monkeypatch, lambda content: lambda pixels: wrong.expand(len(pixels), 3))
    if fits:
        assert export._compared(Steady(), "torchscript", VIEW, b"") == pytest.approx(apart * max(1.0, largest))
    else:
        with pytest.raises(RunError, match=r"logits of 1 images differ from torch's by 1\.1e-0[24]"):
            export._compared(Steady(), "torchscript", VIEW, b"")


def test_an_exported_model_that_fails_is_told_with_its_number_of_images(monkeypatch):
    def read(content):
        def forward(pixels):
            if len(pixels) == 2:
                raise RuntimeError("no")
            return Means()(pixels)

        return forward

    reading(monkeypatch, read)
    with pytest.raises(RunError, match="the exported model fails on 2 images"):
        export._compared(Means(), "torchscript", VIEW, b"")


@pytest.mark.parametrize(
    ("error", "reason"),
    [(ValueError("first\nsecond"), "first"), (KeyError(), "KeyError"), (ValueError("x" * 300), "x" * 160)],
)
def test_why_torch_cannot_export_is_told_in_a_line(monkeypatch, error, reason):
    def write(*_):
        raise error

    monkeypatch.setitem(export.FORMATS, "pt2", export.FORMATS["pt2"]._replace(write=write))
    with pytest.raises(RunError) as caught:
        export._written(Means(), "pt2", VIEW, {})
    assert str(caught.value) == f"--export pt2: torch cannot export this network ({reason})"


def test_onnx_is_written_by_the_exporter_that_takes_programs_and_says_nothing(monkeypatch):
    told, held = [], {"a": "text"}
    proto = SimpleNamespace(SerializeToString=lambda: b"content")
    monkeypatch.setattr(export, "_program", lambda model, example: "program")
    monkeypatch.setattr(
        torch.onnx, "export", lambda *args, **named: told.append((args, named)) or SimpleNamespace(model_proto=proto)
    )
    props = SimpleNamespace(set_model_props=lambda proto, texts: told.append((proto, texts)))
    monkeypatch.setattr(importlib, "import_module", {"onnx.helper": props}.__getitem__)
    assert export._write_onnx(Means(), "example", held) == b"content"
    names = {"input_names": ["pixels"], "output_names": ["logits"]}
    assert told == [(("program", ("example",)), {"dynamo": True, "verbose": False, **names}), (proto, held)]


def test_torchscript_is_traced_once(monkeypatch):
    trace, told = torch.jit.trace, []
    monkeypatch.setattr(torch.jit, "trace", lambda *args, **named: told.append(named) or trace(*args, **named))
    content = export._write_torchscript(Means(), torch.rand(2, 3, 8, 8), {"a": "text"})
    assert told == [{"check_trace": False}]
    assert export._read_torchscript(content)(torch.ones(5, 3, 8, 8)).tolist() == [[1.0] * 3] * 5


def check_quiet():
    """Within the block, and that it ends as an error does."""
    with export._quiet():
        assert not torch.backends.mha.get_fastpath_enabled()
        assert not logging.getLogger("torch").isEnabledFor(logging.WARNING)
        warnings.warn("unheard", stacklevel=1)
        raise ValueError("stop")


@pytest.mark.parametrize("fast", [True, False])
def test_exporters_are_quiet_and_attention_is_plain_meanwhile_and_as_before_afterwards(fast, recwarn):
    before = torch.backends.mha.get_fastpath_enabled(), logging.root.manager.disable
    torch.backends.mha.set_fastpath_enabled(fast)
    with pytest.raises(ValueError, match="stop"):
        check_quiet()
    assert torch.backends.mha.get_fastpath_enabled() is fast
    assert logging.root.manager.disable == before[1]
    assert not recwarn.list
    torch.backends.mha.set_fastpath_enabled(before[0])
