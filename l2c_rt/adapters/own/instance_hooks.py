"""What accelerate and diffusers put around a module's forward, run around the copy's forward."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from l2c_rt.adapters.wrappers import (
    how_to_unwrap,
    replaced_by,
    replaced_forward,
    replacing_hook,
)

INSTANCE_FORWARD = ("forward", "_old_forward", "_hf_hook", "_compiled_call_impl", "_diffusers_hook")
"""Attributes of an instance that lead a call of it elsewhere; a copy has none of them."""


def forward_through(
    module: nn.Module, own: Callable[..., Any], /, *args: Any, **kwargs: Any
) -> Any:
    """`own(*args, **kwargs)` with the hooks around it that were put on `module`.

    Raises ValueError where `check_replaced` does.
    """
    check_replaced(module)
    attributes = vars(module)
    registry = attributes.get("_diffusers_hook")
    if registry is not None and registry._hook_order:
        return _through_registry(module, registry, own, args, kwargs)
    if "_hf_hook" in attributes:
        return _through_accelerate(module, attributes["_hf_hook"], own, args, kwargs)
    return own(*args, **kwargs)


def check_replaced(module: nn.Module) -> None:
    """Raise ValueError for a forward that was replaced by other code than hooks around it: a copy
    of the module would not run it."""
    if hook := replacing_hook(module):
        raise ValueError(replaced_by(hook, module))
    hooks = "_hf_hook" in vars(module) or "_diffusers_hook" in vars(module)
    if replaced_forward(module) and not hooks:
        raise ValueError(
            f"{type(module).__name__}.forward was replaced on the instance; a compiled model runs "
            f"the class's own forward and would not call it: {how_to_unwrap(module)}"
        )


def _through_registry(
    module: nn.Module,
    registry: Any,
    own: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> Any:
    hooks = [registry.hooks[name] for name in registry._hook_order]
    for hook in reversed(hooks):
        args, kwargs = hook.pre_forward(module, *args, **kwargs)
    out = own(*args, **kwargs)
    for hook in hooks:
        out = hook.post_forward(module, out)
    return out


def _through_accelerate(
    module: nn.Module,
    hook: Any,
    own: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> Any:
    args, kwargs = hook.pre_forward(module, *args, **kwargs)
    with torch.no_grad() if hook.no_grad else nullcontext():
        out = own(*args, **kwargs)
    return hook.post_forward(module, out)
