"""One of the decisions that a method takes in a forward, by a state that several may hand on."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from l2c_rt.backends.backend import Evaluation
from l2c_rt.backends.dynamic.decider import Decider, place_of
from l2c_rt.backends.dynamic.gauge import Change, RelativeL1
from l2c_rt.backends.dynamic.stored import stored
from l2c_rt.kernels.reference import relative_change
from l2c_rt.plan.decisions import NAN, Decided, Dynamic, Part
from l2c_rt.plan.dynamic import RowPlans


class State:
    """What a method knows of the run under way, at the decisions `parts` of each forward."""

    def __init__(self, parts: tuple[int, ...]) -> None:
        self.parts = parts
        self.value: Any = None


class PartDecider(Decider):
    """Decides where the forward has come to what the decision is about: `begin`, then `decide`."""

    gauge: InLine

    def __init__(
        self, part: Part, number: int, state: State, row_plans: RowPlans, change: Change | None
    ) -> None:
        super().__init__(part, row_plans, change)
        self.part, self._number_of, self._shared = part, number, state
        self.gauge = InLine(self.look, change or relative_change)

    def begin(self, evaluation: Evaluation) -> None:
        """An evaluation begins; one of step 0 of the plan may reuse nothing."""
        step, record, lane = evaluation.step, evaluation.record, evaluation.lane
        if step == 0:
            if self._number_of == self._shared.parts[0]:
                self._shared.value = self.method.begin()
            self.gauge.begin_run()
            self._forget()
        self._evaluation, self.row, self.is_shown = evaluation, None, False
        self._metric = self._read = NAN
        done = record.done(step, 0) if lane else None
        first = () if done is None else tuple(float(p.metric) for p in done.parts)
        self._at = place_of(step, lane, record, self._number_of)._replace(
            place=self._shared.parts.index(self._number_of),
            first_metrics=tuple(first[p] for p in self._shared.parts if p < len(first)),
        )

    def decide(self, value: Tensor) -> None:
        """Choose the row by what is observed.  Waits for the device where the method asks."""
        decided: Decided | None = Decided(0)
        if self._evaluation.variant != 0 and self._computed:
            decided = self.method.forced(self._shared.value, self._at)
        if decided is not None:
            self.row, self._metric, self._read = decided.row, decided.metric, decided.metric
        self._state = self._shared.value
        self.measure(value[..., :: self.look.stride])
        self.shown()
        assert self.row is not None
        done = Decided(self.row, self._number(self._read))
        self._shared.value = self.method.after(self._shared.value, self._at, done)
        # Before the block, which may write to what it is given.
        self.gauge.end(value, computed=self.row == 0)


class InLine(RelativeL1):
    """The same of a value that stays as it is until the decision, so that it is not copied."""

    def measure(self, value: Tensor, noise: float) -> None:
        self._now = value.contiguous()

    def metric(self) -> Tensor | None:
        now, reference = self._now, self._reference
        if now is None or reference is None or not self._has_reference:
            return None
        return None if now.shape != reference.shape else self._change(now, reference)

    def end(self, out: Tensor, *, computed: bool) -> None:
        assert self._now is not None
        if computed:
            self._reference = stored(self._now, self._reference)
            self._has_reference = True
        self._now, self._has_now = None, False


def deciders_of(
    dynamic: Dynamic, row_plans: tuple[RowPlans, ...], change: Change | None
) -> tuple[PartDecider, ...]:
    """One for each decision of a forward."""
    shared: dict[int, list[int]] = {}
    for number, part in enumerate(dynamic.parts):
        shared.setdefault(part.state, []).append(number)
    states = {key: State(tuple(numbers)) for key, numbers in shared.items()}
    pairs = zip(dynamic.parts, row_plans, strict=True)
    return tuple(
        PartDecider(part, number, states[part.state], plans, change)
        for number, (part, plans) in enumerate(pairs)
    )
