"""A vector of each class from every head that has one: plain loops, the scores of these vectors, and refusals."""

import numpy as np
import pytest
import torch

from models.backbones.build import SceneNet
from models.build import Architecture, require_head
from models.classifier import Classifier, OnFeatures
from models.heads import HEADS
from models.heads.base import Head
from models.heads.csra import CSRAHead, position_shares
from models.heads.linear import LinearHead
from tests.models.heads.head_checks import random_features
from tests.models.heads.test_base import built
from tests.models.test_classifier import images
from utils.checks import UserError
from utils.head_vectors import ClassVectors

ABLE = ("linear", "csra", "q2l", "ctran")
WANTED = frozenset({"class_vectors"})


def softmax(values):
    shares = np.exp(values - values.max())
    return shares / shares.sum()


def test_vectors_of_the_linear_head_are_its_features_weighted_by_their_scores():
    torch.manual_seed(0)
    head, features = LinearHead(6, 4).double(), random_features()
    found = head.class_vectors(features)
    weights, bias = head.fc.weight.detach().numpy(), head.fc.bias.detach().numpy()
    for image, own in enumerate(features.numpy().reshape(3, 6, -1)):
        for label in range(4):
            vector = own @ softmax(weights[label] @ own)
            np.testing.assert_allclose(found.vectors[image, label].detach(), vector, atol=1e-12)
            score = weights[label] @ vector + bias[label]
            np.testing.assert_allclose(float(found.classify(found.vectors)[image, label].detach()), score, atol=1e-12)
    even = head.class_vectors(features.mean(dim=(2, 3), keepdim=True))  # of one position the logit is the score
    torch.testing.assert_close(even.classify(even.vectors), head(features))


@pytest.mark.parametrize("num_heads", [1, 2, 4])
def test_vectors_of_residual_attention_are_what_its_heads_see(num_heads):
    torch.manual_seed(1)
    head, features = CSRAHead(6, 4, num_heads, 0.3).double(), random_features()
    found = head.class_vectors(features)
    assert found.vectors.shape == (3, 4, 6 * num_heads)
    for number, temperature in enumerate(head.temperatures):
        weights = head.weights[number].detach().numpy()[:, :, 0, 0]
        for image, own in enumerate(features.numpy().reshape(3, 6, -1)):
            for label in range(4):
                unit = weights[label] / np.linalg.norm(weights[label])
                scores = unit @ own
                ends = (
                    (scores == scores.max()).astype(float) if temperature == np.inf else softmax(temperature * scores)
                )
                part = slice(6 * number, 6 * number + 6)
                expected = own.mean(axis=1) + 0.3 * own @ ends
                np.testing.assert_allclose(found.vectors[image, label, part].detach(), expected, atol=1e-12)
                np.testing.assert_allclose(found.weights[label, part].detach(), unit, atol=1e-12)
    torch.testing.assert_close(found.classify(found.vectors), head(features))
    assert found.bias is None


def test_of_equal_scores_the_first_position_is_the_maximum():
    found = position_shares(torch.tensor([[[1.0, 3.0, 3.0]]]), torch.inf)
    assert found.tolist() == [[[0.0, 1.0, 0.0]]]


def test_a_class_vector_of_zeros_scores_nothing():
    head = CSRAHead(6, 4, 1, 0.3).double()
    with torch.no_grad():
        head.weights[0][2] = 0
    found = head.class_vectors(random_features())
    assert found.weights[2].abs().sum() == 0
    assert found.classify(found.vectors)[:, 2].abs().sum() == 0


@pytest.mark.parametrize("name", ["csra", "q2l", "ctran"])
def test_the_scores_of_the_vectors_are_the_logits(name):
    head, features = built(name).eval(), torch.randn(3, 32, 4, 5)
    logits, found = head.with_class_vectors(features)
    torch.testing.assert_close(logits, head(features), rtol=0, atol=0)
    torch.testing.assert_close(found.classify(found.vectors), logits)
    assert torch.equal(head.class_vectors(features).vectors, found.vectors)
    assert found.weights.shape == found.vectors.shape[1:]
    assert (found.bias is None) == (name == "csra")


@pytest.mark.parametrize("name", ABLE)
def test_vectors_have_a_gradient_and_are_not_rounded_in_half_precision(name):
    head = built(name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = torch.randn(3, 32, 4, 5).bfloat16().requires_grad_()
        logits, found = head.with_class_vectors(features)
    assert {each.dtype for each in found if each is not None} == {logits.dtype} == {torch.float32}
    found.classify(found.vectors * 2).sum().backward()
    assert features.grad.abs().sum() > 0
    own = {name: each.grad for name, each in head.named_parameters()}
    assert sum(each is not None and bool(each.abs().sum() > 0) for each in own.values()) >= len(own) - 1


def test_any_vectors_are_scored_by_the_weights_of_their_class():
    generator = torch.Generator().manual_seed(0)
    vectors, weights, bias = (torch.randn(size, generator=generator) for size in ((2, 3, 4), (3, 4), (3,)))
    expected = torch.stack(
        [torch.stack([row @ own for row, own in zip(image, weights, strict=True)]) for image in vectors]
    )
    torch.testing.assert_close(ClassVectors(vectors * 9, weights).classify(vectors), expected)
    torch.testing.assert_close(ClassVectors(vectors, weights, bias).classify(vectors), expected + bias)


@pytest.mark.parametrize("name", ABLE)
def test_a_classifier_gives_them_where_they_are_wanted(name):
    model = Classifier(_backbone(), built(name, 96)).eval()
    found, plain = model(images(), WANTED), model(images())
    assert plain.class_vectors is None
    assert found.cam is None
    torch.testing.assert_close(found.logits, plain.logits, rtol=0, atol=0)
    assert found.class_vectors.vectors.shape[:2] == (4, 5)
    again = OnFeatures(model)(found.features, WANTED)
    assert torch.equal(again.class_vectors.vectors, found.class_vectors.vectors)


@pytest.mark.parametrize("name", ABLE)
@pytest.mark.parametrize("training", [True, False])
def test_a_classifier_knows_how_wide_they_are(name, training):
    model = Classifier(_backbone(), built(name, 96)).train(training)
    before = torch.get_rng_state()
    assert model.class_vector_width() == model(images(), WANTED).class_vectors.vectors.shape[2]
    assert model.head.training is training
    if not training:
        assert torch.equal(torch.get_rng_state(), before)


def _backbone():
    torch.manual_seed(0)
    return SceneNet()


REFUSED = [
    ("pfc", {}),
    ("gcn", {}),
    *((head, more) for head in ("linear", "csra") for more in ({"boostlu": 5.0}, {"saliency": 0.5})),
]


@pytest.mark.parametrize(("name", "settings"), REFUSED)
def test_heads_without_them_say_so(name, settings):
    head = built(name, **settings)
    with pytest.raises(ValueError, match=f"^{type(head).__name__} has no vector of each class$"):
        head.with_class_vectors(torch.randn(2, 32, 3, 3))
    architecture = Architecture.of(model="scenenet", weights="none", head=name, **settings)
    said = f"^--head {name}{' with --boostlu or --saliency' if settings else ''}: sarb needs a vector of each class, "
    said += "which this head does not have; give --head linear, csra, q2l, ctran without these, or train it by another "
    with pytest.raises(UserError, match=said + "method$"):
        require_head(architecture, WANTED, "sarb")
    require_head(architecture, frozenset({"cam"}), "cones")


@pytest.mark.parametrize("name", HEADS)
def test_the_registry_knows_which_heads_have_them(name):
    kind = HEADS[name]
    assert kind.class_vectors(kind.config()) == (name in ABLE)
    assert (type(built(name)).class_vectors is not Head.class_vectors) == (name in ABLE)
    if name in ABLE:
        require_head(Architecture.of(model="scenenet", weights="none", head=name), WANTED, "sarb")
