"""`Engine`: a compiled model that serves many requests, each at a step of its own."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from concurrent.futures import Future
from typing import Any

import torch
from torch import Tensor

from l2c_rt.adapters.bound_model import PublishedLoop
from l2c_rt.adapters.model_checks import check_device
from l2c_rt.backends.backend import Callback
from l2c_rt.runtime.compiled import Compiled
from l2c_rt.runtime.previews import Previews
from l2c_rt.runtime.sample import published_loop, published_solver
from l2c_rt.sampling import inputs, loops
from l2c_rt.serving.counts import Counts, EngineStats, Outcome
from l2c_rt.serving.evaluator import ROWS, Evaluator
from l2c_rt.serving.request import PublishedSteps, QueueFullError, Request
from l2c_rt.serving.ticks import longest_wait
from l2c_rt.serving.tracing import RequestSpans, Tracer
from l2c_rt.serving.waiting_room import WaitingRoom
from l2c_rt.serving.worker import Limits, Worker


class Engine:
    """Serves requests for single images by the model's published loop, in a thread of its own.

    At every tick the requests whose next evaluations are of one kind (the same ops of the plan)
    share a batch, whatever their steps; requests begin and end between ticks.  At most `max_batch`
    requests share an evaluation, `max_running` (by default twice as many) have begun, and
    `max_waiting` wait for that.  One that waits for `max_age` ticks goes before fuller batches.
    A `tracer` of OpenTelemetry gives a span to each request.
    All methods may be called from any thread.  The compiled model may be used beside the engine.
    Raises TypeError or ValueError for a model, plan or number that cannot be served, MemoryError
    where the slots do not fit: all memory is taken before the first request.
    """

    def __init__(
        self,
        fast: Compiled,
        *,
        max_batch: int = 8,
        max_waiting: int = 64,
        max_running: int | None = None,
        max_age: int = 16,
        tracer: Tracer | None = None,
    ) -> None:
        if not isinstance(fast, Compiled):
            raise TypeError(
                f"Engine: wanted what rt.compile returns, got {type(fast).__name__}; pass "
                "rt.compile(model, router)"
            )
        max_running = 2 * max_batch if max_running is None else max_running
        for name, value in (("max_batch", max_batch), ("max_waiting", max_waiting),
                            ("max_running", max_running), ("max_age", max_age)):  # fmt: skip
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"Engine: {name} must be a whole number from 1 on, got {value!r}")
        self._shared = fast.run.shared
        version = self._shared.current()
        check_device(version.model.model)
        self._loop = published_loop(version.model)
        self._solver = published_solver(version.model, self._shared.schedule, self._shared.loop)
        self._limits = Limits(max_batch, max_running, max_age)
        self._counts, self._spans = Counts(), RequestSpans(tracer)
        self._ended = threading.Condition()
        self._open = 0
        self._waiting = WaitingRoom(max_waiting, self._drop)
        self._worker = Worker(
            self._shared, self._evaluator, self._limits, self._counts, self._note_end
        )
        self._thread = threading.Thread(
            target=self._worker.serve, args=(self._waiting,), name="l2c_rt engine", daemon=True
        )
        self._thread.start()

    def submit(
        self,
        noise: Tensor | None = None,
        y: Any = None,
        *,
        seed: int | None = None,
        cfg_scale: float | None = None,
        callback: Callback | None = None,
        deadline: float | None = None,
    ) -> Future[Tensor]:
        """Take on one image, and give at once the future of its latents [1, C, H, W].

        `noise` [1, C, H, W], or `seed` for normal noise; `y` a label, or None for a model without.
        `cfg_scale` None is the family's own.  `callback(step, latents)` gets float32 copies, in the
        engine's thread: what it does, all wait for; what it raises, this future gets.  After
        `deadline` seconds the future raises DeadlineError.  `future.cancel()` works until the end.
        The future raises FloatingPointError where the latents end up not finite.
        Raises QueueFullError where `max_waiting` requests wait, TypeError or ValueError for inputs
        that do not fit, RuntimeError after `shutdown`.
        """
        request = self._request(noise, y, seed, cfg_scale, callback, deadline)
        with self._counts.lock:
            self._counts.submitted += 1
        with self._ended:
            self._open += 1
        self._spans.begin(request)
        try:
            self._waiting.add(request)
        except RuntimeError as error:
            with self._counts.lock:
                self._counts.submitted -= 1
                self._counts.refused += isinstance(error, QueueFullError)
            self._note_end(request, "failed")
            raise
        return request.future

    async def generate(self, *args: Any, **kwargs: Any) -> Tensor:
        """The latents of one image; arguments and errors are those of `submit`.

        Cancelling the task cancels the request.
        """
        return await asyncio.wrap_future(self.submit(*args, **kwargs))

    def drain(self, timeout: float | None = None) -> bool:
        """Wait until all requests so far and meanwhile have ended; False where that took longer
        than `timeout` seconds.  Raises RuntimeError from inside a callback."""
        self._refuse_inside("drain")
        with self._ended:
            return self._ended.wait_for(lambda: self._open == 0, timeout)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more requests; those taken on are served, or cancelled with `cancel_futures`.

        With `wait` it returns when the thread has ended.
        """
        self._waiting.close()
        if cancel_futures:
            for request in (*self._waiting.all(), *list(self._worker.running)):
                request.future.cancel()
        if wait:
            self._refuse_inside("shutdown(wait=True)")
            self._thread.join()

    def stats(self) -> EngineStats:
        """What was done so far."""
        with self._counts.lock:
            waiting, running = len(self._waiting), len(self._worker.running)
            return self._counts.stats(waiting=waiting, running=running, nbytes=self.nbytes)

    @property
    def nbytes(self) -> int:
        """Memory of slots and tables; that of a batch's activations comes on top."""
        return self._worker.nbytes

    @property
    def max_wait_ticks(self) -> int:
        """A request that has begun waits for no more ticks than this between two evaluations."""
        return longest_wait(self._limits.max_age, self._limits.max_running)

    @property
    def serving(self) -> bool:
        """Whether the thread is there and takes requests: what a health check asks."""
        return self._thread.is_alive() and not self._waiting.closed

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, error: object, *_: object) -> None:
        self.shutdown(cancel_futures=error is not None)

    def _evaluator(self) -> Evaluator:
        return Evaluator(self._shared, self._loop, self._solver.timesteps, self._limits.max_running)

    def _request(
        self, noise: Tensor | None, y: Any, seed: int | None, cfg_scale: float | None,
        callback: Callback | None, deadline: float | None,
    ) -> Request:  # fmt: skip
        if self._shared.asleep:
            raise RuntimeError("Engine: this model is asleep: call wake() before the next request")
        loop, device = self._loop, self._shared.version.model.device
        if (noise is None) == (seed is None):
            raise ValueError("Engine: give either noise or seed=, not both")
        if noise is None:
            assert seed is not None
            noise = _noise(seed, loop).to(device)
        inputs.check_noise(noise, loop, device)
        if noise.shape[0] != 1:
            raise ValueError(
                f"Engine: noise must be one image [1, C, H, W], got {list(noise.shape)}; submit "
                "images one by one"
            )
        labels = inputs.check_labels([y] if isinstance(y, int) else y, noise, loop)
        scale = inputs.check_scale(cfg_scale, loop)
        guided = loops.is_guided(loop, labels, scale)
        if guided:
            assert labels is not None
            assert loop.null_label is not None
            labels = torch.cat([labels, torch.full_like(labels, loop.null_label)])
        now = time.monotonic()
        return Request(
            order=-1, future=Future(), loop=PublishedSteps(self._solver),
            # A copy: the caller may write to what was given.
            latents=noise.detach().clone(), labels=labels, rows=ROWS if guided else 1,
            cfg_scale=scale, submitted=now, expires=_expiry(now, deadline),
            callback=None if callback is None else Previews(callback, self._shared.notices),
        )  # fmt: skip

    def _drop(self, request: Request) -> None:
        self._worker.drop(request)

    def _note_end(self, request: Request, outcome: Outcome) -> None:
        self._spans.end(request, outcome)
        with self._ended:
            self._open -= 1
            self._ended.notify_all()

    def _refuse_inside(self, action: str) -> None:
        if threading.current_thread() is self._thread:
            raise RuntimeError(f"Engine: {action} from inside a callback would wait for itself")


def _noise(seed: int, loop: PublishedLoop) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, loop.channels, loop.size, loop.size, generator=generator)


def _expiry(now: float, deadline: float | None) -> float | None:
    if deadline is None:
        return None
    if not (math.isfinite(deadline) and deadline > 0):
        raise ValueError(f"Engine: deadline must be seconds from now, above 0, got {deadline!r}")
    return now + deadline
