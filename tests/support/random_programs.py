"""Random programs and plans: gated blocks, long skips, nodes in any order that has a meaning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st
from toys import toy_program

from l2c_rt.plan import prepare
from l2c_rt.plan.build import build_plan
from l2c_rt.plan.lowering import (
    LoweredStep,
    can_be_one_kernel,
    lower,
)
from l2c_rt.plan.ops import Plan
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
from l2c_rt.schedule.predictions import Predictions


def block(i: int, gated: bool) -> list[Any]:
    found: list[Any] = [conditioning_node(f"modulation-{i}", 32, 192)] if gated else []
    attention = attention_branch(i, 16, 32, gated=gated)
    return [*found, attention, mlp_branch(i, 16, 32, 128, gated=gated)]


def program_of(nodes: list[Any]) -> BlockProgram:
    embed = linear_node("embed", 16, 16, 32, role="embed")
    final = linear_node("final", 16, 32, 32, role="final")
    return BlockProgram("any", (embed, *nodes, final), 16, 32)


def unit_program(names: Sequence[str]) -> BlockProgram:
    """Blocks of these names, where everything costs 1."""
    blocks = (
        Branch(name, "block", i, gated=False, macs=1, weights=1, activations=1, kernels=1)
        for i, name in enumerate(names)
    )
    return BlockProgram("toy", (Fixed("in"), *blocks, Fixed("out")), tokens=1, width=1)


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
    schedule = CacheSchedule(np.array(rows), names)
    if draw(st.booleans()):
        schedule = draw(predicted(schedule))
    plan = prepare.plan_of(program, schedule)
    hoisted = hoist_conditioning(plan, program)
    return program, fuse_reuse_runs(hoisted) if draw(st.booleans()) else hoisted


@st.composite
def predicted(draw: st.DrawFn, schedule: CacheSchedule) -> CacheSchedule:
    """The schedule with some of its reuses predicted, from any earlier evaluations."""
    terms: dict[tuple[int, int], list[tuple[int, float]]] = {}
    for s, k in np.argwhere(~schedule.compute).tolist():
        sources = draw(st.lists(st.integers(0, s - 1), max_size=3, unique=True))
        if sources:
            terms[s, k] = [(q, float(draw(st.integers(-4, 4)))) for q in sources]
    predictions = Predictions.from_terms(*schedule.compute.shape, terms)
    return replace(schedule, predictions=predictions)


def lowered(program: BlockProgram, plan: Plan) -> tuple[LoweredStep, ...]:
    """As the backend lowers them for whole runs."""
    one_kernel = can_be_one_kernel(program)
    return tuple(lower(step, program, plan.num_slots, one_kernel=one_kernel) for step in plan.steps)


PROGRAM = toy_program(2)
"""Two gated blocks, four branches."""


@st.composite
def schedules(draw: st.DrawFn, branches: int = 4) -> CacheSchedule:
    steps = draw(st.integers(1, 7))
    cells = st.lists(st.booleans(), min_size=branches, max_size=branches)
    rows = [[True] * branches] + [draw(cells) for _ in range(steps - 1)]
    return CacheSchedule(np.array(rows))


def plan_of(rows: list[str]) -> Plan:
    """A plan from rows such as "##.#"."""
    return build_plan(PROGRAM, CacheSchedule(np.array([[c == "#" for c in r] for r in rows])))
