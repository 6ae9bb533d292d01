"""Checks that several heads share."""

import torch


def random_features(seed=0, shape=(3, 6, 4, 5)):
    """A feature map (B, D, h, w) in double precision."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def interchange(plain, boost):
    """Check that a plain and a boosted head load each other's weights and score differently."""
    boost.load_state_dict(plain.double().state_dict())
    plain.load_state_dict(boost.state_dict())
    features = random_features()
    assert not torch.allclose(plain(features), boost(features))
    for name, value in plain.state_dict().items():
        assert torch.equal(value, boost.state_dict()[name])


def require_detached_cam(head):
    """Check that maps carry no gradient and that features stay as they are."""
    features = random_features().requires_grad_()
    before = features.detach().clone()
    assert not head.cam(features).requires_grad
    assert torch.equal(features, before)
