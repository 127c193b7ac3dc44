"""The launch log of the fused backend for the published schedules, at their published depths.

A narrow model on CPU tensors goes through planning, tuning, warming and capture as on a GPU; every
kernel is compiled and recorded instead of launched.  What was captured is then run on memory that
says which bytes hold a value.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from launch_recorder import (
    Choosing,
    Effect,
    Entry,
    LogRecorder,
    Memory,
    Operator,
    Range,
    effect,
    fixed_arguments,
    moved_bytes,
    operators,
    span,
)
from recording_driver import Launch, recorded_launches
from torch import Tensor

from l2c_rt import presets
from l2c_rt.adapters.bound_model import FusableAttention
from l2c_rt.api import build
from l2c_rt.backends.cuda.call_program import CallProgram
from l2c_rt.backends.cuda.cuda_parts import CudaParts, triton_kernels
from l2c_rt.backends.cuda.run_program import RunProgram
from l2c_rt.backends.cuda.shape_program import ShapeProgram
from l2c_rt.backends.cuda.support import fused_cuda_backend
from l2c_rt.backends.options import Options
from l2c_rt.models import DiT, UViT
from l2c_rt.plan.lowering import STREAM, Run, Sum
from l2c_rt.policies import Full
from l2c_rt.runtime.compiled import Compiled
from l2c_rt.runtime.sample import published_solver

DISTINCT = {
    "dit-xl-2-256/ddim-50": 14,
    "dit-xl-2-256/ddim-20": 7,
    "uvit-h-2-256/dpm-50": 15,
    "uvit-h-2-256/dpm-20": 10,
}
SCHEDULES = (*DISTINCT, "dit full", "uvit full")
"""The published ones, and every branch at each of four evaluations."""
IMAGES, WIDTH, FILLS = 2, 64, 3
"""FILLS: the graphs that take the weights, fill the tables, fill one entry; then those of rows."""
TAKE, ALL, ONE = range(FILLS)


def model_of(name: str) -> Any:
    """The published depth, 16 tokens of 64 columns."""
    torch.manual_seed(0)
    made = (
        DiT(depth=28, hidden_size=WIDTH, num_heads=4, input_size=8, num_classes=10)
        if name.startswith("dit")
        else UViT(
            depth=28, embed_dim=WIDTH, num_heads=4, img_size=8, patch_size=2, in_chans=4,
            num_classes=11, conv=False,
        )
    )  # fmt: skip
    return made.to(torch.bfloat16).eval()


@dataclass(frozen=True, repr=False)
class Record:
    """A compiled model after one run, and all that was launched for it."""

    compiled: Compiled
    recorder: LogRecorder
    program: RunProgram | CallProgram

    @property
    def shape_program(self) -> ShapeProgram:
        return self.program.shape_program

    def row(self, number: int) -> list[Entry]:
        """What the graph of the plan's distinct row holds."""
        first, end = self.recorder.captured[FILLS + number]
        return self.recorder.log[first:end]

    def evaluation(self, number: int) -> list[Entry]:
        return self.row(self.compiled.plan.order[number])

    @property
    def evaluations(self) -> range:
        return range(self.compiled.plan.num_evaluations)

    def alone(self, number: int) -> bool:
        """Whether an evaluation computes no branch."""
        return not any(isinstance(launch, Run) for launch in self.lowered(number))

    def lowered(self, number: int) -> Any:
        return self.shape_program.variants[self.compiled.plan.order[number]]


@pytest.fixture(scope="module", autouse=True)
def _forget_records() -> Iterator[None]:
    yield
    recorded.cache_clear()


@cache
def recorded(
    name: str, *, products: str = "kernels", graph: str = "step", calls: bool = False
) -> Record:
    """One run of a schedule, by `sample` or call by call; kept, since nothing changes it."""
    model, full = model_of(name), name.endswith("full")
    recorders: list[LogRecorder] = []
    with recorded_launches() as log:

        def recorder(device: torch.device) -> LogRecorder:
            recorders.append(LogRecorder(log))
            return recorders[-1]

        cuda = CudaParts(triton_kernels(), recorder, Choosing(products))
        compiled = build(
            model, Full() if full else presets.load(f"l2c/{name}"),
            lambda described: fused_cuda_backend(described, cuda, Options(graph=graph)),
            steps=4 if full else None, strict=True,
        )  # fmt: skip
        if calls:
            call_all(compiled)
        else:
            compiled.sample(torch.randn(IMAGES, 4, 8, 8), torch.arange(IMAGES))
    (found,) = recorders
    return Record(compiled, found, program_of(compiled, calls))


def call_all(compiled: Compiled) -> None:
    labels = torch.arange(IMAGES)
    for t in published_solver(compiled.bound_model, compiled.schedule, None).timesteps:
        compiled(torch.randn(IMAGES, 4, 8, 8), torch.full((IMAGES,), t), labels)


def program_of(compiled: Compiled, calls: bool) -> Any:
    session = compiled if calls else compiled._idle[0]
    (lane,) = session.run.lanes.all()
    if calls:
        return lane.workspace._call
    (program,) = lane.workspace._runs.values()
    return program


WAYS = {
    "sample": {},
    "sample, library products": {"products": "library"},
    "sample, split products": {"products": "split"},
    "calls": {"calls": True},
    "trajectory": {"graph": "trajectory"},
}
SOME = [
    *((name, "sample") for name in SCHEDULES),
    *((name, "calls") for name in SCHEDULES),
    *((name, "trajectory") for name in DISTINCT),
    *((name, f"sample, {products} products")
      for name in ("dit-xl-2-256/ddim-20", "uvit-h-2-256/dpm-20")
      for products in ("library", "split")),
]  # fmt: skip
every_way = pytest.mark.parametrize(("name", "way"), SOME)
sampled = pytest.mark.parametrize("name", SCHEDULES)


# --- How many kernels, how many graphs, in which order ---


@sampled
def test_a_sampled_evaluation_launches_the_kernels_that_cost_counts(name: str) -> None:
    record = recorded(name)
    for number, counted in enumerate(record.compiled.cost.cached):
        assert len(record.evaluation(number)) == counted.kernels
        assert all(isinstance(entry, Launch) for entry in record.evaluation(number))
    if name.endswith("full"):
        assert record.compiled.cost.cached == record.compiled.cost.full
    rows = range(len(record.compiled.plan.steps))
    assert record.shape_program.nodes == sum(len(record.row(row)) for row in rows)


@sampled
def test_a_call_ends_in_three_launches_more_and_never_in_one_kernel(name: str) -> None:
    record = recorded(name, calls=True)
    for number, counted in enumerate(record.compiled.cost.cached):
        entries = record.evaluation(number)
        # Norm, linear, unpatchify and counter, where `sample` has one kernel; and an evaluation
        # that computes nothing begins with an embedding, which long skips need in any case.
        embedding = record.alone(number) and name.startswith("dit")
        assert len(entries) == counted.kernels + 3 + embedding
        operators_of = [entry.name for entry in entries if isinstance(entry, Operator)]
        assert operators_of == ["aten.addmm.out", "aten.copy_.default", "aten.add_.Tensor"]


@pytest.mark.parametrize("name", ["dit-xl-2-256/ddim-20", "uvit-h-2-256/dpm-20"])
def test_products_of_the_library_add_the_gelu_that_they_do_not_have(name: str) -> None:
    # Tanh GELU is in cuBLASLt's epilogue on a GPU, but not on a CPU; erf GELU is not on either.
    record = recorded(name, products="library")
    for number, counted in enumerate(record.compiled.cost.cached):
        entries = record.evaluation(number)
        gelus = [e for e in entries if isinstance(e, Operator) and "gelu" in e.name]
        computed = [la.branch for la in record.lowered(number) if isinstance(la, Run)]
        assert len(gelus) == sum(branch.startswith("mlp") for branch in computed)
        assert len(entries) == counted.kernels + len(gelus)


@pytest.mark.parametrize("name", ["dit-xl-2-256/ddim-20", "uvit-h-2-256/dpm-20"])
def test_split_products_add_a_sum_only_where_the_next_kernel_has_more_to_add(name: str) -> None:
    record = recorded(name, products="split")
    found = set()
    for number, counted in enumerate(record.compiled.cost.cached):
        entries = record.evaluation(number)
        sums = sum(isinstance(e, Launch) and e.kernel == "_split_sum_kernel" for e in entries)
        assert sums == unfused_sums(record.lowered(number))
        assert len(entries) == counted.kernels + sums
        found.add(sums)
    assert len(found) > 2


def unfused_sums(row: Any) -> int:
    """Outputs of a row that are not added as the only term by a kernel that norms the sum."""
    runs = sum(isinstance(launch, Run) for launch in row)
    written = {launch.slot for launch in row if isinstance(launch, Run)}
    return runs - sum(
        isinstance(launch, Sum)
        and launch.branch is not None
        and len(launch.terms) == 1
        and launch.terms[0].slot in written
        for launch in row
    )


@pytest.mark.parametrize("calls", [False, True])
@pytest.mark.parametrize("name", DISTINCT)
def test_a_graph_per_distinct_row_launched_in_the_plans_order(name: str, calls: bool) -> None:
    record = recorded(name, calls=calls)
    plan, replays = record.compiled.plan, record.recorder.replays
    assert len(plan.steps) == DISTINCT[name]
    assert len(record.recorder.captured) == record.shape_program.graphs == FILLS + DISTINCT[name]
    rows = [FILLS + row for row in plan.order]
    # Calls know nothing of the first run's timesteps: a table entry before every evaluation.
    ran = [graph for row in rows for graph in (ONE, row)] if calls else [ALL, *rows]
    assert replays[: 1 + len(ran)] == [TAKE, *ran]


@pytest.mark.parametrize("name", DISTINCT)
def test_a_trajectory_is_one_graph_of_the_rows_in_the_plans_order(name: str) -> None:
    record, steps = recorded(name, graph="trajectory"), recorded(name)
    first, end = record.recorder.captured[-1]
    assert len(record.recorder.captured) == FILLS + DISTINCT[name] + 1
    assert record.recorder.replays[:3] == [TAKE, ALL, FILLS + DISTINCT[name]]
    whole = [fixed_arguments(entry) for entry in record.recorder.log[first:end]]
    assert whole == [fixed_arguments(e) for s in record.evaluations for e in record.evaluation(s)]
    assert len(whole) == sum(len(steps.evaluation(s)) for s in steps.evaluations)


def test_a_sum_of_nothing_into_another_buffer_is_a_copy_and_its_norm() -> None:
    # Where two long skips begin at one place, which no published model has.
    p = recorded("uvit-h-2-256/dpm-20").shape_program
    kept = next(name for name in p.buffers.streams if name.startswith("skip"))
    copied = (Sum(STREAM, kept, (), "attn-1"), Sum(STREAM, STREAM, (), "attn-1"))
    with recorded_launches() as log:
        p.launcher.run(copied, lambda launch, reuses: None)
    moved, normed = (effect(entry) for entry in log)
    assert moved.writes == (span(p.buffers.streams[kept]), span(p.buffers.h))
    assert normed.writes == (span(p.buffers.h),)


# --- What a capture must not do ---


@every_way
def test_captured_work_never_waits_for_the_device(name: str, way: str) -> None:
    assert recorded(name, **WAYS[way]).recorder.waits == []


@every_way
def test_every_kernel_was_compiled_before_the_first_capture(name: str, way: str) -> None:
    recorder = recorded(name, **WAYS[way]).recorder
    begin = recorder.captured[0][0]
    before, after = code(recorder.log[:begin]), code(recorder.log[begin:])
    assert after
    assert after <= before


def code(entries: list[Entry]) -> set[bytes]:
    return {entry.cubin for entry in entries if isinstance(entry, Launch)}


@every_way
def test_a_row_holds_the_same_addresses_and_numbers_whenever_it_is_made(
    name: str, way: str
) -> None:
    record = recorded(name, **WAYS[way])
    parts = [record.recorder.log[first:end] for first, end in record.recorder.warmed]
    warmed = [part for part in parts if code(part)]
    for number in range(len(record.compiled.plan.steps)):
        once = [fixed_arguments(entry) for entry in warmed[number]]
        assert once == [fixed_arguments(entry) for entry in record.row(number)]


@pytest.mark.parametrize("way", ["sample", "trajectory"])
@pytest.mark.parametrize("name", DISTINCT)
def test_another_run_with_other_inputs_only_copies_them_and_replays(name: str, way: str) -> None:
    record = recorded(name, **WAYS[way])
    log, captured = len(record.recorder.log), len(record.recorder.captured)
    evaluations = 1 if way == "trajectory" else len(record.evaluations)
    first = record.recorder.replays[: 2 + evaluations]
    noise, labels, before = torch.randn(IMAGES, 4, 8, 8), torch.ones(IMAGES).long(), replays(record)
    # Outside the recording driver: a kernel that is launched by itself would raise.
    with operators() as (launched, waits):
        record.compiled.sample(noise, labels, 2.5)
    assert record.recorder.replays[before:] == first
    assert (len(record.recorder.log), len(record.recorder.captured)) == (log, captured)
    # Numbers of the host go to the device; nothing comes back from there.
    static = static_memory(record)
    assert [name for name, at in waits if static.has(at)] == []
    # Labels with the null label, and copies into static buffers: nothing that a model computes.
    names = {entry.name.split(".")[1] for entry in launched}
    assert names <= {"copy_", "_to_copy", "clone", "cat", "full", "new_full", "fill_"}


@pytest.mark.parametrize("name", ["dit-xl-2-256/ddim-20", "uvit-h-2-256/dpm-20"])
def test_calls_whose_timesteps_are_known_fill_the_tables_once_a_run(name: str) -> None:
    record = recorded(name, calls=True)
    before = replays(record)
    call_all(record.compiled)
    rows = [FILLS + row for row in record.compiled.plan.order]
    assert record.recorder.replays[before:] == [TAKE, ALL, *rows]


def replays(record: Record) -> int:
    return len(record.recorder.replays)


def static_memory(record: Record) -> Memory:
    """All that graphs write, and what they are given for a run."""
    p, b = record.shape_program, record.shape_program.buffers
    given = [p.tables.t, p.tables.modulation.table, record.program._coefficients]
    work = [b.h, b.qkv, b.mixed, b.hidden, b.latents, b.anchor, b.counter, b.memory.all_slots]
    labels = [] if p.tables.y is None else [p.tables.y]
    return Memory([*given, *labels, *work, *b.streams.values()])


# --- Memory ---


@every_way
def test_every_byte_is_written_before_it_is_read_and_every_branch_added_once(
    name: str, way: str
) -> None:
    record = recorded(name, **WAYS[way])
    run = OnMemory(record)
    computed = {name: -1 for name in record.compiled.bound_model.program.branch_names}
    for number in record.evaluations:
        added = run.evaluation(number)
        for launch in record.lowered(number):
            if isinstance(launch, Run):
                computed[launch.branch] = number
        # In order, each once, and as the latest evaluation that ran it left it: what somebody
        # still has to read was not overwritten.
        assert added == list(computed.items())
    assert run.reused == record.compiled.plan.reuse_count


@every_way
def test_what_the_tables_hold_is_written_by_the_graph_that_fills_them(name: str, way: str) -> None:
    record = recorded(name, **WAYS[way])
    p = record.shape_program
    table, counter = p.tables.modulation.table, p.buffers.counter
    taken = [p.weights.embedding.weight, p.weights.embedding.positions]
    for graph, filled in (
        (TAKE, taken),
        (ALL, [table[: p.tables.steps], counter]),
        (ONE, [table[:1], counter]),
    ):
        memory = Memory([table, *taken, counter])
        first, end = record.recorder.captured[graph]
        for entry in record.recorder.log[first:end]:
            for at in effect(entry).writes:
                if memory.has(at):
                    memory.write(at)
        for tensor in filled:
            assert memory.holds(span(tensor))


SUM_PARTS = ("_split_sum_kernel", "_gate_residual_kernel", "_residual_norm_kernel")
"""Kernels that write an output to its slot from partial sums in float32, where they are split."""


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
            self._buffers += [record.program._tokens, record.program._image]
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
        self._latest = 0
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
        found += [
            t for r in p.launcher._lists.values() for t in (r.slots, r.gates) if t is not None
        ]
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
        """The stream goes from the buffer written last to the next; only a skip goes back."""
        skip = entry.arguments.get("skip_ptr") if isinstance(entry, Launch) else None
        skipped = -1 if skip is None else skip.data_ptr()
        for address, _ in made.reads:
            if address in self._streams and address != skipped:
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


# --- Bytes ---


@dataclass(frozen=True)
class UncountedTerms:
    """What a kernel's byte model and `cost` do not both count, in bytes of one evaluation."""

    batch: int
    tokens: int
    width: int
    pixels: int
    outputs: int
    prefix_tokens: int

    @property
    def patches(self) -> int:
        return self.tokens - self.prefix_tokens

    def latents(self, passes: int) -> int:
        """float32, which `cost` leaves out: read by the embedding, read and written at the end."""
        return 4 * passes * IMAGES * self.patches * self.pixels

    def positions(self) -> int:
        """A table that is read with the embedding and is no weight of `cost`'s."""
        return 2 * self.tokens * self.width

    def variance(self) -> int:
        """Rows of the final linear that the kernel never computes, and the linear's bias."""
        return 2 * ((self.outputs - self.pixels) * self.width + self.outputs)

    def prefix_latents(self) -> int:
        """The embedding's model counts a patch of latents for prefix tokens too."""
        return 4 * IMAGES * self.prefix_tokens * self.pixels

    def prefix_at_the_end(self, terms: int) -> int:
        """Rows of prefix tokens in the last sum, which the final kernel does not read."""
        return 2 * (terms + 1) * self.batch * self.prefix_tokens * self.width

    def affine(self, sums: int) -> int:
        """Weight and bias of a norm, for every kernel that sums, with a norm or without."""
        return 4 * self.width * sums

    def absent_bias(self, attentions: int) -> int:
        """The product's model counts a bias for q, k and v, which U-ViT's have not."""
        return 6 * self.width * attentions


def left_out(record: Record) -> UncountedTerms:
    p = record.shape_program
    batch, tokens, width = p.buffers.h.shape
    pixels = p.buffers.shape.channels * p.outer.patches.kernel_size[0] ** 2
    return UncountedTerms(
        batch, tokens, width, pixels, p.outer.linear.out_features, p.outer.prefix_tokens
    )


def both(record: Record, number: int) -> tuple[int, int]:
    """Bytes of an evaluation by the kernels' own models, and by cost."""
    told = sum(moved_bytes(entry) for entry in record.evaluation(number))
    counted = record.compiled.cost.cached[number]
    return told, counted.moved_bytes(batch=record.shape_program.buffers.shape.batch, itemsize=2)


@pytest.mark.parametrize("name", [name for name in SCHEDULES if name.startswith("dit")])
def test_kernels_of_dit_move_the_bytes_that_cost_counts(name: str) -> None:
    record = recorded(name)
    out = left_out(record)
    for number in record.evaluations:
        told, counted = both(record, number)
        more = out.latents(2 if record.alone(number) else 3) + out.positions()
        assert told - counted == more - out.variance()


@pytest.mark.parametrize("name", [name for name in SCHEDULES if name.startswith("uvit")])
def test_kernels_of_uvit_move_the_bytes_that_cost_counts(name: str) -> None:
    record = recorded(name)
    out = left_out(record)
    assert out.prefix_tokens == 2
    for number in record.evaluations:
        row = record.lowered(number)
        told, counted = both(record, number)
        sums = 1 + sum(isinstance(launch, Sum) for launch in row)
        attentions = sum(isinstance(la, Run) and la.branch.startswith("attn") for la in row)
        more = out.latents(3) + out.prefix_latents() + out.positions()
        more += out.affine(sums) + out.absent_bias(attentions)
        assert told - counted == more - out.variance() - out.prefix_at_the_end(len(row[-1].terms))
