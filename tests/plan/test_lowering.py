"""A lowered row does what its plan says: both are run on symbols, for random programs and plans.

A value of the residual stream is (base, terms): what a fixed node made, and what was added since,
in order.  A term is (branch, value of its slot), since the gate is the branch's own.
"""

from __future__ import annotations

from collections.abc import Hashable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import toy_program

from l2c_rt import adapters, presets
from l2c_rt.models import dit, uvit
from l2c_rt.plan.build import build_plan
from l2c_rt.plan.cost import cost
from l2c_rt.plan.lowering import (
    STREAM,
    Call,
    Embed,
    Final,
    LoweredStep,
    Run,
    SkipLinear,
    Sum,
    buffers,
    can_be_one_kernel,
    launch_kernels,
    lower,
)
from l2c_rt.plan.ops import Compute, Plan, ReuseRun, RunFixed, StepPlan
from l2c_rt.plan.passes import fuse_reuse_runs, hoist_conditioning
from l2c_rt.plan.program import (
    BlockProgram,
    Branch,
    Fixed,
    attention_branch,
    conditioning_node,
    linear_node,
    mlp_branch,
)
from l2c_rt.schedule.cache_schedule import CacheSchedule

Value = tuple[int, tuple[tuple[str, int], ...]]
FULL_DIT = 28 * (4 + 3) + 1


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
                    self._add(item.branch, self.slots[item.slot])
        assert self._end is not None
        return self._end, self._inputs

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

    def _one(self, launch: Embed | Sum | Run | SkipLinear | Call) -> None:
        if isinstance(launch, Embed):
            self._buffers[launch.target] = self._source(None)
            self._norm(launch.branch, launch.target)
        elif isinstance(launch, Sum):
            value = self._summed(self._source(launch.source), launch.terms)
            self._buffers[launch.target] = value
            self._norm(launch.branch, launch.target)
        elif isinstance(launch, Run):
            self._branch(launch)
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

    def _summed(self, value: Value, terms: tuple[Any, ...]) -> Value:
        base, before = value
        if any(term.slot == self._scratch for term in terms):
            assert self._unread, "an output in the scratch slot was added twice"
            self._unread = False
        return base, (*before, *((term.branch, self.slots[term.slot]) for term in terms))

    def _branch(self, launch: Run) -> None:
        assert self._normed is not None
        branch, value = self._normed
        assert branch == launch.branch, "the normed input is another branch's"
        if launch.slot == self._scratch:
            assert not self._unread, "the scratch slot was overwritten before it was read"
            self._unread = True
        self._inputs[branch] = value
        self.slots[launch.slot] = self._symbols("f", branch, value)


def block(i: int, gated: bool) -> list[Any]:
    found: list[Any] = [conditioning_node(f"modulation-{i}", 32, 192)] if gated else []
    attention = attention_branch(i, 16, 32, gated=gated)
    return [*found, attention, mlp_branch(i, 16, 32, 128, gated=gated)]


def program_of(nodes: list[Any]) -> BlockProgram:
    embed = linear_node("embed", 16, 16, 32, role="embed")
    final = linear_node("final", 16, 32, 32, role="final")
    return BlockProgram("any", (embed, *nodes, final), 16, 32)


def skip_program(pairs: int, middle: int = 1) -> BlockProgram:
    """U-ViT's: `pairs` blocks whose sums are kept, then as many that join them."""
    nodes: list[Any] = []
    for i in range(2 * pairs + middle):
        if i >= pairs + middle:
            nodes.append(linear_node(f"skip-linear-{i}", 16, 64, 32, role="skip_linear"))
        nodes += block(i, gated=False)
        if i < pairs:
            nodes.append(Fixed(f"skip-save-{i}", role="skip_save"))
    return program_of(nodes)


@st.composite
def odd_programs(draw: st.DrawFn) -> BlockProgram:
    """Branches, saves, joins and nodes without a role in any order that has a meaning."""
    gated, nodes, saved, at_least_one = draw(st.booleans()), [], 0, False
    for i, kind in enumerate(draw(st.lists(st.sampled_from("bbbsjc"), min_size=1, max_size=12))):
        if kind == "s":
            nodes.append(Fixed(f"save-{i}", role="skip_save"))
            saved += 1
        elif kind == "j" and saved:
            nodes.append(linear_node(f"join-{i}", 16, 64, 32, role="skip_linear"))
            saved -= 1
        elif kind == "c":
            nodes.append(linear_node(f"adapter-{i}", 16, 32, 32, kernels=draw(st.integers(1, 3))))
        else:
            nodes += block(i, gated)
            at_least_one = True
    return program_of(nodes if at_least_one else [*nodes, *block(99, gated)])


programs = st.one_of(
    st.integers(1, 4).map(toy_program),
    st.builds(skip_program, st.integers(1, 3), st.integers(0, 2)),
    odd_programs(),
)


@st.composite
def planned(draw: st.DrawFn, of: st.SearchStrategy[BlockProgram] = programs) -> Any:
    """A program, and the plan of a schedule with few and with many reuses."""
    program = draw(of)
    names = program.branch_names
    cells = st.lists(st.booleans(), min_size=len(names), max_size=len(names))
    rows = [[True] * len(names), *draw(st.lists(cells, max_size=6))]
    plan = build_plan(program, CacheSchedule(np.array(rows), names))
    hoisted = hoist_conditioning(plan, program)
    return program, fuse_reuse_runs(hoisted) if draw(st.booleans()) else hoisted


def lowered(program: BlockProgram, plan: Plan) -> tuple[LoweredStep, ...]:
    """As the backend lowers them for whole runs."""
    one_kernel = can_be_one_kernel(program)
    return tuple(lower(step, program, plan.num_slots, one_kernel=one_kernel) for step in plan.steps)


def computes(step: StepPlan) -> bool:
    return any(isinstance(op, Compute) for op in step)


@pytest.mark.parametrize("one_kernel", [False, True])
@settings(max_examples=150, deadline=None)
@given(planned())
def test_a_row_gives_every_branch_its_slot_and_the_end_what_the_plan_gives(
    one_kernel: bool, drawn: Any
) -> None:
    program, plan = drawn
    one_kernel = one_kernel and can_be_one_kernel(program)
    rows = [lower(s, program, plan.num_slots, one_kernel=one_kernel) for s in plan.steps]
    symbols = Symbols()
    meant, done = OnPlan(program, symbols), OnBuffers(plan.num_slots, symbols)
    for evaluation, row in enumerate(plan.order):
        wanted = meant.run(plan.steps[row], evaluation)
        assert done.run(rows[row], evaluation) == wanted
        assert {k: v for k, v in done.slots.items() if k != plan.num_slots} == meant.slots


@settings(max_examples=100, deadline=None)
@given(planned())
def test_a_sum_always_does_something_and_neighbours_could_not_be_one(drawn: Any) -> None:
    program, plan = drawn
    for row in lowered(program, plan):
        for launch, after in pairwise(row):
            if isinstance(launch, Sum):
                moved = launch.source != launch.target
                assert launch.terms or launch.branch is not None or moved, launch
            if isinstance(launch, Sum) and isinstance(after, Sum):
                # Only where the sum so far is kept for a long skip.
                assert launch.branch is None
                assert launch.target != STREAM or after.source != after.target


@settings(max_examples=100, deadline=None)
@given(planned())
def test_only_an_evaluation_that_computes_nothing_is_one_kernel(drawn: Any) -> None:
    program, plan = drawn
    fixed = [node for node in program.nodes if isinstance(node, Fixed)]
    called = any(not (node.role or node.conditioning) for node in fixed)
    skips = any(node.role in ("skip_save", "skip_linear") for node in fixed)
    assert can_be_one_kernel(program) is (program.branches[0].gated and not skips)
    for step, row in zip(plan.steps, lowered(program, plan), strict=True):
        alone = can_be_one_kernel(program) and not computes(step) and not called
        assert (row[-1].source is None) is alone
        assert (len(row) == 1) is alone
        assert lower(step, program, plan.num_slots)[-1].source is not None


@settings(max_examples=100, deadline=None)
@given(planned())
def test_cost_counts_the_launches_of_the_row(drawn: Any) -> None:
    program, plan = drawn
    nodes = {node.name: node for node in program.nodes}
    rows = lowered(program, plan)
    for row, counted in zip(plan.order, cost(program, plan).cached, strict=True):
        assert counted.kernels == sum(launch_kernels(launch, nodes) for launch in rows[row])
        computed = [op.branch for op in plan.steps[row] if isinstance(op, Compute)]
        assert [la.branch for la in rows[row] if isinstance(la, Run)] == computed
        called = [n.name for n in program.nodes if isinstance(n, Fixed) and n.role == "skip_linear"]
        assert [la.node for la in rows[row] if isinstance(la, SkipLinear)] == called


@settings(max_examples=100, deadline=None)
@given(planned(st.integers(1, 5).map(toy_program)))
def test_a_gated_row_is_four_kernels_per_attention_three_per_mlp_and_the_ends(drawn: Any) -> None:
    program, plan = drawn
    for row, counted in zip(plan.order, cost(program, plan).cached, strict=True):
        assert counted.kernels == gated_kernels(program, plan.steps[row])


@settings(max_examples=100, deadline=None)
@given(planned(st.builds(skip_program, st.integers(1, 4), st.just(1))))
def test_a_row_with_long_skips_sums_before_each_of_their_ends(drawn: Any) -> None:
    program, plan = drawn
    for row, counted in zip(plan.order, cost(program, plan).cached, strict=True):
        assert counted.kernels == skip_kernels(program, plan.steps[row])


@settings(max_examples=100, deadline=None)
@given(planned())
def test_what_is_allocated_is_what_is_written(drawn: Any) -> None:
    program, plan = drawn
    rows = lowered(program, plan)
    named = buffers(rows)
    assert named[0] == STREAM
    assert len(set(named)) == len(named)
    written = {la.target for row in rows for la in row if isinstance(la, Embed | Sum | SkipLinear)}
    assert set(named) == written | {STREAM}


def computed_branches(program: BlockProgram, step: StepPlan) -> list[Branch]:
    names = {op.branch for op in step if isinstance(op, Compute)}
    return [branch for branch in program.branches if branch.name in names]


def gated_kernels(program: BlockProgram, step: StepPlan) -> int:
    """By hand: a branch's own and a sum before it, which the embedding is for the first branch;
    the embedding and the end; nothing but the end where nothing is computed."""
    branches = computed_branches(program, step)
    if not branches:
        return 1
    first = branches[0] is program.branches[0]
    return sum(b.kernels + 1 for b in branches) - first + 2


def skip_kernels(program: BlockProgram, step: StepPlan) -> int:
    """By hand, for U-ViT: a sum at both ends of a skip and the join itself, whatever is computed.

    The sum that is kept is also the norm of the attention behind it, as the embedding is of the
    first.
    """
    branches = computed_branches(program, step)
    pairs = sum(isinstance(n, Fixed) and n.role == "skip_linear" for n in program.nodes)
    free = sum(branch.kind == "attn" and branch.block <= pairs for branch in branches)
    return 3 * pairs + sum(b.kernels + 1 for b in branches) - free + 2


# --- The published schedules at their published depths ---


def preset_plan(name: str) -> tuple[BlockProgram, Plan, CacheSchedule]:
    schedule = presets.load(f"l2c/{name}")
    with torch.device("meta"):
        model = dit("dit-xl-2") if schedule.family == "dit" else uvit("uvit-h-2")
        program = adapters.bind(model.eval()).program
    plan = build_plan(program, schedule)
    return program, fuse_reuse_runs(hoist_conditioning(plan, program)), schedule


DDIM_50 = [197, 197, 193, 193, 197, 193, 193, 193, 193, 189, 189, 130, 106, 97, 39, 28, 25, 21, 8,
           4, 12, 1, 1, 4, 1]  # fmt: skip
"""Kernels of the cached evaluations by the router's rows, so from the clean end, where the
embedding belongs to the end of the evaluation before."""


def test_the_cached_evaluations_of_ddim_50_are_the_estimated_ones_and_first_sums() -> None:
    program, plan, schedule = preset_plan("dit-xl-2-256/ddim-50")
    counted = [e.kernels for e in cost(program, plan).cached]
    assert counted[0::2] == [FULL_DIT] * 25
    # An embedding of its own carries the first norm, unless something is reused before.
    rows = schedule.compute[1::2]
    first_sums = [int(row.any() and not row[0]) for row in rows]
    assert sum(first_sums) > 0
    assert counted[1::2] == [k + more for k, more in zip(DDIM_50[::-1], first_sums, strict=True)]


PRESETS = {
    "dit-xl-2-256/ddim-50": (FULL_DIT, 1, 14, 56),
    "dit-xl-2-256/ddim-20": (FULL_DIT, 1, 7, 56),
    "uvit-h-2-256/dpm-50": (29 * 7 + 29, 44, 15, 58),
    "uvit-h-2-256/dpm-20": (29 * 7 + 29, 44, 10, 58),
}
"""Kernels of a full evaluation and of one that computes nothing, distinct rows, slots."""


@pytest.mark.parametrize("name", PRESETS)
def test_kernels_of_a_published_schedule(name: str) -> None:
    full, nothing, distinct, slots = PRESETS[name]
    program, plan, schedule = preset_plan(name)
    counted = cost(program, plan)
    assert (len(plan.steps), plan.num_slots) == (distinct, slots)
    assert {e.kernels for e in counted.full} == {full}
    by_hand = gated_kernels if schedule.family == "dit" else skip_kernels
    for s, evaluation in enumerate(counted.cached):
        assert evaluation.kernels == by_hand(program, plan.at(s))
        if not schedule.compute[s].any():
            assert evaluation.kernels == nothing
    empty = int((~schedule.compute.any(axis=1)).sum())
    assert [e.kernels for e in counted.cached].count(nothing) == empty


def test_launches_of_the_published_dit_schedules_in_all() -> None:
    # Estimated as 7579 and 3093 with two kernels at the ends of every evaluation; a full one has
    # one less, for the norm in its embedding, and one that computes nothing is one kernel.
    totals = {}
    for name, estimate in (("ddim-50", 7579), ("ddim-20", 3093)):
        program, plan, schedule = preset_plan(f"dit-xl-2-256/{name}")
        rows = schedule.compute
        merged = int(rows[:, 0].sum()) + int((~rows.any(axis=1)).sum())
        totals[name] = cost(program, plan).kernels
        assert totals[name] == estimate - merged
    assert totals["ddim-20"] < totals["ddim-50"]


# --- Rows by hand ---


def row_of(program: BlockProgram, cells: str) -> LoweredStep:
    compute = np.array([[True] * len(cells), [c == "#" for c in cells]])
    plan = build_plan(program, CacheSchedule(compute, program.branch_names))
    plan = fuse_reuse_runs(hoist_conditioning(plan, program))
    return lowered(program, plan)[plan.order[1]]


def spelled(row: LoweredStep) -> list[str]:
    return [type(launch).__name__ for launch in row]


def test_a_row_of_dit_by_hand() -> None:
    assert spelled(row_of(toy_program(2), "#..#")) == ["Embed", "Run", "Sum", "Run", "Final"]
    assert spelled(row_of(toy_program(2), ".#..")) == ["Embed", "Sum", "Run", "Final"]
    assert spelled(row_of(toy_program(2), "....")) == ["Final"]


def test_what_a_skip_keeps_stays_while_the_stream_goes_on_elsewhere() -> None:
    row = row_of(skip_program(1), "......")
    assert spelled(row) == ["Embed", "Sum", "Sum", "SkipLinear", "Final"]
    kept, summed, join = row[1:4]
    assert isinstance(kept, Sum)
    assert isinstance(summed, Sum)
    assert isinstance(join, SkipLinear)
    assert (kept.source, summed.source, summed.target) == (STREAM, kept.target, STREAM)
    assert (join.source, join.skip) == (STREAM, kept.target)


def test_a_node_without_a_role_does_not_change_what_a_skip_keeps() -> None:
    nodes = [*block(0, False), Fixed("save", role="skip_save"), linear_node("adapter", 16, 32, 32)]
    nodes += [*block(1, False), linear_node("join", 16, 64, 32, role="skip_linear")]
    row = row_of(program_of(nodes), "....")
    (call,) = (launch for launch in row if isinstance(launch, Call))
    (join,) = (launch for launch in row if isinstance(launch, SkipLinear))
    assert call.source != join.skip
