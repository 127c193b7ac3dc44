"""`sample`: the whole run of a model's published loop, on a run."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from l2c_rt.adapters.bound_model import BoundModel, PublishedLoop
from l2c_rt.adapters.own.modes import without_gradients
from l2c_rt.backends.backend import Callback, RunRequest, WrongResultError
from l2c_rt.runtime.cache_context import StepHint
from l2c_rt.runtime.known_loop import KnownLoop, same_timestep
from l2c_rt.runtime.lanes import InputKey
from l2c_rt.runtime.previews import Previews
from l2c_rt.runtime.profiler_ranges import trace_range
from l2c_rt.runtime.proof import described_forward
from l2c_rt.runtime.run import Run
from l2c_rt.sampling import inputs, loops
from l2c_rt.sampling.solvers import PublishedSolver, solver_for
from l2c_rt.schedule.cache_schedule import CacheSchedule


def sample(
    run: Run, noise: Tensor, y: Any, cfg_scale: float | None, callback: Callback | None
) -> Tensor:
    """The latents after the run; see `Session.sample`.

    Where the backend has whole runs, guidance and solver are on the device.
    """
    if run.lanes.count != 1:
        raise ValueError(
            "sample: batches cond and uncond, so it needs a session with one call per step; call "
            "sample() of the compiled model"
        )
    previews = None if callback is None else Previews(callback, run.shared.notices)
    run.begin_whole()
    model, schedule = run.version.model, run.shared.schedule
    loop = published_loop(model)
    solver = published_solver(model, schedule, run.clock.known)
    if run.clock.known is None or run.clock.known.source == "earlier runs":
        # What this run will have shown at its end: so the first one tabulates all its steps too.
        run.clock.known = KnownLoop(tuple(map(float, solver.timesteps)), "earlier runs")
    inputs.check_noise(noise, loop, model.device)
    labels, scale = inputs.check_labels(y, noise, loop), inputs.check_scale(cfg_scale, loop)
    guided = loops.is_guided(loop, labels, scale)
    request = RunRequest(noise, labels, scale, guided, solver)
    shape = (2 * len(noise) if guided else len(noise), *noise.shape[1:])
    key = InputKey.of(shape, _dtype(model), model.device)
    with without_gradients(), trace_range("run"):  # The latents outlive the call.
        if run.has_whole(key) and not _refuted(run, request, loop):
            try:
                return run.whole(key, request, previews)
            except WrongResultError as error:
                run.shared.replace_backend(run.version, error)
                run.renew()
        return _step_by_step(run, request, loop, previews)


def _refuted(run: Run, request: RunRequest, loop: PublishedLoop) -> bool:
    """Check the description at the first evaluation of a run that the device would do alone.

    True where it was wrong, and the run has the model's own forward now.
    """
    version, proof = run.version, run.shared.proof
    model = version.model
    if not proof.due(model):
        return False
    problems: list[str] = []

    def call(x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        kwargs = model.arguments(x.to(_dtype(model)), t, y)
        out, _ = described_forward(model, (), kwargs)
        problems.append(proof.check(model, (), kwargs, out, exact=True))
        return model.to_tensor(out)

    guided = loops.guided_call(call, loop, request.labels, request.cfg_scale)
    guided(request.noise, request.solver.timesteps[0])
    problem = next(filter(None, problems), "")
    if problem:
        run.shared.refuse(version, problem)
    return bool(problem) and run.renew()


def published_loop(model: BoundModel) -> PublishedLoop:
    """The loop of the model's publication.  Raises ValueError where none is known."""
    if model.sampling is None:
        raise ValueError(f"sample: no published loop for {type(model.model).__name__}")
    return model.sampling


def published_solver(
    model: BoundModel, schedule: CacheSchedule, loop: KnownLoop | None
) -> PublishedSolver:
    """The solver of the model's published loop, if schedule and timesteps were made for it."""
    published = published_loop(model)
    if schedule.sampler not in ("", published.sampler):
        raise ValueError(
            f"sample: the schedule was made for {schedule.sampler}, the model's published loop is "
            f"{published.sampler}; call the compiled model in a loop of your own"
        )
    solver = solver_for(published.sampler, schedule.steps)
    if loop is None or loop.source == "earlier runs":
        return solver
    for k, (got, expected) in enumerate(zip(loop.timesteps, solver.timesteps, strict=True)):
        if not same_timestep(got, expected):
            raise ValueError(
                f"sample: timestep {k} of the published loop is {expected:g}, but {got:g} was "
                "given to compile; call the compiled model in a loop of your own"
            )
    return solver


def _step_by_step(
    run: Run, request: RunRequest, loop: PublishedLoop, callback: Callback | None
) -> Tensor:
    """The loop on the host.  The latents keep their dtype, also where the model is narrower."""
    dtype, steps = _dtype(run.version.model), run.clock.steps
    step = 0

    def call(x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        model = run.version.model
        # Every call says which step it is, so that a reset in between is noticed.
        out = run.call((), model.arguments(x.to(dtype), t, y), StepHint(0, step, steps))
        return model.to_tensor(out).to(x.dtype)

    guided = loops.guided_call(call, loop, request.labels, request.cfg_scale)
    latents = request.noise
    for latents in loops.run(request.solver, guided, request.noise):
        if callback is not None:
            callback(step, latents.to("cpu", torch.float32, copy=True))
        step += 1
    return latents


def _dtype(model: BoundModel) -> Any:
    return next(model.model.parameters()).dtype
