"""The forward passes of a method's step, taken down and taken again."""

import pytest
import torch

from benchmarks.gpu.trainer import CASES, LATE, Shape, Trainer
from benchmarks.passes import BareStep, Pass, is_bare, networks_of, taken_down
from engine.core.distributed import Runtime

SHAPE = Shape("scenenet", 32, 4, 5)
EVERY = {case.name: case for case in CASES}
ONE, TWO = Pass(0, 4, learns=True), Pass(1, 4, learns=True)


@pytest.fixture
def runtime():
    made = Runtime("cpu", "fp32")
    yield made
    made.close()


def passes_of(name, runtime):
    trainer = Trainer(EVERY[name], runtime, SHAPE)
    trainer.start(LATE)
    model = trainer.loop.learner.model
    with taken_down(model) as passes:
        trainer.step()
    count = len(passes)
    trainer.step()
    assert len(passes) == count  # nothing is taken down after the block
    return passes, len(networks_of(model))


@pytest.mark.parametrize(
    ("name", "expected", "networks"),
    [
        ("bce", [ONE], 1),
        ("cones", [ONE], 1),
        ("cls", [ONE, TWO], 2),
        ("ignore", [ONE, ONE, Pass(0, 4, learns=False)], 1),
    ],
)
def test_a_method_takes_the_passes_that_it_is_known_for(runtime, name, expected, networks):
    assert passes_of(name, runtime) == (expected, networks)
    assert is_bare(expected, 4) is (expected == [ONE])
    assert not is_bare(expected, 3)


def test_a_second_pass_of_ndlp_is_of_some_of_the_images(runtime):
    first, *further = passes_of("ndlp", runtime)[0]
    assert first == ONE
    assert [(each.network, each.learns, 0 < each.images <= 4) for each in further] in ([], [(0, True, True)])


def test_networks_learn_from_the_passes_that_have_gradients_alone(runtime):
    bare = BareStep(SHAPE, runtime, networks=2)
    before = [[each.clone() for each in network.parameters()] for network in bare.networks]
    passes = [Pass(0, 3, learns=True), Pass(1, 2, learns=False)]
    bare.prepare(passes)
    with taken_down(bare.networks[0]) as seen:
        bare(passes)
    assert seen == passes[:1]
    moved = [
        any(not torch.equal(old, new) for old, new in zip(kept, network.parameters(), strict=True))
        for kept, network in zip(before, bare.networks, strict=True)
    ]
    assert moved == [True, False]
