"""Real pipeline classes, with their own loops and schedulers, enabled."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from diffusers_pipelines import PIPELINES, STEPS, TinyPipeline, draw

import l2c_rt as rt
from l2c_rt.policies import EveryN, Full

every_pipeline = pytest.mark.parametrize("name", PIPELINES)
pytestmark = [
    pytest.mark.filterwarnings("ignore:In CPU autocast"),  # Mochi asks for one in float32.
    pytest.mark.usefixtures("shared_probes"),
]


@pytest.fixture(scope="module")
def pipelines() -> dict[str, Any]:
    """Each is built once: every test leaves it as it was."""
    return {}


def built(pipelines: dict[str, Any], name: str) -> tuple[TinyPipeline, Any]:
    if name not in pipelines:
        pipelines[name] = PIPELINES[name].build(name)
    return PIPELINES[name], pipelines[name]


@every_pipeline
def test_computing_everything_gives_bitwise_the_pipelines_own_latents(
    pipelines: dict[str, Any], name: str
) -> None:
    tiny, pipe = built(pipelines, name)
    plain = draw(pipe, tiny.inputs)
    with rt.enable(pipe, Full(), steps=STEPS) as fast:
        assert torch.equal(draw(pipe, tiny.inputs), plain)
        assert fast.summary().models["transformer"].calls == STEPS * tiny.calls


@every_pipeline
def test_a_cached_run_reuses_and_the_second_equals_it(pipelines: dict[str, Any], name: str) -> None:
    tiny, pipe = built(pipelines, name)
    plain, original = draw(pipe, tiny.inputs), pipe.transformer
    config, parts = dict(pipe.config), dict(pipe.components)
    with rt.enable(pipe, EveryN(2), steps=STEPS) as fast:
        first, ticks = draw(pipe, tiny.inputs), counter(pipe)
        assert torch.equal(draw(pipe, tiny.inputs, **ticks), first)
    assert not torch.equal(first, plain)
    summary = fast.summary().models["transformer"]
    assert (summary.runs, summary.abandoned, summary.reasons) == (2, 0, ())
    assert (summary.calls_per_step, summary.calls) == (tiny.calls, 2 * STEPS * tiny.calls)
    assert summary.reused > 0
    assert pipe.transformer is original
    assert (dict(pipe.config), dict(pipe.components)) == (config, parts)
    assert torch.equal(draw(pipe, tiny.inputs), plain)
    assert not ticks or ticks["callback_on_step_end"].steps == list(range(STEPS))


class Counter:
    """A callback, as users give to pipelines."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def __call__(self, pipe: Any, step: int, t: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        assert isinstance(pipe.transformer, rt.Compiled)
        self.steps.append(step)
        return {}


def counter(pipe: Any) -> dict[str, Any]:
    takes = "callback_on_step_end" in inspect.signature(pipe.__call__).parameters
    return {"callback_on_step_end": Counter()} if takes else {}


def test_at_least_sixteen_pipelines_are_here() -> None:
    assert len(PIPELINES) >= 16
    assert {tiny.calls for tiny in PIPELINES.values()} == {1, 2}
