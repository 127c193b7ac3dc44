"""`Engine`: a compiled model that serves many requests, each at a step of its own."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

import torch
from torch import Tensor

from l2c_rt.adapters.model_checks import check_device
from l2c_rt.backends.backend import Callback
from l2c_rt.runtime.compiled import Compiled
from l2c_rt.runtime.fingerprint import fingerprint
from l2c_rt.runtime.previews import Previews
from l2c_rt.serving.counts import Counts, EngineStats, Outcome, ResultStats
from l2c_rt.serving.evaluator import Evaluator, RefutedError
from l2c_rt.serving.intake import Asked, Intake, PublishedIntake, SolverIntake
from l2c_rt.serving.request import QueueFullError, Request, RequestFuture, expiry
from l2c_rt.serving.result_cache import ResultCache
from l2c_rt.serving.results import ApproximateResults, ExactResults
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
    `solver` is a scheduler as diffusers has them, without noise and with its timesteps set, for a
    model without a published loop.  With an `example`, arguments of `submit`, evaluations of it are
    done first: what is measured, copied or captured for batches of each size, and what a model that
    runs its own forward keeps, then delays no request.
    `results` lets requests be served from finished ones, so that a future may be done at once;
    those with a callback are computed.
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
        max_age: int = 64,
        solver: Any = None,
        example: Mapping[str, Any] | None = None,
        results: ExactResults | ApproximateResults | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        if not isinstance(fast, Compiled):
            raise TypeError(
                f"Engine: wanted what rt.compile returns, got {type(fast).__name__}; pass "
                "rt.compile(model, router)"
            )
        if max_running is None:
            max_running = 2 * max_batch
        self._limits = Limits(max_batch, max_waiting, max_running, max_age)
        self._shared = fast.run.shared
        check_device(self._shared.current().model.model)
        self._intake: Intake = (
            PublishedIntake(self._shared) if solver is None else SolverIntake(self._shared, solver)
        )
        self._example = None if example is None else Asked(**example)
        self._results = None if results is None else ResultCache(results, self._weights)
        self._counts, self._spans = Counts(), RequestSpans(tracer)
        self._ended = threading.Condition()
        self._open = 0
        self._waiting = WaitingRoom(max_waiting, lambda request: self._worker.drop(request))
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
        inputs: Mapping[str, Tensor] | None = None,
        null_inputs: Mapping[str, Tensor] | None = None,
        callback: Callback | None = None,
        deadline: float | None = None,
    ) -> Future[Tensor]:
        """Take on one image, and give at once the future of its latents [1, C, H, W].

        `noise` [1, C, H, W], or `seed` for normal noise; `y` a label, or None for a model without.
        `cfg_scale` None is the family's own.  With `solver=` further arguments of the model's
        forward are `inputs`, [1, ...] each, and `null_inputs` those of no class, where the
        guidance is uncond + cfg_scale (cond - uncond).
        `callback(step, latents)` gets float32 copies, in the engine's thread: what it does, all
        wait for; what it raises, this future gets.  After `deadline` seconds the future raises
        DeadlineError.  `future.cancel()` works until the end.
        The future raises FloatingPointError where the latents end up not finite.
        Raises QueueFullError where `max_waiting` requests wait, TypeError or ValueError for inputs
        that do not fit, RuntimeError after `shutdown`.
        """
        asked = Asked(noise, y, seed, cfg_scale, inputs or {}, null_inputs or {})
        request = self._request(asked, callback, deadline)
        if self._results is not None and callback is None:
            found = self._results.look_up(asked, request)
            if isinstance(found, Tensor):
                return self._served(request, found)
            request.holder = found
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
            results = ResultStats() if self._results is None else self._results.stats()
            return self._counts.stats(
                waiting=waiting, running=running, nbytes=self.nbytes, results=results,
                graphs=self._worker.evaluator.graph_counts,
            )  # fmt: skip

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
        limits = self._limits
        evaluator = Evaluator(self._shared, self._intake, limits.max_running, limits.max_batch)
        example = self._example or evaluator.example
        if example is None:
            return evaluator
        try:
            with torch.no_grad():
                # What nobody asked for is kept short.
                size = 1 if self._example is None else min(limits.max_batch, limits.max_running)
                evaluator.rehearse([self._request(example, None, None) for _ in range(size)])
        except RefutedError:  # The model has another version, which is not refuted again.
            return self._evaluator()
        return evaluator

    def _request(self, asked: Asked, callback: Callback | None, deadline: float | None) -> Request:
        if self._shared.asleep:
            raise RuntimeError("Engine: this model is asleep: call wake() before the next request")
        if (asked.noise is None) == (asked.seed is None):
            raise ValueError("Engine: give either noise or seed=, one of them")
        start, now = self._intake.start(asked), time.monotonic()
        return Request(
            future=RequestFuture(self._waiting.alarm), loop=start.loop, latents=start.latents,
            labels=start.labels, inputs=start.inputs, rows=start.rows, cfg_scale=start.cfg_scale,
            submitted=now, expires=expiry(now, deadline),
            callback=None if callback is None else Previews(callback, self._shared.notices),
        )  # fmt: skip

    def _weights(self) -> int:
        return fingerprint(self._shared.version.model.model)

    def _served(self, request: Request, latents: Tensor) -> Future[Tensor]:
        """The future of a request that needs no evaluation."""
        if self._waiting.closed:
            raise RuntimeError("Engine: shut down; make another to serve more requests")
        with self._counts.lock:
            self._counts.submitted += 1
            self._counts.outcomes["finished"] += 1
            self._counts.total_seconds.add(time.monotonic() - request.submitted)
        self._spans.begin(request)
        self._spans.end(request, "finished")
        request.future.set_result(latents)
        return request.future

    def _note_end(self, request: Request, outcome: Outcome) -> None:
        self._spans.end(request, outcome)
        if request.holder is not None and outcome != "finished":
            request.holder.abandon()
        with self._ended:
            self._open -= 1
            self._ended.notify_all()

    def _refuse_inside(self, action: str) -> None:
        if threading.current_thread() is self._thread:
            raise RuntimeError(f"Engine: {action} from inside a callback would wait for itself")
