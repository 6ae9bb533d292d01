"""PLC and LAC: pseudo labels of a weak view that the strong one learns, and classes told apart by their embeddings.

B batch, C classes, G rows of the global batch, V width of a class vector, D that of its embedding, Q places of the
queue, p the sigmoid of the logits of the weak view. Source: Xie et al.,
"Label-Aware Global Consistency for Multi-Label Learning with Single Positive Labels", NeurIPS 2022; published code
milkxie/SPML-LAC, `first_stage.py`, `second_stage.py`. Differences from it: docs/methods/plc.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from losses.assume_negative import assume_negative_losses
from losses.common.base import Criterion, ScheduledCriterion
from losses.common.functional import at_least_float32
from losses.common.global_batch import GlobalBatch
from losses.common.variants import require_choices
from losses.consistency import known_means
from losses.plc_queue import Queue, Variant, class_contrast, put
from losses.single_positive import known_losses
from utils.checks import require
from utils.options import option
from utils.seeding import derive_seed
from utils.types import ABSENT, PRESENT, UNKNOWN, Batch, CriterionInfo, LossOutput, Model, ModelOutput


@dataclass(frozen=True, kw_only=True)
class PLCConfig:
    """Settings of PLC. Raises: UserError for a value that cannot work."""

    pseudo_threshold: float = option(
        0.6, "tau: an unknown label is present where the probability in the weak view is this or more"
    )
    plc_weight: float = option(1.0, "weight of the loss of the strong view")

    def __post_init__(self) -> None:
        require_threshold("pseudo_threshold", self.pseudo_threshold, 0.6)
        require_weight("plc_weight", self.plc_weight)


@dataclass(frozen=True, kw_only=True)
class LACConfig(PLCConfig):
    """Settings of LAC. Raises: UserError for a value that cannot work."""

    lac_warmup: int | None = option(
        None, "first epochs, of PLC alone, as the published first stage (default: half of --epochs)"
    )
    lac_threshold: float = option(0.9, "tau of the later epochs")
    lac_weight: float = option(1.0, "weight of the contrast between classes")
    lac_temperature: float = option(0.5, "divisor of similarities")
    queue_size: int = option(512, "embeddings that are compared with each other")
    embedding_width: int = option(128, "numbers in an embedding")
    projector_width: int | None = option(None, "width of the layer before (default: that of a class vector)")
    variant: Variant = option("fixed", "the queue goes round, or begins again where it would be full, as published")

    def __post_init__(self) -> None:
        super().__post_init__()
        warmup, size = self.lac_warmup, self.queue_size
        require(warmup is None or warmup >= 0, f"--lac_warmup {warmup}: must be 0 or more")
        require_threshold("lac_threshold", self.lac_threshold, 0.9)
        require_weight("lac_weight", self.lac_weight)
        require(
            0 < self.lac_temperature < math.inf,
            f"--lac_temperature {self.lac_temperature}: must be above 0; the published value is 0.5",
        )
        require(1 <= size <= 8192, f"--queue_size {size}: must be in [1, 8192]; the published value is 512")
        for name in ("embedding_width", "projector_width"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"--{name} {value}: must be at least 1")
        require_choices(self)


def require_threshold(name: str, value: float, published: float) -> None:
    """Raise UserError unless a threshold is in [1/2, 1)."""
    require(0.5 <= value < 1, f"--{name} {value}: must be in [0.5, 1); the published value is {published}")


def require_weight(name: str, value: float) -> None:
    """Raise UserError unless a weight is 0 or more."""
    require(0 <= value < math.inf, f"--{name} {value}: must be 0 or more; the published value is 1")


@torch.no_grad()
def sure_labels(weak: Tensor, observed: Tensor, threshold: float) -> Tensor:
    """Labels that the strong view learns: all known ones, and those of which the weak view is sure.

    Args:
        weak: (B, C) logits in single precision at least.
        observed: (B, C) label codes.
        threshold: tau in [1/2, 1).

    Returns:
        (B, C) codes of the type of the logits: what is known; PRESENT where p >= tau, ABSENT where p < 1 - tau, UNKNOWN
        between the two.
    """
    p, known = torch.sigmoid(weak), observed != UNKNOWN
    labels = torch.full_like(weak, UNKNOWN).masked_fill(p < 1 - threshold, ABSENT)
    return labels.masked_fill(p >= threshold, PRESENT).where(~known, observed.to(weak.dtype))


class PLC(Criterion):
    """Pseudo labels of the weak view for the strong one, beside assume negative (Xie et al., NeurIPS 2022, stage 1).

    Both views are one batch of 2B images for the network: BatchNorm normalises them together. The weak view is
    `batch.images`, the strong one `batch.second_view`. It holds no state. `modified` are unknown labels that are
    learned as present. Logged: `an` and `plc`, the two terms; `pseudo_present` and `pseudo_absent`, unknown labels per
    image that the strong view learns.

    Raises: UserError unless some labels are known to be present and some are unknown.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"second_view"})
    corrects_from_present: ClassVar[bool] = True
    config: PLCConfig

    def __init__(self, config: PLCConfig, info: CriterionInfo) -> None:
        super().__init__(config, info)
        require_two_kinds("plc", info)

    def forward(self, model: Model, batch: Batch) -> LossOutput:
        """Loss of one batch: weak view (B, 3, H, W), strong view as second view, observed labels (B, C)."""
        weak, strong = at_least_float32(both_views(model, batch).logits).chunk(2)
        labels = sure_labels(weak, batch.observed, self.config.pseudo_threshold)
        an, plc = view_losses(weak, strong, labels, batch)
        total = an + self.config.plc_weight * plc
        guessed = batch.observed == UNKNOWN
        parts = {"an": an.detach(), "plc": plc.detach(), **guess_counts(labels, guessed)}
        return LossOutput(total, weak.detach(), parts, guessed & (labels == PRESENT))


class LAC(ScheduledCriterion):
    """PLC, and then also a contrast between the classes of present labels (Xie et al., NeurIPS 2022, both stages).

    In the later epochs the class vectors of both views are embedded by a projector, and those of labels that count as
    present go into a queue, over all of which classes are told apart. All processes have one queue. State: the epoch;
    `projector`, which is trained; `queue` (Q, 2, D), `queue_labels` (Q,) and `pointer`. Otherwise as PLC. Logged
    besides: `lac`, the contrast, and `queued`, labels per image that go into the queue.

    Raises: UserError as PLC does, or if the warm-up leaves no epoch.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"second_view", "class_vectors"})
    corrects_from_present: ClassVar[bool] = True
    config: LACConfig
    queue: Tensor
    queue_labels: Tensor
    pointer: Tensor

    def __init__(self, config: LACConfig, info: CriterionInfo) -> None:
        super().__init__(config, info)
        require_two_kinds("lac", info)
        self.warmup = info.epochs // 2 if config.lac_warmup is None else config.lac_warmup
        require(
            self.warmup < info.epochs,
            f"lac: --lac_warmup {self.warmup} leaves none of the {info.epochs} --epochs for it; give fewer, or take "
            "--loss plc",
        )
        self.projector = new_projector(config, info)
        self.register_buffer("queue", torch.zeros(config.queue_size, 2, config.embedding_width))
        self.register_buffer("queue_labels", torch.zeros(config.queue_size, dtype=torch.int64))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The projector."""
        return [{"params": list(self.projector.parameters())}]

    def forward(self, model: Model, batch: Batch) -> LossOutput:
        """Loss of one batch: weak view (B, 3, H, W), strong view as second view, observed labels (B, C)."""
        config, late = self.config, self.epoch > self.warmup
        output = both_views(model, batch, frozenset({"class_vectors"} if late else ()))
        weak, strong = at_least_float32(output.logits).chunk(2)
        labels = sure_labels(weak, batch.observed, config.lac_threshold if late else config.pseudo_threshold)
        an, plc = view_losses(weak, strong, labels, batch)
        total = an + config.plc_weight * plc
        guessed = batch.observed == UNKNOWN
        parts = {"an": an.detach(), "plc": plc.detach(), **guess_counts(labels, guessed)}
        if late:
            assert output.class_vectors is not None
            lac = self._contrast(output.class_vectors.vectors, labels == PRESENT, batch)
            total = total + config.lac_weight * lac
            parts |= {"lac": lac.detach(), "queued": (labels == PRESENT).sum(dim=1).float().mean()}
        return LossOutput(total, weak.detach(), parts, guessed & (labels == PRESENT))

    def _contrast(self, vectors: Tensor, present: Tensor, batch: Batch) -> Tensor:
        """The contrast with the class vectors (2B, C, V) of `present` labels, (B, C) bool, put into the queue."""
        embeddings = self._embeddings(at_least_float32(vectors), present)
        pairs = torch.cat([*embeddings.chunk(2), present[:, :, None].to(embeddings)], dim=2)
        every = GlobalBatch(batch).rows_with_gradient(pairs).flatten(0, 1)  # (G * C, 2D + 1)
        labels = torch.arange(1, present.shape[1] + 1, device=present.device).repeat(len(every) // present.shape[1])
        new = every[:, :-1].reshape(len(every), 2, -1)
        before = Queue(self.queue, self.queue_labels, self.pointer)
        after = put(before, new, labels, every[:, -1].detach() > 0, self.config.variant)
        for kept, value in zip((self.queue, self.queue_labels, self.pointer), after, strict=True):
            kept.copy_(value.detach())
        return class_contrast(after, self.config.lac_temperature)

    def _embeddings(self, vectors: Tensor, present: Tensor) -> Tensor:
        """(2B, C, D) of length 1, of class vectors (2B, C, V); on a CPU 0 for labels that are not `present`, (B, C).

        Those are not looked at. To leave them out, their number must be known, and other devices would be waited for.
        """
        if vectors.device.type != "cpu":
            return F.normalize(self.projector(vectors), dim=2)
        chosen = present.repeat(2, 1)
        embedded = F.normalize(self.projector(vectors[chosen]), dim=1)
        return embedded.new_zeros(*chosen.shape, embedded.shape[1]).masked_scatter(chosen[:, :, None], embedded)


def require_two_kinds(method: str, info: CriterionInfo) -> None:
    """Raise UserError unless some labels are known to be present and some are unknown."""
    for code, words in ((PRESENT, "known to be present"), (UNKNOWN, "unknown")):
        require(
            int(info.observed.counts(code).sum()) > 0,
            f"{method}: no label is {words}, so there is nothing to learn from another view; take --labels single",
        )


def new_projector(config: LACConfig, info: CriterionInfo) -> nn.Sequential:
    """The layers from a class vector to its embedding, initialised by the seed of the run, alike on every process.

    Raises: UserError for class vectors of unknown width.
    """
    require(
        info.class_vector_width >= 1,
        "lac: give class_vector_width, how many numbers the vector of a class has that the head gives",
    )
    hidden = config.projector_width or info.class_vector_width
    layers = nn.Linear(info.class_vector_width, hidden), nn.Linear(hidden, config.embedding_width)
    generator = torch.Generator().manual_seed(derive_seed(info.seed, "projector"))
    with torch.no_grad():
        for layer in layers:
            for parameter in layer.parameters():
                parameter.uniform_(-1, 1, generator=generator).div_(math.sqrt(layer.in_features))
    return nn.Sequential(layers[0], nn.ReLU(), layers[1])


def both_views(model: Model, batch: Batch, want: frozenset[str] = frozenset()) -> ModelOutput:
    """What the network says of the weak views and, behind them, of the strong ones, as one batch of 2B images."""
    assert batch.second_view is not None
    return model(torch.cat([batch.images, batch.second_view]), want=want)


def view_losses(weak: Tensor, strong: Tensor, labels: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Scalars: assume negative on the weak view, and BCE of the strong one, the mean over its labels of all processes.

    Args:
        weak: (B, C) logits.
        strong: (B, C) logits.
        labels: (B, C) codes that the strong view learns; without any its loss is 0.
        batch: the rows, and what is observed of them.
    """
    an = assume_negative_losses(weak, batch.observed).mean()
    (plc,) = known_means([known_losses(strong, labels)], [labels], batch, "batch")
    return an, plc


def guess_counts(labels: Tensor, guessed: Tensor) -> dict[str, Tensor]:
    """Numbers per image of present and absent ones among the labels (B, C) that are `guessed`, (B, C) bool."""
    return {
        name: (guessed & (labels == code)).sum(dim=1).float().mean()
        for name, code in (("pseudo_present", PRESENT), ("pseudo_absent", ABSENT))
    }
