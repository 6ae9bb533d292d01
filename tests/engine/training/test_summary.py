"""The result of a run: where each figure comes from."""

from types import SimpleNamespace

import numpy as np
import pytest

from data.loading.loader import LoaderConfig
from engine.training import summary
from engine.training.loop import TrainState
from engine.training.summary import FinalResults, other_figures, result, sampler_text
from models.build import ModelConfig
from utils.metrics import evaluate_scores

TRUTH = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0]], dtype=np.int8)


def measured(seed):
    """Figures of random scores; the last class has no positive."""
    metrics = evaluate_scores(np.random.default_rng(seed).normal(size=(3, 3)).astype(np.float32), TRUTH)
    return SimpleNamespace(metrics=metrics, beside={}, scores=None)


def content(validation=None, groups=None, **state):
    """The result of a run that is made up."""
    configs = {"RunConfig": SimpleNamespace(seed=3, training_seed=4, epochs=9, train_mode="end_to_end")}
    configs["DatasetConfig"] = SimpleNamespace(dataset="voc07")
    settings = SimpleNamespace(method="bce", method_config=object(), of=lambda kind: configs[kind.__name__])
    regime = SimpleNamespace(name="candidate", rate=0.1)
    test = SimpleNamespace(classes=("a", "b", "c"), truth=None)
    data = SimpleNamespace(regime=regime, test=test, labels=SimpleNamespace(label_hash="abc"), groups=groups or {})
    data.hashes = lambda: {"test": "def"}
    results = FinalResults(measured(1), measured(2), validation, {"ECE": 0.25})
    return result(settings, data, "validation_mAP", TrainState(**state), results), results


def test_every_figure_is_from_where_it_says():
    found, results = content(measured(5), epoch=8, best_epoch=6, images=3000, seconds=12.0)
    assert found["test"] == results.chosen.metrics.as_dict()
    assert found["last"] == results.last.metrics.as_dict()
    assert found["validation"] == results.validation.metrics.as_dict()
    assert found["calibration"] == {"ECE": 0.25}
    assert [row["class"] for row in found["per_class"]] == ["a", "b", "c"]
    assert [row["positives"] for row in found["per_class"]] == [2, 2, 0]
    assert found["per_class"][0]["AP"] == results.chosen.metrics.per_class[0]
    plain = {"method": "bce", "variant": None, "dataset": "voc07", "labels": "candidate", "rate": 0.1, "seed": 3}
    plain |= {"train_seed": 4, "epochs": 9, "epochs_trained": 7, "train_mode": "end_to_end"}
    plain |= {"selection": "validation_mAP", "selected_epoch": 6, "images_per_second": 250.0, "label_hash": "abc"}
    plain |= {"data": {"test": "def"}}
    assert {name: found[name] for name in plain} == plain
    assert found["extra"] == {"classes_without_positives": ["c"], "classes_without_negatives": []}
    assert found["versions"].keys() == {"python", "torch", "torchvision", "numpy"}


def test_the_best_epoch_on_the_test_set_is_marked_as_chosen_there():
    figures = content()[1].last.metrics.as_dict()
    rows = [{"epoch": n, **{f"test_{name}": 1 + n / 100 for name in figures}} for n in (1, 2)]
    found, _ = content(epoch=5, best_epoch=3, history=[*rows, {"epoch": 3, "loss": 1.0}])
    best = found["best_on_test"]
    assert (best.pop("chosen_on"), best.pop("epoch"), best.pop("epochs_scored")) == ("the test set", 2, 4)
    assert best == dict.fromkeys(figures, 1.02)
    ends, results = content(epoch=5, best_epoch=3)  # of nothing in the log, the selected and the last epoch
    means = {3: results.chosen.metrics.mAP, 4: results.last.metrics.mAP}
    assert ends["best_on_test"]["epoch"] == max(means, key=means.get)


def test_of_equal_epochs_on_the_test_set_the_first_is_named():
    results = FinalResults(measured(1), measured(1), None, {})
    assert summary.best_on_test(TrainState(epoch=5, best_epoch=3), results)["epoch"] == 3


def test_without_a_validation_split_and_without_a_step_there_is_a_result():
    found, _ = content()
    assert (found["validation"], found["images_per_second"], found["epochs_trained"]) == (None, 0.0, 0)


def test_groups_of_classes_have_their_figures_for_both_epochs():
    groups = {"head": np.array([0]), "tail": np.array([1])}
    found, results = content(groups=groups)
    for extra, measured_then in ((found["extra"], results.chosen), (found["extra"]["last"], results.last)):
        precision = measured_then.metrics.per_class
        assert [extra["head"], extra["tail"]] == pytest.approx(precision[:2].tolist())
        assert {"head", "tail"} <= extra["groups"].keys()
    assert "last" not in found["extra"]["last"]


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({}, "shuffled"),
        ({"sampler": "class-aware"}, "class-aware by the observed labels"),
        ({"sampler": "semi", "labelled_per_batch": 3, "batch_size": 7}, "semi, 3 labelled images in each batch of 7"),
        (
            {"sampler": "class-aware", "sampler_labels": "clean"},
            "class-aware by the CLEAN labels, which partial labels do not show",
        ),
    ],
)
def test_the_sampler_in_words(settings, text):
    assert sampler_text(LoaderConfig(**settings)) == text


def test_a_run_tells_what_it_works_on():
    data = SimpleNamespace(train=[0] * 5, validation=None, test=[0] * 2)
    data.labels = SimpleNamespace(path=None, made=True, label_hash="abc")
    data.hashes = lambda: {"test": "def"}
    data.regime = SimpleNamespace(seed=7, describe=lambda: "single labels")
    configs = {"RunConfig": SimpleNamespace(train_mode="linear", precision="bf16"), "LoaderConfig": LoaderConfig()}
    configs["FeatureConfig"] = SimpleNamespace(features=None)
    configs["DatasetConfig"] = SimpleNamespace(dataset="digits")
    configs["ModelConfig"] = ModelConfig(model="resnet50", head="csra")
    settings = SimpleNamespace(method="an", of=lambda kind: configs[kind.__name__])
    runtime = SimpleNamespace(device="cpu", world_size=2)
    found = summary.run_info(settings, data, runtime, TrainState(epoch=3, step=4))
    assert found == {
        **{"method": "an", "dataset": "digits", "images": {"train": 5, "validation": 0, "test": 2}},
        **{"labels": "single labels", "label_file": None, "label_file_made_now": True, "label_seed": 7},
        **{"label_hash": "abc", "train_mode": "linear", "sampler": "shuffled", "device": "cpu", "processes": 2},
        "network": "resnet50, head csra, weights torchvision ResNet50_Weights.IMAGENET1K_V1, 448 x 448 pixels (unit)",
        **{"precision": "bf16", "epoch": 3, "step": 4, "data": {"test": "def"}},
    }
    data.validation = [0] * 3
    configs["FeatureConfig"], configs["ModelConfig"] = (
        SimpleNamespace(features="f.npz"),
        ModelConfig(model="given/7x3x2"),
    )
    found = summary.run_info(settings, data, runtime, TrainState())
    assert found["network"] == "head linear on f.npz, 7 x 3 x 2 for each image"
    assert found["images"] == {"train": 5, "validation": 3, "test": 2}


def test_figures_by_other_definitions_are_told_under_their_names(monkeypatch):
    for name in ("published_metrics", "full_row_metrics"):
        monkeypatch.setattr(
            f"engine.training.summary.{name}", lambda measured, truth, name=name: (name, measured, truth)
        )
    results = FinalResults("chosen", "last", None, {})
    assert other_figures(results, "truth", "ours") == {}
    named = {"published": ("published_metrics",) * 2, "full_rows": ("full_rows", "full_row_metrics")}
    for by, (key, name) in named.items():
        expected = {part: (name, result, "truth") for part, result in (("test", "chosen"), ("last", "last"))}
        assert other_figures(results, "truth", by) == {key: expected}
