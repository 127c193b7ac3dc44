"""What the evaluations of a run did.  Pure."""

from __future__ import annotations

from typing import SupportsFloat

from l2c_rt.plan.decisions import NAN, Decided


class RunRecord:
    """By evaluation and call of the step: the distinct step of the plan, and the metric."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.lanes = 1
        self._rows: dict[tuple[int, int], int] = {}
        self._metrics: dict[tuple[int, int], SupportsFloat] = {}

    def add(self, step: int, lane: int, row: int, metric: SupportsFloat = NAN) -> None:
        """Note an evaluation; a metric that is on a device is read when it is asked for."""
        self.lanes = max(self.lanes, lane + 1)
        self._rows[step, lane], self._metrics[step, lane] = row, metric

    def at(self, step: int, lane: int) -> Decided | None:
        """None for an evaluation that was not done.  Waits for the metric."""
        if (step, lane) not in self._rows:
            return None
        return Decided(self._rows[step, lane], float(self._metrics[step, lane]))
