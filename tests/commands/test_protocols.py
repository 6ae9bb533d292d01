"""How a paper trains everything: its script's defaults, as a settings file for methods of other scripts."""

import contextlib
import importlib
import io

import pytest
import yaml

from tests.commands.scene import ROOT

OF_THE_DATA = {"dataset", "labels", "drop_rate"}
SCRIPTS = {"cls": "main_cls", "large_loss": "main_llm"}
FOLDER = ROOT / "configs" / "protocols"


def printed(script, *words):
    """The settings a command line resolves to."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), pytest.raises(SystemExit):
        importlib.import_module(script).main([*map(str, words), "--print_config"])
    return yaml.safe_load(said.getvalue())


def test_every_protocol_is_that_of_a_script():
    assert {path.stem for path in FOLDER.glob("*.yaml")} == SCRIPTS.keys()


@pytest.mark.parametrize(
    "name, dataset",
    [("cls", dataset) for dataset in ("voc07", "coco", "nuswide")]
    + [("large_loss", dataset) for dataset in ("pascal", "coco", "nuswide", "cub")],
)
@pytest.mark.parametrize("loss", [("an",), ("role", "--expected_num_pos", 2), ("asl",)], ids=lambda words: words[0])
def test_a_rival_trains_as_the_method_does(name, dataset, loss):
    defaults = importlib.import_module(SCRIPTS[name]).DEFAULTS.keys() - OF_THE_DATA
    labels = ("--dataset", dataset, "--labels", "single")
    rival = printed("main_BCE", FOLDER / f"{name}.yaml", "--loss", *loss, *labels)
    method = printed(SCRIPTS[name], *labels)
    assert {key: rival[key] for key in defaults} == {key: method[key] for key in defaults}
    if name == "large_loss":
        assert all(rival[key] == method[key] for key in ("val_frac", "split_seed", "label_seed"))


def test_openimages_keeps_its_own_network_and_size():
    held = printed("main_BCE", FOLDER / "large_loss.yaml", "--loss", "an", "--dataset", "openimages")
    method = printed("main_llm", "--dataset", "openimages")
    for key in ("model", "img_size", "batch_size", "val_frac", "labels", "lr"):
        assert held[key] == method[key]
