"""`pascal`: VOC 2012 as the single-positive papers use it, train for training and val for testing.

Cole et al. (CVPR 2021, single-positive-multi-label, preproc/format_pascal.py); Large Loss Matters (CVPR 2022). Two
things differ from `voc12`: a class with difficult objects only is ABSENT, and images without any class are left out.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePosixPath

import numpy as np

from data.datasets.formatted import FormattedLayout, is_formatted, load_formatted
from data.datasets.source import DatasetSource
from data.datasets.voc import VOC_CLASSES, load_voc
from utils.checks import require
from utils.types import PRESENT, Annotations, Codes, Index, LabelTable, Splits

LAYOUT = FormattedLayout(
    "pascal",
    ("VOCdevkit/VOC2012/JPEGImages", "VOC2012/JPEGImages", "JPEGImages", "."),
    lambda name: PurePosixPath(name).stem,
    VOC_CLASSES,
    len(VOC_CLASSES),
)


def load_pascal(source: DatasetSource) -> Splits:
    """Read VOC 2012 train and val, from formatted arrays if `path_images` has any, else as for `voc12`.

    Args:
        source: `path_images` holds the arrays, or is VOCdevkit, its parent, or the folder `VOC2012`.

    Raises:
        UserError: a folder, file or entry is missing or malformed.
    """
    if is_formatted(source.path_images):
        return load_formatted(source, LAYOUT)
    splits = load_voc(source, 2012)
    train, test = (_without_difficult(split) for split in (splits.train, splits.test))
    require(len(train) > 0 and len(test) > 0, f"{source.path_images}: no image of train or of val shows a class")
    return Splits(train, test)


def _without_difficult(annotations: Annotations) -> Annotations:
    """Read UNKNOWN as ABSENT and keep the rows that have a class then; boxes of difficult objects stay."""
    codes: Codes = (annotations.truth.dense() == PRESENT).astype(np.int8)  # these are PRESENT and ABSENT
    kept: Index = np.flatnonzero(codes.any(axis=1))
    return replace(annotations, truth=LabelTable(codes)).take(kept)
