"""How much of the full run's arithmetic a method computes: counted, before a run or after it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from l2c_rt.api import Schedulable
from l2c_rt.plan.cost import Cost
from l2c_rt.plan.prepare import prepare
from l2c_rt.plan.program import BlockProgram
from l2c_rt.runtime.compiled import Compiled


class Computed(NamedTuple):
    """Multiply-accumulates of a run per image, attention products included, and of a full run."""

    macs: int
    full_macs: int

    @property
    def share(self) -> float:
        return self.macs / self.full_macs


def computed(models: Sequence[Compiled]) -> Computed:
    """What the last run of these models computed."""
    return _sum([model.cost for model in models])


def _sum(costs: Sequence[Cost]) -> Computed:
    return Computed(
        sum(e.all_macs for cost in costs for e in cost.cached),
        sum(e.all_macs for cost in costs for e in cost.full),
    )


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
            return _sum(known).share
        self._run(models)
        for model in models:
            counted = model.run.shared.counted
            if counted is not None:
                self._programs[counted.program.branch_names] = counted.program
        return computed(models).share

    def _cost(self, model: Compiled) -> Cost | None:
        if model.bound_model.open_stage is None:
            return model.cost
        program = self._programs.get(model.schedule.branches)
        return None if program is None else prepare(program, model.schedule, _as_it_is)[1]


def _as_it_is(plan: Any, program: BlockProgram) -> Any:
    return plan
