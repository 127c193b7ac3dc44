"""A model with its plan: what `compile` returns."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from l2c_rt import sampling
from l2c_rt.adapters.bound import Bound
from l2c_rt.adapters.dit import forward_with_cfg
from l2c_rt.backends import Backend
from l2c_rt.cost import Cost
from l2c_rt.plan import Compute, Plan
from l2c_rt.schedule import CacheSchedule
from l2c_rt.session import Session
from l2c_rt.summary import Summary, Timings
from l2c_rt.weights import fingerprint


@dataclass(eq=False)
class Compiled:
    """Call it like the model.  One run at a time; `session()` gives more.

    Attributes that are not its own are the model's (`config`, `dtype`, `in_channels`, ...).
    """

    bound: Bound
    schedule: CacheSchedule
    plan: Plan
    cost: Cost
    backend: Backend
    lanes: int = 1
    timesteps: tuple[float, ...] | None = None
    strict: bool = False
    timings: Timings = field(default_factory=Timings)
    calls: int = 0
    weight_changes: int = 0

    def __post_init__(self) -> None:
        self.weights = fingerprint(self.bound.model)
        self._lock = threading.Lock()
        self._sessions: list[Session] = []
        self._idle: list[Session] = []
        self._runs_of_closed = [0, 0]
        self.asleep = False
        self._own = self.session()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """One evaluation; `lane=` says which guidance branch, where there are several."""
        return self._own(*args, **kwargs)

    forward = __call__

    def forward_with_cfg(self, *args: Any, **kwargs: Any) -> Tensor:
        """The model's own guided call.  Raises AttributeError where the model has none."""
        return self._own.forward_with_cfg(*args, **kwargs)

    def session(self) -> Session:
        """A run of its own: cache and counter.  Close it, or use it in a `with`."""
        session = Session(self, lanes=self.lanes, timesteps=self.timesteps)
        with self._lock:
            self._sessions.append(session)
        return session

    def sample(
        self,
        noise: Tensor,
        y: Any = None,
        cfg_scale: float | None = None,
        callback: Callable[[int, Tensor], None] | None = None,
    ) -> Tensor:
        """The whole run of the family's published loop; see `Session.sample`.

        Does not touch the run that calls of this object have under way; safe from threads.
        """
        with self._lock:
            session = self._idle.pop() if self._idle else None
        if session is None:
            session = self._sampling_session()
        try:
            return session.sample(noise, y, cfg_scale, callback)
        finally:
            with self._lock:
                self._idle.append(session)

    def reset(self, *, forget_timesteps: bool = False) -> None:
        """Forget the run under way."""
        self._own.reset(forget_timesteps=forget_timesteps)

    def cache_context(self, name: str, **where: Any) -> AbstractContextManager[None]:
        """Name the guidance branch of the calls inside; see `Session.cache_context`."""
        return self._own.cache_context(name, **where)

    def sleep(self) -> None:
        """Give the cache's memory back until `wake`; runs under way are forgotten."""
        self.asleep = True
        for session in list(self._sessions):
            session.sleep()

    def wake(self) -> None:
        """Take the cache's memory again."""
        for session in list(self._sessions):
            session.wake()
        self.asleep = False

    def poison(self) -> None:
        """Fill the cache with NaN, so that a read of a stale value would show (for tests)."""
        for session in list(self._sessions):
            session.poison()

    def summary(self) -> Summary:
        """What was planned, reused and measured so far."""
        memories = [m for session in list(self._sessions) for m in session.memories]
        clocks = [session.clock for session in list(self._sessions)]
        return Summary(
            model=type(self.bound.model).__name__,
            source=self.schedule.source,
            backend=self.backend.name,
            device=str(model_device(self.bound)),
            steps=self.schedule.steps,
            branches=self.schedule.num_branches,
            lanes=self.lanes,
            distinct_rows=len(self.plan.steps),
            reused=self.plan.reuse_count,
            runs=self._runs_of_closed[0] + sum(clock.completed for clock in clocks),
            abandoned=self._runs_of_closed[1] + sum(clock.abandoned for clock in clocks),
            calls=self.calls,
            slots=self.plan.num_slots,
            slot_bytes=sum(memory.nbytes for memory in memories),
            arena_allocations=sum(memory.allocations for memory in memories),
            weight_changes=self.weight_changes,
            expected_speedup=self.cost.speedup_bound,
            measured_speedup=self.timings.speedup(self.plan.order, self.plan.order[0]),
            reasons=self.backend.reasons,
        )

    def weights_changed(self, weights: int) -> None:
        """A run is about to begin with other weights than the last one."""
        if self.strict:
            raise ValueError(
                "the model's weights changed since compile, and strict=True refuses that; "
                "compile again"
            )
        self.weight_changes += 1
        self.weights = weights

    def guided(self, session: Session, *args: Any, **kwargs: Any) -> Tensor:
        if not hasattr(self.bound.model, "forward_with_cfg"):
            raise AttributeError(f"{type(self.bound.model).__name__} has no forward_with_cfg")
        return forward_with_cfg(session, *args, **kwargs)

    def run_sampler(
        self,
        session: Session,
        noise: Tensor,
        y: Any,
        cfg_scale: float | None,
        callback: Callable[[int, Tensor], None] | None,
    ) -> Tensor:
        how = self.bound.sampling
        if how is None:
            raise ValueError(f"sample: no published loop for {type(self.bound.model).__name__}")
        if session.clock.lanes != 1:
            raise ValueError(
                "sample: batches cond and uncond, so it needs a session with one lane; call "
                "sample() of the compiled model"
            )
        labels = sampling.check_inputs(noise, y, how)
        solver = sampling.solver_for(self.schedule.sampler or how.sampler, self.schedule.steps)
        scale = how.cfg_scale if cfg_scale is None else cfg_scale
        guided = sampling.guided_call(sampling.tensor_call(self.bound, session), how, labels, scale)
        session.reset()
        latents = noise
        try:
            for step, latents in enumerate(sampling.run(solver, guided, noise)):
                if callback is not None:
                    callback(step, latents)
        finally:
            session.reset()
        return latents

    def forget_session(self, session: Session) -> None:
        with self._lock:
            if session in self._sessions:
                self._sessions.remove(session)
                self._runs_of_closed[0] += session.clock.completed
                self._runs_of_closed[1] += session.clock.abandoned

    def _sampling_session(self) -> Session:
        how = self.bound.sampling
        timesteps: Sequence[float] | None = None
        if how is not None:
            sampler = self.schedule.sampler or how.sampler
            timesteps = sampling.solver_for(sampler, self.schedule.steps).timesteps
        session = Session(self, lanes=1, timesteps=timesteps)
        with self._lock:
            self._sessions.append(session)
        return session

    def eval(self) -> Compiled:
        self.bound.model.eval()
        return self

    def to(self, *args: Any, **kwargs: Any) -> Compiled:
        """Move or cast the model; the next run notices."""
        self.bound.model.to(*args, **kwargs)
        return self

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "bound" not in self.__dict__:
            raise AttributeError(name)
        if name in ("train", "cuda", "cpu", "half", "float", "bfloat16", "double"):
            raise AttributeError(
                f"a compiled model has no {name}(), which would return the uncompiled model; "
                "use to(...) or the model itself"
            )
        return getattr(self.bound.model, name)

    def __repr__(self) -> str:
        computed = sum(
            isinstance(op, Compute) for s in range(self.schedule.steps) for op in self.plan.at(s)
        )
        return (
            f"Compiled({type(self.bound.model).__name__}, {self.schedule.steps} evaluations, "
            f"{computed} of {self.schedule.steps * self.schedule.num_branches} branch calls "
            f"computed, backend={self.backend.name!r})"
        )


def model_device(bound: Bound) -> Any:
    """Where the first parameter lives."""
    return next(bound.model.parameters()).device
