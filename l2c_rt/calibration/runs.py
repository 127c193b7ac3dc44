"""Uncached runs: of the published loop of a model's family, or of a loop of the user's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from l2c_rt.adapters.bound_model import BoundModel, PublishedLoop
from l2c_rt.compare.loop_runs import Loop
from l2c_rt.learning.rehearsal import isolated
from l2c_rt.runtime.loop_model import LoopModel, Place
from l2c_rt.runtime.timestep_check import host_timestep
from l2c_rt.sampling import loops
from l2c_rt.sampling.inputs import check_labels, check_noise, check_scale
from l2c_rt.sampling.solvers import solver_for

Progress = Callable[[int, int], None]
"""(evaluations done, of how many)."""

OnResult = Callable[[Any], None]
"""Takes what a run ends in: latents, or what a loop of the user's own returns."""


class Watched(Protocol):
    """What stands for the model in a run, such as a Recorder."""

    timesteps: list[Any]

    def begin_run(self) -> None: ...

    def call(self, place: Place, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any: ...


def _dropped(result: Any) -> None:
    """Nobody looks at it."""


@dataclass(frozen=True, slots=True)
class Samples:
    """What runs of a published loop start from: noise [n, C, H, W], labels [n] or None, guidance,
    and how many images go through the model together; `guided`: with both labels of each."""

    noise: Tensor
    labels: Tensor | None
    cfg_scale: float
    batch_size: int
    guided: bool

    @staticmethod
    def of(
        bound_model: BoundModel,
        count: int,
        seed: int,
        noise: Tensor | None,
        labels: Sequence[int] | None,
        cfg_scale: float | None,
        batch_size: int | None,
    ) -> Samples:
        """Noise by the seed and labels that go round the classes, where they are not given."""
        loop = bound_model.sampling
        assert loop is not None
        if noise is None:
            count = count if labels is None else len(labels)
            generator = torch.Generator().manual_seed(seed)
            shape = (count, loop.channels, loop.size, loop.size)
            noise = torch.randn(shape, generator=generator).to(bound_model.device)
        check_noise(noise, loop, bound_model.device)
        if labels is None and loop.classes:
            labels = [k % loop.classes for k in range(len(noise))]
        y = check_labels(labels, noise, loop)
        if cfg_scale is None and loop.null_label is None:
            cfg_scale = loop.guidance.neutral
        scale = check_scale(cfg_scale, loop)
        guided = loops.is_guided(loop, y, scale)
        return Samples(noise, y, scale, batch_size or len(noise), guided)

    def batches(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        """One after the other."""
        for start in range(0, len(self.noise), self.batch_size):
            rows = slice(start, start + self.batch_size)
            yield self.noise[rows], None if self.labels is None else self.labels[rows]


def published_runs(
    bound_model: BoundModel,
    steps: int,
    samples: Samples,
    recorder: Watched,
    progress: Progress,
    on_result: OnResult = _dropped,
) -> tuple[float, ...]:
    """One run per batch; the timesteps of the loop."""
    loop: PublishedLoop | None = bound_model.sampling
    assert loop is not None
    solver = solver_for(loop.sampler, steps)
    batches = list(samples.batches())
    dtype = next(bound_model.model.parameters()).dtype
    for run, (noise, labels) in enumerate(batches):
        step = 0

        def call(x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
            arguments = bound_model.arguments(x.to(dtype), t, y)
            out = recorder.call(Place(0, step), (), arguments)  # noqa: B023
            return bound_model.to_tensor(out).to(x.dtype)

        recorder.begin_run()
        guided = loops.guided_call(call, loop, labels, samples.cfg_scale)
        latents = noise
        for x in loops.run(solver, guided, noise):
            latents, step = x, step + 1
            progress(run * steps + step, len(batches) * steps)
        on_result(latents)
    return tuple(map(float, solver.timesteps))


def own_runs(
    bound_model: BoundModel,
    loop: Loop,
    steps: int,
    calls_per_step: int,
    seeds: Sequence[int],
    recorder: Watched,
    progress: Progress,
    on_result: OnResult = _dropped,
) -> tuple[float, ...] | None:
    """One run per seed; the timesteps, where the model is given any and runs have the same.

    Raises ValueError where the loop calls the model another number of times.
    """
    known: list[tuple[float, ...]] = []
    for run, seed in enumerate(seeds):

        def call(place: Place, args: tuple[object, ...], kwargs: dict[str, object]) -> object:
            if place.step >= steps:
                # Counted, and refused at the end.
                return bound_model.model(*args, **kwargs)
            out = recorder.call(place, args, kwargs)
            if place.lane == calls_per_step - 1:
                progress(run * steps + place.step + 1, len(seeds) * steps)  # noqa: B023
            return out

        model = LoopModel(bound_model.model, calls_per_step, call)
        recorder.begin_run()
        with isolated(bound_model.device, seed):
            result = loop(model, seed)
        on_result(result)
        _check_counts(model.counts, steps, calls_per_step)
        times = [None if t is None else host_timestep(t) for t in recorder.timesteps]
        known.append(tuple(t for t in times if t is not None))
    same = all(times == known[0] and len(times) == steps for times in known)
    return known[0] if same else None


def _check_counts(counts: Sequence[int], steps: int, calls_per_step: int) -> None:
    if any(count != steps for count in counts):
        raise ValueError(
            f"calibrate: loop called the model {sum(counts)} times, wanted steps x calls_per_step "
            f"= {steps} x {calls_per_step}; give the steps of the loop, and calls_per_step=2 where "
            "it calls cond and uncond separately"
        )


def is_loop(loop: object) -> bool:
    """Whether `loop` can be called with a model and a seed."""
    return callable(loop) and not isinstance(loop, nn.Module)
