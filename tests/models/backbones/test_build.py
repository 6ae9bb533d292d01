import pickle
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision
from torch import nn

from models.backbones import build as backbones
from models.backbones.build import (
    BACKBONES,
    PRETRAINED,
    SceneNet,
    build_backbone,
    export_backbone,
    load_weights,
    main,
    weights_name,
)
from models.backbones.weights_file import backbone_state
from models.classifier import Classifier
from models.heads.linear import LinearHead
from utils.checks import UserError

WIDTHS = {"resnet18": 512, "resnet34": 512, "resnet50": 2048, "resnet101": 2048, "resnet152": 2048, "scenenet": 96}


@pytest.fixture(scope="module")
def published():
    """A torchvision ResNet-18 with batch statistics of its own, as it would come from the model zoo."""
    torch.manual_seed(3)
    network = torchvision.models.resnet18(weights=None)
    network.train()(torch.rand(4, 3, 64, 64))
    return network.eval()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Torch hub's cache in an empty folder, and a network that is down."""

    def unreachable(url, *args, **kwargs):
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path / "hub" / "checkpoints"


def same(backbone, state):
    return all(torch.equal(value, state[key]) for key, value in backbone.state_dict().items())


def refused(backbone, name, weights):
    """The one-line refusal of `weights`, after which the backbone is as it was."""
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    with pytest.raises(UserError) as error:
        load_weights(backbone, name, str(weights))
    assert "\n" not in str(error.value)
    assert same(backbone, before)
    return str(error.value)


@pytest.mark.parametrize("name", WIDTHS)
def test_widths_and_strides(name):
    with torch.device("meta"):
        backbone = BACKBONES[name]().eval()
        features = backbone(torch.empty(2, 3, 64, 96))
    stride = 8 if name == "scenenet" else 32
    assert features.shape == (2, backbone.width, 64 // stride, 96 // stride)
    assert (backbone.width, backbone.stride) == (WIDTHS[name], stride)


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_resnet_names_are_those_of_torchvision_without_fc(depth):
    with torch.device("meta"):
        whole = torchvision.models.get_model(f"resnet{depth}", weights=None).state_dict()
        backbone = BACKBONES[f"resnet{depth}"]().state_dict()
    assert list(backbone) == [key for key in whole if not key.startswith("fc.")]


def test_every_backbone_has_default_weights():
    assert set(BACKBONES) == set(PRETRAINED) >= set(WIDTHS)
    assert set(torchvision.models.list_models(module=torchvision.models)) < set(BACKBONES)


@pytest.mark.parametrize(
    "name, hint",
    [("convnext_tinny", "convnext_tiny"), ("resnet51", "resnet50"), ("xyzzy", "torchvision"), ("", "torchvision")],
)
def test_unknown_names_are_refused_naming_the_nearest(name, hint):
    with pytest.raises(UserError, match=hint) as caught:
        build_backbone(name)
    assert "\n" not in str(caught.value)


def test_resnet_features_are_those_of_torchvision(published):
    backbone, images = BACKBONES["resnet18"]().eval(), torch.rand(2, 3, 64, 64)
    backbone.load_state_dict({key: value for key, value in published.state_dict().items() if key[:3] != "fc."})
    expected = nn.Sequential(*list(published.children())[:-2])(images)
    torch.testing.assert_close(backbone(images), expected, rtol=0, atol=0)


def test_scenenet_is_small_and_maps_40_pixels_to_5():
    backbone = SceneNet()
    assert 0.17e6 < sum(parameter.numel() for parameter in backbone.parameters()) < 0.19e6
    assert backbone(torch.rand(2, 3, 40, 40)).shape == (2, 96, 5, 5)
    maps, sizes = torch.rand(2, 3, 40, 48), []
    for part in (backbone.conv1, backbone.layer1, backbone.layer2, backbone.layer3):
        maps = part(maps)
        sizes.append(tuple(maps.shape[1:]))
    assert sizes == [(24, 20, 24), (24, 20, 24), (48, 10, 12), (96, 5, 6)]


def test_the_letter_weights_of_the_checkout_fit_and_are_taken():
    folder = Path(backbones.__file__).parents[1] / "weights"
    shipped = safetensors.torch.load_file(folder / "scenenet_letters.safetensors")
    backbone = SceneNet()
    load_weights(backbone, "scenenet", "default")
    assert shipped.keys() == backbone.state_dict().keys()
    assert same(backbone, {key: value.to(backbone.state_dict()[key].dtype) for key, value in shipped.items()})


@pytest.mark.parametrize("form", ["whole", "backbone", "module", "safetensors", "without counters"])
def test_weights_load_from_a_path(tmp_path, published, form):
    state = dict(published.state_dict())
    if form == "backbone":
        state = {key: value for key, value in state.items() if not key.startswith("fc.")}
    if form == "module":
        state = {f"module.{key}": value for key, value in state.items()}
    if form == "without counters":
        state = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    file = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pth")
    (safetensors.torch.save_file if form == "safetensors" else torch.save)(state, file)
    backbone = BACKBONES["resnet18"]()
    load_weights(backbone, "resnet18", str(file))
    expected = dict(published.state_dict())
    if form == "without counters":
        expected |= {key: torch.tensor(0) for key in expected if key.endswith("num_batches_tracked")}
    assert same(backbone, expected)


def test_half_precision_weights_load_into_float32(tmp_path, published):
    halves = {
        key: value.half() if value.is_floating_point() else value for key, value in published.state_dict().items()
    }
    safetensors.torch.save_file(halves, tmp_path / "w.safetensors")
    backbone = BACKBONES["resnet18"]()
    load_weights(backbone, "resnet18", str(tmp_path / "w.safetensors"))
    assert backbone.conv1.weight.dtype == torch.float32
    assert torch.equal(backbone.conv1.weight, halves["conv1.weight"].float())


@pytest.mark.parametrize(
    "name, published, ours",
    [
        (
            "densenet121",
            "features.denseblock1.denselayer2.norm.1.weight",
            "features.denseblock1.denselayer2.norm1.weight",
        ),
        ("densenet121", "features.transition1.conv.weight", "features.transition1.conv.weight"),
        ("vit_b_16", "encoder.layers.encoder_layer_3.mlp.linear_1.bias", "encoder.layers.encoder_layer_3.mlp.0.bias"),
        (
            "vit_b_16",
            "encoder.layers.encoder_layer_11.mlp.linear_2.weight",
            "encoder.layers.encoder_layer_11.mlp.3.weight",
        ),
        ("convnext_tiny", "module.classifier.0.weight", "classifier.0.weight"),
        ("convnext_tiny", "classifier.2.weight", None),
        ("inception_v3", "AuxLogits.conv0.conv.weight", None),
        ("vgg16", "classifier.0.weight", None),
        ("swin_t", "head.weight", None),
    ],
)
def test_names_of_published_files_are_those_of_our_backbones(name, published, ours):
    with torch.device("meta"):
        own = BACKBONES[name]().state_dict()
    found = backbone_state({published: torch.ones(1)}, Path("w.pth"), own).state
    assert list(found) == ([ours] if ours else [])
    assert ours is None or ours in own


def test_weights_of_a_network_of_another_family_load(tmp_path):
    torch.manual_seed(1)
    state = torchvision.models.mobilenet_v3_small(weights=None).state_dict()
    torch.save(state, tmp_path / "w.pth")
    backbone = BACKBONES["mobilenet_v3_small"]()
    load_weights(backbone, "mobilenet_v3_small", str(tmp_path / "w.pth"))
    assert same(backbone, state)


def test_weights_of_another_architecture_are_refused_in_one_line(tmp_path, published):
    torch.save(published.state_dict(), tmp_path / "w.pth")
    for name in ("resnet34", "resnet50", "scenenet"):
        message = refused(BACKBONES[name](), name, tmp_path / "w.pth")
        assert name in message
        assert str(tmp_path / "w.pth") in message


def test_what_does_not_fit_is_named_and_nothing_is_loaded(tmp_path, published):
    state = dict(published.state_dict())
    state["layer5.weight"] = state.pop("layer1.0.bn1.bias")
    state["conv1.weight"] = torch.zeros(64, 1, 7, 7)
    torch.save(state, tmp_path / "w.pth")
    message = refused(BACKBONES["resnet18"](), "resnet18", tmp_path / "w.pth")
    assert "1 missing (layer1.0.bn1.bias)" in message
    assert "1 unexpected (layer5.weight)" in message
    assert "conv1.weight (64, 1, 7, 7) for (64, 3, 7, 7)" in message


@pytest.mark.parametrize(("number", "named"), [(1, 1), (4, 4), (5, 4)])
def test_the_first_four_of_what_does_not_fit_are_named(tmp_path, number, named):
    backbone = SceneNet()
    names = [name for name in backbone.state_dict() if "num_batches" not in name]
    torch.save({name: torch.ones(1) for name in names[number:]} | {"more": torch.ones(1)}, tmp_path / "w.pth")
    message = refused(backbone, "scenenet", tmp_path / "w.pth")
    dots = ", ..." if number > named else ""
    assert f" {number} missing ({', '.join(names[:named])}{dots}); 1 unexpected (more); " in message


@pytest.mark.parametrize("content", [[1, 2], {}, {"epoch": 3}, {1: torch.ones(1)}, torch.ones(2)])
def test_files_of_something_else_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    assert "not a state_dict" in refused(SceneNet(), "scenenet", tmp_path / "w.pth")


def test_no_weights_leave_the_random_initialisation():
    backbone = SceneNet()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    load_weights(backbone, "scenenet", "none")
    assert same(backbone, before)


def test_default_weights_that_cannot_be_fetched(hub):
    message = refused(BACKBONES["resnet18"](), "resnet18", "default")
    for part in (
        "ResNet18_Weights.IMAGENET1K_V1",
        "resnet18-f37072fd.pth",
        "--weights PATH",
        "--weights none",
        str(hub),
    ):
        assert part in message


def test_default_weights_come_from_the_cache_when_they_are_there(hub, published):
    hub.mkdir(parents=True)
    torch.save(published.state_dict(), hub / "resnet18-f37072fd.pth")
    backbone = BACKBONES["resnet18"]()
    load_weights(backbone, "resnet18", "default")
    assert same(backbone, published.state_dict())


@pytest.mark.parametrize("there", [False, True])
def test_default_weights_are_fetched_with_their_hash_into_a_folder_that_may_be_there(
    hub, published, monkeypatch, there
):
    asked = []

    def fetch(url, file, digest, progress):
        asked.append((url, digest, progress))
        torch.save(published.state_dict(), file)

    if there:
        hub.mkdir(parents=True)
    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    load_weights(BACKBONES["resnet18"](), "resnet18", "default")
    assert asked == [("https://download.pytorch.org/models/resnet18-f37072fd.pth", "f37072fd", False)]


@pytest.mark.parametrize("name", torchvision.models.list_models(module=torchvision.models))
def test_default_weights_are_the_first_imagenet_ones_and_say_so(name):
    first = "SWAG_LINEAR_V1" if name in ("vit_h_14", "regnet_y_128gf") else "V1"
    assert weights_name(name, "default").endswith(f"_Weights.IMAGENET1K_{first}")
    assert weights_name(name, "none").startswith("none")
    assert weights_name(name, "a/b.pth") == "a/b.pth"


def test_scenenet_default_is_the_shipped_file(tmp_path, monkeypatch):
    monkeypatch.setattr(backbones, "SCENENET_WEIGHTS", tmp_path / "letters.safetensors")
    complaint = (
        f"{tmp_path / 'letters.safetensors'} is missing: check the file out again, or give --weights PATH or none"
    )
    assert refused(SceneNet(), "scenenet", "default") == complaint
    torch.manual_seed(5)
    shipped = SceneNet().state_dict()
    safetensors.torch.save_file(shipped, tmp_path / "letters.safetensors")
    backbone = SceneNet()
    load_weights(backbone, "scenenet", "default")
    assert same(backbone, shipped)


def test_export_takes_the_backbone_as_float16_and_loads_again(tmp_path):
    model, out = Classifier(SceneNet(), LinearHead(96, 3)), tmp_path / "letters.safetensors"
    model(torch.rand(4, 3, 40, 40))
    torch.save({"model": model.state_dict(), "epoch": 8}, tmp_path / "best.pth")
    assert main([str(tmp_path / "best.pth"), str(out)]) == 0
    exported = safetensors.torch.load_file(out)
    assert set(exported) == set(model.backbone.state_dict())
    assert {value.dtype for key, value in exported.items() if "num_batches" not in key} == {torch.float16}
    backbone = SceneNet()
    load_weights(backbone, "scenenet", str(out))
    for key, value in model.backbone.state_dict().items():
        torch.testing.assert_close(backbone.state_dict()[key], value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "content",
    [
        {"model": {"head.fc.weight": torch.ones(1)}},
        {"model": None},
        {"model": {"backbone.a": 1}},
        {},
        [1],
        torch.ones(1),
    ],
)
def test_export_refuses_what_is_no_checkpoint_of_ours(tmp_path, content, capsys):
    torch.save(content, tmp_path / "best.pth")
    assert main([str(tmp_path / "best.pth"), str(tmp_path / "out.safetensors")]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "best.pth" in message
    assert not (tmp_path / "out.safetensors").exists()


def test_export_refuses_values_float16_cannot_hold_and_other_suffixes(tmp_path):
    one, large = torch.ones(2), torch.tensor([1.0, 1e6])
    for tensors in ({"a": large}, {"a": one, "b": large}, {"a": large, "b": one}):
        torch.save({"model": {f"backbone.{name}": value for name, value in tensors.items()}}, tmp_path / "best.pth")
        with pytest.raises(UserError, match="finite"):
            export_backbone(tmp_path / "best.pth", tmp_path / "out.safetensors")
    torch.save({"model": {"backbone.a": torch.tensor([65504.0])}}, tmp_path / "best.pth")
    export_backbone(tmp_path / "best.pth", tmp_path / "out.safetensors")
    assert safetensors.torch.load_file(tmp_path / "out.safetensors")["a"].item() == 65504
    with pytest.raises(UserError, match=r"\.safetensors"):
        export_backbone(tmp_path / "best.pth", tmp_path / "out.pth")


def test_export_to_a_path_that_cannot_be_written_exits_1(tmp_path, capsys):
    torch.save({"model": {"backbone.a": torch.ones(2)}}, tmp_path / "best.pth")
    assert main([str(tmp_path / "best.pth"), str(tmp_path / "absent" / "out.safetensors")]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_hostile_weights_are_not_run(tmp_path):
    class Hostile:
        def __reduce__(self):
            return np.savetxt, (str(tmp_path / "marker"), [1.0])

    (tmp_path / "w.pth").write_bytes(pickle.dumps(Hostile()))
    torch.save({"conv1.weight": Hostile()}, tmp_path / "v.pth")
    for name in ("w.pth", "v.pth"):
        refused(SceneNet(), "scenenet", tmp_path / name)
    assert not (tmp_path / "marker").exists()
