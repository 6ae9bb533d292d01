"""The golden cases of the single-positive losses, in our label code, and how they are compared."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import golden_files

NAME = "spml_losses.npz"


def each_case(*losses):
    """The file's cases of these losses for `parametrize("loss, case", ...)`; one named skip where there is no file."""
    file = Path(os.environ.get("GOLDEN_DIR", golden_files.HERE)) / NAME
    if not file.exists():
        return [pytest.param("", None, id=NAME, marks=pytest.mark.skip(reason=f"no golden file {file}"))]
    golden = golden_files.load(NAME)
    names = [str(name) for name in golden["cases"]]
    chosen = [name for name in names if name.rpartition("_")[0] in losses]
    return [pytest.param(name.rpartition("_")[0], case(golden, name), id=name) for name in chosen]


def case(golden, name):
    """Arrays of one case; `observed` in our code, `logits` (and `estimates`) as leaves that want a gradient."""
    arrays = golden_files.part(golden, f"{name}__")
    inputs = golden_files.part(golden, f"in{int(arrays['input'])}__")
    published = inputs[str(arrays["obs_used"])]
    binary = str(arrays["obs_used"]) == "true"  # 1 and 0; the observed ones are +1, -1, and 0 for unknown
    codes = published if binary else np.select([published == 1, published == -1], [1, 0], -1)
    arrays["observed"] = torch.from_numpy(codes).float()
    arrays["true"] = torch.from_numpy(inputs["true"])
    arrays["logits"] = torch.from_numpy(inputs["logits"])
    arrays["estimates"] = torch.from_numpy(inputs["est_logits"])
    return arrays


def leaf(tensor):
    """A copy that collects a gradient."""
    return tensor.clone().requires_grad_()


def agree(case, matrix, penalty, *leaves):
    """Matrix, penalty, total and the gradients of `leaves` are the published ones."""
    total = matrix.mean() + penalty
    total.backward()
    np.testing.assert_allclose(matrix.detach(), case["loss_mtx"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(float(penalty.detach()), case["reg"], rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(float(total.detach()), case["loss"], rtol=1e-5)
    for value, name in zip(leaves, ("grad_logits", "grad_est_logits"), strict=False):
        np.testing.assert_allclose(value.grad, case[name], rtol=1e-4, atol=1e-7)
