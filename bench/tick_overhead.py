"""What a tick of the engine costs beside its evaluation."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean, median

from served_models import image

import l2c_rt as rt
from l2c_rt.serving.batched_loop import Predictions
from l2c_rt.serving.request import Request
from l2c_rt.serving.ticks import choose, reach_of

RUNNING = 64


def tick_overhead(fast: rt.Compiled, max_batch: int) -> dict[str, float]:
    """Microseconds of a tick beside its evaluation, with RUNNING requests that have begun, and of
    its choice alone."""
    with rt.Engine(fast, max_batch=max_batch, max_running=RUNNING) as engine:
        worker, choices, evaluations, starts = engine._worker, [], [], []
        predict, reach = worker.evaluator.predictions, reach_of(len(worker.evaluator.kinds))

        def timed(batch: Sequence[Request]) -> Predictions:
            began = time.perf_counter()
            choose(worker.running, worker._tick, max_batch, 64, reach)
            middle = time.perf_counter()
            predictions = predict(batch)
            if len(worker.running) == RUNNING:
                choices.append(middle - began)
                evaluations.append(time.perf_counter() - began)
                starts.append((worker._tick, began))
            return predictions

        worker.evaluator.predictions = timed  # type: ignore[method-assign]
        for i in range(2 * RUNNING):
            while len(worker.running) + len(engine._waiting) >= RUNNING:
                time.sleep(0.001)
            engine.submit(*image(fast, i))
        engine.drain()
    both = zip(pairwise(starts), evaluations, strict=False)
    # Ticks with fewer requests lie between others.
    beside = [b - a - done for ((tick, a), (then, b)), done in both if then == tick + 1]
    return {
        "choose_us": 1e6 * median(choices), "tick_beside_evaluation_us": 1e6 * median(beside),
        "mean_us": 1e6 * fmean(beside), "ticks": len(beside),
    }  # fmt: skip
