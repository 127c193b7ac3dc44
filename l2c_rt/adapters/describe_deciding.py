"""A model described for a method that decides at run time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn

from l2c_rt.adapters import describe
from l2c_rt.adapters.bound_model import BoundModel
from l2c_rt.adapters.own.describe import own_instead
from l2c_rt.adapters.own.forward_order import forward_order
from l2c_rt.adapters.own.sites import Site, blocks
from l2c_rt.plan.decisions import Dynamic, DynamicMethod, ModelFacts


def describe_deciding(
    method: DynamicMethod,
    adapter: Callable[[Any], BoundModel] | None,
    sites: Sequence[str] | None,
    granularity: str | None,
) -> Callable[[nn.Module], BoundModel]:
    """`describe` for a method, which decides about `sites` where these are given.

    The result raises ValueError for a model that the method cannot carry, and TypeError as
    `describe` does.
    """
    name = type(method).__name__
    if adapter is not None:
        raise ValueError(
            f"{name} decides inside of the model's own forward, and an adapter describes another: "
            "leave adapter= out"
        )
    if granularity not in (None, method.granularity):
        raise ValueError(
            f"granularity: {name} decides about {method.granularity}s, got {granularity!r}; leave "
            "granularity= out"
        )
    return partial(_describe, method, sites)


def _describe(method: DynamicMethod, sites: Sequence[str] | None, model: nn.Module) -> BoundModel:
    wanted = getattr(method, "sites", None)
    if sites is None and wanted is not None:
        sites = wanted(model)
    described = describe(model, sites=sites, granularity=method.granularity)
    adapters = None
    if described.open_stage is None:
        own = own_instead(described, f"{type(method).__name__} decides inside of it")
        # Nothing is refused: the method is for the own forward.
        adapters, described = described, replace(own, refused="", notes=own.notes[1:])
    facts = ModelFacts(
        type(model).__name__,
        _block_paths(model, described.sites),
        frozenset(path for path, _ in model.named_modules()),
        forward_order(model),
    )
    return replace(described, dynamic=Dynamic.of(method, facts), described=adapters)


def _block_paths(model: nn.Module, sites: Sequence[Site]) -> tuple[str, ...]:
    """Of sites inside of blocks those that the rule finds, else the modules that they lie in."""
    if sites[0].is_block:
        return tuple(site.children[-1] for site in sites)
    ruled = tuple(path for path, _ in blocks(model))
    return ruled or tuple(dict.fromkeys(s.children[-1].rpartition(".")[0] for s in sites))
