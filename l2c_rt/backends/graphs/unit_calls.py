"""The calls of a model's blocks in one evaluation, and which of them one graph can do together.

Between two blocks runs the model's own code.  A graph goes over it where it neither reads nor makes
anything: the next block is given what the one before gave, and what the first one was given.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from l2c_rt.adapters.own.observe import write_count
from l2c_rt.backends.graphs.static_inputs import Arguments

APART = "it is kept as one with blocks that one graph cannot hold; merge=False keeps each by itself"

RunUnit = Callable[..., Any]
"""Calls a block with its own arguments."""


class Origin(NamedTuple):
    """Where a tensor among the arguments is from: output `number` of call `call`, or, where `call`
    is -1, the `number`-th tensor that the model's own code gave a block."""

    call: int
    number: int


@dataclass(slots=True)
class UnitCall:
    """One call of a block.

    `origins` has an entry per flattened argument, None for what is no tensor.  `outputs` are the
    kinds of the flattened outputs, tensors without their memory.  `problem` says why no graph can
    hold this call; `joined` says that it must not be apart from the call before.  `is_read` is set
    where something else than a block reads an output.
    """

    path: str
    run: RunUnit
    arguments: Arguments
    origins: tuple[Origin | None, ...]
    joined: bool = False
    outputs: Any = None
    is_read: bool = False
    problem: str = ""


class Segment(NamedTuple):
    """Calls [first, end)."""

    first: int
    end: int


class CallObserver(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Run a forward inside of it, with its blocks called through `visit`."""

    def __init__(self, joined: Callable[[str], bool]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[UnitCall] = []
        self._joined = joined
        self._origins: dict[int, tuple[weakref.ref[Tensor], int, Origin]] = {}
        self._inside = False
        self._given = 0

    def visit(self, path: str, run: RunUnit, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call the block and note what it does."""
        self._inside = True
        try:
            return self._noted(path, run, args, kwargs)
        finally:
            self._inside = False

    def _noted(self, path: str, run: RunUnit, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        arguments = Arguments.of(args, kwargs)
        origins = tuple(self._origin(leaf) for leaf in arguments.leaves)
        call = UnitCall(path, run, arguments.without_tensors(), origins, self._joined(path))
        number = len(self.calls)
        self.calls.append(call)
        tensors = [leaf for leaf in arguments.leaves if isinstance(leaf, Tensor)]
        counts = [write_count(tensor) for tensor in tensors]
        out = run(*args, **kwargs)
        outputs = Arguments.of((out,), {})
        opaque = arguments.opaque() or outputs.opaque()
        if opaque:
            call.problem = f"it takes or gives a {opaque}"
        elif counts != [write_count(tensor) for tensor in tensors]:
            call.problem = "it writes to its arguments"
        call.outputs = outputs.without_tensors()
        for j, leaf in enumerate(outputs.leaves):
            self._note(leaf, Origin(number, j))
        return out

    def finish(self, out: object) -> list[UnitCall]:
        """The calls of the forward that gave `out`."""
        self._read_all(tree_leaves(out))
        self._origins.clear()
        return self.calls

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if not self._inside:
            self._read_all(tree_leaves((args, kwargs)))
        return func(*args, **(kwargs or {}))

    def _read_all(self, leaves: Sequence[Any]) -> None:
        for leaf in leaves:
            known = self._origins.get(id(leaf))
            if known is not None and known[0]() is leaf and known[2].call >= 0:
                self.calls[known[2].call].is_read = True

    def _origin(self, leaf: Any) -> Origin | None:
        if not isinstance(leaf, Tensor):
            return None
        known = self._origins.get(id(leaf))
        if known is not None and known[0]() is leaf and known[1] == write_count(leaf):
            return known[2]
        self._given += 1
        return self._note(leaf, Origin(-1, self._given))

    def _note(self, leaf: Any, origin: Origin) -> Origin:
        if isinstance(leaf, Tensor):
            self._origins[id(leaf)] = (weakref.ref(leaf), write_count(leaf), origin)
        return origin


@dataclass(slots=True)
class _Growing:
    """A segment while calls are added to it."""

    first: int
    known: set[Origin] = field(default_factory=set)

    def takes(self, calls: Sequence[UnitCall], i: int) -> bool:
        """Whether call i may follow the one before in this segment."""
        before, call = calls[i - 1], calls[i]
        if before.problem or call.problem or before.is_read:
            return False
        return all(
            origin is None or origin.call >= self.first or origin in self.known
            for origin in call.origins
        )


def segments(calls: Sequence[UnitCall]) -> list[Segment]:
    """Which calls one graph does, in order; calls that no graph can do are left out.

    Calls that must not be apart and would be, get a `problem`.
    """
    while True:
        cut = _cut(calls)
        firsts = {segment.first for segment in cut}
        apart = [i for i in firsts if calls[i].joined]
        apart += [i for i, c in enumerate(calls) if c.problem and c.joined]
        ends = [i + 1 for i, c in enumerate(calls[:-1]) if c.problem and calls[i + 1].joined]
        groups = {_group(calls, i) for i in (*apart, *ends)}
        fresh = [i for group in groups for i in group if not calls[i].problem]
        if not fresh:
            return [segment for segment in cut if not calls[segment.first].problem]
        for i in fresh:
            calls[i].problem = APART


def problems(calls: Sequence[UnitCall]) -> tuple[str, ...]:
    """Why some blocks are not captured: each reason once, with the first of its blocks."""
    paths: dict[str, dict[str, None]] = {}
    for call in calls:
        if call.problem:
            paths.setdefault(call.problem, {})[call.path] = None
    texts = []
    for problem, blocks in paths.items():
        more = f" and {len(blocks) - 1} more" if len(blocks) > 1 else ""
        texts.append(f"{next(iter(blocks))}{more}: {problem}")
    return tuple(texts)


def _group(calls: Sequence[UnitCall], i: int) -> range:
    """The calls that must not be apart from call i."""
    first, end = i, i + 1
    while calls[first].joined and first:
        first -= 1
    while end < len(calls) and calls[end].joined:
        end += 1
    return range(first, end)


def last_uses(calls: Sequence[UnitCall]) -> list[int]:
    """For each call, the last one that is given an output of it; itself where none is."""
    last = list(range(len(calls)))
    for i, call in enumerate(calls):
        for origin in call.origins:
            if origin is not None and origin.call >= 0:
                last[origin.call] = i
    return last


def _cut(calls: Sequence[UnitCall]) -> list[Segment]:
    last = last_uses(calls)
    cut: list[Segment] = []
    first = 0
    while first < len(calls):
        growing = _Growing(first, {o for o in calls[first].origins if o is not None})
        end = first + 1
        while end < len(calls) and growing.takes(calls, end):
            end += 1
        # What a call outside of the segment is given must be its last call's.
        while needed := [k + 1 for k in range(first, end - 1) if last[k] >= end]:
            end = needed[0]
        cut.append(Segment(first, end))
        first = end
    return cut
