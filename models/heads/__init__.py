"""The registry of heads. A new head is a file with its config, its class and its build function, and one line here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from models.heads.base import Head, LabelInfo
from models.heads.csra import CSRAConfig, build_csra
from models.heads.ctran import CTranConfig, build_ctran
from models.heads.gcn import GCNConfig, build_gcn
from models.heads.linear import LinearConfig, build_linear
from models.heads.pfc import PFCConfig, build_pfc
from models.heads.query2label import Query2LabelConfig, build_q2l

__all__ = ["HEADS", "Head", "HeadKind", "LabelInfo"]


class HeadKind(NamedTuple):
    """A head that can be chosen by name."""

    config: type[Any]
    """The dataclass of its settings; the first line of its docstring is the head's title in help texts."""
    build: Callable[[int, int, Any, LabelInfo | None], Head]
    """From feature width D, number of classes C, its config and the label info to the head."""
    takes_labels: bool = False
    """True if it can be given known labels of the images that it classifies."""
    needs_label_info: bool = False
    """True if it cannot be initialised without `LabelInfo`."""
    class_vectors: Callable[[Any], bool] = lambda config: False
    """True of a config with which it has a vector of each class."""
    pooled: Callable[[Any], bool] = lambda config: False
    """True of a config with which a linear layer makes its logits of one vector of each image."""

    @property
    def title(self) -> str:
        """A few words on the head."""
        return (self.config.__doc__ or self.config.__name__).splitlines()[0].removesuffix(".")


HEADS: dict[str, HeadKind] = {
    "linear": HeadKind(
        LinearConfig, build_linear, class_vectors=lambda config: config.linear, pooled=lambda config: config.linear
    ),
    "csra": HeadKind(CSRAConfig, build_csra, class_vectors=lambda config: config.linear),
    "pfc": HeadKind(PFCConfig, build_pfc),
    "q2l": HeadKind(Query2LabelConfig, build_q2l, class_vectors=lambda config: True),
    "gcn": HeadKind(GCNConfig, build_gcn, needs_label_info=True, pooled=lambda config: True),
    "ctran": HeadKind(CTranConfig, build_ctran, takes_labels=True, class_vectors=lambda config: True),
}
"""Heads by name."""
