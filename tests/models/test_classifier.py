import pytest
import torch
from torch import nn

from models.backbones import SceneNet
from models.classifier import Classifier
from models.heads import CSRAHead, LinearHead, PFCHead

HEADS = {
    "linear": lambda: LinearHead(96, 5),
    "csra": lambda: CSRAHead(96, 5, 4, 0.2),
    "pfc": lambda: PFCHead(96, 5, 8, 0.0),
}


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


def norms(model):
    return {name: module for name, module in model.backbone.named_modules() if isinstance(module, nn.BatchNorm2d)}


def kept(name, stages):
    """Whether a parameter or module of the backbone, by name, belongs to its first layer or that many stages."""
    return stages >= 0 and (
        name.split(".")[0] in {"conv1", "bn1"} or any(f"layer{k}" in name for k in range(1, stages + 1))
    )


@pytest.mark.parametrize("stages", [-1, 0, 1, 3])
@pytest.mark.parametrize("norm_eval", [False, True])
def test_frozen_stages_get_no_gradient_and_keep_their_statistics(stages, norm_eval):
    torch.manual_seed(0)
    model = Classifier(SceneNet(), LinearHead(96, 5), frozen_stages=stages, norm_eval=norm_eval)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train(False)
    model.train()(images()).logits.square().sum().backward()
    for name, parameter in model.backbone.named_parameters():
        assert (parameter.grad is None) == kept(name, stages), name
    assert all(parameter.grad is not None for parameter in model.head.parameters())
    for name, norm in norms(model).items():
        still = norm_eval or kept(name, stages)
        assert norm.training != still, name
        assert torch.equal(norm.running_mean, before[f"backbone.{name}.running_mean"]) == still, name


def test_a_thawed_backbone_leaves_its_frozen_stages_frozen():
    model = Classifier(SceneNet(), LinearHead(96, 5), frozen_stages=1, norm_eval=True)
    model.freeze_backbone(True)
    assert not any(parameter.requires_grad for parameter in model.backbone.parameters())
    model.freeze_backbone(False)
    for name, parameter in model.backbone.named_parameters():
        assert parameter.requires_grad != kept(name, 1), name
    assert model.backbone.training
    assert not any(norm.training for norm in norms(model).values())


def test_what_stays_changes_no_name_and_no_value_of_the_model():
    torch.manual_seed(0)
    plain = Classifier(SceneNet(), LinearHead(96, 5))
    torch.manual_seed(0)
    held = Classifier(SceneNet(), LinearHead(96, 5), frozen_stages=2, norm_eval=True)
    assert list(plain.state_dict()) == list(held.state_dict())
    torch.testing.assert_close(plain.eval()(images()).logits, held.eval()(images()).logits, rtol=0, atol=0)


@pytest.mark.parametrize("name, pooled", [("linear", True), ("csra", False), ("pfc", True)])
def test_heads_say_whether_they_see_the_mean_alone(name, pooled):
    torch.manual_seed(0)
    assert Classifier(SceneNet(), HEADS[name]()).reads_pooled() == pooled
