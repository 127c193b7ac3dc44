"""What a request is made of, for each kind of loop: its inputs, checked, and its solver."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from l2c_rt.adapters.bound_model import PublishedLoop
from l2c_rt.runtime.known_loop import same_timestep
from l2c_rt.runtime.sample import published_loop, published_solver
from l2c_rt.runtime.shared import SharedModel
from l2c_rt.sampling import inputs, loops
from l2c_rt.serving.batched_loop import BatchedLoop, Predictions, parts
from l2c_rt.serving.request import PublishedSteps, Request, RequestLoop

ROWS = 2
"""Samples of a guided request: cond and uncond."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked for.  `inputs` and `null_inputs` are further arguments of the model's forward,
    [1, ...] each."""

    noise: Tensor | None = None
    y: Any = None
    seed: int | None = None
    cfg_scale: float | None = None
    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    null_inputs: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Start:
    """Where a run begins: its latents [1, ...], its solver, and what the model is given for each of
    its samples."""

    latents: Tensor
    loop: RequestLoop
    cfg_scale: float
    rows: int
    labels: Tensor | None = None
    inputs: tuple[Mapping[str, Tensor], ...] = ()


class Intake(Protocol):
    """A loop of all requests: one timestep per evaluation."""

    @property
    def timesteps(self) -> Sequence[float]: ...

    @property
    def timestep_dtype(self) -> torch.dtype: ...

    @property
    def example(self) -> Asked | None:
        """A request like all others, where there is no need to be shown one."""

    def start(self, asked: Asked) -> Start:
        """Raises TypeError or ValueError where the inputs do not fit."""

    def predicted(self, out: Tensor, batch: Sequence[Request]) -> Predictions:
        """What the model predicts for each request, guided.  Shapes: out [samples, ...], those of a
        request one after another."""

    def moved(
        self, batch: Sequence[Request], predictions: Predictions
    ) -> Sequence[Tensor | BaseException]:
        """The latents of each request after its evaluation, or what its solver raised."""


class PublishedIntake:
    """The published loop of the model's family."""

    def __init__(self, shared: SharedModel) -> None:
        self._shared = shared
        self._loop: PublishedLoop = published_loop(shared.version.model)
        self._solver = published_solver(shared.version.model, shared.schedule, shared.loop)
        self._batched = BatchedLoop(self._loop, self._solver)
        self.timesteps: Sequence[float] = self._solver.timesteps
        whole = isinstance(self.timesteps[0], int)
        self.timestep_dtype = torch.int64 if whole else torch.float32
        self.example: Asked | None = Asked(seed=0, y=0 if self._loop.classes else None)

    def start(self, asked: Asked) -> Start:
        loop, device = self._loop, self._shared.version.model.device
        if asked.inputs or asked.null_inputs:
            raise ValueError("Engine: inputs= are for a loop that is given with solver=; here the "
                             "model is given labels, y")  # fmt: skip
        noise = asked.noise
        if noise is None:
            assert asked.seed is not None
            noise = _noise(asked.seed, (1, loop.channels, loop.size, loop.size)).to(device)
        inputs.check_noise(noise, loop, device)
        _check_one(noise)
        y = [asked.y] if isinstance(asked.y, int) else asked.y
        labels = inputs.check_labels(y, noise, loop)
        scale = inputs.check_scale(asked.cfg_scale, loop)
        guided = loops.is_guided(loop, labels, scale)
        if guided:
            assert labels is not None
            assert loop.null_label is not None
            labels = torch.cat([labels, torch.full_like(labels, loop.null_label)])
        rows = ROWS if guided else 1
        # A copy: the caller may write to what was given.
        latents = noise.detach().clone()
        return Start(latents, PublishedSteps(self._solver), scale, rows, labels)

    def predicted(self, out: Tensor, batch: Sequence[Request]) -> Predictions:
        return self._batched.predicted(out, batch)

    def moved(
        self, batch: Sequence[Request], predictions: Predictions
    ) -> Sequence[Tensor | BaseException]:
        return self._batched.moved(batch, predictions)


class SolverIntake:
    """A loop of the user's: a scheduler as diffusers has them, copied for every request.

    Raises TypeError for what is no scheduler, ValueError for one with another number of timesteps,
    or that draws noise.
    """

    def __init__(self, shared: SharedModel, solver: Any) -> None:
        if not all(hasattr(solver, name) for name in ("timesteps", "step", "set_timesteps")):
            raise TypeError(
                "Engine: solver must be a scheduler as diffusers has them, got "
                f"{type(solver).__name__}"
            )
        steps = shared.schedule.steps
        if len(solver.timesteps) != steps:
            raise ValueError(
                f"Engine: the solver has {len(solver.timesteps)} timesteps, the schedule {steps} "
                f"evaluations; call set_timesteps so that there is one for each"
            )
        self.timesteps: Sequence[float] = tuple(solver.timesteps.tolist())
        self.timestep_dtype = solver.timesteps.dtype
        self.example: Asked | None = None
        self._check_known(shared)
        self._solver = copy.deepcopy(solver)
        _check_pure(self._solver)

    def start(self, asked: Asked) -> Start:
        if asked.noise is None or asked.y is not None:
            raise ValueError("Engine: with solver= a request is noise and inputs=, without y or "
                             "seed=")  # fmt: skip
        if not isinstance(asked.noise, Tensor) or not asked.noise.is_floating_point():
            raise TypeError(f"Engine: noise must be a floating tensor, got {asked.noise!r:.80}")
        samples = (asked.inputs, asked.null_inputs) if asked.null_inputs else (asked.inputs,)
        for tensor in (asked.noise, *(t for sample in samples for t in sample.values())):
            _check_one(tensor)
        if asked.null_inputs and asked.inputs.keys() != asked.null_inputs.keys():
            raise ValueError(
                f"Engine: null_inputs has {sorted(asked.null_inputs)}, inputs "
                f"{sorted(asked.inputs)}; wanted the same names"
            )
        if asked.null_inputs and asked.cfg_scale is None:
            raise ValueError("Engine: null_inputs without cfg_scale; give both, or neither")
        return Start(
            asked.noise.detach().clone(), SchedulerSteps(copy.deepcopy(self._solver)),
            float(asked.cfg_scale or 1.0), len(samples), inputs=samples,
        )  # fmt: skip

    def predicted(self, out: Tensor, batch: Sequence[Request]) -> Predictions:
        predictions = []
        for part, request in parts(out, batch):
            own = part.to(request.latents.dtype)
            if request.rows == ROWS:
                own = own[1:] + request.cfg_scale * (own[:1] - own[1:])
            predictions.append(own)
        return predictions

    def moved(
        self, batch: Sequence[Request], predictions: Predictions
    ) -> Sequence[Tensor | BaseException]:
        return [
            _moved(request, prediction)
            for request, prediction in zip(batch, predictions, strict=True)
        ]

    def _check_known(self, shared: SharedModel) -> None:
        if shared.loop is None:
            return
        for k, (a, b) in enumerate(zip(self.timesteps, shared.loop.timesteps, strict=True)):
            if not same_timestep(a, b):
                raise ValueError(
                    f"Engine: timestep {k} of the solver is {a:g}, but {b:g} is known from "
                    f"{shared.loop.source}; compile with timesteps=solver.timesteps"
                )


class SchedulerSteps:
    """A scheduler of a request's own: some keep earlier predictions."""

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler

    def model_input(self, step: int, latents: Tensor) -> Tensor:
        if not hasattr(self._scheduler, "scale_model_input"):
            return latents
        scaled: Tensor = self._scheduler.scale_model_input(latents, self._scheduler.timesteps[step])
        return scaled

    def update(self, step: int, latents: Tensor, prediction: Tensor) -> Tensor:
        t = self._scheduler.timesteps[step]
        after: Tensor = self._scheduler.step(prediction, t, latents, return_dict=False)[0]
        return after


def _moved(request: Request, prediction: Tensor) -> Tensor | BaseException:
    try:
        return request.loop.update(request.step, request.latents, prediction)
    except BaseException as error:
        # Ctrl-C too ends only the request whose scheduler it was raised in.
        return error


def _check_pure(solver: Any) -> None:
    """Two runs of made-up predictions must end in the same latents."""
    ends = []
    for _ in range(2):
        loop, x = SchedulerSteps(copy.deepcopy(solver)), torch.ones(1, 1, 2, 2)
        for step in range(len(solver.timesteps)):
            x = loop.update(step, x, loop.model_input(step, x) / 2)
        ends.append(x)
    if not torch.equal(ends[0], ends[1]):
        raise ValueError(
            f"Engine: {type(solver).__name__} draws noise, so a request would depend on those "
            "beside it; give a scheduler without noise"
        )


def _check_one(tensor: Tensor) -> None:
    if tensor.dim() == 0 or tensor.shape[0] != 1:
        raise ValueError(
            f"Engine: a request is one image, noise and inputs [1, ...], got {list(tensor.shape)}; "
            "submit images one by one"
        )


def _noise(seed: int, shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
