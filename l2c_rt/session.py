"""One run at a time: its slots, its step counter, its prepared tables.

Sessions of one compiled model share the plan and the weights, and nothing that a run writes.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from l2c_rt.adapters.bound import State
from l2c_rt.backends.frame import Frame
from l2c_rt.executor import run_step
from l2c_rt.slots import Slots
from l2c_rt.steps import StepClock, StepError, Tick
from l2c_rt.timesteps import DeferredCheck, host_timestep
from l2c_rt.weights import fingerprint

if TYPE_CHECKING:
    from l2c_rt.compiled import Compiled

MAX_SHAPES = 4
"""Input shapes whose slots a session keeps; the least recently used one is dropped."""

Key = tuple[tuple[int, ...], torch.dtype, torch.device]


@dataclass(slots=True)
class _Lane:
    slots: Slots
    workspace: Any


class Session:
    """A run of a compiled model; call it like the model.

    Not for two threads at once: give each thread a session of its own.
    """

    def __init__(
        self, compiled: Compiled, *, lanes: int, timesteps: Sequence[float] | None = None
    ) -> None:
        schedule = compiled.schedule
        self._compiled = compiled
        self._clock = StepClock(schedule.steps, lanes, timesteps, schedule.sampler)
        self._shapes: OrderedDict[Key, list[_Lane]] = OrderedDict()
        self._run_key: Key | None = None
        self._deferred: DeferredCheck | None = None
        self._announced: list[tuple[int, int | None, int | None]] = []
        self._in_use = threading.Lock()
        self._weights = compiled.weights

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
        try:
            return self._call(args, kwargs, lane)
        except BaseException:
            self.reset()
            raise
        finally:
            self._in_use.release()

    forward = __call__

    def forward_with_cfg(
        self, x: Tensor, t: Tensor, y: Tensor, cfg_scale: float, **options: Any
    ) -> Tensor:
        """The model's own guided call.  Raises AttributeError where the model has none."""
        return self._compiled.guided(self, x, t, y, cfg_scale, **options)

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
        self._clock.reset(forget_timesteps=forget_timesteps)
        self._run_key = None
        if self._deferred is not None:
            self._deferred.clear()
            if forget_timesteps:
                self._deferred.forget()

    @contextmanager
    def cache_context(
        self, name: str, *, step: int | None = None, num_steps: int | None = None, **_: Any
    ) -> Iterator[None]:
        """diffusers' way of naming the guidance branch: "cond" is lane 0, "uncond" lane 1.

        `step` and `num_steps`, where the loop gives them, are checked.
        """
        lanes = {"cond": 0, "uncond": 1}
        if name not in lanes:
            raise ValueError(f"cache_context: got {name!r}, wanted one of {', '.join(lanes)}")
        lane = lanes[name] if self._clock.lanes > 1 else 0
        self._announced.append((lane, step, num_steps))
        try:
            yield
        finally:
            self._announced.pop()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Forget the run and give the session's memory back."""
        self.reset()
        self._shapes.clear()
        self._compiled.forget_session(self)

    def sleep(self) -> None:
        """Give the slots' memory back; the run under way is forgotten, addresses stay."""
        with self._in_use:
            self.reset()
            for lane in self._all_lanes():
                lane.slots.sleep()

    def wake(self) -> None:
        """Take the slots' memory again."""
        with self._in_use:
            for lane in self._all_lanes():
                lane.slots.wake()

    def poison(self) -> None:
        """Fill every slot with NaN, so that a stale read would show."""
        for lane in self._all_lanes():
            lane.slots.poison()

    @property
    def clock(self) -> StepClock:
        return self._clock

    @property
    def memories(self) -> list[Any]:
        """The slot memory of every lane and shape that has any."""
        found = [lane.slots.memory for lane in self._all_lanes()]
        return [memory for memory in found if memory is not None]

    def _all_lanes(self) -> list[_Lane]:
        return [lane for lanes in self._shapes.values() for lane in lanes]

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any], lane: int | None) -> Any:
        if self._compiled.asleep:
            raise RuntimeError("this model is asleep: call wake() before the next run")
        announced = self._announced[-1] if self._announced else (lane, None, None)
        state = self._compiled.bound.begin(*args, **kwargs)
        key = (tuple(state.x.shape), state.x.dtype, state.x.device)
        tick = self._tick(state.t, announced)
        self._check_key(key, tick)
        if tick.first:
            self._begin_run()
        with torch.no_grad():
            out = self._evaluate(tick, state, self._lanes(key)[tick.lane])
        if self._clock.done() and self._deferred is not None:
            self._deferred.remember()
            self._deferred.raise_if_bad()
        return out

    def _tick(self, t: Any, announced: tuple[int | None, int | None, int | None]) -> Tick:
        value = host_timestep(t)
        if value is not None:
            return self._clock.tick(value, *announced)
        if self._deferred is None or self._deferred.device != t.device:
            steps, given = self._clock.steps, self._clock.timesteps
            self._deferred = DeferredCheck(steps, given, t.device)
        self._deferred.raise_if_bad()
        tick = self._clock.tick(None, *announced)
        self._deferred.add(t, tick.step)
        return tick

    def _evaluate(self, tick: Tick, state: State, lane: _Lane) -> Any:
        compiled = self._compiled
        frame = Frame(compiled.bound, state, lane.slots, tick.step)
        began = time.perf_counter()
        if lane.workspace is not None:
            lane.workspace.begin(frame, self._clock.timesteps)
        out = run_step(compiled.plan.at(tick.step), compiled.backend.table, frame)
        if state.x.device.type == "cpu":
            compiled.timings.add(compiled.plan.order[tick.step], time.perf_counter() - began)
        compiled.calls += 1
        return out

    def _check_key(self, key: Key, tick: Tick) -> None:
        if tick.first:
            self._run_key = key
        if self._run_key is not None and key != self._run_key:
            raise StepError(
                f"step {tick.step}: input is {_spell(key)}, but the run began with "
                f"{_spell(self._run_key)}; finish the run or call reset() before changing it"
            )

    def _begin_run(self) -> None:
        weights = fingerprint(self._compiled.bound.model)
        if weights == self._weights:
            return
        self._compiled.weights_changed(weights)
        self._weights = weights
        for lane in self._all_lanes():
            if lane.workspace is not None:
                lane.workspace.forget()

    def _lanes(self, key: Key) -> list[_Lane]:
        if key in self._shapes:
            self._shapes.move_to_end(key)
            return self._shapes[key]
        compiled = self._compiled
        fresh = [
            _Lane(Slots(compiled.plan.num_slots), compiled.backend.workspace())
            for _ in range(self._clock.lanes)
        ]
        self._shapes[key] = fresh
        while len(self._shapes) > MAX_SHAPES:
            self._shapes.popitem(last=False)
        return fresh


def _spell(key: Key) -> str:
    shape, dtype, device = key
    return f"{list(shape)} {str(dtype).removeprefix('torch.')} on {device}"
