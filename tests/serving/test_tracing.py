"""Spans of requests."""

from __future__ import annotations

from served import STEPS, compiled, image

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
