"""Evaluations in the delta form: a plan rewritten so that they read nothing that is reused.

Where no branch has a gate, an evaluation that adds of a branch what an earlier one, its base,
added is as far from the base after the branch as before it.  So only the difference is carried
through what is reused, and long skips that follow each other act on it as one sum of products.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from l2c_rt.plan.cost import LaunchCounts
from l2c_rt.plan.delta_ops import FromDelta, KeepAt, LinearParts, ToDelta, place_name
from l2c_rt.plan.delta_step import delta_step
from l2c_rt.plan.ops import Compute, Iterate, Op, Plan, Predict, Reuse, RunFixed, StepPlan
from l2c_rt.plan.program import BlockProgram, Fixed
from l2c_rt.plan.step_walk import walk

LONG_SKIPS = ("skip_save", "skip_linear")
Key = tuple[int, str]
"""A distinct step of the plan, in the "ordinary" form, also "keeping" streams, or in the "delta"
form."""


def in_delta_form(plan: Plan, program: BlockProgram) -> Plan:
    """The plan with those evaluations in the delta form that need fewer products and fewer kernels
    for it: every stretch of computed branches between reused ones costs a sum at either end.

    Outputs that only those would have read are kept nowhere, and their slots are gone; in their
    place the bases keep the residual stream where it is needed.
    Raises ValueError, with the reason, for a program or a plan that has no delta form.
    """
    if why_not := why_no_delta_form(program) or _why_not_planned(plan):
        raise ValueError(f"delta_form: {why_not}; leave delta_form= out")
    deltas = [delta_step(step, program, plan.num_slots) for step in plan.steps]
    linears = _linears(program)
    gains = [
        products(delta) < 2 * linears and _kernels(delta, program) < _kernels(step, program)
        for step, delta in zip(plan.steps, deltas, strict=True)
    ]
    base_of = _chosen(plan, gains)
    if not base_of:
        return plan
    keys = _forms(plan, base_of)
    variants = _variants(plan, program, keys, base_of, deltas)
    stored = _stored(keys, variants)
    numbers = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    names = (*plan.slots, *(place_name(node.name) for node in program.nodes))
    steps = [_storing(variants[key], stored[key]) for key in numbers]
    steps, slots = _renumbered(steps, names)
    return replace(plan, steps=tuple(steps), order=tuple(map(numbers.__getitem__, keys)),
                   slots=slots)  # fmt: skip


def why_no_delta_form(program: BlockProgram) -> str:
    """Why no evaluation of a program can be in the delta form; empty where some may be."""
    fixed = [node for node in program.nodes[1:-1] if isinstance(node, Fixed)]
    others = [node.name for node in fixed if node.role not in LONG_SKIPS]
    ends = [node.role for node in program.fixed_of.values() if node.role not in LONG_SKIPS]
    if any(branch.gated for branch in program.branches):
        return "the branches have gates, which differ from evaluation to evaluation"
    if not _linears(program):
        return "the model has no long skips, so there are no products to save"
    if others:
        return f"{others[0]} is no linear map of the residual stream"
    if ends != ["embed", "final"]:
        return "the model's description names no first and no last layer"
    if any(branch.nested for branch in program.branches):
        return "branches lie inside of others"
    return ""


def products(step: StepPlan) -> int:
    """The products [D, D] of an evaluation in the delta form, long skips composed."""
    return sum(len(op.deltas) for op in step if isinstance(op, LinearParts))


def _kernels(step: StepPlan, program: BlockProgram) -> int:
    """The kernels that an evaluation is on a GPU."""
    counts = LaunchCounts(program)
    walk(step, program, counts, one_kernel=False)
    return counts.kernels


def is_delta(step: StepPlan) -> bool:
    """Whether a step is in the delta form: it comes back from it for the final node."""
    return any(isinstance(op, FromDelta) for op in step)


def delta_evaluations(plan: Plan) -> int:
    """How many evaluations of a run are in the delta form."""
    forms = [is_delta(step) for step in plan.steps]
    return sum(forms[i] for i in plan.order)


def _linears(program: BlockProgram) -> int:
    return sum(isinstance(node, Fixed) and node.role == "skip_linear" for node in program.nodes)


def _why_not_planned(plan: Plan) -> str:
    if plan.tokens is not None:
        return "the schedule computes some tokens of a branch, and the base another set of them"
    if plan.halves is not None:
        return "the schedule runs half of the batch, and the base both halves"
    if any(isinstance(op, Iterate) for step in plan.steps for op in step):
        return "branches are iterated"
    return ""


def _bases(plan: Plan) -> Iterator[int | None]:
    """For each evaluation the last one that made a new value of any of the branches it reuses.

    That one added the same of all of them.  None where nothing is reused, or anything predicted.
    """
    made: dict[str, int] = {}
    for s in range(plan.num_evaluations):
        values = [made[op.branch] for op in plan.at(s) if isinstance(op, Reuse)]
        predicts = any(isinstance(op, Predict) for op in plan.at(s))
        yield None if predicts else max(values, default=None)
        made.update((op.branch, s) for op in plan.at(s) if isinstance(op, Compute | Predict))


def _chosen(plan: Plan, gains: Sequence[bool]) -> dict[int, int]:
    """The evaluations to be in the delta form, and the base of each.

    A base is in the ordinary form, and no other one comes between it and those that read it.
    From the last one on: an evaluation may be wanted as a base by several after it.
    """
    bases = tuple(_bases(plan))
    last_read: dict[int, int] = {}
    chosen: dict[int, int] = {}
    for s in reversed(range(plan.num_evaluations)):
        base = bases[s]
        if base is None or s in last_read or not gains[plan.order[s]]:
            continue
        others = last_read.items() if base not in last_read else ()
        if any(base < other < s or other < base < end for other, end in others):
            continue
        last_read.setdefault(base, s)
        chosen[s] = base
    return chosen


def _forms(plan: Plan, base_of: Mapping[int, int]) -> list[Key]:
    """The form of each evaluation.

    One that does what a base does keeps the same, so that it shares its step, except where that
    would be written over what another base has kept.
    """
    keeping = {plan.order[base] for base in base_of.values()}
    bases = set(base_of.values())
    guarded = {k for s, base in base_of.items() for k in range(base + 1, s)} - bases
    forms: list[Key] = []
    for s, i in enumerate(plan.order):
        ordinary = "keeping" if i in keeping and s not in guarded else "ordinary"
        forms.append((i, "delta" if s in base_of else ordinary))
    return forms


def _variants(
    plan: Plan, program: BlockProgram, keys: Sequence[Key], base_of: Mapping[int, int],
    deltas: Sequence[StepPlan],
) -> dict[Key, StepPlan]:  # fmt: skip
    """The ops of each form, slots numbered as they were, and then by the program's nodes."""
    places: dict[int, set[int]] = {}
    for s, base in base_of.items():
        read = {op.slot for op in deltas[plan.order[s]] if isinstance(op, ToDelta | FromDelta)}
        places.setdefault(plan.order[base], set()).update(read)
    slot_of = {node.name: plan.num_slots + i for i, node in enumerate(program.nodes)}
    variants: dict[Key, StepPlan] = {}
    for i, form in dict.fromkeys(keys):
        ordinary = deltas[i] if form == "delta" else plan.steps[i]
        kept = places[i] if form == "keeping" else frozenset[int]()
        variants[i, form] = tuple(_with_kept(ordinary, kept, slot_of))
    return variants


def _with_kept(
    step: StepPlan, kept: set[int] | frozenset[int], slot_of: Mapping[str, int]
) -> Iterator[Op]:
    for op in step:
        yield op
        if not kept or not isinstance(op, RunFixed | Compute | Reuse | Predict):
            continue
        slot = slot_of[op.node if isinstance(op, RunFixed) else op.branch]
        if slot in kept:
            yield KeepAt(slot)


def _stored(keys: Sequence[Key], variants: Mapping[Key, StepPlan]) -> dict[Key, set[int]]:
    """The slots that each step has to write, since a later evaluation reads what it computes."""
    live: set[int] = set()
    stored: dict[Key, set[int]] = {key: set() for key in variants}
    for key in reversed(keys):
        for op in variants[key]:
            if isinstance(op, Compute) and op.slot in live:
                stored[key].add(op.slot)
                live.remove(op.slot)
            elif isinstance(op, Predict) and op.store is not None:
                live.discard(op.store)
        for op in variants[key]:
            if isinstance(op, Reuse):
                live.add(op.slot)
            elif isinstance(op, Predict):
                live.update(op.slots)
    return stored


def _storing(step: StepPlan, stored: set[int]) -> StepPlan:
    return tuple(
        replace(op, slot=None) if isinstance(op, Compute) and op.slot not in stored else op
        for op in step
    )


def _renumbered(
    steps: Sequence[StepPlan], names: Sequence[str]
) -> tuple[list[StepPlan], tuple[str, ...]]:
    """Without the slots that no op uses; equal ops become one object, as in every plan."""
    used = sorted({slot for step in steps for op in step for slot in _slots_of(op)})
    numbers = {slot: i for i, slot in enumerate(used)}
    shared: dict[Op, Op] = {op: _moved(op, numbers) for step in steps for op in step}
    moved = [tuple(shared[op] for op in step) for step in steps]
    return moved, tuple(names[slot] for slot in used)


def _slots_of(op: Op) -> tuple[int, ...]:
    if isinstance(op, Predict):
        return op.slots if op.store is None else (*op.slots, op.store)
    if isinstance(op, Compute | Reuse | KeepAt | ToDelta | FromDelta) and op.slot is not None:
        return (op.slot,)
    return ()


def _moved(op: Op, numbers: Mapping[int, int]) -> Op:
    if isinstance(op, Predict):
        store = None if op.store is None else numbers[op.store]
        return replace(op, slots=tuple(numbers[slot] for slot in op.slots), store=store)
    if isinstance(op, Compute | Reuse | KeepAt | ToDelta | FromDelta) and op.slot is not None:
        return replace(op, slot=numbers[op.slot])
    return op
