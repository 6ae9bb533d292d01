"""Figures of an evaluation: bars of each class, and a reliability diagram."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.special import expit

from engine.core.scoring import EvalResult
from engine.evaluation.decided import DecisionFigures
from utils.analysis_plots import plot_reliability
from utils.console import say
from utils.metrics import reliability
from utils.plots import plot_shares
from utils.safe_files import make_folder
from utils.types import Annotations


def draw_figures(folder: Path, test: Annotations, measured: EvalResult, figures: DecisionFigures) -> None:
    """Draw `per_class.png`, the class with the highest AP first, and where scores are dense `reliability.png`.

    Raises: UserError when the folder cannot be made; RunError when a file cannot be written.
    """
    make_folder(folder, "--draw")
    order = np.argsort(-np.nan_to_num(figures.classes.AP, nan=-1.0), kind="stable")
    series = {name: getattr(figures.classes, name)[order] for name in ("AP", "AUROC", "F1")}
    plot_shares([test.classes[k] for k in order], series, folder / "per_class.png", xlabel="%")
    say(f"written: {folder / 'per_class.png'}")
    if measured.scores is None:
        return
    exact, codes, calibration = measured.scores.astype(np.float64), test.truth.dense(), figures.decisions.calibration
    kinds = {"sigmoid of the logit": expit(exact)}
    if calibration is not None:
        kinds[f"calibrated ({calibration.method})"] = calibration.probabilities(exact)
    plot_reliability({name: reliability(one, codes) for name, one in kinds.items()}, folder / "reliability.png")
    say(f"written: {folder / 'reliability.png'}")
