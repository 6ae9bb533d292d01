"""What an export does around the exporters: how it compares, and what it switches off meanwhile."""

import logging
import warnings

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
    model, seen = Means(), []

    def read(content):
        def forward(pixels):
            seen.append((len(pixels), content, torch.is_grad_enabled()))
            return model(pixels) + {1: 2.5e-5, 2: -5e-5, 5: 1.25e-5}[len(pixels)]

        return forward

    reading(monkeypatch, read)
    assert export._compared(model, "torchscript", VIEW, b"file") == pytest.approx(5e-5, abs=1e-6)
    assert seen == [(1, b"file", False), (2, b"file", False), (5, b"file", False)]


def test_nothing_is_compared_where_the_reader_is_not_installed(monkeypatch):
    reading(monkeypatch, None, reader="no_such_package")
    assert export._compared(Means(), "torchscript", VIEW, b"file") is None


@pytest.mark.parametrize(("apart", "fits"), [(0.9e-4, True), (1.1e-4, False)])
@pytest.mark.parametrize("largest", [0.5, 100.0])
def test_logits_may_differ_by_a_ten_thousandth_of_the_largest_or_of_1(monkeypatch, largest, apart, fits):
    class Steady(nn.Module):
        def forward(self, pixels):
            return torch.full((len(pixels), 3), largest, dtype=torch.float64)

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
