"""Our trainers do what the published ones do: every method, a whole run beside a transcription, step by step."""

import os

import pytest

from tests.equivalence.cases import CASES
from tests.equivalence.comparison import Bounds, compared

SEEDS = tuple(map(int, os.environ.get("EQUIVALENCE_SEEDS", "0,1").split(",")))
STEPS = int(os.environ.get("EQUIVALENCE_STEPS", "16"))
"""Other seeds and numbers of steps are welcome."""
FEW = 4
QUICK = (
    *("bce", "cones", "csra", "ignore", "LL-Cp", "LL-R BoostLU", "an_ls", "role", "em_apl", "ndlp", "db", "cls"),
    *("query2label", "asl", "splc", "ml-gcn", "c-tran", "gr", "csl"),
)
"""A case of each kind for `make test`: a tenth of what `make test-slow` compares."""


def require_equal(name, folder, seed, steps):
    found, bounds = compared(name, folder, seed=seed, steps=steps), Bounds()
    over = {kind: getattr(found, kind) for kind in Bounds._fields if not getattr(found, kind) <= getattr(bounds, kind)}
    assert not over, f"{name}, seed {seed}, {found.steps} steps: {over}"


@pytest.mark.parametrize("name", QUICK)
def test_a_few_steps_are_those_of_the_published_trainer(name, tmp_path):
    require_equal(name, tmp_path, seed=0, steps=FEW)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", CASES)
def test_a_run_is_that_of_the_published_trainer(name, seed, tmp_path):
    require_equal(name, tmp_path, seed=seed, steps=STEPS)
