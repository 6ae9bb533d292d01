import torch

from utils.head_vectors import PooledFeatures


def test_any_pooled_features_are_scored():
    generator = torch.Generator().manual_seed(0)
    vectors, weights, bias = (torch.randn(size, generator=generator) for size in ((2, 4), (3, 4), (3,)))
    torch.testing.assert_close(PooledFeatures(vectors * 9, weights).classify(vectors), vectors @ weights.T)
    torch.testing.assert_close(PooledFeatures(vectors, weights, bias).classify(vectors), vectors @ weights.T + bias)
