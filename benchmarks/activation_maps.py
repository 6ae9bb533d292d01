"""Speed and memory of class activation maps: `python -m benchmarks.activation_maps` (about a minute)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch

from benchmarks import published
from benchmarks.measure import Result, command, in_turns, largest_tensor
from models.heads.linear import LinearHead

RECORDED = {20: "502; 340 ms, 490 MiB temporary", 80: "1.84; 1.63 s, 1.96 GiB temporary"}


@torch.no_grad()
def results() -> Iterator[Result]:
    """Measure a batch of 16 at 448 pixels: 2048 channels at 14 x 14 positions."""
    for classes, recorded in RECORDED.items():
        torch.manual_seed(classes)
        features, head = torch.randn(16, 2048, 14, 14).relu(), LinearHead(2048, classes)
        theirs = partial(published.activation_maps, features, head.fc.weight)
        ours = partial(head.cam, features)
        seconds = in_turns(theirs, ours, turns=5)
        yield Result(
            question=f"class activation maps, B=16, 2048 x 14 x 14, C={classes}",
            published=seconds[0],
            recorded=recorded,
            ours=seconds[1],
            goal=10,
            difference=float((theirs() - ours()).abs().max()),
            tolerance=1e-5,
            note=f"largest tensor made {largest_tensor(theirs):,.1f} MiB; ours {largest_tensor(ours):.1f} MiB",
        )


if __name__ == "__main__":
    command(results)
