"""A model described for a method that decides at run time: its own forward, cut for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn

from l2c_rt.adapters import describe
from l2c_rt.adapters.bound_model import BoundModel
from l2c_rt.adapters.own.describe import own_instead
from l2c_rt.plan.decisions import Dynamic, DynamicMethod, ModelFacts


def describe_deciding(
    method: DynamicMethod,
    *,
    adapter: Callable[[Any], BoundModel] | None = None,
    sites: Sequence[str] | None = None,
    granularity: str | None = None,
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
    if described.open_stage is None:
        described = own_instead(described, f"{type(method).__name__} decides inside of it")
    facts = ModelFacts(
        type(model).__name__,
        tuple(site.children[-1] for site in described.sites),
        frozenset(path for path, _ in model.named_modules()),
    )
    return replace(described, dynamic=Dynamic.of(method, facts))
