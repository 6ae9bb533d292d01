"""Class priors of a run: those that a file gives it, and those that its network estimates. C classes, B batch.

A network that has learned from known labels alone predicts, on average over the training set, how often each class is
present; where labels are known by other chances than by lot (`fpc`), that is nearer to the truth than counting them.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from data.labels.class_rates import read_class_priors, read_class_rates
from data.labels.regime import Regime
from engine.core.distributed import Runtime
from engine.core.scoring import BatchLoader, computed_batches, require_finite
from engine.training.recorder import RecordConfig
from losses.common.base import Criterion
from losses.common.class_priors import ClassPriorConfig
from losses.common.functional import at_least_float32
from utils.class_facts import ClassPriors
from utils.collectives import all_sum
from utils.console import say
from utils.safe_files import write_text

PRIORS_FILE = "class_priors.csv"
"""Name in a run folder of the file of estimated priors."""


def given_priors(config: Any, classes: Sequence[str]) -> ClassPriors | None:
    """The priors of the file that the settings of a method name; None where they name none. Raises: UserError."""
    path = config.prior_file if isinstance(config, ClassPriorConfig) else None
    return None if path is None else ClassPriors(read_class_priors(path, classes), "given")


def candidate_rates(regime: Regime, classes: Sequence[str]) -> NDArray[np.float64] | None:
    """(C,) chance of each absent class to be a candidate; None where a regime has no such chance. Raises: UserError."""
    if regime.name == "full":
        return np.zeros(len(classes))
    if regime.name != "candidate" or regime.confusion is not None:
        return None
    rates = regime.partial_rate if regime.class_rates is None else read_class_rates(regime.class_rates, classes)
    return np.broadcast_to(np.asarray(rates, dtype=np.float64), len(classes)).copy()


def estimates_priors(criterion: Criterion, config: RecordConfig) -> bool:
    """True if the run of a criterion ends with an estimate of class priors."""
    return config.class_priors and criterion.estimates_priors


def estimated_priors(model: nn.Module, loader: BatchLoader, rows: int, runtime: Runtime) -> ClassPriors:
    """The mean probability of each class over the rows of all processes' loaders, in the view of evaluation.

    Collective; no table (N, C) of scores is made.

    Raises: RunError when scores are not finite.
    """
    label = "estimating class priors"
    model.eval()
    total = torch.zeros(loader.num_classes, dtype=torch.float64, device=runtime.device)
    for _, logits in computed_batches(lambda images: model(images).logits, loader, rows, runtime, label, lambda: None):
        total += torch.sigmoid(at_least_float32(logits)).sum(dim=0, dtype=torch.float64)
    means = all_sum(total) / rows
    require_finite(bool(torch.isfinite(means).all()), label)
    return ClassPriors(means.cpu().numpy(), "ignore_model")


def report_priors(priors: ClassPriors | None, classes: Sequence[str], folder: Path) -> dict[str, Any]:
    """The part of `result.json` that tells priors and their origin, none without; estimated ones also become a file."""
    if priors is None:
        return {}
    values = dict(zip(classes, priors.values.tolist(), strict=True))
    if priors.origin == "ignore_model":
        write_text(folder / PRIORS_FILE, _as_csv(values))
        say(f"{folder / PRIORS_FILE}: the class priors that the network estimates, for --prior_file")
    return {"class_priors": {"origin": priors.origin, "values": values}}


def _as_csv(values: Mapping[str, float]) -> str:
    """A line per class, as `--prior_file` reads it."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("class", "prior"))
    writer.writerows(values.items())
    return table.getvalue()
