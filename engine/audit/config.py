"""Settings of an audit of labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engine.audit.scores import Plan
from utils.checks import require
from utils.options import option

SOURCES = ("features", "scores", "run")


@dataclass(frozen=True, kw_only=True)
class AuditConfig:
    """What is audited, by which scores, and what is written. Raises: UserError for a value that cannot work."""

    output: Path | None = option(None, "folder of the audit (default runs/audit-<dataset>)")
    audited: Literal["train", "all"] | None = option(
        None, "images of the training set, or of all splits (default: all of a table of one's own, else train)"
    )
    features: Path | None = option(
        None, "features from another program in the place of images: .npz, .safetensors or .npy (docs/features.md)"
    )
    scores: Path | None = option(
        None,
        "scores of all classes from elsewhere, of a model that has not seen these labels, in place of heads: .npz or "
        ".safetensors (docs/prior_scores.md)",
    )
    run: Path | None = option(
        None, "folder of a run with --record scores: its dataset, judged by the mean probabilities of its training"
    )
    unknown: Literal["ignore", "absent"] = option(
        "ignore", "unknown labels teach nothing, or teach that the class is absent; they are ranked either way"
    )
    folds: int = option(5, "parts of the images, each scored by heads that learned from the others")
    least: int = option(10, "present labels, and absent ones, that a class needs to be ranked")
    duplicates: float = option(0.95, "cosine of centred features from which on two images are nearly the same")
    most: int = option(1000, "labels of each kind that audit.csv lists")
    shown: int = option(200, "labels of each kind on the page, 0 for no page")
    next: int = option(0, "list so many images that are most worth labelling next, instead of suspicious labels")
    apply: Path | None = option(None, "write the corrected table beside --table, by the decisions in this file")
    seed: int = option(0, "seed of the folds, and of a generated dataset")
    device: Literal["auto", "cpu", "cuda"] = option("auto", "device on which features are computed")
    threads: int | None = option(None, "CPU threads of the features (default: one per core)")

    def __post_init__(self) -> None:
        require(2 <= self.folds <= 100, f"--folds {self.folds}: must be in 2 .. 100")
        require(self.least >= 2, f"--least {self.least}: must be at least 2")
        require(0 < self.duplicates <= 1, f"--duplicates {self.duplicates}: must be above 0 and at most 1")
        require(self.most >= 1, f"--most {self.most}: must be at least 1")
        require(self.shown >= 0, f"--shown {self.shown}: must not be negative")
        require(self.next >= 0, f"--next {self.next}: must not be negative")
        require(0 <= self.seed < 2**32, f"--seed {self.seed}: must be in 0 .. 2^32 - 1")
        require(self.threads is None or self.threads >= 1, f"--threads {self.threads}: must be at least 1")
        given = [name for name in SOURCES if getattr(self, name) is not None]
        require(len(given) < 2, f"--{' and --'.join(given)}: labels are scored by one of them; leave the other out")
        require(
            (self.scores is None and self.run is None) or not self.next,
            "--next: looks for images that differ, for which it needs --features or images, not --scores or --run",
        )
        require(
            self.apply is None or not self.next,
            "--apply and --next: one corrects a table, the other lists images; give one of them",
        )

    @property
    def plan(self) -> Plan:
        """How images are scored."""
        return Plan(self.folds, self.least, self.duplicates, self.seed)
