"""What a run learns from, as hashes: kept with it, and compared when it goes on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from data.build import Data
from engine.training.given_features import SplitFeatures
from engine.training.prior_scores import GivenScores
from utils.checks import UserError

_FILES = ("features", "prior_scores")
"""Hashes that are of a file which a flag of that name gives."""


def data_hashes(data: Data, features: SplitFeatures | None, scores: GivenScores | None) -> dict[str, str]:
    """SHA-256 (hex) of each split, and of the files that are given beside the data."""
    files = {"features": features, "prior_scores": scores}
    return {**data.hashes(), **{name: given.content_hash for name, given in files.items() if given is not None}}


def require_same_data(path: Path, before: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Raise UserError when a split is not the one that a run began with; runs of before have nothing to compare."""
    changed = [name for name in before if before[name] != now.get(name)]
    for name in _FILES:
        if name in changed:
            raise UserError(
                f"--resume: {path} was trained on other {name.replace('_', ' ')} (hash {before[name][:12]}, now "
                f"{now.get(name, 'none')[:12]}); give the --{name} it was started with"
            )
    if changed:
        raise UserError(
            f"--resume: the {' and the '.join(changed)} set of {path} {'has' if len(changed) == 1 else 'have'} other "
            "images or true labels now than when it began; put them back, or start anew with another --output"
        )
