import pytest
import torch
from torch import nn

from models.backbones import SceneNet
from models.classifier import Classifier
from models.heads import CSRAHead, LinearHead

HEADS = {"linear": lambda: LinearHead(96, 5), "csra": lambda: CSRAHead(96, 5, 4, 0.2)}


@pytest.fixture(params=HEADS)
def model(request):
    torch.manual_seed(0)
    return Classifier(SceneNet(), HEADS[request.param]())


def images(seed=0, batch=4):
    return torch.rand(batch, 3, 40, 40, generator=torch.Generator().manual_seed(seed))


def test_output_shapes_and_the_cam_only_when_asked_for(model):
    plain, asked = model.eval()(images()), model(images(), want=frozenset({"cam"}))
    assert plain.logits.shape == (4, 5)
    assert plain.features.shape == (4, model.feature_width, 5, 5)
    assert plain.cam is None
    assert asked.cam.shape == (4, 5, 5, 5)
    assert not asked.cam.requires_grad
    torch.testing.assert_close(asked.logits, plain.logits, rtol=0, atol=0)


def test_logits_and_cam_come_from_the_features(model):
    found = model.eval()(images(), frozenset({"cam"}))
    torch.testing.assert_close(found.logits, model.head(found.features))
    torch.testing.assert_close(found.cam, model.head.cam(found.features))


def test_every_parameter_gets_a_gradient(model):
    model(images()).logits.square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_parameters_are_split_into_backbone_and_head(model):
    backbone, head = map(set, (model.backbone_parameters(), model.head_parameters()))
    assert not backbone & head
    assert backbone | head == set(model.parameters())
    assert {id(p) for p in head} == {id(p) for name, p in model.named_parameters() if name.startswith("head.")}


def test_a_part_without_parameters_is_an_error():
    with pytest.raises(ValueError, match=r"head \(Identity\)"):
        Classifier(SceneNet(), nn.Identity()).head_parameters()
    with pytest.raises(ValueError, match=r"backbone \(Identity\)"):
        Classifier(nn.Identity(), LinearHead(96, 5)).backbone_parameters()


def test_images_of_a_batch_do_not_mix_in_evaluation(model):
    model.eval()
    together, alone = model(images()).logits, model(images()[1:2]).logits
    torch.testing.assert_close(together[1:2], alone, rtol=1e-5, atol=1e-5)


def test_permuted_classes_permute_logits_and_cam():
    torch.manual_seed(0)
    model, order = Classifier(SceneNet(), LinearHead(96, 5)).eval(), torch.tensor([3, 0, 4, 1, 2])
    before = model(images(), frozenset({"cam"}))
    with torch.no_grad():
        model.head.fc.weight.copy_(model.head.fc.weight[order])
        model.head.fc.bias.copy_(model.head.fc.bias[order])
    after = model(images(), frozenset({"cam"}))
    torch.testing.assert_close(after.logits, before.logits[:, order])
    torch.testing.assert_close(after.cam, before.cam[:, order])


def test_bfloat16_autocast_is_finite(model):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model(images(), frozenset({"cam"}))
    found.logits.float().sum().backward()
    assert found.logits.isfinite().all()
    assert found.cam.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
