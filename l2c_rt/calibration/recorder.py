"""A model whose sites hand every output of theirs to measures, while its own forward runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from l2c_rt.adapters.bound_model import BoundModel
from l2c_rt.adapters.own.modes import run_observed
from l2c_rt.adapters.own.observe import Observer, Stream
from l2c_rt.adapters.own.probe import Probe, ProbeStoppedError, probe, probe_of
from l2c_rt.adapters.own.site_passes import Call, SitePasses
from l2c_rt.comparison.runs import require_finite
from l2c_rt.runtime.loop_model import Place

MAIN_STREAMS = ("hidden_states", "x")
"""What the stream of latents is called in the forward of a block; else it is the first one."""


class Seen(NamedTuple):
    """What branch k gave: `outputs` at branch level, of a block what it adds; `main` is the one on
    the stream of latents."""

    place: Place
    call: Call
    outputs: tuple[Tensor, ...]
    main: Tensor | None


Replaced = Callable[[Call], Tensor | None]
"""What a branch gives, or adds, in place of its one output; None leaves it."""


class Measure(Protocol):
    """Takes what uncached runs give, branch by branch and evaluation by evaluation."""

    def see(self, seen: Seen) -> None: ...

    def end_evaluation(self, place: Place) -> None: ...


class Recorder:
    """Calls of the model, every output of a site measured."""

    def __init__(self, bound_model: BoundModel, measures: Sequence[Measure]) -> None:
        self._bound_model, self._measures = bound_model, measures
        self._passes: SitePasses | None = None
        self._streams: Mapping[str, tuple[Stream | None, ...]] = {}
        self._names = bound_model.program.branch_names
        self._place = Place(0, 0)
        self._replaced: Replaced | None = None

    def begin_run(self) -> None:
        """A run begins: the attributes of the model's modules may be others."""
        if self._passes is not None:
            self._passes.refresh()

    @torch.no_grad()
    def call(
        self,
        place: Place,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        replaced: Replaced | None = None,
    ) -> Any:
        """The model's own return value; `replaced` says what a branch gives in its place."""
        if self._passes is None:
            self._streams = streams_of(self._bound_model, args, kwargs)
            self._passes = SitePasses(self._bound_model, self._streams, checkpointing=False)
        self._place, self._replaced = place, replaced
        out = self._passes.run(self._seen, args, kwargs)
        if replaced is None:
            require_finite("calibrate", [self._bound_model.to_tensor(out)])
        for measure in self._measures:
            measure.end_evaluation(place)
        return out

    def _seen(self, call: Call, out: Any, bases: Sequence[Tensor | None]) -> Any:
        parts = tuple(out) if isinstance(out, tuple | list) else (out,)
        main = None
        if bases:
            pairs = zip(parts, bases, strict=True)
            parts = tuple(part if base is None else part - base for part, base in pairs)
            main = _main(self._streams[self._names[call[0]]], parts)
        outputs = tuple(
            leaf for leaf in tree_leaves(parts)
            if isinstance(leaf, Tensor) and leaf.is_floating_point()
        )  # fmt: skip
        for measure in self._measures:
            measure.see(Seen(self._place, call, outputs, main))
        value = None if self._replaced is None else self._replaced(call)
        if value is None:
            return out
        return value if not bases or bases[0] is None else bases[0] + value


def streams_of(
    bound_model: BoundModel, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Mapping[str, tuple[Stream | None, ...]]:
    """The streams of whole blocks by name, none at branch level."""
    if not bound_model.sites[0].is_block:
        return {}
    observed = _observed(bound_model, args, kwargs)
    for name, site in observed.sites.items():
        if site.overwritten:
            raise ValueError(
                f"calibrate: {name} writes to its argument {site.overwritten[0]} in place, "
                'so what it adds to it is not known; calibrate with granularity="branch"'
            )
    return {n: s.streams for n, s in observed.sites.items() if any(s.streams)}


def _main(streams: Sequence[Stream | None], parts: Sequence[Any]) -> Tensor | None:
    named = {s.name: part for s, part in zip(streams, parts, strict=True) if s is not None}
    for name in MAIN_STREAMS:
        if name in named:
            break
    else:
        name = next(iter(named), "")
    main: Tensor | None = named.get(name)
    return main


def _observed(bound_model: BoundModel, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Probe:
    """What a call does at the sites, without data where that is possible."""
    try:
        return probe(bound_model.model, bound_model.sites, args, kwargs)
    except ProbeStoppedError:
        assert bound_model.open_stage is not None
        observer = Observer(bound_model.sites, follow=True)
        stage = bound_model.open_stage(observer.visit)
        run_observed(observer, partial(stage, *args, **kwargs))
        return probe_of(observer, bound_model.sites)
