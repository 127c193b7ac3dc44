"""What a model's calls do and cost, known before the first one: probed, merged, verified, counted.

A call is known by its arguments: other shapes, or a control that was not there, are another
call.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten

from l2c_rt.adapters.bound_model import BoundModel, State
from l2c_rt.adapters.own.block_sites import WHOLE_MODEL
from l2c_rt.adapters.own.count import counted_program
from l2c_rt.adapters.own.modes import run_observed
from l2c_rt.adapters.own.observe import Observer, SiteCall
from l2c_rt.adapters.own.probe import Probe, ProbeStoppedError, probe, probe_of
from l2c_rt.backends.backend import Counted
from l2c_rt.memory.kept_values import KeptValues, Size
from l2c_rt.plan.ops import Compute, Plan
from l2c_rt.plan.prepare import PrepareMerged, prepare_merged

MAX_CALLS = 8
"""Calls whose plans are kept; the oldest is dropped."""


@dataclass(frozen=True, slots=True)
class CallSignature:
    """The arguments of a call: shapes and dtypes of tensors, and the others."""

    structure: TreeSpec
    leaves: tuple[Any, ...]
    rows: int

    @staticmethod
    def of(x: Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> CallSignature:
        """`x` is the call's first tensor, whose rows are images where it stands by itself."""
        leaves, structure = tree_flatten((args, dict(kwargs)))
        direct = any(value is x for value in (*args, *kwargs.values()))
        autocast = torch.is_autocast_enabled(x.device.type)
        marks = [torch.get_autocast_dtype(x.device.type) if autocast else None, x.device]
        return CallSignature(structure, (*marks, *map(_mark, leaves)), x.shape[0] if direct else 1)


@dataclass(frozen=True, slots=True)
class CallPlan:
    """`groups[k]` are the sites of branch k of the plan; `reason` says why none were merged."""

    probe: Probe
    counted: Counted
    groups: tuple[tuple[str, ...], ...]
    reason: str = ""

    def sizes(self) -> Counter[Size]:
        """How many tensors of each size the plan keeps."""
        # Of a batch of two halves the conditional rows are kept.
        share = 1 if self.counted.plan.halves is None else 2
        return Counter(
            (prod(shape) // share, dtype)
            for slot in self.slots
            if slot[-1] in self.probe.sites
            for shape, dtype in self.probe.sites[slot[-1]].outputs
        )

    @property
    def slots(self) -> tuple[tuple[str, ...], ...]:
        """The sites of each slot."""
        names = self.counted.program.branch_names
        return tuple(self.groups[names.index(name)] for name in self.counted.plan.slots)


class CallPlans:
    """The plans of a model's calls; all lanes and sessions share them."""

    def __init__(
        self, model: BoundModel, *, merge: bool, prepare: PrepareMerged = prepare_merged
    ) -> None:
        self.sites = model.sites
        self.merge = merge
        self._prepare = prepare
        self._model = model
        self._plans: list[tuple[CallSignature, CallPlan]] = []
        self._lock = threading.Lock()

    def of(
        self, plan: Plan, signature: CallSignature, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> CallPlan:
        """The plan for a call like this one, which does what `plan` does.

        Raises ProbeStoppedError where only the call itself can show what it does; ValueError where
        a block cannot be kept as what it adds to its arguments.
        """
        with self._lock:
            for known, call_plan in self._plans:
                if known == signature:
                    return call_plan
            observed = probe(self._model.model, self._model.sites, args, kwargs)
            return self._add(plan, signature, observed, "")

    def add(self, plan: Plan, signature: CallSignature, observed: Probe, reason: str) -> CallPlan:
        """The plan for a call that has shown what it does."""
        with self._lock:
            return self._add(plan, signature, observed, reason)

    def _add(self, plan: Plan, signature: CallSignature, observed: Probe, reason: str) -> CallPlan:
        program = counted_program(self._model.program, observed, signature.rows)
        names = program.branch_names
        gaps = [n for n in names if n not in observed.sites or observed.sites[n].has_gap]
        merged, plan, cost = self._prepare(program, plan, gaps if self.merge else names)
        call_plan = CallPlan(observed, Counted(merged.program, plan, cost), merged.groups, reason)
        self._check_writes(call_plan)
        if plan.num_slots:
            elements = sum(size * count for (size, _), count in call_plan.sizes().items())
            # The mean, since a slot may hold a tuple, or what a block of another width gives.
            cost = replace(cost, slot_elements=-(-elements // (plan.num_slots * signature.rows)))
            call_plan = replace(call_plan, counted=Counted(merged.program, plan, cost))
        self._plans = [*self._plans, (signature, call_plan)][-MAX_CALLS:]
        return call_plan

    def _check_writes(self, call_plan: CallPlan) -> None:
        for name in (name for slot in call_plan.slots for name in slot):
            site = call_plan.probe.sites.get(name)
            if site is None or not site.overwritten:
                continue
            streams = {
                s.name for s, own in zip(site.streams, site.returned, strict=True) if s and own
            }
            remedy = 'granularity="branch"'
            if streams >= set(site.overwritten):
                if not self.merge:
                    continue
                remedy = f"merge=False or {remedy}"
            raise ValueError(
                f"{name} writes to its argument {site.overwritten[0]} in place, so what it adds to "
                f"it is not known; compile with {remedy}"
            )


class LaneCalls:
    """The plan of the calls of one lane, or an observer where no probe could foresee them."""

    def __init__(self, plan: Plan, plans: CallPlans) -> None:
        self._plan, self._plans = plan, plans
        computed = [op for op in plan.at(0) if isinstance(op, Compute)]
        self._slots = {op.branch: op.slot for op in computed}
        self._observer: Observer | None = None
        self._stopped = ""
        self.planned: CallPlan | None = None
        """None while a first evaluation is observed."""

    def begin(self, state: State, values: KeptValues) -> None:
        """A run begins: find out what its calls do.  Raises ValueError as `CallPlans.of` does."""
        args, kwargs = state.options["args"], state.options["kwargs"]
        self._signature = CallSignature.of(state.x, args, kwargs)
        self._observer = None
        try:
            self.planned = self._plans.of(self._plan, self._signature, args, kwargs)
            values.expect(self.planned.sizes())
        except ProbeStoppedError as stopped:
            self.planned, self._stopped = None, str(stopped)
            self._observer = Observer(self._plans.sites, follow=False)
            values.expect({})

    def forward(self, stage: Callable[..., Any], state: State) -> Any:
        """The forward of a stage whose cut points use `call`."""
        args, kwargs = state.options["args"], state.options["kwargs"]
        if self._observer is None:
            return stage(*args, **kwargs)
        out = run_observed(self._observer, partial(stage, *args, **kwargs))
        seen = probe_of(self._observer, self._plans.sites)
        self._observer = None
        self.planned = self._plans.add(self._plan, self._signature, seen, self._stopped)
        return out

    def call(
        self, path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Call the module at a cut point, observed where that is needed."""
        if self._observer is None:
            return module(*args, **kwargs)
        return self._observer.visit("" if path == WHOLE_MODEL.name else path, module, args, kwargs)

    def product(self, linear: nn.Module, run: Callable[[], Any]) -> Any:
        """What `run` gives for a linear, which while a forward is observed does not see it: the
        last bits of a first run are then those of the later ones."""
        return run() if self._observer is None else self._observer.product(linear, run)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why no blocks are merged."""
        stopped = self._stopped if self.planned is None else self.planned.reason
        if not stopped or not self._plans.merge or self._plan.num_slots < 2:
            return ()
        return (f"no blocks are merged: the forward cannot run without data ({stopped})",)

    @property
    def last_call(self) -> SiteCall:
        """The call that was observed last."""
        assert self._observer is not None
        return self._observer.calls[-1]

    def slot_of(self, path: str) -> int | None:
        """The slot of a block at evaluation 0, where nothing is merged, if it has one."""
        return self._slots.get(path)


def _mark(leaf: Any) -> Any:
    """What another call like this one shares: not a timestep that is a number, which differs."""
    if isinstance(leaf, Tensor):
        return tuple(leaf.shape), leaf.dtype
    return leaf if isinstance(leaf, bool | int | str | torch.dtype | None) else type(leaf)
