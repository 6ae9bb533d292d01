"""Dataset readers by name. A new one is a file here that returns `Splits`, a line below, a YAML in configs/datasets."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from data.datasets.coco import load_coco
from data.datasets.cub import load_cub
from data.datasets.generated.digits import load_digits, load_long_tailed_digits
from data.datasets.generated.letters import load_letters
from data.datasets.l48 import load_l48
from data.datasets.long_tail import load_longtail
from data.datasets.nuswide import load_nuswide
from data.datasets.openimages import load_openimages
from data.datasets.pascal import load_pascal
from data.datasets.source import DatasetSource
from data.datasets.table.reader import load_table
from data.datasets.visual_genome import load_visual_genome
from data.datasets.voc import load_voc
from data.datasets.wider import load_wider
from utils.types import Splits

DATASETS: dict[str, Callable[[DatasetSource], Splits]] = {
    "voc07": partial(load_voc, year=2007),
    "voc12": partial(load_voc, year=2012),
    "pascal": load_pascal,
    "coco": partial(load_coco, year=2014),
    "coco17": partial(load_coco, year=2017),
    "nuswide": load_nuswide,
    "vg": load_visual_genome,
    "cub": load_cub,
    "openimages": load_openimages,
    "wider": load_wider,
    "l48": load_l48,
    "voc-lt": partial(load_longtail, name="voc-lt"),
    "coco-lt": partial(load_longtail, name="coco-lt"),
    "nw-lt": partial(load_longtail, name="nw-lt"),
    "table": load_table,
    "digits": load_digits,
    "digits-lt": load_long_tailed_digits,
    "letters": load_letters,
}
"""The readers by their names for `--dataset`. Folders and other settings: configs/datasets/<name>.yaml."""

SYNONYMS = {"nus-wide": "nw-lt"}
"""Other names that papers use, each with the name here."""

__all__ = ["DATASETS", "SYNONYMS", "DatasetSource"]
