"""What a loop of the user's own does, seen in whole runs of it before anything is learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from l2c_rt.adapters.bound_model import BoundModel
from l2c_rt.adapters.own.modes import run_observed
from l2c_rt.adapters.own.observe import Observer, Stream
from l2c_rt.adapters.own.probe import Probe, probe_of
from l2c_rt.adapters.own.sites import Site
from l2c_rt.comparison.loop_runs import Loop, images_of, isolated
from l2c_rt.learning.options import LearnOptions
from l2c_rt.runtime.known_loop import same_timestep
from l2c_rt.runtime.loop_model import LoopModel, Place
from l2c_rt.runtime.timestep_check import host_timestep


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """The loop's timesteps, None where runs differ in them; what the branches compute, 1 on
    average, [K] float64; the streams of whole blocks, by name."""

    timesteps: tuple[float, ...] | None
    costs: Tensor
    streams: Mapping[str, tuple[Stream | None, ...]]


def rehearse(
    bound_model: BoundModel,
    loop: Loop,
    options: LearnOptions,
    seeds: Sequence[int],
    *,
    compares: bool,
) -> Rehearsal:
    """Run the loop once per seed, everything computed.

    Raises ValueError where it calls the model another number of times than the options say, or
    where nothing can be learned in it; with `compares`, TypeError where its result is not images.
    """
    watcher = _Watcher(bound_model, options)
    (result, timesteps), *others = [watcher.run(loop, seed) for seed in seeds]
    if compares:
        images_of(result)
    known = all(_same(timesteps, other) for _, other in others)
    return Rehearsal(
        timesteps if known else None, _costs(bound_model, watcher.seen), _streams(watcher.seen)
    )


def _same(timesteps: tuple[float, ...] | None, others: tuple[float, ...] | None) -> bool:
    return all(map(same_timestep, timesteps or (), others or ()))


class _Watcher:
    """Runs of the loop with a model whose calls are noted; the first of all is looked into."""

    def __init__(self, bound_model: BoundModel, options: LearnOptions) -> None:
        assert options.own_loop is not None
        self._bound_model, self._options = bound_model, options
        self._calls_per_step = options.own_loop.calls_per_step
        self._timesteps: list[float | None] | None = None
        self.seen: Probe | None = None

    def run(self, loop: Loop, seed: int) -> tuple[Any, tuple[float, ...] | None]:
        """The result of one whole run, and its timesteps where the model has any."""
        again = self.seen is not None
        # Numbers explain better than names that there are more calls than was said.
        model = LoopModel(self._bound_model.model, self._calls_per_step if again else 1, self._call)
        timesteps = self._timesteps = []
        try:
            with isolated(self._bound_model.device, seed):
                result = loop(model, seed)
        finally:
            self._timesteps = None
        check_counts(model.counts, self._options, again=again)
        known = tuple(t for t in timesteps[:: self._calls_per_step] if t is not None)
        return result, known or None

    def _call(self, place: Place, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self._timesteps is not None:
            check_modes(args, kwargs)
            t = self._bound_model.begin(*args, **kwargs).t
            self._timesteps.append(None if t is None else host_timestep(t))
            if self.seen is None:
                return self._observed(args, kwargs)
        return self._bound_model.model(*args, **kwargs)

    @torch.no_grad()
    def _observed(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        sites, open_stage = self._bound_model.sites, self._bound_model.open_stage
        assert open_stage is not None
        observer = Observer(sites, follow=True)
        stage = open_stage(observer.visit)
        out = run_observed(observer, partial(stage, *args, **kwargs))
        self.seen = probe_of(observer, sites)
        _check_sites(sites, self.seen)
        return out


def _check_sites(sites: Sequence[Site], seen: Probe) -> None:
    missing = [site.name for site in sites if site.name not in seen.sites]
    required = [site.name for site in sites if site.required and site.name in missing]
    if required or len(missing) == len(sites):
        raise ValueError(
            f"learn: {', '.join((required or missing)[:4])}: not called by the model's forward, so "
            "nothing can be learned there; name modules that it calls: sites=[...]"
        )
    for name, site in seen.sites.items():
        if site.overwritten:
            raise ValueError(
                f"learn: {name} writes to its argument {site.overwritten[0]} in place, so what it "
                'adds to it is not known; learn with granularity="branch"'
            )


def _costs(bound_model: BoundModel, seen: Probe | None) -> Tensor:
    """Multiply-accumulates of every branch, 1 on average; by its weights where none were seen."""
    assert seen is not None
    macs = [
        seen.linear_macs.get(branch.name, 0) + seen.attention_macs.get(branch.name, 0)
        for branch in bound_model.program.branches
    ]
    if not any(macs):
        macs = [branch.macs for branch in bound_model.program.branches]
    costs = torch.tensor([max(count, 1) for count in macs], dtype=torch.float64)
    return costs / costs.mean()


def _streams(seen: Probe | None) -> dict[str, tuple[Stream | None, ...]]:
    assert seen is not None
    return {name: site.streams for name, site in seen.sites.items() if any(site.streams)}


def check_counts(counts: Sequence[int], options: LearnOptions, *, again: bool) -> None:
    """Raise ValueError where a run of the loop called the model another number of times.

    `counts` has an entry for each of the calls per evaluation that were told apart; `again` says
    that an earlier run made the right calls.
    """
    assert options.own_loop is not None
    steps, calls, total = options.steps, options.own_loop.calls_per_step, sum(counts)
    wanted = f"wanted steps x calls_per_step = {steps} x {calls} = {steps * calls}"
    if not total:
        raise ValueError(
            "learn: loop did not call the model that it was given, not once; call it in the place "
            f"of your model (pipe.transformer = m): {wanted} calls"
        )
    if total != steps * calls:
        if again:
            remedy = "as in the run before: every run has to make the same calls"
        elif total % steps == 0:
            remedy = f"give calls_per_step={total // steps}, or steps={total / calls:g}"
        else:
            remedy = f"give steps={total / calls:g}, or another calls_per_step"
        raise ValueError(f"learn: loop called the model {total} times, {wanted}; {remedy}")
    if len(set(counts)) > 1:
        raise ValueError(
            f"learn: of {calls} calls per evaluation, loop made {', '.join(map(str, counts))}, "
            f"wanted {steps} of each; does it name only some of them by cache_context?"
        )


def check_modes(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Raise ValueError where autograd cannot record a call."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    if torch.is_inference_mode_enabled() or any(tensor.is_inference() for tensor in tensors):
        raise ValueError(
            "learn: loop calls the model under torch.inference_mode(), or with tensors made there, "
            "which autograd cannot record; use torch.no_grad()"
        )
