"""A span of OpenTelemetry for each request, where a tracer is given; nothing of it is imported."""

from __future__ import annotations

from typing import Protocol

from l2c_rt.serving.counts import Outcome
from l2c_rt.serving.request import Request


class Span(Protocol):
    def set_attribute(self, key: str, value: str | int | float) -> object: ...
    def end(self) -> None: ...


class Tracer(Protocol):
    """As `opentelemetry.trace.get_tracer("...")` gives it."""

    def start_span(self, name: str) -> Span: ...


class RequestSpans:
    """The open spans; with no tracer it does nothing."""

    def __init__(self, tracer: Tracer | None) -> None:
        self._tracer = tracer
        self._open: dict[Request, Span] = {}

    def begin(self, request: Request) -> None:
        """A request was submitted."""
        if self._tracer is not None:
            self._open[request] = self._tracer.start_span("l2c_rt.request")

    def end(self, request: Request, outcome: Outcome) -> None:
        """It has ended."""
        span = self._open.pop(request, None)
        if span is not None:
            span.set_attribute("l2c_rt.outcome", outcome)
            span.set_attribute("l2c_rt.evaluations", request.step)
            span.end()
