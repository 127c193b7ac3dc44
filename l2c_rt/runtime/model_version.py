"""The model as it was at one moment, and all that was made for it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from l2c_rt.adapters.bound_model import BoundModel, State
from l2c_rt.backends.backend import Backend, Evaluation
from l2c_rt.memory.slots import Slots
from l2c_rt.plan.cost import Cost
from l2c_rt.plan.ops import Plan
from l2c_rt.plan.run_record import RunRecord
from l2c_rt.runtime.calls import Tick
from l2c_rt.runtime.fingerprint import PlainAttributes
from l2c_rt.runtime.operands import Operands


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """The model as it was at one moment, and all that was made for it, handed out as one.

    A run that takes a plan from one version and slots from another would read behind them.
    """

    model: BoundModel
    backend: Backend
    plan: Plan
    cost: Cost
    fingerprint: int
    autocast: bool
    attributes: PlainAttributes
    operands: Operands

    def evaluation(
        self,
        state: State,
        slots: Slots,
        tick: Tick,
        timesteps: tuple[float, ...] | None,
        record: RunRecord,
        lane: int,
        *,
        sigma: float | None,
        lanes: tuple[int, ...],
    ) -> Evaluation:
        """What a workspace is given for the evaluation of a tick."""
        plan, step = self.plan, tick.step
        # Evaluation 0 computes everything.
        variant = plan.order[step if tick.reuse else 0]
        operands = self.operands.at(step, state.x.device)
        coefficients = plan.coefficients_at(step)
        return Evaluation(
            state, slots, step, variant, timesteps, coefficients, operands, record, lane, sigma,
            lanes,
        )  # fmt: skip

    @property
    def num_slots(self) -> int:
        """The plan's slots, and those that the backend wants beside them."""
        return self.plan.num_slots + self.backend.extra_slots

    def begin_run(self) -> None:
        """Forget the copies of weights that were written to since."""
        if self.backend.copies is not None:
            self.backend.copies.begin_run()

    @property
    def copied_bytes(self) -> int:
        """Memory of copies of weights."""
        return 0 if self.backend.copies is None else self.backend.copies.nbytes

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the model is not run faster, and what of it is not carried out."""
        return self.backend.reasons + self.model.notes


def under_autocast(model: BoundModel) -> bool:
    """Whether autocast holds, where the selection of the backend depends on it."""
    depends = model.fusable is not None and model.device.type == "cpu"
    return depends and torch.is_autocast_enabled("cpu")
