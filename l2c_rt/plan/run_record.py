"""What the evaluations of a run did.  Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, SupportsFloat

from l2c_rt.plan.decisions import NAN, Decided


class Done(NamedTuple):
    """What was done at an evaluation: the plan's distinct step, the method's row where one decides,
    and the metric, which may be on a device."""

    variant: int
    row: int = 0
    metric: SupportsFloat = NAN


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

    def variant(self, step: int, lane: int) -> int | None:
        """The distinct step of the plan; None for an evaluation that was not done."""
        done = self._done.get((step, lane))
        return None if done is None else done.variant

    def at(self, step: int, lane: int) -> Decided | None:
        """Row and metric; None for an evaluation that was not done.  Waits for the metric."""
        done = self._done.get((step, lane))
        return None if done is None else Decided(done.row, float(done.metric))
