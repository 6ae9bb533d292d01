"""What the page of a run is made of."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from engine.report.content import SettingLine, Suspicious
from engine.training import run_report as room
from engine.training.run_report import EndedRun, changes, draw_pictures, run_report, suspicious
from utils.bootstrap import bootstrap
from utils.metrics import evaluate_scores
from utils.thresholds import Rule, choose_threshold
from utils.types import LabelTable

CODES = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, -1]], dtype=np.int8)
SEEN = np.array([[1, -1, 0], [-1, 1, 0], [1, 1, -1], [0, 0, -1]], dtype=np.int8)
SCORES = np.array([[2, -1, -2], [-1, 1, -2], [1, -1, -2], [1, -2, -3]], dtype=np.float32)
CLASSES = ("cat", "dog", "owl")
"""Of a run that is made up."""


def split(codes):
    return SimpleNamespace(classes=CLASSES, truth=LabelTable(codes), ids=("a", "b", "c", "d"), groups=None)


def data(validation=None):
    return SimpleNamespace(train=split(CODES), test=split(CODES), validation=validation, observed=LabelTable(SEEN))


def recorder(loss=None, epoch=None):
    if loss is None:
        return SimpleNamespace(highest=None)
    losses = torch.tensor(loss)
    epochs = torch.full(losses.shape, 1) if epoch is None else torch.tensor(epoch)
    return SimpleNamespace(highest=SimpleNamespace(loss=losses, epoch=epochs))


def ended(**changed):
    metrics = evaluate_scores(SCORES, CODES)
    row = {"positives": 1, "known": 4, "AP": 0.5, "AUROC": 0.25, "precision": None, "recall": 0.5, "F1": 0.5}
    result = {
        "per_class": [{"class": "cat", **row}, {"class": "dog", **row, "AP": 0.75, "AUROC": 0.5}],
        "test": {"mAP": 0.5, "CF1": 0.25, "OF1": 0.125, "CP": 1.0},
        "calibration": {"ECE": 0.0625},
        "selected_epoch": 3,
        "epochs_trained": 4,
        "selection": "validation",
        "last": {"mAP": 0.375},
        "best_on_test": {"mAP": 0.625},
        "versions": {"python": "3.11", "torch": "2.4"},
        "extra": {"classes_without_positives": ["owl", "emu"], "classes_without_negatives": []},
    }
    info = {
        **{"method": "bce", "dataset": "voc07", "network": "resnet50, head linear", "device": "cpu"},
        **{"precision": "fp32", "labels": "single labels", "label_seed": 3},
        "images": {"train": 2000, "validation": 0, "test": 4},
    }
    settings = SimpleNamespace(
        method="bce",
        method_config=object(),
        values={"lr": 0.1, "seed": 0, "config": None},
        origins={"lr": "command line", "seed": "default", "config": "voc07.yaml"},
    )
    results = SimpleNamespace(chosen=SimpleNamespace(scores=SCORES, metrics=metrics), validation=None)
    whole = EndedRun(settings, data(), info, result, results, [{"epoch": 1.0, "loss": 2.0}], recorder())
    return whole._replace(**changed)


def test_every_part_is_from_where_it_says(tmp_path):
    report = run_report(ended(), tmp_path / "my run")
    assert (report.title, report.subtitle) == ("bce on voc07", "my run: resnet50, head linear")
    assert report.figures == [
        ("mAP", "50.00"),
        ("CF1", "25.00"),
        ("OF1", "12.50"),
        ("mean AUROC", "37.50"),
        ("ECE", "6.25"),
    ]
    assert report.facts == [
        ("images", "2,000 train, 4 test"),
        ("labels", "single labels, seed 3"),
        (
            "epoch",
            "3 of 4, by validation; test mAP 37.50 after the last epoch, 62.50 in the best epoch on the test set",
        ),
        ("network", "resnet50, head linear"),
        ("computed on", "cpu, fp32, python 3.11, torch 2.4"),
    ]
    sure = bootstrap(SCORES, CODES, None, draws=1000)
    ends = " to ".join(f"{100 * end:.2f}" for end in sure.mAP)
    drawn = "It and those of classes are of 1,000 bootstrap draws of 4 images of the test set."
    assert report.notes == [
        "No test image has owl, emu: left out of mAP.",
        f"95 % interval of the mAP: {ends}. {drawn}",
    ]
    cat, dog, _ = sure.texts()
    assert {row["class"]: row["interval"] for row in report.classes} == {"dog": dog, "cat": cat}
    assert [row["class"] for row in report.classes] == ["dog", "cat"]
    assert len(report.confidence) == 10
    assert report.given == [SettingLine("lr", "0.1", "command line"), SettingLine("config", "None", "voc07.yaml")]
    assert report.defaults == [SettingLine("seed", "0", "default")]
    assert (report.pictures, report.suspicious, report.epochs.rows) == ([], [], [])
    file = f"'{tmp_path / 'my run' / 'best.pth'}'"
    assert [step.command.split()[1] for step in report.steps] == ["evaluate.py", "predict.py", "predict.py"]
    assert all(file in step.command for step in report.steps)


def test_what_a_run_has_beyond_that_is_on_it_too(tmp_path):
    scheme = SimpleNamespace(**{**vars(ended().settings), "method_config": SimpleNamespace(mod_scheme="LL-R")})
    assert run_report(ended(settings=scheme), tmp_path).title == "LL-R on voc07"
    with_validation = run_report(ended(data=data(validation=split(CODES))), tmp_path)
    assert [step.command.split()[4] for step in with_validation.steps[:2]] == ["--per_class", "--choose_thresholds"]
    result = {**ended().result, "calibration": {}, "per_class": []}
    result["extra"] = {"classes_without_positives": [], "classes_without_negatives": ["cat"]}
    bare = run_report(ended(result=result), tmp_path)
    assert [name for name, _ in bare.figures] == ["mAP", "CF1", "OF1"]
    assert bare.notes[0] == "No test image is known to be without cat: not scored."
    sparse = SimpleNamespace(chosen=SimpleNamespace(scores=None), validation=None)
    without = run_report(ended(results=sparse), tmp_path)
    assert without.confidence == []
    assert {row["interval"] for row in without.classes} == {""}
    assert len(without.notes) == 1
    grouped = data()
    grouped.test.groups = np.array([0, 0, 1, 1])
    assert "draws of 2 groups of the test set" in run_report(ended(data=grouped), tmp_path).notes[-1]


def test_thresholds_are_those_of_the_validation_split(tmp_path):
    held_out = split(CODES)
    validation = SimpleNamespace(scores=SCORES)
    chosen = ended().results.chosen
    both = SimpleNamespace(chosen=chosen, validation=validation)
    report = run_report(ended(data=data(validation=held_out), results=both), tmp_path)
    common = choose_threshold(SCORES.ravel(), CODES.ravel(), Rule("f1")).value
    expected = f"{1 / (1 + np.exp(-common)):.3f}"  # of four images each class has too few
    assert {row["class"]: row["threshold"] for row in report.classes} == {"dog": expected, "cat": expected}
    for split_, result in (
        (None, validation),
        (held_out, None),
        (held_out, SimpleNamespace(scores=None)),
        (split(np.minimum(CODES, 0)), validation),
    ):
        other = SimpleNamespace(chosen=chosen, validation=result)
        rows = run_report(ended(data=data(validation=split_), results=other), tmp_path).classes
        assert {row["threshold"] for row in rows} == {""}


def test_pictures_stand_in_their_order_where_they_were_drawn(tmp_path):
    for name in ("examples.png", "cooccurrence.png", "curves.png"):
        (tmp_path / name).write_bytes(name.encode())
    titles = [one.title.split(",")[0] for one in run_report(ended(), tmp_path).pictures]
    assert titles == ["Curves", "Labels that go together", "Test images"]


def test_changes_of_labels_are_told_by_epoch(monkeypatch):
    history = [{"epoch": 1.0, "loss": 1.0}, {"epoch": 2.0, "found": 0.5}, {"epoch": 3.0, "modified_true": 0.25}]
    assert changes(history) == (["epoch", "modified_true", "found"], [["2", "-", "50.00"], ["3", "25.00", "-"]])
    assert changes(history[:1]) == (["epoch"], [])
    monkeypatch.setattr(room, "_EPOCHS", 3)
    many = [{"epoch": float(k), "found": 0.0} for k in range(1, 8)]
    assert [row[0] for row in changes(many).rows] == ["1", "4", "7"]
    assert [row[0] for row in changes(many[:3]).rows] == ["1", "2", "3"]


def test_labels_with_the_highest_loss_are_suspicious(monkeypatch):
    never = -float("inf")
    losses = [[1.0, 9.0, 0.5], [8.0, 0.1, 0.2], [0.3, 0.4, 7.0], [6.0, never, never]]
    found = suspicious(data(), recorder(losses))
    assert found[:4] == [
        Suspicious("a", "dog", "unknown", 9.0, "absent"),
        Suspicious("b", "cat", "unknown", 8.0, "absent"),
        Suspicious("c", "owl", "unknown", 7.0, "absent"),
        Suspicious("d", "cat", "absent", 6.0, ""),
    ]
    assert found[4] == Suspicious("a", "cat", "present", 1.0, "")
    assert len(found) == 10
    monkeypatch.setattr(room, "_SUSPICIOUS", 2)
    assert [one.image for one in suspicious(data(), recorder(losses))] == ["a", "b"]
    assert suspicious(data(), recorder()) == []


def test_labels_whose_loss_was_highest_in_the_first_epoch_are_not_suspicious():
    losses = [[9.0, 8.0, 0.5], [7.0, 0.1, 0.2], [0.3, 0.4, 6.0], [5.0, 4.0, 3.0]]
    epochs = [[1, 1, 1], [2, 1, 1], [1, 1, 3], [1, 1, 1]]
    assert [one.loss for one in suspicious(data(), recorder(losses, epochs))] == [7.0, 6.0]


@pytest.mark.parametrize("with_images", [True, False])
def test_a_run_is_drawn(monkeypatch, capsys, with_images):
    drawn = []
    for name in ("plot_curves", "draw_tail", "draw_examples", "plot_heat_map"):
        monkeypatch.setattr(room, name, lambda *args, name=name, **named: drawn.append((name, args)))
    run = ended()
    run.settings.of = lambda kind: SimpleNamespace(eval_view=lambda: "view")
    draw_pictures(run, "network", Path("run"), with_images=with_images)
    (curves, tail, heat), rest = drawn[:3], drawn[3:]
    assert curves == ("plot_curves", ({"bce": [{"epoch": 1.0, "loss": 2.0}]}, Path("run/curves.png")))
    assert tail == ("draw_tail", (run.data, run.results.chosen.metrics, Path("run/tail.png")))
    name, (names, shares, path) = heat
    assert (name, names, path) == ("plot_heat_map", ["cat", "dog"], Path("run/cooccurrence.png"))
    np.testing.assert_allclose(shares, [[1, 0.5], [0.5, 1]])
    expected = [("draw_examples", ("bce", "network", run.data.test, "view", Path("run/examples.png")))]
    assert rest == (expected if with_images else [])
    said = "" if with_images else "examples.png is not drawn: beside --features there are no images\n"
    assert capsys.readouterr().out == said


def test_labels_that_never_go_together_are_not_drawn(monkeypatch):
    drawn = []
    for name in ("plot_curves", "draw_tail", "draw_examples", "plot_heat_map"):
        monkeypatch.setattr(room, name, lambda *args, name=name, **named: drawn.append(name))
    single = SimpleNamespace(**{**vars(data()), "observed": LabelTable(np.eye(3, dtype=np.int8))})
    draw_pictures(ended(data=single), "network", Path("run"), with_images=False)
    assert drawn == ["plot_curves", "draw_tail"]
