"""The kinds of a run's evaluations: which may share a batch."""

from __future__ import annotations

from l2c_rt.plan.delta import is_delta
from l2c_rt.plan.ops import Compute, Iterate, Plan, Predict, ReuseRun, StepPlan
from l2c_rt.plan.program import BlockProgram
from l2c_rt.schedule.predictions import Predictions

LANES = 2
"""Cond and uncond."""


def kinds_of(plan: Plan, *, own_coefficients: bool = False) -> tuple[int, ...]:
    """The kind of every evaluation, counted from 0 in the order of first occurrence.

    Of one kind are evaluations with the same ops, the same coefficients of their predictions, and
    no tensors of a corrector, which are an evaluation's own; the same ops are enough where every
    sample has its own coefficients and tensors.
    """
    numbers: dict[object, int] = {}
    own = _with_operands(plan.predictions)
    kinds = []
    for step, variant in enumerate(plan.order):
        key: object = (variant, plan.coefficients_at(step), step if step in own else None)
        key = variant if own_coefficients else key
        kinds.append(numbers.setdefault(key, len(numbers)))
    return tuple(kinds)


def check_served(plan: Plan, program: BlockProgram, *, decides: bool) -> None:
    """Raise ValueError for a plan whose runs cannot share evaluations, with the reason.

    `decides`: a method chooses rows at run time.
    """
    ops = {type(op) for step in plan.steps for op in step}
    reason = ""
    if decides:
        reason = "the method decides at run time, for a batch as a whole"
    elif plan.tokens is not None:
        reason = "the schedule chooses tokens by what a batch has shown"
    elif plan.halves is not None:
        reason = "the schedule runs half a batch, cond and uncond of one request"
    elif plan.lanes > LANES:
        reason = f"the predictions have coefficients for {plan.lanes} lanes, a request has {LANES}"
    elif plan.predictions is not None and plan.lanes > 1 and plan.predictions.unconditional is None:
        reason = (
            "the predictions have coefficients for cond and uncond, and do not say which are whose "
            "(fit anew, and tell: uncond_first=)"
        )
    elif Iterate in ops or any(branch.iterations for branch in program.branches):
        reason = "the branches are iterated from what they gave before"
    elif any(map(is_delta, plan.steps)):
        reason = "evaluations are differences to others of one run (delta_form=True)"
    if reason:
        raise ValueError(
            f"Engine: {reason}, and evaluations of several requests share no such state; use "
            "sample() of the compiled model, or a schedule without it"
        )


def written_slots(step: StepPlan) -> frozenset[int]:
    """The slots that a distinct step writes."""
    slots: set[int | None] = set()
    for op in step:
        for item in op.items if isinstance(op, ReuseRun) else (op,):
            slots.add(item.slot if isinstance(item, Compute) else getattr(item, "store", None))
    return frozenset(slot for slot in slots if slot is not None)


def reused_share(plan: Plan, program: BlockProgram) -> tuple[float, ...]:
    """For every distinct step, the share of branches that are reused or predicted."""
    total = len(program.branches)
    return tuple(sum(map(_stand_ins, step)) / total for step in plan.steps)


def _stand_ins(op: object) -> int:
    if isinstance(op, ReuseRun):
        return len(op.items)
    return int(type(op).__name__ in ("Reuse", "LeaveOut") or isinstance(op, Predict))


def _with_operands(predictions: Predictions | None) -> set[int]:
    if predictions is None:
        return set()
    return {cell[0] for cell in (*predictions.scale, *predictions.shift)}
