"""Plans of methods that take several decisions in one forward, each about blocks of its own.  Pure.

No two decisions share a slot, so that whatever each of them does, the others read what they would
have read: each is planned and proved by itself, and an evaluation is put together from their ops.
The distinct steps are those of each decision in turn, in which the others do what they do at
evaluation 0, and last the one in which all of them reuse.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from l2c_rt.plan.cost import Cost, cost
from l2c_rt.plan.dynamic import RowPlans, Rows
from l2c_rt.plan.merge import MergedColumns, expand, merge_columns
from l2c_rt.plan.ops import Compute, Op, Plan, PlanError, Predict, Reuse, StepPlan
from l2c_rt.plan.program import BlockProgram
from l2c_rt.plan.verify import verify
from l2c_rt.schedule.cache_schedule import CacheSchedule


@dataclass(frozen=True, slots=True)
class PartPlans:
    """`plans[p]` are those of decision p, of two rows, and `blocks[p]` what its row 1 reuses."""

    plans: tuple[RowPlans, ...]
    blocks: tuple[tuple[str, ...], ...]

    def first(self, part: int) -> int:
        """The first distinct step of a decision; see `RowPlans.variant` for those after it."""
        return sum(plans.count for plans in self.plans[:part])

    @property
    def all_reused(self) -> int:
        """The distinct step in which every decision is to reuse."""
        return self.first(len(self.plans))

    def plan(self, program: BlockProgram, steps: int) -> Plan:
        """The verified plan; `order` is that of a run which reuses wherever it may."""
        rows = self._rows(program)
        pairs = zip(self.plans, rows, strict=True)
        alone = [plans.plan(program, own, steps) for plans, own in pairs]
        slots = tuple(name for plan in alone for name in plan.slots)
        offsets = [sum(plan.num_slots for plan in alone[:p]) for p in range(len(alone))]
        own = [
            [_moved(step, set(blocks), offset) for step in plan.steps]
            for plan, blocks, offset in zip(alone, self.blocks, offsets, strict=True)
        ]
        plain = alone[0].steps[0]
        full = [ops[0] for ops in own]
        distinct = [
            _joined(plain, [*full[:p], ops, *full[p + 1 :]])
            for p, steps_of in enumerate(own)
            for ops in steps_of
        ]
        reusing = [ops[plans.variant(1, 1)] for plans, ops in zip(self.plans, own, strict=True)]
        distinct.append(_joined(plain, reusing))
        order = (0, *[self.all_reused] * (steps - 1))
        plan = Plan(tuple(distinct), order, slots)
        self.verify(plan, program)
        return plan

    def prepare(
        self, program: BlockProgram, plan: Plan, gaps: Collection[str]
    ) -> tuple[MergedColumns, Plan, Cost]:
        """The verified plan that does what `plan` does, with neighbours merged where there is no
        gap.  Raises PlanError where it does not."""
        names, rows = program.branch_names, self._rows(program)
        table = CacheSchedule(np.concatenate(rows), names)
        # What is always computed is kept nowhere, and may be looked at between two decisions.
        computed = set(names).difference(*self.blocks)
        merged = merge_columns(program, table, {*gaps, *computed})
        first_of = {group[0]: name for group, name in _named(merged)}
        blocks = tuple(tuple(first_of[b] for b in own if b in first_of) for own in self.blocks)
        merged_plan = replace(self, blocks=blocks).plan(merged.program, plan.num_evaluations)
        if expand(merged) != table or merged_plan.order != plan.order:
            raise PlanError("the merged columns are not those of the decisions")
        return merged, merged_plan, cost(merged.program, merged_plan)

    def verify(self, plan: Plan, program: BlockProgram) -> None:
        """Prove that each decision, whatever it does in whatever order, reads only what it has
        written itself, and that the others are none of its business.

        Raises PlanError as `RowPlans.verify` does, for a slot that two decisions use, and where a
        step of one decision has another do anything but compute and keep.
        """
        if len(plan.steps) != self.all_reused + 1:
            raise PlanError(f"{len(plan.steps)} distinct steps, wanted {self.all_reused + 1}")
        for p, plans in enumerate(self.plans):
            own, first = self._own(program, p), self.first(p)
            steps = plan.steps[first : first + plans.count]
            if any(_without(step, own) != _without(plan.steps[0], own) for step in steps):
                raise PlanError(f"a step of decision {p} does not leave the others as they were")
            alone = tuple(_only(step, own) for step in steps)
            order = (0, *[plans.variant(1, 1)] * (plan.num_evaluations - 1))
            slots = tuple(name if name in own else "" for name in plan.slots)
            plans.verify(Plan(alone, order, slots), program)
        reusing = [self.first(p) + plans.variant(1, 1) for p, plans in enumerate(self.plans)]
        if plan.steps[-1] != together(plan, reusing):
            raise PlanError("the step that reuses all is not that of every decision")
        verify(plan, program)

    def _rows(self, program: BlockProgram) -> list[Rows]:
        rows = []
        for p in range(len(self.plans)):
            own = self._own(program, p)
            reused = [name not in own for name in program.branch_names]
            rows.append(np.array([[True] * len(reused), reused]))
        return rows

    def _own(self, program: BlockProgram, part: int) -> frozenset[str]:
        own = frozenset(self.blocks[part])
        taken = [name for p, names in enumerate(self.blocks) if p != part for name in names]
        if not own or not own <= set(program.branch_names) or own & set(taken):
            raise PlanError(
                f"decision {part} is about {', '.join(sorted(own)) or 'nothing'}, wanted branches "
                "of the model that no other decision is about"
            )
        return own


def together(plan: Plan, variants: Sequence[int]) -> StepPlan:
    """The ops of an evaluation that carries out these distinct steps, at most one per decision."""
    full, steps = plan.steps[0], [plan.steps[variant] for variant in variants]
    if len(steps) == 1:
        return steps[0]
    # Each does at other decisions' blocks what the first step does.
    pairs = zip(full, *steps, strict=True)
    return tuple(next((op for op in ops if op != first), first) for first, *ops in pairs)


def _named(merged: MergedColumns) -> list[tuple[tuple[str, ...], str]]:
    return list(zip(merged.groups, merged.program.branch_names, strict=True))


def _moved(step: StepPlan, own: Collection[str], offset: int) -> dict[str, Op]:
    """The ops on the branches of a decision, with its slots behind those of the others."""
    moved: dict[str, Op] = {}
    for op in step:
        if isinstance(op, Compute) and op.branch in own:
            assert op.slot is not None
            moved[op.branch] = replace(op, slot=op.slot + offset)
        elif isinstance(op, Reuse) and op.branch in own:
            moved[op.branch] = replace(op, slot=op.slot + offset)
        elif isinstance(op, Predict) and op.branch in own:
            store = None if op.store is None else op.store + offset
            slots = tuple(slot + offset for slot in op.slots)
            moved[op.branch] = replace(op, slots=slots, store=store)
    return moved


def _joined(plain: StepPlan, own: Sequence[dict[str, Op]]) -> StepPlan:
    """One evaluation: what every decision does, and the rest computed."""
    ops = {branch: op for part in own for branch, op in part.items()}
    return tuple(ops.get(op.branch, replace(op, slot=None)) if isinstance(op, Compute) else op
                 for op in plain)  # fmt: skip


def _only(step: StepPlan, own: Collection[str]) -> StepPlan:
    """The step with the branches of other decisions computed and not kept."""
    return tuple(
        Compute(op.branch, None)
        if isinstance(op, Compute | Reuse | Predict) and op.branch not in own
        else op
        for op in step
    )


def _without(step: StepPlan, own: Collection[str]) -> list[Op]:
    return [op for op in step if getattr(op, "branch", "") not in own]
