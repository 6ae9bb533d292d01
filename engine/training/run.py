"""One training run from settings to `result.json`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data.build import Data, build_data, check_images
from data.files.cache import Cache
from data.images.caching import keep_images
from data.labels.files import write_native
from data.labels.regime import Regime
from data.loading.loader import LoaderConfig, training_batches
from engine.core.checkpoint import load_weights, read_model, read_state, save_model, save_state
from engine.core.distributed import Runtime
from engine.core.run_folder import RunFolder
from engine.core.scoring import EvalResult, group_columns, measure, require_finite, score
from engine.core.settings import Settings, parse_settings, setting_table
from engine.training.config import TRAINING_CONFIGS, RunConfig, training_sections
from engine.training.ema import EMA
from engine.training.examples import draw_examples, draw_tail
from engine.training.features import pooled_features, require_pooled, weights_hash
from engine.training.loaders import FeatureLoaders, ImageLoaders, LoaderFactory, SplitName, rows_of
from engine.training.loop import Freezing, Hooks, Learner, Loop
from engine.training.optim import OptimConfig, build_optimizer
from engine.training.recorder import LABELS_FILE, RecordConfig, Recorder
from engine.training.summary import FinalResults, result, run_info
from losses import CRITERIA
from losses.common.base import Criterion
from models.build import LabelInfo, ModelConfig, build_model, require_head
from models.classifier import Classifier, OnPooled
from models.peers import Network, build_peers
from utils.checks import UserError, require
from utils.console import say
from utils.metrics import Metrics
from utils.plots import plot_curves
from utils.types import ClassCounts, CriterionInfo


def train_command(
    methods: str | Sequence[str],
    defaults: Mapping[str, Any],
    argv: Sequence[str] | None = None,
    *,
    program: str,
    choice: str = "loss",
) -> int:
    """What a training script does: read the settings, train, report.

    Args:
        methods: the method of the script, a name of `CRITERIA`; or several, of which a flag chooses, the first where
            it is not given. Only the flags of the chosen one are accepted, and its `configs/<method>/` applies.
        defaults: what the script sets differently from the code's defaults.
        argv: the command line without the program, None for the real one.
        program: name of the script, for messages and help.
        choice: that flag, without dashes: one of `engine.training.config.CHOICES`.

    Returns:
        The exit code.
    """
    method, sections = training_sections(methods, argv, program=program, flag=choice)
    settings = parse_settings(sections, argv, program=program, defaults=defaults, method=method)
    require(
        settings.values.get(choice, method) == method,
        f"{choice}: {settings.values.get(choice)} was set by {settings.origins.get(choice)}; a method is chosen by "
        f"--{choice}, or by a plain line of the settings file given",
    )
    if settings.values["threads"]:
        torch.set_num_threads(settings.values["threads"])
    runtime = Runtime(settings.values["device"], settings.values["precision"])
    gpus, processes = settings.values["gpus"], runtime.world_size
    try:
        require(
            gpus in (None, processes),
            f"--gpus {gpus}: there are {processes} processes; start with torchrun --nproc_per_node {gpus}, or leave "
            "the flag out",
        )
        _train(method, settings, sections, runtime)
    finally:
        runtime.close()
    return 0


def _train(method: str, settings: Settings, sections: Mapping[str, type], runtime: Runtime) -> None:
    """A whole run; nothing that it builds outlives it, as `Runtime.close` wants it."""
    folder = open_folder(settings, sections, method, runtime)
    if folder.result is None:
        run = Run(method, settings, folder, runtime)
        run.train()
        run.finish()


def open_folder(settings: Settings, sections: Mapping[str, type], method: str, runtime: Runtime) -> RunFolder:
    """The folder of the run, checked by the main process, the same on all. Says when the run is finished already."""
    config: RunConfig = settings.sections["run"]
    default = f"runs/{method}-{settings.values['dataset']}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder = RunFolder(Path(runtime.same_text(str(config.output or default))))
    if runtime.is_main:
        others = frozenset(name for other in TRAINING_CONFIGS for name in setting_table({"": other}))
        folder.check(config.resume, settings, setting_table(sections), others - settings.values.keys())
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
        self.optim: OptimConfig = settings.sections["optimiser"]
        self.data = build_data(settings.sections["data"], settings.sections["split"], self.config.seed)
        self.selection = self._selection()
        if self.loader_config.check_images and runtime.is_main:
            check_images(self.data)
        runtime.barrier()
        self.data = self._keep(self.data)
        self.workers = self.loader_config.workers(
            beside_gpu=runtime.device.type == "cuda", processes=runtime.local_world_size
        )
        self.network = self._build_network()
        # Copied before anything wraps the network.
        self.averaging = EMA(self.network, self.optim.ema) if self.optim.ema else None
        self.batches = training_batches(
            self.data.train,
            self.data.observed,
            self.loader_config,
            seed=self.config.training_seed,
            rank=runtime.rank,
            world_size=runtime.world_size,
        )
        self.criterion = self._build_criterion()
        self.recorder = self._build_recorder()
        self.feed = self._build_feed()
        self.loop = self._build_loop()
        self.judged = self._place_judged()
        self.scored: dict[SplitName, EvalResult] = {}  # of the weights as they are now
        self._take_up()
        if self.runtime.is_main:
            folder.start(settings, run_info(method, settings, self.data, runtime, self.loop.at))

    def train(self) -> None:
        """All epochs that are left."""
        self.loop.run(self._after_epoch)

    def finish(self) -> None:
        """Score the last and the selected epoch on the test set, and write `result.json`, last of all."""
        at = self.loop.at
        last = self._score("test")
        if at.best_epoch != at.trained:
            load_weights(self.reported, read_model(self.folder.best).weights, self.folder.best)
            self.scored = {}
        chosen = self._score("test")
        validation = self._score("validation") if self.data.validation else None
        if self.runtime.is_main:
            self._write_labels()
            self._draw(chosen.metrics)
            scores = FinalResults(chosen, last, validation)
            self.folder.finish(result(self.method, self.settings, self.data, self.selection, at, scores))
            say(self.folder.summary())

    @property
    def reported(self) -> Network:
        """The network that is scored and saved: the one that is trained, or its average."""
        return self.averaging.network if self.averaging else self.network

    def _selection(self) -> str:
        wanted = self.config.selection or ("validation" if self.data.validation else "last")
        require(
            wanted != "validation" or self.data.validation is not None,
            "--selection validation: there is no validation split; give --val_frac",
        )
        require(
            wanted != "last" or self.config.early_stop is None,
            "--early_stop: there is no validation split whose mAP could fall; give --val_frac",
        )
        require(
            self.optim.scheduler != "plateau" or self.data.validation is not None or wanted == "test",
            "--scheduler plateau: there is no validation split whose mAP could stop rising; give --val_frac",
        )
        return wanted

    def _keep(self, data: Data) -> Data:
        """The data with its pictures kept as `--cache` says; the main process writes what the others then find."""
        parts = {"train": data.train, "validation": data.validation, "test": data.test}
        cache, runtime = Cache(self.settings.values["cache_dir"]), self.runtime
        with runtime.main_first():
            kept = keep_images(
                parts, self.loader_config.cache, cache, processes=runtime.local_world_size, shown=runtime.is_main
            )
        return data._replace(**kept)

    def _build_network(self) -> Network:
        config: ModelConfig = self.settings.sections["model"]
        needs = CRITERIA[self.method].criterion.needs
        require_head(config, needs, self.method)
        build = build_peers if "peers" in needs else build_model
        classes = self.data.train.classes
        network = build(config, len(classes), self.config.training_seed, facts=LabelInfo(classes, self.data.observed))
        network.check_size(config.model, self.loader_config.img_size)
        return network

    def _build_criterion(self) -> Criterion:
        info = CriterionInfo(
            observed=self.data.observed,
            classes=self.data.train.classes,
            epochs=self.config.epochs,
            steps_per_epoch=len(self.batches),
            feature_width=self.network.feature_width,
            class_counts=ClassCounts(self.data.observed.counts(), "observed"),
            seed=self.config.training_seed,
            clean_counts=ClassCounts(self.data.train.truth.counts(), "clean"),
        )
        criterion = CRITERIA[self.method].criterion(self.settings.sections[self.method], info)
        return criterion.to(self.runtime.device)

    def _build_recorder(self) -> Recorder:
        config: RecordConfig = self.settings.sections["recording"]
        require(
            config.export_labels is None or self.criterion.corrected_labels() is not None,
            f"--export_labels: {self.method} with these settings corrects no label for good (LL-Cp does)",
        )
        return Recorder(
            config,
            observed=self.data.observed,
            truth=self.data.train.truth,
            epochs=self.config.epochs,
            device=self.runtime.device,
        )

    def _build_feed(self) -> LoaderFactory:
        """The pictures, or the features that are computed of them now."""
        pictures = ImageLoaders(self.data, self.loader_config, self.runtime, self.workers, self.config.training_seed)
        fixed = self._fixed
        if fixed is None:
            return pictures
        require_pooled(fixed, self.criterion.needs, self.method)
        parts: dict[SplitName, int] = {"train": len(self.data.train), "test": len(self.data.test)}
        if self.data.validation is not None:
            parts["validation"] = len(self.data.validation)
        features = pooled_features(fixed, pictures, parts, Cache(self.settings.values["cache_dir"]))
        return FeatureLoaders(self.data, features, self.loader_config.batch_size, self.runtime)

    @property
    def _fixed(self) -> Classifier | None:
        """The network whose head alone computes, on features that its backbone gives once; None in other modes."""
        if self.config.train_mode != "linear_fixed_features":
            return None
        if not isinstance(self.network, Classifier):
            raise UserError(
                f"--train_mode linear_fixed_features: {self.method} trains two networks; take --train_mode linear, "
                "which reads the pictures in every epoch"
            )
        return self.network

    def _build_loop(self) -> Loop:
        groups: list[dict[str, Any]] = [
            {"params": self.network.backbone_parameters()},
            {"params": self.network.head_parameters(), "lr_mult": self.optim.head_lr_mult},
            *self.criterion.parameter_groups(),
        ]
        model: nn.Module = self.runtime.wrap(OnPooled(self._fixed) if self._fixed else self.network)
        optimizer = self.runtime.wrap_optimizer(build_optimizer(self.optim, groups))
        return Loop(
            self.runtime,
            Learner(model, self.criterion, optimizer, self.optim, self.averaging),
            self.feed.training(self.batches, 2 if "second_view" in self.criterion.needs else 1),
            self.batches,
            epochs=self.config.epochs,
            seed=self.config.training_seed,
            save_minutes=self.config.save_minutes,
            print_freq=self.config.print_freq,
            save=self._save,
            freezing=Freezing(self.config.frozen_epochs, self._freeze),
            hooks=self._hooks(),
        )

    def _place_judged(self) -> nn.Module:
        """The reported network as it scores what the feed gives."""
        if self.averaging is None:
            return self.loop.learner.model
        average = self.averaging.network
        return self.runtime.place(OnPooled(average) if self._fixed and isinstance(average, Classifier) else average)

    def _freeze(self, frozen: bool) -> None:
        """Leave backbones as they are from now on, or let them learn again."""
        self.network.freeze_backbone(frozen)
        if self.averaging:
            self.averaging.freeze_backbone(frozen)

    def _hooks(self) -> Hooks:
        recorder = self.recorder
        hooks = Hooks(after_step=recorder.step, epoch_figures=recorder.epoch_end)
        return hooks._replace(train_scores=self._train_scores) if "train_scores" in self.criterion.needs else hooks

    def _train_scores(self) -> Tensor:
        """Logits (N, C) float32 of the training set in its test view, rows in order, on every process."""
        rows, label = len(self.data.train), "scoring the training set"
        model = self.loop.learner.model
        scores = score(model, self.feed.scoring("train"), rows, self.runtime, label=label, after_batch=self._watch)
        require_finite(bool(np.isfinite(scores).all()), label)
        return torch.from_numpy(scores).to(self.runtime.device)

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
        self.recorder.load_state_dict(state["recorder"])
        fixed = self._fixed
        fresh = weights_hash(fixed.backbone) if fixed else ""
        self.loop.load_state_dict(state["loop"])
        if fixed and weights_hash(fixed.backbone) != fresh:
            raise UserError(
                f"--resume: {self.folder.path} was trained on features of another backbone than --weights "
                f"{self.settings.values['weights']} now gives; put the file back that it was started with"
            )

    def _save(self, state: dict[str, Any]) -> None:
        kept = {"loop": state, "recorder": self.recorder.state_dict(), "label_hash": self.data.labels.label_hash}
        save_state(self.folder.state, kept)

    def _watch(self) -> None:
        """Stop between two batches that are scored, when a signal has asked for it.

        Several processes have unequal numbers of batches to score, so they only stop between training steps.
        """
        if self.runtime.world_size == 1:
            self.loop.check_stop()

    def _score(self, part: SplitName, after_batch: Callable[[], None] = lambda: None) -> EvalResult:
        """The metrics of a split under the present weights, scored once."""
        if part not in self.scored:
            truth = rows_of(self.data, part).truth
            self.scored[part] = measure(
                self.judged, self.feed.scoring(part), truth, self.runtime, label=part, after_batch=after_batch
            )
        return self.scored[part]

    def _after_epoch(self, epoch: int, row: dict[str, float]) -> None:
        """Validate, select, log, and stop where nothing better is to be expected."""
        self.scored = {}
        every = self.config.test_every if epoch > self.config.test_after else 0
        wanted: dict[SplitName, bool] = {
            "validation": self.data.validation is not None,
            "test": self.selection == "test" or bool(every and epoch % every == 0),
        }
        scores: dict[str, EvalResult] = {part: self._score(part, self._watch) for part in wanted if wanted[part]}
        for part, measured in scores.items():
            for view, metrics in {"": measured.metrics, **measured.beside}.items():
                prefix = f"{part}_{view}_" if view else f"{part}_"
                row.update({f"{prefix}{name}": value for name, value in metrics.as_dict().items()})
            row.update(group_columns(part, measured.metrics, self.data.groups))
        if self.optim.scheduler == "plateau":
            self.loop.follow(scores["validation" if self.data.validation else "test"].metrics.mAP)
        at, limit = self.loop.at, self.config.early_stop
        value = float(epoch) if self.selection == "last" else scores[self.selection].metrics.mAP
        if value > at.best_score:  # strictly: of equal epochs the first is kept
            at.best_score, at.best_epoch = value, epoch
            if self.runtime.is_main:
                save_model(self.folder.best, self.reported, self.data.train.classes, self.settings.values, epoch)
        at.stopped = limit is not None and 100 * (at.best_score - value) > limit
        if self.runtime.is_main:
            self.folder.log_epoch([*at.history, row], self.config.epochs)
            if at.stopped:
                fallen = 100 * (at.best_score - value)
                say(f"stopped early: {self.selection} mAP {fallen:.2f} points below that of epoch {at.best_epoch}")

    def _write_labels(self) -> None:
        """What was recorded of single labels, and on request the labels with what was corrected for good."""
        self.recorder.save(self.folder.path / LABELS_FILE)
        export, table = self.recorder.config.export_labels, self.criterion.corrected_labels()
        if export is not None and table is not None:
            dataset, regime = self.settings.values["dataset"], Regime(name="given")
            write_native(export, table, self.data.train, dataset, regime)
            say(f"{export}: the labels trained on, with {table.counts().sum() - self._positives()} corrected for good")

    def _positives(self) -> int:
        return int(self.data.observed.counts().sum())

    def _draw(self, chosen: Metrics) -> None:
        """The pictures of the run: its curves, its long tail, and what the selected model sees in a few pictures."""
        plot_curves({self.method: self.loop.at.history}, self.folder.path / "curves.png")
        draw_tail(self.data, chosen, self.folder.path / "tail.png")
        draw_examples(self.method, self.reported, self.data.test, self.loader_config, self.folder.path / "examples.png")
