"""ASL's files by the names and sizes of their tensors, without any network."""

from pathlib import Path

import pytest
import torch

from models.backbones.tresnet import TRESNETS
from models.released.contents import Contents, HeadOverrides
from models.released.tresnets import is_asl, plan_asl
from utils.checks import UserError

FILE = Path("asl.pth")


def contents(size="tresnet_m", classes=5, more=(), **metadata):
    """A file with the tensors that tell the size of a TResNet and the number of classes."""
    planes, blocks = TRESNETS[size]
    names = [f"body.layer{stage}.{block}.conv1.0.weight" for stage, n in enumerate(blocks, 1) for block in range(n)]
    state = {name: torch.zeros(1) for name in [*names, *more]}
    state |= {"body.conv1.0.weight": torch.zeros(planes, 48, 3, 3), "head.fc.weight": torch.zeros(classes, 7)}
    return Contents(FILE, state, metadata, "dict")


def refusal(**change):
    with pytest.raises(UserError) as error:
        plan_asl(contents(**change), HeadOverrides())
    return str(error.value)


@pytest.mark.parametrize("size", TRESNETS)
def test_the_size_is_told_by_the_tensors(size):
    plan = plan_asl(contents(size), HeadOverrides())
    assert plan.settings == {"model": size, "head": "linear"}
    assert (plan.num_classes, plan.names) == (5, ())


def test_a_number_of_classes_that_is_stated_must_be_that_of_the_last_layer():
    assert plan_asl(contents(num_classes=5), HeadOverrides()).num_classes == 5
    assert refusal(num_classes=80) == "asl.pth: says it has 80 classes, but its last layer has 5; fetch it again"
    assert "says it has 4 classes" in refusal(num_classes=4)
    assert refusal(num_classes="9" * 50).startswith(f"asl.pth: says it has {'9' * 20} classes")


def test_a_head_of_two_layers_is_refused():
    assert "a bottleneck of two layers in its head" in refusal(more=["head.fc.embedding_generator.0.weight"])


def test_another_size_is_refused():
    assert "another size than tresnet_m, tresnet_l, tresnet_xl" in refusal(more=["body.layer3.99.conv1.0.weight"])


def test_names_are_taken_where_there_is_one_for_each_class():
    names = {number: f"class {number}" for number in range(5)}
    assert plan_asl(contents(idx_to_class=names), HeadOverrides()).names == tuple(names.values())
    for wrong in ({0: "a"}, list(names.values()), {**names, 5: "f"}, {str(number): "a" for number in range(5)}):
        assert plan_asl(contents(idx_to_class=wrong), HeadOverrides()).names == ()


def test_a_tresnet_alone_and_a_head_alone_are_not_a_file_of_asl():
    whole = contents()
    assert is_asl(whole)
    for part in ("body.", "head."):
        state = {name: value for name, value in whole.state.items() if not name.startswith(part)}
        assert not is_asl(Contents(FILE, state, {}, "dict"))


def test_tensors_are_renamed_for_our_network():
    plan = plan_asl(contents(), HeadOverrides())
    assert plan.rename("body.conv1.0.weight") == "backbone.body.conv1.0.weight"
    assert plan.rename("head.fc.bias") == "head.fc.bias"
    assert plan.rename("other.bias") is None
