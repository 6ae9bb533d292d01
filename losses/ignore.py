"""IGNORE: rejecting false negatives by the information that masking removes from an image (Song et al., ECCV 2024).

B images of a batch, G of the global one, C classes, H W size of an image. Source: published code
gyeong-ryeol-song/SPML-IGNORE (`losses.py`, `train_resnet.py`). Formulas, and all differences from that code:
docs/methods/ignore.md. Masking and rejecting: losses/ignore_gap.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from losses.assume_negative import assume_negative_losses
from losses.common.base import ScheduledCriterion
from losses.common.functional import at_least_float32
from losses.common.global_batch import GlobalBatch
from losses.common.variants import fill_variant_options, require_choices, variant_options
from losses.ignore_gap import (
    IgnoreThresholds,
    Map,
    Norm,
    class_maps,
    kept_pixels,
    normalised,
    rejected,
    updated_thresholds,
)
from utils.checks import require
from utils.options import Shorthand, option
from utils.types import PRESENT, UNKNOWN, Batch, CriterionInfo, LabelTable, LossOutput, Model, ModelOutput

Unannotated = Literal["kept", "judged"]

MODES: Mapping[str, Mapping[str, str]] = {
    "train_resnet": {"head": "linear", "cam_map": "activation"},
    "train_q2l": {"head": "q2l", "cam_map": "attention"},
}
"""Settings that the published `--mode` stands for."""


class IgnoreVariant(NamedTuple):
    """Options for the steps in which the published code differs from what it is meant to do."""

    cam_norm: Norm
    unannotated: Unannotated


VARIANTS = {"fixed": IgnoreVariant("spatial", "kept"), "reference": IgnoreVariant("release", "judged")}


def _mode(text: str) -> Mapping[str, str]:
    if text not in MODES:
        raise ValueError(f"must be {' or '.join(MODES)}")
    return MODES[text]


class _Rejection(NamedTuple):
    """Labels of the global batch, (G, C) bool, and numbers for the log."""

    gone: Tensor  # rejected
    shown: Tensor  # observed positives
    parts: Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class IgnoreConfig:
    """Settings of IGNORE. Options left None follow `variant`.

    Raises: UserError for a value that cannot work.
    """

    spbc_weight: float = option(0.5, "weight of the loss of observed positives in the weak view (SPBC)")
    ignore_weight: float = option(
        1.0, "weight of the assume-negative loss in the strong view, rejected labels left out"
    )
    reg_weight: float = option(0.5, "weight of the squared difference between the logits of both views")
    gap_lambda: float = option(0.999, "share that the threshold of the information gap keeps in each step")
    avg_lambda: float = option(0.999, "share that the mean logit of each class keeps in each step")
    reject_after: int = option(3, "epochs before the first in which labels are rejected", aliases=("warm_up",))
    cam_map: Map = option(
        "activation",
        "map of an observed class: its activations, or, with Query2Label, its attention times the mean feature",
        shorthands={
            "mode": Shorthand("|".join(MODES), "published flag: --head and --cam_map of the two networks", _mode),
            "backbone": Shorthand("NAME", "published spelling of --model", lambda text: {"model": text}),
        },
    )
    cam_threshold: float = option(0.8, "pixels whose map value, scaled to [0, 1], exceeds this stay in the image")
    masked_bn: Literal["train", "eval"] = option(
        "train",
        "BatchNorm in the pass of masked images: as in training, or with running statistics that stay as they are",
    )
    several: Literal["refuse", "union"] = option(
        "refuse", "images with several observed positives: an error, or the regions of all of them stay"
    )
    strong_aug: bool = option(True, "the assume-negative loss is of the strong view; off: of the weak one")
    ignore: bool = option(True, "reject labels; off: plain assume-negative, without masked images")
    spbc: bool = option(True, "the loss of observed positives in the weak view")
    lat: bool = option(True, "reject only labels whose logit exceeds the mean of their class")
    reg: bool = option(True, "the squared difference between the logits of both views")
    variant: Literal["fixed", "reference"] = option("fixed", "as it is meant to be, or as in the published code")
    cam_norm: Norm | None = option(
        None, "a map is scaled to [0, 1] by its own extremes, or by the batch's as published (release) or by CALR"
    )
    unannotated: Unannotated | None = option(
        None, "labels of images without an observed positive are kept, or may be rejected although nothing is masked"
    )

    def __post_init__(self) -> None:
        fill_variant_options(self, VARIANTS)
        require_choices(self)
        for name in ("spbc_weight", "ignore_weight", "reg_weight"):
            require(0 <= getattr(self, name) < math.inf, f"--{name} {getattr(self, name)}: must be 0 or more")
        for name in ("gap_lambda", "avg_lambda"):
            value = getattr(self, name)
            require(0 <= value < 1, f"--{name} {value}: must be in [0, 1); the published value is 0.999")
        require(self.reject_after >= 0, f"--reject_after {self.reject_after}: must not be negative")
        require(
            0 <= self.cam_threshold < 1,
            f"--cam_threshold {self.cam_threshold}: must be in [0, 1); the published value is 0.8",
        )
        require(
            self.ignore_weight > 0 or (self.spbc and self.spbc_weight > 0),
            "--ignore_weight 0: without the SPBC term nothing is left to learn from labels; give one of them weight",
        )


class Ignore(ScheduledCriterion):
    """IGNORE (ECCV 2024): SPBC, assume-negative without the labels that are rejected, and agreement of two views.

    The model is called for the weak view, for the strong view and for the masked images (no gradient), in the order of
    the published code: the last pass counts most in BatchNorm's running statistics. State: both thresholds and the
    epoch. `modified` are the rejected labels. Logged: the terms `spbc`, `ignored` and `reg` as far as they are in use,
    unweighted; `rejected`, the mean number of labels rejected per image; `gap_threshold`; `kept_area`, the mean share
    of an image that masking leaves.

    Raises: UserError if no label is UNKNOWN, or images have several observed positives; unless nothing is rejected, or
        `several` allows it.
    """

    needs = frozenset({"cam", "second_view"})
    config: IgnoreConfig
    gap_threshold: Tensor
    average_threshold: Tensor

    def __init__(self, config: IgnoreConfig, info: CriterionInfo) -> None:
        super().__init__(config, info)
        if config.ignore:
            _require_usable(info.observed, config.several)
        self.register_buffer("gap_threshold", torch.zeros(()))
        self.register_buffer("average_threshold", torch.zeros(info.observed.num_classes))

    def refuses_spliced(self) -> str:
        """It masks by the one observed positive, unless images may have several."""
        if not self.config.ignore or self.config.several == "union":
            return ""
        return "masks an image by its one observed positive, and a spliced image has several (--several union)"

    def forward(self, model: Model, batch: Batch) -> LossOutput:
        """Loss of one batch: weak view, strong view as second view. Both thresholds are updated before use."""
        config, whole = self.config, GlobalBatch(batch)
        weak = model(batch.images, want=frozenset({"cam"} if config.ignore else ()))
        logits = at_least_float32(weak.logits)
        strong = logits
        if config.strong_aug or config.reg:
            assert batch.second_view is not None
            strong = at_least_float32(model(batch.second_view).logits)
        rejection = self._reject(model, batch, weak, whole) if config.ignore else _nothing(whole.rows(batch.observed))
        gone, shown, parts = rejection.gone, rejection.shown, dict(rejection.parts)
        terms = self._terms(logits, strong, batch.observed, shown, gone, whole)
        weights = {"spbc": config.spbc_weight, "ignored": config.ignore_weight, "reg": config.reg_weight}
        total = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
        parts |= {name: term.detach() for name, term in terms.items()}
        return LossOutput(total, logits.detach(), parts, whole.own(gone))

    def _terms(
        self, weak: Tensor, strong: Tensor, observed: Tensor, shown: Tensor, gone: Tensor, whole: GlobalBatch
    ) -> dict[str, Tensor]:
        """Terms in use, unweighted; `shown` and `gone` are of the global batch, (G, C)."""
        config = self.config
        costs = assume_negative_losses(strong if config.strong_aug else weak, observed, variant="reference")
        terms = {"ignored": whole.total(costs, ~gone) / (~gone).sum().clamp(min=1)}
        if config.spbc:
            positive = assume_negative_losses(weak, observed, variant="reference")
            terms["spbc"] = whole.total(positive, shown) / shown.sum().clamp(min=1)
        if config.reg:
            terms["reg"] = whole.total((strong - weak).square(), torch.ones_like(gone)) / gone.numel()
        return terms

    @torch.no_grad()
    def _reject(self, model: Model, batch: Batch, weak: ModelOutput, whole: GlobalBatch) -> _Rejection:
        """The labels that are rejected in the global batch. Updates the thresholds."""
        kept = self._kept_pixels(weak, batch)
        logits = at_least_float32(weak.logits)
        frozen = _norms_in_evaluation(model) if self.config.masked_bn == "eval" else nullcontext()
        with frozen:
            gap = (logits - at_least_float32(model(batch.images * kept[:, None]).logits)).abs()
        if self.config.unannotated == "kept":  # BatchNorm and dropout make a gap where nothing is masked
            gap = gap.where((batch.observed == PRESENT).any(dim=1, keepdim=True), 0)
        gap, logits, observed = whole.rows(torch.stack([gap, logits, batch.observed.to(gap)], dim=1)).unbind(dim=1)
        thresholds = updated_thresholds(
            IgnoreThresholds(self.gap_threshold, self.average_threshold),
            gap,
            logits,
            observed == PRESENT,
            (self.config.gap_lambda, self.config.avg_lambda),
        )
        self.gap_threshold.copy_(thresholds.gap)
        self.average_threshold.copy_(thresholds.average)
        gone = rejected(gap, logits, observed == UNKNOWN, thresholds, lat=self.config.lat)
        if self.epoch <= self.config.reject_after:
            gone = torch.zeros_like(gone)
        parts = {"rejected": gone.sum() / whole.size, "gap_threshold": self.gap_threshold.clone()}
        return _Rejection(gone, observed == PRESENT, parts | {"kept_area": kept.to(logits.dtype).mean()})

    def _kept_pixels(self, weak: ModelOutput, batch: Batch) -> Tensor:
        """(B, H, W) bool, the pixels that masking keeps, from the maps of the observed positives."""
        maps, shown = class_maps(weak, self.config.cam_map), batch.observed == PRESENT
        if self.config.several == "refuse":  # at most one per image: the other maps are not needed
            first = shown.to(torch.uint8).argmax(dim=1, keepdim=True)
            maps, shown = maps.take_along_dim(first[:, :, None, None], dim=1), shown.any(dim=1, keepdim=True)
        scaled = normalised(maps, shown, variant_options(self.config, VARIANTS).cam_norm)
        height, width = batch.images.shape[2:]
        return kept_pixels(scaled, shown, self.config.cam_threshold, (height, width))


def _nothing(observed: Tensor) -> _Rejection:
    """No rejected label, of a global batch with these codes (G, C)."""
    return _Rejection(torch.zeros_like(observed, dtype=torch.bool), observed == PRESENT, {})


def _require_usable(observed: LabelTable, several: str) -> None:
    """Raise UserError unless some label may be rejected, and each image has one map to mask by."""
    require(
        int(observed.counts(UNKNOWN).sum()) > 0,
        "ignore: no label is unknown, so none may be rejected; take --labels single, or --no-ignore for none",
    )
    many = int((np.asarray((observed.codes == PRESENT).sum(axis=1)) > 1).sum())
    require(
        several == "union" or many == 0,
        f"ignore: {many} images have several observed positives, but masking needs one per image; take "
        "--labels single, or --several union",
    )


@contextmanager
def _norms_in_evaluation(model: Model) -> Iterator[None]:
    """A block in which BatchNorm uses its running statistics and does not change them."""
    modules = model.modules() if isinstance(model, nn.Module) else ()
    norms = [module for module in modules if isinstance(module, _BatchNorm) and module.training]
    for norm in norms:
        norm.eval()
    try:
        yield
    finally:
        for norm in norms:
            norm.train()
