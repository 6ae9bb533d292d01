"""One training run from settings to `result.json`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from data.build import DatasetConfig, build_data
from data.datasets.table.config import named
from data.labels.files import manifest_path, write_native
from data.labels.regime import Regime
from data.loading.loader import LoaderConfig
from data.subsets.splits import TrainingSplitConfig
from engine.core.checkpoint import load_weights, read_model, save_model
from engine.core.distributed import Runtime
from engine.core.kernels import KernelConfig
from engine.core.launcher import is_started_again, require_restartable
from engine.core.run_folder import RunFolder, damage_told
from engine.core.scoring import (
    EvalResult,
    bce_per_image,
    calibration_figures,
    group_columns,
    measure,
    require_finite,
    score,
)
from engine.core.setting_table import training_names
from engine.core.settings import Settings, parse_settings
from engine.core.tracking import TrackConfig, require_tracker
from engine.report.page import REPORT_FILE, run_page
from engine.training import setup
from engine.training.class_priors import estimated_priors, estimates_priors, report_priors
from engine.training.config import RunConfig, training_command
from engine.training.features import FeatureConfig, weights_hash
from engine.training.given_features import with_given_features
from engine.training.going_on import require_not_stopped, require_same_rules, require_same_schedule
from engine.training.loaders import SplitName, split_of
from engine.training.loop import Freezing, Hooks, Learner, Loop
from engine.training.noise_rates import report_rates
from engine.training.optim import OptimConfig, build_optimizer
from engine.training.recorder import LABELS_FILE
from engine.training.run_report import EndedRun, draw_pictures, run_report
from engine.training.same_data import data_hashes, require_same_data
from engine.training.summary import FinalResults, other_figures, result, run_info
from losses import require_takes
from models.build import ModelConfig
from models.classifier import Classifier, OnFeatures
from models.peers import Network
from utils.checks import RunError, UserError, require
from utils.class_facts import ClassPriors
from utils.console import say, warn
from utils.safe_files import remove_unfinished, write_text


def train_command(
    program: str, defaults: Mapping[str, Any], argv: Sequence[str] | None = None, *, method: str = ""
) -> int:
    """Do what a training script does: read the settings, train, report.

    Args:
        program: name of the script; it trains the methods that name it in `losses.CRITERIA`.
        defaults: values that the script sets differently from the code's defaults.
        argv: the command line without the program, None for the real one.
        method: the one method that the script trains instead.

    Returns:
        The exit code.
    """
    settings = parse_settings(training_command(program, defaults, method=method), argv, completed=with_given_features)
    config = settings.of(RunConfig)
    if config.threads:
        torch.set_num_threads(config.threads)
    runtime = Runtime(config.device, config.precision, settings.of(KernelConfig))
    try:
        config.require_processes(runtime.world_size)
        _train(settings, runtime)
    finally:
        runtime.close()
    return 0


def _train(settings: Settings, runtime: Runtime) -> None:
    """Train a whole run; nothing that it builds outlives it, as `Runtime.close` wants it."""
    folder = open_folder(settings, runtime)
    try:
        if folder.result is None:
            run = Run(settings, folder, runtime)
            run.train()
            run.finish()
    finally:
        folder.close()


def open_folder(settings: Settings, runtime: Runtime) -> RunFolder:
    """The folder of the run, checked by the main process, the same on all. Says when the run is finished already."""
    config = settings.of(RunConfig)
    require_restartable(config.output)
    default = f"runs/{settings.method}-{settings.of(DatasetConfig).dataset}-{time.strftime('%Y%m%d-%H%M%S')}"
    track = require_tracker(settings.of(TrackConfig).track)
    folder = RunFolder(Path(runtime.same_text(str(config.output or default))), config.epochs, track)
    again = is_started_again(folder.log, runtime.agree)
    if runtime.is_main:
        folder.open(config.resume or again, settings, training_names())
    runtime.barrier()
    if folder.result is not None and runtime.is_main:
        say(f"{folder.path} is finished:\n{folder.summary()}")
    return folder


class Run:
    """A run: everything is built and checked here, before the first step."""

    def __init__(self, settings: Settings, folder: RunFolder, runtime: Runtime) -> None:
        self.settings, self.folder, self.runtime, self.method = settings, folder, runtime, settings.method
        self.config, self.optim = settings.of(RunConfig), settings.of(OptimConfig)
        before = folder.fewer_epochs(settings, training_names())
        if before is not None:
            require_same_schedule(before, self.config, self.optim)
        found, on_images = folder.found(settings, training_names()), settings.of(FeatureConfig).features is None
        dataset, new = settings.with_found(found, "the run").of(DatasetConfig), on_images and not folder.is_begun
        split = settings.of(TrainingSplitConfig)
        with runtime.main_first():  # what it decodes to find bad images, the others do not decode again
            data = build_data(dataset, settings.of(Regime), split, self.config.seed, need_images=on_images, new=new)
        exif = {"exif": {**data.found, **found}.get("exif")}
        self.settings = settings = settings.with_found(exif, "new run on a table" if new else "the run")
        require_takes(self.method, data.observed)
        data = setup.whole_batches(data, settings.of(LoaderConfig))
        setup.require_room_to_score(settings, data, runtime)
        self.selection = setup.selection_of(self.config, self.optim, data)
        setup.require_schedule(self.config, self.optim, data)
        self.given = setup.given_features(settings, data, runtime)
        self.scores = setup.prior_scores(settings, data, runtime)
        self.network = setup.build_network(settings, data, runtime)
        self.ema = setup.average_of(self.network, self.optim)  # before anything wraps the network
        self.batches = setup.training_batches_of(settings, data, runtime)
        if before is not None:
            info = setup.criterion_info(settings, data, self.network, len(self.batches), self.scores)
            require_same_rules(before, self.config, setup.criterion_kind(settings), settings.method_config, info)
        # What has no room is refused before images are read, which may take hours.
        self.criterion = setup.build_criterion(settings, data, self.network, len(self.batches), runtime, self.scores)
        self.recorder = setup.build_recorder(settings, data, self.criterion, runtime)
        self.splicer = setup.splicer_of(settings, self.criterion, runtime)
        setup.check_data(data, settings, runtime)
        self.data = setup.keep_data(data, settings, runtime)
        self.hashes = data_hashes(self.data, self.given, self.scores)
        self.fixed = setup.fixed_network(settings, self.network)
        self.loaders = setup.build_loaders(settings, self.data, self.fixed, self.criterion, runtime, self.given)
        self.loop = self._build_loop()
        self.eval_model = self._build_eval_model()
        self.scored: dict[SplitName, EvalResult] = {}  # of the present weights
        self._resume()
        if before is not None:
            require_not_stopped(self.config, self.loop.state)
        if runtime.is_main:
            kept = settings.with_found(self.data.found, f"found in {named(dataset.table)}")
            folder.start(kept, {**run_info(settings, self.data, runtime, self.loop.state), "data": self.hashes})

    def train(self) -> None:
        """Train all epochs that are left."""
        self.loop.run(self._after_epoch)

    def finish(self) -> None:
        """Score the last and the selected epoch on the test set, and write `result.json`, last of all."""
        state = self.loop.state
        last = self._score("test")
        self._take_selected()
        chosen = self._score("test")
        validation = self._score("validation") if self.data.validation else None
        calibration, priors = self._calibration(chosen), self._class_priors()
        if self.runtime.is_main:
            self._write_labels()
            results = FinalResults(chosen, last, validation, calibration)
            content = result(self.settings, self.data, self.selection, state, results) | {"data": self.hashes}
            content |= report_priors(priors, self.data.train.classes, self.folder.path)
            content |= report_rates(self.criterion.noise_rates(), self.data.train.classes, self.folder.path)
            content |= other_figures(results, self.data.test.truth, self.config.metrics)
            if self.config.figures:
                self._write_report(content, results)
            self.folder.finish(content)
            say(self.folder.summary())

    def _take_selected(self) -> None:
        """Take the weights of the selected epoch from their file, which the main process writes again if it is lost.

        Raises: RunError when the file is lost and the weights are those of an earlier epoch.
        """
        state, path = self.loop.state, self.folder.best
        try:
            saved = read_model(path)
            require(saved.epoch == state.best_epoch, f"{path}: holds epoch {saved.epoch}")
            if state.best_epoch != state.trained:
                load_weights(self.reported, saved.weights, path)
                self.scored = {}
            if saved.settings.get("epochs") != self.config.epochs and self.runtime.is_main:
                self._save_best(state.best_epoch)  # the run has become longer since
        except UserError as error:
            if state.best_epoch != state.trained:
                lost = f"the weights of epoch {state.best_epoch}, which was selected, are lost"
                raise RunError(f"{error}; {lost}: start anew with another --output") from error
            if self.runtime.is_main:
                self._save_best(state.best_epoch)

    @property
    def reported(self) -> Network:
        """The network that is scored and saved: the one in training, or the moving average of its weights."""
        return self.ema.network if self.ema else self.network

    def _build_loop(self) -> Loop:
        model, recorder = self.runtime.wrap(_as_read(self.network, fixed=self.fixed is not None)), self.recorder
        groups = setup.parameter_groups(self.network, self.criterion, self.optim)
        optimizer = self.runtime.wrap_optimizer(build_optimizer(self.optim, groups))
        return Loop(
            self.runtime,
            Learner(model, self.criterion, optimizer, self.optim, self.ema),
            self.loaders.training(self.batches, setup.number_of_views(self.criterion)),
            self.batches,
            epochs=self.config.epochs,
            seed=self.config.training_seed,
            save_minutes=self.config.save_minutes,
            save_epochs=self.config.save_epochs,
            print_freq=self.config.print_freq,
            save=self._save,
            freezing=Freezing(self.config.frozen_epochs, self._freeze),
            hooks=Hooks(self._train_scores, self.splicer, recorder.step, recorder.epoch_end, self.data.train.ids),
        )

    def _build_eval_model(self) -> nn.Module:
        """The reported network as it scores the batches of this run's loaders."""
        if self.ema is None:
            return self.loop.learner.model
        return self.runtime.to_device(_as_read(self.ema.network, fixed=self.fixed is not None))

    def _freeze(self, frozen: bool) -> None:
        """Freeze backbones from now on, or let them learn again."""
        self.network.freeze_backbone(frozen)
        if self.ema:
            self.ema.freeze_backbone(frozen)

    def _train_scores(self, epoch: int) -> Tensor | None:
        """Logits (N, C) of the training set in the view of evaluation, rows in order, on every process.

        None before epochs in which the criterion reads none.
        """
        if not self.criterion.wants_train_scores(epoch):
            return None
        label = "scoring the training set"
        model = self.eval_model if self.criterion.train_scores_of == "average" else self.loop.learner.model
        loader = self.loaders.scoring("train")
        scores = score(model, loader, len(self.data.train), self.runtime, label=label, after_batch=self._watch)
        require_finite(bool(np.isfinite(scores).all()), label)
        return torch.from_numpy(scores).to("cpu" if self.criterion.memories_on_host else self.runtime.device)

    def _resume(self) -> None:
        """Go on from `last/` where there is one."""
        saved = self.folder.saved()
        if saved is None:
            return
        if saved.note and self.runtime.is_main:
            warn(saved.note)
        with damage_told(saved.path):
            self._take_state(saved.state)

    def _take_state(self, state: Mapping[str, Any]) -> None:
        """Take the state of a run on the same data.

        Raises: UserError when the data are others; nearly any exception when the state is damaged.
        """
        if state["label_hash"] != self.data.labels.label_hash:
            raise UserError(
                f"--resume: {self.folder.path} was trained on other labels (hash {state['label_hash'][:12]}, now "
                f"{self.data.labels.label_hash[:12]}); give the label file it was started with"
            )
        require_same_data(self.folder.path, state.get("data", {}), self.hashes)
        self.recorder.load_state_dict(state["recorder"])
        fresh = weights_hash(self.fixed.backbone) if self.fixed else ""
        self.loop.load_state_dict(state["loop"])
        if self.fixed and weights_hash(self.fixed.backbone) != fresh:
            raise UserError(
                f"--resume: {self.folder.path} was trained on features of another backbone than --weights "
                f"{self.settings.of(ModelConfig).weights} now gives; put the file back that it was started with"
            )

    def _save(self, state: dict[str, Any]) -> None:
        known = {"label_hash": self.data.labels.label_hash, "data": self.hashes}
        self.folder.save({"loop": state, "recorder": self.recorder.state_dict(), **known})

    def _watch(self) -> None:
        """Stop between two batches that are scored, when a signal has asked for it.

        Several processes have unequal numbers of batches to score, so they only stop between training steps.
        """
        if self.runtime.world_size == 1:
            self.loop.check_stop()

    def _score(self, split: SplitName, after_batch: Callable[[], None] = lambda: None) -> EvalResult:
        """The metrics of a split under the present weights, scored once."""
        if split not in self.scored:
            truth = split_of(self.data, split).truth
            self.scored[split] = measure(
                self.eval_model, self.loaders.scoring(split), truth, self.runtime, label=split, after_batch=after_batch
            )
        return self.scored[split]

    def _after_epoch(self, epoch: int, row: dict[str, float]) -> None:
        """Validate, select, log, and stop where nothing better is to be expected."""
        self.scored = {}
        results = self._scores_after(epoch, row)
        if self.optim.scheduler == "plateau":
            self.loop.follow(self._judged(results))
        state, limit = self.loop.state, self.config.early_stop
        value = float(epoch) if self.selection == "last" else results[self.selection].metrics.mAP
        improved = value > state.best_score  # strictly: of equal epochs the first is kept
        if improved:
            state.best_score, state.best_epoch = value, epoch
            if self.runtime.is_main:
                self._save_best(epoch)
        fallen = 100 * (state.best_score - value)
        state.stopped = not improved if limit == "first" else limit is not None and fallen > limit
        if self.runtime.is_main:
            self.folder.log_epoch([*state.history, row], self.config.epochs)
            if state.stopped:
                say(f"stopped early: {self.selection} mAP {fallen:.2f} points below that of epoch {state.best_epoch}")

    def _judged(self, results: Mapping[str, EvalResult]) -> float:
        """What the plateau schedule goes by, the higher the better: the mAP of a split, or its loss less than 0."""
        split: SplitName = "validation" if self.data.validation else "test"
        scores = results[split].scores
        if self.optim.plateau_of == "mAP" or scores is None:  # None is refused before the first step
            return results[split].metrics.mAP
        return -bce_per_image(scores, split_of(self.data, split).truth)

    def _save_best(self, epoch: int) -> None:
        """Write the reported network as the best of the run."""
        self.folder.lock.require_held()
        train, held = self.data.train, dict(self.settings.values)
        save_model(self.folder.best, self.reported, train.classes, held, epoch, trained_on=train.ids)

    def _scores_after(self, epoch: int, row: dict[str, float]) -> dict[str, EvalResult]:
        """The results of the splits that are scored after an epoch; their figures are added to its row of the log."""
        every = self.config.test_every if epoch > self.config.test_after else 0
        wanted: dict[SplitName, bool] = {
            "validation": self.data.validation is not None,
            "test": self.selection == "test" or bool(every and epoch % every == 0),
        }
        results: dict[str, EvalResult] = {split: self._score(split, self._watch) for split in wanted if wanted[split]}
        for split, measured in results.items():
            for network, metrics in {"": measured.metrics, **measured.beside}.items():
                prefix = f"{split}_{network}_" if network else f"{split}_"
                row.update({f"{prefix}{name}": value for name, value in metrics.as_dict().items()})
            row.update(group_columns(split, measured.metrics, self.data.groups))
        if "test" in results:
            row.update({f"test_{name}": value for name, value in self._calibration(results["test"]).items()})
        return results

    def _calibration(self, test: EvalResult) -> dict[str, float]:
        """Calibration of the present weights on the test set, with thresholds of the validation split."""
        truth, split = self.data.test.truth, self.data.validation
        if split is None:
            return calibration_figures(test, truth, None, None)
        return calibration_figures(test, truth, self._score("validation", self._watch), split.truth)

    def _class_priors(self) -> ClassPriors | None:
        """The priors that the reported network estimates, or else those that the criterion uses."""
        if not estimates_priors(self.criterion, self.recorder.config):
            return self.criterion.class_priors()
        return estimated_priors(self.eval_model, self.loaders.scoring("train"), len(self.data.train), self.runtime)

    def _write_labels(self) -> None:
        """Write what was recorded of single labels, and on request the labels with all corrections made for good."""
        self.recorder.save(self.folder.path / LABELS_FILE)
        export = self.recorder.config.export_labels
        if export is not None and (table := self.criterion.corrected_labels()) is not None:
            dataset, regime = self.settings.of(DatasetConfig).dataset, Regime(labels="given")
            for file in (export, manifest_path(export)):
                remove_unfinished(file)  # by a run that was killed here and goes on now
            write_native(export, table, self.data.train, dataset, regime)
            corrected = table.counts().sum() - int(self.data.observed.counts().sum())
            say(f"{export}: the labels trained on, with {corrected} corrected for good")

    def _write_report(self, content: Mapping[str, Any], results: FinalResults) -> None:
        """Draw the pictures of the run, and write its page."""
        info = run_info(self.settings, self.data, self.runtime, self.loop.state)
        ended = EndedRun(self.settings, self.data, info, content, results, self.loop.state.history, self.recorder)
        draw_pictures(ended, self.reported, self.folder.path, with_images=self.given is None)
        write_text(self.folder.path / REPORT_FILE, run_page(run_report(ended, self.folder.path)))


def _as_read(network: Network, *, fixed: bool) -> nn.Module:
    """A network as it takes what the loaders yield: images or, where those are `fixed`, features of its backbone."""
    if not fixed:
        return network
    return OnFeatures(network) if isinstance(network, Classifier) else network.each(OnFeatures)
