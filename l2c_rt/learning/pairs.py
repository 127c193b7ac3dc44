"""What the router is trained on: a recorded evaluation, and the teacher's output at the next one.

Pairs come from latents of a data set, as published, or from the model's own trajectories.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from l2c_rt.adapters.bound_model import BoundModel, PublishedLoop
from l2c_rt.adapters.branch_forward import full_pass, recording_pass
from l2c_rt.sampling import loops as sampling
from l2c_rt.sampling.solvers import DDIM, DPMSolver, discrete_alphas_bar, linear_alphas_bar

Batch = tuple[Tensor, Tensor | None]
"""Latents [B, C, H, W], and labels [B] where the model has any."""

LABEL_DROP = 0.1


@dataclass(frozen=True, slots=True)
class Pair:
    """Two consecutive evaluations of which the second may reuse what the first computed.

    `kept` are the branch outputs of the first; `teacher` is what the second predicts when it
    computes everything, and `student(call)` what it predicts by another model call.
    """

    row: int
    kept: list[Tensor]
    teacher: Tensor
    student: Callable[[sampling.Call], Tensor]


def trajectory_pairs(
    bound_model: BoundModel,
    solver: DDIM | DPMSolver,
    rows: Mapping[int, int],
    noise: Tensor,
    labels: Tensor | None,
    cfg_scale: float | None,
) -> Iterator[Pair]:
    """Walk one batch of full trajectories from noise and stop at every pair on the way.

    What an evaluation computes serves three times: as the recording, as the teacher and as the
    step of the trajectory.  Predictions are compared after guidance, as the solver reads them.
    `rows` is {evaluation that may reuse: row of the router}.
    Shapes: noise [n, C, H, W], labels [n].
    """
    how = bound_model.sampling
    assert how is not None
    scale = float("-inf") if cfg_scale is None else cfg_scale
    evaluation, kept = 0, list[Tensor]()
    found: list[Pair] = []

    def call(x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        nonlocal kept
        if evaluation + 1 not in rows:
            return full_pass(bound_model, x, t, y)
        out, kept = recording_pass(bound_model, x, t, y)
        return out

    def guided(x: Tensor, t: float) -> Tensor:
        nonlocal evaluation
        prediction = sampling.guided_call(call, how, labels, scale)(x, t)
        if evaluation in rows:
            student = _guided_student(how, labels, scale, x, t)
            found.append(Pair(rows[evaluation], kept, prediction, student))
        evaluation += 1
        return prediction

    for _ in sampling.run(solver, guided, noise):
        yield from found
        found.clear()


def _guided_student(
    how: PublishedLoop, labels: Tensor | None, scale: float, x: Tensor, t: float
) -> Callable[[sampling.Call], Tensor]:
    return lambda call: sampling.guided_call(call, how, labels, scale)(x, t)


def data_pair(
    bound_model: BoundModel,
    solver: DDIM | DPMSolver,
    rows: Mapping[int, int],
    clean: Tensor,
    labels: Tensor | None,
    generator: torch.Generator,
) -> Pair:
    """The published procedure: one pair drawn for the whole batch, noise added to the latents, one
    full step of the solver without guidance, labels dropped alike in all passes.

    Shapes: clean [B, C, H, W]; labels [B].
    """
    chosen = int(torch.randint(len(rows), (1,), generator=generator))
    evaluation = sorted(rows)[chosen]
    noise = torch.randn(clean.shape, generator=generator).to(clean)
    if labels is not None:
        labels = dropped(labels, bound_model, generator)
    how = bound_model.sampling
    assert how is not None
    if isinstance(solver, DDIM):
        first = [evaluation - 1]
        signal = float(linear_alphas_bar()[solver.timesteps[evaluation - 1]])
    else:
        first = [evaluation - 2, evaluation - 1]
        signal = float(discrete_alphas_bar()[_whole(solver.timesteps[evaluation - 2]) - 1])
    x = signal**0.5 * clean + (1.0 - signal) ** 0.5 * noise
    x, kept = _advance(bound_model, solver, first, x, labels)
    t = _time(solver, _whole(solver.timesteps[evaluation]), x)
    teacher = full_pass(bound_model, x, t, labels)
    return Pair(rows[evaluation], kept, teacher, lambda call: call(x, t, labels))


def dropped(labels: Tensor, bound_model: BoundModel, generator: torch.Generator) -> Tensor:
    """The labels, a tenth of them replaced by "no class" where the model has one."""
    drop = torch.rand(len(labels), generator=generator) < LABEL_DROP
    null = None if bound_model.sampling is None else bound_model.sampling.null_label
    return labels if null is None else torch.where(drop.to(labels.device), null, labels)


def _advance(
    bound_model: BoundModel,
    solver: DDIM | DPMSolver,
    evaluations: list[int],
    x: Tensor,
    y: Tensor | None,
) -> tuple[Tensor, list[Tensor]]:
    """Take the solver's step from x; the last of its evaluations is what stays recorded."""
    assert bound_model.sampling is not None
    channels, anchor, kept = bound_model.sampling.channels, x, list[Tensor]()
    for e in evaluations:
        out, kept = recording_pass(bound_model, x, _time(solver, solver.timesteps[e], x), y)
        eps = out[:, :channels]
        if isinstance(solver, DDIM):
            x = float(solver.a[e]) * x + float(solver.b[e]) * eps
        else:
            clean = (x - float(solver.sigma[e]) * eps) / float(solver.alpha[e])
            x = float(solver.keep[e]) * anchor + float(solver.weight[e]) * clean
    return x, kept


def _whole(t: float) -> int:
    return round(t)


def _time(solver: DDIM | DPMSolver, t: float, x: Tensor) -> Tensor:
    dtype = torch.int64 if isinstance(solver, DDIM) else torch.float32
    return torch.full((len(x),), t, dtype=dtype, device=x.device)


def endless(data: Iterable[Any], labelled: bool, skip: int = 0) -> Iterator[Batch]:
    """(latents, labels) batch after batch, over and over, without the first `skip`.

    Labels are None where the model has none (`labelled` False).
    Raises ValueError for batches of another kind, or where `data` cannot be gone through again.
    """
    while True:
        empty = True
        for batch in data:
            empty = False
            if skip:
                skip -= 1
                continue
            yield _checked(batch, labelled)
        if empty:
            raise ValueError(
                "learn: data gave no batch; give a list or a DataLoader, which can be gone through "
                "again, not a generator that ends"
            )


def _checked(batch: Any, labelled: bool) -> Batch:
    fusable = tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)
    if all(isinstance(part, Tensor) for part in fusable) and len(fusable) in (1, 2):
        clean, labels = fusable[0], fusable[-1]
        if clean.dim() == 4 and clean.is_floating_point():
            if not labelled:
                return clean, None
            if labels.shape == clean.shape[:1] and not labels.is_floating_point():
                return clean, labels.long()
    got = ", ".join(str(tuple(p.shape)) if isinstance(p, Tensor) else type(p).__name__
                    for p in fusable)  # fmt: skip
    wanted = "latents [B, C, H, W]" + (", integer labels [B]" if labelled else "")
    raise ValueError(f"learn: a batch of data is ({got}), wanted ({wanted})")
