"""Which models can be compiled, and how each is described.  Recognition is by structure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import nn

from l2c_rt.adapters import dit, uvit
from l2c_rt.adapters.bound_model import BoundModel
from l2c_rt.adapters.diffusers import dit as diffusers_dit
from l2c_rt.adapters.model_checks import check_bypassed, check_mode
from l2c_rt.adapters.wrappers import find_wrapped, sharded_by_fsdp

SUPPORTED = {
    "DiT (facebookresearch/DiT, l2c_rt.models.DiT)": dit,
    "U-ViT (baofff/U-ViT, l2c_rt.models.UViT)": uvit,
    "DiTTransformer2DModel (diffusers)": diffusers_dit,
}


def describe(model: nn.Module, adapter: Callable[[Any], BoundModel] | None = None) -> BoundModel:
    """Describe a model with `adapter`, or with the first of ours that recognises it, and check it.

    Raises TypeError where there is no adapter, ValueError for a model that drops at random or whose
    own forward would be left out.
    """
    described = bind(model) if adapter is None else adapter(model)
    if not isinstance(described, BoundModel):
        raise TypeError(f"adapter: wanted a BoundModel, got {type(described).__name__}")
    check_mode(model)
    return replace(described, notes=check_bypassed(described.bypassed))


def bind(model: nn.Module) -> BoundModel:
    """Describe a model with the first adapter that recognises it.

    Raises TypeError listing what is supported, where no adapter does; for a model inside of a
    wrapper, saying how to take it out.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"compile: model must be a torch.nn.Module, got {type(model).__name__}")
    if sharded_by_fsdp(model):
        raise TypeError(
            "compile: the model's parameters are sharded by FullyShardedDataParallel; gather them "
            "into a model without it, plain.load_state_dict(get_model_state_dict(model, "
            "options=StateDictOptions(full_state_dict=True))), and compile(plain, ...); both names "
            "are from torch.distributed.checkpoint.state_dict"
        )
    if wrapped := find_wrapped(model, _matches):
        by = type(model).__name__
        if "_orig_mod" in wrapped:
            by = "torch.compile, whose graphs would not be run"
        raise TypeError(
            f"compile: the model is wrapped by {by}; give the model itself: compile({wrapped}, ...)"
        )
    for adapter in SUPPORTED.values():
        if adapter.matches(model):
            bound_model: BoundModel = adapter.bind(model)
            return bound_model
    names = "; ".join(SUPPORTED)
    raise TypeError(
        f"compile: no adapter for {type(model).__name__}. Supported by structure: {names}. "
        'To add one, follow "add a model" in CONTRIBUTING.md.'
    )


def _matches(model: nn.Module) -> bool:
    return any(adapter.matches(model) for adapter in SUPPORTED.values())
