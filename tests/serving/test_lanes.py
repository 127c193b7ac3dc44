"""Requests whose predictions have coefficients for cond and for uncond, batched with others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from published_outputs import relative
from served import STEPS, at_ticks, image, solo
from taped_graphs import TapeRecorder
from three_backends import compiled
from toys import count_branches, random_schedule, toy_dit

import l2c_rt as rt
from l2c_rt.correctors import Goc, corrected
from l2c_rt.serving import evaluator

SCALES = (2.0, 1.0, 3.0)
"""The second one is no guidance."""


def with_lanes(backend: str, *, swapped: bool = False) -> rt.Compiled:
    model = toy_dit()
    plain = random_schedule(STEPS, count_branches(model), seed=7)
    schedule = corrected(plain, Goc(0.5, None))
    assert schedule.predictions is not None
    first = schedule.predictions.coefficients[0]
    lanes = np.stack([first, -2.0 * first][:: -1 if swapped else 1])
    predictions = replace(schedule.predictions, coefficients=lanes, unconditional=1)
    schedule = replace(schedule, predictions=predictions)
    return compiled(backend, model, schedule)


@pytest.mark.parametrize(
    ("backend", "taped"),
    [("reference", False), ("reference", True), ("fused", False), ("cuda", False)],
)
def test_samples_of_every_request_take_the_coefficients_of_their_lanes(
    backend: str, taped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if taped:
        monkeypatch.setattr(evaluator, "recorder_for", TapeRecorder)
    fast = with_lanes(backend)
    with rt.Engine(fast, max_batch=4) as engine:
        for _ in range(2):
            _, futures = at_ticks(
                engine,
                [0, 0, 1, 2, 2, 4, 5],
                lambda i: engine.submit(image(i), i % 10, cfg_scale=SCALES[i % 3]),
            )
        assert max(engine.stats().batch_sizes) > 1
    others = with_lanes(backend, swapped=True)
    for i, future in enumerate(futures):
        scale = SCALES[i % 3]
        error = relative(future.result(0), solo(fast, i, i % 10, cfg_scale=scale))
        swapped = relative(future.result(0), solo(others, i, i % 10, cfg_scale=scale))
        assert error < min(2e-5, 0.2 * swapped)


def test_one_guided_request_by_itself_is_bitwise_a_run_of_sample() -> None:
    fast = with_lanes("reference")
    with rt.Engine(fast) as engine:
        out = engine.submit(image(3), 3, cfg_scale=2.0).result(60)
    assert torch.equal(out, solo(fast, 3, 3, cfg_scale=2.0))


def test_more_lanes_than_a_request_has_are_refused() -> None:
    fast = with_lanes("reference")
    predictions = fast.schedule.predictions
    assert predictions is not None
    three = replace(predictions, coefficients=np.repeat(predictions.coefficients[:1], 3, axis=0))
    schedule = replace(fast.schedule, predictions=three)
    with pytest.raises(ValueError, match="3 lanes, a request has 2"):
        rt.Engine(rt.compile(toy_dit(), schedule, calls_per_step=3))
