"""What users hold: a run that they call like the model."""

from __future__ import annotations

import threading
import weakref
from contextlib import AbstractContextManager
from typing import Any, NoReturn

from torch import Tensor

from l2c_rt.backends.backend import Callback
from l2c_rt.runtime.cache_context import Announcement, StepHints
from l2c_rt.runtime.forward_with_cfg import forward_with_cfg
from l2c_rt.runtime.last_run import LastRun, last_run
from l2c_rt.runtime.run import Run
from l2c_rt.runtime.sample import sample
from l2c_rt.runtime.turn import Turn


class Session:
    """A run of a compiled model; call it like the model.

    Not for two threads at once: give each thread a session of its own.
    """

    # Of a view of a model the dictionary is the model's.
    __slots__ = ("__weakref__", "_hints", "_turn", "run")

    def __init__(self, run: Run) -> None:
        self.run = run
        self._turn = Turn()
        self._hints = StepHints(run.lanes.count)

    def __call__(self, *args: Any, lane: int | None = None, **kwargs: Any) -> Any:
        """One evaluation, with the model's own arguments and return value.

        `lane=` says which of several calls per step it is; without it they take turns.
        Raises ValueError for a call that does not fit the run under way, and resets; the next run
        is then as if the failed one had never been.  RuntimeError while another call goes on.
        """
        return self._turn.take(self.run.reset, self._call, args, kwargs, lane)

    forward = __call__

    def forward_with_cfg(self, *args: Any, **kwargs: Any) -> Tensor:
        """The model's own guided call.  Raises AttributeError where the model has none."""

        def forward(*args: Any, lane: int | None = None, **kwargs: Any) -> Any:
            return self._call(args, kwargs, lane)

        model = self.run.version.model.model
        return self._turn.take(self.run.reset, forward_with_cfg, model, forward, *args, **kwargs)

    def sample(
        self,
        noise: Tensor,
        y: Any = None,
        cfg_scale: float | None = None,
        callback: Callback | None = None,
    ) -> Tensor:
        """The whole run of the family's published loop.

        `cfg_scale` None is the family's default; `callback(step, latents)` is called after every
        evaluation, and may raise to stop.
        Shapes: noise and result [n, C, H, W]; y [n] labels, or None for a model without.
        """
        return self._turn.take(self.run.reset, sample, self.run, noise, y, cfg_scale, callback)

    def reset(self, *, forget_timesteps: bool = False) -> None:
        """Forget the run under way, and with `forget_timesteps` the loop it was checked against.

        From another thread it waits for the call that goes on.
        """
        if self._turn.mine:
            self.run.reset(forget_timesteps=forget_timesteps)
        else:
            self._turn.wait("reset", lambda: self.run.reset(forget_timesteps=forget_timesteps))

    @property
    def last_run(self) -> LastRun:
        """What the run under way, or the last one, did: branch by branch, with the metric where
        the method decides at run time."""
        return last_run(self.run.recording.record, self.run.shared)

    def cache_context(self, name: str | None, **keywords: Any) -> AbstractContextManager[None]:
        """diffusers' way of naming one of several calls per step.

        "cond", "cond_uncond" and "pred_cond" are lane 0, "uncond" and "pred_uncond" lane 1; any
        other name takes the next free lane, in order of first use within a run.  With one call
        per step every name is lane 0.
        `step` and `num_steps`, which diffusers calls `step_index` and `num_inference_steps`, are
        checked; `sigma` is the noise level in 0..1, for SeaCache; `timestep` is not used.
        Raises TypeError for another keyword; the call raises ValueError for a name too many.
        """
        return self._hints.context(Announcement.of(name, **keywords))

    def __enter__(self) -> Session:
        return self

    def __exit__(self, error: object, *_: object) -> None:
        if error is not None:
            # Who leaves by an error knows that the run was not finished.
            self._turn.wait("reset", self.run.reset)
        self.close()

    def close(self) -> None:
        """Forget the run and give the session's memory back; it cannot be called any more."""
        self._turn.wait("close", self.run.close)

    def sleep(self) -> None:
        """Give slots and tables back; the run under way is forgotten, addresses stay."""
        self._turn.wait("sleep", self.run.sleep)

    def wake(self) -> None:
        """Take the slots' memory again.  Raises MemoryError where there is too little."""
        self._turn.wait("wake", self.run.wake)

    def refuse_inside(self, action: str) -> None:
        """Raise RuntimeError where `action` is asked for from inside a call of this session."""
        self._turn.refuse_inside(action)

    def poison(self) -> None:
        """Fill every slot with NaN, so that a stale read would show."""
        for lane in self.run.lanes.all():
            lane.slots.poison()

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(
            "a session is not copied or pickled: open another session with fast.session(); in "
            "another process, compile the model there"
        )

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any], lane: int | None) -> Any:
        clock, names = self.run.clock, self._hints.names
        if not clock.mid_run:
            names.begin_run()
        abandoned = clock.abandoned
        out = self.run.call(args, kwargs, self._hints.current(lane))
        if clock.abandoned != abandoned:
            # A run that was not finished, and whose names the next calls may not find taken.
            names.keep_only(self._hints.name)
        return out


class OpenSessions:
    """The sessions that somebody holds, to be listed from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sessions: list[weakref.ref[Session]] = []

    def add(self, session: Session) -> None:
        with self._lock:
            alive = [ref for ref in self._sessions if ref() is not None]
            self._sessions = [*alive, weakref.ref(session)]

    def all(self) -> list[Session]:
        """Those that are there now."""
        # The list is replaced, never changed, so that it can be read without the lock.
        return [session for ref in self._sessions if (session := ref()) is not None]
