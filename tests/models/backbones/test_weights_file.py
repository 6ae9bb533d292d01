"""Files that `--weights` takes: wrapped, with prefixes, of whole networks, of runs, averaged; and what it refuses."""

from pathlib import Path

import pytest
import safetensors.torch
import torch
import torchvision
from torch import nn

from engine.core.checkpoint import save_model
from models.backbones.build import BACKBONES, load_weights
from models.backbones.weights_file import backbone_state
from models.build import Architecture, build_model
from models.peers import build_peers
from utils.checks import UserError


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(3)
    return torchvision.models.resnet18(num_classes=7)


@pytest.fixture(scope="module")
def held(network):
    return network.state_dict()


def prefixed(state, prefix):
    return {f"{prefix}{name}": value for name, value in state.items()}


def without_layer(state):
    return {name: value for name, value in state.items() if not name.startswith("fc.")}


def numbered(network):
    return nn.Sequential(*list(network.children())[:-2]).state_dict()


HEAD = {"head.fc.weight": torch.ones(3, 512), "projector.0.weight": torch.ones(2)}
WRAPPED = {
    "model": lambda held: {"model": held, "optimizer": {}, "epoch": 3},
    "state_dict of DataParallel": lambda held: {"state_dict": prefixed(held, "module."), "arch": "resnet18"},
    "net": lambda held: {"net": held, "acc": 71.3},
    "network": lambda held: {"network": held},
    "model_state_dict": lambda held: {"model_state_dict": held, "optimizer_state_dict": {"state": {}}},
    "weights": lambda held: {"weights": held},
    "backbone": lambda held: {"backbone": without_layer(held), "head": {"weight": torch.ones(2)}},
    "encoder": lambda held: {"encoder": without_layer(held), "decoder": prefixed(held, "deconv.")},
    "nested": lambda held: {"model": {"state_dict": held}},
    "pair with options": lambda held: (held, {"lr": 0.1}),
    "Lightning": lambda held: {"state_dict": prefixed(held, "model."), "pytorch-lightning_version": "2.0"},
    "Lightning with more": lambda held: {"state_dict": {**prefixed(held, "net."), **HEAD}},
    "mmcv": lambda held: {"state_dict": {**prefixed(without_layer(held), "backbone."), **HEAD}, "meta": {}},
    "bare backbone.": lambda held: {**prefixed(without_layer(held), "backbone."), **HEAD},
    "bare encoder.": lambda held: {**prefixed(held, "encoder."), **HEAD},
    "module.encoder.": lambda held: prefixed(held, "module.encoder."),
    "MoCo": lambda held: {
        "state_dict": {
            **prefixed(held, "module.encoder_q."),
            **{name: 2 * value for name, value in prefixed(held, "module.encoder_k.").items()},
        }
    },
    "compiled": lambda held: {"model": prefixed(held, "_orig_mod.")},
    "compiled in DataParallel": lambda held: prefixed(held, "module._orig_mod."),
    "counters": lambda held: {
        "state_dict": {**held, "total_ops": torch.zeros(1), "layer1.total_params": torch.zeros(1)}
    },
    "list of one": lambda held: [held],
}


def loaded(file, **how):
    backbone = BACKBONES["resnet18"]()
    load_weights(backbone, "resnet18", str(file), **how)
    return backbone.state_dict()


def same(found, held):
    return all(torch.equal(value.float(), held[name].float()) for name, value in found.items())


@pytest.mark.parametrize("kind", WRAPPED)
def test_wrapped_weights_are_unpacked(tmp_path, held, kind):
    torch.save(WRAPPED[kind](held), tmp_path / "w.pth")
    assert same(loaded(tmp_path / "w.pth"), held)


@pytest.mark.parametrize("form", ["bare", "DataParallel", "in a network", "wrapped"])
def test_a_resnet_that_is_a_sequential_is_read_by_its_numbers(tmp_path, network, held, form):
    state = numbered(network)
    content = {
        "bare": state,
        "DataParallel": prefixed(state, "module."),
        "in a network": {**prefixed(state, "feature_extractor."), "linear_classifier.weight": torch.ones(2)},
        "wrapped": {"state_dict": prefixed(state, "module.encoder.")},
    }[form]
    torch.save(content, tmp_path / "w.pth")
    assert same(loaded(tmp_path / "w.pth"), held)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_file_of_tensors_with_a_prefix(tmp_path, held, suffix):
    state = prefixed(without_layer(held), "backbone.") | HEAD
    (torch.save if suffix == "pth" else safetensors.torch.save_file)(state, tmp_path / f"w.{suffix}")
    assert same(loaded(tmp_path / f"w.{suffix}"), held)


@pytest.mark.parametrize("peers", [False, True])
def test_the_checkpoint_of_a_run_gives_its_backbone_of_two_the_first(tmp_path, capsys, peers):
    architecture = Architecture.of(model="resnet18", head="linear", weights="none")
    model = (build_peers if peers else build_model)(architecture, 3, seed=1, pretrained=False)
    save_model(tmp_path / "best.pth", model, ("a", "b", "c"), {"model": "resnet18"}, 2)
    assert same(loaded(tmp_path / "best.pth"), (model.f if peers else model).backbone.state_dict())
    said = capsys.readouterr().out
    assert ("f.backbone.*" if peers else "from backbone.*") in said
    assert ("nor are those of g.backbone." in said) == peers


@pytest.mark.parametrize("wanted", [None, "ema", "raw"])
@pytest.mark.parametrize("form", ["beside", "in one state", "averaged model", "list"])
def test_averages_are_taken_and_said_unless_the_raw_weights_are_asked_for(tmp_path, capsys, held, form, wanted):
    average = {name: 2 * value for name, value in held.items()}
    content = {
        "beside": {"state_dict": held, "state_dict_ema": average},
        "in one state": {**prefixed(held, "model."), **prefixed(average, "ema_model.")},
        "averaged model": {"model": held, "swa": {"n_averaged": torch.tensor(3), **prefixed(average, "module.")}},
        "list": [held, average],
    }[form]
    torch.save(content, tmp_path / "w.pth")
    assert same(loaded(tmp_path / "w.pth", checkpoint_weights=wanted), held if wanted == "raw" else average)
    assert ("raw weights (" if wanted == "raw" else "averaged weights (ema, ") in capsys.readouterr().out


def refused(file, **how):
    backbone = BACKBONES["resnet18"]()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    with pytest.raises(UserError) as error:
        load_weights(backbone, "resnet18", str(file), **how)
    assert same(backbone.state_dict(), before)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"model": {"a": torch.ones(1)}}, "does not fit resnet18"),
        ({"state_dict": {"lr": 1}}, "not a state_dict"),
        ({"optimizer": {"a": torch.ones(1)}}, "not a state_dict"),
        ([[], ()], "not a state_dict"),
        ({"backbone": {}}, "not a state_dict"),
    ],
)
def test_files_without_this_backbone_are_refused(tmp_path, content, words):
    torch.save(content, tmp_path / "w.pth")
    assert words in refused(tmp_path / "w.pth")


def test_weights_that_are_damaged_are_refused(tmp_path, held):
    torch.save({"model": {**held, "conv1.weight": torch.full((64, 3, 7, 7), float("nan"))}}, tmp_path / "w.pth")
    assert "conv1.weight holds numbers that are not finite" in refused(tmp_path / "w.pth")
    torch.save({"net": {**held, "conv1.weight": torch.ones(1).expand(64, 3, 7, 7)}}, tmp_path / "w.pth")
    assert "of which the file holds only a part" in refused(tmp_path / "w.pth")


def test_part_of_a_backbone_is_named(tmp_path, held):
    state = {name: value for name, value in held.items() if name != "layer1.0.bn1.bias"}
    torch.save({"state_dict": {**prefixed(state, "backbone."), "backbone.extra": torch.ones(3)}}, tmp_path / "w.pth")
    line = refused(tmp_path / "w.pth")
    assert "1 missing (layer1.0.bn1.bias)" in line
    assert "1 unexpected (extra)" in line


def test_the_run_of_another_backbone_is_named_with_it(tmp_path):
    model = build_model(Architecture.of(model="scenenet", weights="none"), 3, seed=1, pretrained=False)
    save_model(tmp_path / "best.pth", model, ("a", "b", "c"), {"model": "scenenet"}, 2)
    assert "best.pth (scenenet) does not fit resnet18" in refused(tmp_path / "best.pth")


def test_weights_that_are_asked_for_and_not_there_are_refused(tmp_path, held):
    torch.save({"model": held}, tmp_path / "w.pth")
    assert "holds no averaged weights" in refused(tmp_path / "w.pth", checkpoint_weights="ema")


@pytest.mark.parametrize("published", [True, False])
def test_published_tresnets_compute_with_the_size_of_their_scales(tmp_path, published):
    """inplace_abn computes with |weight| + 1e-5; a run of ours has plain norms, whose scales may be negative."""
    torch.manual_seed(0)
    held = BACKBONES["tresnet_m"]().state_dict()
    name = "body.layer1.0.conv1.1.weight"
    held[name].uniform_(-1, 1)
    head = {"head.fc.weight": torch.ones(3, 2048), "head.fc.bias": torch.ones(3)}
    content = {**held, **head} if published else {**prefixed(held, "backbone."), **head}
    torch.save({"model": content, "num_classes": 3}, tmp_path / "w.pth")
    backbone = BACKBONES["tresnet_m"]()
    load_weights(backbone, "tresnet_m", str(tmp_path / "w.pth"))
    torch.testing.assert_close(backbone.state_dict()[name], held[name].abs() + 1e-5 if published else held[name])


@pytest.mark.parametrize(("rank", "said"), [(None, 1), ("0", 1), ("1", 0)])
def test_what_is_taken_is_said_once_over_all_processes(tmp_path, monkeypatch, capsys, rank, said):
    monkeypatch.delenv("RANK", raising=False)
    if rank:
        monkeypatch.setenv("RANK", rank)
    torch.save(prefixed(BACKBONES["scenenet"]().state_dict(), "enc."), tmp_path / "w.pth")
    load_weights(BACKBONES["scenenet"](), "scenenet", str(tmp_path / "w.pth"))
    assert capsys.readouterr().out.count(f"{tmp_path / 'w.pth'}: the backbone is taken from enc.*") == said


OWN = ("conv1.weight", "bn1.weight", *(f"layer{n}.0.{part}.weight" for n in (1, 2) for part in ("conv1", "bn1")))


def ones(*names):
    return {name: torch.ones(1) for name in names}


def read(content, own=OWN):
    return backbone_state(content, Path("w.pth"), ones(*own))


@pytest.mark.parametrize(("there", "taken"), [(2, False), (3, True), (6, True)])
def test_a_prefix_counts_from_half_of_the_backbone_on(there, taken):
    names = [f"enc.{name}" for name in OWN[:there]]
    found = read(ones(*names))
    assert list(found.state) == (list(OWN[:there]) if taken else names)
    assert found.notes == (("the backbone is taken from enc.*",) if taken else ())


@pytest.mark.parametrize(
    ("prefixes", "others", "said"),
    [
        ("a", 0, ""),
        ("a", 1, "; 1 tensors outside it are no part of it"),
        ("ab", 0, "; 6 tensors outside it are no part of it, nor are those of b."),
        ("abcde", 2, "; 26 tensors outside it are no part of it, nor are those of b., c., d."),
    ],
)
def test_what_is_left_of_a_whole_network_is_counted(prefixes, others, said):
    names = [f"{prefix}.{name}" for prefix in prefixes for name in OWN] + [f"other.{n}" for n in range(others)]
    found = read(ones(*names))
    assert list(found.state) == list(OWN)
    assert found.notes == (f"the backbone is taken from a.*{said}",)


def test_layers_that_classify_are_left_out_and_noticed_unless_they_are_of_the_backbone():
    alone = read(ones(*OWN))
    assert (list(alone.state), alone.notes, alone.classified) == (list(OWN), (), False)
    beside = read(ones(*OWN, "fc.weight"))
    assert (list(beside.state), beside.classified) == (list(OWN), True)
    inside = read(ones(*OWN, "fc.weight"), (*OWN, "fc.weight"))
    assert (list(inside.state), inside.classified) == ([*OWN, "fc.weight"], False)


def test_of_several_networks_in_a_file_the_one_with_most_of_the_backbone_is_read():
    nothing, little = ones("a.weight"), ones(*OWN[:2])
    much = ones(*(f"enc.{name}" for name in OWN), "deconv.conv1.weight")
    for content in ({"one": little, "two": much}, {"one": much, "two": little}):
        assert list(read(content).state) == list(OWN)
    for content in ({"one": nothing, "two": ones(OWN[0])}, {"one": ones(OWN[0]), "two": nothing}):
        assert list(read(content).state) == [OWN[0]]


def test_a_network_with_names_is_not_read_by_numbers():
    names = [*OWN, "neck.4.0.conv1.weight"]
    assert list(read(ones(*names)).state) == names
