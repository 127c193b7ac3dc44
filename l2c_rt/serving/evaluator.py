"""One evaluation of several requests, each at a step of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from l2c_rt.adapters.bound_model import State
from l2c_rt.backends.backend import Evaluation, Member, WrongResultError
from l2c_rt.device.host_tensors import host_tensor
from l2c_rt.device.run_ahead import RunAhead
from l2c_rt.memory.request_slots import BatchSlots, RequestSlots
from l2c_rt.memory.request_values import RequestValues
from l2c_rt.runtime.profiler_ranges import trace_range
from l2c_rt.runtime.shared import SharedModel
from l2c_rt.serving.batched_loop import Predictions
from l2c_rt.serving.intake import ROWS, Intake
from l2c_rt.serving.kinds import kinds_of, written_slots
from l2c_rt.serving.request import Request
from l2c_rt.serving.step_graphs import StepGraphs, filled, recorder_for

Inputs = tuple[Tensor, Tensor, Tensor | None]
"""Of a batch: x [n, ...], t [n] and labels [n] or None."""


class Evaluator:
    """A version of the model with the slots of `requests` requests that may run at once, of which
    `most` share an evaluation.

    Raises ValueError for a backend that has one timestep for the whole batch, MemoryError where
    there is too little memory for the slots.
    """

    def __init__(self, shared: SharedModel, intake: Intake, requests: int, most: int) -> None:
        version = shared.version
        if version.backend.batched is None:
            raise ValueError(
                f"Engine: the {version.backend.name} backend on {version.model.device} has one "
                'timestep for a batch; compile with backend="reference"'
            )
        self.version, self._shared, self._intake = version, shared, intake
        program, parameter = version.model.program, next(version.model.model.parameters())
        self._dtype, self._device = parameter.dtype, parameter.device
        # A model that runs its own forward keeps values of any shape.
        own = version.model.open_stage is not None
        is_reference = not own and version.backend.name == "reference"
        recorder = recorder_for(self._device) if is_reference else None
        own_coefficients = version.backend.fills_batches
        # Its first evaluation takes the memory of all sizes of batches.
        self.example = intake.example if own_coefficients else None
        most, rows = ROWS * min(most, requests), ROWS * requests
        if recorder is not None or own_coefficients:
            # Samples that fill up a batch have a place behind all others, and are apart at first.
            rows = max(rows + 1, filled(most))
        self._slots = RequestSlots(
            0 if own else version.num_slots, rows, (program.tokens, program.width), self._dtype,
            self._device,
        )  # fmt: skip
        self.graphs = None if recorder is None else StepGraphs(recorder, self._slots, rows - 1)
        self._is_proved, self._ahead = False, RunAhead(self._device)
        self.kinds = kinds_of(version.plan, own_coefficients=own_coefficients)
        self._values = RequestValues(ROWS * requests)
        self._written = [written_slots(step) for step in version.plan.steps]
        self._workspace = version.backend.batched(version.plan, requests, most)

    @property
    def nbytes(self) -> int:
        """Of the slots, and of the tables and graphs so far."""
        captured = self._workspace.graph_stats
        graphs = captured.graph_bytes + captured.buffer_bytes
        graphs += 0 if self.graphs is None else self.graphs.nbytes
        return self._slots.nbytes + self._values.nbytes + self._workspace.nbytes + graphs

    @property
    def graph_counts(self) -> tuple[int, int]:
        """Graphs that were captured, and how often they were launched."""
        if self.graphs is not None:
            return self.graphs.count, self.graphs.replays
        captured = self._workspace.graph_stats
        return captured.graphs, captured.replays

    def begin(self) -> None:
        """Requests begin where none was running: nothing made from weights or labels is used."""
        self.version.begin_run()
        self._workspace.drop_tables()

    def rehearse(self, batch: Sequence[Request]) -> None:
        """Take the memory of all that requests such as these keep, and measure, copy and capture
        what batches of up to so many take; their latents stay as they are.

        Raises RefutedError as `predictions` does.
        """
        self.begin()
        for place, request in enumerate(batch):
            request.place = place
        for size in range(1, len(batch) + 1):
            for step in self._rehearsed_steps(size):
                for request in batch[:size]:
                    request.step, request.kind = step, self.kinds[step]
                self.predictions(batch[:size])

    def _rehearsed_steps(self, size: int) -> list[int]:
        # The first of each kind, in order: what it reads has a place by then, and no value matters.
        steps = sorted(map(self.kinds.index, set(self.kinds)))
        if self.graphs is None:
            # The first computes everything, so that there is nothing else to measure.
            return steps if size == 1 else steps[:1]
        # The very first evaluation is compared with the model's own, and not captured.
        again = [] if self._is_proved else steps[:1]
        return [*again, *steps] if size.bit_count() == 1 else []

    def poison(self) -> None:
        """Fill every slot with NaN, so that a stale read would show."""
        self._slots.poison()
        self._values.poison()

    def moved(self, batch: Sequence[Request]) -> Sequence[Tensor | BaseException]:
        """The latents of each of these requests, which are of one kind, after its evaluation, or
        what its solver raised.  Shapes: [1, C, H, W] each."""
        return self._intake.moved(batch, self.predictions(batch))

    def predictions(self, batch: Sequence[Request]) -> Predictions:
        """What the model predicts for each of these requests, which are of one kind, guided, in the
        dtype of the request's latents."""
        predictions = self._intake.predicted(self._outputs(batch), batch)
        # Else requests that arrive would wait for all that was queued before.
        self._ahead.queued()
        return predictions

    def _outputs(self, batch: Sequence[Request]) -> Tensor:
        model, inputs = self.version.model, self._inputs(batch)
        rows = [ROWS * request.place + row for request in batch for row in range(request.rows)]
        with trace_range("tick", len(batch)):
            if (replayed := self._replayed(batch, inputs, rows)) is not None:
                return replayed
            kwargs = model.arguments(*inputs) | _joined(batch)
            slots = self._slots.of(rows)
            slots.values = self._values.of(rows)
            members = tuple(Member(ROWS * r.place, r.rows, r.step) for r in batch)
            lanes, step = self._lanes(batch), batch[0].step
            try:
                out = self._evaluate(step, model.begin(**kwargs), slots, lanes, members)
            except WrongResultError as error:
                # At the first evaluation alone: the error itself where the backend has a name.
                self._shared.replace_backend(self.version, error)
                raise RefutedError from error
        order = self.version.plan.order
        if order[batch[0].step] == order[0]:
            if self._shared.refuted(self.version, (), kwargs, out):
                raise RefutedError
            if not self._is_proved:
                self._shared.tell(self._workspace.graph_stats.reasons)
            self._is_proved = True
        return model.to_tensor(out)

    def _replayed(self, batch: Sequence[Request], inputs: Inputs, rows: list[int]) -> Tensor | None:
        """The outputs by a graph, once an evaluation has been compared with the model's own."""
        if self.graphs is None or not self._is_proved:
            return None
        model, step, lanes = self.version.model, batch[0].step, self._lanes(batch)

        def evaluate(x: Tensor, t: Tensor, labels: Tensor | None, slots: BatchSlots) -> Tensor:
            state = model.begin(**model.arguments(x, t, labels))
            filled = lanes and (*lanes, *[0] * (len(x) - len(lanes)))
            return model.to_tensor(self._evaluate(step, state, slots, filled))

        return self.graphs.evaluate((batch[0].kind, lanes), evaluate, *inputs, rows)

    def _lanes(self, batch: Sequence[Request]) -> tuple[int, ...]:
        """The lane of every sample, where predictions have coefficients for each: of a request
        cond comes first."""
        plan = self.version.plan
        if plan.lanes == 1:
            return ()
        assert plan.predictions is not None
        of_rows = (1, 0) if plan.predictions.unconditional == 0 else (0, 1)
        return tuple(lane for request in batch for lane in of_rows[: request.rows])

    def _inputs(self, batch: Sequence[Request]) -> Inputs:
        x: list[Tensor] = []
        t: list[float] = []
        for request in batch:
            given = request.loop.model_input(request.step, request.latents).to(self._dtype)
            x += [given] * request.rows
            t += [self._intake.timesteps[request.step]] * request.rows
        labels = [request.labels for request in batch if request.labels is not None]
        times = host_tensor(t, self._intake.timestep_dtype, self._device)
        return (
            torch.cat(x),
            times.to(self._device, non_blocking=True),
            torch.cat(labels) if labels else None,
        )

    def _evaluate(
        self, step: int, state: State, slots: BatchSlots, lanes: tuple[int, ...],
        members: tuple[Member, ...] = (),
    ) -> object:  # fmt: skip
        version = self.version
        variant = version.plan.order[step]
        evaluation = Evaluation(
            state, slots, step, variant, tuple(self._intake.timesteps),
            version.plan.coefficients_at(step), version.operands.at(step, self._device),
            lanes=lanes, members=members,
        )  # fmt: skip
        out = self._workspace.evaluate(version.plan.steps[variant], evaluation)
        slots.commit(self._written[variant])
        return out


def _joined(batch: Sequence[Request]) -> dict[str, Tensor]:
    samples = [sample for request in batch for sample in request.inputs]
    names = samples[0] if samples else ()
    return {name: torch.cat([sample[name] for sample in samples]) for name in names}


class RefutedError(Exception):
    """The description was found wrong at the first evaluation; the model has another version."""
