"""Any model with attention and MLP modules, described by what its own forward calls."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from l2c_rt.adapters.bound_model import BoundModel, State
from l2c_rt.adapters.own.instance_hooks import check_replaced
from l2c_rt.adapters.own.sites import Site, branch_sites
from l2c_rt.adapters.own.stage import Stage, Visit, ancestors
from l2c_rt.adapters.wrappers import compiled_by_torch, without_torch_compile
from l2c_rt.plan.program import BlockProgram, Branch, Fixed, Node

TIMESTEP = ("timestep", "timesteps", "t", "timestep_ratio")
"""What the timestep is called in a forward; a model with none of them is counted only."""

KEY_VALUE_CACHES = ("kv_cache", "kv_caches", "kv_cache_mode", "kv_cache_flag", "past_key_values")
"""Arguments of a forward that lead through a cache of keys and values."""

BEFORE, AFTER = "before", "after"


def describe_own(model: nn.Module, sites: Sequence[Site] | None = None) -> BoundModel:
    """A description that runs the model's own forward, cut at `sites` or where the rule says.

    Raises TypeError naming the lists of modules seen, where the rule finds no branch; ValueError
    where a forward that would have to run on a copy was replaced.
    """
    sites = tuple(branch_sites(model) if sites is None else sites)
    paths = [path for site in sites for path in site.children]
    around = tuple(ancestors(model, paths))
    for module in around:
        check_replaced(without_torch_compile(module))
    names, kind = argument_names(model), type(model).__name__
    return BoundModel(
        model=model,
        program=_program(model, sites),
        begin=partial(_begin, names),
        fixed={},
        branches={},
        finish=_no_op,
        arguments=partial(_arguments, names),
        to_tensor=_first_tensor,
        why_not_fusable=f"{kind} runs its own forward",
        notes=_notes(model, around),
        sites=sites,
        open_stage=partial(open_stage, model, paths),
    )


def own_instead(described: BoundModel, reason: str) -> BoundModel:
    """The same model and program with the model's own forward, where a description is wrong.

    `reason` says what is wrong with it.  Raises ValueError with it where the description names no
    sites.
    """
    if not described.sites:
        raise ValueError(reason)
    own = describe_own(described.model, described.sites)
    note = f"the model's own forward runs, not fused kernels: {reason}"
    return replace(
        own, program=described.program, arguments=described.arguments, refused=reason,
        to_tensor=described.to_tensor, sampling=described.sampling, notes=(note, *own.notes),
    )  # fmt: skip


def open_stage(
    model: nn.Module, paths: Sequence[str], visit: Visit, also: Iterable[str] = ()
) -> Stage:
    """A stage of the model, cut at `paths` and `also`."""
    return Stage(model, (*paths, *also), visit)


def _notes(model: nn.Module, around: Sequence[nn.Module]) -> tuple[str, ...]:
    compiled = {
        type(without_torch_compile(module)).__name__: module is not model
        for module in around
        if compiled_by_torch(module) or compiled_by_torch(without_torch_compile(module))
    }
    if not compiled:
        return ()
    remedy = '; granularity="block" calls whole blocks' if any(compiled.values()) else ""
    return (
        f"the graphs that torch.compile made of {', '.join(sorted(compiled))} are not run: the own "
        f"forward is, in which what is reused is not called{remedy}",
    )


def argument_names(model: nn.Module) -> tuple[str, ...]:
    """The names of the arguments of a model's forward."""
    return tuple(inspect.signature(type(model).forward).parameters)[1:]


def _begin(names: tuple[str, ...], /, *args: Any, **kwargs: Any) -> State:
    _refuse_key_values(names, args, kwargs)
    x = argument(names[:1], names, args, kwargs)
    x = _first_tensor(x if x is not None else (args, kwargs))
    t = argument(TIMESTEP, names, args, kwargs)
    if isinstance(t, Tensor) and t.numel() not in (1, *x.shape[:1]):
        # One per token, 0 for those of a first frame that was given; or x is one image of a list.
        t = t.amax()
    return State(x=x, t=t, y=None, options={"args": args, "kwargs": kwargs})


def _refuse_key_values(
    names: tuple[str, ...], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> None:
    for name in KEY_VALUE_CACHES:
        value = argument((name,), names, args, kwargs)
        # GLM-Image's pipeline passes caches that are not in use: each has no mode.
        caches = getattr(value, "caches", [value])
        if any(getattr(cache, "mode", cache) is not None for cache in caches):
            raise ValueError(
                f"{name}: a cache of keys and values is written and read by attention that a "
                f"compiled model leaves out where it reuses; call the model itself with {name}, or "
                "leave it out"
            )


def argument(
    wanted: Sequence[str], names: Sequence[str], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Any:
    """The argument of a call that is called by the first of these names that was given, or None."""
    for name in wanted:
        if name in kwargs:
            return kwargs[name]
        if name in names and names.index(name) < len(args):
            return args[names.index(name)]
    return None


def _first_tensor(value: object) -> Tensor:
    if isinstance(value, Tensor):
        return value
    for leaf in (*tree_leaves(value), *tree_leaves(getattr(value, "__dict__", None))):
        if isinstance(leaf, Tensor):
            return leaf
    raise TypeError(f"wanted a tensor, or a container with one, got {type(value).__name__}")


def _arguments(names: tuple[str, ...], x: Tensor, t: Tensor, y: Tensor | None) -> dict[str, Any]:
    timestep = next((name for name in TIMESTEP if name in names), None)
    return {names[0]: x} | ({} if timestep is None else {timestep: t})


def _no_op(state: State) -> None:
    """The model's own forward gives its return value."""


def _program(model: nn.Module, sites: tuple[Site, ...]) -> BlockProgram:
    """`macs` are weights of matrices, which is MACs per token, until a call has been counted."""
    blocks: dict[str, int] = {}
    branches: list[Branch] = []
    for site in sites:
        block, _, child = site.children[-1].rpartition(".")
        weights = sum(matrix_weights(model.get_submodule(path)) for path in site.children)
        number = blocks.setdefault(site.name if site.is_block else block, len(blocks))
        kind = "block" if site.is_block else re.sub(r"\d+$", "", child)
        if getattr(model.get_submodule(site.children[-1]), "is_cross_attention", False):
            kind = f"cross_{kind.removeprefix('cross_')}"
        branches.append(
            Branch(site.name, kind, number, gated=False,
                   macs=max(weights, 1), weights=weights, activations=0, kernels=0)
        )  # fmt: skip
    rest = max(matrix_weights(model) - sum(branch.weights for branch in branches), 0)
    nodes: tuple[Node, ...] = (Fixed(BEFORE), *branches, Fixed(AFTER, macs=rest, weights=rest))
    return BlockProgram(type(model).__name__, nodes, tokens=1, width=1)


def matrix_weights(module: nn.Module) -> int:
    """Elements of all parameters of two or more dimensions."""
    return sum(p.numel() for p in module.parameters() if p.dim() > 1)
