"""Methods that subclasses have to write, and the few paths that no command takes in other tests."""

import os
import signal

import pytest
import torch

from data.loading.samplers import TrainingBatches
from engine.prediction.sources import find_images
from engine.training.loop import StopRequest
from losses.common.base import Criterion, PeerCriterion
from models.backbones.feature_extractors import (
    Backbone,
    CentredFeatureExtractor,
    FeatureExtractor,
    ResNet,
    VisionTransformer,
    backbone_class,
)
from models.backbones.tresnet import BasicBlock, TResNetBlock
from tests.losses.fake_model import info_for, random_labels
from utils.checks import UserError
from utils.safe_files import load_tensors

INFO = info_for(random_labels(4, 3))
CALLS = {
    "the loss of a method": lambda: Criterion(None, INFO).forward(None, None),
    "the loss of a method of two networks": lambda: PeerCriterion(None, INFO).forward(None, None),
    "the order of training": lambda: TrainingBatches(4, 2, seed=0).order(1),
    "the stages of a backbone": lambda: Backbone().stages(),
    "the features of a backbone": lambda: Backbone().forward(torch.zeros(1, 3, 8, 8)),
    "the branch of a residual block": lambda: TResNetBlock.branch(BasicBlock(64, 64, 1, False), None),
}


@pytest.mark.parametrize("what", CALLS)
def test_what_a_subclass_must_say_is_asked_for(what):
    with pytest.raises(NotImplementedError):
        CALLS[what]()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, ResNet) for name in ("resnet18", "resnext50_32x4d", "wide_resnet50_2")),
        *((name, CentredFeatureExtractor) for name in ("googlenet", "inception_v3")),
        *((name, VisionTransformer) for name in ("vit_b_16", "vit_l_32")),
        *((name, FeatureExtractor) for name in ("vgg11", "maxvit_t", "swin_t", "densenet121")),
    ],
)
def test_the_class_of_a_network_follows_from_its_name(name, kind):
    assert backbone_class(name) is kind


def test_a_second_signal_ends_the_program_as_it_would_without_us():
    heard = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for number in before:
            signal.signal(number, lambda number, frame: heard.append(number))
        with StopRequest() as stop:
            assert stop.number == 0
            os.kill(os.getpid(), signal.SIGTERM)
            assert (stop.number, heard) == (signal.SIGTERM, [])
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)
            assert heard == [signal.SIGTERM, signal.SIGINT]
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.number == signal.SIGINT
        os.kill(os.getpid(), signal.SIGINT)
        assert heard == [signal.SIGTERM, signal.SIGINT, signal.SIGINT]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    def refused(folder):
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(UserError, match=r"cannot be read \(Permission denied\)$"):
        find_images([tmp_path])


@pytest.mark.parametrize("new", [True, False])
def test_tensors_with_attributes_are_read_without_them(tmp_path, new):
    tensor = torch.arange(6.0).reshape(2, 3)
    tensor.origin = "somewhere"
    torch.save({"a": tensor}, tmp_path / "a.pth", _use_new_zipfile_serialization=new)
    found = load_tensors(tmp_path / "a.pth")
    assert torch.equal(found["a"], tensor)
    assert not hasattr(found["a"], "origin")
