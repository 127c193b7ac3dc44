"""One evaluation written in the delta form."""

from __future__ import annotations

from collections.abc import Mapping

from l2c_rt.plan.delta_ops import FromDelta, LinearParts, ToDelta, Unchanged
from l2c_rt.plan.ops import Compute, Op, Reuse, RunFixed, StepPlan
from l2c_rt.plan.program import BlockProgram


def delta_step(step: StepPlan, program: BlockProgram, first_slot: int) -> StepPlan:
    """The ops of a step in the delta form, as if all that it reuses were what its base added.

    The stream after the program's node i is in slot `first_slot + i`.  A step that predicts has
    no delta form, and is given as it is.
    """
    if not all(isinstance(op, RunFixed | Compute | Reuse) for op in step):
        return step
    slot_of = {node.name: first_slot + i for i, node in enumerate(program.nodes)}
    roles = {name: node.role for name, node in program.fixed_of.items()}
    return _DeltaStep(slot_of, roles).of(step)


class _DeltaStep:
    """The ops so far, whether the stream or its delta is at hand, and who has kept which delta.

    `_here` is the node that kept the delta as it is now, `_saved` are those that long skips have
    still to read.  Long skips wait until something else than an unchanged branch comes.
    """

    def __init__(self, slot_of: Mapping[str, int], roles: Mapping[str, str]) -> None:
        self._slot_of, self._roles = slot_of, roles
        self._ops: list[Op] = []
        self._is_delta = False
        self._place = ""
        self._here: str | None = None
        self._saved: list[str] = []
        self._linears: list[tuple[str, str]] = []
        self._source: str | None = None
        self._after_linears: list[Op] = []

    def of(self, step: StepPlan) -> StepPlan:
        for op in step:
            if isinstance(op, Reuse):
                self._to_delta()
                unchanged = self._after_linears if self._linears else self._ops
                unchanged.append(Unchanged(op.branch))
                self._place = op.branch
            elif isinstance(op, Compute):
                self._to_stream()
                self._ops.append(op)
                self._here, self._place = None, op.branch
            elif isinstance(op, RunFixed):
                self._fixed(op)
        return tuple(self._ops)

    def _fixed(self, op: RunFixed) -> None:
        role = self._roles[op.node]
        if role == "skip_save":
            self._to_delta()
            self._write_linears()
            self._ops.append(op)
            self._here = self._here or op.node
            self._saved.append(self._here)
        elif role == "skip_linear":
            self._to_delta()
            if not self._linears:
                self._source = self._here
            self._linears.append((op.node, self._saved.pop()))
            self._here, self._place = None, op.node
        else:
            self._to_stream()
            self._ops.append(op)
            self._place = op.node

    def _to_delta(self) -> None:
        if not self._is_delta:
            self._ops.append(ToDelta(self._slot_of[self._place]))
            self._is_delta = True

    def _to_stream(self) -> None:
        self._write_linears()
        if self._is_delta:
            self._ops.append(FromDelta(self._slot_of[self._place]))
            self._is_delta = False

    def _write_linears(self) -> None:
        if self._linears:
            nodes, skips = zip(*self._linears, strict=True)
            self._ops += [LinearParts(nodes, skips, self._source), *self._after_linears]
            self._linears, self._after_linears = [], []
