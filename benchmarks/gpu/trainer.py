"""Every method in the engine's own training loop, over one batch that stays in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from data.loading.dataset import ImageBatch
from data.loading.loader import batch_on
from data.loading.samplers import ShuffledBatches
from data.loading.splicemix import MixConfig, Splicer
from data.loading.transforms import normalizer
from engine.core.distributed import Runtime
from engine.training.ema import EMA
from engine.training.loop import Freezing, Hooks, Learner, Loop
from engine.training.optim import OptimConfig, build_optimizer
from engine.training.setup import class_vector_width
from losses import CRITERIA
from losses.common.base import Criterion
from models.build import Architecture, build_model
from models.heads import LabelInfo
from models.peers import Network, build_peers
from utils.class_facts import ClassCounts
from utils.prior_scores import PriorScores
from utils.types import Batch, Codes, CriterionInfo, LabelTable

EPOCHS = 10
LATE = 9  # an epoch in which every schedule is on
SGD = OptimConfig(optimizer="sgd", lr=1e-3, warmup_epoch=0.0)


class Shape(NamedTuple):
    """Network, side of the images, images per step, classes."""

    model: str
    size: int
    batch: int
    classes: int = 80


@dataclass(frozen=True)
class Case:
    """A method with settings of its own."""

    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""
    head: str = ""
    optim: OptimConfig = SGD
    model: str = ""
    memories_on_host: bool = False

    @property
    def name(self) -> str:
        """Name in the tables."""
        return " ".join(filter(None, (self.method, self.note)))


_OPTIONS: dict[str, dict[str, Any]] = {
    "epr": {"expected_num_pos": 1.5},
    "role": {"expected_num_pos": 1.5},
    "gpr": {"expected_num_pos": 1.5},
    "co-teaching+": {"init_epoch": 1},
    "large_loss": {"delta_rel": 2.0},
    "curriculum": {"relabel_every": 1},
    "cdcr": {"cdcr_warmup": 0},
    "sarb": {"blend_from": 1},
    "hst": {"pseudo_from": 1, "prototype_every": 1},
    "mime": {"mime_warmup": 1},
    "imcl": {"dictionary_size": 8, "collaborate_from": 2},
    "comes": {"candidate_rate": 0.2},
    "comes_rl": {"candidate_rate": 0.2},
}
CASES = [Case(name, _OPTIONS.get(name, {})) for name in CRITERIA]
VARIANTS = [
    Case("cones", {"variant": "reference"}, "reference"),
    Case("large_loss", {"mod_scheme": "LL-R", "delta_rel": 2.0}, "LL-R"),
    Case("large_loss", {"mod_scheme": "LL-Cp", "delta_rel": 2.0}, "LL-Cp"),
    Case("ndlp", {"variant": "reference"}, "reference"),
    Case("ignore", {"masked_bn": "eval"}, "masked_bn eval"),
    Case("decoupling", {"disagreement": "label"}, "by label"),
    Case("cls", {"ablation": "CLC"}, "CLC"),
    Case("csl", {"prior": "observed", "prior_threshold": 0.1}, "with priors"),
    Case("sarb", {"blend_from": 1, "prototypes": 2, "prototype_every": 1}, "with prototypes"),
]
_KEEPING = ("cones", "ndlp", "curriculum", "cap", "cdcr", "em_apl", "vlpl", "mime", "gpr", "role", "large_loss LL-Cp")
_KEEPING += ("transition",)
ON_HOST = [
    Case(case.method, case.options, f"{case.note} memories on the host".strip(), memories_on_host=True)
    for case in CASES + VARIANTS
    if case.name in _KEEPING
]
_LABELS = {
    **dict.fromkeys(("bce", "cdcr", "comes", "comes_rl", "cones", "ndlp", "db"), "candidate"),
    **dict.fromkeys(("role", "iu", "iun", "curriculum", "csl", "partial_bce", "consistency", "imcl"), "known"),
    **dict.fromkeys(("sarb", "hst"), "known"),
    "cap": "semi",
    "bce_ls": "full",
    "transition": "full",
    "ignore": "single",
}
"""Regimes of the methods that do not take partial labels."""


def codes_of(method: str, rows: int, classes: int) -> Codes:
    """Random labels (N, C) of a kind that a method takes."""
    return observed_codes(_LABELS.get(method, "partial"), rows, classes)


def observed_codes(regime: str, rows: int, classes: int, seed: int = 0) -> Codes:
    """Random labels (N, C) of a regime, each row with at least one that is present."""
    rng = np.random.default_rng(seed)
    if regime == "known":
        codes = rng.integers(-1, 2, (rows, classes)).astype(np.int8)
    else:
        rate, other = {
            "full": (0.1, 0),
            "single": (0.0, -1),
            "partial": (0.05, -1),
            "candidate": (0.2, 0),
            "semi": (0.1, 0),
        }[regime]
        codes = np.where(rng.random((rows, classes)) < rate, 1, other).astype(np.int8)
    codes[np.arange(rows), rng.integers(0, classes, rows)] = 1
    if regime == "semi":
        codes[1::2] = -1
    return codes


def _random_scores(rows: int, classes: int) -> PriorScores:
    """Scores from outside, by lot."""
    values = np.random.default_rng(1).random((rows, classes), dtype=np.float32)
    return PriorScores(values, np.arange(rows), np.arange(classes))


class FixedImages:
    """A loader of random bytes, the same images in every batch; pinned beside a GPU."""

    def __init__(self, observed: LabelTable, shape: Shape, views: int, *, pinned: bool) -> None:
        self.observed, self.num_classes, self.pinned = observed, observed.num_classes, pinned
        self.normalizer = normalizer("imagenet")
        generator = torch.Generator().manual_seed(0)
        size = (shape.batch, shape.size, shape.size, 3)
        self.views = [
            self._held(torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)) for _ in range(views)
        ]

    def __iter__(self) -> Iterator[ImageBatch]:
        raise NotImplementedError("batches are asked for one by one")

    def _held(self, values: Tensor) -> Tensor:
        return values.pin_memory() if self.pinned else values

    def batch(self, rows: np.ndarray) -> ImageBatch:
        """The batch of these rows."""
        truth = self._held(torch.from_numpy(self.observed.rows(rows)))
        pixels, *more = (view.permute(0, 3, 1, 2)[: len(rows)] for view in self.views)
        index = self._held(torch.from_numpy(rows.astype(np.int64)))
        return ImageBatch(pixels, self._held(truth.float()), index, more[0] if more else None, truth)

    def to_batch(self, raw: ImageBatch, device: torch.device) -> Batch:
        """As `ImageLoader` does it."""
        return batch_on(device, raw, self.normalizer)


class Trainer:
    """A method, its network and the loop over them, as a run builds them."""

    def __init__(self, case: Case, runtime: Runtime, shape: Shape, *, rows: int = 0, ema: float | None = None) -> None:
        self.runtime, self.shape = runtime, shape
        kind = CRITERIA[case.method]
        needs = kind.criterion.needs
        rows = rows or 16 * shape.batch
        self.observed = LabelTable(codes_of(case.method, rows, shape.classes))
        self.batches = ShuffledBatches(rows, shape.batch, seed=0, rank=runtime.rank, world_size=runtime.world_size)
        self.network = self._network(case, "peers" in needs, "labels" in needs)
        criterion = self._criterion(kind.criterion, kind.config(**case.options))
        self.criterion = criterion.placed(runtime.device, memories_on_host=case.memories_on_host)
        pinned = runtime.device.type == "cuda"
        self.images = FixedImages(self.observed, shape, 2 if "second_view" in needs else 1, pinned=pinned)
        self.loop = self._loop(case.optim, EMA(self.network, ema) if ema else None)

    def _network(self, case: Case, peers: bool, labels: bool) -> Network:
        head = case.head or ("ctran" if labels else "linear")
        model = case.model or self.shape.model
        more = {"hidden_dim": 512} if head in ("ctran", "q2l") and model.startswith("resnet") else {}
        architecture = Architecture.of(model=model, weights="none", head=head, **more)
        classes = tuple(f"c{k}" for k in range(self.shape.classes))
        build = build_peers if peers else build_model
        return build(architecture, len(classes), 0, label_info=LabelInfo(classes, self.observed))

    def _criterion(self, kind: type[Criterion], config: Any) -> Criterion:
        clean = LabelTable(observed_codes("full", len(self.observed), self.shape.classes))
        info = CriterionInfo(
            observed=self.observed,
            classes=tuple(f"c{k}" for k in range(self.shape.classes)),
            epochs=EPOCHS,
            steps_per_epoch=len(self.batches),
            feature_width=self.network.feature_width,
            class_counts=ClassCounts(self.observed.counts(), "observed"),
            seed=0,
            clean_counts=ClassCounts(clean.counts(), "clean"),
            prior_scores=_random_scores(len(self.observed), self.shape.classes),
            class_vector_width=class_vector_width(self.network, kind.needs),
        )
        return kind(config, info)

    def _loop(self, optim: OptimConfig, ema: EMA | None) -> Loop:
        groups = [
            {"params": self.network.backbone_parameters()},
            {"params": self.network.head_parameters(), "lr_mult": optim.head_lr_mult},
            *self.criterion.parameter_groups(),
        ]
        model = self.runtime.wrap(self.network)
        if ema:
            self.runtime.to_device(ema.network)
        optimizer = self.runtime.wrap_optimizer(build_optimizer(optim, groups))
        return Loop(
            self.runtime,
            Learner(model, self.criterion, optimizer, optim, ema),
            self.images,
            self.batches,
            epochs=EPOCHS,
            seed=0,
            save_minutes=60,
            save_epochs=1,
            print_freq=10**9,
            save=lambda state: None,
            freezing=Freezing(0, self.network.freeze_backbone),
            hooks=Hooks(mix=self._splicer()) if "grids" in self.criterion.needs else Hooks(),
        )

    def _splicer(self) -> Splicer:
        """What adds grids of images, as `--mix splice` does."""
        return Splicer(MixConfig(mix="splice"), self.runtime.rank, self.runtime.world_size)

    def start(self, epoch: int) -> None:
        """Begin an epoch, with training scores of 0 where the method wants some."""
        state = self.loop.state
        state.epoch, state.step = epoch, 0
        device = torch.device("cpu") if self.criterion.memories_on_host else self.runtime.device
        scores = torch.zeros(len(self.observed), self.shape.classes, device=device)
        self.criterion.on_epoch_start(epoch, scores if self.criterion.wants_train_scores(epoch) else None)
        self.loop.learner.model.train()
        self.criterion.train()
        self.batches.set_epoch(epoch)
        self.prepared = [self.images.batch(np.array([sample.row for sample in samples])) for samples in self.batches]

    def step(self) -> None:
        """One step of the loop; it goes round the batches of the epoch."""
        state = self.loop.state
        size = self.batches.batch_size
        self.loop.step(self.prepared[state.step], min(size, self.batches.rows - state.step * size))
        state.step %= len(self.prepared)

    def losses(self) -> dict[str, float]:
        """Losses added up since the trainer was made."""
        return dict(self.loop.state_dict()["position"]["sums"])
