"""What the evaluations of a run did.  Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, SupportsFloat

from l2c_rt.plan.decisions import NAN, Decided


class Done(NamedTuple):
    """What was done at an evaluation: the plan's distinct step, the method's row where one decides,
    and the metric, which may be on a device.

    Where a method takes several decisions in a forward they are in `parts`, each with the distinct
    step of its own; `variant` is then the step that all reuse where all did, or of the first one
    that did, if any.
    """

    variant: int
    row: int = 0
    metric: SupportsFloat = NAN
    parts: tuple[Done, ...] = ()

    @staticmethod
    def of_parts(parts: tuple[Done, ...], all_reused: int) -> Done:
        """An evaluation of several decisions."""
        reused = [done for done in parts if done.row]
        variant = reused[0].variant if reused else 0
        variant = all_reused if len(reused) == len(parts) else variant
        return Done(variant, int(bool(reused)), parts[0].metric, parts)

    @property
    def variants(self) -> tuple[int, ...]:
        """The distinct steps that were carried out together."""
        return tuple(done.variant for done in self.parts) or (self.variant,)


class RunRecord:
    """By evaluation and call of the step what was done."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.lanes = 1
        self._done: dict[tuple[int, int], Done] = {}

    def add(self, step: int, lane: int, done: Done) -> None:
        """Note an evaluation; a metric that is on a device is read when it is asked for."""
        self.lanes = max(self.lanes, lane + 1)
        self._done[step, lane] = done

    def add_all(self, order: Sequence[int]) -> None:
        """Note a run that carried out these distinct steps of its plan."""
        for step, variant in enumerate(order):
            self.add(step, 0, Done(variant))

    def done(self, step: int, lane: int) -> Done | None:
        """All of it; None for an evaluation that was not done."""
        return self._done.get((step, lane))

    def at(self, step: int, lane: int, part: int = 0) -> Decided | None:
        """Row and metric, of one of several decisions; None for an evaluation that was not done.
        Waits for the metric."""
        done = self._done.get((step, lane))
        if done is None:
            return None
        done = done.parts[part] if done.parts else done
        return Decided(done.row, float(done.metric))
