"""A published figure beside a measured one, where both are of the same images."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from engine.core.manifest import Published

TEST_IMAGES = {
    **{"voc07": 4952, "voc12": 5823, "pascal": 5823, "voc-lt": 4952},
    **{"coco": 40137, "coco17": 4952, "coco-lt": 5000},
    **{"cub": 5794, "wider": 29179},
}
"""Images (WIDER: people) in the test set by dataset, where all papers have the same one."""

_ENOUGH = 0.98
"""The share of a test set from which its figures are compared; published code leaves a few images out."""

_MANY = 1000
"""Images of a test set of unknown size from which its figures are compared."""


class Comparison(NamedTuple):
    """What is said of a published result."""

    reported: Mapping[str, float]
    """The published figures, in percent, that measured ones are compared with; none where the images differ."""
    lines: tuple[str, ...]


def comparison(published: Published | None, images: int, dataset: str) -> Comparison:
    """Compare with a published result only where most of its test images have been scored.

    Args:
        published: the result; None if there is none.
        images: the number of test images that have been scored.
        dataset: the name of their dataset.
    """
    if published is None:
        return Comparison({}, ())
    source = f"  published: {published.name}, {published.paper} ({published.source})"
    share = _share(images, dataset)
    if not share:
        return Comparison(published.metrics, (source,))
    figures = ", ".join(f"{name} {value:.2f}" for name, value in published.metrics.items())
    return Comparison({}, (f"  not compared with the published {figures}: it is of {share}", source))


def _share(images: int, dataset: str) -> str:
    """The whole test set and the share of it that has been scored, in words; empty where it is all, or most."""
    whole = TEST_IMAGES.get(dataset)
    if whole is None:
        return "" if images >= _MANY else f"the whole test set of {dataset}, these are only {images:,} images"
    if images >= _ENOUGH * whole:
        return ""
    return f"{whole:,} test images, these are {images:,} ({_percent(images / whole)})"


def _percent(share: float) -> str:
    """A share below 1 in percent; never 0 for one that is not, nor 100."""
    return f"{min(round(100 * share), 99)} %" if share >= 0.1 else f"{100 * share:.1g} %"
