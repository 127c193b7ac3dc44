"""One evaluation of several requests, each at a step of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from l2c_rt.adapters.bound_model import PublishedLoop, State
from l2c_rt.backends.backend import Evaluation
from l2c_rt.memory.request_slots import RequestSlots
from l2c_rt.runtime.profiler_ranges import trace_range
from l2c_rt.runtime.shared import SharedModel
from l2c_rt.sampling.loops import guide
from l2c_rt.serving.request import Request

ROWS = 2
"""Samples of a request: cond and uncond."""


class Evaluator:
    """A version of the model with the slots of `requests` requests that may run at once.

    Raises ValueError for a backend that has one timestep for the whole batch, MemoryError where
    there is too little memory for the slots.
    """

    def __init__(
        self, shared: SharedModel, loop: PublishedLoop, timesteps: Sequence[float], requests: int
    ) -> None:
        version = shared.version
        if version.backend.batched is None:
            raise ValueError(
                f"Engine: the {version.backend.name} backend on {version.model.device} has one "
                'timestep for a batch; compile with backend="reference"'
            )
        self.version, self._shared, self._loop = version, shared, loop
        self._timesteps = timesteps
        self._t_dtype = torch.int64 if isinstance(timesteps[0], int) else torch.float32
        parameter = next(version.model.model.parameters())
        self._dtype, self._device = parameter.dtype, parameter.device
        program = version.model.program
        self._slots = RequestSlots(
            version.num_slots, ROWS * requests, (program.tokens, program.width), self._dtype,
            self._device,
        )  # fmt: skip
        self._workspace = version.backend.batched(version.plan, requests)

    @property
    def nbytes(self) -> int:
        """Of the slots, and of the tables so far."""
        return self._slots.nbytes + self._workspace.nbytes

    def poison(self) -> None:
        """Fill every slot with NaN, so that a stale read would show."""
        self._slots.poison()

    def predictions(self, batch: Sequence[Request]) -> list[Tensor]:
        """What the model predicts for each of these requests, which are of one kind, guided.

        Shapes: [1, C, H, W] each, in the dtype of the request's latents.
        """
        outputs = self._outputs(batch)
        predictions, row = [], 0
        for request in batch:
            own = outputs[row : row + request.rows].to(request.latents.dtype)
            own = own[:, : self._loop.channels]
            row += request.rows
            if request.rows == ROWS:
                own = guide(self._loop, own[:1], own[1:], request.cfg_scale)
            predictions.append(own)
        return predictions

    def _outputs(self, batch: Sequence[Request]) -> Tensor:
        model = self.version.model
        kwargs = model.arguments(*self._inputs(batch))
        out = self._evaluate(batch, model.begin(**kwargs))
        order = self.version.plan.order
        computes_all = order[batch[0].step] == order[0]
        if computes_all and self._shared.refuted(self.version, (), kwargs, out):
            raise RefutedError
        return model.to_tensor(out)

    def _inputs(self, batch: Sequence[Request]) -> tuple[Tensor, Tensor, Tensor | None]:
        x: list[Tensor] = []
        t: list[float] = []
        for request in batch:
            given = request.loop.model_input(request.step, request.latents).to(self._dtype)
            x += [given] * request.rows
            t += [self._timesteps[request.step]] * request.rows
        labels = [request.labels for request in batch if request.labels is not None]
        return (
            torch.cat(x),
            torch.tensor(t, dtype=self._t_dtype, device=self._device),
            torch.cat(labels) if labels else None,
        )

    def _evaluate(self, batch: Sequence[Request], state: State) -> object:
        version, step = self.version, batch[0].step
        slots = self._slots.of([ROWS * r.place + row for r in batch for row in range(r.rows)])
        variant = version.plan.order[step]
        evaluation = Evaluation(
            state, slots, step, variant, tuple(self._timesteps),
            version.plan.coefficients_at(step), version.operands.at(step, self._device),
        )  # fmt: skip
        with trace_range("tick", len(batch)):
            out = self._workspace.evaluate(version.plan.steps[variant], evaluation)
            slots.commit()
        return out


class RefutedError(Exception):
    """The description was found wrong at the first evaluation; the model has another version."""
