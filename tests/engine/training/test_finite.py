"""Which step a number that is not finite came from, and what of a state is looked at."""

import math

import pytest
import torch

from engine.training.finite import first_not_finite, not_finite, step_of


def step(number, loss, logits=((0.0,), (0.0,)), **terms):
    losses = {"loss": torch.tensor(loss), **{name: torch.tensor(value) for name, value in terms.items()}}
    return step_of(number, torch.arange(len(logits)) + 10 * number, torch.tensor(logits), losses)


def test_the_first_step_whose_loss_is_not_finite_is_found():
    steps = [step(1, 0.5), step(2, math.nan), step(3, math.inf)]
    assert first_not_finite(steps).number == 2
    assert first_not_finite([step(number, 0.5) for number in (1, 2, 3)]).number == 3


def test_terms_are_named_before_the_loss_they_make():
    assert step(1, math.nan, positive=math.nan, negative=1.0, weak=math.inf).terms() == ["positive", "weak"]
    assert step(1, math.nan, positive=1.0).terms() == ["loss"]
    assert step(1, 1.0, kept=1.0).terms() == []


def test_images_are_those_whose_logits_are_not_finite_else_all():
    ids = [f"{n}.jpg" for n in range(14)]
    assert step(1, 1.0, ((0.0, 0.0), (math.nan, 0.0), (0.0, math.inf))).images(ids) == "11.jpg, 12.jpg"
    assert step(1, 1.0).images(ids) == "10.jpg, 11.jpg"
    assert step(1, 1.0).images(ids[:11]) == "10.jpg, row 11"
    assert step(1, 1.0, ((0.0,),) * 9).images([]).endswith("row 16, row 17 and 1 more")
    assert step(1, 1.0, ((0.0,),) * 8).images([]).endswith("row 16, row 17")


def state(**parts):
    return {"model": {}, "criterion": {}, "averaging": {}, "optimizer": {}, **parts}


BIG = torch.full((4,), 3e38)


@pytest.mark.parametrize(
    ("parts", "name"),
    [
        ({}, ""),
        ({"model": {"a": torch.ones(3), "n": torch.tensor(7)}}, ""),
        ({"model": {"a": BIG}}, ""),  # whose sum is not finite
        ({"model": {"a": torch.ones(3), "b": torch.tensor([1.0, math.nan])}}, "model.b"),
        ({"model": {"a": torch.tensor([math.inf, -math.inf])}}, "model.a"),
        ({"averaging": {"a": torch.tensor(math.nan)}}, "averaging.a"),
        (
            {"optimizer": {"state": {0: {"exp_avg": torch.tensor([math.nan])}}, "groups": [1.0]}},
            "optimizer.state.0.exp_avg",
        ),
        ({"criterion": {"phi": torch.tensor([math.inf, 1.0])}}, ""),
        ({"criterion": {"phi": torch.tensor([math.nan, 1.0], dtype=torch.float64)}}, "criterion.phi"),
        ({"model": {"a": torch.tensor([math.nan], dtype=torch.bfloat16)}}, "model.a"),
        ({"model": {"a": torch.zeros(0)}}, ""),
    ],
)
def test_weights_are_finite_and_what_is_known_of_labels_is_a_number(parts, name):
    assert not_finite(state(**parts)) == name
