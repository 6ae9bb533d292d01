"""How the parts of a run are made of its settings, with what they are made by replaced."""

from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from data.loading.loader import LoaderConfig
from engine.training import setup
from engine.training.config import RunConfig
from engine.training.features import FeatureView
from engine.training.label_memory import FreeMemory
from engine.training.loaders import FeatureLoaders, ImageLoaders
from engine.training.optim import OptimConfig
from engine.training.recorder import Recorder
from losses.common.memory import label_memory
from models.build import Architecture, build_model
from models.peers import build_peers
from tests.engine.run_folders import settings_of
from tests.engine.training.test_features import array_data
from utils.checks import UserError
from utils.types import LabelTable

RUNTIME = SimpleNamespace(
    device=torch.device("cpu"),
    dtype=torch.float32,
    precision="fp32",
    rank=1,
    world_size=3,
    local_world_size=2,
    is_main=False,
)
SMALL = ("--model", "scenenet", "--weights", "none", "--img_size", "32")
ONE = SimpleNamespace(world_size=1)


def selected(wanted, validation, early_stop=None, scheduler="step"):
    config, optim = SimpleNamespace(selection=wanted, early_stop=early_stop), SimpleNamespace(scheduler=scheduler)
    return setup.selection_of(config, optim, SimpleNamespace(validation=validation))


@pytest.mark.parametrize(
    "settings", [{}, {"early_stop": 3.0}, {"early_stop": "first"}, {"scheduler": "plateau"}], ids=str
)
@pytest.mark.parametrize(
    ("wanted", "validation", "selection"),
    [(None, [1], "validation"), ("validation", [1], "validation"), ("test", [1], "test"), ("test", None, "test")],
)
def test_a_split_selects_the_epoch(wanted, validation, selection, settings):
    assert selected(wanted, validation, **settings) == selection


def test_without_a_split_that_selects_the_last_epoch_is_reported():
    assert selected(None, None) == selected("last", None) == selected("last", [1]) == "last"
    assert selected("last", [1], scheduler="plateau") == "last"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("validation", None), "--selection validation: there is no validation split; give --val_frac"),
        ((None, None, 3.0), "--early_stop: there is no validation split whose mAP could fall"),
        ((None, None, 0.0), "--early_stop: there is no validation split whose mAP could fall"),
        ((None, None, None, "plateau"), "--scheduler plateau: there is no validation split whose mAP could stop"),
        (("last", None, None, "plateau"), "--scheduler plateau: there is no validation split whose mAP could stop"),
    ],
)
def test_what_needs_a_validation_split_is_refused_without_one(given, words):
    with pytest.raises(UserError, match=words):
        selected(*given)


@pytest.mark.parametrize("validation", [None, "held out"])
def test_classes_that_cannot_be_scored_are_told_of_each_split(monkeypatch, capsys, validation):
    said = {"held out": "two classes", "tests": "one class", "fine": ""}
    monkeypatch.setattr(setup, "untold_classes", lambda name, split: said[split] and f"{name}: {said[split]}")
    setup.note_untold_classes(SimpleNamespace(validation=validation, test="tests"))
    expected = ["note: validation: two classes"] if validation else []
    assert capsys.readouterr().err.splitlines() == [*expected, "note: test: one class"]
    setup.note_untold_classes(SimpleNamespace(validation=None, test="fine"))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("method", "regime", "told"),
    [("splc", "candidate", True), ("splc", "flip", True), ("splc", "full", False), ("hill", "flip", False)],
)
def test_present_labels_that_may_be_wrong_are_told_where_others_are_corrected_by_them(capsys, method, regime, told):
    setup.note_wrong_present_labels(settings_of(method, ["--labels", regime]))
    line = f"note: {method} takes every present label for a true one, which --labels {regime} does not keep to\n"
    assert capsys.readouterr().err == (line if told else "")


def test_absent_labels_that_may_be_true_are_refused_where_a_method_takes_them_for_certain():
    with pytest.raises(UserError, match=r"^cdcr: takes every absent label for certain, and --labels flip [^\n]*$"):
        setup.require_trusted_absent(settings_of("cdcr", ["--labels", "flip"]))
    for method, regime in (("cdcr", "candidate"), ("bce", "flip")):
        setup.require_trusted_absent(settings_of(method, ["--labels", regime]))


@pytest.mark.parametrize("main", [True, False])
@pytest.mark.parametrize("words", [("--check_images",), ("--no-check_images",)])
def test_the_main_process_checks_the_data_and_the_others_wait(monkeypatch, main, words):
    told = []
    monkeypatch.setattr(setup, "check_images", lambda data: told.append(f"images of {data}"))
    monkeypatch.setattr(setup, "note_untold_classes", lambda data: told.append(f"classes of {data}"))
    runtime = SimpleNamespace(is_main=main, barrier=lambda: told.append("all are here"))
    setup.check_data("data", settings_of("bce", words), runtime)
    images = ["images of data"] if words == ("--check_images",) else []
    assert told == [*([*images, "classes of data"] if main else []), "all are here"]


def test_images_are_kept_by_the_main_process_before_the_others_look_for_them(monkeypatch, tmp_path):
    told = []

    @contextmanager
    def main_first():
        told.append("main")
        yield
        told.append("all")

    def keep(splits, how, cache, **named):
        told.append((splits, how, cache.folder, named))
        return {"train": "kept"}

    monkeypatch.setattr(setup, "keep_images", keep)
    monkeypatch.setattr(setup, "Cache", lambda folder: SimpleNamespace(folder=folder))
    data = SimpleNamespace(train="a", validation=None, test="b", _replace=lambda **parts: ("data with", parts))
    settings = settings_of("bce", ["--cache", "disk", "--cache_dir", tmp_path])
    runtime = SimpleNamespace(main_first=main_first, local_world_size=2, is_main=False)
    assert setup.keep_data(data, settings, runtime) == ("data with", {"train": "kept"})
    splits = {"train": "a", "validation": None, "test": "b"}
    assert told == ["main", (splits, "disk", tmp_path, {"processes": 2, "shown": False}), "all"]


@pytest.mark.parametrize(("method", "kind"), [("bce", "one"), ("cls", "pair")])
def test_a_network_is_built_for_the_method_and_its_size_is_checked(monkeypatch, method, kind):
    made, sizes = [], []

    def builder(kind):
        return lambda *args, **named: (
            made.append((kind, args, named)) or SimpleNamespace(check_size=lambda *size: sizes.append(size))
        )

    monkeypatch.setattr(setup, "build_model", builder("one"))
    monkeypatch.setattr(setup, "build_peers", builder("pair"))
    data = array_data()
    settings = settings_of(method, [*SMALL, "--seed", "4", "--train_seed", "9"])
    setup.build_network(settings, data, ONE)
    ((built, (architecture, classes, seed), named),) = made
    assert (built, classes, seed) == (kind, len(data.train.classes), 9)
    assert architecture.model.model == "scenenet"
    assert named["label_info"].classes == data.train.classes
    assert sizes == [("scenenet", 32)]


def test_a_head_that_does_not_fit_the_method_is_refused():
    with pytest.raises(UserError, match="--head gcn: label_mask gives the network known labels"):
        setup.build_network(settings_of("label_mask", [*SMALL, "--head", "gcn"]), array_data(), ONE)


class Criterion:
    """A criterion that keeps what it is told."""

    needs, train_scores_of, corrected, memories_on_host = frozenset(), "network", None, False
    estimates_priors = False

    def __init__(self, config=None, info=None):
        self.config, self.info = config, info

    @classmethod
    def memory_needs(cls, config, info):
        return ()

    def placed(self, device, *, memories_on_host):
        self.device, self.memories_on_host = device, memories_on_host
        return self

    @property
    def corrects_for_good(self):
        return self.corrected is not None

    def parameter_groups(self):
        return [{"params": ["c"], "lr_mult": 2.0}]


def kind_of(**values):
    return type("Other", (Criterion,), values)


def test_the_width_of_class_vectors_is_told_where_it_is_needed():
    network = build_model(Architecture.of(model="scenenet", weights="none", head="linear"), 3, 0)
    wanted = frozenset({"class_vectors"})
    assert setup.class_vector_width(network, wanted) == 96
    assert setup.class_vector_width(network, frozenset({"cam"})) == 0
    assert setup.class_vector_width(SimpleNamespace(), wanted) == 0


def test_a_criterion_is_told_about_the_run_and_moved_to_its_device(monkeypatch):
    data = array_data()
    data.observed = LabelTable(np.full((10, 3), -1, dtype=np.int8))
    settings = settings_of("bce", ["--epochs", "7", "--train_seed", "9", "--train_mode", "linear"])
    monkeypatch.setitem(setup.CRITERIA, "bce", SimpleNamespace(criterion=Criterion))
    made = setup.build_criterion(settings, data, SimpleNamespace(feature_width=5), 11, RUNTIME)
    info = made.info
    assert (made.config, made.device) == (settings.method_config, RUNTIME.device)
    assert (info.observed, info.classes) == (data.observed, data.train.classes)
    assert (info.epochs, info.steps_per_epoch, info.feature_width, info.seed, info.frozen_epochs) == (7, 11, 5, 9, 7)
    assert (info.class_counts.origin, info.clean_counts.origin) == ("observed", "clean")
    assert info.class_counts.values.tolist() == [0, 0, 0]
    assert info.clean_counts.values.tolist() == data.train.truth.counts().tolist()


@pytest.mark.parametrize("precision", ["fp32", "fp64"])
def test_a_criterion_keeps_its_numbers_in_the_precision_of_the_run(precision):
    settings = settings_of("role", ["--precision", precision, "--expected_num_pos", "1", "--labels", "single"])
    runtime = SimpleNamespace(**{**vars(RUNTIME), "dtype": getattr(torch, f"float{precision[2:]}")})
    made = setup.build_criterion(settings, array_data(), SimpleNamespace(feature_width=5), 11, runtime)
    assert {each.dtype for each in made.parameters()} == {torch.float64 if precision == "fp64" else torch.float32}


@pytest.mark.parametrize(
    ("free", "words", "on_host"), [(240, [], False), (239, [], True), (0, ["--label_memory", "host"], True)]
)
def test_label_memories_go_where_there_is_room(monkeypatch, capsys, free, words, on_host):
    """4 bytes for each of 30 labels, and the recorder has none."""
    data, settings = array_data(), settings_of("bce", words)
    needs = classmethod(lambda kind, config, info: [label_memory("confidences", info.observed, 4)])
    monkeypatch.setitem(setup.CRITERIA, "bce", SimpleNamespace(criterion=kind_of(memory_needs=needs)))
    monkeypatch.setattr(setup, "free_now", lambda runtime: FreeMemory(120, free))
    main = SimpleNamespace(**{**vars(RUNTIME), "is_main": True})
    made = setup.build_criterion(settings, data, SimpleNamespace(feature_width=5), 11, main)
    assert made.memories_on_host is on_host
    assert ("label memories are on the host" in capsys.readouterr().out) == (on_host and not words)
    device = setup.build_recorder(settings, data, made, SimpleNamespace(device=torch.device("meta"))).device
    assert device.type == ("cpu" if on_host else "meta")


def test_what_has_no_room_is_refused_before_it_is_made(monkeypatch):
    """The records of all labels take 7 bytes for each of 30."""
    settings = settings_of("bce", ["--record", "all"])
    monkeypatch.setitem(setup.CRITERIA, "bce", SimpleNamespace(criterion=kind_of(__init__=None)))
    monkeypatch.setattr(setup, "free_now", lambda runtime: FreeMemory(209))
    with pytest.raises(UserError, match=r"^bce keeps records of all of .* give --record none or fewer images"):
        setup.build_criterion(settings, array_data(), SimpleNamespace(feature_width=5), 11, RUNTIME)


@pytest.mark.parametrize(("optimizer", "copies"), [("sgd", 3), ("adam", 4), ("adamw", 4)])
def test_what_is_learned_is_planned_with_what_the_optimiser_keeps(monkeypatch, optimizer, copies):
    needs = classmethod(lambda kind, config, info: [label_memory("estimates", info.observed, 4, learned=True)])
    made = (settings_of("bce", ["--optimizer", optimizer]), array_data(), SimpleNamespace(feature_width=5), 11, RUNTIME)
    monkeypatch.setitem(setup.CRITERIA, "bce", SimpleNamespace(criterion=kind_of(memory_needs=needs)))
    monkeypatch.setattr(setup, "free_now", lambda runtime: FreeMemory(30 * 4 * copies))
    setup.build_criterion(*made)
    monkeypatch.setattr(setup, "free_now", lambda runtime: FreeMemory(30 * 4 * copies - 1))
    with pytest.raises(UserError, match="bce keeps estimates of"):
        setup.build_criterion(*made)


@pytest.mark.parametrize("words", [(), ("--ema", "0.9")])
def test_a_method_that_reads_the_averaged_network_needs_one(monkeypatch, words):
    made = (settings_of("bce", [*words, "--epochs", "7"]), array_data(), SimpleNamespace(feature_width=5), 11, RUNTIME)
    averaging = SimpleNamespace(criterion=kind_of(train_scores_of="average"))
    monkeypatch.setitem(setup.CRITERIA, "bce", averaging)
    if words:
        assert setup.build_criterion(*made).info.epochs == 7
    else:
        with pytest.raises(UserError, match=r"^bce: needs the moving average of the network; give --ema 0\.999"):
            setup.build_criterion(*made)


def test_labels_are_exported_of_methods_that_correct_them_alone(tmp_path):
    data, words = array_data(), ("--export_labels", tmp_path / "a.npy", "--epochs", "4", "--record", "all")
    settings = settings_of("bce", words)
    with pytest.raises(UserError, match="--export_labels: bce with these settings corrects no label for good"):
        setup.build_recorder(settings, data, Criterion(), RUNTIME)
    recorder = setup.build_recorder(settings, data, kind_of(corrected=data.observed)(), RUNTIME)
    assert isinstance(recorder, Recorder)
    assert (recorder.config, recorder.observed, recorder.truth) == (recorder.config, data.observed, data.train.truth)
    assert recorder.config.export_labels == tmp_path / "a.npy"
    assert setup.build_recorder(settings_of("bce", ()), data, Criterion(), RUNTIME).config.record == "none"


def test_a_head_alone_learns_on_features_of_one_network():
    network = build_model(Architecture.of(model="scenenet", weights="none"), 3, 0)
    fixed = settings_of("cls", ["--train_mode", "linear_fixed_features"])
    assert setup.fixed_network(fixed, network) is network
    assert setup.fixed_network(settings_of("cls", ["--train_mode", "linear"]), network) is None


def test_the_second_of_two_networks_gets_the_backbone_whose_features_both_heads_read():
    pair = build_peers(Architecture.of(model="scenenet", weights="none"), 3, 0)
    heads = [network.head.fc.weight.clone() for network in (pair.f, pair.g)]
    assert not torch.equal(pair.f.backbone.conv1.weight, pair.g.backbone.conv1.weight)
    setup.fixed_network(settings_of("cls", ["--train_mode", "linear"]), pair)
    assert not torch.equal(pair.f.backbone.conv1.weight, pair.g.backbone.conv1.weight)
    assert setup.fixed_network(settings_of("cls", ["--train_mode", "linear_fixed_features"]), pair) is pair.f
    assert torch.equal(pair.f.backbone.conv1.weight, pair.g.backbone.conv1.weight)
    assert all(torch.equal(one, now.head.fc.weight) for one, now in zip(heads, (pair.f, pair.g), strict=True))


@pytest.mark.parametrize("validation", [None, "test"])
def test_loaders_are_of_images_or_of_features_of_every_split(monkeypatch, tmp_path, validation):
    data, asked = array_data(), []
    data.validation = getattr(data, validation or "validation")
    network = build_model(Architecture.of(model="scenenet", weights="none"), 3, 0)
    settings = settings_of("bce", ["--num_workers", "0", "--batch_size", "5", "--train_seed", "9"])
    found = setup.build_loaders(settings, data, None, Criterion(), RUNTIME)
    assert isinstance(found, ImageLoaders)
    assert (found.data, found.seed, found.workers, found.runtime) == (data, 9, 0, RUNTIME)
    monkeypatch.setattr(setup, "FrozenFeatures", lambda *args, **named: asked.append((args, named)) or "features")
    monkeypatch.setattr(setup, "feature_arrays", lambda *args: args)
    for needs, maps, half in ((frozenset(), False, []), (frozenset({"cam"}), True, ["--half_features"])):
        settings = settings_of("bce", ["--num_workers", "0", "--batch_size", "5", "--train_seed", "9", *half])
        found = setup.build_loaders(settings, data, network, kind_of(needs=needs)(), RUNTIME)
        assert isinstance(found, FeatureLoaders)
        splits = ["train", "test", "validation"] if validation else ["train", "test"]
        views = [FeatureView(split) for split in splits]
        assert (found.data, found.features, found.scoring_batch, found.seed) == (data, ("features", views), 5, 9)
        (model, images, _), named = asked.pop()
        assert (model, images.seed, named) == (network, 9, {"maps": maps, "half": bool(half)})


@pytest.mark.parametrize("estimates", [False, True])
def test_the_training_set_is_scored_as_it_is_where_class_priors_are_estimated(monkeypatch, estimates):
    monkeypatch.setattr(setup, "FrozenFeatures", lambda *args, **named: "features")
    monkeypatch.setattr(setup, "feature_arrays", lambda *args: args)
    settings = settings_of("bce", ["--num_workers", "0", "--feature_views", "2"])
    network = build_model(Architecture.of(model="scenenet", weights="none"), 3, 0)
    found = setup.build_loaders(settings, array_data(), network, kind_of(estimates_priors=estimates)(), RUNTIME)
    assert (FeatureView("train") in found.features[1]) is estimates


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_loaders_have_workers_for_the_device_and_the_processes_of_this_machine(monkeypatch, kind):
    monkeypatch.setattr(LoaderConfig, "workers", lambda config, **named: named)
    runtime = SimpleNamespace(device=SimpleNamespace(type=kind), local_world_size=2)
    found = setup.build_loaders(settings_of("bce", ()), array_data(), None, Criterion(), runtime)
    assert found.workers == {"beside_gpu": kind == "cuda", "processes": 2}


def test_the_head_learns_faster_and_the_criterion_says_its_own_pace():
    network = SimpleNamespace(backbone_parameters=lambda: ["b"], head_parameters=lambda: ["h"])
    assert setup.parameter_groups(network, Criterion(), OptimConfig(head_lr_mult=4.0)) == [
        {"params": ["b"]},
        {"params": ["h"], "lr_mult": 4.0},
        {"params": ["c"], "lr_mult": 2.0},
    ]


def test_biases_and_norms_decay_unless_they_are_not_to():
    backbone = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    scale = torch.nn.Parameter(torch.zeros(5))  # a head without any matrix
    parameters = list(backbone.parameters())
    network = SimpleNamespace(backbone_parameters=lambda: parameters, head_parameters=lambda: [scale])
    wide, *flat = parameters
    found = setup.parameter_groups(network, Criterion(), OptimConfig(w_d_biases=False, head_lr_mult=4.0))
    assert [[id(one) for one in group.pop("params")] for group in found] == [
        [id(wide)],
        [id(one) for one in flat],
        [id(scale)],
        [id("c")],
    ]
    assert found == [{}, {"weight_decay": 0.0}, {"lr_mult": 4.0, "weight_decay": 0.0}, {"lr_mult": 2.0}]


def test_a_rate_is_laid_out_for_no_fewer_epochs_than_are_trained():
    cycle = OptimConfig(scheduler="one_cycle", warmup_epoch=0, schedule_epochs=8)
    data = SimpleNamespace(validation=None, test=None)
    setup.require_schedule(RunConfig(epochs=8), cycle, data)
    setup.require_schedule(RunConfig(epochs=9), OptimConfig(), data)
    with pytest.raises(UserError, match="--schedule_epochs 8: must not be below --epochs 9; --schedule_epochs= takes"):
        setup.require_schedule(RunConfig(epochs=9), cycle, data)


@pytest.mark.parametrize("validation", [True, None])
def test_a_plateau_of_the_loss_needs_truth_of_all_labels(validation):
    sparse, dense = (SimpleNamespace(truth=SimpleNamespace(stores_known_only=known)) for known in (True, False))
    by_loss = OptimConfig(scheduler="plateau", plateau_of="loss")
    watched, other = ("validation", "test") if validation else ("test", "validation")
    good = SimpleNamespace(**{watched: dense, other: sparse if validation else None})
    bad = SimpleNamespace(**{watched: sparse, other: dense if validation else None})
    setup.require_schedule(RunConfig(), by_loss, good)
    setup.require_schedule(RunConfig(), OptimConfig(scheduler="plateau"), bad)
    setup.require_schedule(RunConfig(), OptimConfig(plateau_of="loss"), bad)
    with pytest.raises(UserError, match="--plateau_of loss: not where most truth is unknown"):
        setup.require_schedule(RunConfig(), by_loss, bad)


def test_weights_are_averaged_where_that_is_wanted():
    network = torch.nn.Linear(1, 1, bias=False)
    assert setup.average_of(network, OptimConfig()) is None
    for start, expected in (("first_step", 3.0), ("initial", 1.5)):
        torch.nn.init.constant_(network.weight, 1.0)
        average = setup.average_of(network, OptimConfig(ema=0.75, ema_start=start))
        torch.nn.init.constant_(network.weight, 3.0)
        average.update()
        assert average.network.weight.item() == expected


def test_a_second_view_is_made_for_those_who_need_it():
    assert setup.number_of_views(Criterion()) == 1
    assert setup.number_of_views(kind_of(needs=frozenset({"cam", "second_view"}))()) == 2


def test_the_order_of_training_is_that_of_its_seed_and_of_this_process():
    data = array_data()
    settings = settings_of("bce", ["--batch_size", "4", "--seed", "1", "--train_seed", "9"])
    batches = setup.training_batches_of(settings, data, RUNTIME)
    assert (batches.rows, batches.batch_size) == (10, 4)
    other = settings_of("bce", ["--batch_size", "4", "--seed", "9"])
    rows = [
        [[sample.row for sample in batch] for batch in setup.training_batches_of(each, data, runtime)]
        for each, runtime in ((settings, RUNTIME), (other, RUNTIME), (other, SimpleNamespace(rank=0, world_size=3)))
    ]
    assert rows[0] == rows[1] != rows[2]
