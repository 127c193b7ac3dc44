"""The two published sampling loops over a guided model call."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from l2c_rt.adapters.bound_model import BoundModel, PublishedLoop
from l2c_rt.memory.slots import Slots
from l2c_rt.runtime.step_clock import same_timestep
from l2c_rt.sampling.solvers import DDIM, DPMSolver, PublishedSolver, solver_for, starts_step

if TYPE_CHECKING:
    from l2c_rt.runtime.compiled import Compiled
    from l2c_rt.runtime.session import Session

Call = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""A model call (x, t, y) -> tensor."""


def run(
    solver: PublishedSolver, guided: Callable[[Tensor, float], Tensor], noise: Tensor
) -> Iterator[Tensor]:
    """The latents after every evaluation; `guided(x, timestep)` predicts the noise.

    Shapes: noise and every result [n, C, H, W], in the dtype of `noise`.
    """
    x = anchor = noise
    for k, t in enumerate(solver.timesteps):
        if starts_step(solver, k):
            anchor = x
        x = solver.update(k, x, guided(x, t), anchor)
        yield x


def guided_call(
    call: Call, loop: PublishedLoop, y: Tensor | None, cfg_scale: float
) -> Callable[[Tensor, float], Tensor]:
    """The loop's guidance around `call`, with both labels in one batch.

    DiT: uncond + s (cond - uncond) on the first channels, off at s <= 1.
    U-ViT: cond + w (cond - uncond), off at w <= 0.
    """
    if not is_guided(loop, y, cfg_scale):
        return lambda x, t: call(x, timestep_tensor(t, x), y)[:, : loop.channels]
    assert y is not None
    assert loop.null_label is not None
    labels = torch.cat([y, torch.full_like(y, loop.null_label)])

    def both(x: Tensor, t: float) -> Tensor:
        twice = torch.cat([x, x])
        out = call(twice, timestep_tensor(t, twice), labels)
        cond, uncond = out[:, : loop.channels].chunk(2)
        return _guide(loop, cond, uncond, cfg_scale)

    return both


def is_guided(loop: PublishedLoop, y: Tensor | None, cfg_scale: float) -> bool:
    """Whether a run has both labels in its batch.

    Raises ValueError where guidance is wanted of a model without a null label.
    """
    neutral = loop.guidance.neutral
    if y is None or cfg_scale <= neutral:
        return False
    if loop.null_label is None:
        raise ValueError(
            f"sample: guidance {cfg_scale:g} needs a null label, and this model was made without "
            f"one; pass cfg_scale={neutral:g}"
        )
    return True


def _guide(loop: PublishedLoop, cond: Tensor, uncond: Tensor, scale: float) -> Tensor:
    base, g = cond if loop.guidance.base == "cond" else uncond, loop.guided_channels
    guided = base[:, :g] + scale * (cond[:, :g] - uncond[:, :g])
    return guided if g == loop.channels else torch.cat([guided, cond[:, g:]], dim=1)


def timestep_tensor(t: float, x: Tensor) -> Tensor:
    """One timestep per image, in the dtype that the published loop passes: int64 for an int.

    Shapes: x [n, ...] -> [n].
    """
    dtype = torch.int64 if isinstance(t, int) else torch.float32
    return torch.full((len(x),), t, dtype=dtype, device=x.device)


def published_solver(compiled: Compiled) -> DDIM | DPMSolver:
    """The solver of the model's published loop, if the schedule was made for that loop."""
    how, schedule = compiled.bound_model.sampling, compiled.schedule
    if how is None:
        raise ValueError(
            f"sample: no published loop for {type(compiled.bound_model.model).__name__}"
        )
    if schedule.sampler not in ("", how.sampler):
        raise ValueError(
            f"sample: the schedule was made for {schedule.sampler}, the model's published loop is "
            f"{how.sampler}; call the compiled model in a loop of your own"
        )
    solver = solver_for(how.sampler, schedule.steps)
    given = compiled.timesteps or solver.timesteps
    for k, (got, want) in enumerate(zip(given, solver.timesteps, strict=True)):
        if not same_timestep(got, want):
            raise ValueError(
                f"sample: timestep {k} of the published loop is {want:g}, but {got:g} was given to "
                "compile; call the compiled model in a loop of your own"
            )
    return solver


def published_run(
    compiled: Compiled, session: Session, noise: Tensor, y: Any, cfg_scale: float | None
) -> Iterator[Tensor]:
    """The latents after every evaluation of the model's published loop, run on a session."""
    solver, how, labels, scale = _asked(compiled, session, noise, y, cfg_scale)
    call = tensor_call(compiled.bound_model, session, compiled.schedule.steps)
    return run(solver, guided_call(call, how, labels, scale), noise)


def whole_run(
    compiled: Compiled,
    session: Session,
    noise: Tensor,
    y: Any,
    cfg_scale: float | None,
    callback: Callable[[int, Tensor], None] | None,
) -> Tensor:
    """The same run by a backend that has guidance and solver on the device.

    `callback` is given float32 copies of the latents on the host.
    """
    solver, how, labels, scale = _asked(compiled, session, noise, y, cfg_scale)
    guided = is_guided(how, labels, scale)
    device = compiled.bound_model.device
    if noise.device != device:
        raise ValueError(
            f"sample: noise is on {noise.device}, the model on {device}; pass noise.to({device})"
        )
    rows = 2 * len(noise) if guided else len(noise)
    key = ((rows, *noise.shape[1:]), noise.dtype, device, None)

    def work(workspace: Any, slots: Slots) -> Tensor:
        out: Tensor = workspace.sample(slots, noise, labels, scale, solver, callback, guided=guided)
        return out

    return session.run_whole(key, work)


def _asked(
    compiled: Compiled, session: Session, noise: Tensor, y: Any, cfg_scale: float | None
) -> tuple[DDIM | DPMSolver, PublishedLoop, Tensor | None, float]:
    """Solver, loop, labels and scale of a run, checked."""
    solver, how = published_solver(compiled), compiled.bound_model.sampling
    assert how is not None
    if session.clock.lanes != 1:
        raise ValueError(
            "sample: batches cond and uncond, so it needs a session with one lane; call sample() "
            "of the compiled model"
        )
    labels = check_inputs(noise, y, how)
    return solver, how, labels, how.cfg_scale if cfg_scale is None else float(cfg_scale)


def tensor_call(bound_model: BoundModel, session: Session, steps: int) -> Call:
    """A session as a function (x, t, y) -> tensor, whatever the model's own signature.

    The latents keep their dtype between calls, also where the model is narrower.  Every call says
    which step it is, so that a session reset in between is noticed.
    """
    dtype = next(bound_model.model.parameters()).dtype
    evaluation = 0

    def call(x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        nonlocal evaluation
        with session.cache_context("cond", step=evaluation, num_steps=steps):
            out = bound_model.to_tensor(session(**bound_model.arguments(x.to(dtype), t, y)))
        evaluation += 1
        return out.to(x.dtype)

    return call


def check_inputs(noise: Any, y: Any, how: PublishedLoop) -> Tensor | None:
    """The labels as int64 beside the noise; None for a model without labels.

    Raises ValueError where they do not fit.
    """
    shaped = isinstance(noise, Tensor) and noise.dim() == 4 and noise.shape[1] == how.channels
    if not shaped or not noise.is_floating_point() or len(noise) == 0:
        got = type(noise).__name__
        if isinstance(noise, Tensor):
            got = f"{tuple(noise.shape)} {noise.dtype}"
        raise ValueError(f"sample: noise must be floating [n, {how.channels}, H, W], got {got}")
    if y is None and how.classes == 0:
        return None
    labels = torch.as_tensor(() if y is None else y)
    if labels.device != noise.device:
        # From pinned memory, or the copy would wait for what the device still has to do.
        pinned = labels.pin_memory() if noise.is_cuda and not labels.is_cuda else labels
        labels = pinned.to(noise.device, non_blocking=True)
    whole = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
    if not whole or labels.shape != noise.shape[:1]:
        raise ValueError(
            f"sample: y must be {len(noise)} integer labels, got {labels.dtype} "
            f"{tuple(labels.shape)}"
        )
    return labels.long()
