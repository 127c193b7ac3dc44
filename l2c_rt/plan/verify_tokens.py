"""The proof of what a plan does with tokens: whose scores are read, which stream is put back."""

from __future__ import annotations

from collections.abc import Sequence

from l2c_rt.plan.ops import Compute, Op, Plan, PlanError, op_nodes
from l2c_rt.plan.program import BlockProgram
from l2c_rt.plan.stream_ops import KeepStream, RestoreStream
from l2c_rt.plan.tokens import Refresh, Scored
from l2c_rt.schedule.cache_schedule import CacheSchedule

TOKEN_OPS = frozenset({Scored, Refresh, KeepStream, RestoreStream})


def check_tokens(plan: Plan, program: BlockProgram, schedule: CacheSchedule | None) -> None:
    """Prove that tokens are chosen by scores and ages that begin at their block's last full
    computation, and that a stream that is put back is that of the evaluation before.

    With `schedule`, also that as many tokens are chosen, and just where it says.
    Raises PlanError naming evaluation and op.
    """
    if plan.tokens is None and (schedule is None or schedule.tokens is None):
        if any(TOKEN_OPS.intersection(map(type, step)) for step in plan.steps):
            raise PlanError("a step chooses tokens, or keeps the stream, and the plan has no rule")
        return
    proof = _TokenProof(plan, program)
    for s in range(plan.num_evaluations):
        proof.evaluation(s, plan.at(s))
    if schedule is not None:
        for s in range(plan.num_evaluations):
            _check_row(plan.at(s), program, schedule, s)


class _TokenProof:
    """States and stream, followed through a run: at which evaluation each was written."""

    def __init__(self, plan: Plan, program: BlockProgram) -> None:
        self._states = () if plan.tokens is None else plan.tokens.branches
        self._score = "" if plan.tokens is None else plan.tokens.rule.score
        self._tokens = program.tokens
        self._block = {branch.name: branch.block for branch in program.branches}
        self._kind = {branch.name: branch.kind for branch in program.branches}
        self._last = program.branch_names[-1]
        self._computed: dict[str, int] = {}
        self._scored: dict[int, int] = {}
        self._kept_stream = -1

    def evaluation(self, s: int, ops: Sequence[Op]) -> None:
        restored = False
        for i, op in enumerate(ops):
            if isinstance(op, Compute):
                self._compute(s, op)
            elif isinstance(op, Refresh):
                self._refresh(s, op)
            elif isinstance(op, RestoreStream):
                restored = True
                self._restore(s, op)
            elif isinstance(op, KeepStream):
                if self._last not in op_nodes(ops[i - 1]):
                    raise PlanError(f"evaluation {s} keeps the stream before the last branch")
                self._kept_stream = s
        if restored:
            # What is put back stays what the stream was after the last branch.
            self._kept_stream = s

    def _compute(self, s: int, op: Compute) -> None:
        self._computed[op.branch] = s
        if not isinstance(op, Scored):
            return
        self._check_state(s, op, op.state)
        if op.score != self._score:
            raise PlanError(f"evaluation {s}: {op} scores otherwise than by {self._score!r}")
        if self._kind[op.branch] != "attn":
            raise PlanError(f"evaluation {s}: {op} scores tokens by a branch that is no attention")
        self._scored[op.state] = s

    def _refresh(self, s: int, op: Refresh) -> None:
        self._check_state(s, op, op.state)
        if self._states[op.state] != op.branch or not 0 <= op.tokens <= self._tokens:
            raise PlanError(f"evaluation {s}: {op} of {self._tokens} tokens by another's state")
        scored, computed = self._scored.get(op.state), self._computed.get(op.branch)
        if scored is None or scored != computed:
            raise PlanError(
                f"evaluation {s}: {op} reads scores of evaluation {scored}, but the branch was "
                f"computed at {computed}"
            )

    def _restore(self, s: int, op: RestoreStream) -> None:
        if self._last not in op.nodes or op.branches != sum(n in self._block for n in op.nodes):
            raise PlanError(f"evaluation {s}: {op} ends before the last branch, or counts wrong")
        if self._kept_stream != s - 1 or s == 0:
            raise PlanError(
                f"evaluation {s} puts the stream back, but what is kept is that of evaluation "
                f"{self._kept_stream}, not of the one before"
            )

    def _check_state(self, s: int, op: Scored | Refresh, state: int) -> None:
        if not 0 <= state < len(self._states):
            raise PlanError(f"evaluation {s}: {op} uses state {state} of {len(self._states)}")
        if self._block[self._states[state]] != self._block[op.branch]:
            raise PlanError(f"evaluation {s}: {op} uses the state of {self._states[state]}")


def _check_row(ops: Sequence[Op], program: BlockProgram, schedule: CacheSchedule, s: int) -> None:
    chosen = {op.branch: op.tokens for op in ops if isinstance(op, Refresh)}
    passed = {name for op in ops if isinstance(op, RestoreStream) for name in op.nodes}
    tokens = schedule.tokens
    for k, name in enumerate(program.branch_names):
        count = -1 if tokens is None else int(tokens.counts(program.tokens)[s, k])
        restored = tokens is not None and bool(tokens.restored[s, k])
        got = (chosen.get(name, -1), name in passed)
        if got != (count, restored):
            raise PlanError(
                f"evaluation {s}: {name} has {got[0]} tokens chosen and is "
                f"{'' if got[1] else 'not '}passed over, but the schedule says {count} and "
                f"{'' if restored else 'not '}passed over"
            )
