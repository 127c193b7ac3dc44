"""Spans of requests."""

from __future__ import annotations

import pytest
import torch
from served import STEPS, compiled, image
from torch._C._profiler import _ExperimentalConfig

import l2c_rt as rt


class Span:
    def __init__(self) -> None:
        self.attributes: dict[str, str | int | float] = {}
        self.ends = 0

    def set_attribute(self, key: str, value: str | int | float) -> None:
        self.attributes[key] = value

    def end(self) -> None:
        self.ends += 1


class Tracer:
    def __init__(self) -> None:
        self.spans: list[Span] = []

    def start_span(self, name: str) -> Span:
        assert name == "l2c_rt.request"
        self.spans.append(Span())
        return self.spans[-1]


def test_every_request_has_a_span_that_ends_once_with_its_outcome() -> None:
    tracer = Tracer()

    def fail(step: int, latents: object) -> None:
        raise KeyError

    with rt.Engine(compiled(), tracer=tracer) as engine:
        engine.submit(image(0), 0)
        engine.submit(image(1), 1, callback=fail)
        engine.drain(60)
    assert [span.ends for span in tracer.spans] == [1, 1]
    assert tracer.spans[0].attributes == {
        "l2c_rt.outcome": "finished", "l2c_rt.evaluations": STEPS
    }  # fmt: skip
    assert tracer.spans[1].attributes["l2c_rt.outcome"] == "failed"


def test_spans_of_opentelemetry_lie_within_that_of_whoever_submits() -> None:
    sdk = pytest.importorskip("opentelemetry.sdk.trace")
    export = pytest.importorskip("opentelemetry.sdk.trace.export")
    memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    exporter, provider = memory.InMemorySpanExporter(), sdk.TracerProvider()
    provider.add_span_processor(export.SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test")
    with rt.Engine(compiled(), tracer=tracer) as engine, tracer.start_as_current_span("http"):
        futures = [engine.submit(image(i), i) for i in range(3)]
        for future in futures:
            future.result(60)
        engine.drain(60)
    *requests, outer = exporter.get_finished_spans()
    assert [span.name for span in requests] == ["l2c_rt.request"] * 3
    for span in requests:
        assert span.parent.span_id == outer.context.span_id
        assert span.attributes["l2c_rt.evaluations"] == STEPS
        assert span.start_time < span.end_time


def test_a_profiler_of_all_threads_shows_a_range_for_every_batch() -> None:
    every_thread = _ExperimentalConfig(profile_all_threads=True)
    with (
        rt.Engine(compiled()) as engine,
        torch.profiler.profile(experimental_config=every_thread) as profile,
    ):
        engine.submit(image(0), 0).result(60)
        engine.drain(60)
    ranges = [event for event in profile.key_averages() if event.key == "l2c_rt.tick 1"]
    assert [event.count for event in ranges] == [STEPS]
