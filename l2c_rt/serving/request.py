"""A request: what was asked for, where its run is, and what becomes of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from l2c_rt.backends.backend import Callback
from l2c_rt.sampling.solvers import PublishedSolver, starts_step
from l2c_rt.serving.alarm import Alarm


class QueueFullError(RuntimeError):
    """As many requests wait as may; nothing was taken on."""


class DeadlineError(TimeoutError):
    """The request's deadline passed before its last evaluation."""


class RequestFuture(Future[Tensor]):
    """A future that rings when it is cancelled."""

    def __init__(self, alarm: Alarm) -> None:
        super().__init__()
        self._alarm = alarm

    def cancel(self) -> bool:
        if is_cancelled := super().cancel():
            self._alarm.cancel()
        return is_cancelled


class RequestLoop(Protocol):
    """The solver of one request; it may keep what it needs from step to step."""

    def model_input(self, step: int, latents: Tensor) -> Tensor:
        """What the model is given."""

    def update(self, step: int, latents: Tensor, prediction: Tensor) -> Tensor:
        """The latents after an evaluation, which gave `prediction`."""


class ResultHolder(Protocol):
    """Who holds latents for later requests; told of one of the two."""

    def keep(self, latents: Tensor) -> None:
        """The request has given these latents."""

    def abandon(self) -> None:
        """The request has given nothing."""


class PublishedSteps:
    """A published solver, which keeps the latents at the start of its step."""

    def __init__(self, solver: PublishedSolver) -> None:
        self._solver = solver
        self._anchor: Tensor | None = None

    def model_input(self, step: int, latents: Tensor) -> Tensor:
        return latents

    def update(self, step: int, latents: Tensor, prediction: Tensor) -> Tensor:
        return self._solver.update(step, latents, prediction, self.anchor(step, latents))

    def anchor(self, step: int, latents: Tensor) -> Tensor:
        """The latents at the start of the solver step, where these are those before evaluation
        `step`."""
        if self._anchor is None or starts_step(self._solver, step):
            self._anchor = latents
        return self._anchor


@dataclass(slots=True, eq=False)
class Request:
    """One image.  Shapes: latents [1, C, H, W]; labels [rows], cond and then, if guided, uncond,
    and so are `inputs`, further arguments of the model [1, ...].

    `place` is where in the arena its slots are, from its first evaluation on.  `kind`, `since`
    and `remaining` are as in `ticks.Ready`; times are of `time.monotonic`.
    """

    future: RequestFuture
    loop: RequestLoop
    latents: Tensor
    labels: Tensor | None
    inputs: tuple[Mapping[str, Tensor], ...]
    rows: int
    cfg_scale: float
    callback: Callback | None
    submitted: float
    expires: float | None
    holder: ResultHolder | None = None
    place: int = -1
    step: int = 0
    kind: int = 0
    since: int = 0
    remaining: int = 0

    def is_over(self, now: float) -> bool:
        """Whether it was cancelled, or its deadline has passed."""
        return self.future.cancelled() or (self.expires is not None and now >= self.expires)


def expiry(now: float, deadline: float | None) -> float | None:
    """When a request of `deadline` seconds expires; ValueError for no such number."""
    if deadline is None:
        return None
    if not (math.isfinite(deadline) and deadline > 0):
        raise ValueError(f"Engine: deadline must be seconds from now, above 0, got {deadline!r}")
    return now + deadline
