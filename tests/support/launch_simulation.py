"""Captured launches run on memory that says which bytes hold a value."""

from __future__ import annotations

from typing import Any

from launch_effects import Effect, Memory, effect
from launch_recorder import (
    Entry,
    Operator,
    Range,
    span,
)
from recorded_runs import (
    Record,
)
from recording_driver import Launch
from torch import Tensor

from l2c_rt.adapters.bound_model import FusableAttention
from l2c_rt.backends.cuda.call_program import CallProgram
from l2c_rt.backends.cuda.run_program import RunProgram
from l2c_rt.backends.cuda.shape_program import ShapeProgram

SUM_PARTS = ("_split_sum_kernel", "_gate_residual_kernel", "_residual_norm_kernel")
"""Kernels that write an output to its slot from parts in float32."""


class OnMemory:
    """Runs what was captured on memory that was poisoned before the run.

    At every evaluation only slots, latents, anchor and counter keep what they hold.
    """

    def __init__(self, record: Record) -> None:
        self._record = record
        p, b = record.shape_program, record.shape_program.buffers
        self._slots = {span(slot)[0]: i for i, slot in enumerate(b.memory.slots)}
        self._scratch = b.scratch
        self._buffers = [*b.streams.values(), b.h, b.qkv, b.mixed, b.hidden]
        self._buffers += p.branches._splits.values()
        if isinstance(record.program, CallProgram):
            output = record.program._output
            self._buffers += [output._tokens, output._image]
        kept = [b.memory.all_slots, b.latents, b.anchor, b.counter]
        self._memory = Memory([*kept, *self._buffers])
        for given in (b.latents, b.counter):
            self._memory.write(span(given))
        self._constants = Memory(self._all_constants(p))
        self._branches = {
            span(projection(part.inner).weight)[0]: name
            for name, part in p.model.fusable.branches.items()
        }
        self._streams = {span(stream)[0] for stream in b.streams.values()}
        self._latest = self._half = 0
        self._holds: dict[int, tuple[str, int]] = {}
        self._unread: set[int] = set()
        self.reused = 0

    def _all_constants(self, p: ShapeProgram) -> list[Tensor]:
        found = [
            *p.model.model.parameters(),
            p.tables.modulation.table,
            p.tables.modulation.rows,
        ]
        found += [p.weights.embedding.weight, p.weights.embedding.positions, p.weights.final.bias]
        found += [t for r in p.launcher.lists.all for t in (r.slots, r.gates) if t is not None]
        if isinstance(self._record.program, RunProgram):
            found.append(self._record.program._coefficients)
        return [t for t in found if t.numel()]

    def evaluation(self, number: int) -> list[tuple[str, int]]:
        """What was added to the stream, in order: branches, and when each was computed."""
        for buffer in (
            *self._buffers,
            self._record.shape_program.buffers.memory.slots[self._scratch],
        ):
            self._memory.poison(span(buffer))
        added: list[tuple[str, int]] = []
        for entry in self._record.evaluation(number):
            made = effect(entry)
            self._read(made, number)
            self._follow(entry, made)
            new = self._added(entry, made)
            self._check_gates(made, new)
            added += new
            self._write(entry, made, number)
        assert not self._unread, "an output was never added"
        self.reused += sum(when < number for _, when in added)
        return added

    def _read(self, made: Effect, number: int) -> None:
        for at in made.reads:
            if not self._constants.has(at):
                assert self._memory.holds(at), "read before it was written"
        for at in made.constants:
            assert self._constants.has(at), "an operand that nothing keeps"
        if made.anchor is not None and self._anchored(number, 2):
            assert self._memory.holds(made.anchor), "anchor read before it was kept"

    def _follow(self, entry: Entry, made: Effect) -> None:
        """The stream goes from the buffer written last to the next; only a skip goes back, whose
        product in two halves begins with it."""
        skip = entry.arguments.get("skip_ptr") if isinstance(entry, Launch) else None
        others = {-1 if skip is None else skip.data_ptr()}
        if isinstance(entry, Operator) and entry.name == "aten.addmm.out":
            if made.writes[0][0] in self._streams:
                self._half = made.writes[0][0]
                return
        elif isinstance(entry, Operator) and entry.name == "aten.addmm_.default":
            others = {self._half}
        for address, _ in made.reads:
            if address in self._streams and address not in others:
                assert address == self._latest, "the stream is read where it was, not where it is"
        for address, _ in made.writes:
            self._latest = address if address in self._streams else self._latest

    def _anchored(self, number: int, column: int) -> bool:
        program = self._record.program
        return isinstance(program, RunProgram) and bool(program._table[number, column] != 0)

    def _added(self, entry: Entry, made: Effect) -> list[tuple[str, int]]:
        """The outputs that a kernel adds: of a list of slots, or of one slot or its parts."""
        if isinstance(entry, Operator) or entry.kernel == "_split_sum_kernel":
            return []
        if "slots_ptr" in entry.arguments:
            base = self._record.shape_program.buffers.memory.slots
            places = [base[slot].data_ptr() for slot in made.slots]
        elif "partial_sums_ptr" in entry.arguments and entry.arguments.get("SPLITS"):
            is_sum = "x_ptr" in entry.arguments and "x_out_ptr" in entry.arguments
            places = [entry.arguments["partial_sums_ptr"].data_ptr()] if is_sum else []
        else:
            y = entry.arguments.get("y_ptr")
            places = [] if y is None else [y.data_ptr()]
        self._unread -= set(places)
        return [self._holds[place] for place in places]

    def _check_gates(self, made: Effect, added: list[tuple[str, int]]) -> None:
        parts = self._record.shape_program.model.fusable
        assert parts is not None
        if parts.modulation is None:
            return
        wanted = [(parts.branches[b].block, parts.branches[b].first) for b, _ in added]
        assert list(made.gates) == [6 * block + (first or 0) + 2 for block, first in wanted]

    def _write(self, entry: Entry, made: Effect, number: int) -> None:
        for at in made.writes:
            self._memory.write(at)
            if at[0] in self._slots or at[0] in self._parts():
                self._keep(entry, at, number)
        if made.anchor is not None and self._anchored(number, 3):
            self._memory.write(made.anchor)

    def _parts(self) -> set[int]:
        return {t.data_ptr() for t in self._record.shape_program.branches._splits.values()}

    def _keep(self, entry: Entry, at: Range, number: int) -> None:
        """Who wrote a slot, or the parts of an output, is told by the weight."""
        if isinstance(entry, Launch) and entry.kernel in SUM_PARTS:
            # Parts summed to their slot: by the kernel that also adds them, or before one does.
            parts = entry.arguments["partial_sums_ptr"].data_ptr()
            if entry.kernel == "_split_sum_kernel":
                assert parts in self._unread, "parts summed that nobody waits for"
                self._unread -= {parts}
                self._unread |= {at[0]}
            self._holds[at[0]] = self._holds[parts]
        else:
            assert at[0] not in self._unread, "an output was overwritten before it was added"
            self._unread |= {at[0]}
            self._holds[at[0]] = self._writer(entry), number
        slot = self._slots.get(at[0])
        if slot is not None and slot != self._scratch:
            branch = self._record.compiled.plan.slots[slot]
            assert self._holds[at[0]] == (branch, number), "another branch's slot was overwritten"

    def _writer(self, entry: Entry) -> str:
        if isinstance(entry, Launch):
            return self._branches[entry.arguments["weight_ptr"].data_ptr()]
        (found,) = (self._branches[a] for a, _ in entry.reads if a in self._branches)
        return found


def projection(inner: Any) -> Any:
    """The linear whose output is the branch's."""
    return inner.proj if isinstance(inner, FusableAttention) else inner.fc2
