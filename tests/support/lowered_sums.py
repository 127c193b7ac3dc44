"""Lowered steps run on formal sums, launch by launch, on named buffers and numbered slots."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from linear_symbols import Sum, plus, under
from symbolic_run import Symbols

from l2c_rt.plan import lowering
from l2c_rt.plan.lowering import (
    BaseTerm,
    Composed,
    Embed,
    Final,
    LoweredStep,
    Run,
    SkipLinear,
    Terms,
)
from l2c_rt.plan.ops import Coefficients
from l2c_rt.plan.step_walk import slot_of_stream

Given = dict[str, Sum]


class LoweredSums:
    """Every evaluation begins with buffers that hold nothing, every run with such slots: a read
    before the write is a KeyError."""

    def __init__(
        self, scratch: int, coefficients: Sequence[Coefficients], symbols: Symbols
    ) -> None:
        self._scratch, self._coefficients, self._symbols = scratch, coefficients, symbols
        self._slots: dict[int, Sum] = {}

    def run(self, rows: Sequence[LoweredStep]) -> Iterator[Given]:
        """Of each evaluation what every computed branch and the final node is given."""
        for s, row in enumerate(rows):
            self._s, self._buffers = s, dict[str, Sum]()
            self._slots.pop(self._scratch, None)
            self._seen: Given = {}
            self._normed: Sum | None = None
            for launch in row:
                self._launch(launch)
            yield self._seen

    def _launch(self, launch: lowering.Launch) -> None:
        if isinstance(launch, Embed):
            self._write(launch.target, {((), self._symbols("embed", self._s)): 1.0})
            self._normed = self._read(launch.target) if launch.branch else None
        elif isinstance(launch, lowering.Sum):
            self._write(launch.target, self._summed(launch.source, launch.terms))
            self._normed = self._read(launch.target) if launch.branch else None
        elif isinstance(launch, Run):
            self._branch(launch)
        elif isinstance(launch, lowering.Mix):
            slots = [self._slots[slot] for slot in launch.slots]
            numbers = self._numbers[launch.at : launch.at + len(slots)]
            self._slots[launch.store] = plus(*zip(numbers, slots, strict=True))
        elif isinstance(launch, SkipLinear):
            self._skip_linear(launch)
        elif isinstance(launch, Composed):
            self._composed(launch)
        else:
            assert isinstance(launch, Final)
            assert launch.source is not None
            self._seen["final"] = self._summed(launch.source, launch.terms)

    def _branch(self, launch: Run) -> None:
        assert self._normed is not None
        self._seen[launch.branch] = self._normed
        value: Sum = {((), self._symbols(launch.branch, frozenset(self._normed.items()))): 1.0}
        self._slots[launch.slot], self._normed = value, None

    def _skip_linear(self, launch: SkipLinear) -> None:
        assert launch.target not in (launch.source, launch.skip), f"{launch} reads its output"
        x, skip = self._read(launch.source), self._read(launch.skip)
        bias: Sum = {((), self._symbols(launch.node, "bias")): 1.0}
        self._write(launch.target, plus((1, _joined(launch.node, x, skip)), (1, bias)))

    def _composed(self, launch: Composed) -> None:
        """One long skip after the other, on what the sources hold of each delta."""
        op = launch.op
        assert launch.target not in launch.sources, f"{launch} reads its output"
        deltas = dict(zip(op.deltas, map(self._read, launch.sources), strict=True))
        x = deltas[op.source]
        for node, skip in zip(op.nodes, op.skips, strict=True):
            x = _joined(node, x, deltas[skip])
        self._write(launch.target, x)

    def _summed(self, source: str, terms: Terms) -> Sum:
        return plus((1, self._read(source)), *map(self._term, terms))

    def _term(self, term: lowering.Term | BaseTerm) -> tuple[float, Sum]:
        value = self._slots[term.slot]
        if isinstance(term, BaseTerm):
            return term.sign, value
        return 1.0 if term.at is None else self._numbers[term.at], value

    @property
    def _numbers(self) -> tuple[float, ...]:
        return self._coefficients[self._s][0]

    def _read(self, name: str) -> Sum:
        slot = slot_of_stream(name)
        return self._buffers[name] if slot is None else self._slots[slot]

    def _write(self, name: str, value: Sum) -> None:
        slot = slot_of_stream(name)
        if slot is None:
            self._buffers[name] = value
        else:
            self._slots[slot] = value


def _joined(node: str, x: Sum, skip: Sum) -> Sum:
    return plus((1, under(f"{node}.W1", x)), (1, under(f"{node}.W2", skip)))
