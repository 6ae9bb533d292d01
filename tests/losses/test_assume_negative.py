import numpy as np
import pytest
import torch

from losses import BCE, BCEConfig
from tests.losses.fake_model import FakeModel, batch_of, info_for, random_labels
from tests.oracles import cones as oracle


def test_unknown_counts_as_absent_and_the_model_is_called_once_for_logits_only():
    codes = random_labels(6, 5)
    model, batch = FakeModel(5), batch_of(codes, [4, 0, 3])
    out = BCE(BCEConfig(), info_for(codes))(model, batch)
    logits = model(batch.images).logits.detach().double().numpy()
    expected = np.mean([oracle.bce(logits[at], codes[[4, 0, 3]][at] == 1) for at in np.ndindex(3, 5)])
    assert float(out.total.detach()) == pytest.approx(expected, rel=1e-6)
    assert model.calls[0] == frozenset()
    assert len(model.calls) == 2
    assert set(out.parts) == {"bce"}
    assert out.total.requires_grad
    assert not out.logits.requires_grad
    assert not out.parts["bce"].requires_grad


def test_half_precision_saturated_logits_stay_finite():
    codes = np.array([[1, 0]], dtype=np.int8)
    batch = batch_of(codes, [0])
    model = FakeModel(2)
    with torch.no_grad():
        model.head.bias.copy_(torch.tensor([-5e4, 5e4]))
    out = BCE(BCEConfig(), info_for(codes))(model.half(), batch._replace(images=batch.images.half()))
    assert torch.isfinite(out.total)
