"""Networks: images (B, 3, H, W) to logits (B, C), features and class activation maps."""

from models.as_model import WrappedModel, as_model

__all__ = ["WrappedModel", "as_model"]
