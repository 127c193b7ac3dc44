"""One call of a step under a method that decides: its state, and what it has decided."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from l2c_rt.backends.backend import Evaluation
from l2c_rt.backends.dynamic.filtered import FilteredChange
from l2c_rt.backends.dynamic.gauge import Change, Gauge, gauge_for
from l2c_rt.device.scalar_read import ScalarReader
from l2c_rt.plan.decisions import NAN, At, Decided, Part
from l2c_rt.plan.dynamic import RowPlans
from l2c_rt.plan.mode_fit import ModeFit
from l2c_rt.plan.ops import Coefficients
from l2c_rt.plan.run_record import Done, RunRecord


class Decider:
    """Asks the method, with the state that this run has left.

    `begin` starts an evaluation, `measure` and then `shown` may follow, `end` is the last; an
    evaluation that was given up leaves a state that the next run's first one forgets.
    What `measure` and `check` launch may be captured; no state of Python's changes in them.
    """

    def __init__(self, part: Part, row_plans: RowPlans, change: Change | None = None) -> None:
        self.method, self.look = part.method, part.cut.look
        self._has_plain = bool(part.cut.plain)
        self.gauge: Gauge = gauge_for(self.look, change)
        self._row_plans = row_plans
        self._reader = ScalarReader()
        self._state: Any = self.method.begin()
        self._evaluation: Evaluation
        self._at = At(0, 1)
        self._computed: list[int] = []
        self._predicted: list[int] = []
        self.row: int | None = None
        """What is done at this evaluation, where that is known yet."""
        self.is_shown = False
        """Whether this evaluation's observation has been measured."""
        self._forgets = False
        self._metric: float | Tensor = NAN
        # What the method is told; of a check, it is on the device until the next evaluation.
        self._read: float | Tensor = NAN
        self._done = Done(0)

    def begin(self, evaluation: Evaluation) -> None:
        """An evaluation begins; one of step 0 of the plan may reuse nothing."""
        step, record, lane = evaluation.step, evaluation.record, evaluation.lane
        if step == 0:
            self._state = self.method.begin()
            self.gauge.begin_run()
            self._forget()
        else:
            read = Decided(self._done.row, self._number(self._read))
            self._state = self.method.after(self._state, self._at, read)
        self._evaluation = evaluation
        self._at = place_of(step, lane, record)
        self._read, self.is_shown, self._forgets = NAN, False, False
        decided: Decided | None = Decided(0)
        if evaluation.variant != 0 and self._computed:
            decided = self.method.forced(self._state, self._at)
        self.row = None if decided is None else decided.row
        if decided is not None:
            self._read = decided.metric
        self._metric = self._read

    def measure(self, value: Tensor) -> None:
        """Measure the tensor that the method looks at."""
        self.gauge.measure(value, self._noise())

    def measure_latents(self, samples: Sequence[Tensor] | None) -> None:
        """Measure the latents that the method's own function has made of a call.

        Where it made none, this evaluation and all before it are never read again, as published.
        """
        assert isinstance(self.gauge, FilteredChange)
        self._forgets = not samples
        self.gauge.measure_latents(samples, self._noise())

    def shown(self) -> None:
        """It has been measured: the row is chosen by it, where it is not known.

        Waits for the device where the method asks.
        """
        self.gauge.shown()
        self.is_shown = True
        seen = self.gauge.metric() if self.row is None or self.look.when_forced else None
        if self.row is None:
            self._metric = self._read = NAN if seen is None else self._reader.read(seen)
            self.row = self.method.choose(self._state, self._at, self._read)
        elif seen is not None:
            # The next evaluation overwrites the gauge's own.
            self._metric = seen.clone()

    def _number(self, value: float | Tensor) -> float:
        return self._reader.read(value) if isinstance(value, Tensor) else value

    def _noise(self) -> float:
        """The noise level of this evaluation, 0 where nobody asks for it."""
        if self.look.spectrum is None:
            return 0.0
        if self._evaluation.sigma is not None:
            return self._evaluation.sigma
        step, timesteps = self._at.step, self._evaluation.timesteps
        if timesteps is None and self.look.spectrum.sigmas is None:
            return self.look.spectrum.noise(step, _number(self._evaluation.state.t))
        return self.look.spectrum.noise(step, 0.0 if timesteps is None else timesteps[step])

    def check(self, predicted: Tensor, computed: Tensor) -> None:
        """Measure what stands for a block's output against what the block gives."""
        self.gauge.measure(torch.stack([predicted, computed]), 0.0)

    @property
    def variant(self) -> int:
        """The distinct step of the plan that is carried out; until it is known, one that computes
        everything."""
        counts = len(self._computed), len(self._predicted)
        return self._row_plans.variant(self.row or 0, *counts)

    @property
    def coefficients(self) -> Coefficients:
        """Those of the predictions of this evaluation, by slots of the ring; then, where some
        streams are plain, those of the newest output alone."""
        computed = _in_ring(self._computed, self._row_plans.history)
        if not self.row or len(computed) < 2:
            return ()
        stores = self._row_plans.stores
        slots = computed + (self._predicted[-stores:] if stores else [])
        known = self.method.prediction(tuple(self._computed), self._at)
        rows = (known, {self._computed[-1]: 1.0}) if self._has_plain else (known,)
        return tuple(tuple(row.get(evaluation, 0.0) for evaluation in slots) for row in rows)

    @property
    def fit(self) -> ModeFit | None:
        """By slots of the ring, what the predictions of this evaluation are made of."""
        fit = self.method.fit(tuple(self._computed), self._at) if self.row else None
        if fit is None:
            return None
        slots = _in_ring(self._computed, self._row_plans.history)
        return fit._replace(values=tuple(slots.index(step) for step in fit.values))

    def end(self, out: Tensor) -> None:
        """The evaluation is done and gave `out`."""
        assert self.row is not None
        if self.look.kind == "checked" and self.row == CHECKED:
            self.gauge.shown()
            error = self.gauge.metric()
            assert error is not None
            self._metric = self._read = error.clone()
        self.gauge.end(out, computed=self.row == 0)
        self.note()

    def note(self) -> None:
        """Note what was done, for the evaluations that follow."""
        assert self.row is not None
        self._done = Done(self.variant, self.row, self._metric)
        if self._forgets:
            self._forget()
        elif self.row == 0:
            self._computed.append(self._at.step)
        elif self._row_plans.stores and len(self._computed) >= self._row_plans.history:
            self._predicted.append(self._at.step)

    def _forget(self) -> None:
        """Nothing that is kept will be read."""
        self._computed.clear()
        self._predicted.clear()

    @property
    def done(self) -> Done:
        """What the last evaluation did."""
        return self._done


def _in_ring(evaluations: Sequence[int], size: int) -> list[int]:
    """The last `size` evaluations, in the order of the slots of their ring."""
    newest = evaluations[-size:]
    first = len(evaluations) - len(newest)
    by_slot = {(first + i) % size: evaluation for i, evaluation in enumerate(newest)}
    return [by_slot[slot] for slot in range(len(newest))]


def place_of(step: int, lane: int, record: RunRecord, part: int = 0) -> At:
    """The place of an evaluation in its run, whose record has what was done before it, of one of
    several decisions."""
    calls = max(record.lanes, lane + 1)
    first = record.at(step, 0, part) if lane else None
    before = None
    if calls > 1 and (step or lane):
        before = record.at(step, lane - 1, part) if lane else record.at(step - 1, calls - 1, part)
    return At(step, record.steps, first, lane, calls, before)


CHECKED = 2
"""The row at which a method that looks at what is "checked" checks."""


def _number(t: object) -> float:
    """A timestep as a number.  Waits for the device that it is on."""
    if t is None:
        raise ValueError(
            "SeaCache: the model is given no timestep, so the noise level is not known; give "
            "sigmas=[...], one per evaluation"
        )
    return float(t.reshape(-1)[0]) if isinstance(t, Tensor) else float(t)  # type: ignore[arg-type]
