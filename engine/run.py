"""One training run from settings to `result.json`."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torchvision

from data.build import Data, DatasetConfig, build_data, check_pictures
from data.cache import Cache
from data.loader import LoaderConfig, build_loader
from data.samplers import ShuffledBatches
from data.splits import SplitConfig
from data.stores import keep_pictures
from data.transforms import normalizer, train_transform
from engine.checkpoint import load_weights, read_model, read_state, save_model, save_state
from engine.distributed import Runtime
from engine.evaluate import evaluate, groups_as_dict
from engine.optim import OptimConfig, build_optimizer
from engine.output import RunFolder
from engine.pictures import choose_rows, examples
from engine.settings import Settings, parse_settings, setting_table
from engine.train import Learner, Loop
from losses import CRITERIA
from models.build import ModelConfig, build_model
from models.classifier import Classifier
from utils.checks import UserError, require
from utils.console import say
from utils.metrics import Metrics
from utils.options import option
from utils.plots import plot_curves, plot_examples
from utils.types import ClassCounts, CriterionInfo


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """How long, where, and what is kept."""

    epochs: int = option(30, "passes over the training set", aliases=("total_epoch", "num_epochs"))
    seed: int = option(0, "drives everything random: order, augmentation, initialisation, split, labels")
    selection: Literal["validation", "last", "test"] | None = option(
        None, "epoch that is reported (default: the best on the validation split where there is one, else the last)"
    )
    test_every: int = option(1, "score the test set every so many epochs, for the log only; 0: at the end only")
    device: Literal["auto", "cpu", "cuda"] = option("auto", "where to compute")
    precision: Literal["fp32", "bf16", "fp16"] = option("fp32", "precision of the networks' forward pass")
    threads: int | None = option(None, "CPU threads of the computation (default: one a core)")
    output: Path | None = option(None, "folder of the run (default: runs/<method>-<dataset>-<time>)")
    resume: bool = option(False, "go on with the run in --output; starts it when nothing is there yet")
    save_minutes: float = option(10.0, "minutes between two saves within an epoch; 0 saves after every step")
    print_freq: int = option(100, "steps between two looks at the running loss")

    def __post_init__(self) -> None:
        require(self.epochs >= 1, f"--epochs {self.epochs}: must be at least 1")
        require(self.seed >= 0, f"--seed {self.seed}: must not be negative")
        require(self.test_every >= 0, f"--test_every {self.test_every}: must not be negative")
        require(self.save_minutes >= 0, f"--save_minutes {self.save_minutes}: must not be negative")
        require(self.threads is None or self.threads >= 1, f"--threads {self.threads}: must be at least 1")
        require(self.print_freq >= 1, f"--print_freq {self.print_freq}: must be at least 1")
        require(not self.resume or self.output is not None, "--resume: say which run with --output DIR")


SECTIONS: dict[str, type] = {
    "data": DatasetConfig,
    "split": SplitConfig,
    "loader": LoaderConfig,
    "model": ModelConfig,
    "optimiser": OptimConfig,
    "run": RunConfig,
}
"""The settings every training script shares; the method's own come on top."""

TRAINING_CONFIGS = (*SECTIONS.values(), *(method.config for method in CRITERIA.values()))
"""All config classes of training: their keys may stand in settings files that other commands read as well."""

Part = Literal["validation", "test"]

EXAMPLES = 8
"""Test pictures drawn at the end of a run."""


def train_command(method: str, defaults: Mapping[str, Any], argv: Sequence[str] | None = None, *, program: str) -> int:
    """What a training script does: read the settings, train, report. Returns the exit code."""
    sections = {**SECTIONS, method: CRITERIA[method].config}
    settings = parse_settings(sections, argv, program=program, defaults=defaults, method=method)
    if settings.values["threads"]:
        torch.set_num_threads(settings.values["threads"])
    runtime = Runtime(settings.values["device"], settings.values["precision"])
    try:
        folder = open_folder(settings, method, runtime)
        if folder.result is None:
            run = Run(method, settings, folder, runtime)
            run.train()
            run.finish()
    finally:
        runtime.close()
    return 0


def open_folder(settings: Settings, method: str, runtime: Runtime) -> RunFolder:
    """The folder of the run, checked by the main process, the same on all. Says when the run is finished already."""
    config: RunConfig = settings.sections["run"]
    default = f"runs/{method}-{settings.values['dataset']}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder = RunFolder(Path(runtime.same_text(str(config.output or default))))
    if runtime.is_main:
        folder.check(config.resume, settings, setting_table({**SECTIONS, method: CRITERIA[method].config}))
    runtime.barrier()
    if folder.result is not None and runtime.is_main:
        say(f"{folder.path} is finished:\n{folder.summary()}")
    return folder


class Run:
    """A run: everything is built and checked here, before the first step."""

    def __init__(self, method: str, settings: Settings, folder: RunFolder, runtime: Runtime) -> None:
        self.method, self.settings, self.folder, self.runtime = method, settings, folder, runtime
        self.config: RunConfig = settings.sections["run"]
        self.loader_config: LoaderConfig = settings.sections["loader"]
        self.data = build_data(settings.sections["data"], settings.sections["split"], self.config.seed)
        self.selection = self._selection()
        if self.loader_config.check_images and runtime.is_main:
            check_pictures(self.data)
        runtime.barrier()
        self.data = self._keep(self.data)
        self.workers = self.loader_config.workers(
            beside_gpu=runtime.device.type == "cuda", processes=runtime.local_world_size
        )
        self.loop = self._build_loop()
        self.scored: dict[Part, Metrics] = {}  # of the weights as they are now
        self._take_up()
        if self.runtime.is_main:
            folder.start(settings, self._facts())

    def train(self) -> None:
        """All epochs that are left."""
        self.loop.run(self._after_epoch)

    def finish(self) -> None:
        """Score the last and the selected epoch on the test set, and write `result.json`, last of all."""
        at, bare = self.loop.at, self.runtime.unwrap(self.loop.learner.model)
        last = self._score("test")
        if at.best_epoch != self.config.epochs:
            load_weights(bare, read_model(self.folder.best).weights, self.folder.best)  # type: ignore[arg-type]
            self.scored = {}
        chosen = self._score("test")
        validation = self._score("validation") if self.data.validation else None
        if self.runtime.is_main:
            self._draw(bare)  # type: ignore[arg-type]
            self.folder.finish(self._result(chosen, last, validation))
            say(self.folder.summary())

    def _selection(self) -> str:
        wanted = self.config.selection or ("validation" if self.data.validation else "last")
        require(
            wanted != "validation" or self.data.validation is not None,
            "--selection validation: there is no validation split; give --val_frac",
        )
        return wanted

    def _keep(self, data: Data) -> Data:
        """The data with its pictures kept as `--cache` says; the main process writes what the others then find."""
        parts = {"train": data.train, "validation": data.validation, "test": data.test}
        cache, runtime = Cache(self.settings.values["cache_dir"]), self.runtime
        with runtime.main_first():
            kept = keep_pictures(
                parts, self.loader_config.cache, cache, processes=runtime.local_world_size, shown=runtime.is_main
            )
        return data._replace(**kept)

    def _build_loop(self) -> Loop:
        data, runtime, config = self.data, self.runtime, self.config
        batches = ShuffledBatches(
            len(data.train),
            self.loader_config.batch_size,
            seed=config.seed,
            rank=runtime.rank,
            world_size=runtime.world_size,
        )
        learner = self._build_learner(len(batches))
        view = train_transform(self.loader_config.augment, self.loader_config.img_size)
        views = [view] * (2 if "second_view" in learner.criterion.needs else 1)
        loader = build_loader(
            data.train,
            data.observed,
            views,
            batches,
            normalizer=normalizer(self.loader_config.normalize),
            decoder=self.loader_config.decoder,
            seed=config.seed,
            num_workers=self.workers,
            pin_memory=runtime.device.type == "cuda",
        )
        return Loop(
            runtime,
            learner,
            loader,
            batches,
            epochs=config.epochs,
            seed=config.seed,
            save_minutes=config.save_minutes,
            print_freq=config.print_freq,
            save=self._save,
        )

    def _build_learner(self, steps_per_epoch: int) -> Learner:
        optim: OptimConfig = self.settings.sections["optimiser"]
        model_config: ModelConfig = self.settings.sections["model"]
        network = build_model(model_config, len(self.data.train.classes), self.config.seed)
        least = network.backbone.stride + 1
        size = self.loader_config.img_size
        # On a feature map of one pixel, a last batch of one image would leave BatchNorm nothing to average over.
        require(size >= least, f"--img_size {size}: too small for {model_config.model}, which needs at least {least}")
        info = CriterionInfo(
            observed=self.data.observed,
            classes=self.data.train.classes,
            epochs=self.config.epochs,
            steps_per_epoch=steps_per_epoch,
            feature_width=network.feature_width,
            class_counts=ClassCounts(self.data.observed.counts(), "observed"),
            seed=self.config.seed,
        )
        criterion = CRITERIA[self.method].criterion(self.settings.sections[self.method], info)
        criterion.to(self.runtime.device)
        groups: list[dict[str, Any]] = [
            {"params": network.backbone_parameters()},
            {"params": network.head_parameters(), "lr_mult": optim.head_lr_mult},
            *criterion.parameter_groups(),
        ]
        model = self.runtime.wrap(network)
        return Learner(model, criterion, self.runtime.wrap_optimizer(build_optimizer(optim, groups)), optim)

    def _take_up(self) -> None:
        """Go on from `last/` where there is one."""
        if not self.folder.state.exists():
            return
        state = read_state(self.folder.state)
        if state["label_hash"] != self.data.labels.label_hash:
            raise UserError(
                f"--resume: {self.folder.path} was trained on other labels (hash {state['label_hash'][:12]}, now "
                f"{self.data.labels.label_hash[:12]}); give the label file it was started with"
            )
        self.loop.load_state_dict(state["loop"])

    def _save(self, state: dict[str, Any]) -> None:
        save_state(self.folder.state, {"loop": state, "label_hash": self.data.labels.label_hash})

    def _score(self, part: Part, after_batch: Callable[[], None] = lambda: None) -> Metrics:
        """The metrics of a split under the present weights, scored once."""
        if part not in self.scored:
            annotations = self.data.test if part == "test" else self.data.validation
            assert annotations is not None
            model, workers = self.loop.learner.model, self.workers
            self.scored[part] = evaluate(
                model, annotations, self.loader_config, self.runtime, workers, label=part, after_batch=after_batch
            )
        return self.scored[part]

    def _after_epoch(self, epoch: int, row: dict[str, float]) -> None:
        """Validate, select, log."""
        self.scored = {}
        every = self.config.test_every
        wanted: dict[Part, bool] = {
            "validation": self.data.validation is not None,
            "test": self.selection == "test" or bool(every and epoch % every == 0),
        }
        # Several processes have unequal numbers of batches to score, so they only stop between training steps.
        watch = self.loop.check_stop if self.runtime.world_size == 1 else lambda: None
        scores: dict[str, Metrics] = {part: self._score(part, watch) for part in wanted if wanted[part]}
        for part, metrics in scores.items():
            row.update({f"{part}_{name}": value for name, value in metrics.as_dict().items()})
        value = float(epoch) if self.selection == "last" else scores[self.selection].mAP
        if value > self.loop.at.best_score:  # strictly: of equal epochs the first is kept
            self.loop.at.best_score, self.loop.at.best_epoch = value, epoch
            if self.runtime.is_main:
                bare = self.runtime.unwrap(self.loop.learner.model)
                save_model(self.folder.best, bare, self.data.train.classes, self.settings.values, epoch)  # type: ignore[arg-type]
        if self.runtime.is_main:
            self.folder.log_epoch([*self.loop.at.history, row], self.config.epochs)

    def _draw(self, model: Classifier) -> None:
        """The pictures of the run: its curves, and what the selected model sees in a few test pictures."""
        plot_curves({self.method: self.loop.at.history}, self.folder.path / "curves.png")
        rows = choose_rows(self.data.test, EXAMPLES)
        if rows:
            seen = examples([model], self.data.test, rows, self.loader_config)
            plot_examples(seen, [self.method], self.folder.path / "examples.png")

    def _facts(self) -> dict[str, Any]:
        """What a run is about, for the console and the log."""
        data, labels = self.data, self.data.labels
        return {
            "method": self.method,
            "dataset": self.settings.values["dataset"],
            "images": {"train": len(data.train), "validation": len(data.validation or ()), "test": len(data.test)},
            "labels": data.regime.describe(),
            "label_file": labels.path and str(labels.path),
            "label_file_made_now": labels.made,
            "label_seed": data.regime.seed,
            "label_hash": labels.label_hash,
            "device": str(self.runtime.device),
            "processes": self.runtime.world_size,
            "precision": self.config.precision,
            "epoch": self.loop.at.epoch,
            "step": self.loop.at.step,
        }

    def _result(self, chosen: Metrics, last: Metrics, validation: Metrics | None) -> dict[str, Any]:
        at, regime, classes = self.loop.at, self.data.regime, self.data.test.classes
        return {
            "method": self.method,
            "variant": self.settings.values.get("variant"),
            "dataset": self.settings.values["dataset"],
            "labels": regime.name,
            "rate": regime.rate,
            "seed": self.config.seed,
            "epochs": self.config.epochs,
            "selection": self.selection,
            "selected_epoch": at.best_epoch,
            "test": chosen.as_dict(),
            "last": last.as_dict(),
            "validation": None if validation is None else validation.as_dict(),
            "extra": {
                **groups_as_dict(chosen, self.data.groups),
                "classes_without_positives": [classes[k] for k in chosen.classes_without_positives],
            },
            "images_per_second": at.images / max(at.seconds, 1e-9),
            "label_hash": self.data.labels.label_hash,
            "versions": versions(),
        }


def versions() -> dict[str, str]:
    """The versions a result depends on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "numpy": np.__version__,
    }
