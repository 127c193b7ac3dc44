"""A model with its plan: what `compile` returns."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, NoReturn

from torch import Tensor, nn

from l2c_rt.adapters.bound_model import BoundModel
from l2c_rt.backends import Backend
from l2c_rt.plan.cost import Cost
from l2c_rt.plan.ops import Plan
from l2c_rt.runtime.fingerprint import check_bypassed, check_mode, fingerprint
from l2c_rt.runtime.session import Session
from l2c_rt.runtime.summary import GraphStats, RunCounts, Summary
from l2c_rt.sampling import loops as sampling
from l2c_rt.schedule.cache_schedule import CacheSchedule

RETURN_THE_MODEL = ("apply", "bfloat16", "cpu", "cuda", "double", "float", "half",
                    "requires_grad_", "share_memory", "to_empty", "train", "type")  # fmt: skip


@dataclass(eq=False)
class Compiled:
    """Call it like the model.  One run at a time; `session()` gives more.

    Attributes that are not its own are the model's (`config`, `dtype`, `in_channels`, ...).
    """

    bound_model: BoundModel
    schedule: CacheSchedule
    unfused: Plan
    plan: Plan
    cost: Cost
    backend: Backend
    bind: Callable[[nn.Module], BoundModel]
    choose: Callable[[BoundModel], Backend]
    lanes: int = 1
    timesteps: tuple[float, ...] | None = None
    strict: bool = False
    counts: RunCounts = field(default_factory=RunCounts)

    def __post_init__(self) -> None:
        self.weights = fingerprint(self.bound_model.model)
        self.asleep = False
        self._lock = threading.Lock()
        self._sessions: weakref.WeakSet[Session] = weakref.WeakSet()
        self._idle: list[Session] = []
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
        return self._new_session(self.lanes, self.timesteps)

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
            session = self._new_session(1, sampling.published_solver(self).timesteps)
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
        for session in list(self._sessions):
            session.sleep()
        self.asleep = True

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
        lanes = [lane for session in list(self._sessions) for lane in session.lanes.all()]
        spaces = [lane.workspace for lane in lanes if lane.workspace is not None]
        captured = sum((space.captured for space in spaces), GraphStats())
        counts = self.counts
        return Summary(
            model=type(self.bound_model.model).__name__,
            source=self.schedule.source,
            backend=self.backend.name,
            device=str(self.bound_model.device),
            steps=self.schedule.steps,
            branches=self.schedule.num_branches,
            lanes=self.lanes,
            distinct_rows=len(self.plan.steps),
            reused=self.plan.reuse_count,
            runs=counts.completed,
            abandoned=counts.abandoned,
            calls=counts.calls,
            slots=self.plan.num_slots,
            slot_bytes=sum(lane.slots.nbytes for lane in lanes),
            table_bytes=sum(space.nbytes for space in spaces),
            arena_allocations=counts.allocations,
            weight_changes=counts.weight_changes,
            expected_speedup=self.cost.speedup_limit,
            measured_speedup=counts.speedup(self.plan.order, self.plan.order[0]),
            captured=captured,
            reasons=self._reasons() + captured.reasons,
        )

    def memory_taken(self) -> None:
        """Called by slots whenever they take memory from an arena."""
        self.counts.allocations += 1

    def weights_changed(self, weights: int) -> None:
        """A run is about to begin on a model that is not as it was: describe it anew.

        Raises ValueError under `strict`, or where the plan no longer fits.
        """
        if self.strict:
            raise ValueError(
                "the model's weights changed since compile, and strict=True refuses that; "
                "compile again"
            )
        with self._lock:
            if weights == self.weights:
                return
            check_mode(self.bound_model.model)
            bound_model = self.bind(self.bound_model.model)
            if bound_model.program != self.bound_model.program:
                raise ValueError("the model's structure changed since compile; compile again")
            check_bypassed(bound_model.bypassed)
            self.backend = self.choose(bound_model)
            self.plan = self.backend.passes(self.unfused, bound_model.program)
            self.bound_model, self.weights = bound_model, weights
            self.counts.weight_changes += 1

    def run_sampler(
        self,
        session: Session,
        noise: Tensor,
        y: Any,
        cfg_scale: float | None,
        callback: Callable[[int, Tensor], None] | None,
    ) -> Tensor:
        """See `Session.sample`."""
        if self.backend.whole_runs:
            return sampling.whole_run(self, session, noise, y, cfg_scale, callback)
        steps = sampling.published_run(self, session, noise, y, cfg_scale)
        session.reset()
        latents = noise
        try:
            for step, latents in enumerate(steps):
                if callback is not None:
                    callback(step, latents)
        finally:
            session.reset()
        return latents

    def _new_session(self, lanes: int, timesteps: tuple[float, ...] | None) -> Session:
        session = Session(self, lanes=lanes, timesteps=timesteps)
        with self._lock:
            self._sessions.add(session)
        return session

    def _reasons(self) -> tuple[str, ...]:
        reasons = self.backend.reasons + check_bypassed(self.bound_model.bypassed)
        if self.counts.abandoned and not self.counts.completed:
            reasons += (
                f"no run has been completed; does the loop have {self.schedule.steps} steps, as "
                "the schedule has?",
            )
        return reasons

    def eval(self) -> Compiled:
        self.bound_model.model.eval()
        return self

    def to(self, *args: Any, **kwargs: Any) -> Compiled:
        """Move or cast the model; the next run notices."""
        self.bound_model.model.to(*args, **kwargs)
        return self

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "bound_model" not in self.__dict__:
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
