"""How a released file gets its settings, and how a model is written as safetensors: everything else made up."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
from torch import nn

from engine.core import checkpoint
from engine.core.checkpoint import FORMAT, read_model, save_safetensors
from engine.core.manifest import Preparation
from models.released.contents import HeadOverrides
from utils.checks import UserError

FILE = Path("x.pth")
PLAIN = {"family": "csra", "num_classes": 3, "weights": {"w": torch.ones(1)}, "dropped": (), "notes": ("a note",)}


@pytest.fixture
def reading(monkeypatch):
    """A function that reads a file of these published results; `asked` notes the overrides of its network."""

    def read(*found, paper=None, given=None, img_size=None, dataset="voc07", named=None):
        asked = []
        released = SimpleNamespace(**PLAIN, settings={"head": "csra"}, names=(), img_size=img_size, epoch=2)
        monkeypatch.setattr(checkpoint, "released_of", lambda family, contents, over: asked.append(over) or released)
        family = SimpleNamespace(view=lambda dataset: Preparation(448, f"family of {dataset}"))
        manifest = SimpleNamespace(
            families={"csra": family}, matching=lambda *args: list(found), named=lambda name: named
        )
        monkeypatch.setattr(checkpoint, "load_manifest", lambda: manifest)
        contents = SimpleNamespace(path=FILE)
        return checkpoint._released("csra", contents, given or HeadOverrides(), paper, dataset), asked[0]

    return read


def entry(name="x-voc07", family="csra", **network):
    return SimpleNamespace(
        name=name, family=family, dataset="coco", overrides=HeadOverrides(**network), view=Preparation(576, "unit")
    )


def test_without_a_published_result_images_are_prepared_as_for_its_family(reading):
    saved, asked = reading()
    assert saved.settings == {"head": "csra", "img_size": 448, "resize": "antialias", "normalize": "family of voc07"}
    assert (saved.published, saved.notes, saved.epoch, saved.num_classes) == (None, ("a note",), 2, 3)
    assert (saved.peers, saved.path, asked) == (False, FILE, HeadOverrides())


def test_a_size_that_the_weights_show_comes_before_that_of_the_family(reading):
    saved, _ = reading(img_size=384)
    assert saved.settings == {"head": "csra", "img_size": 384, "resize": "antialias", "normalize": "family of voc07"}


def test_a_published_result_brings_its_dataset_its_images_and_its_network(reading):
    published = entry(lam=0.3, num_heads=2)
    saved, asked = reading(published, img_size=384, given=HeadOverrides(lam=0.0))
    assert saved.settings == {
        "head": "csra",
        "img_size": 576,
        "resize": "antialias",
        "normalize": "unit",
        "dataset": "coco",
    }
    assert saved.published is published
    assert asked == HeadOverrides(lam=0.0, num_heads=2)


def test_of_several_published_results_none_is_taken_and_eight_are_named(reading):
    saved, _ = reading(*(entry(f"x{number}") for number in range(10)))
    named = ", ".join(f"x{number}" for number in range(8))
    note = f"several published results have a file of this name: {named}; choose with --paper"
    assert (saved.published, saved.notes) == (None, ("a note", note))


def test_a_result_that_is_named_must_be_of_the_family(reading):
    chosen = entry("mine")
    saved, _ = reading(entry(), entry(), paper="mine", named=chosen)
    assert saved.published is chosen
    with pytest.raises(UserError, match=r"--paper mine: is of asl, but x\.pth is a file of csra"):
        reading(paper="mine", named=entry("mine", family="asl"))


def written(path, **metadata):
    entries = {"classes": ["a", "b"], "settings": {"head": "linear"}, "epoch": 4, "peers": False, "num_classes": 2}
    held = {name: json.dumps(value) for name, value in entries.items()} | {"format": FORMAT} | metadata
    path.write_bytes(safetensors.torch.save({"w": torch.ones(2)}, held))
    return path


def test_a_model_is_written_as_safetensors_that_read_back(tmp_path):
    network = nn.Linear(2, 3)
    saved = SimpleNamespace(settings={"head": "linear", "lr": 1}, epoch=5, peers=True, num_classes=3, decisions=None)
    saved.build = lambda: network
    save_safetensors(tmp_path / "m.safetensors", saved, ("a", "b", "c"), {"lr": 2, "dataset": "coco"})
    found = read_model(tmp_path / "m.safetensors")
    assert found.settings == {"head": "linear", "lr": 2, "dataset": "coco"}
    assert (found.classes, found.epoch, found.peers, found.num_classes) == (("a", "b", "c"), 5, True, 3)
    assert {name: value.tolist() for name, value in found.weights.items()} == {
        name: value.tolist() for name, value in network.state_dict().items()
    }
    assert found.released is None


@pytest.mark.parametrize("name", ["classes", "settings", "epoch"])
def test_metadata_that_are_damaged_are_told(tmp_path, name):
    assert read_model(written(tmp_path / "m.safetensors")).classes == ("a", "b")
    with pytest.raises(UserError, match="a damaged model file: its metadata cannot be read"):
        read_model(written(tmp_path / "n.safetensors", **{name: "{"}))
    with pytest.raises(UserError, match=f"a damaged model file: `{name}` is missing or of another kind"):
        read_model(written(tmp_path / "n.safetensors", **{name: "null"}))


def test_safetensors_of_others_are_not_taken_for_ours(tmp_path):
    with pytest.raises(UserError, match="a checkpoint of no kind that is read here"):
        read_model(written(tmp_path / "m.safetensors", format="pt"))


@pytest.mark.parametrize(
    ("count", "fits"), [("2", True), ("1", False), ("3", False), ("0", False), ("true", False), ("2.0", False)]
)
def test_the_number_of_classes_is_that_of_their_names(tmp_path, count, fits):
    file = written(tmp_path / "m.safetensors", num_classes=count)
    if fits:
        assert read_model(file).num_classes == 2
    else:
        with pytest.raises(UserError, match=r"it says it has [\w.]+ classes"):
            read_model(file)


@pytest.mark.parametrize(("count", "fits"), [(1, True), (999_999, True), (1_000_000, False), (0, False), (-1, False)])
def test_without_names_there_may_be_any_number_of_classes_below_a_million(tmp_path, count, fits):
    file = written(tmp_path / "m.safetensors", classes="[]", num_classes=str(count))
    if fits:
        assert (read_model(file).num_classes, read_model(file).classes) == (count, ())
    else:
        with pytest.raises(UserError, match=f"it says it has {count} classes"):
            read_model(file)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model": "scenenet", "frozen_stages": -5}, "x.pth: --frozen_stages -5: give -1"),
        ({"model": "no_such_network"}, "x.pth: "),
        ({"head": 5}, "x.pth: a damaged model file: "),
    ],
)
def test_settings_in_a_file_that_make_no_network_are_told_with_its_name(settings, words):
    with pytest.raises(UserError) as error:
        checkpoint._architecture(settings, FILE)
    assert str(error.value).startswith(words)
