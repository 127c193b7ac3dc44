"""The record of a session's run, which several sessions of a pipeline share."""

from __future__ import annotations

from l2c_rt.plan.run_record import Done, RunRecord
from l2c_rt.runtime.shared import SharedModel


class Recording:
    """`record` is of the run under way, or the last one; `lane` is the first of its calls of a step
    that this session does."""

    def __init__(self, shared: SharedModel) -> None:
        self._shared = shared
        self._leader: Recording | None = None
        self.record = RunRecord(shared.schedule.steps)
        self.lane = 0

    def follow(self, leader: Recording, lane: int) -> None:
        """From now on it is the call `lane` of the steps whose first one `leader` is."""
        self._leader, self.lane = leader, lane

    def begin(self) -> None:
        """A run begins."""
        steps = self._shared.schedule.steps
        self.record = RunRecord(steps) if self._leader is None else self._leader.record
        self._shared.last_record = self.record

    def add(self, step: int, lane: int, done: Done) -> None:
        """Note an evaluation of one of the session's calls of a step."""
        self.record.add(step, self.lane + lane, done)

    def place(self, lane: int) -> tuple[RunRecord, int]:
        """The record, and which call of a step in it one of the session's calls is."""
        return self.record, self.lane + lane
