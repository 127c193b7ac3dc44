"""Batches of requests on the fused CUDA backend: with references for kernels and tapes for graphs,
and the same on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from published_outputs import relative
from served import STEPS, at_ticks, by_calls, image
from taped_graphs import compile_taped
from torch import Tensor
from toys import count_branches, random_schedule, toy_dit, toy_uvit

import l2c_rt as rt
from l2c_rt.sampling.solvers import solver_for

BOUND = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 3e-2}
SCALES = (None, 0.0, 2.0)
TIMESTEPS = {
    toy_dit: solver_for("ddim", STEPS).timesteps,
    toy_uvit: solver_for("dpm-solver", STEPS).timesteps,
}


@dataclass(frozen=True)
class Place:
    """Where a model runs."""

    device: str

    def compiled(self, model: Any, schedule: Any = None, **options: Any) -> rt.Compiled:
        """A toy of STEPS evaluations, half of its branches reused."""
        schedule = schedule or random_schedule(STEPS, count_branches(model), seed=7)
        options = {"steps": STEPS, **options}
        if self.device == "cpu":
            return compile_taped(model, schedule, **options)
        return rt.compile(model.cuda(), schedule, backend="fused", tune=False, **options)

    def image(self, seed: int) -> Tensor:
        return image(seed).to(self.device)

    def submit(self, engine: rt.Engine, i: int, **options: Any) -> Future[Tensor]:
        return engine.submit(self.image(i), i % 10, cfg_scale=SCALES[i % 3], **options)

    def arrivals(self, engine: rt.Engine, ticks: list[int]) -> list[Future[Tensor]]:
        """Request i when another has done `ticks[i]` of its evaluations."""
        start = self.image(1000)
        return at_ticks(engine, ticks, lambda i: self.submit(engine, i), start)[1]

    def solo(self, fast: rt.Compiled, i: int) -> Tensor:
        return fast.sample(self.image(i), [i % 10], cfg_scale=SCALES[i % 3])


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def place(request: pytest.FixtureRequest) -> Place:
    return Place(request.param)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("model", [toy_dit, toy_uvit])
def test_requests_at_different_steps_are_solo_runs_up_to_rounding(
    model: Callable[[], Any], dtype: torch.dtype, place: Place
) -> None:
    fast = place.compiled(model().to(dtype))
    expected = [place.solo(fast, i) for i in range(7)]
    with rt.Engine(fast, max_batch=4) as engine:
        for _ in range(2):
            futures = place.arrivals(engine, [0, 0, 1, 2, 2, 4, 5])
            for future, latents in zip(futures, expected, strict=True):
                assert relative(future.result(60), latents) < BOUND[dtype]
        assert len(engine.stats().batch_sizes) > 1


def test_each_distinct_step_is_captured_once_for_each_size_and_memory_is_flat(
    place: Place,
) -> None:
    fast = place.compiled(toy_dit())
    with rt.Engine(fast, max_batch=4) as engine:
        graphs, nbytes = engine.stats().graphs, engine.nbytes
        # 1, 2, 4 and 8 samples, before the first request.
        assert graphs == 4 * len(fast.plan.steps)
        allocated = set()
        for _ in range(3):
            for future in [place.submit(engine, i) for i in range(20)]:
                future.result(60)
            engine.drain(60)
            if place.device == "cuda":
                torch.cuda.synchronize()
                allocated.add(torch.cuda.memory_allocated() >> 20)
        stats = engine.stats()
        assert (stats.graphs, engine.nbytes) == (graphs, nbytes)
        assert max(allocated, default=0) - min(allocated, default=0) <= 1
        assert stats.replays == stats.ticks + len(fast.plan.steps)


def test_who_leaves_touches_nobody_and_nan_stays_with_its_request(place: Place) -> None:
    fast = place.compiled(toy_dit())
    with rt.Engine(fast, max_batch=4) as engine:
        leaving: list[Future[Tensor]] = []

        def leave(step: int, latents: Tensor) -> None:
            if step == 2:
                leaving[0].cancel()

        bad = engine.submit(torch.full_like(place.image(0), torch.nan), 3)
        leaving.append(place.submit(engine, 1, callback=leave))
        others = {i: place.submit(engine, i) for i in range(2, 9)}
        for i, future in others.items():
            assert relative(future.result(60), place.solo(fast, i)) < BOUND[torch.float32]
        with pytest.raises(FloatingPointError):
            bad.result(60)
        with pytest.raises(CancelledError):
            leaving[0].result(60)


def test_nothing_is_read_that_another_request_has_left(place: Place) -> None:
    fast = place.compiled(toy_dit())
    with rt.Engine(fast, max_batch=2) as engine:
        place.submit(engine, 0).result(60)
        engine._worker.evaluator.poison()
        futures = [place.submit(engine, i) for i in range(6)]
        for i, future in enumerate(futures):
            assert relative(future.result(60), place.solo(fast, i)) < BOUND[torch.float32]


@pytest.mark.parametrize("model", [toy_dit, toy_uvit])
def test_one_request_alone_is_bitwise_a_loop_of_calls(
    model: Callable[[], Any], place: Place
) -> None:
    fast = place.compiled(model(), timesteps=TIMESTEPS[model])
    with rt.Engine(fast) as engine:
        for i in range(3):
            out = place.submit(engine, i).result(60)
            assert torch.equal(out, by_calls(fast, place.image(i), i, SCALES[i]))


def test_the_same_request_alone_gives_the_same_bits(place: Place) -> None:
    outs = []
    for _ in range(2):
        with rt.Engine(place.compiled(toy_dit())) as engine:
            outs += [place.submit(engine, 5).result(60) for _ in range(2)]
    assert all(torch.equal(out, outs[0]) for out in outs)


@pytest.mark.parametrize("model", [toy_dit, toy_uvit])
def test_predictions_have_coefficients_of_each_requests_step(
    model: Callable[[], Any], place: Place
) -> None:
    built = model()
    schedule = rt.correctors.corrected(
        random_schedule(STEPS, count_branches(built), seed=7), rt.correctors.Taylor(2)
    )
    fast = place.compiled(built, schedule)
    with rt.Engine(fast, max_batch=4) as engine:
        assert len(set(engine._worker.evaluator.kinds)) == len(fast.plan.steps)
        for i, future in enumerate(place.arrivals(engine, [0, 1, 1, 2, 4])):
            assert relative(future.result(60), place.solo(fast, i)) < BOUND[torch.float32]


def test_changed_weights_are_seen_by_those_that_begin_after(place: Place) -> None:
    fast = place.compiled(toy_dit())
    model: Any = fast.bound_model.model
    with rt.Engine(fast) as engine:
        before = place.submit(engine, 0).result(60)
        with torch.no_grad():
            model.x_embedder.proj.weight.mul_(0.5)
            model.blocks[0].adaLN_modulation[1].weight.mul_(0.5)
        after = place.submit(engine, 0).result(60)
        assert relative(after, place.solo(fast, 0)) < BOUND[torch.float32]
        assert not torch.equal(after, before)


def test_products_in_8_bits_are_batched_too() -> None:
    fast = compile_taped(
        toy_dit().bfloat16(), random_schedule(STEPS, 6, seed=7), precision="fp8", steps=STEPS
    )
    with rt.Engine(fast, max_batch=4) as engine:
        for i, future in enumerate(Place("cpu").arrivals(engine, [0, 1, 2])):
            assert relative(future.result(60), Place("cpu").solo(fast, i)) < 3e-2


def test_a_scheduler_of_diffusers_drives_a_described_model() -> None:
    scheduler = pytest.importorskip("diffusers").DDIMScheduler()
    scheduler.set_timesteps(STEPS)
    model = toy_dit(learn_sigma=False)
    fast = Place("cpu").compiled(model, timesteps=scheduler.timesteps.tolist())
    with rt.Engine(fast, max_batch=4, solver=scheduler) as engine:
        futures = [engine.submit(image(i), inputs={"y": torch.tensor([i])}) for i in range(5)]
        for i, future in enumerate(futures):
            x = image(i)
            for t in scheduler.timesteps:
                out = fast(x, t.expand(1), torch.tensor([i]))
                x = scheduler.step(out, t, x, return_dict=False)[0]
            assert relative(future.result(60), x) < BOUND[torch.float32]
