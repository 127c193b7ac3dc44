"""One run at a time: where it is, its slots and its workspaces.

Runs of one compiled model share its version, and nothing that a run writes.  Whoever calls a run
has it alone: `Turn` sees to that.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

from l2c_rt.adapters.bound_model import PublishedLoop, State
from l2c_rt.adapters.model_checks import check_device
from l2c_rt.adapters.own.modes import without_gradients
from l2c_rt.backends.backend import (
    Callback,
    RunRequest,
    WholeRuns,
    WrongResultError,
    carried_out,
)
from l2c_rt.runtime import loop_messages as messages
from l2c_rt.runtime.cache_context import StepHint
from l2c_rt.runtime.calls import StepError, Tick
from l2c_rt.runtime.known_loop import KnownLoop
from l2c_rt.runtime.lanes import InputKey, Lanes
from l2c_rt.runtime.profiler_ranges import trace_range
from l2c_rt.runtime.recording import Recording
from l2c_rt.runtime.sample_lanes import SampleLanes
from l2c_rt.runtime.shared import SharedModel
from l2c_rt.runtime.step_clock import StepClock
from l2c_rt.runtime.timestep_check import TimestepCheck
from l2c_rt.sampling.inputs import LabelCheck, check_batch, check_dtype, check_images


class Run:
    """The run under way, or none; begins anew after its last evaluation, an error, a reset."""

    def __init__(self, shared: SharedModel, *, lanes: int, loop: KnownLoop | None = None) -> None:
        self.shared, self.version = shared, shared.version
        self.clock = StepClock(shared.schedule.steps, lanes, loop, shared.counts, shared.note_loop)
        self._check = TimestepCheck(self.clock)
        self._labels, self._sample_lanes = LabelCheck(), SampleLanes(lanes)
        self.lanes = Lanes(lanes, shared.memory_taken)
        self._key: InputKey | None = None
        self._in_call = self._asleep = self._closed = False
        self.recording = Recording(shared)

    def call(self, args: tuple[Any, ...], kwargs: dict[str, Any], hint: StepHint) -> Any:
        """One evaluation, with the model's own arguments and return value.

        Raises StepError, a ValueError, for a call that does not fit the run under way.
        """
        self._check_usable()
        if self._in_call:
            # A call that was interrupted before it could reset: Ctrl-C may come at any line.
            self.reset()
        self._in_call = True
        wants_grad = torch.is_grad_enabled()
        with without_gradients():  # Slots and tables outlive the call.
            tick, out = self._evaluate(args, kwargs, hint, wants_grad)
            self._check.done(tick.step, self.version.model.to_tensor, out)
        if self.shared.loop is None and not self.clock.mid_run:
            # A complete run has shown it to the sessions that are opened from now on.
            self.shared.loop = self.clock.known
        self._in_call = False
        return out

    def begin_whole(self) -> None:
        """A run that is done in one go begins: the run under way is forgotten."""
        self._check_usable()
        self.reset()
        self.renew()

    def has_whole(self, key: InputKey) -> bool:
        """Whether inputs like this have a workspace that does a run in one go."""
        return isinstance(self.lanes.at(key, self.version)[0].workspace, WholeRuns)

    def whole(self, key: InputKey, request: RunRequest, callback: Callback | None) -> Tensor:
        """A run done by a workspace in one go."""
        self._key = key
        lane = self.lanes.begin_run(key, self.version)[0]
        workspace = lane.workspace
        assert isinstance(workspace, WholeRuns)
        self.recording.begin()
        latents = workspace.whole_run(request, lane.slots, callback)
        self.recording.record.add_all(self.version.plan.order)
        self.shared.tell(workspace.graph_stats.reasons)
        self.shared.counts.add_whole_run(self.clock.steps, workspace.run_seconds())
        return latents

    def renew(self) -> bool:
        """Take the model as it is now; True where it has changed since the last run."""
        version = self.shared.current()
        check_device(version.model.model)
        if version is self.version:
            return False
        self.lanes.renew(version)
        self.version = version
        return True

    def reset(self, *, forget_timesteps: bool = False) -> None:
        """Forget the run under way, and with `forget_timesteps` the loop it was checked against."""
        self._check.reset(forget_timesteps=forget_timesteps)
        self._key, self._in_call = None, False

    def end(self, event: str) -> None:
        """Forget the run under way, with a warning: by `event` its loop is over."""
        if self.clock.mid_run:
            done, steps = self.clock.evaluations, self.clock.steps
            self.shared.note_loop("unfinished", messages.unfinished(event, done, steps))
        self.reset()

    def close(self) -> None:
        """Forget the run and give its memory back; it cannot be called any more."""
        self.end("a session was closed")
        self._closed = True
        self.lanes.clear()

    def sleep(self) -> None:
        """Give slots and tables back; the run under way is forgotten, addresses stay."""
        self.reset()
        self._asleep = True
        for lane in self.lanes.all():
            lane.slots.sleep()
            lane.workspace.drop_tables()

    def wake(self) -> None:
        """Take the slots' memory again.  Raises MemoryError where there is too little."""
        for lane in self.lanes.all():
            lane.slots.wake()
        self._asleep = False

    def _check_usable(self) -> None:
        if self._closed:
            raise RuntimeError("this session is closed: open another with fast.session()")
        if self._asleep or self.shared.asleep:
            raise RuntimeError("this model is asleep: call wake() before the next run")

    def _evaluate(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], hint: StepHint, wants_grad: bool
    ) -> tuple[Tick, Any]:
        state = self.version.model.begin(*args, **kwargs)
        key = InputKey.of(tuple(state.x.shape), state.x.dtype, state.x.device)
        check_batch(key.shape, state.t)
        tick = self._check.tick(state.t, hint, state.x)
        if tick.first and self.renew():
            state = self.version.model.begin(*args, **kwargs)
        loop = self.version.model.checked_loop
        if loop is not None:
            self._labels.check(state.y, key.shape[0], loop)
        if tick.first:
            self.recording.begin()
            self._check_first(state, loop, wants_grad)
            self._key = key
            self.lanes.begin_run(key, self.version)
        elif key != self._key:
            raise StepError(messages.other_input(tick.step, key, self._key))
        if tick.step and not tick.first:
            return tick, self._at(tick, key, state, hint.sigma)
        try:
            out: object = self._at(tick, key, state, hint.sigma)
            wrong = tick.step == 0 and self.shared.refuted(self.version, args, kwargs, out)
        except WrongResultError as error:
            wrong = self.shared.replace_backend(self.version, error)
        if wrong and self.renew():
            # The first evaluation reads nothing that was kept, so it can be done again.
            out = self._at(tick, key, self.version.model.begin(*args, **kwargs), hint.sigma)
        return tick, out

    def _at(self, tick: Tick, key: InputKey, state: State, sigma: float | None) -> object:
        lane, began = self.lanes.at(key, self.version)[tick.lane], time.perf_counter()
        evaluation = self.version.evaluation(
            state, lane.slots, tick, self.clock.timesteps, *self.recording.place(tick.lane),
            sigma=sigma, lanes=self._sample_lanes.at(tick, state, self.version),
        )  # fmt: skip
        with lane.slots.in_use(), trace_range("evaluation", tick.step):
            out = lane.workspace.evaluate(self.version.plan.steps[evaluation.variant], evaluation)
        done = carried_out(lane.workspace, evaluation.variant)
        self.recording.add(tick.step, tick.lane, done)
        host = time.perf_counter() - began if key.device.type == "cpu" else None
        self.shared.counts.add_call(key, done, host, lane.workspace.step_seconds())
        if tick.first:
            self.shared.begun(lane.workspace)
        elif tick.step + 1 == self.clock.steps:
            self.shared.tell(lane.workspace.graph_stats.reasons)
        return out

    def _check_first(self, state: State, loop: PublishedLoop | None, wants_grad: bool) -> None:
        if loop is not None:
            check_images("x", state.x, loop)
        check_dtype(state.x, self.version.model.first_layer)
        if wants_grad and state.x.requires_grad:
            self.shared.notices.tell([messages.NO_GRADIENTS])
