"""One run at a time: its slots, its step counter, its prepared tables.

Sessions of one compiled model share the plan and the weights, and nothing that a run writes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from l2c_rt.adapters.bound_model import State
from l2c_rt.backends.backend import Evaluation
from l2c_rt.memory.slots import Slots
from l2c_rt.runtime.cache_context import StepHints
from l2c_rt.runtime.fingerprint import fingerprint
from l2c_rt.runtime.forward_with_cfg import forward_with_cfg
from l2c_rt.runtime.lanes import Key, Lane, Lanes, key_of, spell
from l2c_rt.runtime.step_clock import StepClock, StepError, Tick
from l2c_rt.runtime.timestep_check import TimestepCheck

if TYPE_CHECKING:
    from l2c_rt.runtime.compiled import Compiled


class Session:
    """A run of a compiled model; call it like the model.

    Not for two threads at once: give each thread a session of its own.
    """

    def __init__(
        self, compiled: Compiled, *, lanes: int, timesteps: Sequence[float] | None = None
    ) -> None:
        self._compiled = compiled
        schedule, counts = compiled.schedule, compiled.counts
        self.clock = StepClock(schedule.steps, lanes, timesteps, schedule.sampler, counts)
        self._check = TimestepCheck(self.clock)
        self.lanes = Lanes(lanes, self._new_lane)
        self._run_key: Key | None = None
        self._announced = StepHints()
        self._in_use = threading.Lock()
        self._user: int | None = None
        self._weights = compiled.weights
        self._asleep = self._closed = False

    def __call__(self, *args: Any, lane: int | None = None, **kwargs: Any) -> Any:
        """One evaluation, with the model's own arguments and return value.

        Raises ValueError for a call that does not fit the run under way, and resets; the next run
        is then as if the failed one had never been.
        """
        with self._alone():
            return self._call(args, kwargs, lane)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else uses the session meanwhile; it is reset where something fails."""
        if not self._in_use.acquire(blocking=False):
            raise RuntimeError(
                "this session is being called from another thread; open one session per thread: "
                "with fast.session() as s: s(x, t, y)"
            )
        self._user = threading.get_ident()
        try:
            yield
        except BaseException:
            self.reset()
            raise
        finally:
            self._user = None
            self._in_use.release()

    forward = __call__

    def forward_with_cfg(self, *args: Any, **kwargs: Any) -> Tensor:
        """The model's own guided call.  Raises AttributeError where the model has none."""
        try:
            return forward_with_cfg(self._compiled.bound_model.model, self, *args, **kwargs)
        except BaseException:
            self.reset()
            raise

    def sample(
        self,
        noise: Tensor,
        y: Any = None,
        cfg_scale: float | None = None,
        callback: Callable[[int, Tensor], None] | None = None,
    ) -> Tensor:
        """The whole run of the family's published loop.

        `cfg_scale` None is the family's default; `callback(step, latents)` is called after every
        evaluation, and may raise to stop.
        Shapes: noise and result [n, C, H, W]; y [n] labels, or None for a model without.
        """
        return self._compiled.run_sampler(self, noise, y, cfg_scale, callback)

    def run_whole(self, key: Key, work: Callable[[Any, Slots], Tensor]) -> Tensor:
        """A run that a workspace does in one go, where the backend has whole runs."""
        with self._alone():
            self._check_usable()
            with torch.inference_mode(False), torch.no_grad():
                self.reset()
                kept = self.lanes.at(key)
                self._begin_run(kept)
                out = work(kept[0].workspace, kept[0].slots)
                times = kept[0].workspace.run_times()
            self._compiled.counts.whole_runs(self.clock.steps, times)
            return out

    def reset(self, *, forget_timesteps: bool = False) -> None:
        """Forget the run under way, and with `forget_timesteps` the loop it was checked against."""
        self._check.reset(forget_timesteps=forget_timesteps)
        self._run_key = None

    def cache_context(
        self,
        name: str,
        *,
        step: int | None = None,
        num_steps: int | None = None,
        sigma: object = None,
    ) -> AbstractContextManager[None]:
        """diffusers' way of naming the guidance branch: "cond" is lane 0, "uncond" lane 1.

        `step` and `num_steps`, where the loop gives them, are checked; `sigma` is not used.
        """
        return self._announced.context(name, self.clock.lanes, step, num_steps)

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Forget the run and give the session's memory back; it cannot be called any more."""
        self.reset()
        self._closed = True
        self.lanes.clear()

    def sleep(self) -> None:
        """Give slots and tables back; the run under way is forgotten, addresses stay."""
        with self._between_calls("sleep"):
            self.reset()
            self._asleep = True
            for lane in self.lanes.all():
                lane.slots.sleep()
                if lane.workspace is not None:
                    lane.workspace.forget()

    def wake(self) -> None:
        """Take the slots' memory again."""
        with self._between_calls("wake"):
            for lane in self.lanes.all():
                lane.slots.wake()
            self._asleep = False

    def poison(self) -> None:
        """Fill every slot with NaN, so that a stale read would show."""
        for lane in self.lanes.all():
            lane.slots.poison()

    @contextmanager
    def _between_calls(self, what: str) -> Iterator[None]:
        if self._user == threading.get_ident():
            raise RuntimeError(f"{what}() was called from inside a call of this session")
        with self._in_use:
            yield

    def _new_lane(self) -> Lane:
        compiled = self._compiled
        slots = Slots(compiled.plan.num_slots + compiled.backend.scratch, compiled.memory_taken)
        return Lane(slots, compiled.backend.workspace(compiled.plan))

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any], lane: int | None) -> Any:
        self._check_usable()
        # Slots and tables outlive the call, so they must not be inference tensors.
        with torch.inference_mode(False), torch.no_grad():
            state = self._compiled.bound_model.begin(*args, **kwargs)
            key, tick = key_of(state), self._check.tick(state.t, self._announced.now(lane))
            self._check_key(key, tick)
            kept = self.lanes.at(key)
            if tick.first:
                self._begin_run(kept)
            out = self._evaluate(tick, state, kept[tick.lane], key)
        self._check.done()
        return out

    def _check_usable(self) -> None:
        if self._closed:
            raise RuntimeError("this session is closed: open another with fast.session()")
        if self._asleep or self._compiled.asleep:
            raise RuntimeError("this model is asleep: call wake() before the next run")

    def _evaluate(self, tick: Tick, state: State, lane: Lane, key: Key) -> Any:
        compiled = self._compiled
        row = compiled.plan.order[tick.step]
        frame = Evaluation(compiled.bound_model, state, lane.slots, tick.step, row)
        if lane.workspace is not None:
            lane.workspace.begin(frame, self.clock.timesteps)
        began = time.perf_counter()
        out = compiled.backend.run(compiled.plan.at(tick.step), frame)
        if key[2].type == "cpu":
            compiled.counts.time(key, row, time.perf_counter() - began)
        elif lane.workspace is not None:
            for ended, seconds in lane.workspace.times():
                compiled.counts.time(key, ended, seconds)
        compiled.counts.calls += 1
        return out

    def _check_key(self, key: Key, tick: Tick) -> None:
        if tick.first:
            self._run_key = key
        if self._run_key is not None and key != self._run_key:
            raise StepError(
                f"step {tick.step}: input is {spell(key)}, but the run began with "
                f"{spell(self._run_key)}; finish the run or call reset() before changing it"
            )

    def _begin_run(self, kept: list[Lane]) -> None:
        weights = fingerprint(self._compiled.bound_model.model)
        if weights != self._weights:
            self._compiled.weights_changed(weights)
            for lane in self.lanes.all():
                lane.workspace = self._compiled.backend.workspace(self._compiled.plan)
            self._weights = weights
        for lane in kept:
            if lane.workspace is not None:
                lane.workspace.forget()
