"""The one vector of each image that a linear layer makes the logits of, from every head that has one; and refusals."""

import pytest
import torch

from models.backbones.build import SceneNet
from models.build import Architecture, require_head
from models.classifier import Classifier, OnFeatures
from models.heads import HEADS
from models.heads.base import Head
from tests.models.heads.head_checks import random_features
from tests.models.heads.test_base import built
from tests.models.test_classifier import images
from utils.checks import UserError

ABLE = ("linear", "gcn")
WANTED = frozenset({"pooled"})
POOLED = {"linear": lambda features: features.mean(dim=(2, 3)), "gcn": lambda features: features.amax(dim=(2, 3))}


@pytest.mark.parametrize("name", ABLE)
def test_the_logits_are_those_of_the_pooled_features(name):
    head, features = built(name).eval(), torch.randn(3, 32, 4, 5)
    logits, found = head.with_pooled(features)
    torch.testing.assert_close(logits, head(features), rtol=0, atol=0)
    torch.testing.assert_close(found.classify(found.vectors), logits)
    torch.testing.assert_close(found.vectors, POOLED[name](features))
    assert found.weights.shape == (logits.shape[1], 32)
    assert (found.bias is None) == (name == "gcn")


@pytest.mark.parametrize("name", ABLE)
def test_they_have_a_gradient_and_are_not_rounded_in_half_precision(name):
    head = built(name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = torch.randn(3, 32, 4, 5).bfloat16().requires_grad_()
        logits, found = head.with_pooled(features)
    assert {each.dtype for each in found if each is not None} == {logits.dtype} == {torch.float32}
    found.classify(found.vectors * 2).sum().backward()
    assert features.grad.abs().sum() > 0
    assert all(each.grad is not None for each in head.parameters())


@pytest.mark.parametrize("name", ABLE)
def test_a_classifier_gives_them_where_they_are_wanted(name):
    torch.manual_seed(0)
    model = Classifier(SceneNet(), built(name, 96)).eval()
    found, plain = model(images(), WANTED), model(images())
    assert plain.pooled is None
    assert (found.cam, found.class_vectors) == (None, None)
    torch.testing.assert_close(found.logits, plain.logits, rtol=0, atol=0)
    assert found.pooled.vectors.shape == (4, 96)
    assert torch.equal(OnFeatures(model)(found.features, WANTED).pooled.vectors, found.pooled.vectors)


def test_maxima_are_pooled_where_the_head_is_made_of_them():
    head, features = built("linear", pool="max"), torch.randn(3, 32, 4, 5)
    logits, found = head.with_pooled(features)
    torch.testing.assert_close(logits, head(features), rtol=0, atol=0)
    torch.testing.assert_close(found.vectors, features.amax(dim=(2, 3)))


REFUSED = [
    *((name, {}) for name in HEADS if name not in ABLE),
    ("linear", {"boostlu": 5.0}),
    ("linear", {"saliency": 0.5}),
]


@pytest.mark.parametrize(("name", "settings"), REFUSED)
def test_heads_without_them_say_so(name, settings):
    head = built(name, **settings)
    with pytest.raises(
        ValueError, match=f"^{type(head).__name__} makes its logits of more than one vector of an image$"
    ):
        head.with_pooled(random_features())
    architecture = Architecture.of(model="scenenet", weights="none", head=name, **settings)
    said = (
        f"^--head {name}{' with --boostlu or --saliency' if settings else ''}: imcl needs logits that a linear layer "
    )
    said += "makes of one vector of an image, which this head does not have; give --head linear, gcn without these, or "
    with pytest.raises(UserError, match=said + "train it by another method$"):
        require_head(architecture, WANTED, "imcl")
    require_head(architecture, frozenset({"cam"}), "cones")


@pytest.mark.parametrize("name", HEADS)
def test_the_registry_knows_which_heads_have_them(name):
    kind = HEADS[name]
    assert kind.pooled(kind.config()) == (name in ABLE)
    assert (type(built(name)).with_pooled is not Head.with_pooled) == (name in ABLE)
    if name in ABLE:
        require_head(Architecture.of(model="scenenet", weights="none", head=name), WANTED, "imcl")
