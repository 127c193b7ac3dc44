"""Plans and lowered steps run on symbols.

A value of the residual stream is (base, terms): what a fixed node made, and what was added since,
in order.  A term is (branch, value of its slot), since the gate is the branch's own.
"""

from __future__ import annotations

from collections.abc import Hashable

from l2c_rt.plan.lowering import (
    Call,
    Embed,
    Final,
    LoweredStep,
    Mix,
    Run,
    SkipLinear,
    Sum,
    Term,
)
from l2c_rt.plan.ops import Compute, Predict, Reuse, ReuseRun, RunFixed, StepPlan
from l2c_rt.plan.program import (
    BlockProgram,
    Fixed,
)

Value = tuple[int, tuple[tuple[str, int], ...]]


class Symbols:
    """Numbers for expressions, the same for the same expression."""

    def __init__(self) -> None:
        self._known: dict[tuple[Hashable, ...], int] = {}

    def __call__(self, *expression: Hashable) -> int:
        return self._known.setdefault(expression, len(self._known))


class OnPlan:
    """Evaluations of a plan, op by op."""

    def __init__(self, program: BlockProgram, symbols: Symbols) -> None:
        self._nodes = {node.name: node for node in program.nodes}
        self._symbols = symbols
        self.slots: dict[int, int] = {}

    def run(self, step: StepPlan, evaluation: int) -> tuple[Value, dict[str, Value]]:
        """What the final node is given, and every branch that is computed."""
        self._stream: Value = (self._symbols("nothing"), ())
        self._saved: list[Value] = []
        self._inputs: dict[str, Value] = {}
        self._end: Value | None = None
        for op in step:
            if isinstance(op, RunFixed):
                self._fixed(op.node, evaluation)
            elif isinstance(op, Compute):
                self._inputs[op.branch] = self._stream
                made = self._symbols("f", op.branch, self._stream)
                if op.slot is not None:
                    self.slots[op.slot] = made
                self._add(op.branch, made)
            else:
                for item in op.items if isinstance(op, ReuseRun) else (op,):
                    self._reuse(item)
        assert self._end is not None
        return self._end, self._inputs

    def _reuse(self, op: Reuse | Predict) -> None:
        if isinstance(op, Reuse):
            self._add(op.branch, self.slots[op.slot])
        elif op.store is None:
            for m, slot in enumerate(op.slots):
                self._add(op.branch, self._symbols("times", self.slots[slot], op.at + m))
        else:
            values = tuple(self.slots[slot] for slot in op.slots)
            self.slots[op.store] = self._symbols("mix", values, op.at, op.has_operand)
            self._add(op.branch, self.slots[op.store])

    def _add(self, branch: str, value: int) -> None:
        base, terms = self._stream
        self._stream = (base, (*terms, (branch, value)))

    def _fixed(self, name: str, evaluation: int) -> None:
        node, symbols = self._nodes[name], self._symbols
        assert isinstance(node, Fixed)
        if node.role == "embed":
            self._stream = (symbols("embed", evaluation), ())
        elif node.role == "skip_save":
            self._saved.append(self._stream)
        elif node.role == "skip_linear":
            self._stream = (symbols("join", name, self._stream, self._saved.pop()), ())
        elif node.role == "final":
            self._end = self._stream
        else:
            self._stream = (symbols("call", name, self._stream), ())


class OnBuffers:
    """Evaluations of lowered rows, launch by launch, on named buffers and numbered slots.

    Every evaluation begins with buffers that hold nothing, every run with slots that hold nothing:
    a read before the write is a KeyError.
    """

    def __init__(self, scratch: int, symbols: Symbols) -> None:
        self._symbols, self._scratch = symbols, scratch
        self.slots: dict[int, int] = {}

    def run(self, row: LoweredStep, evaluation: int) -> tuple[Value, dict[str, Value]]:
        self._buffers: dict[str, Value] = {}
        self._evaluation = evaluation
        self._inputs: dict[str, Value] = {}
        self._normed: tuple[str, Value] | None = None
        self._unread = False
        self.slots.pop(self._scratch, None)
        end: Value | None = None
        for launch in row:
            assert end is None, f"{launch} after the final kernel"
            if isinstance(launch, Final):
                end = self._summed(self._source(launch.source), launch.terms)
            else:
                self._one(launch)
        assert end is not None
        assert not self._unread, "an output in the scratch slot was never added"
        return end, self._inputs

    def _one(self, launch: Embed | Sum | Run | Mix | SkipLinear | Call) -> None:
        if isinstance(launch, Embed):
            self._buffers[launch.target] = self._source(None)
            self._norm(launch.branch, launch.target)
        elif isinstance(launch, Sum):
            value = self._summed(self._source(launch.source), launch.terms)
            self._buffers[launch.target] = value
            self._norm(launch.branch, launch.target)
        elif isinstance(launch, Run):
            self._branch(launch)
        elif isinstance(launch, Mix):
            values = tuple(self.slots[slot] for slot in launch.slots)
            mixed = self._symbols("mix", values, launch.at, launch.has_operand)
            self.slots[launch.store] = mixed
        elif isinstance(launch, SkipLinear):
            x, skip = self._buffers[launch.source], self._buffers[launch.skip]
            assert launch.target not in (launch.source, launch.skip), f"{launch} reads its output"
            self._buffers[launch.target] = (self._symbols("join", launch.node, x, skip), ())
        else:
            x = self._buffers[launch.source]
            self._buffers[launch.source] = (self._symbols("call", launch.node, x), ())

    def _source(self, name: str | None) -> Value:
        if name is None:
            return self._symbols("embed", self._evaluation), ()
        return self._buffers[name]

    def _norm(self, branch: str | None, source: str) -> None:
        if branch is not None:
            self._normed = branch, self._buffers[source]

    def _summed(self, value: Value, terms: tuple[Term, ...]) -> Value:
        base, before = value
        if any(term.slot == self._scratch for term in terms):
            assert self._unread, "an output in the scratch slot was added twice"
            self._unread = False
        return base, (*before, *((term.branch, self._value(term)) for term in terms))

    def _value(self, term: Term) -> int:
        value = self.slots[term.slot]
        return value if term.at is None else self._symbols("times", value, term.at)

    def _branch(self, launch: Run) -> None:
        assert self._normed is not None
        branch, value = self._normed
        assert branch == launch.branch, "the normed input is another branch's"
        if launch.slot == self._scratch:
            assert not self._unread, "the scratch slot was overwritten before it was read"
            self._unread = True
        self._inputs[branch] = value
        self.slots[launch.slot] = self._symbols("f", branch, value)
