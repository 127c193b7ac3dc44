"""A model with its plan: what `compile` returns."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager
from typing import Any, NoReturn

from torch import Tensor

from l2c_rt.adapters.bound_model import BoundModel
from l2c_rt.backends.backend import Backend, Callback
from l2c_rt.device.graphs import GraphStats
from l2c_rt.plan.cost import Cost
from l2c_rt.plan.ops import Plan
from l2c_rt.runtime.run import Run
from l2c_rt.runtime.run_counts import RunCounts
from l2c_rt.runtime.sample import published_solver
from l2c_rt.runtime.session import OpenSessions, Session
from l2c_rt.runtime.shared import SharedModel
from l2c_rt.runtime.summary import Summary
from l2c_rt.schedule.cache_schedule import CacheSchedule

RETURN_THE_MODEL = ("apply", "bfloat16", "cpu", "cuda", "double", "float", "half",
                    "requires_grad_", "share_memory", "to_empty", "train", "type")  # fmt: skip


class Compiled:
    """Call it like the model.  One run at a time; `session()` gives more.

    Attributes that are not its own are the model's (`config`, `dtype`, `in_channels`, ...).
    """

    def __init__(
        self, shared: SharedModel, *, calls_per_step: int, timesteps: tuple[float, ...] | None
    ) -> None:
        self.calls_per_step, self.timesteps = calls_per_step, timesteps
        self._shared = shared
        self._sessions = OpenSessions()
        # One after another: sleeping and waking go through all sessions.
        self._sleeping = threading.Lock()
        self._idle: list[Session] = []
        self._own = self.session()

    @property
    def bound_model(self) -> BoundModel:
        """The model, described."""
        return self._shared.version.model

    @property
    def schedule(self) -> CacheSchedule:
        """What is computed and what is reused."""
        return self._shared.schedule

    @property
    def plan(self) -> Plan:
        """The verified plan that runs follow."""
        return self._shared.version.plan

    @property
    def cost(self) -> Cost:
        """What a run of the plan costs, and a full run."""
        return self._shared.version.cost

    @property
    def backend(self) -> Backend:
        """How evaluations are run."""
        return self._shared.version.backend

    @property
    def counts(self) -> RunCounts:
        """Counts over all sessions so far."""
        return self._shared.counts

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """One evaluation; `lane=` says which guidance branch, where there are several."""
        return self._own(*args, **kwargs)

    forward = __call__

    def forward_with_cfg(self, *args: Any, **kwargs: Any) -> Tensor:
        """The model's own guided call.  Raises AttributeError where the model has none."""
        return self._own.forward_with_cfg(*args, **kwargs)

    def session(self) -> Session:
        """A run of its own: cache and counter.  Close it, or use it in a `with`."""
        return self._new_session(self.calls_per_step, self.timesteps)

    def sample(
        self,
        noise: Tensor,
        y: Any = None,
        cfg_scale: float | None = None,
        callback: Callback | None = None,
    ) -> Tensor:
        """The whole run of the family's published loop; see `Session.sample`.

        Does not touch the run that calls of this object have under way; safe from threads.
        """
        try:
            session = self._idle.pop()
        except IndexError:
            solver = published_solver(self.bound_model, self.schedule, self.timesteps)
            session = self._new_session(1, solver.timesteps)
        latents = session.sample(noise, y, cfg_scale, callback)
        # Only after a run that ended well: one that was interrupted is dropped with its memory.
        self._idle.append(session)
        return latents

    def reset(self, *, forget_timesteps: bool = False) -> None:
        """Forget the run under way."""
        self._own.reset(forget_timesteps=forget_timesteps)

    def cache_context(self, name: str, **where: Any) -> AbstractContextManager[None]:
        """Name the guidance branch of the calls inside; see `Session.cache_context`."""
        return self._own.cache_context(name, **where)

    def sleep(self) -> None:
        """Give the cache's memory back until `wake`; runs under way are forgotten.

        Raises RuntimeError, and leaves everything awake, from inside a call.
        """
        self._refuse_inside("sleep")
        with self._sleeping:
            # First, so that no session takes memory behind this one's back.
            self._shared.asleep = True
            for session in self._sessions.all():
                session.sleep()

    def wake(self) -> None:
        """Take the cache's memory again.

        Raises MemoryError where there is too little; it then sleeps on, and may be woken again.
        """
        self._refuse_inside("wake")
        with self._sleeping:
            for session in self._sessions.all():
                session.wake()
            self._shared.asleep = False

    def poison(self) -> None:
        """Fill the cache with NaN, so that a read of a stale value would show (for tests)."""
        for session in self._sessions.all():
            session.poison()

    def summary(self) -> Summary:
        """What was planned, reused and measured so far."""
        shared, version = self._shared, self._shared.version
        lanes = [lane for session in self._sessions.all() for lane in session.run.lanes.all()]
        graphs = sum((lane.workspace.graph_stats for lane in lanes), GraphStats())
        counts, plan = shared.counts, version.plan
        return Summary(
            model=type(version.model.model).__name__,
            source=shared.schedule.source,
            backend=version.backend.name,
            device=str(version.model.device),
            steps=shared.schedule.steps,
            branches=shared.schedule.num_branches,
            calls_per_step=self.calls_per_step,
            distinct_steps=len(plan.steps),
            reused=plan.reuse_count,
            runs=counts.completed,
            abandoned=counts.abandoned,
            calls=counts.calls,
            slots=plan.num_slots,
            slot_bytes=sum(lane.slots.nbytes for lane in lanes),
            table_bytes=sum(lane.workspace.nbytes for lane in lanes),
            arena_allocations=counts.allocations,
            weight_changes=counts.weight_changes,
            expected_speedup=version.cost.speedup_limit,
            measured_speedup=counts.speedup(plan.order, plan.order[0]),
            graphs=graphs,
            reasons=version.reasons + self._loop_notes() + graphs.reasons,
        )

    def eval(self) -> Compiled:
        self.bound_model.model.eval()
        return self

    def to(self, *args: Any, **kwargs: Any) -> Compiled:
        """Move or cast the model; the next run notices."""
        self.bound_model.model.to(*args, **kwargs)
        return self

    def _new_session(self, lanes: int, timesteps: tuple[float, ...] | None) -> Session:
        session = Session(Run(self._shared, lanes=lanes, timesteps=timesteps))
        self._sessions.add(session)
        return session

    def _refuse_inside(self, action: str) -> None:
        for session in self._sessions.all():
            session.refuse_inside(action)

    def _loop_notes(self) -> tuple[str, ...]:
        if self.counts.completed or not self.counts.abandoned:
            return ()
        return (
            f"no run has been completed; does the loop have {self.schedule.steps} steps, as the "
            "schedule has?",
        )

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "_shared" not in self.__dict__:
            raise AttributeError(name)
        if name in RETURN_THE_MODEL:
            raise AttributeError(
                f"a compiled model has no {name}(), which would return the uncompiled model; "
                "use to(...) or the model itself"
            )
        return getattr(self.bound_model.model, name)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a compiled model is not copied or pickled: compile a copy of the model")

    def __repr__(self) -> str:
        total = self.schedule.steps * self.schedule.num_branches
        return (
            f"Compiled({type(self.bound_model.model).__name__}, {self.schedule.steps} evaluations, "
            f"{total - self.plan.reuse_count} of {total} branch calls computed, "
            f"backend={self.backend.name!r})"
        )
