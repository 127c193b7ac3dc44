"""The order of the launches of a step: what waits to be added, and which launch adds it.

`lowering` makes the launches, `cost` counts them: for 1000 steps of 400 branches the objects alone
would take a second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Protocol

from l2c_rt.plan.delta_ops import FromDelta, KeepAt, LinearParts, ToDelta
from l2c_rt.plan.ops import Compute, Op, Predict, Reuse, ReuseRun, RunFixed, StepPlan
from l2c_rt.plan.program import BlockProgram, Fixed
from l2c_rt.plan.stream_ops import KeepStream, RestoreStream
from l2c_rt.plan.tokens import Refresh, Scored

STREAM, JOINED, RESTORED = "x", "x-joined", "x-kept"
_SLOT = "slot-"

Added = Compute | Reuse | Predict | ToDelta | FromDelta
"""An op that adds to the stream: a branch's output, or what the base kept of the stream."""


class Sink(Protocol):
    """What is told of every launch in turn: the arguments are the launches' fields."""

    def embed(self, target: str, branch: str | None) -> None: ...
    def sum(self, source: str, target: str, terms: Sequence[Added], branch: str | None) -> None: ...
    def run(self, op: Compute) -> None: ...
    def score(self, op: Scored) -> None: ...
    def mix(self, op: Predict) -> None: ...
    def run_tokens(self, op: Refresh, source: str) -> None: ...
    def skip_linear(self, node: str, source: str, skip: str, target: str) -> None: ...
    def composed(self, op: LinearParts, sources: Sequence[str], target: str) -> None: ...
    def final(self, source: str | None, terms: Sequence[Added]) -> None: ...
    def call(self, node: str, source: str) -> None: ...


def walk(step: StepPlan, program: BlockProgram, sink: Sink, *, one_kernel: bool) -> None:
    """Tell `sink` of the launches of one distinct step, in order; see `lowering.lower`."""
    place = _Place(program.fixed_of, sink, one_kernel)
    for op, after in zip_longest(step, step[1:]):
        place.take(op, after)


def slot_stream(slot: int) -> str:
    """The name of the buffer that is a slot: what a base keeps of the stream is written there."""
    return f"{_SLOT}{slot}"


def slot_of_stream(name: str) -> int | None:
    """The slot that a buffer of this name is, None for one that is no slot."""
    return int(name.removeprefix(_SLOT)) if name.startswith(_SLOT) else None


class _Place:
    """What still waits at a place in a step: terms to be added, a sum to be kept."""

    def __init__(self, fixed: Mapping[str, Fixed], sink: Sink, one_kernel: bool) -> None:
        self._fixed_nodes, self._sink, self._one_kernel = fixed, sink, one_kernel
        self._at = STREAM
        self._embedded = False
        self._waiting: list[Added] = []
        self._keep: str | None = None
        self._saves = 0
        self._kept: list[str] = []
        self._held: set[str] = set()

    def take(self, op: Op, after: Op | None) -> None:
        """An op, and the one that comes next."""
        if isinstance(op, Compute):
            self._sum(op.branch)
            self._sink.run(op)
            if isinstance(op, Scored):
                self._sink.score(op)
            self._waiting.append(op)
        elif isinstance(op, ReuseRun):
            self._settle()
            for item in op.items:
                self._add(item)
        elif isinstance(op, Reuse | Predict):
            self._settle()
            self._add(op)
        elif isinstance(op, KeepStream):
            self._settle()
            self._keep = RESTORED
        elif isinstance(op, RestoreStream):
            self._at, self._embedded, self._keep, self._waiting = RESTORED, False, None, []
            self._saves = 0
        elif isinstance(op, RunFixed):
            self._fixed(op, after)
        elif isinstance(op, ToDelta | FromDelta):
            self._settle()
            self._waiting.append(op)
        elif isinstance(op, KeepAt):
            self._keep_at(slot_stream(op.slot))
        elif isinstance(op, LinearParts):
            self._linear_parts(op)

    def _add(self, op: Reuse | Predict) -> None:
        """To what waits; what is made in a slot is made first: a prediction, some tokens."""
        if type(op) is not Reuse:
            self._make(op)
        self._waiting.append(op)

    def _make(self, op: Reuse | Predict) -> None:
        if isinstance(op, Predict) and op.store is not None:
            self._sink.mix(op)
        elif isinstance(op, Refresh) and op.tokens:
            self._sum(None)
            self._sink.run_tokens(op, self._at)

    def _keep_at(self, slot: str) -> None:
        self._settle()
        if self._at == slot and not self._waiting:
            self._held.add(slot)
        else:
            self._keep = slot

    def _linear_parts(self, op: LinearParts) -> None:
        self._settle()
        self._sum(None)
        kept = {skip: self._kept.pop() for skip in op.skips}
        sources = [self._at, *(kept[delta] for delta in op.deltas[1:] if delta is not None)]
        target = JOINED if self._at == STREAM else STREAM
        self._sink.composed(op, sources, target)
        self._at = target

    def _fixed(self, op: RunFixed, after: Op | None) -> None:
        node = self._fixed_nodes[op.node]
        role = node.role
        if role == "embed":
            self._embedded = True
        elif role == "skip_save":
            self._save(op.node)
        elif role == "skip_linear":
            self._settle()
            self._sum(None)
            # A product cannot be written over what it reads.
            target = JOINED if self._at == STREAM else STREAM
            if isinstance(after, KeepAt):
                target = slot_stream(after.slot)
            self._sink.skip_linear(op.node, self._at, self._kept.pop(), target)
            self._at = target
        elif role == "final":
            self._final()
        elif not node.conditioning:
            self._settle()
            self._sum(None)
            self._leave_kept()
            self._sink.call(op.node, self._at)

    def _save(self, node: str) -> None:
        """For a long skip: what is kept already is kept once."""
        if self._keep is None and not self._waiting and self._at in self._held:
            self._kept.append(self._at)
            return
        if self._keep is None:
            self._keep = f"skip-{len(self._kept)}-{node}"
        self._saves += 1

    def _settle(self) -> None:
        """Write the sum that is kept, before anything more is added to it."""
        if self._keep is not None:
            self._sum(None)

    def _leave_kept(self) -> None:
        """Copy the stream out of a buffer that is kept: a node may write over it."""
        if self._at in self._held:
            self._sink.sum(self._at, STREAM, (), None)
            self._at = STREAM

    def _sum(self, branch: str | None) -> None:
        """Add what waits; `branch` is the one whose normed input is wanted, if any."""
        if self._embedded:
            self._embed(branch)
            if not self._waiting:
                self._note_kept()
                return
        elif not self._waiting and self._keep is None and branch is None:
            return
        # What is kept is never written over.
        moved = STREAM if self._waiting and self._at in self._held else self._at
        target = self._keep or moved
        self._sink.sum(self._at, target, self._waiting, branch)
        self._waiting = []
        self._at = target
        self._note_kept()

    def _embed(self, branch: str | None) -> None:
        self._embedded = False
        first = not self._waiting
        self._at = self._keep if first and self._keep is not None else STREAM
        self._sink.embed(self._at, branch if first else None)

    def _note_kept(self) -> None:
        if self._keep is not None:
            self._kept += [self._keep] * self._saves
            self._held.add(self._keep)
            self._keep, self._saves = None, 0

    def _final(self) -> None:
        self._settle()
        if self._embedded and not self._one_kernel:
            self._embed(None)
        source = None if self._embedded else self._at
        self._sink.final(source, self._waiting)
