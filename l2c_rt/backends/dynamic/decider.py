"""One call of a step under a method that decides: its state, and what it has decided."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from l2c_rt.backends.dynamic.gauge import Gauge
from l2c_rt.plan.decisions import NAN, At, Decided, Dynamic
from l2c_rt.plan.run_record import RunRecord


class Decider:
    """Asks the method, with the state that this run has left.

    `begin` starts an evaluation, `observe` and then `decide` may follow, `end` is the last; an
    evaluation that was given up leaves a state that the next run's first one forgets.
    """

    def __init__(self, dynamic: Dynamic) -> None:
        self.method, self.look = dynamic.method, dynamic.cut.look
        self.gauge = Gauge(self.look)
        self._state: Any = self.method.begin()
        self._at = At(0, 1)
        self.row: int | None = None
        """What is done at this evaluation, where that is known yet."""
        self.metric: Tensor | None = None
        self._read = NAN

    def begin(self, step: int, record: RunRecord, lane: int, *, in_full: bool) -> None:
        """An evaluation begins; `in_full` where the runtime lets it reuse nothing."""
        if step == 0:
            self._state = self.method.begin()
            self.gauge.begin_run()
        self._at = At(step, record.steps, record.at(step, 0) if lane else None)
        self.metric, self._read = None, NAN
        self.row = 0 if in_full or step == 0 else self.method.forced(self._state, self._at)

    def observe(self, value: Tensor) -> None:
        """The tensor that the method looks at."""
        self.gauge.observe(value)
        if self.row is None or self.look.when_forced:
            self.metric = self.gauge.metric()

    def decide(self) -> int:
        """The row, chosen by what was observed.  Waits for the device."""
        if self.metric is not None:
            self._read = float(self.metric)
        self.row = self.method.choose(self._state, self._at, self._read)
        return self.row

    def end(self) -> None:
        """The evaluation is done."""
        assert self.row is not None
        self._state = self.method.after(self._state, self._at, Decided(self.row, self._read))
        self.gauge.end(computed=self.row == 0)
