"""Networks of other packages as models: outputs, maps, gradients, and names as of the wrapped network."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from losses import CRITERIA
from models import as_model
from models.backbones.build import build_backbone
from models.classifier import Classifier
from models.heads.linear import LinearHead
from tests.losses.fake_model import batch_of, info_for
from utils.types import ModelOutput

CAM = frozenset({"cam"})


def images(size=64):
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))


class Small(nn.Module):
    """A convolutional network whose output has a form to choose."""

    def __init__(self, form=lambda logits: logits, last=None):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, stride=4), nn.BatchNorm2d(6), nn.ReLU())
        self.unused = nn.Linear(6, 5)
        self.last = last or nn.Linear(6, 5)
        self.form = form

    def forward(self, images):
        return self.form(self.last(self.body(images).mean(dim=(2, 3))))


class Convolved(nn.Module):
    """The same with a 1x1 convolution before the mean."""

    def __init__(self):
        super().__init__()
        self.body, self.last = nn.Conv2d(3, 6, 3, stride=4), nn.Conv2d(6, 5, 1)

    def forward(self, images):
        return self.last(self.body(images)).mean(dim=(2, 3))


def test_a_torchvision_resnet_gives_what_our_own_classifier_gives_with_its_weights():
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18(num_classes=5).eval()
    ours = Classifier(build_backbone("resnet18"), LinearHead(512, 5)).eval()
    state = theirs.state_dict()
    ours.backbone.load_state_dict({key: value for key, value in state.items() if not key.startswith("fc.")})
    ours.head.fc.load_state_dict(theirs.fc.state_dict())
    found, expected = as_model(theirs, features="layer4", classifier="fc")(images(), CAM), ours(images(), CAM)
    assert isinstance(found, ModelOutput)
    for value, other in zip(found, expected, strict=True):
        torch.testing.assert_close(value, other, rtol=0, atol=0)


def test_the_map_is_made_only_when_it_is_wanted_and_without_gradient():
    model = as_model(Small(), features="body", classifier="last")
    assert model(images()).cam is None
    found = model(images(), CAM)
    assert found.cam.shape == (2, 5, 16, 16)
    assert not found.cam.requires_grad
    torch.testing.assert_close(found.cam.mean(dim=(2, 3)) + model.module.last.bias, found.logits)


def test_a_1x1_convolution_classifies_too():
    model = as_model(Convolved(), features="body", classifier="last")
    found = model(images(), CAM)
    torch.testing.assert_close(found.cam.mean(dim=(2, 3)) + model.module.last.bias, found.logits)


@pytest.mark.parametrize(
    "form",
    [
        lambda logits: logits,
        lambda logits: {"logits": logits, "loss": None},
        lambda logits: SimpleNamespace(logits=logits),
        lambda logits: ModelOutput(logits),
    ],
    ids=["tensor", "mapping", "object", "ModelOutput"],
)
def test_logits_come_in_several_forms(form):
    network = Small(form).eval()
    expected = network.last(network.body(images()).mean(dim=(2, 3)))
    found = as_model(network)(images())
    torch.testing.assert_close(found.logits, expected)
    assert found.features is None
    assert as_model(network, features="body")(images()).features.shape == (2, 6, 16, 16)


@pytest.mark.parametrize("returned", [None, {"out": 1}, (1, 2), torch.zeros(2, 5, 3)])
def test_without_logits_there_is_no_model(returned):
    with pytest.raises(ValueError, match=r"^as_model: the network returned [^\n]*logits \(B, C\) are needed[^\n]*$"):
        as_model(Small(lambda _: returned))(images())


@pytest.mark.parametrize(
    "names, want, missing",
    [
        ({}, {"cam"}, "features=NAME and classifier=NAME"),
        ({"features": "body"}, {"cam"}, "give classifier=NAME"),
        ({"classifier": "last"}, {"cam"}, "give features=NAME"),
        ({}, {"features"}, "give features=NAME"),
    ],
)
def test_what_is_wanted_and_not_there_names_the_missing_argument(names, want, missing):
    with pytest.raises(ValueError, match=rf"^as_model: (cam|features) wanted, [^\n]*{missing}$"):
        as_model(Small(), **names)(images(), frozenset(want))


def test_of_two_things_that_are_missing_the_map_is_named_first():
    missing = "cam wanted, but the argument is missing: give features=NAME and classifier=NAME"
    with pytest.raises(ValueError, match=rf"^as_model: {missing}$"):
        as_model(Small())(images(), frozenset({"features", "cam"}))


def test_other_wishes_are_refused_in_the_order_of_their_names():
    wishes = [f"{letter}-map" for letter in "abcdefgh"]
    with pytest.raises(
        ValueError, match=f"^as_model: {', '.join(wishes)} wanted, but it can give cam and features only$"
    ):
        as_model(Small())(images(), frozenset({"cam", *wishes}))


@pytest.mark.parametrize(
    "names, part",
    [
        ({"features": "bodi"}, "features='bodi' is no submodule of Small; there are body, body"),
        ({"features": ""}, "there are body, unused, last$"),
        ({"classifier": "fc"}, "classifier='fc' is no submodule"),
        ({"classifier": "body.0"}, "classifier='body.0' is Conv2d; a linear layer or a 1x1 convolution is needed"),
        ({"classifier": "body"}, "classifier='body' is Sequential; a linear layer or a 1x1 convolution is needed"),
    ],
)
def test_names_are_checked_when_a_network_is_wrapped(names, part):
    with pytest.raises(ValueError, match=part):
        as_model(Small(), **names)


def test_a_network_without_parts_says_so():
    with pytest.raises(ValueError, match=r"^as_model: features='body' is no submodule of Identity; there are none$"):
        as_model(nn.Identity(), features="body")


@pytest.mark.parametrize(
    "names, part",
    [
        ({"features": "unused"}, "features='unused' did not run"),
        ({"features": "last"}, r"features='last' returned Tensor of shape \(2, 4\); a map"),
        ({"features": "body", "classifier": "unused"}, r"has a weight \(5, 6\), but logits .* need \(4, 6\)"),
    ],
)
def test_submodules_that_give_no_map_are_refused(names, part):
    with pytest.raises(ValueError, match=part):
        as_model(Small(last=nn.Linear(6, 4)), **names)(images(), CAM)


@pytest.mark.parametrize("layer", [nn.Conv2d(6, 6, 1, groups=2), nn.Conv2d(6, 5, (1, 3)), nn.Conv2d(6, 5, (3, 1))])
def test_a_convolution_that_is_no_matrix_at_each_position_is_no_classifier(layer):
    with pytest.raises(ValueError, match="classifier='last' is Conv2d; a linear layer or a 1x1 convolution is needed"):
        as_model(Small(last=layer), classifier="last")


def test_of_a_part_that_runs_twice_the_last_map_is_taken():
    class Twice(Small):
        def forward(self, images):
            return self.last(self.again(2 * self.again(self.body(images))).mean(dim=(2, 3)))

    network = Twice().eval()
    network.again = nn.Conv2d(6, 6, 1)
    found = as_model(network, features="again", classifier="last")(images(), CAM)
    torch.testing.assert_close(found.features, network.again(2 * network.again(network.body(images()))))
    torch.testing.assert_close(found.cam.mean(dim=(2, 3)) + network.last.bias, found.logits)


def test_names_of_tensors_are_those_of_the_wrapped_network():
    network = Small()
    model = as_model(network, features="body", classifier="last")
    assert model.module is network
    assert list(model.state_dict()) == list(network.state_dict())
    other = as_model(Small())
    assert not torch.equal(other.module.last.weight, network.last.weight)
    other.load_state_dict(network.state_dict())
    assert torch.equal(other.module.last.weight, network.last.weight)
    pair = nn.ModuleDict({"f": as_model(Small()), "g": as_model(nn.ModuleDict({"module": Small(), "body": Small()}))})
    again = copy.deepcopy(pair)
    pair.f.module.last.weight.data.zero_()
    assert set(pair.state_dict()) > {"f.last.weight", "g.module.last.weight", "g.body.last.weight"}
    again.load_state_dict(pair.state_dict())
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in pair.state_dict().items())


def test_modes_types_and_gradients_are_those_of_the_wrapped_network():
    network = Small()
    model = as_model(network, features="body", classifier="last").double().eval()
    assert not network.training
    assert not network.body[1].training
    found = model.train()(images().double(), CAM)
    assert found.cam.dtype == torch.float64
    found.logits.square().sum().backward()
    assert all(parameter.grad is not None for parameter in [*network.body.parameters(), *network.last.parameters()])
    assert not network.body._forward_hooks


def test_a_copy_captures_features_of_its_own():
    model = as_model(Small(), features="body").eval()
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.module.body[0].weight.zero_()
    found = other(images()).features
    torch.testing.assert_close(found, other.module.body(images()))
    assert not torch.equal(found, model(images()).features)


def test_a_model_of_ours_passes_through():
    torch.manual_seed(0)
    ours = Classifier(build_backbone("scenenet"), LinearHead(96, 5)).eval()
    for value, other in zip(as_model(ours)(images(), CAM), ours(images(), CAM), strict=True):
        torch.testing.assert_close(value, other, rtol=0, atol=0)


def test_a_vision_transformer_gives_logits_and_has_no_map():
    network = torchvision.models.VisionTransformer(32, 8, 1, 2, 16, 16, num_classes=5).eval()
    torch.testing.assert_close(as_model(network)(images(32)).logits, network(images(32)))
    with pytest.raises(ValueError, match=r"shape \(2, 17, 16\); a map"):
        as_model(network, features="encoder")(images(32))


def test_networks_of_timm_are_wrapped():
    timm = pytest.importorskip("timm")
    network = timm.create_model("resnet18", num_classes=5).eval()
    found = as_model(network, features="layer4", classifier="fc")(images(), CAM)
    torch.testing.assert_close(found.logits, network(images()))
    torch.testing.assert_close(found.cam.mean(dim=(2, 3)) + network.fc.bias, found.logits)


@pytest.mark.parametrize("method", ["cones", "ignore"])
def test_criteria_take_wrapped_networks(method):
    codes = 2 * np.eye(5, dtype=np.int8)[[0, 1, 2, 3, 4, 0]] - 1  # one observed positive per image, the rest unknown
    model = as_model(Small(), features="body", classifier="last").train()
    criterion = CRITERIA[method].criterion(CRITERIA[method].config(), info_for(codes, width=6))
    batch = batch_of(codes, [0, 1, 2, 3], size=32)
    criterion.on_epoch_start(1, None)
    loss = criterion(model, batch._replace(second_view=batch.images.flip(3)))
    loss.total.backward()
    assert loss.total.isfinite()
    assert model.module.last.weight.grad.isfinite().all()


def test_a_part_that_stands_under_two_names_is_found_under_both():
    shared = nn.Linear(6, 5)
    module = Small(last=shared)
    module.again = shared
    for name in ("last", "again"):
        model = as_model(module, features="body", classifier=name)
        found = model(images(), CAM)
        torch.testing.assert_close(found.cam.mean(dim=(2, 3)) + shared.bias, found.logits)
