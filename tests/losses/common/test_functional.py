import numpy as np
import pytest
import torch

from losses.common.functional import at_least_float32, present, weighted_bce
from tests.oracles import cones as oracle


@pytest.mark.parametrize("seed", range(3))
def test_weighted_bce_matches_loops(seed):
    rng = np.random.default_rng(seed)
    logits, weight, targets = rng.normal(0, 5, (4, 6)), rng.random((4, 6)), rng.random((4, 6))
    expected = np.mean([weight[at] * oracle.bce(logits[at], targets[at]) for at in np.ndindex(4, 6)])
    ours = weighted_bce(torch.tensor(logits), torch.tensor(targets), torch.tensor(weight))
    assert float(ours) == pytest.approx(expected, rel=1e-12)


def test_weighted_bce_passes_gradcheck():
    logits = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    targets, weight = torch.rand(3, 4).double(), torch.rand(3, 4).double()
    assert torch.autograd.gradcheck(lambda x: weighted_bce(x, targets, weight), (logits,))


def test_unknown_is_read_as_absent():
    observed = torch.tensor([[1.0, 0.0, -1.0]])
    assert present(observed, torch.float64).tolist() == [[1, 0, 0]]
    assert present(observed, torch.float64).dtype == torch.float64


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_widened_never_narrows(kind):
    values = torch.ones(2, dtype=kind)
    assert at_least_float32(values).dtype == (torch.float64 if kind == torch.float64 else torch.float32)
