"""Requests that are served from finished ones: exactly, or within a tolerance and a bound."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from served import STEPS, compiled, image, solo
from torch import Tensor

import l2c_rt as rt
from l2c_rt.serving.intake import Asked
from l2c_rt.serving.request import DeadlineError
from l2c_rt.serving.result_cache import OVERHEAD_BYTES
from l2c_rt.serving.results import ApproximateResults, ExactResults

ENTRY = 4 * 8 * 8 * 4 + OVERHEAD_BYTES
"""Bytes of one, without an embedding."""


def first_values(asked: Asked) -> Tensor:
    assert asked.noise is not None
    return asked.noise.flatten()[:2]


def close(seed: int, share: float) -> Tensor:
    """Noise of a seed, but for a last value that no key of `first_values` shows."""
    noise = image(seed)
    noise[0, -1] += share
    return noise


def test_an_equal_request_is_done_at_once_with_the_same_bits() -> None:
    fast = compiled()
    with rt.Engine(fast, results=ExactResults()) as engine:
        first = engine.submit(image(0), 3).result(60)
        again = engine.submit(image(0), 3)
        assert again.done()
        assert torch.equal(again.result(), solo(fast, 0, 3))
        # What the caller does with it, nobody else sees.
        again.result().zero_()
        first.zero_()
        assert torch.equal(engine.submit(image(0), 3).result(), solo(fast, 0, 3))
        stats = engine.stats()
        assert engine.drain(60)
    assert (stats.results.hits, stats.results.misses, stats.results.entries) == (2, 1, 1)
    assert stats.submitted == sum(stats.outcomes.values()) == 3
    assert stats.evaluations == STEPS
    assert stats.results.nbytes == ENTRY


@pytest.mark.parametrize(
    "other",
    [{"noise": image(1)}, {"y": 4}, {"cfg_scale": 2.0}, {"noise": image(0).double()}],
)
def test_a_request_that_differs_in_anything_is_computed(other: dict[str, Any]) -> None:
    request = {"noise": image(0), "y": 3, "cfg_scale": None}
    with rt.Engine(compiled(), results=ExactResults()) as engine:
        engine.submit(**request).result(60)
        engine.submit(**(request | other)).result(60)
        assert engine.stats().results.hits == 0


def test_changed_weights_make_earlier_results_unreachable() -> None:
    fast = compiled()
    model: Any = fast.bound_model.model

    def change(step: int, latents: Tensor) -> None:
        if step == STEPS - 1:
            with torch.no_grad():
                model.blocks[0].mlp.fc1.weight.mul_(0.5)

    with rt.Engine(fast, results=ExactResults()) as engine:
        before = engine.submit(image(0), 3).result(60)
        # Changed during the last evaluation of another, whose own result is not held either.
        engine.submit(image(1), 3, callback=change).result(60)
        after = engine.submit(image(0), 3).result(60)
        assert torch.equal(after, solo(fast, 0, 3))
        assert not torch.equal(after, before)
        assert engine.stats().results.hits == 0


def test_memory_is_bounded_and_what_was_asked_for_longest_ago_goes_first() -> None:
    with rt.Engine(compiled(), results=ExactResults(2 * ENTRY)) as engine:
        for seed in (0, 1, 0, 2, 0, 1):
            engine.submit(image(seed), 3).result(60)
        stats = engine.stats().results
    # 0 was asked for after 1, so that 2 took the place of 1.
    assert (stats.hits, stats.misses, stats.evicted) == (2, 4, 2)
    assert (stats.entries, stats.nbytes) == (2, 2 * ENTRY)


def test_a_request_with_a_callback_is_computed_and_one_that_fails_is_not_held() -> None:
    steps: list[int] = []

    def fail(step: int, latents: Tensor) -> None:
        raise KeyError

    with rt.Engine(compiled(), results=ExactResults()) as engine:
        assert isinstance(engine.submit(image(0), 3, callback=fail).exception(60), KeyError)
        engine.submit(image(0), 3).result(60)
        engine.submit(image(0), 3, callback=lambda k, x: steps.append(k)).result(60)
        assert engine.stats().results.hits == 0
    assert steps == list(range(STEPS))


def test_close_requests_are_served_and_recomputed_at_growing_intervals() -> None:
    results = ApproximateResults(first_values, tolerance=0.01, bound=0.5)
    with rt.Engine(compiled(), results=results) as engine:
        computed = []
        for i in range(16):
            before = engine.stats().evaluations
            engine.submit(close(0, 1e-3 * i), 3).result(60)
            computed.append(engine.stats().evaluations > before)
        engine.submit(image(1), 3).result(60)
        stats = engine.stats().results
    # The first, and of those that it serves numbers 1, 3, 7 and 15.
    assert [i for i, done in enumerate(computed) if done] == [0, 1, 3, 7, 15]
    assert (stats.hits, stats.misses, stats.refreshes, stats.replaced) == (11, 2, 4, 0)
    assert 0 < stats.mean_error < stats.largest_error < 0.5


def test_an_entry_beyond_the_bound_is_dropped_for_what_was_computed() -> None:
    results = ApproximateResults(first_values, tolerance=0.01, bound=1e-3)
    fast = compiled()
    with rt.Engine(fast, results=results) as engine:
        engine.submit(close(0, 0.0), 3).result(60)
        other = engine.submit(close(0, 2.0), 3).result(60)
        assert torch.equal(other, fast.sample(close(0, 2.0), [3]))
        stats = engine.stats().results
        assert (stats.replaced, stats.entries) == (1, 1)
        assert stats.largest_error > 1e-3
        # The new entry is confirmed by an equal one, and then serves.
        engine.submit(close(0, 2.0), 3).result(60)
        assert torch.equal(engine.submit(close(0, 2.0), 3).result(0), other)


def test_a_refresh_that_fails_leaves_the_next_to_another() -> None:
    results = ApproximateResults(first_values, tolerance=0.01, bound=0.5)
    with rt.Engine(compiled(), results=results) as engine:
        engine.submit(image(0), 3).result(60)
        late = engine.submit(image(0), 3, deadline=1e-9)
        assert isinstance(late.exception(60), DeadlineError)
        engine.drain(60)
        assert not engine.submit(image(0), 3).done()
        engine.drain(60)
        assert engine.submit(image(0), 3).done()
        assert engine.stats().results.refreshes == 2


def test_a_refresh_during_which_weights_change_measures_nothing() -> None:
    fast = compiled()
    model: Any = fast.bound_model.model
    refreshes: list[Any] = []
    results = ApproximateResults(first_values, tolerance=0.01, bound=0.5)
    with rt.Engine(fast, results=results) as engine:

        def refresh_and_change(step: int, latents: Tensor) -> None:
            if step == 0:
                refreshes.append(engine.submit(image(0), 3))
            if step == STEPS - 1:
                with torch.no_grad():
                    model.blocks[0].mlp.fc1.weight.mul_(0.5)

        engine.submit(image(0), 3).result(60)
        engine.submit(image(1), 3, callback=refresh_and_change).result(60)
        refreshes[0].result(60)
        engine.drain(60)
        stats = engine.stats().results
    assert stats.refreshes == 1
    assert (stats.replaced, stats.largest_error) == (0, 0.0)


def test_eight_threads_get_their_own_results() -> None:
    fast, wrong = compiled(), list[int]()
    expected = [solo(fast, seed, 3) for seed in range(6)]
    with rt.Engine(fast, results=ExactResults(4 * ENTRY)) as engine:

        def ask(thread: int) -> None:
            for i in range(40):
                seed = (thread + i * 5) % 6
                out = engine.submit(image(seed), 3).result(60)
                if (out - expected[seed]).norm() > 2e-5 * expected[seed].norm():
                    wrong.append(seed)

        threads = [threading.Thread(target=ask, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        stats = engine.stats()
    assert not wrong
    assert stats.submitted == stats.outcomes["finished"] == 320
    assert stats.results.hits + stats.results.misses == 320
    assert stats.results.hits > 0
    assert stats.results.nbytes <= 4 * ENTRY


def test_what_cannot_be_a_cache_is_refused() -> None:
    wrong: Any = {"max_bytes": 1 << 20}
    with pytest.raises(TypeError, match=r"results must be ExactResults or ApproximateResults"):
        rt.Engine(compiled(), results=wrong)
    with pytest.raises(ValueError, match=r"max_bytes must be a whole number from 1 on, got 0"):
        ExactResults(0)
    with pytest.raises(ValueError, match=r"tolerance must be finite and at least 0, got -1"):
        ApproximateResults(first_values, tolerance=-1.0, bound=0.1)
    keys: Any = [lambda asked: 3, lambda asked: torch.zeros(2, 2)]
    for key in keys:
        results = ApproximateResults(key, tolerance=0.1, bound=0.1)
        with rt.Engine(compiled(), results=results) as engine:
            with pytest.raises(TypeError, match=r"key must give a floating tensor \[d\]"):
                engine.submit(image(0), 3)
            assert engine.drain(60)
