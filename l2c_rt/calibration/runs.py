"""Uncached runs: of the published loop of a model's family, or of a loop of the user's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from l2c_rt.adapters.bound_model import BoundModel
from l2c_rt.comparison.loop_runs import Loop, isolated
from l2c_rt.runtime.loop_model import LoopModel, Place
from l2c_rt.runtime.timestep_check import host_timestep
from l2c_rt.sampling import loops
from l2c_rt.sampling.inputs import check_labels, check_noise, check_scale
from l2c_rt.sampling.solvers import solver_for

Progress = Callable[[int, int], None]
"""(evaluations done, of how many)."""

OnResult = Callable[[Any], None]
"""Takes what a run ends in: latents, or what a loop of the user's own returns."""


class Callee(Protocol):
    """What takes the model's calls in a run."""

    def begin_run(self) -> None: ...

    def call(self, place: Place, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The model's own return value, or what stands for it."""
        ...


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
        if not noise.isfinite().all():
            raise ValueError("noise: wanted finite numbers, got NaN or infinity")
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


@dataclass(frozen=True, slots=True)
class Runs:
    """Whole runs of one model: of its published loop, where `loop` is None, or of `loop`.

    `cfg_scale` and `batch_size` are of the published loop.
    """

    bound_model: BoundModel
    steps: int
    loop: Loop | None = None
    calls_per_step: int = 1
    cfg_scale: float | None = None
    batch_size: int | None = None
    progress: Progress | None = None
    on_result: OnResult | None = None

    @property
    def guided(self) -> bool:
        """Whether both labels are in a batch, cond first."""
        return self.loop is None and self.samples(1, 0).guided

    @property
    def sampler(self) -> str:
        """The published sampler; "" of a loop of the user's own."""
        sampling = self.bound_model.sampling
        return "" if self.loop is not None or sampling is None else sampling.sampler

    def samples(
        self,
        count: int,
        seed: int,
        noise: Tensor | None = None,
        labels: Sequence[int] | None = None,
    ) -> Samples:
        """What runs of the published loop start from."""
        scale, size = self.cfg_scale, self.batch_size
        return Samples.of(self.bound_model, count, seed, noise, labels, scale, size)

    def over(
        self,
        callee: Callee,
        count: int,
        seed: int,
        noise: Tensor | None = None,
        labels: Sequence[int] | None = None,
    ) -> tuple[float, ...] | None:
        """Run for `count` samples, every call of the model going to `callee`.

        The result is the timesteps, where the model is given any and all runs have the same.
        Raises ValueError where the loop calls the model another number of times.
        """
        if self.loop is None:
            return self._published(callee, self.samples(count, seed, noise, labels))
        seeds = range(seed, seed + count)
        known = [self._own(callee, self.loop, run, seeds) for run in range(count)]
        same = all(times == known[0] and len(times) == self.steps for times in known)
        return known[0] if same else None

    def _published(self, callee: Callee, samples: Samples) -> tuple[float, ...]:
        model, loop = self.bound_model, self.bound_model.sampling
        assert loop is not None
        solver = solver_for(loop.sampler, self.steps)
        batches = list(samples.batches())
        dtype = next(model.model.parameters()).dtype
        for run, (noise, labels) in enumerate(batches):
            step = 0

            def call(x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
                arguments = model.arguments(x.to(dtype), t, y)
                out = callee.call(Place(0, step), (), arguments)  # noqa: B023
                return model.to_tensor(out).to(x.dtype)

            callee.begin_run()
            guided = loops.guided_call(call, loop, labels, samples.cfg_scale)
            latents = noise
            for x in loops.run(solver, guided, noise):
                latents, step = x, step + 1
                self._tell(run * self.steps + step, len(batches) * self.steps)
            self._end(latents)
        return tuple(map(float, solver.timesteps))

    def _own(self, callee: Callee, loop: Loop, run: int, seeds: Sequence[int]) -> tuple[float, ...]:
        """One run, the `run`-th of all; its timesteps."""
        bound_model, times = self.bound_model, []

        def call(place: Place, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if place.step >= self.steps:
                # Counted, and refused at the end.
                return bound_model.model(*args, **kwargs)
            if place.lane == 0:
                times.append(bound_model.begin(*args, **kwargs).t)
            out = callee.call(place, args, kwargs)
            if place.lane == self.calls_per_step - 1:
                self._tell(run * self.steps + place.step + 1, len(seeds) * self.steps)
            return out

        model = LoopModel(bound_model.model, self.calls_per_step, call)
        callee.begin_run()
        with isolated(bound_model.device, seeds[run]):
            result = loop(model, seeds[run])
        self._end(result)
        _check_counts(model.counts, self.steps, self.calls_per_step)
        return tuple(float(host_timestep(t)) for t in times if t is not None)

    def _end(self, result: Any) -> None:
        if self.on_result is not None:
            self.on_result(result)

    def _tell(self, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(done, total)


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
