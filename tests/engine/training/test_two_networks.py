"""What analyses and comparisons make of two networks, which were never trained: they look at f."""

import json

import pytest
import torch

from engine.analysis.compare import compare_command
from engine.core.checkpoint import read_model, save_model
from models.build import architecture_from, build_model
from models.peers import Peers
from tests.engine.run_folders import analyse, log_folder, model_folder, modified_arrays, settings_of, table
from utils.checks import UserError

pytestmark = pytest.mark.usefixtures("own_folder")


@pytest.fixture
def runs(tmp_path, voc_words):
    """A run of one network, and one of two of which the first is that network."""
    one = model_folder(tmp_path / "one", "bce", voc_words, modified_arrays)
    settings, arrays = settings_of("cls", voc_words), modified_arrays(one.data)
    log = [{"epoch": 1, "loss": 1.0}]
    two = log_folder(tmp_path / "two", "cls", log, voc_words, arrays, label_hash=one.data.labels.label_hash)
    g = build_model(architecture_from(settings.values), len(one.data.train.classes), seed=9)
    save_model(two / "best.pth", Peers(one.network, g), one.data.train.classes, settings.values, 1)
    return one.path, two


def damaged(folder, change):
    """The checkpoint of a run after `change` has had its weights."""
    file = folder / "best.pth"
    content = torch.load(file, weights_only=True)
    content["model"] = change(content["model"])
    torch.save(content, file)
    return file


@pytest.mark.parametrize("what", ["pointing", "modified"])
def test_an_analysis_of_two_networks_is_that_of_the_first(runs, what):
    tables = []
    for run in runs:
        assert analyse(what, run) == 0
        tables.append([{**row, "run": ""} for row in table(run / f"{what}.csv")])
    assert tables[0] == tables[1]
    assert len(tables[0]) > 1


def test_examples_of_two_networks_are_those_of_the_first(runs, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "engine.analysis.compare.plot_examples", lambda shown, labels, file: drawn.append((shown, labels))
    )
    for run in runs:
        figures = {"dataset": "voc07", "labels": "single", "rate": None, "test": {"mAP": 0.5, "CF1": 0.5, "OF1": 0.5}}
        (run / "result.json").write_text(json.dumps(json.loads((run / "result.json").read_text()) | figures))
        compare_command([str(run), "--output", str(tmp_path / "compared")])
    (one, _), (two, labels) = drawn
    assert labels == ["cls"]
    for ours, theirs in zip(two, one, strict=True):
        assert [view[:3] for view in ours.views] == [view[:3] for view in theirs.views]
        assert (ours.views[0].cam == theirs.views[0].cam).all()


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda weights: {name: value for name, value in weights.items() if name.startswith("f.")}, "no g.backbone"),
        (lambda weights: {name: value for name, value in weights.items() if name.startswith("g.")}, "no f.backbone"),
        (lambda weights: {name.removeprefix("f."): value for name, value in weights.items()}, "no f.backbone"),
        (lambda weights: {**weights, "h.head.fc.weight": torch.zeros(1)}, "unexpected h.head.fc.weight"),
        (
            lambda weights: {name: value[:1] if value.dim() > 1 else value for name, value in weights.items()},
            "shape of",
        ),
    ],
)
def test_weights_of_two_networks_that_are_not_all_there_are_told_in_one_line(runs, change, words):
    file = damaged(runs[1], change)
    with pytest.raises(UserError) as caught:
        read_model(file).build()
    assert words in str(caught.value)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)
