"""Scores of the training images from outside (`--prior_scores`), for methods that learn from them too."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from data.features.matching import find_rows, image_names
from data.features.scores import read_scores
from losses import CRITERIA
from utils.checks import require
from utils.console import say
from utils.options import option
from utils.prior_scores import PriorScores
from utils.types import Annotations


@dataclass(frozen=True, kw_only=True)
class PriorConfig:
    """Scores from outside. Raises: UserError for a value that cannot work."""

    prior_scores: Path | None = option(
        None,
        "scores of the training images in every class from outside, such as those of CLIP or of an old model: .npz or "
        ".safetensors (docs/prior_scores.md); for methods that read them",
    )
    prior_temperature: float = option(
        0.01, "temperature of the softmax over classes that makes cosines of --prior_scores probabilities"
    )

    def __post_init__(self) -> None:
        require(
            0 < self.prior_temperature < math.inf,
            f"--prior_temperature {self.prior_temperature}: must be above 0",
        )

    def require_taken(self, method: str) -> None:
        """Raise UserError where a method reads scores and none are given, or the other way about."""
        takes = "prior_scores" in CRITERIA[method].criterion.needs
        require(
            not takes or self.prior_scores is not None,
            f"{method}: learns from scores of the training images from outside; give --prior_scores FILE "
            "(docs/prior_scores.md shows how to make it)",
        )
        takers = [name for name, each in CRITERIA.items() if "prior_scores" in each.criterion.needs]
        require(
            takes or self.prior_scores is None,
            f"--prior_scores: {method} reads none; leave it out"
            + (f", or take a method that does: {', '.join(takers)}" if takers else ""),
        )


class GivenScores(NamedTuple):
    """The scores of a run."""

    scores: PriorScores
    content_hash: str


def given_scores(
    path: Path, train: Annotations, others: Iterable[Annotations], temperature: float, *, shown: bool
) -> GivenScores:
    """The scores of the training images in a file, all of it checked.

    Args:
        path: the file.
        train: the training set. Scores of other images are never read, though the file may have them.
        others: validation and test set; a name that one of theirs has too finds no training image.
        temperature: of cosines.
        shown: whether this process says how images were found.

    Raises: UserError when the file cannot be read, has a wrong number, or lacks an image or a class.
    """
    file = read_scores(path)
    columns = file.columns(train.classes)
    unscored = [name for each in others for name in image_names(each)]
    found = find_rows(path, file.ids, image_names(train), unscored, "scores")
    file.require_numbers()
    for note in found.notes if shown else ():
        say(note)
    scores = PriorScores(file.values, found.rows, columns, file.kind, temperature, file.tiles)
    return GivenScores(scores, file.content_hash())
