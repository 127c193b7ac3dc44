"""An engine over a toy, and requests whose arrival in ticks is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import torch
from torch import Tensor
from toys import count_branches, noise, random_schedule, toy_dit, toy_uvit

import l2c_rt as rt
from l2c_rt.runtime.compiled import Compiled
from l2c_rt.sampling import loops
from l2c_rt.sampling.solvers import solver_for

STEPS = 6
MODELS: dict[str, Callable[[], Any]] = {"DiT": toy_dit, "U-ViT": toy_uvit}


def compiled(model: str = "DiT", backend: str = "reference", **options: Any) -> Compiled:
    """A toy of STEPS evaluations, half of its branches reused."""
    built = MODELS[model]()
    schedule = random_schedule(STEPS, count_branches(built), seed=7)
    return rt.compile(built, schedule, backend=backend, **options)


def image(seed: int) -> Tensor:
    """Noise for one image."""
    return noise(seed, 1)


def solo(fast: Compiled, seed: int, y: int, **options: Any) -> Tensor:
    """What `sample` gives for one image by itself."""
    return fast.sample(image(seed), [y], **options)


def by_calls(fast: Compiled, noise: Tensor, y: int, cfg_scale: float | None = None) -> Tensor:
    """The latents of one image in the published loop over calls of the model."""
    loop = fast.bound_model.checked_loop
    assert loop is not None
    solver = solver_for(loop.sampler, fast.schedule.steps)
    scale = loop.cfg_scale if cfg_scale is None else cfg_scale
    guided = loops.guided_call(fast, loop, torch.tensor([y], device=noise.device), scale)
    with torch.no_grad():
        *_, latents = loops.run(solver, guided, noise)
    return latents


def at_ticks(
    engine: rt.Engine,
    arrivals: Sequence[int],
    submit: Callable[[int], Future[Tensor]],
    start: Tensor | None = None,
) -> tuple[Future[Tensor], list[Future[Tensor]]]:
    """Submit request i when a first one has done `arrivals[i]` of its evaluations: its callback
    does it in the engine's own thread, so that batches are the same at every run."""
    futures: list[Future[Tensor]] = []

    def callback(step: int, latents: Tensor) -> None:
        futures.extend(submit(i) for i, tick in enumerate(arrivals) if tick == step)

    first = engine.submit(image(1000) if start is None else start, 0, callback=callback)
    first.result(60)
    engine.drain(60)
    return first, futures


def all_equal(futures: Sequence[Future[Tensor]], others: Sequence[Future[Tensor]]) -> bool:
    """Bitwise, one by one."""
    return all(
        torch.equal(a.result(60), b.result(60)) for a, b in zip(futures, others, strict=True)
    )
