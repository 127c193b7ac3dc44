"""What `compile` returns: a model with its plan, called like the model."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, NoReturn

from torch import Tensor, nn

from l2c_rt.adapters.bound_model import BoundModel
from l2c_rt.adapters.model_view import ModelView, view_of
from l2c_rt.backends.backend import Backend, Callback
from l2c_rt.plan.cost import Cost
from l2c_rt.plan.ops import Plan
from l2c_rt.runtime.known_loop import KnownLoop
from l2c_rt.runtime.last_run import LastRun, last_run
from l2c_rt.runtime.run import Run
from l2c_rt.runtime.session import OpenSessions, Session
from l2c_rt.runtime.shared import SharedModel
from l2c_rt.runtime.summary import Summary, summarize
from l2c_rt.schedule.cache_schedule import CacheSchedule

if TYPE_CHECKING:
    from typing_extensions import Self


REPLICAS = (
    "replicas of nn.DataParallel are the model itself, computed in full: compile a copy of the "
    "model on each device, or let torchrun start a process for each"
)


class Compiled(Session, ModelView):
    """A model with its plan, and a session of its own: call it like the model.

    One run at a time; `session()` gives more.  It is a module of the model's own class: attributes,
    weights and children are the model's, and so is what changes them (`to`, `train`,
    `load_state_dict`, ...).  Names of its own (`sample`, `summary`, `reset`, ...) come before the
    model's, which `bound_model.model` has.  Forward hooks on it run around its calls.
    """

    __slots__ = ("_idle", "_sessions", "_shared", "_sleeping", "calls_per_step")

    def __new__(cls, shared: SharedModel, **_: object) -> Self:
        return view_of(shared.version.model.model, cls)

    def __init__(self, shared: SharedModel, *, calls_per_step: int) -> None:
        Session.__init__(self, Run(shared, lanes=calls_per_step, loop=shared.loop))
        self.calls_per_step = calls_per_step
        self._shared = shared
        self._sessions = OpenSessions()
        # One after another: sleeping and waking go through all sessions.
        self._sleeping = threading.Lock()
        self._idle: list[Session] = []

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
    def timesteps(self) -> tuple[float, ...] | None:
        """Those of the loop, given or shown by a complete run; None where nothing is known."""
        loop = self._shared.loop
        return None if loop is None else loop.timesteps

    @property
    def last_run(self) -> LastRun:
        """What the run that began last did, in whichever session: branch by branch, with the metric
        where the method decides at run time."""
        return last_run(self._shared.last_record, self._shared)

    @property
    def cost(self) -> Cost:
        """What a run of the plan costs, and a full run.

        Of a model that runs its own forward: counted at the first call, for inputs like the last
        run's; before it, estimated from the sizes of the weights.
        """
        return self._shared.cost

    @property
    def backend(self) -> Backend:
        """How evaluations are run."""
        return self._shared.version.backend

    def session(self) -> Session:
        """A run of its own: cache and counter.  Close it, or use it in a `with`."""
        return self._new_session(self.calls_per_step, self._shared.loop)

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
            session = self._new_session(1, self._shared.loop)
        latents = session.sample(noise, y, cfg_scale, callback)
        # Only after a run that ended well: one that was interrupted is dropped with its memory.
        self._idle.append(session)
        return latents

    def sleep(self) -> None:
        """Give the memory of all sessions back until `wake`; runs under way are forgotten.

        Raises RuntimeError, and leaves everything awake, from inside a call.
        """
        self._refuse_inside_any("sleep")
        with self._sleeping:
            # First, so that no session takes memory behind this one's back.
            self._shared.asleep = True
            super().sleep()
            for session in self._sessions.all():
                session.sleep()
            copies = self.backend.copies
            if copies is not None:
                copies.drop()

    def wake(self) -> None:
        """Take the memory of all sessions again.

        Raises MemoryError where there is too little; it then sleeps on, and may be woken again.
        """
        self._refuse_inside_any("wake")
        with self._sleeping:
            super().wake()
            for session in self._sessions.all():
                session.wake()
            self._shared.asleep = False

    def poison(self) -> None:
        """Fill the cache with NaN, so that a read of a stale value would show (for tests)."""
        super().poison()
        for session in self._sessions.all():
            session.poison()

    def summary(self) -> Summary:
        """What was planned, reused and measured so far."""
        runs = [session.run for session in (self, *self._sessions.all())]
        return summarize(self._shared, runs)

    def _reset_stateful_cache(self, recurse: bool = True) -> None:
        """What diffusers' pipelines call after their loop, or where they gave it up."""
        self._turn.wait("reset", lambda: self.run.end("a pipeline's loop ended"))

    def _new_session(self, lanes: int, loop: KnownLoop | None) -> Session:
        session = Session(Run(self._shared, lanes=lanes, loop=loop))
        self._sessions.add(session)
        return session

    def _refuse_inside_any(self, action: str) -> None:
        for session in (self, *self._sessions.all()):
            session.refuse_inside(action)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a compiled model is not copied or pickled: compile a copy of the model")

    def __deepcopy__(self, memo: object) -> NoReturn:
        # The model's class may have one.
        self.__reduce_ex__(None)

    def _replicate_for_data_parallel(self) -> nn.Module:
        """What DataParallel calls on every device: the model itself, which keeps nothing."""
        self._shared.notices.tell([REPLICAS])
        replica: nn.Module = self.bound_model.model._replicate_for_data_parallel()
        return replica

    def __copy__(self) -> NoReturn:
        self.__reduce_ex__(None)

    def __repr__(self) -> str:
        total = self.schedule.steps * self.schedule.num_branches
        return (
            f"Compiled({type(self.bound_model.model).__name__}, {self.schedule.steps} evaluations, "
            f"{total - self.plan.reuse_count} of {total} branch calls computed, "
            f"backend={self.backend.name!r})"
        )
