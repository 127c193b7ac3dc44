"""How much of the full run's arithmetic a method computes: counted, before a run or after it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

from l2c_rt.api import Schedulable
from l2c_rt.plan.cost import Cost, cost
from l2c_rt.plan.part_plans import together
from l2c_rt.plan.prepare import prepare
from l2c_rt.plan.program import BlockProgram
from l2c_rt.runtime.compiled import Compiled


class Computed(NamedTuple):
    """Multiply-accumulates of a run per image, attention products included, and of a full run.

    Of several calls per step it is their mean.
    """

    macs: int
    full_macs: int

    @property
    def share(self) -> float:
        return self.macs / self.full_macs


T = TypeVar("T")


def counted(models: Sequence[Compiled], run: Callable[[], T]) -> tuple[T, Computed]:
    """The result of one whole run, and what it computed: as planned, or as decided meanwhile."""
    before = [Counter(model.run.shared.counts.variants) for model in models]
    result = run()
    pairs = zip(models, before, strict=True)
    done = [_done(model, model.run.shared.counts.variants - was) for model, was in pairs]
    return result, _sum(done)


def planned(models: Sequence[Compiled]) -> Computed:
    """What a run of these models computes as planned."""
    return _sum([_of(model.cost) for model in models])


def _done(model: Compiled, variants: Counter[tuple[int, ...]]) -> Computed:
    """What evaluations of these distinct steps cost."""
    calls, planned = sum(variants.values()), Counter((v,) for v in model.plan.order)
    lanes = max(1, round(calls / model.schedule.steps))
    # Runs that a GPU does in one go are not counted step by step: they go as planned.
    if not calls or variants == Counter({v: lanes * count for v, count in planned.items()}):
        return _of(model.cost)
    shared = model.run.shared
    program, plan = shared.version.model.program, shared.version.plan
    if shared.counted is not None:
        program, plan = shared.counted.program, shared.counted.plan
    steps = tuple(together(plan, carried_out) for carried_out in variants)
    order = tuple(i for i, count in enumerate(variants.values()) for _ in range(count))
    done = _of(cost(program, replace(plan, steps=steps, order=order, coefficients=())))
    return Computed(done.macs // lanes, done.full_macs // lanes)


def _of(cost: Cost) -> Computed:
    return Computed(sum(e.all_macs for e in cost.cached), sum(e.all_macs for e in cost.full))


def _sum(parts: Sequence[Computed]) -> Computed:
    return Computed(sum(part.macs for part in parts), sum(part.full_macs for part in parts))


class Planned:
    """What methods would compute.  A model that runs its own forward is counted in one run for each
    way in which it is cut, a method that decides while it runs in one run for each setting."""

    def __init__(
        self,
        build: Callable[[Schedulable, Mapping[str, Any]], Sequence[Compiled]],
        run: Callable[[Sequence[Compiled]], object],
    ) -> None:
        self._build, self._run = build, run
        self._programs: dict[tuple[str, ...], BlockProgram] = {}

    def share(self, method: Schedulable, options: Mapping[str, Any]) -> float:
        """The share of the full run's arithmetic."""
        # Unmerged, so that the program that one run counts has the branches of every schedule.
        models = self._build(method, {**options, "merge": False})
        costs = [self._cost(model) for model in models]
        known = [cost for cost in costs if cost is not None]
        if len(known) == len(models):
            return _sum(list(map(_of, known))).share
        _, done = counted(models, lambda: self._run(models))
        for model in models:
            calls = model.run.shared.counted
            if calls is not None:
                self._programs[calls.program.branch_names] = calls.program
        return done.share

    def _cost(self, model: Compiled) -> Cost | None:
        if model.bound_model.open_stage is None:
            return model.cost
        if model.bound_model.dynamic is not None:
            return None
        program = self._programs.get(model.schedule.branches)
        return None if program is None else prepare(program, model.schedule, _as_it_is)[1]


def _as_it_is(plan: Any, program: BlockProgram) -> Any:
    return plan
