"""A model's own guided call, with something else in place of its forward."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


def forward_with_cfg(
    model: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any
) -> Tensor:
    """What `model.forward_with_cfg` gives, calling `forward` where it calls its own.

    Raises AttributeError where the model has none.
    """
    guided = getattr(type(model), "forward_with_cfg", None)
    if guided is None:
        raise AttributeError(f"{type(model).__name__} has no forward_with_cfg")
    out: Tensor = guided(ModelStandIn(model, forward), *args, **kwargs)
    return out


class ModelStandIn:
    """Stands for the model: its attributes, another forward."""

    def __init__(self, model: nn.Module, forward: Callable[..., Any]) -> None:
        self.forward = forward
        self._model = model

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)
