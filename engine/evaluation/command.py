"""`evaluate.py`: metrics of a checkpoint on a test set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from data.build import DatasetConfig, load_splits
from data.datasets.table.each import of_run
from data.labels.regime import Regime
from data.loading.loader import LoaderConfig
from data.subsets.splits import TrainingSplitConfig
from engine.core.checkpoint import SavedModel, read_model, save_again, save_safetensors
from engine.core.decisions import Decisions
from engine.core.distributed import Precision, Runtime
from engine.core.hub import HubAddress, local_file
from engine.core.kernels import KernelConfig
from engine.core.manifest import Published, load_manifest
from engine.core.scoring import (
    EvalResult,
    MetricsBy,
    full_row_metrics,
    groups_as_dict,
    published_metrics,
    require_room_to_score,
)
from engine.core.setting_table import SettingTable, training_names
from engine.core.settings import Command, Request, Settings, parse_settings
from engine.core.settings_files import SettingsLayer, typed_values
from engine.evaluation.choosing import ChoiceConfig, Decided, decide, held_out, in_order_of_checkpoint, notes
from engine.evaluation.class_order import class_columns, in_order, require_same_classes
from engine.evaluation.decided import decision_figures
from engine.evaluation.features import given_features
from engine.evaluation.figures import draw_figures
from engine.evaluation.hub import Card, push, require_pushable
from engine.evaluation.scored import Scored, write_result
from engine.evaluation.scorer import Scorer
from engine.evaluation.text import (
    kind_of,
    print_caveats,
    print_classes,
    print_decisions,
    print_notes,
    print_order,
    print_remarks,
    print_table,
)
from engine.evaluation.uncertainty import UncertaintyConfig, interval_texts, uncertainty_figures, uncertainty_lines
from engine.training.given_features import note_unread_images
from engine.training.label_memory import free_now
from models.build import PUBLISHED_NAMES
from models.peers import Network, Peers
from models.released.contents import HeadOverrides
from utils.checks import require
from utils.console import say
from utils.foreign_states import CheckpointWeights
from utils.options import as_text, option
from utils.ranking import ranking_figures
from utils.types import Annotations, Splits


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """The checkpoint and its published result, device and output of the evaluation."""

    load_from: Path | None = option(
        None, "checkpoint to score: best.pth of a run, one that a paper released, or hf://OWNER/NAME"
    )
    paper: str | None = option(None, "print what a paper reports beside: a name in configs/released.yaml")
    save_as: Path | None = option(None, "also write the checkpoint to this .safetensors file, which --load_from reads")
    push_to: str | None = option(
        None, "OWNER/NAME: also put the model, with a card of its figures, on the Hugging Face Hub"
    )
    model: str | None = option(
        None, "published flag: backbone of the checkpoint; only compared with the file", synonyms=PUBLISHED_NAMES
    )
    lam: float | None = option(None, "released CSRA: weight of its attention, which is not in the file")
    num_heads: int | None = option(None, "released CSRA: attention heads; only checked against the file")
    nheads: int | None = option(None, "released Query2Label: attention heads, which are not in the file")
    boostlu: float | None = option(None, "released BoostLU: its alpha, where it is not in the file (1: none)")
    saliency_test: bool | None = option(None, "saliency heads: score with it or without (default: as in training)")
    checkpoint_weights: CheckpointWeights | None = option(
        None, "a file that holds averaged weights beside raw ones: score these (default: the averaged, ema)"
    )
    features: Path | None = option(
        None, "features of the test images, for a head that was trained on such (default: the file of training)"
    )
    ensemble: Path | None = option(None, "a second checkpoint, to score it too, and both together")
    seed: int = option(0, "seed of a generated dataset")
    device: Literal["auto", "cpu", "cuda"] = option("auto", "device of the computation")
    precision: Precision = option("fp32", "precision of the forward pass")
    metrics: MetricsBy = option(
        "ours",
        "published: also print the figures as the evaluators of CSRA and CoNeS compute them; full_rows: also those of "
        "images without an unknown label, as L48",
    )
    top_k: bool = option(False, "also print recall and precision of each image's 1, 3 and 5 highest scores")
    per_class: bool = option(False, "also print the figures of each class")
    draw: Path | None = option(None, "folder for figures: bars of each class, and a reliability diagram")
    json: Path | None = option(None, "also write the metrics, with those per class, to this file")

    def __post_init__(self) -> None:
        require(self.load_from is not None, "--load_from: name the checkpoint to score")
        require(
            self.save_as is None or self.save_as.suffix == ".safetensors",
            f"--save_as {self.save_as}: name it .safetensors, the suffix tells the format",
        )


EVALUATE = Command(
    program="evaluate.py",
    about="Score a checkpoint on a test set; dataset and view are those of the training run unless given here.",
    groups={
        "data": (DatasetConfig, TrainingSplitConfig, LoaderConfig),
        "labels": (Regime,),
        "run": (KernelConfig,),
        "evaluation": (ScoreConfig, ChoiceConfig, UncertaintyConfig),
    },
)
COMMANDS = (EVALUATE,)

_NOT_THE_DATA = (
    *("precision", "device", "label_file", "cache", "checkpoint_weights"),
    *(field.name for field in fields(KernelConfig)),
    *HeadOverrides._fields,
)
"""Settings of a training run that do not apply to its evaluation."""
_LABEL_FLAGS = ("label_column", "class_columns")
"""Of these one says where labels are; that of the command line, before that of the run."""


def evaluate_command(argv: Sequence[str] | None = None) -> int:
    """Load a checkpoint, score the test set of its dataset, print the table. Return the exit code."""
    request = Request(EVALUATE.table(), argv, training_names())
    saved = _read_checkpoint(request)
    recorded = _of_tables(_recorded(saved, request.table), request.first())
    settings = parse_settings(EVALUATE, argv, request=request, recorded=recorded)
    config = settings.of(ScoreConfig)
    published = _published(saved, settings)
    _require_choosable(saved, settings)
    require_pushable(config.push_to, saved, config.ensemble)
    runtime = Runtime(config.device, config.precision, settings.of(KernelConfig))
    try:
        converts, chooses = config.save_as is not None and runtime.is_main, settings.of(ChoiceConfig).wanted
        if converts and not chooses:
            _convert(saved, settings)
        if config.save_as is not None and not (chooses or config.push_to or settings.is_given("dataset")):
            return 0
        evaluation = _evaluated(saved, settings, runtime)
    finally:
        runtime.close()
    if runtime.is_main:
        if evaluation.decided is not None:
            _keep(evaluation.saved, settings)
        scored = _report(evaluation, settings, published)
        if config.push_to is not None:
            names = settings.of(DatasetConfig).dataset, settings.of(Regime).describe()
            say(f"pushed: {push(Card(config.push_to, evaluation.saved, evaluation.splits.test, scored, *names))}")
    return 0


class Evaluation(NamedTuple):
    """A checkpoint on its dataset."""

    saved: SavedModel
    """The checkpoint with the decisions that were chosen now, if any."""
    splits: Splits
    measured: EvalResult
    """On the test set."""
    decided: Decided | None
    """What was chosen now."""


def _report(evaluation: Evaluation, settings: Settings, published: Published | None) -> Scored:
    """Print the table and what belongs to it, and write the files that were asked for; all figures."""
    config, dataset = settings.of(ScoreConfig), settings.of(DatasetConfig).dataset
    saved, splits, measured, decided = evaluation
    test = splits.test
    ranking = None if measured.scores is None else ranking_figures(measured.scores, test.truth.dense())
    others = published_metrics(measured, test.truth) if config.metrics == "published" else None
    full = full_row_metrics(measured, test.truth) if config.metrics == "full_rows" else None
    figures = decision_figures(measured, test.truth, _in_order_of_dataset(saved, test, dataset))
    sure = uncertainty_figures(measured, test, settings.of(UncertaintyConfig))
    groups = groups_as_dict(measured.metrics, splits.groups)
    scored = Scored(measured, ranking, groups, others, figures, full, sure)
    print_table(saved, test, scored, dataset, config.top_k, published)
    print_decisions(figures, () if decided is None else notes(decided, test.classes))
    for line in uncertainty_lines(sure):
        say(f"  {line}")
    if config.per_class:
        print_classes(test.classes, figures, interval_texts(sure))
    print_caveats(saved, splits, settings)
    if config.json is not None:
        write_result(saved, test, scored, dataset, config.json, published)
    if config.draw is not None:
        draw_figures(config.draw, test, measured, figures)
    return scored


def _in_order_of_dataset(saved: SavedModel, test: Annotations, dataset: str) -> Decisions:
    """The decisions of a checkpoint in the order of a dataset's classes; of one without any, none."""
    columns = class_columns(saved, test, dataset)
    decisions = saved.decisions or Decisions()
    return decisions if columns is None else decisions.take(columns)


def _keep(saved: SavedModel, settings: Settings) -> None:
    """Write the checkpoint with what was chosen, where that is wanted."""
    config = settings.of(ScoreConfig)
    if settings.of(ChoiceConfig).in_place:
        save_again(saved)
        say(f"written: {saved.path}")
    if config.save_as is not None:
        _convert(saved, settings)
    if config.save_as is None and not settings.of(ChoiceConfig).in_place:
        say("not kept: --in_place writes what was chosen into the checkpoint, --save_as FILE into a copy")


def _read_checkpoint(request: Request) -> SavedModel:
    """Read the checkpoint that the command line names; the settings in it are defaults of this command."""
    first = request.first()
    require(first["load_from"] is not None, "--load_from: name the checkpoint to score")
    dataset = None if first["dataset"] == request.table["dataset"].default else first["dataset"]
    overrides = HeadOverrides(**{name: first[name] for name in HeadOverrides._fields})
    saved = read_model(local_file(first["load_from"]), overrides, first["paper"], dataset, first["checkpoint_weights"])
    with_it = first["saliency_test"]  # of a settings file perhaps, which may be that of a run without such a head
    applies = with_it is not None and ("saliency_test" in request.line.texts or saved.has_saliency)
    return saved.with_saliency(with_it) if applies else saved


def _recorded(saved: SavedModel, table: SettingTable) -> SettingsLayer:
    """Settings of the training run that also apply to its evaluation."""
    kept = {name: value for name, value in saved.settings.items() if name in table and value is not None}
    texts = {name: as_text(value) for name, value in kept.items() if name not in _NOT_THE_DATA}
    return SettingsLayer(str(saved.path), typed_values(texts, table, str(saved.path)))


def _of_tables(recorded: SettingsLayer, given: Mapping[str, Any]) -> SettingsLayer:
    """Recorded settings without what says nothing of the tables that are scored instead of those of the run."""
    tables = [given[name] or recorded.values.get(name) or () for name in ("table", "test_table")]
    encoding = given["encoding"] or recorded.values.get("encoding")
    found = of_run(recorded.values, [*tables[0], *tables[1]], encoding)
    for note in found.notes:
        say(f"{recorded.origin}: {note}")
    told = {name for one, name in (_LABEL_FLAGS, _LABEL_FLAGS[::-1]) if given[one] is not None}
    kept = {name: value for name, value in found.settings.items() if value is not None and name not in told}
    return recorded._replace(values=kept)


def _published(saved: SavedModel, settings: Settings) -> Published | None:
    """Check the flags about released checkpoints; return the published result of the checkpoint, if any."""
    config, dataset = settings.of(ScoreConfig), settings.of(DatasetConfig).dataset
    given = [name for name in HeadOverrides._fields if settings.is_typed(name)]
    require(
        saved.released is not None or not given,
        f"--{', --'.join(given)}: {saved.path} is a checkpoint of this project and has all settings of its "
        "network; leave it out",
    )
    require(
        bool(saved.classes and saved.released is None) or config.save_as is not None or settings.is_given("dataset"),
        f"{saved.path}: does not name its dataset ({kind_of(saved)}); give --dataset",
    )
    backbone = saved.settings.get("model")
    require(
        config.model in (None, backbone),
        f"--model {config.model}: the network in {saved.path} is a {backbone}; leave the flag out",
    )
    entry = load_manifest().named(config.paper) if config.paper is not None else saved.published
    require(
        entry is None or config.paper is None or entry.dataset == dataset,
        f"--paper {config.paper}: reports {entry and entry.dataset}, not {dataset}; choose another, or its --dataset",
    )
    return entry if entry is not None and entry.dataset == dataset else None


def _require_choosable(saved: SavedModel, settings: Settings) -> None:
    """Raise UserError if what is chosen cannot be of the one checkpoint, or kept in it."""
    config, choice = settings.of(ScoreConfig), settings.of(ChoiceConfig)
    require(
        not choice.wanted or config.ensemble is None,
        f"--ensemble {config.ensemble}: thresholds and calibrations belong to one checkpoint; leave one of them out",
    )
    require(
        not choice.in_place or saved.released is None,
        f"--in_place: {saved.path} is not a file of this project; keep what is chosen with --save_as FILE.safetensors",
    )
    require(
        not choice.in_place or config.load_from is None or HubAddress.of(config.load_from) is None,
        f"--in_place: {saved.path} is a file of the hub's cache; keep what is chosen with --save_as FILE.safetensors",
    )


def _convert(saved: SavedModel, settings: Settings) -> None:
    """Write the checkpoint as safetensors; a released one with the classes of the dataset if that is given."""
    file, classes, more = settings.of(ScoreConfig).save_as, saved.classes, {}
    assert file is not None
    if not classes and settings.is_given("dataset"):
        data = settings.of(DatasetConfig)
        test = load_splits(data, settings.of(ScoreConfig).seed, need_images=False).test
        class_columns(saved, test, data.dataset)
        classes, more = test.classes, {"dataset": data.dataset}
    save_safetensors(file, saved, classes, more)
    if not settings.is_given("dataset"):  # else they are printed with the metrics
        print_notes(saved)
    say(f"{file}: {saved.path} with {saved.num_classes} classes{'' if classes else ', names not known'}")


def _evaluated(saved: SavedModel, settings: Settings, runtime: Runtime) -> Evaluation:
    """Read the dataset, choose what is to be chosen on held-out images, and evaluate the model on the test set.

    Missing images are left out if these are skipped. No reference to the wrapped model is left on return, as
    `Runtime.close` needs it.
    """
    config, data, loader = settings.of(ScoreConfig), settings.of(DatasetConfig), settings.of(LoaderConfig)
    networks = _networks(saved, config.ensemble, config.checkpoint_weights)
    features = given_features(config.features, [each for each, _ in networks])
    splits = load_splits(data, config.seed, need_images=features is None)
    model = runtime.wrap(_joined(networks, splits.test, data.dataset))
    usable = splits.test.take(data.usable_rows(splits.test, "test")) if features is None else splits.test
    splits = splits._replace(test=loader.scored("test", usable))
    remedy = "give a dataset with fewer test images (--test_table of --dataset table)"
    count = 2 if len(networks) > 1 or saved.peers else 1
    require_room_to_score("test", splits.test.truth, count, free_now(runtime).host, remedy)
    if loader.check_images and features is None:
        splits.test.images.check()
    if config.top_k:
        _require_rankable(splits.test, data.dataset)
    if runtime.is_main:
        print_remarks(saved, settings)
        for other, _ in networks[1:]:  # which sees the images as the first does
            print_remarks(other, settings)
            print_order(other, splits.test, data.dataset)
    if features is not None:
        note_unread_images(settings)
    scorer = Scorer(model, features, settings, runtime)
    choice, decided, measured = settings.of(ChoiceConfig), None, None
    if choice.wanted:
        chosen_on = held_out(saved, settings, splits)
        result = scorer.measure("validation", chosen_on.images, splits)
        decided = decide(result, chosen_on, choice)
        columns = class_columns(saved, splits.test, data.dataset)
        newer = in_order_of_checkpoint(decided.decisions, columns)
        saved = replace(saved, decisions=(saved.decisions or Decisions()).updated(newer))
        measured = result if choice.choose_on == "test" else None
    if measured is None:
        measured = scorer.measure("test", splits.test, splits)
    return Evaluation(saved, splits, measured, decided)


def _networks(
    saved: SavedModel, second: Path | None, wanted: CheckpointWeights | None
) -> list[tuple[SavedModel, Network]]:
    """Build the network of a checkpoint, and of a second one if there is one; of a released one those wanted."""
    networks = [(saved, saved.build())]
    if second is not None:
        file = local_file(second)
        other = read_model(file)
        if other.released is not None and wanted is not None:
            other = read_model(file, checkpoint_weights=wanted)
        require_same_classes(saved, other, "--ensemble")
        networks.append((other, other.build()))
    return networks


def _joined(networks: Sequence[tuple[SavedModel, Network]], test: Annotations, dataset: str) -> Network:
    """One network with its scores in the order of the dataset; two as peers, of a pair of networks f."""
    ordered = [in_order(network, class_columns(saved, test, dataset)) for saved, network in networks]
    if len(ordered) == 1:
        return ordered[0]
    return Peers(*(each.f if isinstance(each, Peers) else each for each in ordered))


def _require_rankable(test: Annotations, dataset: str) -> None:
    """Raise UserError if too few labels per image are known to evaluate a ranking."""
    require(
        not test.truth.stores_known_only,
        f"--top_k: only few labels per test image of {dataset} are known, too few to evaluate a ranking; leave "
        "--top_k out",
    )
