"""Any network that returns logits as a model that every criterion takes.

B batch, C classes, D feature width, h w feature map, H W image.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from utils.types import ModelOutput, StateDict

_CHILD = "module."
"""Prefix of the wrapped module's names inside the wrapper, which no state_dict shows."""


def as_model(module: nn.Module, *, features: str | None = None, classifier: str | None = None) -> WrappedModel:
    """Wrap a network that returns logits, so that it returns `ModelOutput` and understands `want`.

    Args:
        module: images (B, 3, H, W) to logits (B, C): a tensor, an object with `.logits`, a mapping with "logits", or
            a `ModelOutput`. It is wrapped and not copied.
        features: name of the submodule whose output is the feature map (B, D, h, w), such as "layer4" of a ResNet.
        classifier: name of the linear layer or 1x1 convolution (D to C) from which class activation maps (B, C, h, w)
            are made, such as "fc" of a ResNet. The map is the layer without bias at every position (Zhou et al., CVPR
            2016), which explains the logits of a network that averages its features before this layer.

    Returns:
        The wrapped network. Parameters, modes and the names in its state_dict are those of `module`.

    Raises:
        ValueError: `module` has no submodule of that name, or the classifier is of another kind.
    """
    return WrappedModel(module, features, classifier)


class WrappedModel(nn.Module):
    """The module that `as_model` returns; `module` is the wrapped network."""

    def __init__(self, module: nn.Module, features: str | None, classifier: str | None) -> None:
        super().__init__()
        _submodule(module, "features", features)
        _classifier_weight(module, classifier)
        self.module = module
        self.features, self.classifier = features, classifier
        self._takes_want = "want" in inspect.signature(module.forward).parameters
        self._register_state_dict_hook(_without_child)  # type: ignore[no-untyped-call]  # torch 2.4 knows no other name
        self._register_load_state_dict_pre_hook(_with_child, with_module=True)  # type: ignore[no-untyped-call]

    def forward(self, images: Tensor, want: frozenset[str] = frozenset()) -> ModelOutput:
        """Logits (B, C) of images (B, 3, H, W), features if there are any, and `cam` without gradient where wanted.

        Raises: ValueError naming the missing argument of `as_model` where something is wanted that it cannot give.
        """
        output = self._call(images, want)
        if "cam" in want and self.classifier is not None and output.features is not None:
            output = output._replace(cam=self._cam(output.features, output.logits.shape[1]))
        self._require(want, output)
        return output

    def _call(self, images: Tensor, want: frozenset[str]) -> ModelOutput:
        """Logits (B, C), and the feature map (B, D, h, w) if `features` names one."""
        further = {"want": want} if self._takes_want else {}
        if self.features is None:
            return _as_output(self.module(images, **further))
        captured: list[Any] = []
        part = self.module.get_submodule(self.features)
        # Registered for this pass alone: a lasting hook would write into the original from a copy of the model.
        with part.register_forward_hook(lambda _module, _inputs, output: captured.append(output)):
            output = _as_output(self.module(images, **further))
        return output._replace(features=_feature_map(captured, self.features))

    @torch.no_grad()
    def _cam(self, features: Tensor, classes: int) -> Tensor:
        """Class activation maps (B, C, h, w) of features (B, D, h, w)."""
        weight = _classifier_weight(self.module, self.classifier)
        assert weight is not None
        expected = (classes, features.shape[1])
        if tuple(weight.shape[:2]) != expected:
            raise ValueError(
                f"as_model: classifier={self.classifier!r} has a weight {tuple(weight.shape[:2])}, but logits and "
                f"features={self.features!r} need {expected}"
            )
        return F.conv2d(features, weight)

    def _require(self, want: frozenset[str], output: ModelOutput) -> None:
        """Raise ValueError unless the output has all that is wanted."""
        unknown = sorted(want - {"cam", "features", "divergence"})  # the last one is left out where there is none
        if unknown:
            raise ValueError(f"as_model: {', '.join(unknown)} wanted, but it can give cam and features only")
        lacking = {"features": self.features is None}
        if "cam" in want:
            lacking["classifier"] = self.classifier is None
        missing = " and ".join(f"{name}=NAME" for name, absent in lacking.items() if absent)
        for name in ("cam", "features"):
            if name in want and getattr(output, name) is None:
                raise ValueError(f"as_model: {name} wanted, but the argument is missing: give {missing}")


def _submodule(module: nn.Module, argument: str, name: str | None) -> nn.Module | None:
    """The submodule of that name; None for None. Raises: ValueError naming near names."""
    if name is None:
        return None
    names: dict[str, nn.Module] = {other: part for other, part in module.named_modules(remove_duplicate=False) if other}
    if name not in names:
        near = difflib.get_close_matches(name, names) or [child for child, _ in module.named_children()]
        raise ValueError(
            f"as_model: {argument}={name!r} is no submodule of {type(module).__name__}; there are "
            f"{', '.join(near) or 'none'}"
        )
    return names[name]


def _classifier_weight(module: nn.Module, name: str | None) -> Tensor | None:
    """The weight of a classifier as a 1x1 convolution, (C, D, 1, 1). Raises: ValueError for another kind of layer."""
    layer = _submodule(module, "classifier", name)
    if layer is None:
        return None
    if isinstance(layer, nn.Linear):
        return layer.weight[:, :, None, None]
    if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and layer.groups == 1:
        return layer.weight
    raise ValueError(
        f"as_model: classifier={name!r} is {type(layer).__name__}; a linear layer or a 1x1 convolution is needed"
    )


def _as_output(returned: Any) -> ModelOutput:
    """The output of a network in our form. Raises: ValueError where there are no logits (B, C)."""
    if isinstance(returned, ModelOutput):
        return returned
    logits = returned.get("logits") if isinstance(returned, Mapping) else getattr(returned, "logits", returned)
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        shape = f" of shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else ""
        raise ValueError(
            f"as_model: the network returned {type(returned).__name__}{shape}; logits (B, C) are needed, as a tensor, "
            "as `.logits` or as ['logits']"
        )
    return ModelOutput(logits)


def _feature_map(captured: list[Any], name: str) -> Tensor:
    """The feature map (B, D, h, w) that a submodule returned. Raises: ValueError where it returned none."""
    if not captured:
        raise ValueError(f"as_model: features={name!r} did not run in the forward pass; name another submodule")
    found = captured[-1]
    if not isinstance(found, Tensor) or found.ndim != 4:
        shape = f" of shape {tuple(found.shape)}" if isinstance(found, Tensor) else ""
        raise ValueError(
            f"as_model: features={name!r} returned {type(found).__name__}{shape}; a map (B, D, h, w) is needed"
        )
    return found


def _without_child(module: nn.Module, state: StateDict, prefix: str, _metadata: Any) -> None:
    """Name tensors of a wrapper's state_dict as the wrapped module does."""
    inner = prefix + _CHILD
    own = {key: state.pop(key) for key in list(state) if key.startswith(inner)}
    state.update({prefix + key.removeprefix(inner): value for key, value in own.items()})


def _with_child(module: nn.Module, state: StateDict, prefix: str, *_rest: Any) -> None:
    """Undo `_without_child` before a state_dict is loaded."""
    own = {key: state.pop(key) for key in list(state) if key.startswith(prefix)}
    state.update({prefix + _CHILD + key.removeprefix(prefix): value for key, value in own.items()})
