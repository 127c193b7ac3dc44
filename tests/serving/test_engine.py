"""Requests at different steps against runs by themselves."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from published_outputs import relative
from served import STEPS, all_equal, at_ticks, compiled, image, solo
from torch import Tensor

import l2c_rt as rt

BOUND = 2e-5
"""|difference| / |latents|: sums of float32 in another order, over STEPS evaluations."""

SCALES = (None, 0.0, 2.0)
"""Of the family, none, and another."""

every_case = pytest.mark.parametrize(
    ("model", "backend"),
    [(model, backend) for model in ("DiT", "U-ViT") for backend in ("reference", "fused", "cuda")],
)


@pytest.mark.parametrize("model", ["DiT", "U-ViT"])
@pytest.mark.parametrize("scale", SCALES)
def test_one_request_by_itself_is_bitwise_a_run_of_sample(model: str, scale: float | None) -> None:
    fast = compiled(model)
    with rt.Engine(fast) as engine:
        for seed in range(3):
            out = engine.submit(image(seed), seed, cfg_scale=scale).result(60)
            assert torch.equal(out, solo(fast, seed, seed, cfg_scale=scale))


def test_latents_of_float64_and_half_keep_their_dtype_and_bits() -> None:
    fast = compiled()
    with rt.Engine(fast) as engine:
        for dtype in (torch.float64, torch.bfloat16):
            out = engine.submit(image(1).to(dtype), 3).result(60)
            assert out.dtype == dtype
            assert torch.equal(out, fast.sample(image(1).to(dtype), [3]))


@cache
def shared(model: str, backend: str) -> rt.Compiled:
    return compiled(model, backend)


@cache
def alone(model: str, backend: str, i: int) -> Tensor:
    return solo(shared(model, backend), i, i % 10, cfg_scale=SCALES[i % 3])


@every_case
@settings(max_examples=8, deadline=None)
@given(arrivals=st.lists(st.integers(0, STEPS - 1), max_size=9), max_batch=st.integers(1, 4))
def test_every_request_is_its_solo_run_up_to_rounding_whenever_it_arrives(
    model: str, backend: str, arrivals: list[int], max_batch: int
) -> None:
    with rt.Engine(shared(model, backend), max_batch=max_batch) as engine:

        def submit(i: int) -> Future[Tensor]:
            return engine.submit(image(i), i % 10, cfg_scale=SCALES[i % 3])

        _, futures = at_ticks(engine, arrivals, submit)
        sizes = engine.stats().batch_sizes
    assert max(sizes) <= max_batch
    by_arrival = sorted(range(len(arrivals)), key=lambda i: (arrivals[i], i))
    for i, future in zip(by_arrival, futures, strict=True):
        assert relative(future.result(0), alone(model, backend, i)) < BOUND


@every_case
def test_the_same_arrivals_give_the_same_bits(model: str, backend: str) -> None:
    runs = []
    for _ in range(2):
        with rt.Engine(compiled(model, backend)) as engine:
            _, futures = at_ticks(
                engine,
                [0, 1, 1, 2, 4],
                lambda i: engine.submit(image(i), i),
            )
            assert len(engine.stats().batch_sizes) > 1
            runs.append(futures)
    assert all_equal(*runs)


def test_requests_of_different_steps_share_evaluations_of_one_kind() -> None:
    fast = rt.compile(compiled().bound_model.model, rt.policies.Full(), steps=STEPS)
    with rt.Engine(fast) as engine:
        _, futures = at_ticks(engine, [0, 2, 2], lambda i: engine.submit(image(i), i))
        stats = engine.stats()
    # Everything is computed at every step, so that whoever is there shares.
    assert stats.batch_sizes == {1: 1, 2: 4, 4: 3, 3: 1}
    assert stats.ticks == STEPS + 3
    assert stats.longest_wait_ticks == 0
    for i, future in enumerate(futures):
        assert relative(future.result(0), solo(fast, i, i)) < BOUND


def test_slots_of_another_request_are_never_read() -> None:
    """Each of many requests with NaN in every slot before it begins."""
    fast = compiled()
    with rt.Engine(fast, max_running=2) as engine:
        engine._worker.evaluator.poison()
        futures = [engine.submit(image(i), i % 10) for i in range(8)]
        for i, future in enumerate(futures):
            assert relative(future.result(60), solo(fast, i, i % 10)) < BOUND


def test_a_seed_stands_for_its_noise() -> None:
    with rt.Engine(compiled()) as engine:
        noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(5))
        assert torch.equal(engine.submit(seed=5, y=1).result(60), engine.submit(noise, 1).result())


def test_noise_may_be_written_to_after_submit() -> None:
    fast, noise = compiled(), image(0)
    with rt.Engine(fast) as engine:
        futures = [engine.submit(noise, 3) for _ in range(3)]
        noise.zero_()
        assert relative(futures[-1].result(60), solo(fast, 0, 3)) < BOUND


def test_what_a_future_gives_holds_no_memory_of_other_requests() -> None:
    with rt.Engine(compiled()) as engine:
        _, futures = at_ticks(engine, [0, 0], lambda i: engine.submit(image(i), i))
        for future in futures:
            assert future.result(0).untyped_storage().nbytes() == image(0).nbytes


def test_the_callback_sees_what_that_of_sample_sees() -> None:
    fast = compiled()
    seen: dict[str, list[tuple[int, Tensor]]] = {"engine": [], "sample": []}
    with rt.Engine(fast) as engine:
        engine.submit(image(0), 3, callback=lambda k, x: seen["engine"].append((k, x))).result(60)
    fast.sample(image(0), [3], callback=lambda k, x: seen["sample"].append((k, x)))
    assert [k for k, _ in seen["engine"]] == list(range(STEPS))
    for (_, a), (_, b) in zip(seen["engine"], seen["sample"], strict=True):
        assert torch.equal(a, b)


def test_coroutines_await_their_latents() -> None:
    fast = compiled()

    async def three(engine: rt.Engine) -> list[Tensor]:
        return await asyncio.gather(*(engine.generate(image(i), i) for i in range(3)))

    with rt.Engine(fast) as engine:
        for i, out in enumerate(asyncio.run(three(engine))):
            assert relative(out, solo(fast, i, i)) < BOUND


def test_the_compiled_model_may_be_used_beside_its_engine() -> None:
    fast = compiled()
    expected = solo(fast, 1, 1)
    with rt.Engine(fast) as engine:
        futures = [engine.submit(image(i), i) for i in range(4)]
        assert torch.equal(solo(fast, 1, 1), expected)
        assert relative(futures[1].result(60), expected) < BOUND


def test_changed_weights_hold_for_requests_that_begin_after_the_change() -> None:
    fast = compiled()
    model: Any = fast.bound_model.model

    def change(step: int, latents: Tensor) -> None:
        if step == STEPS - 1:
            with torch.no_grad():
                model.blocks[0].mlp.fc1.weight.mul_(0.5)

    with rt.Engine(fast) as engine:
        before = engine.submit(image(0), 3, callback=change)
        assert torch.equal(before.result(60), solo(compiled(), 0, 3))
        after = engine.submit(image(0), 3).result(60)
    assert torch.equal(after, solo(fast, 0, 3))
    assert not torch.equal(after, before.result())
