"""The settings that every training script shares, and the choice of a method where a script has several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, make_dataclass
from pathlib import Path
from typing import Literal

from data.build import DatasetConfig
from data.loading.loader import LoaderConfig
from data.subsets.splits import TrainingSplitConfig
from engine.core.settings import peek
from engine.training.optim import OptimConfig
from engine.training.recorder import RecordConfig
from losses import CRITERIA
from models.build import ModelConfig
from utils.checks import require
from utils.options import Shorthand, option


def _gpu_num(text: str) -> Mapping[str, str]:
    """Nothing to set for the first GPU; which one that is, is for the environment to say."""
    if text != "0":
        raise ValueError("GPUs are chosen from outside: set CUDA_VISIBLE_DEVICES to this number, and give 0")
    return {}


GPU_NUM = Shorthand("0", "published flag: number of the GPU; 0, the first of CUDA_VISIBLE_DEVICES", _gpu_num)

TrainMode = Literal["end_to_end", "linear_init", "linear", "linear_fixed_features"]


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """How long, what of the network learns, where, and what is kept."""

    epochs: int = option(30, "passes over the training set", aliases=("total_epoch", "num_epochs"))
    seed: int = option(0, "drives everything random: order, augmentation, initialisation, split, labels")
    train_seed: int | None = option(
        None, "seed of initialisation, order and augmentation alone, for another run on the same data (default: --seed)"
    )
    train_mode: TrainMode | None = option(
        None,
        "what learns: all (end_to_end, the default), first only the head (linear_init), only the head (linear), or "
        "only the head, on features that are computed once (linear_fixed_features)",
    )
    linear_epochs: int = option(25, "linear_init: how many of the --epochs leave the backbone as it is")
    use_feats: bool = option(False, "published spelling of --train_mode linear_fixed_features")
    freeze_feature_extractor: bool = option(False, "published spelling of --train_mode linear")
    selection: Literal["validation", "last", "test"] | None = option(
        None, "epoch that is reported (default: the best on the validation split where there is one, else the last)"
    )
    early_stop: float | None = option(
        None, "stop when the mAP that selects is more than so many points below its best (LargeLossMatters: 3)"
    )
    test_every: int = option(1, "score the test set every so many epochs, for the log only; 0: at the end only")
    test_after: int = option(
        0, "for the log, score the test set only behind this many epochs", aliases=("test_epochs",)
    )
    device: Literal["auto", "cpu", "cuda"] = option("auto", "where to compute", shorthands={"gpu_num": GPU_NUM})
    gpus: int | None = option(None, "published flag: number of processes; only checked, torchrun starts them")
    precision: Literal["fp32", "bf16", "fp16"] = option("fp32", "precision of the networks' forward pass")
    threads: int | None = option(None, "CPU threads of the computation (default: one a core)")
    output: Path | None = option(None, "folder of the run (default: runs/<method>-<dataset>-<time>)")
    resume: bool = option(False, "go on with the run in --output; starts it when nothing is there yet")
    save_minutes: float = option(10.0, "minutes between two saves within an epoch; 0 saves after every step")
    print_freq: int = option(100, "steps between two looks at the running loss")

    def __post_init__(self) -> None:
        require(self.epochs >= 1, f"--epochs {self.epochs}: must be at least 1")
        require(self.seed >= 0, f"--seed {self.seed}: must not be negative")
        require(
            self.train_seed is None or self.train_seed >= 0, f"--train_seed {self.train_seed}: must not be negative"
        )
        require(self.test_every >= 0, f"--test_every {self.test_every}: must not be negative")
        require(self.test_after >= 0, f"--test_after {self.test_after}: must not be negative")
        require(self.gpus is None or self.gpus >= 1, f"--gpus {self.gpus}: must be at least 1")
        require(self.save_minutes >= 0, f"--save_minutes {self.save_minutes}: must not be negative")
        require(self.threads is None or self.threads >= 1, f"--threads {self.threads}: must be at least 1")
        require(self.print_freq >= 1, f"--print_freq {self.print_freq}: must be at least 1")
        require(not self.resume or self.output is not None, "--resume: say which run with --output DIR")
        require(
            self.early_stop is None or self.early_stop >= 0, f"--early_stop {self.early_stop}: must not be negative"
        )
        require(
            self.early_stop is None or self.selection != "last",
            "--early_stop: --selection last compares no epochs; give --selection validation",
        )
        object.__setattr__(self, "train_mode", _train_mode(self))
        require(self.linear_epochs >= 1, f"--linear_epochs {self.linear_epochs}: must be at least 1")
        require(
            self.train_mode != "linear_init" or self.linear_epochs < self.epochs,
            f"--train_mode linear_init: --linear_epochs {self.linear_epochs} are a part of --epochs {self.epochs}; "
            "give more --epochs, or --train_mode linear",
        )

    @property
    def training_seed(self) -> int:
        """The seed of what is random in training: initialisation, order, augmentation, draws inside a step."""
        return self.seed if self.train_seed is None else self.train_seed

    @property
    def frozen_epochs(self) -> int:
        """How many epochs, from the first on, leave the backbone as it is."""
        return {"end_to_end": 0, "linear_init": self.linear_epochs}.get(self.train_mode or "", self.epochs)


def _train_mode(config: RunConfig) -> TrainMode:
    """The mode that the two published switches and `--train_mode` say together."""
    given = config.train_mode
    for flag, on, modes in (
        ("use_feats", config.use_feats, ("linear_fixed_features",)),
        ("freeze_feature_extractor", config.freeze_feature_extractor, ("linear", "linear_fixed_features")),
    ):
        require(not on or given is None or given in modes, f"--{flag} and --train_mode {given}: give one of them")
    if given is not None:
        return given
    if config.use_feats:
        return "linear_fixed_features"
    return "linear" if config.freeze_feature_extractor else "end_to_end"


SECTIONS: dict[str, type] = {
    "data": DatasetConfig,
    "split": TrainingSplitConfig,
    "loader": LoaderConfig,
    "model": ModelConfig,
    "optimiser": OptimConfig,
    "run": RunConfig,
    "recording": RecordConfig,
}
"""The settings every training script shares; the method's own come on top."""

CHOICES = frozenset({"loss", "method"})
"""Flags by which a script of several methods chooses one."""

TRAINING_CONFIGS: tuple[type, ...] = (
    *SECTIONS.values(),
    *(method.config for method in CRITERIA.values()),
    *(make_dataclass("Choice", [(flag, str, option("", "which method"))], frozen=True) for flag in sorted(CHOICES)),
)
"""All config classes of training: their keys may stand in settings files that other commands read as well."""


def training_sections(
    methods: str | Sequence[str], argv: Sequence[str] | None, *, program: str, flag: str
) -> tuple[str, dict[str, type]]:
    """The method to train, and the sections of its settings.

    Args:
        methods: one name of `CRITERIA`, or several, of which `--<flag>` or `<flag>:` in a settings file chooses one;
            the first where nobody chooses.
        argv: the command line without the program, None for the real one.
        program: name of the script, for messages.
        flag: one of `CHOICES`.

    Raises:
        UserError: the choice is none of `methods`, or a settings file cannot be read.
    """
    if isinstance(methods, str):
        return methods, {**SECTIONS, methods: CRITERIA[methods].config}
    choice = choice_config(methods, flag)
    beside = [*SECTIONS.values(), *(CRITERIA[name].config for name in methods)]
    method: str = peek(flag, choice, beside, argv, program=program)
    return method, {"choice": choice, **SECTIONS, method: CRITERIA[method].config}


def choice_config(methods: Sequence[str], flag: str) -> type:
    """A config class of one setting, `flag`, whose values are `methods`; the first is the default."""
    setting = (
        flag,
        Literal[tuple(methods)],
        option(methods[0], "which of these methods is trained; its flags are below"),
    )
    return make_dataclass("Choice", [setting], frozen=True, kw_only=True)
