"""Base classes of all methods: a criterion turns a model and a batch into a loss and keeps what it learns of labels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Literal, NamedTuple, Self

import torch
from torch import Tensor, nn

from losses.common.candidate_memory import CandidateMemory
from losses.common.functional import at_least_float32
from losses.common.memory import MemoryNeed, settle
from utils.class_facts import ClassPriors, NoiseRates
from utils.types import Batch, CriterionInfo, LabelTable, LossOutput, ModelOutput, PeerModels

_MORE_THAN_LOGITS = frozenset({"cam", "features", "class_vectors", "pooled", "second_view", "peers", "labels", "grids"})
"""Needs that logits alone do not meet."""


class Criterion(nn.Module):
    """The contribution of one paper: `loss = criterion(model, batch)`.

    State (confidences, prototypes, corrected labels) lives in buffers and parameters, so that `state_dict` alone
    resumes a method and the engine knows no method by name. Epochs are counted from 1.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    """Inputs besides logits.

    Of {"cam", "features", "class_vectors", "pooled", "second_view", "peers", "train_scores", "labels", "prior_scores",
    "groups", "grids"}. "pooled": the one vector of each image that a linear layer makes the logits of. "labels": a
    model that takes known labels as input, a `LabelledModel`. "train_scores": see `wants_train_scores`. "prior_scores":
    scores of the training images from outside, `CriterionInfo.prior_scores`. "groups": what each training image belongs
    to, `CriterionInfo.groups`. "grids": images of each batch that are grids of its others, `Batch.layout`.
    """

    single_pass: ClassVar[bool] = True
    """True if a step calls the model once, on `batch.images`, and looks at nothing of the images besides."""

    passes_alike: ClassVar[bool] = True
    """False if some processes may leave out a pass of the network that others make, within which none can wait."""

    takes_soft: ClassVar[bool] = False
    """True if it learns from soft labels, `Batch.soft`: targets between 0 and 1 beside the codes."""

    corrects_from_present: ClassVar[bool] = False
    """True if it corrects other labels by what it learns from the present ones, so that these should be right."""

    trusts_absent: ClassVar[bool] = False
    """True if every absent label is taken for certain, so that no true one may be given as absent."""

    train_scores_of: ClassVar[Literal["network", "average"]] = "network"
    """The network whose training scores are wanted: the one that is trained, or the moving average of its weights."""

    float32_state: ClassVar[frozenset[str]] = frozenset()
    """Buffers and candidate memories that stay float32 where all else is float64, as the method is published."""

    label_memories: ClassVar[frozenset[str]] = frozenset()
    """Buffers and parameters with a row per training image, all used by way of `losses.common.memory`, and candidate
    memories."""

    memories_on_host = False
    """True where they are in the memory of the machine, whatever the device of the rest."""

    def __init__(self, config: Any, info: CriterionInfo) -> None:
        super().__init__()
        self.config = config
        self.info = info

    @classmethod
    def memory_needs(cls, config: Any, info: CriterionInfo) -> Sequence[MemoryNeed]:
        """The large state that a criterion with this config will keep; none by default."""
        return ()

    def placed(self, device: torch.device | str, *, memories_on_host: bool = False) -> Self:
        """This criterion, new and on the host, on `device`, in place; its label memories stay where they are if asked.

        Steps are the same either way. A parameter that stays is updated there.
        """
        with self._set_aside(self.label_memories if memories_on_host else ()):
            self.to(device)
        self.memories_on_host = memories_on_host
        return self

    def in_float64(self) -> Self:
        """This criterion with its float state in float64, in place, except for `float32_state`."""
        with self._set_aside(self.float32_state):
            self.double()
        return self

    @contextmanager
    def _set_aside(self, names: Iterable[str]) -> Iterator[None]:
        """Return a context in which this criterion is without some of its state."""
        kept = {name: getattr(self, name) for name in names}
        for name in kept:
            setattr(self, name, None)
        yield
        for name, state in kept.items():
            setattr(self, name, state)

    def settle_memories(self) -> None:
        """Complete the label memories, as `losses.common.memory.settle` does."""
        for name in self.label_memories:
            memory = getattr(self, name)
            if memory is not None:
                settle(memory.values if isinstance(memory, CandidateMemory) else memory)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As of any module, with complete label memories."""
        self.settle_memories()
        return super().state_dict(*args, **kwargs)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        """As of any module: nothing is on its way that would come later. State of earlier versions is taken too."""
        self.settle_memories()
        self.convert_earlier(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def convert_earlier(self, state: dict[str, Any], prefix: str) -> list[str]:
        """Bring state of earlier versions, whose names begin with `prefix`, into the form of this one, in place.

        In these a candidate memory was a tensor of all labels (N, C).

        Returns:
            Names of the candidate memories that were such.
        """
        earlier = []
        for name in self.label_memories:
            memory, dense = getattr(self, name), state.get(prefix + name)
            if isinstance(memory, CandidateMemory) and isinstance(dense, Tensor) and memory.fits(dense):
                state[f"{prefix}{name}.values"] = memory.values_of(state.pop(prefix + name))
                earlier.append(name)
        return earlier

    def take_state(self, state: Mapping[str, Any]) -> None:
        """Load a state that nobody else reads: label memories on the host become its tensors, without a copy.

        At the size of OpenImages a second copy of LL-Cp's corrections would be half of what a rank has.
        """
        for name in self.label_memories:
            memory, saved = getattr(self, name), state.get(name)
            if isinstance(memory, Tensor) and isinstance(saved, Tensor) and _same_kind(memory, saved):
                settle(memory)
                memory.set_(saved)  # type: ignore[call-overload]
        self.load_state_dict(state)

    def wants_train_scores(self, epoch: int) -> bool:
        """Return True for the epochs before which `on_epoch_start` is given logits (N, C) of the whole training set."""
        return "train_scores" in self.needs

    def on_epoch_start(self, epoch: int, train_scores: Tensor | None = None) -> None:
        """Follow schedules and refresh state before an epoch.

        A run that resumes within an epoch does not call this again, so state that is set here must be in buffers.

        Args:
            epoch: from 1.
            train_scores: logits (N, C), rows in order, if `wants_train_scores(epoch)`, where label memories are; else
                None.
        """

    def scores_before(self, epoch: int, train_scores: Tensor | None) -> Tensor:
        """The training scores (N, C) of an epoch that wants them. Raises: ValueError for none of that shape."""
        shape = len(self.info.observed), self.info.observed.num_classes
        if train_scores is None or train_scores.shape != shape:
            raise ValueError(f"epoch {epoch} needs the scores of the training set, {shape}")
        return train_scores

    def forward(self, model: Any, batch: Batch) -> LossOutput:
        """Loss of one training step, and the update of the criterion's own state.

        `model` is a `Model`, or `PeerModels` where `needs` holds "peers": each method says which in its own signature.
        """
        raise NotImplementedError

    def from_logits(self, logits: Tensor, observed: Tensor, index: Tensor, soft: Tensor | None = None) -> LossOutput:
        """Loss of one training step from the logits of a network that was called elsewhere.

        Args:
            logits: (B, C) with gradient.
            observed: (B, C) label codes, float or integer.
            index: (B,) rows of the training set.
            soft: (B, C) targets in [0, 1], -1 where unknown, of a method that takes them; None for hard labels.

        Raises:
            ValueError: the method needs more than the logits of one forward pass, or the shapes do not fit.
        """
        lacking = sorted(self.needs & _MORE_THAN_LOGITS) + ([] if self.single_pass else ["several forward passes"])
        if lacking:
            raise ValueError(
                f"{type(self).__name__} needs more than logits ({', '.join(lacking)}): call criterion(model, batch)"
            )
        if soft is not None and (not self.takes_soft or soft.shape != logits.shape):
            raise ValueError(f"{type(self).__name__}: soft targets must be (B, C), of a method that takes them")
        if observed.shape != logits.shape or index.shape != logits.shape[:1]:
            shapes = ", ".join(str(tuple(each.shape)) for each in (logits, observed, index))
            raise ValueError(f"logits, observed and index must be (B, C), (B, C) and (B,), got {shapes}")
        on_host = index.long() if index.device.type == "cpu" else None
        observed, index = observed.to(logits.device).float(), index.to(logits.device).long()
        no_images = logits.new_zeros(len(logits), 3, 1, 1)
        soft = None if soft is None else soft.to(logits.device).float()
        output: LossOutput = self(
            _GivenLogits(logits), Batch(no_images, observed, index, soft=soft, host_index=on_host)
        )
        return output

    def refuses_spliced(self) -> str:
        """Why it cannot learn from images that are spliced of others, as the end of a sentence; empty where it can.

        Such an image is no row of the training set, so that nothing is remembered of it.
        """
        kept = [name for name in sorted(self.label_memories) if getattr(self, name) is not None]
        if not kept:
            return ""
        return f"keeps something of each training image ({', '.join(kept)}), and a spliced image is none of them"

    @property
    def corrects_for_good(self) -> bool:
        """True if it makes permanent corrections, so that there are `corrected_labels`."""
        return False

    def corrected_labels(self) -> LabelTable | None:
        """Observed labels (N, C) with this method's permanent corrections; None where it makes none.

        It goes through all labels: ask `corrects_for_good` whether there are any.
        """
        return None

    @property
    def estimates_priors(self) -> bool:
        """True if it learns from known labels alone, so that mean predicted probabilities estimate class priors."""
        return False

    def class_priors(self) -> ClassPriors | None:
        """The class priors that it uses; None where it uses none."""
        return None

    def noise_rates(self) -> NoiseRates | None:
        """The chances of wrong labels that it uses; None where it uses none."""
        return None

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameters of the criterion's own for the optimiser; none by default."""
        return []


def _same_kind(memory: Tensor, saved: Tensor) -> bool:
    """True if a buffer can take the place of another one on the host."""
    alike = memory.device.type == saved.device.type == "cpu" and memory.dtype == saved.dtype
    return alike and memory.shape == saved.shape and saved.is_contiguous() and not memory.requires_grad


class _GivenLogits:
    """A model for one call, whose logits are known already."""

    def __init__(self, logits: Tensor) -> None:
        self.logits: Tensor | None = logits

    def __call__(self, images: Tensor, want: frozenset[str] = frozenset()) -> ModelOutput:
        """Return the logits, whatever the images are. Raises: ValueError when called a second time."""
        if self.logits is None:
            raise ValueError("this method calls the model more than once: call criterion(model, batch)")
        logits, self.logits = self.logits, None
        return ModelOutput(logits)


class ScheduledCriterion(Criterion):
    """A method whose schedules follow from the epoch alone, which is part of its state."""

    def __init__(self, config: Any, info: CriterionInfo) -> None:
        super().__init__(config, info)
        self.epoch = 1

    def on_epoch_start(self, epoch: int, train_scores: Tensor | None = None) -> None:
        """Keep the epoch."""
        self.epoch = epoch

    def get_extra_state(self) -> dict[str, int]:
        """Return the epoch. It is no buffer, because reading one back from a GPU would make every step wait."""
        return {"epoch": self.epoch}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore the epoch."""
        self.epoch = int(state["epoch"])


class PeerPair(NamedTuple):
    """A tensor of network f, and its counterpart of network g."""

    f: Tensor
    g: Tensor


class PeerCriterion(ScheduledCriterion):
    """A method of two networks f and g that see the same images.

    `total` is the sum of both losses. The networks share no parameter, so each learns from its own loss only, and one
    optimiser over both is equal to two. `logits` are those of f.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"peers"})

    def forward(self, model: PeerModels, batch: Batch) -> LossOutput:
        """Loss of one training step for both networks, each called once."""
        raise NotImplementedError


def peer_logits(model: PeerModels, images: Tensor) -> PeerPair:
    """Logits (B, C) of both networks, in single precision at least. Images: (B, 3, H, W)."""
    return PeerPair(at_least_float32(model.f(images).logits), at_least_float32(model.g(images).logits))
