"""Random labels of the sizes of real datasets."""

from __future__ import annotations

from numpy.random import RandomState

from data.labels.regimes import candidate_labels
from utils.types import Codes

VOC_TRUE_LABELS = 1.458
"""True labels per image on VOC 2007 trainval."""


def random_truth(rows: int, classes: int, share: float, seed: int) -> Codes:
    """Labels (N, C) int8, each entry PRESENT with probability `share`, else ABSENT."""
    truth: Codes = (RandomState(seed).uniform(size=(rows, classes)) < share).astype("int8")
    return truth


def voc_candidates(seed: int) -> Codes:
    """Candidate labels (5011, 20) at rate 0.1, over as many true labels as VOC 2007 has, spread evenly."""
    truth = random_truth(5011, 20, VOC_TRUE_LABELS / 20, seed)
    return candidate_labels(truth, RandomState(seed + 1), 0.1)
