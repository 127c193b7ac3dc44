"""One evaluation of several requests, each at a step of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from l2c_rt.adapters.bound_model import State
from l2c_rt.backends.backend import Evaluation
from l2c_rt.memory.request_slots import RequestSlots
from l2c_rt.memory.request_values import RequestValues
from l2c_rt.runtime.profiler_ranges import trace_range
from l2c_rt.runtime.shared import SharedModel
from l2c_rt.serving.intake import ROWS, Intake
from l2c_rt.serving.kinds import written_slots
from l2c_rt.serving.request import Request


class Evaluator:
    """A version of the model with the slots of `requests` requests that may run at once.

    Raises ValueError for a backend that has one timestep for the whole batch, MemoryError where
    there is too little memory for the slots.
    """

    def __init__(self, shared: SharedModel, intake: Intake, requests: int) -> None:
        version = shared.version
        if version.backend.batched is None:
            raise ValueError(
                f"Engine: the {version.backend.name} backend on {version.model.device} has one "
                'timestep for a batch; compile with backend="reference"'
            )
        self.version, self._shared, self._intake = version, shared, intake
        parameter = next(version.model.model.parameters())
        self._dtype, self._device = parameter.dtype, parameter.device
        program = version.model.program
        # A model that runs its own forward keeps values of any shape.
        own = version.model.open_stage is not None
        self._slots = RequestSlots(
            0 if own else version.num_slots, ROWS * requests, (program.tokens, program.width),
            self._dtype, self._device,
        )  # fmt: skip
        self._values = RequestValues(ROWS * requests)
        self._written = [written_slots(step) for step in version.plan.steps]
        self._workspace = version.backend.batched(version.plan, requests)

    @property
    def nbytes(self) -> int:
        """Of the slots, and of the tables so far."""
        return self._slots.nbytes + self._values.nbytes + self._workspace.nbytes

    def begin(self) -> None:
        """Requests begin where none was running: nothing made from weights or labels is used."""
        self.version.begin_run()
        self._workspace.drop_tables()

    def rehearse(self, request: Request) -> None:
        """Take the memory of all that requests such as this one keep; its latents stay as they are.

        Raises RefutedError as `predictions` does.
        """
        self.begin()
        request.place = 0
        # The first of each kind, in order: what it reads has a place by then, and no value matters.
        for step in sorted(map(self.version.plan.order.index, set(self.version.plan.order))):
            request.step = step
            self.predictions((request,))

    def poison(self) -> None:
        """Fill every slot with NaN, so that a stale read would show."""
        self._slots.poison()
        self._values.poison()

    def predictions(self, batch: Sequence[Request]) -> list[Tensor]:
        """What the model predicts for each of these requests, which are of one kind, guided.

        Shapes: [1, C, H, W] each, in the dtype of the request's latents.
        """
        outputs = self._outputs(batch)
        predictions, row = [], 0
        for request in batch:
            own = outputs[row : row + request.rows]
            predictions.append(self._intake.predicted(own, request.latents, request.cfg_scale))
            row += request.rows
        return predictions

    def _outputs(self, batch: Sequence[Request]) -> Tensor:
        model = self.version.model
        kwargs = model.arguments(*self._inputs(batch)) | _joined(batch)
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
            t += [self._intake.timesteps[request.step]] * request.rows
        labels = [request.labels for request in batch if request.labels is not None]
        return (
            torch.cat(x),
            torch.tensor(t, dtype=self._intake.timestep_dtype, device=self._device),
            torch.cat(labels) if labels else None,
        )

    def _evaluate(self, batch: Sequence[Request], state: State) -> object:
        version, step = self.version, batch[0].step
        rows = [ROWS * request.place + row for request in batch for row in range(request.rows)]
        slots = self._slots.of(rows)
        slots.values = self._values.of(rows)
        variant = version.plan.order[step]
        evaluation = Evaluation(
            state, slots, step, variant, tuple(self._intake.timesteps),
            version.plan.coefficients_at(step), version.operands.at(step, self._device),
        )  # fmt: skip
        with trace_range("tick", len(batch)):
            out = self._workspace.evaluate(version.plan.steps[variant], evaluation)
            slots.commit(self._written[variant])
        return out


def _joined(batch: Sequence[Request]) -> dict[str, Tensor]:
    samples = [sample for request in batch for sample in request.inputs]
    names = samples[0] if samples else ()
    return {name: torch.cat([sample[name] for sample in samples]) for name in names}


class RefutedError(Exception):
    """The description was found wrong at the first evaluation; the model has another version."""
