"""One run at a time: its slots, its step counter, its prepared tables.

Sessions of one compiled model share the plan and the weights, and nothing that a run writes.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from l2c_rt.adapters.bound import State
from l2c_rt.backends.frame import Frame
from l2c_rt.executor import run_step
from l2c_rt.guided import forward_with_cfg
from l2c_rt.lanes import Key, Lane, Lanes, key_of, spell
from l2c_rt.slots import Slots
from l2c_rt.steps import StepClock, StepError, Tick
from l2c_rt.timesteps import DeferredCheck, host_timestep
from l2c_rt.watch import fingerprint

if TYPE_CHECKING:
    from l2c_rt.compiled import Compiled

Announced = tuple[int | None, int | None, int | None]
"""Lane, step and number of steps, as far as the loop says them."""


class Session:
    """A run of a compiled model; call it like the model.

    Not for two threads at once: give each thread a session of its own.
    """

    def __init__(
        self, compiled: Compiled, *, lanes: int, timesteps: Sequence[float] | None = None
    ) -> None:
        self._compiled = compiled
        schedule, tally = compiled.schedule, compiled.tally
        self.clock = StepClock(schedule.steps, lanes, timesteps, schedule.sampler, tally)
        self.lanes = Lanes(lanes, self._new_lane)
        self._run_key: Key | None = None
        self._deferred: DeferredCheck | None = None
        self._announced: list[Announced] = []
        self._in_use = threading.Lock()
        self._user: int | None = None
        self._weights = compiled.weights
        self._asleep = self._closed = False

    def __call__(self, *args: Any, lane: int | None = None, **kwargs: Any) -> Any:
        """One evaluation, with the model's own arguments and return value.

        Raises ValueError for a call that does not fit the run under way, and resets; the next run
        is then as if the failed one had never been.
        """
        if not self._in_use.acquire(blocking=False):
            raise RuntimeError(
                "this session is being called from another thread; open one session per thread: "
                "with fast.session() as s: s(x, t, y)"
            )
        self._user = threading.get_ident()
        try:
            return self._call(args, kwargs, lane)
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
            return forward_with_cfg(self._compiled.bound.model, self, *args, **kwargs)
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

    def reset(self, *, forget_timesteps: bool = False) -> None:
        """Forget the run under way, and with `forget_timesteps` the loop it was checked against."""
        self.clock.reset(forget_timesteps=forget_timesteps)
        self._run_key = None
        if self._deferred is not None:
            self._deferred.clear()
            if forget_timesteps:
                self._deferred.forget()

    @contextmanager
    def cache_context(
        self,
        name: str,
        *,
        step: int | None = None,
        num_steps: int | None = None,
        sigma: object = None,
    ) -> Iterator[None]:
        """diffusers' way of naming the guidance branch: "cond" is lane 0, "uncond" lane 1.

        `step` and `num_steps`, where the loop gives them, are checked; `sigma` is not used.
        """
        lanes = {"cond": 0, "uncond": 1}
        if name not in lanes:
            raise ValueError(f"cache_context: got {name!r}, wanted one of {', '.join(lanes)}")
        self._announced.append((lanes[name] if self.clock.lanes > 1 else 0, step, num_steps))
        try:
            yield
        finally:
            self._announced.pop()

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
        slots = Slots(compiled.plan.num_slots, compiled.memory_taken)
        return Lane(slots, compiled.backend.workspace())

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any], lane: int | None) -> Any:
        if self._closed:
            raise RuntimeError("this session is closed: open another with fast.session()")
        if self._asleep or self._compiled.asleep:
            raise RuntimeError("this model is asleep: call wake() before the next run")
        # Slots and tables outlive the call, so they must not be inference tensors.
        with torch.inference_mode(False), torch.no_grad():
            state = self._compiled.bound.begin(*args, **kwargs)
            key, tick = key_of(state), self._tick(state.t, self._announcement(lane))
            self._check_key(key, tick)
            kept = self.lanes.at(key)
            if tick.first:
                self._begin_run(kept)
            out = self._evaluate(tick, state, kept[tick.lane], key)
        if self.clock.done() and self._deferred is not None:
            self._deferred.remember()
            self._deferred.raise_if_bad()
        return out

    def _announcement(self, lane: int | None) -> Announced:
        if not self._announced:
            return lane, None, None
        named, step, num_steps = self._announced[-1]
        if lane is not None and lane != named:
            raise StepError(f"lane {lane} was called inside the context of lane {named}")
        return named, step, num_steps

    def _tick(self, t: Any, announced: Announced) -> Tick:
        value = host_timestep(t)
        if value is not None:
            return self.clock.tick(value, *announced)
        if self._deferred is None or self._deferred.device != t.device:
            steps, given = self.clock.steps, self.clock.timesteps
            self._deferred = DeferredCheck(steps, given, t.device)
        self._deferred.raise_if_bad()
        tick = self.clock.tick(None, *announced)
        self._deferred.add(t, tick.step)
        return tick

    def _evaluate(self, tick: Tick, state: State, lane: Lane, key: Key) -> Any:
        compiled = self._compiled
        frame = Frame(compiled.bound, state, lane.slots, tick.step)
        if lane.workspace is not None:
            lane.workspace.begin(frame, self.clock.timesteps)
        began = time.perf_counter()
        out = run_step(compiled.plan.at(tick.step), compiled.backend.table, frame)
        if key[2].type == "cpu":
            row = compiled.plan.order[tick.step]
            compiled.tally.time(key, row, time.perf_counter() - began)
        compiled.tally.calls += 1
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
        weights = fingerprint(self._compiled.bound.model)
        if weights != self._weights:
            self._compiled.weights_changed(weights)
            for lane in self.lanes.all():
                lane.workspace = self._compiled.backend.workspace()
            self._weights = weights
        for lane in kept:
            if lane.workspace is not None:
                lane.workspace.forget()
