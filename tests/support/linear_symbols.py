"""Plans run on formal sums, in which the delta form is the ordinary one written differently.

A value of the residual stream is a sum of atoms, each under the weights of the long skips that it
went through, with coefficients: {(weights, atom): coefficient}.  Two sums that are equal here are
equal for any weights and any functions in the branches.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from symbolic_run import Symbols

from l2c_rt.plan.delta_ops import FromDelta, KeepAt, LinearParts, ToDelta, Unchanged
from l2c_rt.plan.ops import Compute, Op, Plan, Predict, Reuse, ReuseRun, RunFixed
from l2c_rt.plan.program import BlockProgram

Sum = dict[tuple[tuple[str, ...], int], float]


def plus(*terms: tuple[float, Sum]) -> Sum:
    total: Sum = {}
    for factor, values in terms:
        for key, number in values.items():
            total[key] = total.get(key, 0.0) + factor * number
    return {key: number for key, number in total.items() if number}


def under(weight: str, values: Sum) -> Sum:
    return {((weight, *weights), atom): number for (weights, atom), number in values.items()}


def meaning(plan: Plan, program: BlockProgram, symbols: Symbols) -> list[dict[str, Sum]]:
    """Of each evaluation what every computed branch and the final node is given."""
    return list(LinearSymbols(plan, program, symbols).run())


class LinearSymbols:
    """Slots hold nothing at first: to read what was not written is a KeyError."""

    def __init__(self, plan: Plan, program: BlockProgram, symbols: Symbols) -> None:
        self._symbols = symbols
        self._plan, self._roles = plan, {n: node.role for n, node in program.fixed_of.items()}
        self._slots: dict[int | None, Sum] = {}

    def run(self) -> Iterator[dict[str, Sum]]:
        for s in range(self._plan.num_evaluations):
            self._x: Sum = {}
            self._skips: list[Sum] = []
            self._kept: dict[str, Sum] = {}
            self._seen: dict[str, Sum] = {}
            for op in self._plan.at(s):
                self._take(op, s)
            yield self._seen

    def _take(self, op: Op, s: int) -> None:
        slots = self._slots
        if isinstance(op, RunFixed):
            self._fixed(op.node, s)
        elif isinstance(op, Compute):
            self._seen[op.branch] = self._x
            value: Sum = {((), self._symbols(op.branch, frozenset(self._x.items()))): 1.0}
            if op.slot is not None:
                slots[op.slot] = value
            self._x = plus((1, self._x), (1, value))
        elif isinstance(op, ReuseRun):
            for item in op.items:
                self._take(item, s)
        elif isinstance(op, Reuse):
            self._x = plus((1, self._x), (1, slots[op.slot]))
        elif isinstance(op, Predict):
            numbers = self._plan.coefficients_at(s)[0][op.at : op.at + len(op.slots)]
            mixed = plus(*((c, slots[slot]) for c, slot in zip(numbers, op.slots, strict=True)))
            if op.store is not None:
                slots[op.store] = mixed
            self._x = plus((1, self._x), (1, mixed))
        else:
            self._delta(op)

    def _delta(self, op: Any) -> None:
        if isinstance(op, KeepAt):
            self._slots[op.slot] = self._x
        elif isinstance(op, ToDelta | FromDelta):
            sign = -1 if isinstance(op, ToDelta) else 1
            self._x = plus((1, self._x), (sign, self._slots[op.slot]))
        elif isinstance(op, LinearParts):
            # Whoever composes the products takes the deltas by the names of who kept them.
            assert op.source is None or self._kept[op.source] == self._x, op
            for node, skip in zip(op.nodes, op.skips, strict=True):
                assert self._kept[skip] == self._skips[-1], op
                self._joined(node)
        else:
            assert isinstance(op, Unchanged)

    def _fixed(self, node: str, s: int) -> None:
        role = self._roles[node]
        if role == "embed":
            self._x = {((), self._symbols(node, s)): 1.0}
        elif role == "skip_save":
            self._skips.append(self._x)
            self._kept[node] = self._x
        elif role == "skip_linear":
            self._joined(node)
            self._x = plus((1, self._x), (1, {((), self._symbols(node, "bias")): 1.0}))
        else:
            self._seen[node] = self._x

    def _joined(self, node: str) -> None:
        through, skip = under(f"{node}.W1", self._x), under(f"{node}.W2", self._skips.pop())
        self._x = plus((1, through), (1, skip))
