"""One call of a step under a method that decides: its state, and what it has decided."""

from __future__ import annotations

from typing import Any, SupportsFloat

from torch import Tensor

from l2c_rt.backends.dynamic.gauge import gauge_for
from l2c_rt.plan.decisions import NAN, At, Decided, Dynamic
from l2c_rt.plan.run_record import RunRecord


class Decider:
    """Asks the method, with the state that this run has left.

    `begin` starts an evaluation, `observe` and then `decide` may follow, `end` is the last; an
    evaluation that was given up leaves a state that the next run's first one forgets.
    """

    def __init__(self, dynamic: Dynamic) -> None:
        self.method, self.look = dynamic.method, dynamic.cut.look
        self.gauge = gauge_for(self.look)
        self._state: Any = self.method.begin()
        self._at = At(0, 1)
        self.row: int | None = None
        """What is done at this evaluation, where that is known yet."""
        self.metric: SupportsFloat = NAN
        """What is noted of this evaluation; of a forced one it is read when it is asked for."""
        self._read = NAN
        self._seen: Tensor | None = None

    def begin(self, step: int, record: RunRecord, lane: int, *, in_full: bool) -> None:
        """An evaluation begins; `in_full` where the runtime lets it reuse nothing."""
        if step == 0:
            self._state = self.method.begin()
            self.gauge.begin_run()
        self._at = At(step, record.steps, record.at(step, 0) if lane else None)
        self._seen, self._read = None, NAN
        decided: Decided | None = Decided(0)
        if not in_full and step > 0:
            decided = self.method.forced(self._state, self._at)
        self.row = None if decided is None else decided.row
        if decided is not None:
            self._read = decided.metric
        self.metric = self._read

    def observe(self, value: Tensor) -> None:
        """The tensor that the method looks at."""
        self.gauge.observe(value)
        if self.row is None or self.look.when_forced:
            self._seen = self.gauge.metric()
            self.metric = NAN if self._seen is None else self._seen

    def decide(self) -> int:
        """The row, chosen by what was observed.  Waits for the device."""
        if self._seen is not None:
            self.metric = self._read = float(self._seen)
        self.row = self.method.choose(self._state, self._at, self._read)
        return self.row

    def end(self, out: Tensor) -> None:
        """The evaluation is done and gave `out`."""
        assert self.row is not None
        self._state = self.method.after(self._state, self._at, Decided(self.row, self._read))
        self.gauge.end(out, computed=self.row == 0)
