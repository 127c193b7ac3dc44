"""The thread that serves: it begins requests, evaluates a batch per tick, and ends them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from l2c_rt.runtime.shared import SharedModel
from l2c_rt.serving.counts import Counts, Outcome, Tick
from l2c_rt.serving.evaluator import Evaluator, RefutedError
from l2c_rt.serving.kinds import check_served, reused_share
from l2c_rt.serving.request import DeadlineError, Request
from l2c_rt.serving.ticks import choose, reach_of
from l2c_rt.serving.waiting_room import WaitingRoom

OnEnd = Callable[[Request, Outcome], None]
"""What is told of every request that has ended, outside of all locks."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Of an engine: `max_age` in ticks, the others in requests."""

    max_batch: int
    max_waiting: int
    max_running: int
    max_age: int

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"Engine: {name} must be a whole number from 1 on, got {value!r}")


class Worker:
    """The running requests; only its own thread touches them."""

    def __init__(
        self,
        shared: SharedModel,
        evaluator: Callable[[], Evaluator],
        limits: Limits,
        counts: Counts,
        on_end: OnEnd,
    ) -> None:
        self._shared, self._new_evaluator, self._limits = shared, evaluator, limits
        self.counts, self._on_end = counts, on_end
        self.running: list[Request] = []
        self._free = list(range(limits.max_running))
        self._tick = 0
        self._renew()

    def serve(self, waiting: WaitingRoom) -> None:
        """Until the room is closed, and none is left."""
        try:
            with torch.no_grad():
                while self.running or waiting.wait():
                    self.tick(waiting)
        except BaseException as error:
            # A fault of ours: nobody waits for a result that does not come.
            waiting.close()
            for request in [*self.running, *waiting.all()]:
                self.end(request, error, "failed")
            raise

    def tick(self, waiting: WaitingRoom) -> None:
        """Drop what is over, begin what has room, and do the evaluations of one batch."""
        if waiting.alarm.rings(time.monotonic()):
            self._drop_over(waiting)
        self._begin(waiting)
        limits = self._limits
        batch = choose(
            self.running, self._tick, limits.max_batch, limits.max_age, reach_of(len(self._kinds))
        )
        if batch:
            self._count(batch)
            self._evaluate(batch)
            self._tick += 1

    def _drop_over(self, waiting: WaitingRoom) -> None:
        waiting.alarm.reset()
        now = time.monotonic()
        for request in [request for request in self.running if request.is_over(now)]:
            self.drop(request)
        waiting.drop_over()
        waiting.alarm.watch(request.expires for request in (*self.running, *waiting.all()))

    def drop(self, request: Request) -> None:
        """End a request that was cancelled or has expired."""
        late = f"Engine: the deadline passed before evaluation {request.step}"
        outcome: Outcome = "cancelled" if request.future.cancelled() else "expired"
        self.end(request, DeadlineError(late), outcome)

    def end(self, request: Request, result: Tensor | BaseException, outcome: Outcome) -> None:
        """Give the request's place back and its future a result, unless it was cancelled."""
        if request.place >= 0:
            self.running.remove(request)
            self._free.append(request.place)
            request.place = -1
        if not request.future.set_running_or_notify_cancel():
            outcome = "cancelled"
        with self.counts.lock:
            self.counts.outcomes[outcome] += 1
            self.counts.total_seconds.add(time.monotonic() - request.submitted)
        if outcome != "cancelled":
            if isinstance(result, BaseException):
                request.future.set_exception(result)
            else:
                request.future.set_result(result)
        self._on_end(request, outcome)

    @property
    def nbytes(self) -> int:
        """Memory of slots and tables."""
        return self.evaluator.nbytes

    def _renew(self) -> None:
        version = self._shared.version
        decides = version.model.dynamic is not None
        check_served(version.plan, version.model.program, decides=decides)
        self.evaluator = self._new_evaluator()
        version = self.evaluator.version
        self._kinds = self.evaluator.kinds
        shares = reused_share(version.plan, version.model.program)
        self._branches = len(version.model.program.branches)
        self._reused = {
            kind: shares[variant] * self._branches
            for kind, variant in zip(self._kinds, version.plan.order, strict=True)
        }
        for request in self.running:
            request.kind = self._kinds[request.step]

    def _begin(self, waiting: WaitingRoom) -> None:
        if not (self._free and len(waiting) and self._may_begin(waiting)):
            return
        while self._free and (request := waiting.take()) is not None:
            request.place = self._free.pop()
            request.kind, request.since = self._kinds[0], self._tick
            request.remaining = len(self._kinds)
            self.running.append(request)
            with self.counts.lock:
                self.counts.begin_seconds.add(time.monotonic() - request.submitted)

    def _may_begin(self, waiting: WaitingRoom) -> bool:
        """Whether requests may begin with the model as it is now.  One for which that raises fails
        and the next is asked for, so that nobody waits for a result that does not come."""
        while len(waiting):
            try:
                changed = self._shared.current() is not self.evaluator.version
                if changed and self.running:
                    # Those that run end with the weights that they began with, as far as that goes.
                    return False
                if changed:
                    self._renew()
                if not self.running:
                    self.evaluator.begin()
                return True
            except (ValueError, MemoryError) as error:
                if (refused := waiting.take()) is not None:
                    self.end(refused, error, "failed")
        return False

    def _count(self, batch: Sequence[Request]) -> None:
        kind, tick = batch[0].kind, self._tick
        waits = tuple([tick - request.since for request in batch])
        self.counts.note(Tick(kind, self._branches, self._reused[kind], waits))

    def _evaluate(self, batch: Sequence[Request]) -> None:
        try:
            moved = self.evaluator.moved(batch)
        except RefutedError:
            self._renew()
            # Whoever runs is at evaluation 0, which reads nothing that was kept.
            return self._evaluate(batch)
        except Exception as error:
            if len(batch) == 1:
                return self.end(batch[0], error, "failed")
            # Which of them it was is not known; an evaluation may be done twice.
            for request in batch:
                self._evaluate((request,))
            return None
        for request, latents in zip(batch, moved, strict=True):
            self._advance(request, latents)
        return None

    def _advance(self, request: Request, latents: Tensor | BaseException) -> None:
        try:
            if isinstance(latents, BaseException):
                raise latents
            request.latents = latents
            if request.callback is not None:
                preview = request.latents.to("cpu", torch.float32, copy=True)
                request.callback(request.step, preview)
            request.step += 1
            request.remaining -= 1
            if request.step < len(self._kinds):
                request.kind, request.since = self._kinds[request.step], self._tick + 1
                return
            if not bool(torch.isfinite(request.latents).all()):
                raise FloatingPointError("Engine: the latents of this request are not finite")
            # They may lie among those of its batch, which the user would write to, and hold.
            request.latents = request.latents.clone()
            if request.holder is not None:
                request.holder.keep(request.latents)
        except BaseException as error:
            # Ctrl-C too ends only the request whose callback it was raised in.
            self.end(request, error, "failed")
        else:
            self.end(request, request.latents, "finished")
