"""Datasets by name. A new one is a file here that returns `Splits`, a line below, a YAML under configs/datasets."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from data.datasets.coco import load_coco
from data.datasets.digits import load_digits
from data.datasets.letters import load_letters
from data.datasets.source import Source
from data.datasets.voc import load_voc
from utils.types import Splits

DATASETS: dict[str, Callable[[Source], Splits]] = {
    "voc07": partial(load_voc, year=2007),
    "voc12": partial(load_voc, year=2012),
    "coco": partial(load_coco, year=2014),
    "coco17": partial(load_coco, year=2017),
    "digits": load_digits,
    "letters": load_letters,
}
"""The readers by the name `--dataset` takes. Folders and other settings: configs/datasets/<name>.yaml."""

PLANNED = ("nuswide", "vg", "cub", "openimages", "wider", "voc-lt", "coco-lt", "nw-lt", "pascal", "nus-wide", "table")
"""Names that are reserved for datasets whose readers this version does not have."""

__all__ = ["DATASETS", "PLANNED", "Source"]
