"""Graphs of a model's blocks, where the whole forward cannot be one graph.

The model's own code runs at every evaluation.  Of the calls of a segment the first one replays its
graph; the others hand on what stands for their outputs, and only the last one gives real ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_unflatten

from l2c_rt.adapters.own.observe import write_count
from l2c_rt.backends.graphs.capture_watch import NotRepeatableError
from l2c_rt.backends.graphs.static_inputs import Arguments, Kind
from l2c_rt.backends.graphs.unit_calls import (
    Origin,
    RunUnit,
    Segment,
    UnitCall,
    last_uses,
    problems,
    segments,
)  # fmt: skip
from l2c_rt.device.graph_sequence import GraphSequence

Capture = Callable[[Callable[[], object]], GraphSequence]
"""Makes a graph of work; raises NotRepeatableError where that cannot be, with the reason."""


class ChangedError(Exception):
    """The model's code does something else between two blocks than it did before."""


@dataclass(slots=True)
class _Captured:
    """A segment's graph in one distinct step.

    `outputs[i]` stand for those of call first + i, flattened; only the last ones are real.
    `counts` are the calls of cut points inside.
    """

    graph: GraphSequence
    outputs: list[list[Any]]
    counts: Counter[str]


class Segments:
    """The blocks of one input key; `counts()` are the calls of cut points in this evaluation, and
    `moved()` says that kept outputs have other addresses than when graphs were captured.

    All segments share their inputs' buffers, and their outputs' as far as only the next call is
    given them: memory does not grow with the number of blocks.
    """

    def __init__(
        self,
        calls: list[UnitCall],
        capture: Capture,
        counts: Callable[[], dict[str, int]],
        moved: Callable[[], bool],
    ) -> None:
        self._calls, self._capture, self._counts, self._moved = calls, capture, counts, moved
        self._graphs: dict[tuple[Hashable, Segment], _Captured] = {}
        self._buffers: dict[tuple[object, ...], Tensor] = {}
        self._last_use = last_uses(calls)
        self._starts = {segment.first: segment for segment in segments(calls)}
        self._replaying: _Replaying | None = None
        self.key: Hashable = 0
        self._at = self._running = 0
        self.replayed = False

    def begin(self, key: Hashable) -> None:
        """An evaluation begins; `key`, which may change, is what is done; None takes no graph."""
        self.key, self._at = key, 0
        self._replaying, self.replayed = None, False

    def visit(self, path: str, run: RunUnit, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What a block gives.  Raises ChangedError where the graphs do not fit this evaluation."""
        i, arguments = self._at, Arguments.of(args, kwargs)
        self._at += 1
        if i >= len(self._calls) or self._calls[i].path != path:
            raise ChangedError(f"{path} is not called where it was called before")
        problem = self._calls[i].problem
        difference = "" if problem else self._calls[i].arguments.difference(arguments)
        if difference:
            raise ChangedError(f"an argument of {path} changed: {difference}")
        if self._replaying is not None and i < self._replaying.segment.end:
            return self._handed_on(i, arguments)
        if self._moved():
            raise ChangedError("kept outputs are at other addresses")
        self._replaying = None
        while self.key is not None and i in self._starts:
            segment = self._starts[i]
            inputs = self._load(arguments)
            captured = self._graphs.get((self.key, segment)) or self._try(segment, inputs)
            if captured is not None:
                return self._replay(segment, captured, arguments)
        return run(*args, **kwargs)

    def addresses(self) -> set[int]:
        """Those of memory that the next evaluation writes to."""
        return {buffer.untyped_storage().data_ptr() for buffer in self._buffers.values()}

    @property
    def problems(self) -> tuple[str, ...]:
        """Why some blocks are not captured."""
        return problems(self._calls)

    @property
    def graphs(self) -> int:
        return len(self._graphs)

    @property
    def nbytes(self) -> int:
        return sum(buffer.nbytes for buffer in self._buffers.values())

    def _load(self, arguments: Arguments) -> list[Tensor | None]:
        buffers: list[Tensor | None] = []
        for n, leaf in enumerate(arguments.leaves):
            is_tensor = isinstance(leaf, Tensor)
            place = self._buffer(("in", n), Kind.of(leaf)) if is_tensor else None
            buffers.append(None if place is None else place.copy_(leaf))
        return buffers

    def _buffer(self, use: tuple[object, ...], kind: Kind) -> Tensor:
        if (use, kind) not in self._buffers:
            self._buffers[use, kind] = kind.empty()
        return self._buffers[use, kind]

    def _try(self, segment: Segment, inputs: list[Tensor | None]) -> _Captured | None:
        """The segment's graph; None where there can be none, and segments are then others."""
        before = dict(self._counts())
        targets = self._targets(segment.end - 1)
        # To be blamed where the capture fails before it has begun.
        self._running = segment.first
        try:
            graph = self._capture(partial(self._run, segment, inputs, targets, before))
        except NotRepeatableError as error:
            self._restore(before)
            self._calls[self._running].problem = str(error)
            self._starts = {cut.first: cut for cut in segments(self._calls)}
            return None
        inner = self._calls[segment.first : segment.end - 1]
        outputs = [[_stand_in(leaf) for leaf in call.outputs.leaves] for call in inner]
        counts = Counter(self._counts())
        counts.subtract(before)
        self._restore(before)
        captured = _Captured(graph, [*outputs, targets], +counts)
        self._graphs[self.key, segment] = captured
        return captured

    def _targets(self, i: int) -> list[Any]:
        """Where the outputs of a call are, flattened."""
        call = self._calls[i]
        shared = self._last_use[i] <= i + 1 and not call.is_read
        return [
            self._buffer(("out", j, -1 if shared else i), leaf) if isinstance(leaf, Kind) else leaf
            for j, leaf in enumerate(call.outputs.leaves)
        ]

    def _run(
        self,
        segment: Segment,
        inputs: list[Tensor | None],
        targets: list[Any],
        counts: dict[str, int],
    ) -> None:
        """The calls of a segment, from its inputs' buffers to its outputs'."""
        self._restore(counts)
        values: dict[Origin, Any] = {}
        for origin, buffer in zip(self._calls[segment.first].origins, inputs, strict=True):
            if origin is not None:
                values[origin] = buffer
        leaves: list[Any] = []
        for i in range(segment.first, segment.end):
            self._running = i
            leaves = tree_leaves(_call(self._calls[i], values))
            values |= {Origin(i, j): leaf for j, leaf in enumerate(leaves)}
            for k in range(segment.first, i):
                if self._last_use[k] <= i:
                    for j in range(len(self._calls[k].outputs.leaves)):
                        values.pop(Origin(k, j), None)
        for target, leaf in zip(targets, leaves, strict=True):
            if isinstance(target, Tensor):
                target.copy_(leaf)

    def _replay(self, segment: Segment, captured: _Captured, arguments: Arguments) -> Any:
        captured.graph.launch()
        self.replayed = True
        counts = self._counts()
        for path, count in captured.counts.items():
            counts[path] = counts.get(path, 0) + count
        origins = self._calls[segment.first].origins
        given = {
            origin: (leaf, write_count(leaf))
            for origin, leaf in zip(origins, arguments.leaves, strict=True)
            if origin is not None
        }
        self._replaying = _Replaying(segment, captured, given)
        return self._output(segment.first, captured, 0)

    def _handed_on(self, i: int, arguments: Arguments) -> Any:
        assert self._replaying is not None
        segment, captured, given = self._replaying
        for origin, leaf in zip(self._calls[i].origins, arguments.leaves, strict=True):
            if origin is None:
                continue
            if origin.call >= segment.first:
                expected = captured.outputs[origin.call - segment.first][origin.number]
                count = write_count(leaf)
            else:
                expected, count = given[origin]
            if leaf is not expected or write_count(leaf) != count:
                raise ChangedError(f"an argument of {self._calls[i].path} is another tensor")
        return self._output(i, captured, i - segment.first)

    def _output(self, i: int, captured: _Captured, number: int) -> Any:
        outputs = captured.outputs[number]
        return tree_unflatten(outputs, self._calls[i].outputs.structure)[0][0]

    def _restore(self, counts: dict[str, int]) -> None:
        live = self._counts()
        live.clear()
        live.update(counts)


class _Replaying(NamedTuple):
    """The segment that is being gone through; `given` are the tensors that its first call was
    given, with their counts of writes."""

    segment: Segment
    captured: _Captured
    given: dict[Origin, tuple[Tensor, int]]


def _call(call: UnitCall, values: dict[Origin, Any]) -> Any:
    pairs = zip(call.origins, call.arguments.leaves, strict=True)
    leaves = [leaf if origin is None else values[origin] for origin, leaf in pairs]
    args, kwargs = tree_unflatten(leaves, call.arguments.structure)
    return call.run(*args, **kwargs)


def _stand_in(leaf: Any) -> Any:
    return leaf.stand_in() if isinstance(leaf, Kind) else leaf
