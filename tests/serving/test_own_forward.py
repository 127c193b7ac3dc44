"""Models that run their own forward, with a scheduler of diffusers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch
from block_models import WIDTH, TwoStreams, built
from published_outputs import relative
from served import all_equal
from torch import Tensor
from toys import toy_dit

import l2c_rt as rt

STEPS = 8
BOUND = 2e-5
METHODS: dict[str, Any] = {
    "FORA": rt.methods.FORA(cache_threshold=3),
    "TaylorSeer": rt.methods.TaylorSeer(interval=3, max_order=2),
    "blocks": rt.policies.EveryN(2),
}
every_method = pytest.mark.parametrize("method", METHODS)


def scheduler(kind: str = "DDIMScheduler", **options: Any) -> Any:
    solver = getattr(diffusers, kind)(**options)
    solver.set_timesteps(STEPS)
    return solver


def compiled(method: str, solver: Any) -> rt.Compiled:
    granularity = "block" if method == "blocks" else None
    return rt.compile(
        built(TwoStreams), METHODS[method], timesteps=solver.timesteps.tolist(),
        granularity=granularity,
    )  # fmt: skip


def noise(seed: int) -> Tensor:
    return torch.randn(1, 6, WIDTH, generator=torch.Generator().manual_seed(seed))


def text(seed: int) -> dict[str, Tensor]:
    return {"text": torch.randn(1, 3, WIDTH, generator=torch.Generator().manual_seed(90 + seed))}


def by_hand(fast: rt.Compiled, solver: Any, seed: int, cfg_scale: float | None) -> Tensor:
    """The loop that a user would write for one image."""
    own, x = copy.deepcopy(solver), noise(seed)
    samples = [text(seed)["text"]] + ([] if cfg_scale is None else [text(-1)["text"]])
    with torch.no_grad():
        for t in own.timesteps:
            given = torch.cat([own.scale_model_input(x, t)] * len(samples))
            out = fast(given, torch.cat(samples), t.expand(len(samples)))
            if cfg_scale is not None:
                out = out[1:] + cfg_scale * (out[:1] - out[1:])
            x = own.step(out, t, x, return_dict=False)[0]
    return x


def submitter(engine: rt.Engine, scales: list[float | None]) -> Callable[[int], Any]:
    def submit(i: int) -> Any:
        scale = scales[i % len(scales)]
        null = None if scale is None else text(-1)
        return engine.submit(noise(i), inputs=text(i), null_inputs=null, cfg_scale=scale)

    return submit


@every_method
@pytest.mark.parametrize("scale", [None, 3.0])
def test_one_request_by_itself_is_bitwise_the_users_own_loop(
    method: str, scale: float | None
) -> None:
    solver = scheduler()
    fast = compiled(method, solver)
    with rt.Engine(fast, solver=solver) as engine:
        for seed in range(2):
            out = submitter(engine, [scale])(seed).result(60)
            assert torch.equal(out, by_hand(compiled(method, solver), solver, seed, scale))


@every_method
@pytest.mark.parametrize(
    "kind", ["DDIMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler"]
)
def test_requests_at_different_steps_are_their_solo_runs_up_to_rounding(
    method: str, kind: str
) -> None:
    solver = scheduler(kind)
    fast = compiled(method, solver)
    with rt.Engine(fast, solver=solver, max_batch=3) as engine:
        gate = engine.submit(noise(50), inputs=text(50))
        gate.result(60)
        futures = [submitter(engine, [None, 2.0, 5.0])(i) for i in range(7)]
        for i, future in enumerate(futures):
            expected = by_hand(compiled(method, solver), solver, i, [None, 2.0, 5.0][i % 3])
            assert relative(future.result(60), expected) < BOUND
        assert max(engine.stats().batch_sizes) > 1


def beside(first: Tensor) -> list[Any]:
    """Four requests of which `first` begins first, one more at every step of another run."""
    solver = scheduler()
    futures: list[Any] = []
    noises = [first, *map(noise, range(1, 4))]
    with rt.Engine(compiled("FORA", solver), solver=solver) as engine:

        def callback(step: int, latents: Tensor) -> None:
            if step < len(noises):
                futures.append(engine.submit(noises[step], inputs=text(step)))

        engine.submit(noise(9), inputs=text(9), callback=callback).result(60)
        engine.drain(60)
    return futures


def test_a_request_of_nan_leaves_the_others_bitwise_as_they_are() -> None:
    healthy, faulty = beside(noise(0)), beside(torch.full_like(noise(0), torch.nan))
    with pytest.raises(FloatingPointError):
        faulty[0].result(0)
    assert all_equal(healthy[1:], faulty[1:])


def test_a_request_of_another_size_fails_and_the_others_are_served() -> None:
    solver = scheduler()
    fast = compiled("FORA", solver)
    with rt.Engine(fast, solver=solver) as engine:
        futures = [engine.submit(noise(i), inputs=text(i)) for i in range(2)]
        odd = engine.submit(torch.randn(1, 4, WIDTH), inputs=text(2))
        with pytest.raises(ValueError, match="inputs of one size"):
            odd.result(60)
        for i, future in enumerate(futures):
            expected = by_hand(compiled("FORA", solver), solver, i, None)
            assert relative(future.result(60), expected) < BOUND


def test_a_scheduler_that_draws_noise_is_refused() -> None:
    solver = scheduler("EulerAncestralDiscreteScheduler")
    with pytest.raises(ValueError, match="draws noise"):
        rt.Engine(compiled("FORA", solver), solver=solver)


def test_a_scheduler_of_another_loop_is_refused() -> None:
    fast, solver = compiled("FORA", scheduler()), scheduler()
    solver.set_timesteps(STEPS + 1)
    with pytest.raises(ValueError, match="9 timesteps, the schedule 8"):
        rt.Engine(fast, solver=solver)
    with pytest.raises(ValueError, match="timestep 0 of the solver"):
        rt.Engine(fast, solver=scheduler("DPMSolverMultistepScheduler"))
    with pytest.raises(TypeError, match="scheduler as diffusers has them, got int"):
        rt.Engine(fast, solver=3)
    with pytest.raises(ValueError, match="no published loop"):
        rt.Engine(fast)


def test_a_method_that_decides_at_run_time_is_refused() -> None:
    solver = scheduler()
    fast = rt.compile(
        built(TwoStreams), rt.methods.FirstBlockCache(), timesteps=solver.timesteps.tolist()
    )
    with pytest.raises(ValueError, match="decides at run time, for a batch as a whole"):
        rt.Engine(fast, solver=solver)


def test_a_method_that_chooses_tokens_is_refused() -> None:
    fast = rt.compile(toy_dit(), rt.methods.ToCa(), steps=STEPS)
    with pytest.raises(ValueError, match="chooses tokens"):
        rt.Engine(fast)
