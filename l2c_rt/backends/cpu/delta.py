"""The fused backend on a CPU with evaluations in the delta form.

A stream is kept by the pass that makes it; to and from the delta are terms of the next pass.
"""

from __future__ import annotations

from typing import Any, ClassVar

from l2c_rt.backends.backend import Evaluation, OpTable
from l2c_rt.backends.cpu.composed_skips import ComposedSkips
from l2c_rt.backends.cpu.fused import FusedCpu
from l2c_rt.backends.cpu.rows import Term
from l2c_rt.plan.delta_ops import FromDelta, KeepAt, LinearParts, ToDelta, Unchanged


class DeltaCpu(FusedCpu):
    """Has the ops of the delta form beside all others."""

    def __init__(self, skips: ComposedSkips, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._skips = skips

    def keep_at(self, op: KeepAt, evaluation: Evaluation) -> None:
        self._pass(evaluation.state, None)
        evaluation.slots.store(op.slot, evaluation.state.x)

    def to_delta(self, op: ToDelta, evaluation: Evaluation) -> None:
        self._waiting.append(self._stream(op.slot, -1.0, evaluation))

    def from_delta(self, op: FromDelta, evaluation: Evaluation) -> None:
        self._waiting.append(self._stream(op.slot, 1.0, evaluation))

    def unchanged(self, op: Unchanged, evaluation: Evaluation) -> None:
        """The delta stays as it is."""

    def linear_parts(self, op: LinearParts, evaluation: Evaluation) -> None:
        state = evaluation.state
        self._pass(state, None)
        skips = [state.skips.pop() for _ in op.nodes]
        state.x, *others = self._skips(op, state.x, skips)
        self._waiting += [Term((product,)) for product in others]

    ops: ClassVar[OpTable] = {
        **FusedCpu.ops,
        KeepAt: keep_at, ToDelta: to_delta, FromDelta: from_delta, Unchanged: unchanged,
        LinearParts: linear_parts,
    }  # fmt: skip

    def _stream(self, slot: int, sign: float, evaluation: Evaluation) -> Term:
        rows = 1 + max(self._lanes, default=0)
        return Term((evaluation.slots.load(slot),), coefficients=((sign,),) * rows)
