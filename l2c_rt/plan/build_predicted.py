"""A schedule with predictions to a plan: which earlier values are kept, and where.

A value lives from the evaluation that computes or predicts it to the last one that reads it.  Each
branch has as many slots as it has values alive at once, which is known before the run.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from l2c_rt.plan.build import check_branches, check_nested
from l2c_rt.plan.ops import (
    Coefficients,
    Compute,
    LeaveOut,
    Op,
    Plan,
    Predict,
    Reuse,
    RunFixed,
    StepPlan,
)
from l2c_rt.plan.program import BlockProgram, Branch
from l2c_rt.schedule.cache_schedule import CacheSchedule
from l2c_rt.schedule.predictions import Predictions, Term

LEFT_OUT, COMPUTED, REUSED, PREDICTED = "left out", "computed", "reused", "predicted"


@dataclass(slots=True)
class Cell:
    """One branch at one evaluation.

    `reads` are the values that it is made of, each by the evaluation that made it, with the
    coefficient of every lane.
    """

    kind: str
    reads: dict[int, tuple[float, ...]] = field(default_factory=dict)
    slots: tuple[int, ...] = ()
    store: int | None = None
    has_operand: bool = False


def build_predicted_plan(
    program: BlockProgram, schedule: CacheSchedule, predictions: Predictions
) -> Plan:
    """The plan of a schedule with predictions; steps that differ in coefficients alone are one.

    Raises ValueError as `build_plan` does, and for a prediction from a value that is not there.
    """
    check_branches(program, schedule)
    check_nested(schedule.compute, program)
    columns: list[list[Cell]] = []
    slots: list[str] = []
    for k, branch in enumerate(program.branches):
        cells = _cells(schedule, predictions, k, branch)
        count = _allocate(cells, len(slots))
        slots += [branch.name] * count
        columns.append(cells)
    steps: dict[StepPlan, int] = {}
    order: list[int] = []
    coefficients: list[Coefficients] = []
    for s in range(schedule.steps):
        cells = [column[s] for column in columns]
        step, numbers = _step(program, cells, in_order=predictions.rounding is not None)
        order.append(steps.setdefault(step, len(steps)))
        lanes = range(predictions.lanes)
        coefficients.append(tuple(tuple(of[lane] for of in numbers) for lane in lanes))
    return Plan(tuple(steps), tuple(order), tuple(slots), tuple(coefficients), predictions)


def value_terms(
    terms: tuple[Term, ...], made_at: list[int | None], branch: str, s: int
) -> dict[int, float]:
    """The coefficient of each evaluation whose value is summed, the same value once.

    `made_at[q]` is the evaluation that made the value of the branch at q: another one where it was
    reused there.  Raises ValueError where it has none.
    """
    sums: dict[int, float] = {}
    for q, coefficient in terms:
        root = made_at[q]
        if root is None:
            raise ValueError(
                f"evaluation {s} predicts {branch} from evaluation {q}, where it lies inside of a "
                "reused branch and has no value"
            )
        sums[root] = sums.get(root, 0.0) + coefficient
    return sums


def _cells(schedule: CacheSchedule, predictions: Predictions, k: int, branch: Branch) -> list[Cell]:
    """What is done at each evaluation, and which values it reads."""
    cells: list[Cell] = []
    made_at: list[int | None] = []
    latest: int | None = None
    for s in range(schedule.steps):
        terms = predictions.at(s, k)
        if schedule.compute[s, k]:
            cells.append(Cell(COMPUTED))
            latest = s
        elif branch.nested and not schedule.compute[s, k - 1]:
            cells.append(Cell(LEFT_OUT))
            made_at.append(None)
            continue
        elif terms:
            more = [predictions.at(s, k, lane) for lane in range(1, predictions.lanes)]
            lanes = [value_terms(of, made_at, branch.name, s) for of in (terms, *more)]
            reads = {q: tuple(sums[q] for sums in lanes) for q in lanes[0]}
            cells.append(Cell(PREDICTED, reads, has_operand=predictions.has_operand(s, k)))
            latest = s
        else:
            assert latest is not None
            cells.append(Cell(REUSED, {latest: ()}))
        made_at.append(latest)
    return cells


def _allocate(cells: list[Cell], first: int) -> int:
    """Give every value that is read later a slot of its own while it lives; how many there are.

    A predicted value never takes a slot that it is made from, so that an evaluation can be done
    twice, as it is where a graph is captured, with the same result.
    """
    last_read = {q: s for s, cell in enumerate(cells) for q in cell.reads}
    slot_of: dict[int, int] = {}
    free: list[int] = []
    count = 0
    for s, cell in enumerate(cells):
        cell.slots = tuple(slot_of[q] for q in cell.reads)
        free = sorted(free + [slot_of.pop(q) for q in list(slot_of) if last_read[q] < s])
        # The sum of a prediction with an operand is made in its slot, whether or not it is kept.
        if s not in last_read and not cell.has_operand:
            continue
        if not free:
            free, count = [first + count], count + 1
        cell.store = free.pop(0)
        slot_of[s] = cell.store
        last_read.setdefault(s, s)
    return count


def _step(
    program: BlockProgram, cells: list[Cell], *, in_order: bool
) -> tuple[StepPlan, list[tuple[float, ...]]]:
    """The ops of an evaluation, and of each of its coefficients those of all lanes."""
    ops: list[Op] = []
    coefficients: list[tuple[float, ...]] = []
    left = iter(cells)
    for node in program.nodes:
        if not isinstance(node, Branch):
            ops.append(RunFixed(node.name))
            continue
        cell = next(left)
        if cell.kind == COMPUTED:
            ops.append(Compute(node.name, cell.store))
        elif cell.kind == LEFT_OUT:
            ops.append(LeaveOut(node.name))
        elif cell.kind == REUSED:
            ops.append(Reuse(node.name, cell.slots[0]))
        else:
            ops.append(_predict(node.name, cell, coefficients, in_order))
    return tuple(ops), coefficients


def _predict(
    branch: str, cell: Cell, coefficients: list[tuple[float, ...]], in_order: bool
) -> Predict:
    """The op of a prediction; slots in rising order, so that equal structures are equal ops, or, of
    a series of differences, `in_order` of the evaluations."""
    at = len(coefficients)
    terms = list(zip(cell.slots, cell.reads.values(), strict=True))
    if not in_order:
        terms.sort()
    coefficients += [coefficient for _, coefficient in terms]
    return Predict(branch, tuple(slot for slot, _ in terms), at, cell.store, cell.has_operand)
