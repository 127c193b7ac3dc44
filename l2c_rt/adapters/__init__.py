"""Which models can be compiled, and how each is described.  Recognition is by structure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from l2c_rt.adapters import dit, uvit
from l2c_rt.adapters.bound_model import BoundModel
from l2c_rt.adapters.diffusers import dit as diffusers_dit
from l2c_rt.adapters.model_checks import check_bypassed, check_mode, check_other_hooks
from l2c_rt.adapters.model_view import ModelView
from l2c_rt.adapters.own.block_sites import GRANULARITIES, WHOLE_MODEL, block_sites
from l2c_rt.adapters.own.describe import describe_own, own_instead
from l2c_rt.adapters.own.site_patterns import named_sites
from l2c_rt.adapters.wrappers import find_wrapped, sharded_by_fsdp

SUPPORTED = {
    "DiT (facebookresearch/DiT, l2c_rt.models.DiT)": dit,
    "U-ViT (baofff/U-ViT, l2c_rt.models.UViT)": uvit,
    "DiTTransformer2DModel (diffusers)": diffusers_dit,
}


def describe(
    model: nn.Module,
    adapter: Callable[[Any], BoundModel] | None = None,
    sites: Sequence[str] | None = None,
    granularity: str = "branch",
) -> BoundModel:
    """Describe a model with `adapter`, with the first of ours that recognises it, or else by the
    modules that its own forward calls, and check it.  `sites` are patterns of their paths; with the
    granularity "block" they are whole blocks.

    Raises TypeError for a model without blocks, ValueError for one that drops at random or whose
    own forward would be left out, or for patterns that name no module.
    """
    if adapter is not None and sites is not None:
        raise ValueError("compile: got both adapter= and sites=; an adapter names its sites itself")
    if granularity not in GRANULARITIES:
        raise ValueError(f"granularity: got {granularity!r}, wanted 'branch', 'block' or 'model'")
    if granularity != "branch":
        if adapter is not None:
            raise ValueError(f'compile: got both adapter= and granularity="{granularity}"; an '
                             "adapter describes branches")  # fmt: skip
        _refuse_wrapped(model, granularity)
        described = _by_blocks(model, sites, granularity)
    elif adapter is None:
        _refuse_wrapped(model)
        described = _described(model, sites)
    else:
        described = adapter(model)
        if not isinstance(described, BoundModel):
            raise TypeError(f"adapter: wanted a BoundModel, got {type(described).__name__}")
        described = _checked(described)
    check_mode(model)
    check_other_hooks(model)
    return described


def _described(model: nn.Module, sites: Sequence[str] | None) -> BoundModel:
    if sites is not None:
        return _in_published_loop(model, describe_own(model, named_sites(model, sites)))
    for name, adapter in SUPPORTED.items():
        if adapter.matches(model):
            described: BoundModel | None = None
            try:
                described = adapter.bind(model)
                return _checked(described)
            except (TypeError, ValueError, AttributeError) as problem:
                reason = f"the adapter of {name} does not fit: {problem}"
                if described is not None:
                    return own_instead(described, reason)
                return replace(describe_own(model), refused=reason, notes=(reason,))
    return describe_own(model)


def _by_blocks(model: nn.Module, sites: Sequence[str] | None, granularity: str) -> BoundModel:
    """The model's own forward cut at its blocks, or kept as a whole, in the published loop where it
    has one."""
    if granularity == "model":
        if sites is not None:
            raise ValueError('compile: got both sites= and granularity="model"')
        own = describe_own(model, [WHOLE_MODEL])
    elif sites is None:
        own = describe_own(model, block_sites(model))
    else:
        own = describe_own(model, [replace(s, is_block=True) for s in named_sites(model, sites)])
    return _in_published_loop(model, own)


def _in_published_loop(model: nn.Module, own: BoundModel) -> BoundModel:
    """The own forward of a model that has an adapter takes that one's arguments and loop."""
    if not has_adapter(model):
        return own
    known = bind(model)
    return replace(
        own, arguments=known.arguments, to_tensor=known.to_tensor, sampling=known.sampling
    )


def _checked(described: BoundModel) -> BoundModel:
    return replace(described, notes=described.notes + check_bypassed(described.bypassed))


def bind(model: nn.Module) -> BoundModel:
    """Describe a model with the first adapter that recognises it.

    Raises TypeError listing what is supported, where no adapter does; for a model inside of a
    wrapper, saying how to take it out.
    """
    _refuse_wrapped(model)
    for adapter in SUPPORTED.values():
        if adapter.matches(model):
            bound_model: BoundModel = adapter.bind(model)
            return bound_model
    names = "; ".join(SUPPORTED)
    raise TypeError(
        f"compile: no adapter for {type(model).__name__}. Supported by structure: {names}. "
        'To add one, follow "add a model" in CONTRIBUTING.md.'
    )


def _refuse_wrapped(model: nn.Module, granularity: str = "branch") -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"compile: model must be a torch.nn.Module, got {type(model).__name__}")
    if isinstance(model, ModelView):
        raise TypeError(
            "compile: the model is compiled already; give the model itself: "
            "compile(model.bound_model.model, ...)"
        )
    if sharded_by_fsdp(model):
        raise TypeError(
            "compile: the model's parameters are sharded by FullyShardedDataParallel; gather them "
            "into a model without it, plain.load_state_dict(get_model_state_dict(model, "
            "options=StateDictOptions(full_state_dict=True))), and compile(plain, ...); both names "
            "are from torch.distributed.checkpoint.state_dict"
        )
    by_torch = "model._orig_mod" if "_orig_mod" in model._modules else ""
    # Of a model that is kept as a whole nobody asks what is inside.
    within = "" if granularity == "model" else find_wrapped(model, has_adapter)
    if wrapped := within or by_torch:
        by = type(model).__name__
        if "_orig_mod" in wrapped:
            by = "torch.compile, whose graphs would not be run"
        raise TypeError(
            f"compile: the model is wrapped by {by}; give the model itself: compile({wrapped}, ...)"
        )


def has_adapter(model: nn.Module) -> bool:
    """Whether a built-in adapter recognises the model."""
    return any(adapter.matches(model) for adapter in SUPPORTED.values())
