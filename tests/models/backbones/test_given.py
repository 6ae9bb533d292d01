import pytest
import torch

from models.backbones.build import build_backbone
from models.backbones.given import GivenFeatures, given_name, given_shape
from models.build import Architecture, build_model
from models.peers import build_peers
from utils.checks import UserError


@pytest.mark.parametrize("shape", [(768,), (3, 16, 12), (1, 1, 1)])
def test_a_name_says_its_shape(shape):
    assert given_shape(given_name(shape)) == shape
    assert build_backbone(given_name(shape)).width == shape[0]


@pytest.mark.parametrize(
    "name", ["given/", "given/0", "given/7x3", "given/7x0x3", "given/12345678", "given/7 ", "resnet50", "timm/given/7"]
)
def test_other_names_say_none(name):
    assert given_shape(name) is None


def test_a_name_that_is_none_is_refused():
    with pytest.raises(UserError, match="--model given/7x3: no backbone has that name"):
        build_backbone("given/7x3")


def test_features_are_handed_on_and_nothing_is_learned_or_saved():
    backbone, features = GivenFeatures(5), torch.randn(2, 5, 3, 4)
    assert backbone(features) is features
    assert list(backbone.state_dict()) == []
    assert backbone.stages() == [()]


@pytest.mark.parametrize("head", ["linear", "csra"])
@pytest.mark.parametrize("build", [build_model, build_peers])
def test_a_network_on_given_features_is_its_head(head, build):
    network = build(Architecture.of(model="given/5x3x4", weights="none", head=head), 2, 0)
    classifier = getattr(network, "f", network)
    assert classifier.on_given_features
    assert network.backbone_parameters() == []
    assert len(network.head_parameters()) > 0
    network.check_size("given/5x3x4", 1)
    features = torch.randn(2, 5, 3, 4)
    output = network(features, frozenset({"cam"}))
    assert torch.equal(output.logits, classifier.head(features))
    assert output.cam.shape == (2, 2, 3, 4)
    assert all("head." in name for name in network.state_dict())


def test_other_networks_are_on_images():
    network = build_model(Architecture.of(model="scenenet", weights="none"), 2, 0)
    assert not network.on_given_features
    assert network.backbone_parameters()


def test_there_are_no_stages_to_freeze():
    with pytest.raises(UserError, match="--frozen_stages 1: given/5 has 0"):
        build_model(Architecture.of(model="given/5", weights="none", frozen_stages=1), 2, 0)
