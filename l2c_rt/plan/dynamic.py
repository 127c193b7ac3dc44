"""Plans of methods that decide at run time: rows, of which any may follow, and their proof.  Pure.

Row 0 computes everything, and every run begins with it.  With a history of H the last H computed
outputs of a branch are kept in a ring of H slots: row 0 is then H distinct steps, which differ in
the slot that they write, and every other row is H distinct steps, which read the first 1, 2, ... H
slots.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from l2c_rt.plan.cost import Cost, cost
from l2c_rt.plan.merge import MergedColumns, expand, merge_columns
from l2c_rt.plan.ops import Compute, Op, Plan, PlanError, Predict, Reuse, RunFixed, StepPlan, reuses
from l2c_rt.plan.program import BlockProgram, Branch
from l2c_rt.plan.verify import verify
from l2c_rt.schedule.cache_schedule import CacheSchedule

Rows = npt.NDArray[np.bool_]
"""[R, K]: row r computes branch k; row 0 computes all."""


@dataclass(frozen=True, slots=True)
class RowPlans:
    """How the rows of a method become plans: `history` outputs of each branch are kept."""

    rows: int
    history: int = 1

    def variant(self, row: int, computed: int) -> int:
        """The distinct step of the plan for a row, after `computed` evaluations of row 0."""
        if row == 0:
            return computed % self.history
        return row * self.history + min(computed, self.history) - 1

    def plan(self, program: BlockProgram, rows: Rows, steps: int) -> Plan:
        """The verified plan: a ring of slots per branch that any of the rows reuses.

        Every row that computes such a branch keeps it.  `order` is that of a run which reuses
        wherever it may, by row 1.
        """
        names, size = program.branch_names, self.history
        reused = [name for k, name in enumerate(names) if not rows[:, k].all()]
        ring = {name: tuple(range(i * size, (i + 1) * size)) for i, name in enumerate(reused)}
        plans = [
            _step(program, dict(zip(names, row, strict=True)), ring, at, r > 0)
            for r, row in enumerate(rows)
            for at in range(size)
        ]
        order = (0, *[self.variant(min(1, self.rows - 1), 1)] * (steps - 1))
        slots = tuple(name for name in reused for _ in range(size))
        plan = Plan(tuple(plans), order, slots)
        self.verify(plan, program)
        return plan

    def prepare(
        self, program: BlockProgram, plan: Plan, gaps: Collection[str]
    ) -> tuple[MergedColumns, Plan, Cost]:
        """The verified plan that has the rows of `plan`, with neighbours merged where there is no
        gap.  Raises PlanError where they are not the same rows."""
        kept = [_kept(plan.steps[row * self.history]) for row in range(self.rows)]
        names = program.branch_names
        table = CacheSchedule(np.array([[n in row for n in names] for row in kept]), names)
        merged = merge_columns(program, table, gaps)
        merged_plan = self.plan(merged.program, merged.schedule.compute, plan.num_evaluations)
        if expand(merged) != table or merged_plan.order != plan.order:
            raise PlanError("the merged columns are not those of the rows")
        return merged, merged_plan, cost(merged.program, merged_plan)

    def verify(self, plan: Plan, program: BlockProgram) -> None:
        """Prove that every run which begins with row 0 reads only what it has written itself,
        whatever rows follow in whatever order; and of each branch the newest output where it is
        reused, the newest ones in different slots where it is predicted.

        By row 0 every slot of the ring is written in turn, so what slots hold depends on how often
        it came before, and repeats after twice the ring.
        Raises PlanError naming step, branch and slot; also for what `verify` of a plan refuses.
        """
        if len(plan.steps) != self.rows * self.history or plan.order[:1] != (0,):
            raise PlanError(
                f"{len(plan.steps)} distinct steps, wanted {self.rows} rows times {self.history}, "
                "and the first evaluation of a run to be row 0"
            )
        for variant in range(len(plan.steps)):
            _check_walk(plan, program, self._walk(variant))
        self._check_writes(plan)
        held: dict[int, tuple[str, int]] = {}
        for computed in range(1, 2 * self.history + 1):
            for op in plan.steps[self.variant(0, computed - 1)]:
                if isinstance(op, Compute) and op.slot is not None:
                    held[op.slot] = op.branch, computed
            for row in range(1, self.rows):
                _check_reads(plan.steps[self.variant(row, computed)], held, computed)

    def _walk(self, variant: int) -> tuple[int, ...]:
        """The shortest run in which a distinct step comes."""
        row, at = divmod(variant, self.history)
        return (*range(at + 1), *((variant,) if row else ()))

    def _check_writes(self, plan: Plan) -> None:
        """Where another row computes a branch that is kept, all rows keep it in the same slot."""
        for row in range(1, self.rows):
            kept = _kept(plan.steps[row * self.history])
            for branch, slot in kept.items():
                newest = _kept(plan.steps[0])[branch]
                if branch in plan.slots and (self.history > 1 or slot != newest or slot is None):
                    raise PlanError(
                        f"row {row} computes {branch}, which other rows reuse, and does not keep "
                        f"it in slot {newest} of {self.history}"
                    )


def _step(
    program: BlockProgram,
    row: dict[str, bool],
    ring: dict[str, tuple[int, ...]],
    at: int,
    reads: bool,
) -> StepPlan:
    """Of row 0 the step that writes slot `at` of the ring, of others the one that reads to it."""
    ops: list[Op] = []
    for node in program.nodes:
        if not isinstance(node, Branch):
            ops.append(RunFixed(node.name))
            continue
        slots = ring.get(node.name, ())
        if row[node.name]:
            ops.append(Compute(node.name, slots[0 if reads else at] if slots else None))
        elif at == 0:
            ops.append(Reuse(node.name, slots[0]))
        else:
            ops.append(Predict(node.name, slots[: at + 1], 0))
    return tuple(ops)


def _check_walk(plan: Plan, program: BlockProgram, walk: tuple[int, ...]) -> None:
    numbers = max(len(op.slots) if isinstance(op, Predict) else 1 for op in plan.steps[walk[-1]])
    coefficients = (((1.0,) * numbers,),) * len(walk)
    verify(Plan(plan.steps, walk, plan.slots, coefficients), program)


def _check_reads(step: StepPlan, held: dict[int, tuple[str, int]], computed: int) -> None:
    for op in reuses(step):
        slots = op.slots if isinstance(op, Predict) else (op.slot,)
        newest = {(op.branch, computed - i) for i in range(len(slots))}
        if {held.get(slot) for slot in slots} != newest:
            raise PlanError(
                f"after {computed} computed evaluations {op.branch} is read from slots {slots}, "
                f"which hold {[held.get(slot) for slot in slots]} and not its newest outputs"
            )


def _kept(step: StepPlan) -> dict[str, int | None]:
    return {op.branch: op.slot for op in step if isinstance(op, Compute)}


def worst_schedule(rows: Rows, branches: tuple[str, ...], steps: int, source: str) -> CacheSchedule:
    """The schedule of a run that reuses wherever it may."""
    order = [0, *[min(1, len(rows) - 1)] * (steps - 1)]
    return CacheSchedule(rows[order], branches, source=source)
