"""Every method with a published trainer: its command, the numbers that both sides get, and its transcription.

A number that is not named here is our script's default on one side and the published value on the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tests.equivalence.plain import Outcome
from tests.equivalence.transcriptions import (
    asl,
    c_tran,
    cls,
    cones,
    cones_bce,
    csl,
    csra,
    distribution_balanced,
    em,
    gr,
    ignore,
    large_loss,
    ml_gcn,
    ndlp,
    query2label,
    robust_loss,
    single_positive,
)


def nothing(criterion: Any) -> dict[str, Tensor]:
    """The state of a method that has none."""
    return {}


@dataclass(frozen=True)
class Case:
    """A whole run and its transcription."""

    script: str
    scene: str
    train: Callable[..., Outcome]
    words: tuple[object, ...] = ()
    """Flags that choose the method and what is published of it."""
    numbers: Mapping[str, Any] = field(default_factory=dict)
    """Flags that the transcription takes as arguments too."""
    choices: Mapping[str, Any] = field(default_factory=dict)
    """More arguments of the transcription."""
    state: Callable[[Any], dict[str, Tensor]] = nothing
    """What of our criterion the transcription has too."""
    acts: tuple[str, ...] = ()
    """Columns of the log that must not be 0 throughout: what the method does, and would not be compared undone."""
    epochs_known: bool = False
    """True if the transcription is told the number of epochs, on which a schedule of it depends."""
    fewest: int = 2
    """Steps of an epoch, at least; 4 where a fifth of the images must make a whole batch too."""
    batch_size: int = 8
    beyond: int = -1
    """Training images beyond the whole batches of an epoch; below 0 the last batch is short of so many."""
    epochs: int = 4


def _bank(criterion: Any) -> Tensor:
    """(K, capacity, D) the prototypes of each class, newest first."""
    rows = [criterion.bank.newest_first(label) for label in range(len(criterion.correlation))]
    full = torch.zeros_like(criterion.bank.rows)
    for label, each in enumerate(rows):
        full[label, : len(each)] = each
    return full


def cones_state(criterion: Any) -> dict[str, Tensor]:
    """Confidences, correlation, and the bank in one order."""
    return {"confidence": criterion.confidence.dense(), "correlation": criterion.correlation, "banks": _bank(criterion)}


def ignore_state(criterion: Any) -> dict[str, Tensor]:
    """Both thresholds."""
    return {"gap": criterion.gap_threshold, "average": criterion.average_threshold}


def role_state(criterion: Any) -> dict[str, Tensor]:
    """The label estimates."""
    return {"estimates": criterion.estimates.detach()}


def soft_label_state(criterion: Any) -> dict[str, Tensor]:
    """The soft labels of APL."""
    return {"soft": criterion.soft}


def ndlp_state(criterion: Any) -> dict[str, Tensor]:
    """Confidences and the distribution."""
    return {"p": criterion.confidence.dense(), "d": criterion.log_distribution.exp()}


def corrected_state(criterion: Any) -> dict[str, Tensor]:
    """The observed labels with what was corrected for good; none of a scheme that corrects nothing so."""
    table = criterion.corrected_labels()
    return {} if table is None else {"observed": torch.from_numpy(table.dense()).double()}


def large_loss_case(scheme: str, boostlu: float | None = None, early_stop: float = 100) -> Case:
    """A scheme of the large loss, boosted under the rule of BoostLU's code; the published stop is 3 points."""
    boosted: dict[str, Any] = {} if boostlu is None else {"boostlu": boostlu}
    rule = ("--flip", "selected") if boosted else ()
    return Case(
        "main_llm.py",
        "pascal",
        large_loss.train,
        ("--variant", "reference", *rule),
        {"mod_scheme": scheme, "delta_rel": 2.0, "lr": 1e-3, "early_stop": early_stop, **boosted},
        {"strict": not boosted},
        state=corrected_state,
        acts=("modified",),
    )


def single_positive_case(loss: str, *words: object) -> Case:
    """A loss of Cole et al. under their protocol."""
    variant = () if loss == "pr" else ("--variant", "reference")
    return Case(
        "main_BCE.py",
        "pascal",
        single_positive.train,
        ("configs/protocols/single_positive.yaml", "--loss", loss, *variant, *words),
        {"lr": 1e-3},
        {"loss": loss},
        beyond=3,
        fewest=4,
        state=role_state if loss == "role" else nothing,
    )


def em_case(loss: str, early_stop: str, **numbers: Any) -> Case:
    """EM alone or with APL under their protocol, which ends a run at the first epoch that is no new best."""
    apl, first = loss == "em_apl", early_stop == "first"
    return Case(
        "main_BCE.py",
        "pascal",
        em.train,
        ("configs/protocols/em.yaml", "--loss", loss, "--variant", "reference", f"--early_stop={early_stop}"),
        {"lr": 1e-3, **numbers},
        {"apl": apl, "first": first},
        state=soft_label_state if apl else nothing,
        acts=("entropy", "labelled") if apl else ("entropy",),
        epochs_known=True,
    )


def gr_case(early_stop: float = 100) -> Case:
    """GR loss under its protocol, with lines on which unknown labels turn; the published stop is 2 points."""
    lines: dict[str, Any] = {"pseudo_slope": (1.0, 9.0), "pseudo_bias": (-2.0, -3.0), "absent_power": 1.5}
    return Case(
        "main_BCE.py",
        "pascal",
        gr.train,
        ("configs/protocols/gr.yaml", "--variant", "reference"),
        {"lr": 1e-3, "early_stop": early_stop, **lines},
        acts=("unknown", "modified"),
        epochs_known=True,
    )


CANDIDATES = ("--partial_rate", 0.05)

SINGLE: dict[str, tuple[object, ...]] = {
    "iu": ("--labels", "observed", "--num_pos", 1, "--num_neg", 2),
    "bce_ls": ("--labels", "full"),
}
"""Labels of the losses that need others than single positives."""

CASES: dict[str, Case] = {
    "bce": Case("main_BCE.py", "voc07", cones_bce.train, CANDIDATES, {"step_size": 2}),
    "cones": Case(
        "main_CoNeS.py",
        "voc07",
        cones.train,
        (*CANDIDATES, "--variant", "reference"),
        {"step_size": 2, "clusters": 2, "memory_per_class": 12},
        state=cones_state,
        acts=("pseudo_positives",),
    ),
    "csra": Case(
        "main_BCE.py",
        "voc07",
        csra.train,
        ("configs/protocols/csra.yaml", "--labels", "full"),
        {"num_heads": 4, "lam": 0.5, "step_size": 2},
    ),
    "ignore": Case(
        "main_ignore.py",
        "pascal",
        ignore.train,
        ("--mode", "train_resnet", "--variant", "reference"),
        {"lr": 1e-3, "reject_after": 1, "gap_lambda": 0.9, "avg_lambda": 0.9},
        state=ignore_state,
        acts=("rejected",),
    ),
    **{scheme: large_loss_case(scheme) for scheme in ("LL-R", "LL-Ct", "LL-Cp")},
    "LL-R, early stop": large_loss_case("LL-R", early_stop=0.01),
    **{f"{scheme} BoostLU": large_loss_case(scheme, 5.0) for scheme in ("LL-R", "LL-Ct", "LL-Cp")},
    **{
        name: single_positive_case(name, *SINGLE.get(name, ()))
        for name in ("an", "an_ls", "wan", "epr", "role", "pr", "iu", "iun", "bce_ls")
    },
    "em": em_case("em", ""),
    "em, early stop": em_case("em", "first"),
    "em_apl": em_case("em_apl", "", apl_warmup=1),
    "gr": gr_case(),
    "gr, early stop": gr_case(early_stop=0.01),
    "ndlp": Case(
        "main_ndlp.py",
        "voc-lt",
        ndlp.train,
        ("--variant", "reference", "--neck_dropout", 0, "--sampler_reduce", 1),
        {"neck_width": 16},
        state=ndlp_state,
        acts=("chosen", "mix", "pseudo_positives"),
        epochs_known=True,
    ),
    "db": Case(
        "main_BCE.py",
        "voc-lt",
        distribution_balanced.train,
        ("configs/protocols/distribution_balanced.yaml", "--neck_dropout", 0, "--sampler_reduce", 1),
        {"neck_width": 16, "clip_grad": 0.1, "warmup_steps": 6, "milestones": (1, 3)},
    ),
    "cls": Case(
        "main_cls.py",
        "voc07",
        cls.train,
        ("--labels_left", "single"),
        {"lr": 1e-3, "tau_h": 0.2, "tau_l": 0.4},
        acts=("removed_high", "removed_low"),
        epochs_known=True,
    ),
    "query2label": Case(
        "main_BCE.py",
        "voc07",
        query2label.train,
        ("configs/protocols/query2label.yaml", "--labels", "full", "--dropout", 0, "--hidden_dim", 96),
        {"dim_feedforward": 16, "nheads": 2, "lr": 1e-3, "ema": 0.9},
        beyond=3,
    ),
    "asl": Case(
        "main_BCE.py",
        "voc07",
        asl.train,
        ("configs/protocols/asl.yaml", "--labels", "full"),
        {"lr": 1e-3, "w_d": 0.1, "ema": 0.9, "schedule_epochs": 5},
    ),
    "hill": Case(
        "main_BCE.py",
        "voc07",
        robust_loss.train,
        ("configs/protocols/splc.yaml", "--loss", "hill", "--labels", "single"),
        {"lr": 1e-3, "w_d": 0.1, "ema": 0.9, "schedule_epochs": 5},
    ),
    "splc": Case(
        "main_BCE.py",
        "voc07",
        robust_loss.train,
        ("configs/protocols/splc.yaml", "--labels", "single"),
        {"tau": 0.4, "lr": 1e-3, "w_d": 0.1, "ema": 0.9, "schedule_epochs": 5},
        {"loss": "splc"},
        acts=("modified",),
    ),
    "csl": Case(
        "main_BCE.py",
        "voc07",
        csl.train,
        (*("configs/protocols/csl.yaml", "--labels", "rps", "--variant", "reference"), "--prior", "observed"),
        {"likelihood_topk": 2, "prior_threshold": 0.3, "lr": 1e-3, "w_d": 0.1, "ema": 0.9, "schedule_epochs": 5},
        acts=("dropped",),
    ),
    "ml-gcn": Case(
        "main_BCE.py",
        "voc07",
        ml_gcn.train,
        ("configs/protocols/ml-gcn.yaml", "--labels", "full"),
        {"word_width": 12, "gcn_width": 16, "step_size": 2, "clip_grad": 0.5},
    ),
    "c-tran": Case(
        "main_BCE.py",
        "pascal",
        c_tran.train,
        ("configs/protocols/c-tran.yaml", "--labels", "full", "--val_frac", 0.2, "--dropout", 0, "--hidden_dim", 96),
        {"enc_layers": 2, "dim_feedforward": 16, "nheads": 2, "lr": 1e-3, "patience": 0},
        acts=("told",),
        epochs=8,
    ),
    "an, full labels": single_positive_case("an", "--labels", "full"),
}
"""Cases by name."""
