"""Chances of wrong labels that are known before training. C classes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from utils.checks import require
from utils.options import as_text, option
from utils.types import CriterionInfo


@dataclass(frozen=True, kw_only=True)
class NoiseRateConfig:
    """Chances of wrong labels, where they are known. Raises: UserError for values that cannot be."""

    known_rates: tuple[float, ...] | None = option(
        None, "chances of an absent label to be seen as present, and of a present one to be seen as absent, if known"
    )
    rates_file: Path | None = option(
        None, "these chances from a CSV file class,rho_neg,rho_pos instead, such as noise_rates.csv of an earlier run"
    )

    def __post_init__(self) -> None:
        rates = self.known_rates
        if rates is not None:
            possible = len(rates) == 2 and all(0 <= rate <= 1 for rate in rates) and sum(rates) < 1
            require(
                possible, f"--known_rates {as_text(rates)}: must be two numbers in [0, 1], of a sum below 1: rho-,rho+"
            )
        require(
            rates is None or self.rates_file is None,
            f"--known_rates {as_text(rates)}, --rates_file {self.rates_file}: rates come from one of them; leave out "
            "the other",
        )


def given_rates(config: NoiseRateConfig, info: CriterionInfo) -> NDArray[np.float64] | None:
    """(C, 2) the rates that the settings or `info` have; None where there are none.

    Raises: UserError for a file that nobody has read, or rates of two origins.
    """
    require(
        config.rates_file is None or info.noise_rates is not None,
        f"--rates_file {config.rates_file}: read by the training scripts; in a loop of your own give noise_rates, two "
        "numbers for each class",
    )
    require(config.known_rates is None or info.noise_rates is None, "noise rates are given: leave out --known_rates")
    if config.known_rates is None:
        return info.noise_rates
    return np.tile(np.array(config.known_rates, dtype=np.float64), (info.observed.num_classes, 1))
