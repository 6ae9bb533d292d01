"""CAP: unlabelled images get each class as often as labelled ones have it (Xie et al., NeurIPS 2023, arXiv 2305.02795).

B batch, C classes, N training images, U of them without labels, K bins. Published code: milkxie/SSMLL-CAP, run_CAP.py.
The weights of `--pseudo_weights calibrated` are those of DiCaP (AAAI 2026, arXiv 2511.20225). Differences from both:
docs/methods/cap.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from losses.asl import reduced
from losses.common.base import Criterion
from losses.common.functional import at_least_float32
from losses.common.memory import MemoryNeed, label_memory, read_rows
from losses.common.variants import require_choices
from losses.csl import PerKind, partial_asymmetric_losses
from utils.checks import require
from utils.class_facts import ClassPriors
from utils.labelled_images import labelled_images
from utils.options import option
from utils.seeding import derive_seed
from utils.types import ABSENT, PRESENT, UNKNOWN, Batch, Codes, CriterionInfo, Index, LossOutput, Model

Variant = Literal["fixed", "reference"]
Shares = NDArray[np.float64]

_ROUNDING = 1e-9  # 0.29 * 100 is 28.999... in floating point, and means 29


class Kept(NamedTuple):
    """Shares of the pseudo labels that are learned from."""

    present: float
    absent: float


@dataclass(frozen=True, kw_only=True)
class CAPConfig:
    """Settings of CAP. Raises: UserError for a value that cannot work."""

    cap_warmup: int | None = option(
        None, "first epochs, which learn from labelled images alone (default: 12 of every 40 epochs)"
    )
    kept_present: float = option(1.0, "share of the present pseudo labels of a class that is learned, the highest")
    kept_absent: float = option(0.998, "share of the absent pseudo labels of a class that is learned, the lowest")
    share_smoothing: float = option(
        0.0, "images with each class and without it that are added where its share is counted; 1 is Laplace's rule"
    )
    pseudo_weights: Literal["uniform", "calibrated"] = option(
        "uniform",
        "pseudo labels weigh the same, or as often as their like is right on held-out labelled images (DiCaP)",
    )
    calibration_share: float = option(0.2, "calibrated: share of the labelled images that is held out for it")
    calibration_bins: int = option(20, "calibrated: bins of the probability, from 0 to 1")
    gamma_pos: float = option(0.0, "focusing exponent of present labels")
    gamma_neg: float = option(4.0, "focusing exponent of absent labels")
    clip: float = option(0.05, "margin by which the probability of an absent label is lowered; 0: none")
    reduction: Literal["sum", "mean"] = option("sum", "sum over the batch, or mean over B*C")
    variant: Variant = option(
        "fixed", "no present label where less than one is expected, or all as in the published code; exact logarithms"
    )

    def __post_init__(self) -> None:
        require(self.cap_warmup is None or self.cap_warmup >= 0, f"--cap_warmup {self.cap_warmup}: must be 0 or more")
        for name in ("kept_present", "kept_absent"):
            require(0 <= getattr(self, name) <= 1, f"--{name} {getattr(self, name)}: must be in [0, 1]")
        for name in ("share_smoothing", "gamma_pos", "gamma_neg"):
            require(0 <= getattr(self, name) < float("inf"), f"--{name} {getattr(self, name)}: must be 0 or more")
        share = self.calibration_share
        require(0 < share < 1, f"--calibration_share {share}: must be in (0, 1); the published value is 0.2")
        bins = self.calibration_bins
        require(bins >= 1, f"--calibration_bins {bins}: must be at least 1; the published value is 20")
        require(0 <= self.clip < 1, f"--clip {self.clip}: must be in [0, 1); the published value is 0.05")
        require_choices(self)


def class_shares(present: Index, images: int, smoothing: float = 0.0) -> Shares:
    """(C,) share of images that have each class, of counts (C,) in `images` of them, smoothed towards 1/2."""
    return np.asarray((present + smoothing) / (images + 2 * smoothing), dtype=np.float64)


def share_labels(scores: Tensor, shares: Shares, kept: Kept, variant: Variant = "fixed") -> Tensor:
    """Labels of unlabelled images: of each class its share of them is present, those with the highest scores.

    Args:
        scores: (U, C), in any scale that rises with the probability; of equal ones the first row counts as the highest.
        shares: (C,) share of the images that each class is in.
        kept: shares of the present labels, from the highest score on, and of the absent ones, from the lowest on.
        variant: "reference" takes a number that is rounded down to 0 for all rows.

    Returns:
        (U, C) int8 label codes, UNKNOWN where a label is not kept.
    """
    order = scores.argsort(dim=0, descending=True, stable=True)
    steps = torch.arange(len(scores), device=scores.device)[:, None].expand_as(order)
    place = torch.empty_like(order).scatter(0, order, steps)  # 0 is the highest of its class
    counts = [
        _whole(share, len(scores), variant, scores.device)
        for share in (shares, kept.present * shares, kept.absent * (1 - shares))
    ]
    codes = torch.where(place < counts[0], PRESENT, ABSENT).to(torch.int8)
    return codes.masked_fill((place >= counts[1]) & (place < len(scores) - counts[2]), UNKNOWN)


def bin_rates(probabilities: NDArray[np.float64], truth: Codes, bins: int) -> NDArray[np.float64]:
    """(K,) share of present labels among those whose probability is in each of `bins` bins of equal width.

    A bin without any lies on the straight line between those around it, or has the rate of the nearest.

    Args:
        probabilities: (M, C), of images that are labelled, not empty.
        truth: (M, C) their label codes, all known.
        bins: K; a probability of 1 is in the last.
    """
    bin_of = np.minimum((probabilities * bins).astype(np.int64), bins - 1)
    size = np.bincount(bin_of.ravel(), minlength=bins)
    right = np.bincount(bin_of[truth == PRESENT], minlength=bins)
    filled = np.flatnonzero(size)
    return np.interp(np.arange(bins), filled, right[filled] / size[filled])


def calibrated(probabilities: Tensor, rates: Tensor) -> Tensor:
    """Probabilities of any shape as the rates (K,) of their bins, on straight lines between the centres of bins."""
    at = (probabilities * len(rates) - 0.5).clamp(0, len(rates) - 1)
    below = at.floor().long()
    above = (below + 1).clamp(max=len(rates) - 1)
    return torch.lerp(rates[below], rates[above], at - below)


class CAP(Criterion):
    """Class-distribution-aware pseudo-labels (Xie et al., NeurIPS 2023) for images that are labelled or not.

    Before each epoch after the warm-up the averaged network scores the unlabelled images, and each class is present in
    the share of them that it has of the labelled ones. The loss is ASL of labelled images and pseudo labels alike.
    State: `targets` (N, C), what each label teaches: present where above 0, absent where below, nothing at 0; the size
    is its weight. `modified` are the pseudo labels that are present. Logged: `labelled` and `pseudo`, the parts of the
    mean over B*C that images with and without labels make up; `pseudo_present` and `pseudo_absent`, pseudo labels of
    the latter, per image of the batch.

    Raises: UserError unless every image has all of its labels or none and there are both kinds, if labels are stored
        sparse, if no epoch is left after the warm-up, or if too few images are labelled to hold some out.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"train_scores"})
    label_memories = frozenset({"targets"})
    train_scores_of: ClassVar[Literal["network", "average"]] = "average"
    config: CAPConfig
    targets: Tensor

    def __init__(self, config: CAPConfig, info: CriterionInfo) -> None:
        super().__init__(config, info)
        table = info.observed
        require(
            not table.stores_known_only,
            f"cap: it scores each of the {len(table)} x {table.num_classes} labels, too many; take --loss iu",
        )
        labelled = np.flatnonzero(labelled_images("cap", table))
        require(int(table.counts().sum()) > 0, "cap: no label is known to be present, so no class would ever be")
        self.warmup = _warmup(config, info)
        self.held_out = _held_out(labelled, config, info.seed)
        taught = np.setdiff1d(labelled, self.held_out)
        self.unlabelled: Index = np.setdiff1d(np.arange(len(table)), taught)
        self.shares = class_shares(table.take(taught).counts(), len(taught), config.share_smoothing)
        targets = torch.zeros(len(table), table.num_classes)
        targets[torch.from_numpy(taught)] = torch.from_numpy(table.rows(taught) * 2 - 1).float()
        self.register_buffer("targets", targets)

    @classmethod
    def memory_needs(cls, config: CAPConfig, info: CriterionInfo) -> list[MemoryNeed]:
        """What each label teaches, and the scores of a round."""
        return [label_memory("pseudo labels", info.observed, 4), label_memory("scores", info.observed, 4)]

    def class_priors(self) -> ClassPriors:
        """The shares of labelled images that each class is in."""
        return ClassPriors(self.shares, "observed")

    def wants_train_scores(self, epoch: int) -> bool:
        """Return True for the epochs after the warm-up: pseudo labels are made before each."""
        return epoch > self.warmup

    def on_epoch_start(self, epoch: int, train_scores: Tensor | None = None) -> None:
        """Make the pseudo labels anew before the epochs that want scores; `train_scores` (N, C) are logits.

        Raises: ValueError if such an epoch comes without scores of that shape.
        """
        if not self.wants_train_scores(epoch):
            return
        scores = at_least_float32(self.scores_before(epoch, train_scores))
        rows, config = torch.from_numpy(self.unlabelled).to(scores.device), self.config
        codes = share_labels(scores[rows], self.shares, Kept(config.kept_present, config.kept_absent), config.variant)
        weights = self._weights(scores, rows, codes).to(self.targets.dtype)
        self.targets[rows] = torch.where(codes == PRESENT, weights, -weights).masked_fill(codes == UNKNOWN, 0)

    def forward(self, model: Model, batch: Batch) -> LossOutput:
        """Loss of one batch: images (B, 3, H, W), observed labels (B, C), rows of the training set (B,)."""
        logits, config = at_least_float32(model(batch.images).logits), self.config
        targets = read_rows(self.targets, batch.index, batch.host_index).to(logits.dtype)
        is_present, is_absent = targets > 0, targets < 0
        losses = targets.abs() * partial_asymmetric_losses(
            logits,
            is_present.long() - (targets == 0).long(),
            gammas=PerKind(config.gamma_pos, config.gamma_neg, 0.0),
            alphas=PerKind(1.0, 1.0, 0.0),
            clip=config.clip,
            variant=config.variant,
        )
        total = losses.mean() if config.reduction == "mean" else reduced(losses, batch, "sum")
        guessed = batch.observed == UNKNOWN
        learned = losses.detach()
        parts = {
            "labelled": learned.masked_fill(guessed, 0).mean(),
            "pseudo": learned.where(guessed, 0).mean(),
            "pseudo_present": (guessed & is_present).sum(dim=1).float().mean(),
            "pseudo_absent": (guessed & is_absent).sum(dim=1).float().mean(),
        }
        return LossOutput(total, logits.detach(), parts, guessed & is_present)

    def _weights(self, scores: Tensor, rows: Tensor, codes: Tensor) -> Tensor:
        """(U, C) weights of the pseudo labels `codes` of these rows of the scores (N, C)."""
        if self.config.pseudo_weights == "uniform":
            return torch.ones_like(codes, dtype=scores.dtype)
        held_out = torch.from_numpy(self.held_out).to(scores.device)
        known = torch.sigmoid(scores[held_out]).double().cpu().numpy()
        rates = bin_rates(known, self.info.observed.rows(self.held_out), self.config.calibration_bins)
        right = calibrated(torch.sigmoid(scores[rows]), torch.from_numpy(rates).to(scores))
        return torch.where(codes == PRESENT, right, 1 - right)


def _warmup(config: CAPConfig, info: CriterionInfo) -> int:
    """Epochs before the first pseudo labels. Raises: UserError if none is left after them."""
    warmup = 12 * info.epochs // 40 if config.cap_warmup is None else config.cap_warmup
    require(
        warmup < info.epochs,
        f"cap: --cap_warmup {warmup} leaves none of the {info.epochs} --epochs for pseudo labels; give fewer",
    )
    return warmup


def _held_out(labelled: Index, config: CAPConfig, seed: int) -> Index:
    """Labelled rows that only calibrate, drawn by lot; none where weights are uniform. Raises: UserError."""
    if config.pseudo_weights == "uniform":
        return labelled[:0]
    count = round(config.calibration_share * len(labelled))
    require(
        0 < count < len(labelled),
        f"--calibration_share {config.calibration_share}: holds out {count} of {len(labelled)} labelled images, which "
        "leaves none to calibrate by or none to learn from; label more, or take --pseudo_weights uniform",
    )
    generator = np.random.default_rng(derive_seed(seed, "calibration"))
    return np.sort(generator.permutation(labelled)[:count])


def _whole(share: Shares, images: int, variant: Variant, device: torch.device) -> Tensor:
    """(C,) number of images in a share of them, rounded down; "reference": all of them where that is 0."""
    counts = np.floor(share * images + _ROUNDING).astype(np.int64)
    return torch.from_numpy(np.where((counts == 0) & (variant == "reference"), images, counts)).to(device)
