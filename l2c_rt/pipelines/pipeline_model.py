"""A compiled model in a pipeline, which follows the pipeline's loop by itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from l2c_rt.pipelines.loop_position import LoopPosition, Place
from l2c_rt.pipelines.timesteps import Replan
from l2c_rt.runtime.cache_context import StepHint
from l2c_rt.runtime.compiled import Compiled
from l2c_rt.runtime.half_checks import check_calls
from l2c_rt.runtime.session import Session
from l2c_rt.runtime.shared import SharedModel
from l2c_rt.runtime.summary import Summary


class PipelineModel(Compiled):
    """Stands in a pipeline for one of its models.

    Each of several calls per step has a session of its own, opened when it first comes.
    """

    __slots__ = ("_closed", "_others", "_position", "_replan")

    def __init__(
        self, shared: SharedModel, *, position: LoopPosition, replan: Replan | None = None
    ) -> None:
        super().__init__(shared, calls_per_step=1)
        self._position, self._replan = position, replan
        self._others: list[Session] = []
        self._closed: Summary | None = None

    def reset(self, *, forget_timesteps: bool = False) -> None:
        """Forget the run under way; the next call begins one."""
        super().reset(forget_timesteps=forget_timesteps)
        for session in self._others:
            session.reset(forget_timesteps=forget_timesteps)
        self._position.forget()

    def _reset_stateful_cache(self, recurse: bool = True) -> None:
        # Nothing to warn of: the scheduler says how many evaluations a run has.
        self.reset()

    def close(self) -> None:
        """Give the memory back; it cannot be called any more, and `summary()` stays as it was."""
        self._closed = self.summary()
        for session in self._others:
            session.close()
        super().close()

    def summary(self) -> Summary:
        """What was planned, reused and measured so far; a run is one of the pipeline."""
        if self._closed is not None:
            return self._closed
        position = self._position
        return replace(
            super().summary(), runs=position.runs, abandoned=position.abandoned,
            calls_per_step=max(position.lanes, 1),
        )  # fmt: skip

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any], lane: int | None) -> Any:
        try:
            place = self._place(args, kwargs, self._hints.name if lane is None else lane)
            if place.step is None:
                return self.bound_model.model(*args, **kwargs)
            return self._session(place.lane).run.call(
                args, kwargs, StepHint(0, place.step, self.schedule.steps)
            )
        except BaseException:
            self._forget_run()
            raise

    def _session(self, lane: int) -> Session:
        if lane:
            check_calls(self.schedule, lane + 1)
        if lane > len(self._others):
            self._others.append(self._new_session(1, None))
            self._others[-1].run.recording.follow(self.run.recording, lane)
        return self._others[lane - 1] if lane else self

    def _place(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], name: str | int | None
    ) -> Place:
        position = self._position
        if position.begins:
            self._forget_run()
            if reason := position.begin():
                self._shared.notices.tell([reason])
            elif self._replan is not None:
                self._shared.reschedule(self._replan(position.timesteps))

        def timestep() -> object:
            t = self.bound_model.begin(*args, **kwargs).t
            return float(t.reshape(-1)[0]) if hasattr(t, "reshape") else t

        return position.place(name, timestep)

    def _forget_run(self) -> None:
        for session in (self, *self._others):
            known = session.run.clock.known
            # Every run may have another loop; what a schedule was made for stays to be compared.
            session.run.reset(forget_timesteps=known is not None and known.source != "the schedule")
        self._position.forget()
