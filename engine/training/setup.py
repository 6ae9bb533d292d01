"""The parts of a run, built from its settings and checked against each other before the first step."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from data.build import Data, DatasetConfig, check_images
from data.files.cache import Cache
from data.images.caching import keep_images
from data.inspection import untold_classes
from data.labels.regime import Regime
from data.loading.loader import LoaderConfig, training_batches
from data.loading.samplers import TrainingBatches
from data.loading.splicemix import MixConfig, Splicer
from engine.core import scoring
from engine.core.distributed import Runtime
from engine.core.settings import Settings
from engine.training.class_priors import candidate_rates, estimates_priors, given_priors
from engine.training.config import RunConfig
from engine.training.ema import EMA
from engine.training.features import FeatureConfig, FrozenFeatures, feature_arrays, reads_maps, wanted_views
from engine.training.given_features import SplitFeatures, split_features
from engine.training.label_memory import MemoryConfig, free_now, memories_on_host
from engine.training.loaders import FeatureLoaders, ImageLoaders, LoaderFactory, SplitName
from engine.training.noise_rates import rates_from_file
from engine.training.optim import OptimConfig
from engine.training.prior_scores import GivenScores, PriorConfig, given_scores
from engine.training.recorder import RecordConfig, Recorder
from engine.training.sync_norms import synchronise_norms
from losses import CRITERIA
from losses.common.base import Criterion
from losses.group_means import GroupConfig, group_regularised
from models.build import Architecture, ModelConfig, build_model, require_head
from models.classifier import Classifier
from models.heads import LabelInfo
from models.peers import Network, build_peers
from utils.checks import UserError, require
from utils.class_facts import ClassCounts
from utils.console import note, say
from utils.types import Annotations, CriterionInfo, Index


def selection_of(config: RunConfig, optim: OptimConfig, data: Data) -> str:
    """The split that selects the epoch to report, or `last`. Raises: UserError when it is needed and not there."""
    wanted = config.selection or ("validation" if data.validation else "last")
    require(
        wanted != "validation" or data.validation is not None,
        "--selection validation: there is no validation split; give --val_frac",
    )
    require(
        wanted != "last" or config.early_stop is None,
        "--early_stop: there is no validation split whose mAP could fall; give --val_frac, or --early_stop= for none",
    )
    require(
        optim.scheduler != "plateau" or data.validation is not None or wanted == "test",
        "--scheduler plateau: there is no validation split whose mAP could stop rising; give --val_frac",
    )
    return wanted


def require_schedule(config: RunConfig, optim: OptimConfig, data: Data) -> None:
    """Raise UserError when the learning rate is laid out for too few epochs, or cannot follow a loss."""
    laid_out = optim.schedule_epochs or config.epochs
    require(
        laid_out >= config.epochs,
        f"--schedule_epochs {laid_out}: must not be below --epochs {config.epochs}; --schedule_epochs= takes as many",
    )
    watched = data.validation or data.test
    require(
        optim.scheduler != "plateau" or optim.plateau_of == "mAP" or not watched.truth.stores_known_only,
        "--plateau_of loss: not where most truth is unknown, as here; give --plateau_of mAP",
    )


def average_of(network: Network, optim: OptimConfig) -> EMA | None:
    """The moving average of a network's weights, where `--ema` wants one; before anything wraps the network."""
    return EMA(network, optim.ema, from_initial=optim.ema_start == "initial") if optim.ema else None


def check_data(data: Data, settings: Settings, runtime: Runtime) -> None:
    """The main process reads all images where that is asked for, and says what is to be said; the others wait."""
    if runtime.is_main:
        if settings.of(LoaderConfig).check_images:
            check_images(data)
        note_untold_classes(data)
        note_wrong_present_labels(settings)
    runtime.barrier()


def note_untold_classes(data: Data) -> None:
    """Say which classes cannot be scored, because their absence is known of no image of a split."""
    for name, split in (("validation", data.validation), ("test", data.test)):
        if split is not None and (line := untold_classes(name, split)):
            note(line)


def note_wrong_present_labels(settings: Settings) -> None:
    """Say so where a method corrects labels by what present ones teach, and the regime has made some of these wrong."""
    regime, method = settings.of(Regime).name, settings.method
    if regime in ("candidate", "flip") and CRITERIA[method].criterion.corrects_from_present:
        note(f"{method} takes every present label for a true one, which --labels {regime} does not keep to")


def require_trusted_absent(settings: Settings) -> None:
    """Raise UserError if a method takes every absent label for certain and the regime has made some of these wrong."""
    regime, method = settings.of(Regime).name, settings.method
    require(
        regime != "flip" or not CRITERIA[method].criterion.trusts_absent,
        f"{method}: takes every absent label for certain, and --labels flip makes some true ones absent; take --labels "
        "candidate, or --loss bce",
    )


def whole_batches(data: Data, config: LoaderConfig) -> Data:
    """The data with validation and test split cut to whole batches where `--drop_last` says so. Raises: UserError."""
    validation = None if data.validation is None else config.scored("validation", data.validation)
    return data._replace(validation=validation, test=config.scored("test", data.test))


def require_room_to_score(settings: Settings, data: Data, runtime: Runtime) -> None:
    """Raise UserError where memory does not hold the scores of the validation or the test split, before training."""
    networks = 2 if "peers" in CRITERIA[settings.method].criterion.needs else 1
    free = free_now(runtime).host
    if data.validation is not None:
        remedy = "give fewer validation images by --ss_frac_val or --val_frac"
        scoring.require_room_to_score("validation", data.validation.truth, networks, free, remedy)
    remedy = "give a dataset with fewer test images (--test_table of --dataset table)"
    scoring.require_room_to_score("test", data.test.truth, networks, free, remedy)


def given_features(settings: Settings, data: Data, runtime: Runtime) -> SplitFeatures | None:
    """The features of a file that stand in for images, by split; None without such a file. Raises: UserError."""
    path = settings.of(FeatureConfig).features
    if path is None:
        return None
    splits: dict[SplitName, Annotations] = {"train": data.train, "test": data.test}
    if data.validation is not None:
        splits["validation"] = data.validation
    return split_features(path, splits, shown=runtime.is_main)


def prior_scores(settings: Settings, data: Data, runtime: Runtime) -> GivenScores | None:
    """The scores from outside that the method learns from; None where it reads none. Raises: UserError."""
    config = settings.of(PriorConfig)
    config.require_taken(settings.method)
    if config.prior_scores is None:
        return None
    others = [split for split in (data.validation, data.test) if split is not None]
    return given_scores(config.prior_scores, data.train, others, config.prior_temperature, shown=runtime.is_main)


def keep_data(data: Data, settings: Settings, runtime: Runtime) -> Data:
    """The data with its images kept as `--cache` says; the main process writes what the others then find."""
    splits = {"train": data.train, "validation": data.validation, "test": data.test}
    cache = Cache(settings.of(DatasetConfig).cache_dir)
    with runtime.main_first():
        kept = keep_images(
            splits,
            settings.of(LoaderConfig).cache,
            cache,
            processes=runtime.local_world_size,
            shown=runtime.is_main,
        )
    return data._replace(**kept)


def build_network(settings: Settings, data: Data, runtime: Runtime) -> Network:
    """The network or networks of the method on the CPU. Raises: UserError when it cannot take what it is given."""
    architecture, method = Architecture(settings.of(ModelConfig), settings.head_config), settings.method
    needs = CRITERIA[method].criterion.needs
    require_head(architecture, needs, method)
    build = build_peers if "peers" in needs else build_model
    classes = data.train.classes
    network = build(
        architecture,
        len(classes),
        settings.of(RunConfig).training_seed,
        label_info=LabelInfo(classes, data.observed),
    )
    network.check_size(architecture.model.model, settings.of(LoaderConfig).img_size)
    if settings.of(RunConfig).sync_bn:
        synchronise_norms(network, runtime, method, CRITERIA[method].criterion)
    return network


def criterion_kind(settings: Settings) -> type[Criterion]:
    """The criterion class of the method, with the group regulariser where that is asked for. Raises: UserError."""
    return group_regularised(settings.method, CRITERIA[settings.method].criterion, settings.of(GroupConfig))


def build_criterion(
    settings: Settings,
    data: Data,
    network: Network,
    steps_per_epoch: int,
    runtime: Runtime,
    scores: GivenScores | None = None,
) -> Criterion:
    """The criterion of the method on the device of the run, its label memories there or on the host.

    Raises: UserError when there is no room for what it and the recorder will keep, before any of it is made, or for
        labels that the method cannot trust.
    """
    require_trusted_absent(settings)
    kind, info = criterion_kind(settings), criterion_info(settings, data, network, steps_per_epoch, scores)
    on_host = _memories_on_host(settings, kind, info, runtime)
    criterion = kind(settings.method_config, info)
    require(
        criterion.train_scores_of != "average" or settings.of(OptimConfig).ema is not None,
        f"{settings.method}: needs the moving average of the network; give --ema 0.999, say",
    )
    if runtime.dtype == torch.float64:
        criterion.in_float64()
    return criterion.placed(runtime.device, memories_on_host=on_host)


def criterion_info(
    settings: Settings, data: Data, network: Network, steps_per_epoch: int, scores: GivenScores | None = None
) -> CriterionInfo:
    """What the criterion of the run is told of it. Raises: UserError when something that it reads is not there."""
    config, needs = settings.of(RunConfig), criterion_kind(settings).needs
    return CriterionInfo(
        observed=data.observed,
        classes=data.train.classes,
        epochs=config.epochs,
        steps_per_epoch=steps_per_epoch,
        feature_width=network.feature_width,
        class_counts=ClassCounts(data.observed.counts(), "observed"),
        seed=config.training_seed,
        clean_counts=ClassCounts(data.train.truth.counts(), "clean"),
        frozen_epochs=config.frozen_epochs,
        class_priors=given_priors(settings.method_config, data.train.classes),
        prior_scores=None if scores is None else scores.scores,
        candidate_rates=candidate_rates(settings.of(Regime), data.train.classes),
        noise_rates=rates_from_file(settings.method_config, data.train.classes),
        groups=image_groups("--group_weight", needs, data.train),
        class_vector_width=class_vector_width(network, needs),
    )


def class_vector_width(network: Network, needs: frozenset[str]) -> int:
    """Numbers in the vector of a class that the head gives; 0 where nothing with such needs reads it."""
    return network.class_vector_width() if isinstance(network, Classifier) and "class_vectors" in needs else 0


def image_groups(name: str, needs: frozenset[str], train: Annotations) -> Index | None:
    """(N,) number from 0 of what each training image belongs to; None where nothing with such needs reads it.

    Args:
        name: of what has these needs, for the message.
        needs: its inputs besides logits.
        train: the training images.

    Raises:
        UserError: it is read, and the dataset has none.
    """
    if "groups" not in needs:
        return None
    if train.groups is None:
        raise UserError(
            f"{name}: learns from what images belong to (patient, site, recording), which this dataset does not tell; "
            "--dataset table reads it from --group_column"
        )
    return np.unique(train.groups, return_inverse=True)[1].astype(np.int64)


def _memories_on_host(settings: Settings, kind: type[Criterion], info: CriterionInfo, runtime: Runtime) -> bool:
    """True if what the criterion and the recorder will keep of each label stays on the host beside a GPU."""
    needs = [*kind.memory_needs(settings.method_config, info), *settings.of(RecordConfig).memory_needs(info.observed)]
    config, sgd = settings.of(MemoryConfig), settings.of(OptimConfig).optimizer == "sgd"
    on_host = memories_on_host(config, settings.method, needs, free_now(runtime), learned_copies=3 if sgd else 4)
    if on_host and config.label_memory == "auto" and runtime.is_main:
        say("label memories are on the host, for half of what is free on the GPU does not hold them (--label_memory)")
    return on_host


def build_recorder(settings: Settings, data: Data, criterion: Criterion, runtime: Runtime) -> Recorder:
    """The recorder of single labels. Raises: UserError when labels are to be exported that nobody corrects."""
    config = settings.of(RecordConfig)
    require(
        config.export_labels is None or criterion.corrects_for_good,
        f"--export_labels: {settings.method} with these settings corrects no label for good (LL-Cp does)",
    )
    return Recorder(
        config,
        observed=data.observed,
        truth=data.train.truth,
        epochs=settings.of(RunConfig).epochs,
        device="cpu" if criterion.memories_on_host else runtime.device,
    )


def fixed_network(settings: Settings, network: Network) -> Classifier | None:
    """The network whose backbone gives features once, on which heads alone compute; None in other modes.

    Of two networks the second gets the backbone of the first, whose features both heads read.
    """
    mode = settings.of(RunConfig).train_mode
    settings.of(FeatureConfig).require_mode(mode)
    if mode != "linear_fixed_features":
        return None
    if isinstance(network, Classifier):
        return network
    network.g.backbone.load_state_dict(network.f.backbone.state_dict())
    return network.f


def build_loaders(
    settings: Settings,
    data: Data,
    fixed: Classifier | None,
    criterion: Criterion,
    runtime: Runtime,
    given: SplitFeatures | None = None,
) -> LoaderFactory:
    """The loaders of images, of the features that are computed of them now, or of those that are `given`."""
    config = settings.of(LoaderConfig)
    workers = config.workers(beside_gpu=runtime.device.type == "cuda", processes=runtime.local_world_size)
    images = ImageLoaders(data, config, runtime, workers, settings.of(RunConfig).training_seed)
    if given is not None:
        return FeatureLoaders(data, given.arrays(), images.scoring_batch, runtime, images.seed)
    if fixed is None:
        return images
    kept, needs = settings.of(FeatureConfig), criterion.needs
    if estimates_priors(criterion, settings.of(RecordConfig)):
        needs |= {"train_scores"}
    splits: list[SplitName] = ["train", "test"]
    if data.validation is not None:
        splits.append("validation")
    cache = Cache(settings.of(DatasetConfig).cache_dir)
    features = FrozenFeatures(fixed, images, cache, maps=reads_maps(fixed, needs), half=kept.half_features)
    arrays = feature_arrays(features, wanted_views(needs, kept.feature_views, splits))
    return FeatureLoaders(data, arrays, images.scoring_batch, runtime, images.seed)


def splicer_of(settings: Settings, criterion: Criterion, runtime: Runtime) -> Splicer:
    """What adds spliced images to each batch, none without `--mix splice`.

    Raises: UserError if there are no images to splice, or the method cannot learn from spliced ones, or from no others.
    """
    config = settings.of(MixConfig)
    require(
        config.mix == "splice" or "grids" not in criterion.needs,
        f"{settings.method}: holds images against grids of them, and there are none; give --mix splice, or --loss bce",
    )
    if config.mix == "splice":
        fixed = settings.of(RunConfig).train_mode == "linear_fixed_features"
        require(not fixed, "--mix splice: there are no images to splice, features stand in for them; leave it out")
        reason = criterion.refuses_spliced()
        require(not reason, f"--mix splice: {settings.method} {reason}; leave it out, or take another method")
    return Splicer(config, runtime.rank, runtime.world_size)


def parameter_groups(network: Network, criterion: Criterion, optim: OptimConfig) -> list[dict[str, Any]]:
    """Parameters of backbone, head and criterion for the optimiser, each with the factor of its learning rate."""
    groups: list[dict[str, Any]] = [
        {"params": network.backbone_parameters()},
        {"params": network.head_parameters(), "lr_mult": optim.head_lr_mult},
    ]
    if not optim.w_d_biases:
        groups = [part for group in groups for part in _biases_apart(group)]
    return [*groups, *criterion.parameter_groups()]


def _biases_apart(group: dict[str, Any]) -> list[dict[str, Any]]:
    """A group of parameters of at least two dimensions, and one of the others, which do not decay; not empty ones."""
    wide = [parameter for parameter in group["params"] if parameter.ndim > 1]
    flat = [parameter for parameter in group["params"] if parameter.ndim <= 1]
    parts = [{**group, "params": wide}, {**group, "params": flat, "weight_decay": 0.0}]
    return [part for part in parts if part["params"]]


def number_of_views(criterion: Criterion) -> int:
    """Augmented views per image that a criterion needs."""
    return 2 if "second_view" in criterion.needs else 1


def training_batches_of(settings: Settings, data: Data, runtime: Runtime) -> TrainingBatches:
    """The batches of this process in the order of training."""
    return training_batches(
        data.train,
        data.observed,
        settings.of(LoaderConfig),
        seed=settings.of(RunConfig).training_seed,
        rank=runtime.rank,
        world_size=runtime.world_size,
    )
