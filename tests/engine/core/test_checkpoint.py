"""Model files of ours: what is refused, in one line that names the file."""

import pytest
import torch

from engine.core.checkpoint import read_model, save_model
from models.build import Architecture, build_model
from models.peers import build_peers
from utils.checks import UserError

SMALL = {"model": "scenenet", "weights": "none"}
CLASSES = ("a", "b", "c")


def saved(path, build=build_model):
    network = build(Architecture.of(**SMALL), len(CLASSES), seed=1)
    save_model(path, network, CLASSES, SMALL, 4)
    return network


@pytest.mark.parametrize("build", [build_model, build_peers])
def test_a_network_reads_back(tmp_path, build):
    network = saved(tmp_path / "best.pth", build)
    reread = read_model(tmp_path / "best.pth")
    assert (reread.classes, reread.epoch, reread.peers) == (CLASSES, 4, build is build_peers)
    again = reread.build().state_dict()
    assert all(torch.equal(value, again[name]) for name, value in network.state_dict().items())


def test_a_file_that_does_not_say_how_many_networks_it_holds_is_of_one(tmp_path):
    saved(tmp_path / "best.pth")
    content = torch.load(tmp_path / "best.pth", weights_only=True)
    del content["peers"]
    torch.save(content, tmp_path / "old.pth")
    assert not read_model(tmp_path / "old.pth").peers


@pytest.mark.parametrize("name", ["model", "classes", "settings", "epoch"])
@pytest.mark.parametrize("value", [None, "text"])
def test_a_damaged_file_is_refused_in_one_line(tmp_path, name, value):
    saved(tmp_path / "best.pth")
    content = torch.load(tmp_path / "best.pth", weights_only=True)
    content[name] = value
    if value is None:
        del content[name]
    torch.save(content, tmp_path / "bad.pth")
    with pytest.raises(UserError, match=f"bad.pth: a damaged model file: `{name}`") as caught:
        read_model(tmp_path / "bad.pth")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["g.head", "f.head"])
def test_two_networks_of_which_one_lacks_weights_are_refused(tmp_path, name):
    saved(tmp_path / "best.pth", build_peers)
    content = torch.load(tmp_path / "best.pth", weights_only=True)
    content["model"] = {key: value for key, value in content["model"].items() if not key.startswith(name)}
    torch.save(content, tmp_path / "bad.pth")
    with pytest.raises(UserError, match=f"no {name}"):
        read_model(tmp_path / "bad.pth").build()
