"""What the router is trained on: a recorded evaluation, and the teacher's output at the next one.

Pairs come from latents of a data set, as published, or from the model's own trajectories.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from l2c_rt.adapters.bound_model import BoundModel, PublishedLoop
from l2c_rt.adapters.branch_forward import full_pass, recording_pass
from l2c_rt.sampling.loops import Call, guided_call, run, timestep_tensor
from l2c_rt.sampling.solvers import PublishedSolver

LABEL_DROP = 0.1


@dataclass(frozen=True, slots=True)
class Pair:
    """Two consecutive evaluations of which the second may reuse what the first computed.

    `previous_outputs` are the branch outputs of the first; `teacher` is what the second predicts
    when it computes everything, and `student(call)` what it predicts by another model call.
    `before` are those outputs and those of earlier evaluations that compute everything, newest
    first.
    """

    row: int
    previous_outputs: list[Tensor]
    teacher: Tensor
    student: Callable[[Call], Tensor]
    before: Sequence[Sequence[Tensor]] = ()


def trajectory_pairs(
    bound_model: BoundModel,
    solver: PublishedSolver,
    rows: Mapping[int, int],
    noise: Tensor,
    labels: Tensor | None,
    cfg_scale: float | None,
    history: int = 1,
) -> Iterator[Pair]:
    """Walk one batch of full trajectories from noise and stop at every pair on the way.

    What an evaluation computes serves three times: as the recording, as the teacher and as the
    step of the trajectory.  Predictions are compared after guidance, as the solver reads them.
    `rows` is {evaluation that may reuse: row of the router}; `history` evaluations are recorded.
    Shapes: noise [n, C, H, W], labels [n].
    """
    loop = bound_model.sampling
    assert loop is not None
    scale = float("-inf") if cfg_scale is None else cfg_scale
    evaluation = 0
    before: deque[list[Tensor]] = deque(maxlen=history)
    pairs: list[Pair] = []

    def call(x: Tensor, t: Tensor, y: Tensor | None) -> Tensor:
        # Only a history needs evaluations that no row follows.
        if evaluation in rows or (history == 1 and evaluation + 1 not in rows):
            return full_pass(bound_model, x, t, y)
        out, outputs = recording_pass(bound_model, x, t, y)
        before.appendleft(outputs)
        return out

    def guided(x: Tensor, t: float) -> Tensor:
        nonlocal evaluation
        prediction = guided_call(call, loop, labels, scale)(x, t)
        if evaluation in rows:
            student = _guided_student(loop, labels, scale, x, t)
            pairs.append(Pair(rows[evaluation], before[0], prediction, student, tuple(before)))
        evaluation += 1
        return prediction

    for _ in run(solver, guided, noise):
        yield from pairs
        pairs.clear()


def _guided_student(
    loop: PublishedLoop, labels: Tensor | None, scale: float, x: Tensor, t: float
) -> Callable[[Call], Tensor]:
    return lambda call: guided_call(call, loop, labels, scale)(x, t)


def data_pair(
    bound_model: BoundModel,
    solver: PublishedSolver,
    rows: Mapping[int, int],
    clean: Tensor,
    labels: Tensor | None,
    generator: torch.Generator,
) -> Pair:
    """The published procedure: one pair drawn for the whole batch, noise added to the latents, one
    full step of the solver without guidance, labels dropped alike in all passes.

    Shapes: clean [B, C, H, W]; labels [B].
    """
    draw = int(torch.randint(len(rows), (1,), generator=generator))
    evaluation = sorted(rows)[draw]
    noise = torch.randn(clean.shape, generator=generator).to(clean)
    if labels is not None:
        labels = dropped(labels, bound_model, generator)
    step_before = range(evaluation - solver.evaluations_per_step, evaluation)
    signal = solver.signal(step_before[0])
    x = signal**0.5 * clean + (1.0 - signal) ** 0.5 * noise
    x, outputs = _advance(bound_model, solver, step_before, x, labels)
    t = timestep_tensor(solver.training_timestep(evaluation), x)
    teacher = full_pass(bound_model, x, t, labels)
    return Pair(rows[evaluation], outputs, teacher, lambda call: call(x, t, labels))


def dropped(labels: Tensor, bound_model: BoundModel, generator: torch.Generator) -> Tensor:
    """The labels, a tenth of them replaced by "no class" where the model has one."""
    drop = torch.rand(len(labels), generator=generator) < LABEL_DROP
    null = None if bound_model.sampling is None else bound_model.sampling.null_label
    return labels if null is None else torch.where(drop.to(labels.device), null, labels)


def _advance(
    bound_model: BoundModel,
    solver: PublishedSolver,
    evaluations: range,
    x: Tensor,
    y: Tensor | None,
) -> tuple[Tensor, list[Tensor]]:
    """Take the solver's step from x; the last of its evaluations is what stays recorded."""
    assert bound_model.sampling is not None
    channels, anchor, outputs = bound_model.sampling.channels, x, list[Tensor]()
    for k in evaluations:
        t = timestep_tensor(solver.timesteps[k], x)
        out, outputs = recording_pass(bound_model, x, t, y)
        x = solver.update(k, x, out[:, :channels], anchor)
    return x, outputs
