"""Large layers start from a few random numbers, repeated: drawing millions took a quarter of these tests' time."""

import pytest
import torch

BLOCK = 4099
"""Numbers that are drawn for a layer; a prime, so that no two rows of a layer are alike."""


def drawn_once(draw, tensor, *args, **kwargs):
    """Fill a tensor in place as `draw` would, from one block of numbers where it is large."""
    if tensor.numel() <= BLOCK or tensor.is_meta:
        return draw(tensor, *args, **kwargs)
    block = draw(torch.empty(BLOCK, dtype=tensor.dtype), *args, **kwargs)
    with torch.no_grad():
        return tensor.copy_(block.repeat(-(-tensor.numel() // BLOCK))[: tensor.numel()].view_as(tensor))


@pytest.fixture(autouse=True)
def _layers_start_quickly(monkeypatch):
    for name in ("normal_", "uniform_"):
        draw = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda *args, draw=draw, **kwargs: drawn_once(draw, *args, **kwargs))
