"""The variational bottleneck of Query2Label against plain loops; what is drawn, and what is scored."""

import math

import numpy as np
import pytest
import torch

from models.backbones.build import SceneNet
from models.classifier import Classifier
from models.heads.bottleneck import DRAWS, Bottleneck, Gaussian
from models.heads.linear import LinearHead
from models.heads.query2label import BottleneckQuery2LabelHead, Query2LabelConfig, Query2LabelHead, build_q2l
from tests.models.heads.head_checks import random_features
from tests.models.test_classifier import images
from utils.checks import UserError

WANTED = frozenset({"divergence"})


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian():
    return Gaussian(numbers(3, 4, 5), numbers(3, 4, 5, seed=1))


def head(**how):
    torch.manual_seed(0)
    return BottleneckQuery2LabelHead(8, 4, bottleneck=5, heads=2, inner=12, dropout=0.0, **how).double()


def test_the_divergence_is_that_of_normal_distributions():
    found = gaussian()
    for image, value in enumerate(found.divergence().tolist()):
        terms = [
            (mean**2 + math.exp(2 * log) - 1 - 2 * log) / 2
            for mean, log in zip(
                found.mean[image].flatten().tolist(), found.log_std[image].flatten().tolist(), strict=True
            )
        ]
        assert value == pytest.approx(np.mean(terms), rel=1e-12)
    standard = Gaussian(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4))
    assert standard.divergence().tolist() == [0, 0]


def test_what_is_drawn_has_the_mean_and_the_deviation_of_ten_draws():
    torch.manual_seed(0)
    found = Gaussian(torch.full((1, 1, 40_000), 3.0), torch.full((1, 1, 40_000), math.log(2)))
    drawn = found.drawn()
    assert DRAWS == 10
    assert drawn.mean().item() == pytest.approx(3, abs=0.02)
    assert drawn.std().item() == pytest.approx(2 / math.sqrt(10), rel=0.02)


def test_means_and_deviations_are_learned_through_what_is_drawn():
    found = Gaussian(numbers(2, 3, 4).requires_grad_(), numbers(2, 3, 4, seed=1).requires_grad_())
    torch.manual_seed(0)
    drawn = found.drawn()
    drawn.sum().backward()
    assert (found.mean.grad == 1).all()
    torch.testing.assert_close(found.log_std.grad, (drawn - found.mean).detach())


def test_two_linear_layers_give_means_and_deviations_within_limits():
    torch.manual_seed(0)
    layers, vectors = Bottleneck(6, 2).double(), 40 * numbers(3, 4, 6)
    found = layers(vectors)
    first, _, second = layers.layers
    inner = np.maximum(vectors.numpy() @ first.weight.detach().numpy().T + first.bias.detach().numpy(), 0)
    both = inner @ second.weight.detach().numpy().T + second.bias.detach().numpy()
    np.testing.assert_allclose(found.mean.detach(), both[:, :, :2], atol=1e-12)
    np.testing.assert_allclose(found.log_std.detach(), np.clip(both[:, :, 2:] / 2, -6, 6), atol=1e-12)
    assert found.log_std.min() == -6 or found.log_std.max() == 6
    assert layers.bfloat16()(vectors.bfloat16()).mean.dtype == torch.float32


def test_in_evaluation_the_mean_is_scored_and_scores_repeat():
    model, features = head().eval(), random_features(shape=(3, 8, 4, 5))
    mean = model.bottleneck(model._decoded(features)[0]).mean
    torch.testing.assert_close(model(features), model.fc(mean))
    assert torch.equal(model(features), model.with_cam(features)[0])
    logits, vectors = model.with_class_vectors(features)
    assert torch.equal(vectors.vectors, mean)
    torch.testing.assert_close(vectors.classify(vectors.vectors), logits)


def test_in_training_something_else_is_scored_each_time():
    model, features = head().train(), random_features(shape=(3, 8, 4, 5))
    torch.manual_seed(5)
    first, again = model(features), model(features)
    torch.manual_seed(5)
    logits, divergence = model.with_divergence(features)
    assert torch.equal(first, logits)
    assert not torch.equal(first, again)
    torch.testing.assert_close(divergence, model.bottleneck(model._decoded(features)[0]).divergence())
    (logits.sum() + divergence.sum()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_settings_choose_the_bottleneck():
    plain, narrow = (build_q2l(8, 4, Query2LabelConfig(nheads=2, bottleneck=size), None) for size in (0, 3))
    assert type(plain) is Query2LabelHead
    assert type(narrow) is BottleneckQuery2LabelHead
    assert narrow.fc.W.shape == (1, 4, 3)
    assert narrow.state_dict().keys() - plain.state_dict().keys() == {
        f"bottleneck.layers.{layer}.{name}" for layer in (0, 2) for name in ("weight", "bias")
    }
    with pytest.raises(UserError, match=r"^--bottleneck -1: must be 0 or more; 0 is none$"):
        Query2LabelConfig(bottleneck=-1)


@pytest.mark.parametrize("drawing", [False, True])
def test_a_classifier_gives_the_divergence_where_there_is_one(drawing):
    torch.manual_seed(0)
    model = Classifier(
        SceneNet(), BottleneckQuery2LabelHead(96, 5, bottleneck=4) if drawing else LinearHead(96, 5)
    ).eval()
    found = model(images(), WANTED)
    assert torch.equal(found.logits, model(images()).logits)
    assert (found.divergence is not None) == drawing
    assert model(images()).divergence is None
    if drawing:
        assert found.divergence.shape == (4,)
