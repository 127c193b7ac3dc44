"""One probe of a model for all that is compiled from it, in tests that compile it many times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from l2c_rt.adapters.own.probe import Probe, probe
from l2c_rt.adapters.own.sites import Site
from l2c_rt.backends import own_calls


class Probes:
    """Stands for `probe`; for a model that does not change, and calls of few shapes."""

    def __init__(self) -> None:
        # With the model, so that no other one has its address.
        self._known: dict[tuple[int, tuple[str, ...], str], tuple[nn.Module, Probe]] = {}

    def __call__(
        self,
        model: nn.Module,
        sites: Sequence[Site],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> Probe:
        shapes = tree_map_only(Tensor, lambda t: (t.shape, t.dtype), (args, dict(kwargs)))
        key = id(model), tuple(site.name for site in sites), repr(shapes)
        if key not in self._known:
            self._known[key] = model, probe(model, sites, args, kwargs)
        return self._known[key][1]


def probed_once(probes: Probes) -> AbstractContextManager[object]:
    """Whatever is called inside asks `probes`."""
    return mock.patch.object(own_calls, "probe", probes)
