"""The settings that every training script shares, and the commands that train."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from data.build import DatasetConfig
from data.labels.regime import Regime
from data.loading.loader import LoaderConfig
from data.loading.splicemix import MixConfig
from data.subsets.splits import TrainingSplitConfig
from engine.core.distributed import Precision
from engine.core.kernels import KernelConfig
from engine.core.scoring import MetricsBy
from engine.core.setting_table import Groups, SettingTable, training_names
from engine.core.settings import Command
from engine.core.settings_files import read_run_settings
from engine.core.tracking import TrackConfig
from engine.training.features import FeatureConfig
from engine.training.label_memory import MemoryConfig
from engine.training.optim import OptimConfig
from engine.training.prior_scores import PriorConfig
from engine.training.recorder import RecordConfig
from losses import CRITERIA, methods_of
from losses.group_means import GroupConfig
from models.build import ModelConfig
from models.heads import HEADS
from utils.checks import require
from utils.options import Shorthand, option


def _gpu_num(text: str) -> Mapping[str, str]:
    """Nothing to set for the first GPU; the environment says which one that is."""
    if text != "0":
        raise ValueError("GPUs are chosen from outside: set CUDA_VISIBLE_DEVICES to this number, and give 0")
    return {}


GPU_NUM = Shorthand("0", "published flag: number of the GPU; 0, the first of CUDA_VISIBLE_DEVICES", _gpu_num)

TrainMode = Literal["end_to_end", "linear_init", "linear", "linear_fixed_features"]


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Length of a run, the part of the network that learns, the device, and the files that are kept."""

    epochs: int = option(30, "passes over the training set", aliases=("total_epoch", "num_epochs"), common=True)
    seed: int = option(0, "drives everything random: order, augmentation, initialisation, split, labels", common=True)
    train_seed: int | None = option(
        None, "seed of initialisation, order and augmentation alone, for another run on the same data (default: --seed)"
    )
    train_mode: TrainMode | None = option(
        None,
        "learns: all (end_to_end, the default), first only the head (linear_init), only the head (linear), or only the "
        "head, on features of the images that are computed once (linear_fixed_features)",
    )
    linear_epochs: int = option(25, "linear_init: number of the --epochs that leave the backbone frozen")
    use_feats: bool = option(
        False,
        "published spelling of --train_mode linear_fixed_features",
        implies={"train_mode": "linear_fixed_features"},
    )
    freeze_feature_extractor: bool = option(
        False, "published spelling of --train_mode linear", implies={"train_mode": "linear"}
    )
    selection: Literal["validation", "last", "test"] | None = option(
        None, "epoch that is reported (default: the best on the validation split where there is one, else the last)"
    )
    early_stop: float | Literal["first"] | None = option(
        None,
        "stop when the mAP that selects is more than so many points below its best (LargeLossMatters: 3), or, with "
        "first, as soon as it is no new best (EM)",
    )
    metrics: MetricsBy = option(
        "ours",
        "published: also the test figures as the evaluators of CSRA and CoNeS compute them; full_rows: also those of "
        "images without an unknown label, as L48",
    )
    test_every: int = option(1, "score the test set every so many epochs, for the log only; 0: at the end only")
    test_after: int = option(0, "for the log, score the test set only after this many epochs", aliases=("test_epochs",))
    device: Literal["auto", "cpu", "cuda"] = option(
        "auto", "device of the computation", shorthands={"gpu_num": GPU_NUM}, common=True
    )
    gpus: int | None = option(None, "published flag: number of processes; only checked, torchrun starts them")
    precision: Precision = option("fp32", "precision of the networks' forward pass; fp64: of the whole step, CPU only")
    sync_bn: bool = option(
        False, "on several GPUs BatchNorm normalises by the images of all of them, as it does on one; slower"
    )
    threads: int | None = option(None, "CPU threads of the computation (default: one per core)")
    output: Path | None = option(None, "folder of the run (default: runs/<method>-<dataset>-<time>)", common=True)
    resume: bool = option(
        False,
        "go on with the run in --output, for more --epochs where that is asked; starts it when nothing is there yet",
        common=True,
    )
    save_minutes: float = option(10.0, "minutes between two saves within an epoch; 0 saves after every step")
    save_epochs: int = option(1, "epochs between two saves at an epoch's end; the last epoch is always saved")
    figures: bool = option(True, "draw the run at its end (curves.png, ...) and write its page, report.html")
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
        require(self.save_epochs >= 1, f"--save_epochs {self.save_epochs}: must be at least 1")
        require(self.threads is None or self.threads >= 1, f"--threads {self.threads}: must be at least 1")
        require(self.print_freq >= 1, f"--print_freq {self.print_freq}: must be at least 1")
        require(not self.resume or self.output is not None, "--resume: say which run with --output DIR")
        require(
            not isinstance(self.early_stop, float | int) or self.early_stop >= 0,
            f"--early_stop {self.early_stop}: must not be negative",
        )
        require(
            self.early_stop is None or self.selection != "last",
            "--early_stop: --selection last compares no epochs; give --selection validation, or --early_stop= for none",
        )
        object.__setattr__(self, "train_mode", _train_mode(self))
        require(self.linear_epochs >= 1, f"--linear_epochs {self.linear_epochs}: must be at least 1")
        require(
            self.train_mode != "linear_init" or self.linear_epochs < self.epochs,
            f"--train_mode linear_init: --linear_epochs {self.linear_epochs} are a part of --epochs {self.epochs}; "
            "give more --epochs, or --train_mode linear",
        )

    def require_processes(self, count: int) -> None:
        """Raise UserError unless there are as many processes as `gpus` says."""
        require(
            self.gpus in (None, count),
            f"--gpus {self.gpus}: there are {count} processes; start with torchrun --nproc_per_node {self.gpus}, or "
            "leave the flag out",
        )

    @property
    def training_seed(self) -> int:
        """The seed of all chance in training: initialisation, order, augmentation, draws inside a step."""
        return self.seed if self.train_seed is None else self.train_seed

    @property
    def frozen_epochs(self) -> int:
        """Number of epochs, from the first on, in which the backbone is frozen."""
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


SHARED: Groups = {
    "data": (DatasetConfig, TrainingSplitConfig, LoaderConfig, MixConfig),
    "labels": (Regime, GroupConfig),
    "model": (ModelConfig,),
    "optimiser": (OptimConfig,),
    "run": (RunConfig, FeatureConfig, PriorConfig, KernelConfig, MemoryConfig, RecordConfig, TrackConfig),
}
"""The settings that every training script shares; those of the method and of the head come on top."""


def training_command(program: str, defaults: Mapping[str, Any], *, method: str = "", about: str = "") -> Command:
    """The settings of a training script.

    Args:
        program: name of the script; it trains the methods that name it in `losses.CRITERIA`.
        defaults: values that the script sets differently from the code's defaults.
        method: the one method it trains instead.
        about: one line for `--help`.
    """
    methods = (method,) if method else methods_of(program)
    return Command(
        program=program,
        about=about,
        groups=SHARED,
        defaults=defaults,
        choice=CHOICES.get(program, "loss") if len(methods) > 1 else "",
        methods={name: CRITERIA[name].config for name in methods},
        heads={name: head.config for name, head in HEADS.items()},
    )


def run_command(method: str) -> Command:
    """The settings of a run of `method`, whatever script trained it."""
    return training_command("a run", {}, method=method)


def recorded_settings(folder: Path, method: str) -> tuple[SettingTable, dict[str, Any]]:
    """The settings that the run of a method in a folder was made with, and all values.

    Raises: UserError when its settings cannot be read.
    """
    command, file = run_command(method).table(), folder / "settings.yaml"
    every = command.with_all_heads(method)
    known = training_names()
    head = read_run_settings(file, every, known - every.keys())["head"]
    table = command.of(method, head)
    return table, read_run_settings(file, table, known - table.keys())


CHOICES = {"main_cls.py": "method"}
"""Flags by which scripts of several methods choose one, where it is not `--loss`."""
