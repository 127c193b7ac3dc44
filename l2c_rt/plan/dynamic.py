"""Plans of methods that decide at run time: rows, of which any may follow, and their proof.  Pure.

Row 0 computes everything, and every run begins with it.  With a history of H the last H computed
outputs of a branch are kept in a ring of H slots: row 0 is then H distinct steps, which differ in
the slot that they write, and every other row is H distinct steps, which read the first 1, 2, ... H
slots.  A row that reads all of them may also read the last S predictions, and keep its own in a
second ring, of S + 1 slots, since nothing that an evaluation keeps is read by it: that is 2 S + 1
distinct steps in place of one, while the ring fills, and after.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

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


Held = tuple[str, str, int]
"""Of a slot: the branch, whether its value was computed or predicted, and which one it is."""
NEVER: Held = ("", "", 0)


class Ring(NamedTuple):
    """How many computed outputs a step reads of a branch, which places of the ring of predictions,
    the oldest first, and where in that it keeps its own."""

    computed: int
    predicted: tuple[int, ...] = ()
    store: int | None = None


@dataclass(frozen=True, slots=True)
class RowPlans:
    """How the rows of a method become plans: `history` outputs of each branch are kept, and
    `stores` predictions of it, which is for methods of two rows.  Raises ValueError for more."""

    rows: int
    history: int = 1
    stores: int = 0

    def __post_init__(self) -> None:
        if self.stores and (self.rows != 2 or self.history < 2):
            raise ValueError(
                f"{self.rows} rows that keep {self.stores} predictions and {self.history} outputs, "
                "wanted two rows, and two outputs or more"
            )

    @property
    def _alternatives(self) -> int:
        """Distinct steps of each row but 0."""
        return self.history + 2 * self.stores

    @property
    def count(self) -> int:
        """Distinct steps of all rows."""
        return self.history + (self.rows - 1) * self._alternatives

    def variant(self, row: int, computed: int, predicted: int = 0) -> int:
        """The distinct step of the plan for a row, after `computed` evaluations of row 0, and
        `predicted` ones that have kept a prediction."""
        if row == 0:
            return computed % self.history
        at = min(computed, self.history) - 1
        if self.stores and computed >= self.history:
            later = max(0, predicted - self.stores)
            at += min(predicted, self.stores) + later % (self.stores + 1)
        return self._first(row) + at

    def _first(self, row: int) -> int:
        return self.history + (row - 1) * self._alternatives if row else 0

    def _ring_of(self, at: int) -> Ring:
        """What alternative `at` of a row reads and keeps."""
        predicted = at - self.history + 1
        if not self.stores or predicted < 0:
            return Ring(at + 1)
        last = range(max(0, predicted - self.stores), predicted)
        size = self.stores + 1
        return Ring(self.history, tuple(p % size for p in last), predicted % size)

    def plan(self, program: BlockProgram, rows: Rows, steps: int) -> Plan:
        """The verified plan: the rings of every branch that any of the rows reuses.

        Every row that computes such a branch keeps it.  `order` is that of a run which reuses
        wherever it may, by row 1.
        """
        names = program.branch_names
        size = self.history + (self.stores + 1 if self.stores else 0)
        reused = [name for k, name in enumerate(names) if not rows[:, k].all()]
        slots = {name: tuple(range(i * size, (i + 1) * size)) for i, name in enumerate(reused)}
        plans = [
            _step(program, dict(zip(names, row, strict=True)), slots, self._ring_of(at), at, r > 0)
            for r, row in enumerate(rows)
            for at in range(self._alternatives if r else self.history)
        ]
        order = (0, *[self.variant(min(1, self.rows - 1), 1)] * (steps - 1))
        plan = Plan(tuple(plans), order, tuple(name for name in reused for _ in range(size)))
        self.verify(plan, program)
        return plan

    def prepare(
        self, program: BlockProgram, plan: Plan, gaps: Collection[str]
    ) -> tuple[MergedColumns, Plan, Cost]:
        """The verified plan that has the rows of `plan`, with neighbours merged where there is no
        gap.  Raises PlanError where they are not the same rows."""
        kept = [_kept(plan.steps[self._first(row)]) for row in range(self.rows)]
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
        it came before, and repeats after twice the ring; so it is with predictions.
        Raises PlanError naming step, branch and slot; also for what `verify` of a plan refuses.
        """
        if len(plan.steps) != self.count or plan.order[:1] != (0,):
            raise PlanError(
                f"{len(plan.steps)} distinct steps, wanted {self.count} of {self.rows} rows, and "
                "the first evaluation of a run to be row 0"
            )
        for variant in range(len(plan.steps)):
            _check_walk(plan, program, self._walk(variant))
        self._check_writes(plan)
        held: dict[int, Held] = {}
        for computed in range(1, 2 * self.history + 1):
            for op in plan.steps[self.variant(0, computed - 1)]:
                if isinstance(op, Compute) and op.slot is not None:
                    held[op.slot] = op.branch, "computed", computed
            for row in range(1, self.rows):
                self._check_row(plan, row, dict(held), computed)

    def _check_row(self, plan: Plan, row: int, held: dict[int, Held], computed: int) -> None:
        """What a row reads that comes again and again, after that many computed evaluations."""
        keeps = self.stores if computed >= self.history else 0
        for predicted in range(2 * keeps + 2):
            step = plan.steps[self.variant(row, computed, predicted)]
            counts = min(computed, self.history), min(predicted, keeps)
            _check_reads(step, held, (computed, predicted), counts)
            for op in reuses(step):
                if isinstance(op, Predict) and op.store is not None:
                    held[op.store] = op.branch, "predicted", predicted + 1

    def _walk(self, variant: int) -> tuple[int, ...]:
        """The shortest run in which a distinct step comes."""
        if variant < self.history:
            return tuple(range(variant + 1))
        row, at = divmod(variant - self.history, self._alternatives)
        computed = min(at + 1, self.history)
        predicted = at - self.history + 1 if self.stores else 0
        before = (self.variant(row + 1, computed, q) for q in range(predicted))
        return (*range(computed), *before, variant)

    def _check_writes(self, plan: Plan) -> None:
        """Where another row computes a branch that is kept, all rows keep it in the same slot."""
        for row in range(1, self.rows):
            kept = _kept(plan.steps[self._first(row)])
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
    slots: dict[str, tuple[int, ...]],
    ring: Ring,
    at: int,
    reads: bool,
) -> StepPlan:
    """Of row 0 the step that writes slot `at` of the ring, of others the one that reads `ring`."""
    ops: list[Op] = []
    for node in program.nodes:
        if not isinstance(node, Branch):
            ops.append(RunFixed(node.name))
            continue
        own = slots.get(node.name, ())
        if row[node.name]:
            ops.append(Compute(node.name, own[0 if reads else at] if own else None))
        elif ring.computed == 1:
            ops.append(Reuse(node.name, own[0]))
        else:
            read = own[: ring.computed], own[ring.computed :]
            slots_read = (*read[0], *(read[1][i] for i in ring.predicted))
            store = None if ring.store is None else read[1][ring.store]
            ops.append(Predict(node.name, slots_read, 0, store))
    return tuple(ops)


def _check_walk(plan: Plan, program: BlockProgram, walk: tuple[int, ...]) -> None:
    numbers = max(len(op.slots) if isinstance(op, Predict) else 1 for op in plan.steps[walk[-1]])
    coefficients = (((1.0,) * numbers,),) * len(walk)
    verify(Plan(plan.steps, walk, plan.slots, coefficients), program)


def _check_reads(
    step: StepPlan, held: dict[int, Held], done: tuple[int, int], counts: tuple[int, int]
) -> None:
    """That a step reads the newest `counts` computed and predicted values of `done` evaluations."""
    for op in reuses(step):
        slots = op.slots if isinstance(op, Predict) else (op.slot,)
        newest = [
            (op.branch, kind, total - i)
            for kind, total, count in zip(("computed", "predicted"), done, counts, strict=True)
            for i in range(count)
        ]
        if isinstance(op, Predict) and op.store in slots:
            raise PlanError(f"{op.branch} is kept in slot {op.store}, which the same step reads")
        if sorted(held.get(slot, NEVER) for slot in slots) != sorted(newest):
            raise PlanError(
                f"after {done[0]} computed evaluations {op.branch} is read from slots {slots}, "
                f"which hold {[held.get(slot) for slot in slots]} and not its newest outputs"
            )


def _kept(step: StepPlan) -> dict[str, int | None]:
    return {op.branch: op.slot for op in step if isinstance(op, Compute)}


def worst_schedule(rows: Rows, branches: tuple[str, ...], steps: int, source: str) -> CacheSchedule:
    """The schedule of a run that reuses wherever it may."""
    order = [0, *[min(1, len(rows) - 1)] * (steps - 1)]
    return CacheSchedule(rows[order], branches, source=source)
