"""Branches of which some tokens are computed and the others reused, as ops."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from l2c_rt.plan.ops import Compute, Op, Plan, Reuse, RunFixed, StepPlan, op_nodes
from l2c_rt.plan.program import BlockProgram
from l2c_rt.plan.stream_ops import KeepStream, RestoreStream, TokenStates
from l2c_rt.schedule.cache_schedule import CacheSchedule
from l2c_rt.schedule.tokens import TokenSchedule


@dataclass(frozen=True, slots=True)
class Scored(Compute):
    """Run an attention branch; its tokens' scores, of the rule's kind `score`, go to `state`, where
    all ages become 0."""

    state: int
    score: str


@dataclass(frozen=True, slots=True)
class Refresh(Reuse):
    """Compute `tokens` tokens of a branch, those that `state` says, into `slot`, and add the slot.

    In `state` all ages grow by 1, and those of the tokens become 0.
    """

    tokens: int
    state: int


def with_tokens(plan: Plan, program: BlockProgram, schedule: CacheSchedule) -> Plan:
    """The plan in which tokens are chosen, and streams put back, where the schedule says so."""
    if schedule.tokens is None:
        return plan
    tokens = schedule.tokens
    counts = tokens.counts(program.tokens)
    names = program.branch_names
    scored = tuple(name for k, name in enumerate(names) if (counts[:, k] >= 0).any())
    blocks = {branch.block: branch.name for branch in program.branches if branch.name in scored}
    state_of = {
        branch.name: scored.index(blocks[branch.block])
        for branch in program.branches if branch.block in blocks
    }  # fmt: skip
    score = tokens.rule.score
    rows = [
        _step(plan.at(s), dict(zip(names, counts[s].tolist(), strict=True)), state_of, score,
              _restored(names, tokens, s))
        for s in range(plan.num_evaluations)
    ]  # fmt: skip
    keeping = {rows[s - 1] for s in range(1, len(rows)) if _restores(rows[s])}
    rows = [_keep(row) if row in keeping and not _restores(row) else row for row in rows]
    distinct = {row: i for i, row in enumerate(dict.fromkeys(rows))}
    order = tuple(distinct[row] for row in rows)
    states = TokenStates(scored, tokens.rule)
    return replace(plan, steps=tuple(distinct), order=order, tokens=states)


def _restored(names: tuple[str, ...], tokens: TokenSchedule, s: int) -> frozenset[str]:
    return frozenset(n for n, is_restored in zip(names, tokens.restored[s], strict=True)
                     if is_restored)  # fmt: skip


def _step(
    step: StepPlan, counts: Mapping[str, int], states: Mapping[str, int], score: str,
    restored: frozenset[str],
) -> StepPlan:  # fmt: skip
    ops: list[Op] = []
    for op in step:
        if type(op) is Compute and op.branch in states and op.branch.startswith("attn"):
            op = Scored(op.branch, op.slot, states[op.branch], score)
        elif type(op) is Reuse and counts[op.branch] >= 0 and op.branch not in restored:
            op = Refresh(op.branch, op.slot, counts[op.branch], states[op.branch])
        ops.append(op)
    return _passed_over(ops, restored) if restored else tuple(ops)


def _passed_over(ops: list[Op], restored: frozenset[str]) -> StepPlan:
    """The fixed nodes that lead to the first of the branches are passed over too, but not the
    first node of all, which embeds."""
    places = [i for i, op in enumerate(ops) if restored.intersection(op_nodes(op))]
    first, last = places[0], places[-1]
    while first > 1 and isinstance(ops[first - 1], RunFixed):
        first -= 1
    nodes = tuple(name for op in ops[first : last + 1] for name in op_nodes(op))
    return (*ops[:first], RestoreStream(nodes, len(restored)), *ops[last + 1 :])


def _restores(step: StepPlan) -> bool:
    return any(isinstance(op, RestoreStream) for op in step)


def _keep(step: StepPlan) -> StepPlan:
    """With the stream kept after the last branch."""
    last = max(i for i, op in enumerate(step) if not isinstance(op, RunFixed))
    return (*step[: last + 1], KeepStream(), *step[last + 1 :])
