"""Evaluations of which only the conditional half of the batch is run, as ops."""

from __future__ import annotations

from dataclasses import replace

from l2c_rt.plan.ops import Plan, PlanError, StepPlan, reuses
from l2c_rt.plan.stream_ops import HalveBatch, JoinHalves, KeepBands
from l2c_rt.schedule.halves import HalfSchedule

BATCH_OPS = frozenset({HalveBatch, JoinHalves, KeepBands})


def with_halves(plan: Plan, halves: HalfSchedule | None) -> Plan:
    """The plan that halves the batch where the schedule says so.

    Raises ValueError for a schedule of another number of evaluations.
    """
    if halves is None:
        return plan
    if len(halves.halved) != plan.num_evaluations:
        raise ValueError(
            f"halves: got {len(halves.halved)} evaluations, the schedule has {plan.num_evaluations}"
        )
    if plan.lanes > 1:
        raise ValueError(
            "halves: the schedule runs half a batch, and its predictions have coefficients for "
            "each half of a whole one; fit with lanes=False, or use a method without halves"
        )
    steps: dict[StepPlan, int] = {}
    rows = [_step(plan.at(s), halves, s) for s in range(plan.num_evaluations)]
    keeping = {row for s, row in enumerate(rows) if halves.bands and not halves.halved[s]
               and any(halves.halved[s + 1 : s + 2])}  # fmt: skip
    order = []
    for row in rows:
        row = (*row, KeepBands()) if row in keeping else row
        order.append(steps.setdefault(row, len(steps)))
    return replace(plan, steps=tuple(steps), order=tuple(order), halves=halves)


def _step(step: StepPlan, halves: HalfSchedule, s: int) -> StepPlan:
    if not halves.halved[s]:
        return step
    low, high = (float(halves.low[s]), float(halves.high[s])) if halves.bands else (0.0, 0.0)
    # Evaluation 0 shows what the model's calls are, so it is run as a whole whatever comes of it.
    first = (HalveBatch(),) if s else ()
    return (*first, *step, JoinHalves(low, high, halves.bands))


def check_halves(plan: Plan) -> None:
    """Prove that bands which are read are those of the last whole evaluation, and that kept
    outputs, which have the conditional half's rows, are read only where that half alone is run.

    Raises PlanError naming evaluation and op.
    """
    if plan.halves is None:
        if any(BATCH_OPS.intersection(map(type, step)) for step in plan.steps):
            raise PlanError("a step halves the batch, which no schedule has asked for")
        return
    latest = kept = -1
    for s in range(plan.num_evaluations):
        step = plan.at(s)
        halved = any(isinstance(op, HalveBatch) for op in step)
        joins = [op for op in step if isinstance(op, JoinHalves)]
        if bool(joins) != bool(plan.halves.halved[s]) or halved != (bool(joins) and s > 0):
            raise PlanError(f"evaluation {s} halves its batch {halved}, joins {len(joins)} halves")
        _check_place(step, s)
        if not halved and s and reuses(step):
            raise PlanError(
                f"evaluation {s} reuses {reuses(step)[0].branch} for a whole batch, of which only "
                "one half was kept"
            )
        for op in joins:
            want = (plan.halves.low[s], plan.halves.high[s]) if op.bands else (0.0, 0.0)
            if (op.bands and (kept < 0 or kept != latest)) or (op.low, op.high) != want:
                raise PlanError(
                    f"evaluation {s}: {op} reads bands of evaluation {kept}, the last whole one "
                    f"is {latest}"
                )
        latest = latest if halved else s
        kept = s if any(isinstance(op, KeepBands) for op in step) else kept


def _check_place(step: StepPlan, s: int) -> None:
    for i, op in enumerate(step):
        late = isinstance(op, HalveBatch) and i > 0
        early = isinstance(op, JoinHalves | KeepBands) and i < len(step) - 1
        if late or early:
            raise PlanError(f"evaluation {s}: {op} is op {i} of {len(step)}")
