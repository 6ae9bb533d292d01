"""Class priors: the share of images that each class is in, as far as partial labels tell it. N images, C classes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from losses.common.variants import require_choices
from utils.checks import require
from utils.class_facts import ClassPriors
from utils.options import option
from utils.types import ABSENT, CriterionInfo, LabelTable

PriorSource = Literal["none", "observed"]


@dataclass(frozen=True, kw_only=True)
class ClassPriorConfig:
    """Origin of the class priors of a method. Raises: UserError for a value that cannot work."""

    prior: PriorSource = option(
        "none", "class priors counted in the known labels (observed), where these are a fair sample of all, or none"
    )
    prior_file: Path | None = option(
        None,
        "class priors from a CSV file class,prior instead, such as class_priors.csv of a run of --loss iu",
        aliases=("prior_path",),
    )

    def __post_init__(self) -> None:
        require_choices(self)
        require(
            self.prior == "none" or self.prior_file is None,
            f"--prior {self.prior}, --prior_file {self.prior_file}: class priors come from one of them; leave out the "
            "other",
        )


def observed_priors(observed: LabelTable) -> ClassPriors:
    """The share of present ones among the known labels of each class, 0 where none is known; labels (N, C)."""
    present, absent = observed.counts(), observed.counts(ABSENT)
    return ClassPriors(present / np.maximum(present + absent, 1), "observed")


def chosen_priors(config: ClassPriorConfig, info: CriterionInfo) -> ClassPriors | None:
    """The class priors that the settings ask for, or that `info` has; None where there are none.

    Raises: UserError for a file that nobody has read, or priors of two origins.
    """
    require(
        config.prior_file is None or info.class_priors is not None,
        f"--prior_file {config.prior_file}: read by the training scripts; in a loop of your own give class_priors, a "
        "number for each class",
    )
    require(config.prior == "none" or info.class_priors is None, "class priors are given: leave out --prior observed")
    return observed_priors(info.observed) if config.prior == "observed" else info.class_priors
